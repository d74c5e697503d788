"""Attention from one set of tokens to another: queries read what keys and values hold."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class CrossAttention(nn.Module):
    """Multi-head attention whose keys and values come from elsewhere.

    Args:
        width: of the tokens that ask.
        heads: must divide the width.
        source_width: of the tokens that are read; the same where None.
        bias: of the projections.
        dropout: share of attention weights dropped in training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        source_width: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared out over {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width, bias=bias)
        self.read = nn.Linear(source_width or width, 2 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        source: Float[Tensor, "batch read source_width"],
        present: Bool[Tensor, "batch read"] | None = None,
    ) -> Tensor:
        """What tokens `x` read of `source`, (batch, tokens, width); `present` is False where that pads."""
        queries = self._split(self.query(x))
        keys, values = map(self._split, self.read(source).chunk(2, dim=-1))
        mask = None if present is None else present[:, None, None, :]
        dropped = self.dropout if self.training else 0.0
        found = functional.scaled_dot_product_attention(queries, keys, values, mask, dropped)
        return self.out(found.transpose(1, 2).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
