"""Augmented views of images, for a whole batch at once, on its device, from one generator.

A crop is two small matrices, one for rows and one for columns, that hold where it lies, the antialiasing
filter, the mirroring and the blur; so all views of all images are two batched matrix products. Every view of
every image has parameters of its own. What needs red, green and blue (colour jitter, grey, solarising) is
done for three channels of whole numbers; other images are cropped, mirrored and blurred only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Num, Shaped
from torch import Generator, Tensor

from anyjepa.core.chance import uniform

GREY = (0.2989, 0.587, 0.114)  # red, green and blue in luma (ITU-R BT.601)
DRAWN = 15  # uniform numbers a view
PARAMETERS = (
    "top", "left", "height", "width", "brightness", "contrast", "saturation", "hue", "blur", "mirrored",
    "grey", "solarised",
)  # fmt: skip
LARGEST = {torch.uint8: 255.0, torch.int32: 65535.0}  # whole numbers are 8 bit, or 16 bit carried as int32


@dataclass(frozen=True)
class Views:
    """How `count` views of each image are made; the defaults are LeJEPA's.

    Args:
        count: views of each image.
        size: their height and width in pixels.
        area: share of the image a view shows, uniform between these.
        aspect: its width over height, log-uniform between these.
        flip: chance of mirroring left to right.
        jitter: greatest change of brightness, contrast, saturation (factors 1 +- it) and hue (turns).
        jitter_chance: chance that the four are changed, in this order.
        grey: chance of losing the colours.
        blur: chance of a Gaussian blur.
        blur_sigma: its standard deviation in pixels of the view, uniform between these.
        solarise: chance of inverting what is brighter than half.
    """

    count: int
    size: tuple[int, int]
    area: tuple[float, float]
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_chance: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise: float = 0.2

    def resized(self, count: int) -> Views:
        """The same with another number of views."""
        return replace(self, count=count)

    def __call__(
        self,
        images: Num[Tensor, "n channels height width"],
        generator: Generator,
        aspects: Float[Tensor, " n"] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "views n channels view_height view_width"]:
        """Views in the images' own units, not rounded.

        Args:
            images: of any real dtype, all of one size.
            generator: on the images' device.
            aspects: width over height that each image had before it was resized to this size, which its views
                are to have again; that of the array where None.
            dtype: to compute in.
        """
        drawn = uniform((images.shape[0], self.count, DRAWN), generator, dtype=dtype)
        return self.made(images, drawn, aspects).transpose(0, 1)

    def made(
        self,
        images: Num[Tensor, "n channels height width"],
        drawn: Float[Tensor, "n views drawn"],
        aspects: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n views channels view_height view_width"]:
        """The same as a function of uniform numbers, in whose dtype it computes; as many views as they say.

        Args:
            images: of any real dtype, all of one size.
            drawn: in [0, 1), 15 a view.
            aspects: width over height that each image had before.
        """
        chance = drawn.unbind(-1)
        with torch.autocast(images.device.type, enabled=False):
            views = _resampled(images.to(drawn.dtype), *self._filters(images, aspects, chance), self.size)
            if images.shape[1] == 3 and images.dtype in LARGEST:
                views = self._coloured(views / LARGEST[images.dtype], chance) * LARGEST[images.dtype]
        return views

    def parameters(
        self,
        images: Num[Tensor, "n channels height width"],
        drawn: Float[Tensor, "n views drawn"],
        aspects: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n views 12"]:
        """What `made` does, in the order of `PARAMETERS`; of images that are not coloured, colours stay.

        The box in shares of the image, factors of brightness, contrast and saturation, turns of hue, the
        blur's deviation in pixels of the view, and 1 for what is mirrored, grey or solarised.
        """
        chance = drawn.unbind(-1)
        tall, wide = self._sides(images, aspects, chance)
        box = [(1 - tall) * chance[2], (1 - wide) * chance[3], tall, wide]
        factors, grey, solarised = self._colours(chance)
        if images.shape[1] != 3 or images.dtype not in LARGEST:
            plain = (1.0, 1.0, 1.0, 0.0)
            factors = [torch.full_like(tall, value) for value in plain]
            grey = solarised = torch.zeros_like(tall)
        blur, mirrored = self._sigma(chance), (chance[4] < self.flip).to(tall)
        return torch.stack([*box, *factors, blur, mirrored, grey.to(tall), solarised.to(tall)], dim=-1)

    def _sides(
        self, images: Tensor, aspects: Tensor | None, chance: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Height and width of each view's box, in shares of the image."""
        height, width = images.shape[2:]
        stretch = 1.0 if aspects is None else (aspects.to(chance[0]) * height / width).unsqueeze(1)
        share = _between(self.area, chance[0])
        ratio = torch.exp(_between((math.log(self.aspect[0]), math.log(self.aspect[1])), chance[1]))
        # pixels of the array are `stretch` times as wide as high
        ratio = ratio * height / (width * stretch)
        return (share / ratio).sqrt().clamp(max=1), (share * ratio).sqrt().clamp(max=1)

    def _sigma(self, chance: Sequence[Tensor]) -> Tensor:
        return torch.where(chance[5] < self.blur, _between(self.blur_sigma, chance[6]), 0.0)

    def _colours(self, chance: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Three factors and the turn of the hue, and which views are grey and which solarised."""
        changed, found = chance[7] < self.jitter_chance, []
        for most, draw in zip(self.jitter[:3], chance[8:11], strict=True):
            factor = _between((max(0.0, 1 - most), 1 + most), draw)
            found.append(torch.where(changed, factor, 1.0))
        turn = _between((-self.jitter[3], self.jitter[3]), chance[11])
        found.append(torch.where(changed, turn, 0.0))
        return found, chance[12] < self.grey, chance[13] < self.solarise

    def _filters(
        self, images: Tensor, aspects: Tensor | None, chance: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Matrices from the image's rows to the view's, and for columns."""
        height, width = images.shape[2:]
        tall, wide = self._sides(images, aspects, chance)
        rows = triangle_filter(height * (1 - tall) * chance[2], height * tall, height, self.size[0])
        columns = triangle_filter(width * (1 - wide) * chance[3], width * wide, width, self.size[1])
        mirrored = (chance[4] < self.flip)[..., None, None]
        columns = torch.where(mirrored, columns.flip(-2), columns)
        if self.blur == 0:
            return rows, columns
        sigma = self._sigma(chance)
        return gaussian_filter(sigma, self.size[0]) @ rows, gaussian_filter(sigma, self.size[1]) @ columns

    def _coloured(self, views: Tensor, chance: Sequence[Tensor]) -> Tensor:
        """Views (n, count, 3, height, width) in 0..1, changed in colour."""
        factors, grey, solarised = self._colours(chance)
        for change, factor in zip((brighten, contrast, saturate), factors, strict=False):
            views = change(views, factor)
        if self.jitter[3]:
            views = turn_hue(views, factors[3])
        views = torch.where(_each(grey), luma(views), views)
        return torch.where(_each(solarised) & (views >= 128 / 255), 1 - views, views)


Views3 = Float[Tensor, "*views 3 height width"]
PerView = Float[Tensor, "*views"]


def _between(ends: tuple[float, float], uniform: Tensor) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * uniform


def _each(value: Tensor) -> Tensor:
    """One value a view beside its channels, rows and columns."""
    return value[..., None, None, None]


def triangle_filter(
    start: PerView, extent: PerView, length: int, out: int
) -> Float[Tensor, "*views out length"]:
    """Weights from a line of `length` pixels to `out` samples of a box; the filter widens as it shrinks.

    The same filter as the loader's (`image_crops`): rows sum to 1, pixels outside the line do not count.
    """
    scale = (extent / out)[..., None, None]
    place = torch.arange(max(length, out), device=start.device, dtype=start.dtype) + 0.5
    centre = start[..., None, None] + place[:out, None] * scale
    weights = (1 - (place[:length] - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)


def gaussian_filter(sigma: PerView, length: int) -> Float[Tensor, "*views length length"]:
    """Weights that blur a line of `length` pixels by `sigma` pixels; rows sum to 1, 0 leaves it as it is."""
    place = torch.arange(length, device=sigma.device, dtype=sigma.dtype)
    weights = torch.exp(-0.5 * ((place - place[:, None]) / sigma[..., None, None].clamp(min=1e-3)) ** 2)
    return weights / weights.sum(-1, keepdim=True)


def _resampled(images: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, count, channels, *size): each view's rows and columns of its image."""
    count, channels, height, width = images.shape
    views = rows.shape[1]
    # all views of an image share one product, so that no image is repeated
    lines = images.transpose(1, 2).reshape(count, height, channels * width)
    tall = rows.flatten(1, 2) @ lines
    tall = tall.view(count, views, size[0], channels, width).transpose(2, 3)
    wide = tall.flatten(2, 3) @ columns.mT
    return wide.view(count, views, channels, *size)


def luma(views: Views3) -> Float[Tensor, "*views 1 height width"]:
    """Grey value."""
    return (views * views.new_tensor(GREY)[:, None, None]).sum(-3, keepdim=True)


def brighten(views: Views3, factor: PerView) -> Views3:
    """Each view times its factor, within 0..1."""
    return (views * _each(factor)).clamp(0, 1)


def contrast(views: Views3, factor: PerView) -> Views3:
    """Distances from the view's mean grey value times its factor, within 0..1."""
    mean = luma(views).mean((-2, -1), keepdim=True)
    return (mean + (views - mean) * _each(factor)).clamp(0, 1)


def saturate(views: Views3, factor: PerView) -> Views3:
    """Distances from each pixel's grey value times the view's factor, within 0..1."""
    grey = luma(views)
    return (grey + (views - grey) * _each(factor)).clamp(0, 1)


def turn_hue(views: Views3, turn: PerView) -> Views3:
    """Hue moved by a share of the colour circle; saturation and value of HSV stay."""
    red, green, blue = views.unbind(-3)
    value, low = views.amax(-3), views.amin(-3)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    # sixths of the circle from red
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = sector + 6 * turn[..., None, None]
    offsets = views.new_tensor([5.0, 3.0, 1.0])[:, None, None]
    around = torch.remainder(offsets + sector.unsqueeze(-3), 6)
    return value.unsqueeze(-3) - chroma.unsqueeze(-3) * torch.minimum(around, 4 - around).clamp(0, 1)


def in_dtype_of(views: Shaped[Tensor, "*any"], images: Shaped[Tensor, "*some"]) -> Shaped[Tensor, "*any"]:
    """Views as pixels of the images' dtype: whole numbers are rounded and kept in range."""
    if images.dtype in LARGEST:
        return views.round().clamp(0, LARGEST[images.dtype]).to(images.dtype)
    return views.to(images.dtype)
