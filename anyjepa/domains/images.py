"""Images: read from folders, arrays, shards and the Hugging Face hub; measured, cut and shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.tokens import Tokens
from anyjepa.domains import Domain, Samples
from anyjepa.domains.dense_labels import MaskFolder
from anyjepa.domains.image_crops import random_resized_crop, resize
from anyjepa.domains.image_files import SUFFIXES
from anyjepa.domains.image_samples import FileStore, ImageSamples
from anyjepa.domains.image_sources import open_images

__all__ = ["Images", "random_resized_crop", "resize"]

MEASURED = 2000
RAW_SIDE = 32
PICTURE_SIDE = 96
SMALLEST_PATCH = 4  # pixels a side


class Images(Domain):
    """Images of any size, channels and depth. A batch is {"image": (n, channels, height, width)}."""

    name = "image"
    reads_shards = True
    endings = frozenset({*SUFFIXES, ".npz", "-ubyte", "-ubyte.gz"})

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source of images; see :func:`anyjepa.domains.image_sources.open_images`.

        ``dense`` in ``reading`` is a folder of masks, named as the images.

        Raises UserError too where a run reads images of another number of channels.
        """
        return self.agreed(open_images(source, labels, split), reading or {})

    @staticmethod
    def agreed(samples: ImageSamples, asked: Mapping[str, Any]) -> Samples:
        """The samples with their masks; UserError where a run reads images of other channels."""
        if asked.get("dense"):
            samples.masks = MaskFolder(asked["dense"])
        wanted = asked.get("channels")
        if wanted is not None and len(samples):
            try:
                channels = samples.read(0).shape[2]
            except BadSample:
                return samples
            if channels != wanted:
                raise UserError(
                    f"{samples.source} has images of {channels} channels and this run reads {wanted}: give "
                    "it others, or convert them."
                )
        return samples

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Channels, mean and standard deviation a channel, dtype, and the median height and width.

        Mean and deviation are over all pixels of at most 2,000 images drawn with ``seed``, in raw units.
        Images that turn out damaged are passed over. Raises UserError if all are.
        """
        chosen = np.arange(len(samples))
        if len(samples) > MEASURED:
            random = np.random.default_rng(seed)
            looked_at = getattr(samples, "looked_at", None)
            chosen = (
                looked_at(MEASURED, random) if looked_at else random.choice(len(samples), MEASURED, False)
            )
            chosen = np.sort(chosen)
        shapes, sums, squares, dtype = [], np.zeros(1), np.zeros(1), np.dtype(np.uint8)
        for index in chosen:
            try:
                image = samples.read(int(index))
            except BadSample:
                continue
            pixels = image.reshape(-1, image.shape[2]).astype(np.float64)
            shapes.append(image.shape)
            sums, squares, dtype = sums + pixels.sum(axis=0), squares + (pixels**2).sum(axis=0), image.dtype
        if not shapes:
            raise UserError(f"{samples.source} holds no readable image: give images that open")
        count = sum(height * width for height, width, _ in shapes)
        mean = sums / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return {
            "channels": int(shapes[0][2]),
            "mean": mean.tolist(),
            "std": deviation.tolist(),
            "dtype": str(dtype),
            "height": int(np.median([shape[0] for shape in shapes])),
            "width": int(np.median([shape[1] for shape in shapes])),
            "mixed_sizes": len(set(shapes)) > 1,
        }

    def likeness(self, samples: Samples) -> float:
        """Files of pictures for sure; arrays where they are of bytes, or have a picture's channels."""
        assert isinstance(samples, ImageSamples)
        if isinstance(samples.store, FileStore):
            return 0.5 if samples.identity(0).endswith(".npy") else 1.0
        height, width, _ = samples.read(0).shape
        if min(height, width) < 8:
            return 0.05
        return 1.0 if samples.dtype == np.uint8 else 0.6

    def in_words(self, facts: dict) -> dict[str, str]:
        """Size in pixels, channels, depth, and the mean and deviation of each channel."""
        size = f"{facts['width']} x {facts['height']} pixels"
        return {
            "size": f"{size} (the median: sizes differ)" if facts["mixed_sizes"] else size,
            "channels": {1: "1, grey", 3: "3, colour"}.get(facts["channels"], str(facts["channels"])),
            "values": f"{facts['dtype']}, mean {_figures(facts['mean'])}, deviation {_figures(facts['std'])}",
        }

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """Channels that never change, and images smaller than any patch."""
        found = super().doubts(samples, facts)
        smallest = min(facts["height"], facts["width"])
        if smallest < SMALLEST_PATCH:
            found.append(
                f"images of {facts['width']} x {facts['height']} pixels are smaller than a patch of "
                f"{SMALLEST_PATCH}: they are enlarged, which adds nothing that a mask could hide."
            )
        return found

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """The pixels, averaged down to at most 32 x 32, in raw units."""
        image = batch["image"].to(torch.float32)
        size = (min(image.shape[2], RAW_SIDE), min(image.shape[3], RAW_SIDE))
        if size != tuple(image.shape[2:]):
            image = functional.interpolate(image, size=size, mode="area")
        return image.flatten(1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Images (height, width, channels) float32 of independent normal pixels."""
        shape = (count, facts["height"], facts["width"], facts["channels"])
        return list(np.random.default_rng(0).normal(facts["mean"], facts["std"], shape).astype(np.float32))

    def picture(
        self,
        batch: dict[str, Tensor],
        index: int,
        facts: dict,
        colours: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """One image as (h, w, 3) uint8, at least 96 pixels on its longer side.

        One channel is shown grey, of more than three the first three. 8-bit values are shown as they are,
        others from their 1st to their 99th percentile. colours: (rows * columns, 3) in 0..1 over an even
        ``grid`` in raster order, NaN where the image is to show; the grid is worked out from the image's
        aspect ratio when it is not given. Raises ValueError for colours that fill no grid.
        """
        picture = _visible(batch["image"][index].detach().cpu().numpy())
        scale = max(1, -(-PICTURE_SIDE // max(picture.shape[:2])))
        picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
        if colours is None:
            return picture
        return _painted(picture, colours.detach().cpu().numpy(), grid)

    def elements(
        self,
        batch: dict[str, Tensor],
        tokens: Sequence[Tokens],
        dense: Sequence[np.ndarray],
        classes: int,
        present: Callable[[list[np.ndarray]], dict[str, Tensor]],
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """The patches of each image: their token, their pixels (8 x 8 at most), their commonest label.

        Masks are resized and cropped as the image was, class by class; a patch of which less than half is
        labelled is unknown.
        """
        count = tokens[0].values.shape[1]
        image = batch["image"].float()
        rows, columns = _likely_grid(count, image.shape[2] / image.shape[3])
        shares = present([_one_hot(mask, classes) for mask in dense])["image"].float()
        shares = functional.adaptive_avg_pool2d(shares, (rows, columns)).flatten(2).mT / 255
        labels = torch.where(shares.sum(2) >= 0.5, shares.argmax(2), -1)
        side = min(8, image.shape[2] // rows, image.shape[3] // columns)
        pixels = functional.interpolate(image, size=(rows * side, columns * side), mode="area")
        pixels = functional.unfold(pixels, side, stride=side).mT
        return [one.values.float() for one in tokens], pixels, labels.to(image.device)


def _figures(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.3g}" for value in values[:4])
    return f"{shown} ..." if len(values) > 4 else shown


def _one_hot(mask: np.ndarray, classes: int) -> np.ndarray:
    """(height, width) labels to (height, width, classes) uint8: 255 of the label's own class."""
    return (mask[:, :, None] == np.arange(classes)).astype(np.uint8) * 255


def _visible(image: np.ndarray) -> np.ndarray:
    """(channels, height, width) of any dtype to (height, width, 3) uint8."""
    channels = image[:3] if len(image) >= 3 else image[:1].repeat(3, axis=0)
    if image.dtype != np.uint8:
        values = channels.astype(np.float64)
        low, high = np.percentile(values, [1, 99])
        if high <= low:
            low, high = min(low, values.min()), max(high, values.max())
        values = (values - low) / (high - low) if high > low else np.full_like(values, 0.5)
        channels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(channels.transpose(1, 2, 0))


def _painted(picture: np.ndarray, colours: np.ndarray, grid: tuple[int, int] | None) -> np.ndarray:
    height, width = picture.shape[:2]
    rows, columns = grid or _likely_grid(len(colours), height / width)
    if rows * columns != len(colours):
        raise ValueError(f"{len(colours)} colours do not fill a grid of {rows} x {columns}")
    down = np.arange(height) * rows // height
    across = np.arange(width) * columns // width
    paint = colours.reshape(rows, columns, 3)[down][:, across]
    covered = ~np.isnan(paint).any(axis=2)
    picture = picture.copy()
    picture[covered] = np.rint(np.clip(paint[covered], 0, 1) * 255).astype(np.uint8)
    return picture


def _likely_grid(tokens: int, tall: float) -> tuple[int, int]:
    """The rows x columns = tokens whose patches are nearest to square in an image of this height / width."""
    pairs = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
    return min(pairs, key=lambda pair: abs(np.log(pair[0] / pair[1] / tall)))
