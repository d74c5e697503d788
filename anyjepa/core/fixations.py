"""Where an eye rests: fixations drawn from a map of saliency, what is seen there, maps without a label."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional

Maps = Float[Tensor, "batch height width"]
Inhibition = Literal["square", "circle", "none"]
CENTRE_SPREAD = 0.25  # of the centre's bias, in sides of the image
BLUR = 1 / 24  # of the energy of gradients, in sides of the image


def draw_fixations(
    saliency: Maps,
    uniforms: Float[Tensor, "batch fixations"],
    radius: float,
    inhibition: Inhibition = "square",
) -> Int[Tensor, "batch fixations 2"]:
    """Pixels (row, column) drawn one after the other in proportion to a map (seq-JEPA, section 3.3).

    Places that were looked at are not looked at again (inhibition of return): what lies within `radius` rows
    and columns of a fixation, or within that distance, is taken out of the map. Where nothing is left, or
    nothing was there to begin with, all places are alike again.

    Args:
        saliency: not negative, of any sum.
        uniforms: in [0, 1); the draw is a function of these.
        radius: in pixels.
        inhibition: the shape that is taken out.
    """
    height, width = saliency.shape[1:]
    rows = torch.arange(height, device=saliency.device)[:, None]
    columns = torch.arange(width, device=saliency.device)
    left, found = saliency.clamp(min=0), []
    for chance in uniforms.unbind(1):
        mass = left.flatten(1)
        mass = torch.where(mass.sum(1, keepdim=True) > 0, mass, 1.0)
        heap = mass.cumsum(1)
        total = heap[:, -1:].contiguous()
        place = torch.searchsorted(heap, chance[:, None].to(heap) * total, right=True)
        # rounding may reach the sum itself, behind the last place that has any mass
        place = torch.minimum(place, torch.searchsorted(heap, total)).squeeze(1)
        row, column = place // width, place % width
        found.append(torch.stack([row, column], dim=1))
        away_rows, away_columns = (rows - row[:, None, None]).abs(), (columns - column[:, None, None]).abs()
        if inhibition == "circle":
            left = left * (away_rows.square() + away_columns.square() > radius**2)
        elif inhibition == "square":
            left = left * ((away_rows > radius) | (away_columns > radius))
    return torch.stack(found, dim=1)


def foveas(
    images: Num[Tensor, "batch channels height width"], places: Int[Tensor, "batch fixations 2"], side: int
) -> Num[Tensor, "batch fixations channels side side"]:
    """Squares of `side` pixels whose pixel at (side // 2, side // 2) is the fixation; zeros beyond edges."""
    before, after = side // 2, side - side // 2 - 1
    padded = functional.pad(images, (before, after, before, after))
    inside = torch.arange(side, device=images.device)
    rows = places[..., 0, None, None] + inside[:, None]
    columns = places[..., 1, None, None] + inside
    sample = torch.arange(len(images), device=images.device)[:, None, None, None]
    return padded[sample, :, rows, columns].movedim(-1, 2)


def gradient_saliency(images: Num[Tensor, "batch channels height width"]) -> Maps:
    """Blurred energy of the gradients with a bias to the centre; sums to 1. A stand-in without training."""
    x = images.to(torch.get_default_dtype() if not images.is_floating_point() else images.dtype).mean(1)
    down = functional.pad(x, (0, 0, 1, 1), mode="replicate")
    across = functional.pad(x, (1, 1, 0, 0), mode="replicate")
    energy = (down[:, 2:] - down[:, :-2]).square() + (across[:, :, 2:] - across[:, :, :-2]).square()
    height, width = x.shape[1:]
    energy = _smoother(height, x) @ energy @ _smoother(width, x)
    found = energy.sqrt() * centre_saliency(x)
    # an image of one value has no gradients: its centre counts
    found = torch.where(found.flatten(1).sum(1)[:, None, None] > 0, found, centre_saliency(x))
    return found / found.flatten(1).sum(1)[:, None, None]


def centre_saliency(like: Maps) -> Maps:
    """A bell over the middle of the image; sums to 1."""
    bells = []
    for length in like.shape[1:]:
        place = (torch.arange(length, device=like.device, dtype=like.dtype) + 0.5) / length - 0.5
        bells.append(torch.exp(-0.5 * (place / CENTRE_SPREAD) ** 2))
    found = bells[0][:, None] * bells[1]
    return (found / found.sum()).expand_as(like)


def _smoother(length: int, like: Tensor) -> Tensor:
    """Weights that blur a line, the same towards either end."""
    place = torch.arange(length, device=like.device, dtype=like.dtype)
    return torch.exp(-0.5 * ((place - place[:, None]) / (BLUR * length)) ** 2)
