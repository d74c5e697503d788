"""Labels of parts: of the points of a cloud, from arrays beside it; of pixels, from a folder of masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest
from anyjepa.domains.hdf5_files import numbers_of, open_hdf5
from anyjepa.domains.image_files import decode_mask
from anyjepa.domains.number_files import open_archive

__all__ = ["MaskFolder", "column_of", "part_arrays"]

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".npy")
UNKNOWN = 255  # of a mask of 8 bits: the label that data sets of segmentation leave out


def column_of(dense: str | None) -> int | None:
    """The column that ``last``, or a number counted from 1, names; None for a name of another kind."""
    if dense == "last":
        return -1
    return int(dense) - 1 if dense is not None and dense.isdecimal() and int(dense) > 0 else None


def part_arrays(paths: Sequence[str], key: str) -> np.ndarray:
    """(n, points) labels under `key` of HDF5 files, or of one ``.npz``. Raises UserError."""
    found = []
    for path in paths:
        try:
            if path.lower().endswith(".npz"):
                with open_archive(path) as file:
                    names, values = file.files, file[key] if key in file.files else None
            else:
                with open_hdf5(path) as file:
                    names, values = list(file), numbers_of(file, key) if key in file else None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from None
        if values is None:
            raise UserError(f"{path} holds no '{key}' to be the labels of parts.{nearest(key, names)}")
        if values.ndim != 2:
            raise UserError(f"{key} in {path} has shape {values.shape}: give a label a point, (n, points).")
        found.append(values)
    return np.concatenate(found)


class MaskFolder:
    """Masks that bear the names of their images, whatever the ending: one whole number a pixel.

    Args:
        folder: of the masks, laid out as the images are, or all in one place.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, folder: str) -> None:
        if not os.path.isdir(folder):
            raise UserError(f"--dense {folder} is not a folder of masks named as the images are.")
        self.folder = folder

    def read(self, identity: str, shape: tuple[int, int]) -> np.ndarray:
        """(height, width) int64, -1 where unknown (255 in 8 bits). Raises BadSample."""
        stem = PurePosixPath(identity).with_suffix("")
        places = [
            os.path.join(self.folder, f"{name}{suffix}")
            for name in (stem, stem.name)
            for suffix in MASK_SUFFIXES
        ]
        path = next((place for place in places if os.path.isfile(place)), None)
        if path is None:
            raise BadSample(identity, f"has no mask in {self.folder}")
        try:
            with open(path, "rb") as file:
                mask = decode_mask(file.read(), identity)
        except (OSError, BadSample) as error:
            reason = error.reason if isinstance(error, BadSample) else error.strerror or str(error)
            raise BadSample(identity, f"has a damaged mask: {reason}") from None
        if mask.ndim != 2 or mask.dtype.kind not in "biu":
            raise BadSample(identity, f"has a mask of shape {mask.shape}, not one whole number a pixel")
        if mask.shape != shape:
            raise BadSample(identity, f"is {shape} and its mask {mask.shape} pixels")
        labels = mask.astype(np.int64)
        return np.where(labels == UNKNOWN, -1, labels) if mask.dtype == np.uint8 else labels
