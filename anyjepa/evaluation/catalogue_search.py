"""The best items for a query out of a catalogue: exact in blocks, or approximate through FAISS.

Shapes: I items, Q queries, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyjepa.core.errors import UserError, require

__all__ = ["ApproximateCatalogue", "exact_best"]

BLOCK = 2**18  # items compared at once
LEARNED_FROM = 64  # vectors a list that FAISS finds its lists from


def exact_best(
    queries: Float[Tensor, "queries dim"], blocks: Iterable[Tensor], most: int
) -> tuple[Float[Tensor, "queries best"], Int[Tensor, "queries best"]]:
    """Products and places of the `most` items of largest product, best first, holding one block at a time.

    Args:
        queries: to be asked.
        blocks: (items, D) of the catalogue, in its order; they may differ in length.
        most: items a query; fewer where the catalogue is smaller.
    """
    values = queries.new_zeros(len(queries), 0)
    places = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    before = 0
    for block in blocks:
        scores = queries @ block.T.to(queries)
        found = scores.topk(min(most, len(block)), dim=1)
        values = torch.cat([values, found.values], dim=1)
        places = torch.cat([places, found.indices + before], dim=1)
        kept = values.topk(min(most, values.shape[1]), dim=1)
        values, places = kept.values, places.gather(1, kept.indices)
        before += len(block)
    return values, places


class ApproximateCatalogue:
    """Vectors in lists around centres, each number in one byte: FAISS's IVF with an 8-bit quantiser.

    An item takes D + 8 bytes. A query looks through the lists whose centres fit it best.

    Args:
        sample: (n, D) vectors of the catalogue, from which lists and ranges are found.
        items: of the whole catalogue, which decides the number of lists: 4 times its square root.
        probes: lists that a query looks through.

    Raises:
        UserError: FAISS is not installed, or the sample is empty.
    """

    def __init__(self, sample: Float[Tensor, "n dim"], items: int, probes: int = 32) -> None:
        self.faiss = require("faiss", "ann")
        if not len(sample):
            raise UserError("a catalogue needs vectors to be built from: give some.")
        width = sample.shape[1]
        lists = max(1, min(int(4 * items**0.5), len(sample) // LEARNED_FROM))
        faiss = self.faiss
        self.coarse = faiss.IndexFlatIP(width)
        self.index: Any = faiss.IndexIVFScalarQuantizer(
            self.coarse, width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        self.index.cp.min_points_per_centroid = 1
        self.index.cp.niter = 10
        self.index.train(_rows(sample))
        self.index.nprobe = min(probes, lists)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def add(self, vectors: Float[Tensor, "items dim"]) -> None:
        """Further items, in the catalogue's order."""
        for start in range(0, len(vectors), BLOCK):
            self.index.add(_rows(vectors[start : start + BLOCK]))

    def best(
        self, queries: Float[Tensor, "queries dim"], most: int
    ) -> tuple[Float[Tensor, "queries best"], Int[Tensor, "queries best"]]:
        """Products and places of about the best items; place -1 where the lists hold fewer."""
        values, places = self.index.search(_rows(queries), most)
        return torch.from_numpy(values), torch.from_numpy(places)

    def save(self, path: str) -> None:
        """Write the index as FAISS reads it."""
        self.faiss.write_index(self.index, path)


def _rows(vectors: Tensor) -> np.ndarray:
    return np.ascontiguousarray(vectors.detach().cpu().numpy(), dtype=np.float32)
