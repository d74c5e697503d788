"""Watching for collapse as training goes, from embeddings that the step computes anyway."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from anyjepa.core.health import Gram, collapse, rankme

ROWS_PER_DIMENSION = 12  # RankMe of fewer rows reads more than 1 % low (RankMe note, known answer 5)


class Watch:
    """Keeps the newest embeddings and measures them when asked; costs nothing in between."""

    def __init__(self) -> None:
        self.recent: deque[Tensor] = deque()
        self.rows = 0
        self.state: str | None = None

    def see(self, embedding: Tensor) -> None:
        """Keep a batch of embeddings (batch, dim), and let go of those no longer needed."""
        self.recent.append(embedding.detach())
        self.rows += embedding.shape[0]
        while self.rows - self.recent[0].shape[0] >= ROWS_PER_DIMENSION * embedding.shape[1]:
            self.rows -= self.recent.popleft().shape[0]

    def measure(self) -> tuple[dict[str, float], str | None]:
        """Figures of the newest embeddings, and a sentence when the verdict has changed since last asked."""
        if not self.recent:
            return {}, None
        gram = Gram(self.recent[0].shape[1], self.recent[0].device)
        gram.add(torch.cat(list(self.recent)))
        verdict = collapse(gram)
        if not bool(torch.isfinite(gram.square).all()):
            figures = {}
        else:
            figures = {
                "rankme": rankme(gram),
                "rankme_centred": rankme(gram, centred=True),
                "spread": gram.spread(),
            }
        # the kind of collapse counts as a change, its figures do not
        kind = verdict.split(":")[0] if verdict else None
        changed, self.state = kind != self.state, kind
        if not changed:
            return figures, None
        return figures, verdict or "no longer collapsed"
