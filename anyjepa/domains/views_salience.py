"""Images that come with maps of where it is worth looking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.fingerprints import digest_of
from anyjepa.domains.image_samples import ImageSamples
from anyjepa.domains.image_sources import open_images
from anyjepa.domains.number_files import open_archive
from anyjepa.domains.sources import split_order

__all__ = ["MappedImages", "mapped", "open_with_maps"]


def mapped(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """One array () with the fields image (height, width, channels) and saliency (height, width) float32."""
    kind: list[Any] = [("image", image.dtype, image.shape), ("saliency", np.float32, saliency.shape)]
    one = np.empty((), kind)
    one["image"], one["saliency"] = image, saliency
    return one


class MappedImages:
    """Images with a map each; satisfies the Samples protocol. A raw sample is as of `mapped`."""

    array = None

    def __init__(self, images: ImageSamples, maps: np.ndarray) -> None:
        self.images, self.maps, self.source = images, maps, images.source
        self.labels, self.classes, self.groups = images.labels, images.classes, images.groups
        self.problems = images.problems
        self.description = f"{images.description} with maps of saliency"

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int | np.integer) -> np.ndarray:
        """Image and map. Raises BadSample where the map is not finite, below 0, or nothing but 0."""
        own = self.maps[int(self.identity(index))].astype(np.float32)
        if not np.isfinite(own).all() or own.min() < 0 or not own.any():
            raise BadSample(self.identity(index), "its map of saliency is no density")
        return mapped(self.images.read(index), own)

    def identity(self, index: int | np.integer) -> str:
        """The row number."""
        return self.images.identity(index)

    def fingerprint(self) -> str:
        """Of the images and of some of the maps."""
        count = len(self.maps)
        return digest_of(self.images.fingerprint(), (), count, lambda row: self.maps[row].nbytes, self.maps)


def open_with_maps(source: str, labels: str | None, split: str | None) -> MappedImages | None:
    """A .npz file of images with ``saliency`` (n, height, width) or ``saliency_train`` and so on; else None.

    A second axis of one, (n, 1, height, width), is left out. Raises UserError where maps do not fit the
    images.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() != ".npz" or not path.is_file():
        return None
    try:
        with open_archive(path) as file:
            names = ["saliency", *(f"saliency_{word.lower()}" for word in split_order(split))]
            name = next((name for name in names[1:] + names[:1] if name in file), None)
            if name is None:
                return None
            maps = file[name]
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a .npz file of numbers: {str(error).splitlines()[0]}") from None
    images = open_images(source, labels, split)
    maps = maps[:, 0] if maps.ndim == 4 and maps.shape[1] == 1 else maps
    rows = len(maps) == len(images) + len(images.problems)
    if not rows or maps.dtype.kind not in "iuf" or maps.shape[1:] != images.read(0).shape[:2]:
        raise UserError(
            f"{source} has maps of saliency of shape {maps.shape}: give one number a pixel of each image."
        )
    return MappedImages(images, maps)
