"""Volumes and surfaces: NIfTI and CIFTI files, brought to one series a region of an atlas."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, require
from anyjepa.domains.fmri_tables import DAMAGE

__all__ = ["IMAGES", "Atlas", "ImageHeader", "image_header", "is_atlas", "read_atlas", "read_image"]

IMAGES = frozenset({".nii", ".nii.gz"})
ATLAS = re.compile(r"atlas|parc|dseg|label", re.IGNORECASE)
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "second": 1.0}
ENTRY = re.compile(r"<index>\s*(\d+)\s*</index>\s*<name>([^<]*)</name>")
INFLATED = 1100  # times that gzip can grow
AT_ONCE = 2**28  # bytes of volumes that are parcellated together
LIST = re.compile(r"^\s*(\d+)[\s,;]+\"?([^\s,;\"]+)")


@dataclass(frozen=True)
class Atlas:
    """Which region each voxel or grayordinate is of.

    Args:
        path: of its file.
        numbers: of the regions in it.
        names: of the regions.
        surface: whether it is a CIFTI file.
    """

    path: str
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    surface: bool


@dataclass(frozen=True)
class ImageHeader:
    """What an image says of itself.

    Args:
        kind: ``volumes`` (NIfTI in four dimensions), ``dense`` or ``parcels`` (CIFTI), else ``other``.
        volumes: in time.
        step: seconds from one to the next; None where it is not said.
        names: of parcels.
    """

    kind: str
    volumes: int
    step: float | None
    names: list[str] | None = None


def is_atlas(name: str) -> bool:
    """Whether a relative path sounds like that of an atlas."""
    return name.lower().endswith(".dlabel.nii") or ATLAS.search(name) is not None


def _load(path: str) -> Any:
    """The image, its data not read yet. Raises ValueError, with what nibabel says, where it is damaged."""
    library = require("nibabel", "fmri")
    own = (
        library.filebasedimages.ImageFileError, library.spatialimages.HeaderDataError,
        library.spatialimages.HeaderTypeError, library.wrapstruct.WrapStructError,
        library.cifti2.cifti2.Cifti2HeaderError, *DAMAGE,
        require("xml.parsers.expat", "fmri").ExpatError,
    )  # fmt: skip
    try:
        image = library.load(path)
    except FileNotFoundError:
        raise
    except own as error:
        raise ValueError((str(error).splitlines() or ["damaged"])[0]) from None
    claimed = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    held = os.path.getsize(path) * (INFLATED if path.lower().endswith(".gz") else 1)
    if min(image.shape, default=0) < 1 or claimed > held:
        raise ValueError(f"it claims shape {tuple(image.shape)}, more than the file can hold")
    return image


def image_header(path: str, identity: str) -> ImageHeader:
    """Length and repetition time. Raises BadSample where the file is damaged."""
    try:
        image = _load(path)
        library = require("nibabel", "fmri")
        if isinstance(image, library.Cifti2Image):
            return _surface_header(image)
        if len(image.shape) != 4 or image.shape[3] < 2:
            return ImageHeader("other", 0, None)
        zooms, (_, unit) = image.header.get_zooms(), image.header.get_xyzt_units()
        step = float(zooms[3]) * SECONDS.get(unit, 1.0) if len(zooms) > 3 else 0.0
        return ImageHeader("volumes", int(image.shape[3]), step if 0 < step < 100 else None)
    except DAMAGE as error:
        raise BadSample(identity, f"is damaged ({_line(error)})") from None


def _surface_header(image: Any) -> ImageHeader:
    axes = require("nibabel.cifti2", "fmri")
    time, places = image.header.get_axis(0), image.header.get_axis(1)
    if not isinstance(time, axes.SeriesAxis):
        return ImageHeader("other", 0, None)
    step = float(time.step) * SECONDS.get(str(time.unit).lower(), 1.0)
    step = step if 0 < step < 100 else None
    if isinstance(places, axes.ParcelsAxis):
        return ImageHeader("parcels", int(time.size), step, [str(name) for name in places.name])
    return ImageHeader("dense", int(time.size), step)


@functools.lru_cache(maxsize=4)
def read_atlas(path: str) -> Atlas:
    """Regions of a label image (.nii, .nii.gz; 0 is none) or of a .dlabel.nii. Raises UserError.

    Names of the regions of a NIfTI atlas are taken from a file of the same name beside it: .xml (of FSL and
    AAL), .txt, .tsv, .csv or .label with a number and a name a line.
    """
    if not os.path.isfile(path):
        raise UserError(f"--atlas {path} is not a file: give a label image (.nii, .nii.gz or .dlabel.nii).")
    try:
        image = _load(path)
        library = require("nibabel", "fmri")
        if isinstance(image, library.Cifti2Image):
            axis = image.header.get_axis(0)
            if not isinstance(axis, require("nibabel.cifti2", "fmri").LabelAxis):
                raise ValueError("it holds no labels")
            present = set(np.unique(np.asarray(image.dataobj)[0]).astype(int).tolist())
            found = sorted((key, str(label[0])) for key, label in axis.label[0].items())
            kept = [(key, name) for key, name in found if key != 0 and key in present]
            return Atlas(path, tuple(k for k, _ in kept), tuple(n for _, n in kept), True)
        values = np.asarray(image.dataobj)
    except DAMAGE as error:
        raise UserError(f"the atlas {path} cannot be read: {_line(error)}.") from None
    if values.squeeze().ndim != 3 or not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise UserError(f"{path} is no atlas: give an image of whole numbers, one a region, 0 for none.")
    numbers = [int(number) for number in np.unique(values) if number > 0]
    if len(numbers) < 2:
        raise UserError(f"the atlas {path} has {len(numbers)} regions: give one with several.")
    named = _names_beside(path)
    return Atlas(path, tuple(numbers), tuple(named.get(n, f"region {n}") for n in numbers), False)


def _names_beside(path: str) -> dict[int, str]:
    stem = re.sub(r"\.nii(\.gz)?$", "", path, flags=re.IGNORECASE)
    for suffix in (".xml", ".txt", ".tsv", ".csv", ".label"):
        if os.path.isfile(stem + suffix):
            text = Path(stem + suffix).read_text(encoding="utf-8", errors="replace")
            pairs = ENTRY.findall(text) if suffix == ".xml" else [
                match.groups() for line in text.splitlines() if (match := LIST.match(line))
            ]  # fmt: skip
            return {int(number): name.strip() for number, name in pairs}
    return {}


def read_image(path: str, identity: str, atlas: Atlas | None) -> np.ndarray:
    """(regions, volumes) float64: the mean of each region's voxels, NaN of a region that has none here.

    Raises:
        BadSample: the file is damaged, or the atlas is of another kind.
    """
    try:
        image = _load(path)
        library = require("nibabel", "fmri")
        if not isinstance(image, library.Cifti2Image):
            if atlas is None or atlas.surface:
                raise BadSample(identity, "is of volumes: --atlas must be a .nii or .nii.gz label image")
            return _parcellated(image, atlas)
        axes = require("nibabel.cifti2", "fmri")
        if isinstance(image.header.get_axis(1), axes.ParcelsAxis):
            return np.asarray(image.dataobj, np.float64).T
        if atlas is None or not atlas.surface:
            raise BadSample(identity, "is of grayordinates: --atlas must be a .dlabel.nii file")
        return _by_grayordinate(image, atlas)
    except DAMAGE as error:
        raise BadSample(identity, f"is damaged ({_line(error)})") from None


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _parcellated(image: Any, atlas: Atlas) -> np.ndarray:
    """By nilearn, over the image's own grid, some volumes at a time."""
    maskers, images = require("nilearn.maskers", "fmri"), require("nilearn.image", "fmri")
    labels = _fitted(atlas, image, images)
    present = [int(number) for number in np.unique(np.asarray(labels.dataobj)) if number > 0]
    masker = maskers.NiftiLabelsMasker(labels, standardize=None, resampling_target=None, reports=False).fit()
    whole = math.prod(image.shape[:3]) * 4
    step = max(2, AT_ONCE // whole)
    parts = [
        np.asarray(masker.transform(images.index_img(image, slice(start, start + step))), np.float64)
        for start in range(0, image.shape[3], step)
    ]
    series = np.full((len(atlas.numbers), image.shape[3]), np.nan)
    rows = [atlas.numbers.index(number) for number in present]
    series[rows] = np.concatenate(parts).T
    return series


def _fitted(atlas: Atlas, image: Any, images: Any) -> Any:
    """The atlas on the image's grid, each voxel of the region that its middle lies in."""
    library = require("nibabel", "fmri")
    own = library.load(atlas.path)
    labels = library.Nifti1Image(np.asarray(own.dataobj).squeeze().astype(np.int32), own.affine)
    first = library.Nifti1Image(np.zeros(image.shape[:3], np.int8), image.affine)
    if labels.shape == first.shape and np.allclose(labels.affine, first.affine, atol=1e-3):
        return labels
    return images.resample_to_img(
        labels, first, interpolation="nearest", force_resample=True, copy_header=True
    )


def _by_grayordinate(image: Any, atlas: Atlas) -> np.ndarray:
    label_image = require("nibabel", "fmri").load(atlas.path)
    given = np.asarray(label_image.dataobj)[0].astype(int)
    known: dict[tuple[Any, ...], int] = dict(zip(_places(label_image.header.get_axis(1)), given, strict=True))
    number = np.array([known.get(place, 0) for place in _places(image.header.get_axis(1))])
    series = np.full((len(atlas.numbers), image.shape[0]), np.nan)
    values = np.asarray(image.dataobj, np.float32)
    for row, wanted in enumerate(atlas.numbers):
        here = number == wanted
        if here.any():
            series[row] = values[:, here].mean(axis=1, dtype=np.float64)
    return series


def _places(axis: Any) -> Sequence[tuple[Any, ...]]:
    """Structure and vertex, or structure and voxel, of every grayordinate."""
    vertices, voxels = np.asarray(axis.vertex).tolist(), np.asarray(axis.voxel).tolist()
    return [
        (str(name), vertex) if vertex >= 0 else (str(name), *voxel)
        for name, vertex, voxel in zip(axis.name, vertices, voxels, strict=True)
    ]
