"""Multi-head attention on `scaled_dot_product_attention`: among tokens, and from tokens to others.

Shapes: B samples, N tokens, D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.positions import rotate
from anyjepa.core.relative import RelativeKeys


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values.

    Args:
        width: of the tokens.
        heads: must divide the width.
        bias: of the projections.
        dropout: share of attention weights dropped in training.
        buckets: how many relations between two tokens have a learned key (`RelativeKeys`); 0 for none.

    Attributes: unread: share of the tokens that none may read in training, drawn anew each time (the
    regularised masking of A-JEPA's fine-tuning). They stay: what they become comes from the others alone.
    """

    def __init__(
        self, width: int, heads: int, bias: bool = True, dropout: float = 0.0, buckets: int = 0
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared out over {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.unread = 0.0
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.relative = RelativeKeys(width // heads, buckets) if buckets else None

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        last: int | None = None,
        angles: Float[Tensor, "shared tokens angles"] | None = None,
        present: Bool[Tensor, "batch tokens"] | None = None,
        allowed: Bool[Tensor, "*each tokens tokens"] | None = None,
        relation: Int[Tensor, "shared tokens tokens"] | None = None,
    ) -> Tensor:
        """Attend over all tokens; answer for the `last` ones only, where given.

        `allowed` says which tokens (last axis) each one (the axis before) may look at, all where None: the
        same in every sample, (tokens, tokens), or each sample's own, (batch, tokens, tokens); `relation` is
        the bucket of each token (last axis) as seen from each.
        """
        if last is None:
            queries, keys, values = map(self._split, self.qkv(x).chunk(3, dim=-1))
        else:
            weights, biases = self.qkv.weight.split((width := x.shape[-1], 2 * width)), (None, None)
            if self.qkv.bias is not None:
                biases = self.qkv.bias.split((width, 2 * width))
            queries = self._split(functional.linear(x[:, -last:], weights[0], biases[0]))
            keys, values = map(self._split, functional.linear(x, weights[1], biases[1]).chunk(2, dim=-1))
        if angles is not None:
            queries = rotate(queries, angles[:, -queries.shape[2] :])
            keys = rotate(keys, angles)
        if self.training and self.unread:
            present = self._readable(x, present)
        mask = None if present is None else present[:, None, None, :]
        if allowed is not None:
            allowed = allowed[..., -queries.shape[2] :, :]
            allowed = allowed.unsqueeze(1) if allowed.dim() == 3 else allowed
            mask = allowed if mask is None else mask & allowed
        if self.relative is not None and relation is not None:
            added = self.relative(queries, relation[:, -queries.shape[2] :])
            mask = added if mask is None else added.masked_fill(~mask, -torch.inf)
        dropped = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(queries, keys, values, mask, dropped)
        return self.out(attended.transpose(1, 2).flatten(-2))

    def _readable(self, x: Tensor, present: Tensor | None) -> Tensor:
        """(batch, tokens): a random choice of those that are present, or all where none would be left."""
        there = torch.ones_like(x[..., 0], dtype=torch.bool) if present is None else present
        kept = there & (torch.rand_like(x[..., 0], dtype=torch.float32) >= self.unread)
        return torch.where(kept.any(1, keepdim=True), kept, there)


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
