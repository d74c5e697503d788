"""Attention along a line of tokens that reads at a few places which it chooses itself, between tokens too.

After the deformable attention of Xia et al. 2022 (arXiv:2201.00520), in one dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DeformableAttention", "DeformableBlock", "between", "ends"]


def between(
    values: Float[Tensor, "*rows length"], places: Float[Tensor, "*rows asked"]
) -> Float[Tensor, "*rows asked"]:
    """Values at places between those of a line, by straight lines; beyond its ends, what is there.

    Args:
        values: at places 0, 1, 2 ...
        places: in the same unit.
    """
    last = values.shape[-1] - 1
    places = places.clamp(0, last)
    low = places.detach().floor().clamp(max=max(0, last - 1))
    share = places - low
    left = values.gather(-1, low.long())
    right = values.gather(-1, (low.long() + 1).clamp(max=last))
    return left + share * (right - left)


def ends(present: Bool[Tensor, "batch tokens"]) -> tuple[Float[Tensor, "batch 1"], Float[Tensor, "batch 1"]]:
    """Place of the first and of the last token that is present; float64."""
    number = torch.arange(present.shape[1], device=present.device, dtype=torch.float64)
    first = torch.where(present, number, torch.inf).amin(1, keepdim=True)
    last = torch.where(present, number, -torch.inf).amax(1, keepdim=True)
    return first, last


class DeformableAttention(nn.Module):
    """Every token attends to few points on the line; the content of the line moves the points.

    Points begin evenly spaced from the first token that is present to the last. A small convolution over the
    queries, shared by the heads, moves each point of each head by at most `reach` of their spacings, never
    beyond the ends. Keys and values are linear in what lies there. A small network of the signed logarithm of
    the distance adds to the attention.

    Args:
        width: of the tokens; `heads` must divide it, for each head reads its own part.
        heads: attention heads.
        head_width: of queries, keys and values of a head.
        stride: tokens to a point.
        reach: spacings that a point may move at most.
        kernel: tokens that the convolution sees.

    Raises:
        ValueError: heads do not divide the width.
    """

    def __init__(
        self,
        width: int,
        heads: int = 8,
        head_width: int = 64,
        stride: int = 4,
        reach: float = 2.0,
        kernel: int = 6,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared out over {heads} heads")
        self.heads, self.stride, self.reach, self.kernel = heads, stride, reach, kernel
        inner = heads * head_width
        self.queries, self.keys, self.values = (
            nn.Conv1d(width, inner, 1, groups=heads, bias=False) for _ in range(3)
        )
        self.out = nn.Conv1d(inner, width, 1)
        self.surroundings = nn.Conv1d(head_width, head_width, kernel, stride, groups=head_width)
        self.shift = nn.Conv1d(head_width, 1, 1, bias=False)
        hidden = max(8, width // 4)
        # a bias of the last layer would be the same for all points, which a softmax does not notice
        self.nearness = nn.Sequential(
            nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1, bias=False),
        )  # fmt: skip

    def _split(self, x: Tensor) -> Tensor:
        """(B, heads, channels of a head, N) of (B, channels, N)."""
        return x.unflatten(1, (self.heads, -1))

    def points(
        self, queries: Float[Tensor, "batch heads head tokens"], present: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch heads points"]:
        """Where each head reads, in tokens from the first."""
        there = self._split(queries.flatten(1, 2) * present.unsqueeze(1)).flatten(0, 1)
        count = there.shape[2]
        short = max(0, self.kernel - count - 2)
        seen = self.surroundings(functional.pad(there, (1, 1 + short)))
        moves = self.shift(functional.gelu(seen)).tanh().squeeze(1) * self.reach
        moves = moves.unflatten(0, (-1, self.heads))
        number = moves.shape[2]
        first, last = (end.to(queries.dtype).unsqueeze(1) for end in ends(present))
        if number == 1:
            return torch.minimum(torch.maximum((first + last) / 2 + moves * self.stride, first), last)
        even = torch.arange(number, device=queries.device, dtype=queries.dtype)
        step = (last - first) / (number - 1)
        # the convolution went over all tokens, points lie among those that are present
        over_all = (first + even * step) * ((number - 1) / (count - 1))
        moves = between(moves, over_all.expand_as(moves))
        return torch.minimum(torch.maximum(first + (even + moves) * step, first), last)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        coordinates: Float[Tensor, "shared tokens 1"],
        present: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """What each token reads.

        Args:
            x: the tokens, evenly spaced.
            coordinates: of the tokens, in the unit that distances are measured in.
            present: False where a token pads; those that are present lie side by side.
        """
        if present is None:
            present = torch.ones_like(x[..., 0], dtype=torch.bool)
        line = x.transpose(1, 2)
        queries = self._split(self.queries(line))
        points = self.points(queries, present)
        parts = self._split(line)
        read = between(parts, points.unsqueeze(2).expand(-1, -1, parts.shape[2], -1)).flatten(1, 2)
        keys, values = self._split(self.keys(read)), self._split(self.values(read))
        scores = queries.transpose(2, 3) @ keys * keys.shape[2] ** -0.5
        weights = (scores + self._bias(points, coordinates)).softmax(dim=3)
        return self.out((weights @ values.transpose(2, 3)).transpose(2, 3).flatten(1, 2)).transpose(1, 2)

    def _bias(self, points: Tensor, coordinates: Tensor) -> Float[Tensor, "batch heads tokens points"]:
        """What the distance from a token to a point adds."""
        own = coordinates[..., 0].to(points.dtype).unsqueeze(1)
        at = between(own.expand(points.shape[0], points.shape[1], -1), points)
        apart = at.unsqueeze(2) - own.unsqueeze(3)
        return self.nearness((apart.sign() * apart.abs().log1p()).unsqueeze(-1)).squeeze(-1)


class DeformableBlock(nn.Module):
    """Deformable attention and a two-layer perceptron, each added back and then normalised.

    Args:
        width: of the tokens.
        hidden: of the perceptron.
        dropout: after either norm and inside the perceptron.
        options: of `DeformableAttention`.
    """

    def __init__(self, width: int, hidden: int, dropout: float, **options: Any) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, **options)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        coordinates: Float[Tensor, "shared tokens 1"],
        present: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Arguments as of `DeformableAttention`."""
        x = self.dropout(self.norm1(x + self.attention(x, coordinates, present)))
        return self.dropout(self.norm2(x + self.mlp(x)))
