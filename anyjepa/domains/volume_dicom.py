"""Series of DICOM: files of single slices put together by where they lie in the body."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, require
from anyjepa.domains.number_files import DAMAGE, FLOOR, PACKED
from anyjepa.domains.volume_geometry import Scan

__all__ = ["Series", "find_series", "is_dicom", "read_series"]

PREAMBLE = 128  # bytes before the letters DICM
GAP = 1.5  # times the usual distance from one slice to the next that says one is missing
WANTED = [
    "SeriesInstanceUID", "PatientID", "Modality", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "InstanceNumber",
]  # fmt: skip


@dataclass
class Series:
    """The files of one series.

    Args:
        folder: relative path in which the first of them lies.
        number: of the series in that folder, from 1.
        patient: its PatientID; "" where it says none.
        modality: such as CT or MR.
        shape: rows and columns of a slice.
        step: millimetres from one row, and from one column, to the next.
        across: directions of a row (along columns) and of a column (along rows), (2, 3).
        files: relative paths.
        places: (n, 3) of the slices, in millimetres.
    """

    folder: str
    number: int
    patient: str
    modality: str
    shape: tuple[int, int]
    step: tuple[float, float]
    across: np.ndarray
    files: list[str] = field(default_factory=list)
    places: list[np.ndarray] = field(default_factory=list)

    @property
    def identity(self) -> str:
        """Unique in the source: the folder, and which of its series."""
        name = self.folder or "."
        return name if self.number == 1 else f"{name}#{self.number}"

    def ordered(self) -> tuple[list[str], float]:
        """Files along the body, and the millimetres between two. Raises BadSample for no volume."""
        normal = np.cross(self.across[0], self.across[1])
        along = np.array(self.places) @ normal
        order = np.argsort(along, kind="stable")
        gaps = np.diff(along[order])
        if len(gaps) == 0:
            raise BadSample(self.identity, "has one slice")
        usual = float(np.median(gaps))
        if usual <= 0.01 or float(gaps.min()) < usual / GAP:
            raise BadSample(self.identity, "has several slices in one place: it holds more than one volume")
        if float(gaps.max()) > usual * GAP:
            at = float(along[order][int(gaps.argmax())])
            raise BadSample(
                self.identity, f"lacks slices after {at:.4g} mm, where {gaps.max():.3g} mm are empty"
            )
        return [self.files[place] for place in order], usual


def is_dicom(path: str) -> bool:
    """Whether a file begins as DICOM's do, after 128 bytes of anything."""
    try:
        with open(path, "rb") as file:
            return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"
    except OSError:
        return False


def find_series(root: str, names: Iterable[str]) -> tuple[list[Series], list[BadSample]]:
    """The series that files below a folder make, in the order of their names; and what is damaged.

    Files that hold no picture (reports, plans) are passed over.
    """
    library = require("pydicom", "volume")
    found: dict[tuple[str, str, tuple[int, int]], Series] = {}
    problems: list[BadSample] = []
    for name in names:
        try:
            file: Any = library.dcmread(
                os.path.join(root, name), stop_before_pixels=True, specific_tags=WANTED
            )
            kind = getattr(file.file_meta.get("MediaStorageSOPClassUID"), "name", "")
            if not file.get("Rows"):
                if kind and "Image" not in kind:
                    continue
                raise ValueError("it says no number of rows")
            shape = int(file.Rows), int(file.Columns)
            step = tuple(float(value) for value in file.PixelSpacing)
            across = np.array([float(value) for value in file.ImageOrientationPatient]).reshape(2, 3)
            place = np.array([float(value) for value in file.ImagePositionPatient])
            if len(step) != 2 or place.shape != (3,) or not np.isfinite(across).all():
                raise ValueError("its place is not that of a slice")
            if int(file.get("NumberOfFrames") or 1) > 1:
                raise ValueError("it holds several slices; save them as single files, or as NIfTI")
            if int(file.get("SamplesPerPixel") or 1) != 1:
                raise ValueError("it is in colour")
            words = str(file.get("PatientID") or ""), str(file.get("Modality") or "")
        except (library.errors.InvalidDicomError, *DAMAGE, AttributeError) as error:
            problems.append(BadSample(name, f"is damaged ({_line(error)})"))
            continue
        folder = os.path.dirname(name)
        key = str(file.get("SeriesInstanceUID") or ""), folder, shape
        if key not in found:
            number = 1 + sum(other.folder == folder for other in found.values())
            found[key] = Series(folder, number, *words, shape, (step[0], step[1]), across)
        series = found[key]
        if np.abs(series.across - across).max() > 1e-3:
            problems.append(BadSample(name, "lies at another angle than the rest of its series"))
            continue
        series.files.append(name)
        series.places.append(place)
    return list(found.values()), problems


def read_series(root: str, series: Series) -> Scan:
    """Slices in their order, in the units that they claim (HU of CT). Raises BadSample."""
    library = require("pydicom", "volume")
    files, apart = series.ordered()
    slices = []
    for name in files:
        path = os.path.join(root, name)
        try:
            file: Any = library.dcmread(path)
            claimed = int(file.Rows) * int(file.Columns) * max(1, int(file.BitsAllocated) // 8)
            if claimed > max(FLOOR, PACKED * os.path.getsize(path)):
                raise ValueError(f"it claims {claimed} bytes")
            pixels = np.asarray(file.pixel_array, np.float32)
            if pixels.shape != series.shape:
                raise ValueError(f"it has shape {pixels.shape}")
            slope, offset = float(file.get("RescaleSlope") or 1), float(file.get("RescaleIntercept") or 0)
            pixels = pixels * slope + offset
            if file.get("PhotometricInterpretation") == "MONOCHROME1":
                pixels = -pixels
        except (library.errors.InvalidDicomError, *DAMAGE, AttributeError, NotImplementedError) as error:
            raise BadSample(
                series.identity, f"{os.path.basename(name)} is damaged ({_line(error)})"
            ) from None
        slices.append(pixels)
    axes = np.stack(
        [
            np.cross(series.across[0], series.across[1]) * apart,
            series.across[1] * series.step[0],
            series.across[0] * series.step[1],
        ]
    )
    return Scan(np.stack(slices)[..., None], axes)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
