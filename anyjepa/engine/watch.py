"""Watching for collapse as training goes, from embeddings that the step computes anyway."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from anyjepa.core.health import Gram, Shape, collapse, rankme
from anyjepa.engine.folder import RECOVERED

ROWS_PER_DIMENSION = 12  # RankMe of fewer rows reads more than 1 % low (RankMe note, known answer 5)


class Watch:
    """Keeps the newest embeddings and measures them when asked; costs nothing in between.

    Args:
        before: shape of the untrained encoder's embeddings, when going on with a run; taken from the first
            embeddings seen otherwise.
    """

    def __init__(self, before: Shape | None = None) -> None:
        self.before = before
        self.first: list[Tensor] = []
        self.recent: deque[Tensor] = deque()
        self.rows = 0
        self.state: str | None = None

    def see(self, embedding: Tensor) -> None:
        """Keep a batch of embeddings (batch, dim), and let go of those no longer needed."""
        embedding = embedding.detach()
        if self.before is None and sum(map(len, self.first)) <= 2 * embedding.shape[1]:
            self.first.append(embedding)
        self.recent.append(embedding)
        self.rows += embedding.shape[0]
        while self.rows - self.recent[0].shape[0] >= ROWS_PER_DIMENSION * embedding.shape[1]:
            self.rows -= self.recent.popleft().shape[0]

    def measure(self) -> tuple[dict[str, float], str | None]:
        """Figures of the newest embeddings, and a sentence when the verdict has changed since last asked."""
        if not self.recent:
            return {}, None
        gram = _gram(list(self.recent))
        if self.before is None and bool(torch.isfinite(gram.square).all()):
            self.before, self.first = Shape.of(_gram(self.first)), []
        verdict = collapse(gram, self.before)
        figures = {}
        if bool(torch.isfinite(gram.square).all()):
            shape = Shape.of(gram)
            figures = {"rankme": rankme(gram), "rankme_centred": shape.directions, "spread": shape.spread}
        # the kind of collapse counts as a change, its figures do not
        kind = verdict.split(":")[0] if verdict else None
        changed, self.state = kind != self.state, kind
        if not changed:
            return figures, None
        return figures, verdict or RECOVERED


def _gram(batches: list[Tensor]) -> Gram:
    """Of the batches of all processes."""
    return Gram(batches[0].shape[1], batches[0].device).add(torch.cat(batches)).all_reduce()
