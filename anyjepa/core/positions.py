"""Coordinates to vectors: where a token is, said in a form that attention can use.

Additive embeddings (`SinCos`, `AxisSinCos`, `Learned`, `Mlp`) map coordinates (shared, tokens, axes) to
vectors (shared, tokens, width) that are added to the tokens; `Rotary` maps them to angles by which queries
and keys are turned inside attention. `shared` is 1 where every sample has the same coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SinCos(nn.Module):
    """Fixed sines and cosines of each axis, concatenated (I-JEPA; Vaswani et al. 2017, section 3.5).

    The width is shared out evenly over the axes; within an axis of width d all d/2 sines come first, then
    all cosines, at frequencies ``temperature ** (-i / (d/2))``; where they are interleaved each sine is
    followed by its own cosine. Width that does not divide is left zero at the end.

    Args:
        width: of the vectors.
        axes: number of coordinates a token has.
        temperature: the longest wavelength is 2 pi times this, in units of the coordinate.
        order: which axis fills the first part of the vector, which the second, and so on; as they come
            where not given.
        interleaved: sine, cosine, sine, cosine ... instead of all sines first.

    Raises:
        ValueError: the width is too small to give every axis one sine and one cosine.
    """

    def __init__(
        self,
        width: int,
        axes: int,
        temperature: float = 10_000.0,
        order: Sequence[int] | None = None,
        interleaved: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.axes, self.temperature, self.interleaved = width, axes, temperature, interleaved
        self.order = list(range(axes) if order is None else order)
        self.pairs = width // (2 * axes)
        if self.pairs == 0:
            raise ValueError(f"a width of {width} cannot hold a sine and a cosine for each of {axes} axes")

    def forward(self, coordinates: Float[Tensor, "shared tokens axes"]) -> Tensor:
        """Vectors (shared, tokens, width), float32."""
        # float64, so that a table of any length agrees with one computed on another device or in numpy
        steps = torch.arange(self.pairs, device=coordinates.device, dtype=torch.float64) / self.pairs
        angles = coordinates[..., self.order].double().unsqueeze(-1) * self.temperature**-steps
        sines, cosines = angles.sin(), angles.cos()
        if self.interleaved:
            waves = torch.stack([sines, cosines], dim=-1).flatten(-3)
        else:
            waves = torch.cat([sines, cosines], dim=-1).flatten(-2)
        return nn.functional.pad(waves, (0, self.width - waves.shape[-1])).float()


class Learned(nn.Module):
    """One learned vector for each place of an integer grid, started at a truncated normal of 0.02.

    Args:
        shape: number of places along each axis; coordinates run from 0 to shape - 1.
        width: of the vectors.
    """

    def __init__(self, shape: Sequence[int], width: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.table = nn.Parameter(torch.empty(math.prod(self.shape), width))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, coordinates: Float[Tensor, "shared tokens axes"]) -> Tensor:
        """Vectors (shared, tokens, width).

        Coordinates are rounded to the grid; one that lies outside it raises IndexError.
        """
        places = coordinates.round().long()
        index = torch.zeros_like(places[..., 0])
        for axis, size in enumerate(self.shape):
            index = index * size + places[..., axis]
        return self.table[index]


class Mlp(nn.Module):
    """Two linear layers with a GELU between: coordinates that lie on no grid (points, electrodes).

    Args:
        axes: number of coordinates.
        width: of the vectors.
        hidden: width between the layers; the vectors' own where not given.
    """

    def __init__(self, axes: int, width: int, hidden: int | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(axes, hidden or width), nn.GELU(), nn.Linear(hidden or width, width)
        )

    def forward(self, coordinates: Float[Tensor, "shared tokens axes"]) -> Tensor:
        """Vectors (shared, tokens, width)."""
        return self.layers(coordinates)


class AxisSinCos(nn.Module):
    """Fixed sines and cosines with a width of its own for each axis, concatenated and cut to the whole.

    V-JEPA's tables: with "uniform power" each of time, height and width has ``2 * ceil(width / 6)`` numbers,
    of which the last may be cut off; else time has half of them, height and width a quarter each.

    Args:
        width: of the vectors.
        shares: even width of each axis, in the order of the coordinates; together at least the width.
        temperature: the longest wavelength is 2 pi times this, in units of the coordinate.

    Raises:
        ValueError: a share is odd or not positive, or they do not fill the width.
    """

    def __init__(self, width: int, shares: Sequence[int], temperature: float = 10_000.0) -> None:
        super().__init__()
        if any(share < 2 or share % 2 for share in shares) or sum(shares) < width:
            raise ValueError(f"axes of width {tuple(shares)} do not fill a vector of {width}")
        self.width, self.shares, self.temperature = width, tuple(shares), temperature

    def forward(self, coordinates: Float[Tensor, "shared tokens axes"]) -> Tensor:
        """Vectors (shared, tokens, width), float32."""
        parts = [
            SinCos(share, 1, self.temperature)(coordinates[..., axis : axis + 1])
            for axis, share in enumerate(self.shares)
        ]
        return torch.cat(parts, dim=-1)[..., : self.width]


class Rotary(nn.Module):
    """Angles for rotary attention over any number of axes (Su et al. 2021, RoFormer, equation 34).

    The pairs of a head are shared out evenly over the axes; pairs that do not divide are not turned.
    Attention then depends on differences of coordinates only.

    Args:
        head_width: width of one attention head; even.
        axes: number of coordinates.
        temperature: base of the frequencies.
        pairs: which elements of a head are turned together: one of each half (``halves``), or neighbours
            (``adjacent``). ``published`` is a defect of the released V-JEPA 2, for its weights: neighbours
            are taken as a pair, but the frequencies of an axis are laid out as for halves, so that the two
            turn at different speeds, lengths change and differences are not all that counts.

    Raises:
        ValueError: the head is odd or too narrow to give every axis one pair.
    """

    def __init__(
        self,
        head_width: int,
        axes: int,
        temperature: float = 10_000.0,
        pairs: Literal["halves", "adjacent", "published"] = "halves",
    ) -> None:
        super().__init__()
        self.head_width, self.axes, self.temperature, self.layout = head_width, axes, temperature, pairs
        self.pairs = head_width // (2 * axes)
        if head_width % 2 or self.pairs == 0:
            raise ValueError(
                f"a head of width {head_width} cannot be turned along {axes} axes: it must be even "
                f"and at least {2 * axes}"
            )

    def forward(self, coordinates: Float[Tensor, "shared tokens axes"]) -> Tensor:
        """Angles, float32, radians: (shared, tokens, head_width / 2) of halves, else (.., head_width)."""
        steps = torch.arange(self.pairs, device=coordinates.device, dtype=torch.float64) / self.pairs
        angles = coordinates.double().unsqueeze(-1) * self.temperature**-steps
        whole = self.head_width // 2
        if self.layout == "adjacent":
            angles, whole = angles.repeat_interleave(2, dim=-1), self.head_width
        elif self.layout == "published":
            angles, whole = torch.cat([angles, angles], dim=-1), self.head_width
        angles = angles.flatten(-2)
        return nn.functional.pad(angles, (0, whole - angles.shape[-1])).float()


def rotate(
    vectors: Float[Tensor, "batch heads tokens head"], angles: Float[Tensor, "shared tokens angles"]
) -> Tensor:
    """Turn each pair of every head by its token's angles, of which there is one a pair or one an element.

    One a pair: an element of the first half and its like in the second. One an element: neighbours.
    """
    sine, cosine = angles.sin().unsqueeze(1).to(vectors.dtype), angles.cos().unsqueeze(1).to(vectors.dtype)
    if angles.shape[-1] == vectors.shape[-1]:
        first, second = vectors.unflatten(-1, (-1, 2)).unbind(-1)
        return vectors * cosine + torch.stack([-second, first], dim=-1).flatten(-2) * sine
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def grid(*shape: int, device: torch.device | str | None = None) -> Float[Tensor, "1 tokens axes"]:
    """Coordinates of a full grid in raster order, last axis fastest: (1, product of shape, axes) float32."""
    axes = [torch.arange(size, dtype=torch.float32, device=device) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, len(shape))
