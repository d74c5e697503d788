"""Sequences of views of one thing and what was done between them, for a whole batch on its device.

A maker gives views, the parameters of each, and the relation of any two parameters: the action between them.
What is drawn comes in as uniform numbers, so that views are a function of these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.core.fixations import (
    Inhibition,
    centre_saliency,
    draw_fixations,
    foveas,
    gradient_saliency,
)
from anyjepa.core.rotations import between
from anyjepa.domains.image_views import DRAWN, PARAMETERS, Views
from anyjepa.domains.views_samples import NUMBERS

Batch = dict[str, Tensor]
Drawn = Float[Tensor, "batch views numbers"]
Parameters = Float[Tensor, "*any numbers"]
PUBLISHED = 9  # of `PARAMETERS` that the released code tells: box, colours and blur


class Sequence(NamedTuple):
    """Views of a batch, in order.

    Args:
        views: (batch, views, channels, height, width) in the data's own units.
        parameters: (batch, views, numbers) of each view.
    """

    views: Shaped[Tensor, "batch views channels height width"]
    parameters: Float[Tensor, "batch views numbers"]


class Maker(ABC):
    """Views of what a batch holds."""

    drawn: ClassVar[int]
    """Uniform numbers a view."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Of the numbers of an action."""

    @abstractmethod
    def made(self, batch: Batch, drawn: Drawn, predicted: bool = False) -> Sequence:
        """As many views as `drawn` says; the last one made as a target is where `predicted`."""

    @abstractmethod
    def relation(self, before: Parameters, after: Parameters) -> Float[Tensor, "*any actions"]:
        """The action that leads from one view to another."""

    def actions(self, sequence: Sequence) -> Float[Tensor, "batch actions numbers"]:
        """From each view to the next: one less than there are views."""
        return self.relation(sequence.parameters[:, :-1], sequence.parameters[:, 1:])


@dataclass(frozen=True)
class Posed(Maker):
    """Views that came with the data, with their poses, in an order that is drawn.

    Args:
        rotation: ``quaternion``, ``turn`` (an angle in radians) or ``none``, of the first numbers.
        others: names of the numbers behind, whose differences are told too.
        scale: what these are divided by.
    """

    rotation: str
    others: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()

    drawn: ClassVar[int] = 1

    @property
    def names(self) -> list[str]:
        """Quaternion, or cosine and sine, and the others."""
        first = {"quaternion": ["x", "y", "z", "w"], "turn": ["cosine", "sine"], "none": []}
        return [*first[self.rotation], *self.others]

    def made(self, batch: Batch, drawn: Drawn, predicted: bool = False) -> Sequence:
        """The views of the batch by the order of `drawn`; the first of them where it has fewer."""
        if "pose" not in batch:
            raise UserError(
                "this data has no poses: make views of single images with --transformation affine, "
                "augmentations or saccades."
            )
        order = drawn[..., 0].argsort(dim=1)[:, : batch["image"].shape[1]]
        places = order[..., None, None, None].expand(-1, -1, *batch["image"].shape[2:])
        views = batch["image"].gather(1, places)
        pose = batch["pose"].gather(1, order[..., None].expand(-1, -1, batch["pose"].shape[2]))
        return Sequence(views, pose.to(drawn.dtype))

    def relation(self, before: Parameters, after: Parameters) -> Float[Tensor, "*any actions"]:
        """Relative rotation (w >= 0), or cosine and sine of the turn; differences over their scale."""
        wide = NUMBERS[self.rotation]
        parts = []
        if self.rotation == "quaternion":
            parts.append(between(before[..., :4], after[..., :4]))
        elif self.rotation == "turn":
            turn = after[..., :1] - before[..., :1]
            parts += [turn.cos(), turn.sin()]
        if self.others:
            difference = (after - before)[..., wide : wide + len(self.others)]
            parts.append(difference / difference.new_tensor(self.scale))
        return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class Affine(Maker):
    """Images turned, scaled and shifted about their middle; what lies beyond their edge is that of the edge.

    Args:
        size: height and width of a view in pixels.
        turn: greatest angle either way, in degrees.
        scale: factors of size, log-uniform between these.
        shift: greatest shift either way, in shares of a side.
    """

    size: tuple[int, int]
    turn: float = 180.0
    scale: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.15

    drawn: ClassVar[int] = 4

    @property
    def names(self) -> list[str]:
        """Of the turn, the change of size and the shift."""
        return ["cosine", "sine", "size", "down", "right"]

    def made(self, batch: Batch, drawn: Drawn, predicted: bool = False) -> Sequence:
        """Parameters: angle in radians, logarithm of the factor, shift down and right in shares."""
        images = _single(batch)
        angle = (2 * drawn[..., 0] - 1) * math.radians(self.turn)
        low, high = (math.log(value) for value in self.scale)
        size = low + (high - low) * drawn[..., 1]
        down, right = ((2 * drawn[..., axis] - 1) * self.shift for axis in (2, 3))
        cosine, sine, shrink = angle.cos(), angle.sin(), (-size).exp()
        tall = images.shape[2] / images.shape[3]
        # from places of the view to places of the image, both from -1 to 1: undo the shift, size and turn
        rows = [
            torch.stack([cosine, sine * tall, -2 * (cosine * right + sine * tall * down)], dim=-1),
            torch.stack([-sine / tall, cosine, -2 * (cosine * down - sine / tall * right)], dim=-1),
        ]
        matrix = torch.stack(rows, dim=-2) * shrink[..., None, None]
        count = drawn.shape[1]
        grid = functional.affine_grid(
            matrix.flatten(0, 1), [images.shape[0] * count, images.shape[1], *self.size], align_corners=False
        )
        many = images.to(drawn.dtype).repeat_interleave(count, dim=0)
        views = functional.grid_sample(
            many, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        return Sequence(
            views.unflatten(0, (images.shape[0], count)), torch.stack([angle, size, down, right], dim=-1)
        )

    def relation(self, before: Parameters, after: Parameters) -> Float[Tensor, "*any actions"]:
        """Cosine and sine of the turn between; differences over the greatest that there can be of each."""
        difference = after - before
        spread = max(1e-6, math.log(self.scale[1] / self.scale[0]))
        most = difference.new_tensor([spread, *[max(1e-6, 2 * self.shift)] * 2])
        turn = difference[..., :1]
        return torch.cat([turn.cos(), turn.sin(), difference[..., 1:] / most], dim=-1)


@dataclass(frozen=True)
class Augmented(Maker):
    """Crops of images, mirrored, recoloured and blurred.

    Args:
        observed, predicted: how views are made, and the one that is predicted.
        everything: actions tell of mirroring, grey and solarising too.
    """

    observed: Views
    predicted: Views
    everything: bool = False

    drawn: ClassVar[int] = DRAWN

    @property
    def names(self) -> list[str]:
        """Of `PARAMETERS`, the first nine or all."""
        return list(PARAMETERS[: None if self.everything else PUBLISHED])

    def made(self, batch: Batch, drawn: Drawn, predicted: bool = False) -> Sequence:
        """Views as of `Views.made`."""
        images, aspects = _single(batch), batch.get("aspect")
        if not predicted:
            return self._made(self.observed, images, drawn, aspects)
        parts = [
            self._made(self.observed, images, drawn[:, :-1], aspects),
            self._made(self.predicted, images, drawn[:, -1:], aspects),
        ]
        return Sequence(*(torch.cat(one, dim=1) for one in zip(*parts, strict=True)))

    def _made(self, how: Views, images: Tensor, drawn: Tensor, aspects: Tensor | None) -> Sequence:
        return Sequence(how.made(images, drawn, aspects), how.parameters(images, drawn, aspects))

    def relation(self, before: Parameters, after: Parameters) -> Float[Tensor, "*any actions"]:
        """Differences, each over the range that its parameter is drawn from."""
        return ((after - before) / before.new_tensor(self._ranges()))[..., : len(self.names)]

    def _ranges(self) -> list[float]:
        least = math.sqrt(self.observed.area[0] * self.observed.aspect[0])
        sides = [max(1e-3, 1 - least)] * 4
        colours = [max(1e-3, 2 * most) for most in self.observed.jitter]
        return [*sides, *colours, max(1e-3, self.observed.blur_sigma[1]), 1.0, 1.0, 1.0]


@dataclass(frozen=True)
class Saccades(Maker):
    """Small patches of an image, where an eye would look one after the other.

    Args:
        patch: side of what is seen at a time, in pixels.
        saliency: where the data brings no map: ``gradient``, ``centre`` or ``uniform``.
        inhibition: the shape of what is not looked at again, with half a patch for a radius.
    """

    patch: int
    saliency: str = "gradient"
    inhibition: Inhibition = "square"

    drawn: ClassVar[int] = 1

    @property
    def names(self) -> list[str]:
        """The way of the eye in shares of the image."""
        return ["down", "right"]

    def map(self, batch: Batch) -> Float[Tensor, "batch height width"]:
        """Where it is worth looking: the data's own map where it has one."""
        images = _single(batch)
        if "saliency" in batch:
            return batch["saliency"].to(torch.get_default_dtype())
        plain = images.float() if not images.is_floating_point() else images
        if self.saliency == "gradient":
            return gradient_saliency(plain)
        centre = centre_saliency(plain[:, 0])
        return centre if self.saliency == "centre" else torch.ones_like(centre)

    def made(self, batch: Batch, drawn: Drawn, predicted: bool = False) -> Sequence:
        """Parameters: rows and columns of the fixations in shares of the image, 0 to 1."""
        images = _single(batch)
        places = draw_fixations(self.map(batch), drawn[..., 0], self.patch / 2, self.inhibition)
        sides = drawn.new_tensor(images.shape[2:])
        views = foveas(images, places, self.patch)
        return Sequence(views, (places.to(drawn.dtype) + 0.5) / sides)

    def relation(self, before: Parameters, after: Parameters) -> Float[Tensor, "*any actions"]:
        """The way between, -1 to 1."""
        return after - before


def _single(batch: Batch) -> Num[Tensor, "batch channels height width"]:
    """The images of a batch that has one each."""
    if "pose" in batch:
        raise UserError("this data has views with poses: leave --transformation at poses.")
    return batch["image"]
