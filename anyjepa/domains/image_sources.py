"""From what a person types to images: tells folders, arrays, IDX files, shards and the hub apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anyjepa.core.errors import UserError
from anyjepa.domains.image_files import SUFFIXES
from anyjepa.domains.image_samples import ArrayStore, FileStore, ImageSamples
from anyjepa.domains.sources import existing, index_classes, list_files, list_folders, natural_split

__all__ = ["open_images"]


def open_images(
    source: str | np.ndarray, labels: str | None = None, split: str | None = None
) -> ImageSamples:
    """Open images."""
    if isinstance(source, np.ndarray):
        values = source[..., None] if source.ndim == 3 else source
        return ImageSamples("an array", ArrayStore(values), "images in an array")
    return open_folder(source, existing(source), labels, split)


def open_folder(source: str, root: Path, labels: str | None, split: str | None) -> ImageSamples:
    chosen = natural_split(list_folders(root), split)
    root = root / chosen if chosen else root
    names = list_files(root, SUFFIXES)
    if not names:
        raise UserError(
            f"{source} holds no image: give a folder with PNG, JPEG, WebP, BMP, GIF, TIFF or .npy files"
        )
    indices, classes = index_classes([name.split("/")[0] if "/" in name else None for name in names])
    if len(classes) < 2:
        return ImageSamples(source, FileStore(str(root), names), "images")
    return ImageSamples(
        source, FileStore(str(root), names), f"images in {len(classes)} class folders", indices, classes
    )
