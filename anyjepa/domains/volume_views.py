"""Volumes changed by chance as scanners and patients change them, a whole batch at once on its device.

The transforms, and how strong they are, are those of torchio at its defaults (Perez-Garcia et al. 2021,
arXiv:2003.04696). Each sample has its own; what it does not undergo is done to it with no effect, so that
all samples of a batch take the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional

from anyjepa.core.chance import uniform
from anyjepa.domains.image_views import gaussian_filter

__all__ = ["TRANSFORMS", "VolumeViews", "coarsening", "contrasted"]

TRANSFORMS = ("flip", "affine", "anisotropy", "noise", "blur", "bias field", "gamma")
SCALE, DEGREES = 0.1, 10.0  # of the affine: factors 1 +- it along each axis, turns about each
COARSER = (1.5, 5.0)  # times along one axis
NOISE, BLUR = 0.25, 2.0  # largest standard deviations: of values, in millimetres
FIELD, ORDER = 0.5, 3  # largest coefficient of the bias field's polynomial, and its order
GAMMA = 0.3  # largest logarithm
DRAWN = 40  # uniform numbers a view

Volumes = Float[Tensor, "views channels slices rows columns"]


@dataclass(frozen=True)
class VolumeViews:
    """Two views of each volume, that have undergone different transforms.

    Args:
        transforms: of each view; at most three, so that those of both views differ.
        spacing: millimetres between slices, rows and columns.
    """

    transforms: int
    spacing: Sequence[float]

    def __call__(
        self, volumes: Float[Tensor, "n channels slices rows columns"], generator: Generator
    ) -> Float[Tensor, "2 n channels slices rows columns"]:
        """Views of volumes of 0 to 1."""
        count, dtype = len(volumes), volumes.dtype
        with torch.autocast(volumes.device.type, enabled=False):
            order = uniform((count, len(TRANSFORMS)), generator, dtype=dtype).argsort(dim=1).argsort(dim=1)
            # ranks 0 .. t-1 are those of the first view, t .. 2t-1 those of the second
            chosen = torch.cat([order // self.transforms == view for view in range(2)])
            chance = torch.cat([uniform((count, DRAWN), generator, dtype=dtype) for _ in range(2)])
            noise = torch.cat([_normal(volumes.shape, generator, dtype) for _ in range(2)])
            return self._changed(torch.cat([volumes, volumes]), chosen, chance, noise).unflatten(0, (2, -1))

    def _changed(
        self, x: Volumes, chosen: Bool[Tensor, "views transforms"], chance: Tensor, noise: Tensor
    ) -> Volumes:
        flip, affine, coarse, noisy, blurred, biased, gamma = chosen.unbind(1)
        x = torch.where(_each(flip), x.flip(4), x)
        x = torch.where(_each(affine), self._turned(x, chance[:, :6]), x)
        x = self._smoothed(x, coarse, blurred, chance[:, 6:12])
        x = x * torch.where(biased[:, None], _field(chance[:, 12:32], x.shape[2:]).flatten(1), 1.0).view(
            len(x), 1, *x.shape[2:]
        )
        power = (GAMMA * (2 * chance[:, 32] - 1)).exp()
        x = torch.where(_each(gamma), x.clamp(min=1e-6) ** _each(power), x)
        strength = torch.where(noisy, NOISE * chance[:, 33], 0.0)
        return (x + noise * _each(strength)).clamp(0, 1)

    def _turned(self, x: Volumes, chance: Tensor) -> Volumes:
        """Scaled along each axis and turned about each, in millimetres, zero where nothing was."""
        scale = 1 + SCALE * (2 * chance[:, :3] - 1)
        angle = math.radians(DEGREES) * (2 * chance[:, 3:] - 1)
        matrix = torch.diag_embed(scale)
        for axis in range(3):
            turn = torch.zeros_like(matrix)
            one, other = (axis + 1) % 3, (axis + 2) % 3
            turn[:, axis, axis] = 1
            turn[:, one, one] = turn[:, other, other] = angle[:, axis].cos()
            turn[:, one, other], turn[:, other, one] = -angle[:, axis].sin(), angle[:, axis].sin()
            matrix = turn @ matrix
        # grids count columns, rows, slices, each from -1 to 1
        half = x.new_tensor([n * s / 2 for n, s in zip(x.shape[2:], self.spacing, strict=True)]).flip(0)
        matrix = matrix * half / half[:, None]
        grid = functional.affine_grid(
            functional.pad(matrix, (0, 1)), [len(x), 1, *x.shape[2:]], align_corners=False
        )
        return functional.grid_sample(x, grid, align_corners=False)

    def _smoothed(self, x: Volumes, coarse: Tensor, blurred: Tensor, chance: Tensor) -> Volumes:
        """Coarser along one axis, and blurred along all, where these were chosen."""
        which = (chance[:, 0] * 3).long().clamp(max=2)
        factor = COARSER[0] + (COARSER[1] - COARSER[0]) * chance[:, 1]
        for axis in range(3):
            length = x.shape[2 + axis]
            if length == 1:
                continue
            sigma = torch.where(blurred, BLUR * chance[:, 2 + axis] / self.spacing[axis], 0.0)
            times = torch.where(coarse & (which == axis), factor, 1.0)
            matrix = coarsening(times, length) @ gaussian_filter(sigma, length)
            x = (x.movedim(2 + axis, -1).flatten(1, 3) @ matrix.mT).unflatten(
                1, [side for place, side in enumerate(x.shape[1:]) if place != 1 + axis]
            ).movedim(-1, 2 + axis)  # fmt: skip
        return x


def coarsening(times: Float[Tensor, " views"], length: int) -> Float[Tensor, "views length length"]:
    """Weights that take the nearest values at steps `times` as long, and join them by straight lines."""
    place = torch.arange(length, device=times.device, dtype=times.dtype)
    step = times[:, None]
    number = (place + 0.5) / step - 0.5
    low = number.floor()
    share = (number - low).unsqueeze(2)

    def taken(coarse: Tensor) -> Tensor:
        at = ((coarse + 0.5) * step - 0.5).round().clamp(0, length - 1)
        return (at.unsqueeze(2) == place).to(times.dtype)

    return (1 - share) * taken(low) + share * taken(low + 1)


def _field(chance: Tensor, shape: Sequence[int]) -> Float[Tensor, "views slices rows columns"]:
    """e to a polynomial of order 3 of the place, from -1 to 1 along each axis."""
    axes = [torch.linspace(-1, 1, n, device=chance.device, dtype=chance.dtype) for n in shape]
    powers = [
        (i, j, k) for i in range(ORDER + 1) for j in range(ORDER + 1 - i) for k in range(ORDER + 1 - i - j)
    ]
    terms = torch.stack(
        [axes[0][:, None, None] ** i * axes[1][:, None] ** j * axes[2] ** k for i, j, k in powers]
    )
    weights = FIELD * (2 * chance[:, : len(powers)] - 1)
    return (weights @ terms.flatten(1)).unflatten(1, tuple(shape)).exp()


def contrasted(
    images: Float[Tensor, "views channels rows columns"], chance: Float[Tensor, "views 3"], reach: float
) -> Float[Tensor, "views channels rows columns"]:
    """Grey images of 0 to 1, four fifths of them brighter or darker and of more or less contrast.

    Args:
        images: one view each.
        chance: uniform.
        reach: factors are 1 +- it.
    """
    changed = chance[:, 2] < 0.8
    bright, contrast = (torch.where(changed, 1 + reach * (2 * chance[:, n] - 1), 1.0) for n in (0, 1))
    images = (images * bright[:, None, None, None]).clamp(0, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + (images - mean) * contrast[:, None, None, None]).clamp(0, 1)


def _normal(shape: Sequence[int], generator: Generator, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers of uniform ones (Box and Muller), of which all processes draw the same."""
    first = uniform(shape, generator, dtype=dtype)
    second = uniform(shape, generator, dtype=dtype)
    return (-2 * (1 - first).clamp(min=1e-12).log()).sqrt() * (2 * math.pi * second).cos()


def _each(value: Tensor) -> Tensor:
    """One value a view beside its channels and places."""
    return value[:, None, None, None, None]
