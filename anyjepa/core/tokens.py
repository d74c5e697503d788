"""Tokens: vectors, each with the place it was measured at."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Vectors with coordinates.

    Args:
        values: (batch, tokens, width) the vectors.
        coordinates: (batch, tokens, axes), or (1, tokens, axes) where every sample has the same. The unit
            is the field's own: rows and columns of a grid, metres on a scalp, seconds.
        present: (batch, tokens) False where a token is padding; None where every token is real.
    """

    values: Float[Tensor, "batch tokens width"]
    coordinates: Float[Tensor, "shared tokens axes"]
    present: Bool[Tensor, "batch tokens"] | None = None

    def take(self, indices: Int[Tensor, "batch kept"]) -> Tokens:
        """The tokens at `indices`, in that order, coordinates and presence with them."""
        return replace(
            self,
            values=take(self.values, indices),
            coordinates=take(self.coordinates, indices),
            present=None if self.present is None else self.present.gather(1, indices),
        )

    def split(self, samples: int) -> list[Tokens]:
        """The batch in pieces of so many samples; coordinates that all share stay shared."""
        values = self.values.split(samples)
        shared = self.coordinates.shape[0] == 1
        coordinates = [self.coordinates] * len(values) if shared else self.coordinates.split(samples)
        present = [None] * len(values) if self.present is None else self.present.split(samples)
        return [Tokens(*piece) for piece in zip(values, coordinates, present, strict=True)]


def take(table: Shaped[Tensor, "shared tokens width"], indices: Int[Tensor, "batch kept"]) -> Tensor:
    """Rows of `table` at `indices`, (batch, kept, width); a table of one sample serves the whole batch.

    A shared table is indexed rather than expanded and gathered: the backward pass of the expansion would
    write batch times as much.
    """
    if table.shape[0] == 1:
        return table[0][indices]
    return table.gather(1, indices.unsqueeze(-1).expand(-1, -1, table.shape[-1]))
