"""From what a person types to volumes: tells folders, files, series, arrays, images and simulation apart."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import UserError, nearest
from anyjepa.domains.fmri_sources import subject_of
from anyjepa.domains.image_arrays import IMAGE_KEYS, LABEL_KEYS, array_labels
from anyjepa.domains.image_sources import open_images
from anyjepa.domains.label_files import groups_from_file, labels_from_file
from anyjepa.domains.number_files import open_archive, read_array
from anyjepa.domains.sources import (
    existing,
    index_classes,
    list_folders,
    named_arrays,
    natural_split,
    only_train,
)
from anyjepa.domains.volume_dicom import find_series, is_dicom
from anyjepa.domains.volume_files import ending
from anyjepa.domains.volume_images import ImageVolumes
from anyjepa.domains.volume_samples import Reading, VolumeSamples
from anyjepa.domains.volume_simulation import CLASSES, SPACING, STRUCTURES, synthetic_volumes
from anyjepa.domains.volume_slices import SliceSamples
from anyjepa.domains.volume_stores import ArrayVolumes, FileVolumes, SeriesVolumes, Volumes

__all__ = ["DICOM", "open_volumes", "patient_of"]

DICOM = (".dcm", ".dicom", ".ima")
VOLUME_KEYS = ("x", "volumes", "volume", *IMAGE_KEYS[1:])
MASK_FOLDER = re.compile(r"^(labels?|masks?|seg(mentations?)?)(Tr|Ts|Va)?$", re.IGNORECASE)
IMAGE_FOLDER = re.compile(r"^(images?|volumes?|scans?)(Tr|Ts|Va)?$", re.IGNORECASE)
MASK_NAME = re.compile(r"[-_.](seg|mask|label|labels|gt|dseg)$", re.IGNORECASE)
SEQUENCE = re.compile(
    r"[-_](t1|t1w|t2|t2w|t1ce|t1gd|t1c|t2f|flair|pd|dwi|adc|ct|mr|mri|pet|baseline|followup|\d{4}"
    r"|(scan|visit|day|run|time|tp)[-_]?\d+|image|img)$",
    re.IGNORECASE,
)
IMAGES, SLICES, SIMULATED = "images:", "slices:", "synthetic-volumes"


def open_volumes(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> VolumeSamples | SliceSamples | ImageVolumes:
    """Open volumes.

    source: a folder tree or file of NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd) or
    .npy; of DICOM series, with or without endings; a .npz with x (n, slices, rows, columns[, channels]), and
    y, groups and spacing where known; ``synthetic-volumes``; or such an array in memory. ``slices:SOURCE`` is
    every slice of these as a sample of its own. ``images:SOURCE`` is whatever images are read from, each a
    volume of one slice.

    labels: a CSV, TSV or Parquet file with columns id (of a volume or a patient) and label, and group or
    patient where known. Where masks of structures lie beside the volumes (a folder ``labelsTr`` or ``masks``,
    or ``..._seg.nii.gz``), also ``volume`` (millilitres of all structures; of structure 2, ``volume:2``),
    ``structures`` (which occur, several labels) or, of slices, ``largest`` (the structure that most of the
    slice is of). Without any, labels are the folders of the first level, where there are several and they do
    not look like patients, or else ``volume``, and ``largest`` of slices.

    Groups are patients: of that file, of DICOM, of BIDS's ``sub-...``, of folders named so, else of names
    less the ending that tells sequences or visits apart.

    split: train, val or test. reading: see `Reading.of`.

    Raises UserError where nothing can be read, NoSplit where the split is missing. Damaged volumes are
    ``problems``, or raise BadSample when they are read.
    """
    if isinstance(source, str) and source.startswith(SLICES):
        whole = open_volumes(source.removeprefix(SLICES), _file_of(labels), split, reading)
        if not isinstance(whole, VolumeSamples):
            raise UserError(f"{source} are slices already: leave out '{SLICES}'.")
        whole.source = source
        return SliceSamples(whole, _word_of(labels, whole, "largest"))
    asked = Reading.of(reading or {})
    if isinstance(source, str) and source.startswith(IMAGES):
        images = open_images(source.removeprefix(IMAGES), labels, split)
        return ImageVolumes(source, images, asked)
    if isinstance(source, np.ndarray):
        found = VolumeSamples("an array", ArrayVolumes(_arranged(source, "the array")), "arrays", asked)
    elif os.fspath(source) == SIMULATED:
        values, structures, given, patients = synthetic_volumes(split)
        store = ArrayVolumes(values, SPACING, structures)
        groups = np.array([f"patient {number}" for number in patients])
        found = VolumeSamples(
            SIMULATED, store, "simulated scans", asked, given, list(CLASSES), groups, structures=STRUCTURES
        )
    else:
        found = _from_path(os.fspath(source), split, asked)
    return _labelled(found, labels)


def _file_of(labels: str | None) -> str | None:
    """The label file, where it is one and not a word about structures."""
    return labels if labels is not None and ("." in labels or os.path.exists(labels)) else None


def _word_of(labels: str | None, found: VolumeSamples, usual: str) -> str | None:
    """What is asked of masks; None for labels that come from elsewhere. Raises UserError."""
    if _file_of(labels) is not None:
        return None
    if labels is not None and not found.has_masks:
        raise UserError(
            f"{found.source} has no masks for --labels {labels}: put them into a folder labelsTr or masks "
            "beside imagesTr or images, or name a file of labels."
        )
    return labels or (usual if found.has_masks else None)


def _labelled(found: VolumeSamples, labels: str | None) -> VolumeSamples:
    file = _file_of(labels)
    if file is None:
        wanted = _word_of(labels, found, "volume")
        if wanted and (labels is not None or not found.labelled):
            found.label_by_structures(wanted)
        return found
    names = [found.identity(index) for index in range(len(found))]
    bare = [_stem(name) for name in names]
    patients = [] if found.groups is None else found.groups.tolist()
    found.labels, found.classes = _first(file, [names, bare, patients])
    for spelled in (names, bare):
        named = groups_from_file(file, spelled)
        if named is not None and (named != "").any():
            own = names if found.groups is None else found.groups
            found.groups = np.array([name or str(other) for name, other in zip(named, own, strict=True)])
            break
    return found


def _first(file: str, spellings: Sequence[Sequence[str]]) -> tuple[np.ndarray, list[str] | None]:
    """Labels by the first way of naming samples that the file knows."""
    problem: UserError | None = None
    for names in spellings:
        try:
            if names:
                return labels_from_file(file, names)
        except UserError as mistake:
            problem = problem or mistake
    raise problem or UserError(f"{file} names no sample.")


def _from_path(source: str, split: str | None, reading: Reading) -> VolumeSamples:
    if not source or (re.match(r"[A-Za-z][A-Za-z0-9+-]+:", source) and not os.path.exists(source)):
        raise UserError(
            f"'{source}' is not a source of volumes: give a path, slices:PATH, images:PATH, wds:PACK or "
            f"{SIMULATED}."
        )
    if source.startswith("synthetic") and not os.path.exists(source):
        raise UserError(f"there is no '{source}'.{nearest(source, [SIMULATED])}")
    path = existing(source)
    if path.is_dir():
        chosen = natural_split(list_folders(path), split)
        return _from_folder(source, path / chosen if chosen else path, reading)
    if path.suffix.lower() == ".npz":
        return _from_npz(source, path, split, reading)
    only_train(split, source)
    if path.suffix.lower() == ".npy":
        return _from_npy(source, path, reading)
    if not ending(path.name):
        raise UserError(
            f"{source} is no volume: give .nii, .nii.gz, .nrrd, .mha, .npy or .npz, or a folder "
            "of DICOM files."
        )
    return _from_files(source, path.parent, [path.name], reading)


def _listed(root: Path) -> tuple[list[str], list[str]]:
    """Relative paths of what may be volumes, and of what may be slices in DICOM."""
    volumes, slices = [], []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in sorted(names):
            if name.startswith("."):
                continue
            relative = Path(folder, name).relative_to(root).as_posix()
            if ending(name):
                volumes.append(relative)
            elif name.lower().endswith(DICOM) or (
                _bare_number(name) and is_dicom(os.path.join(folder, name))
            ):
                slices.append(relative)
    return sorted(volumes), sorted(slices)


def _bare_number(name: str) -> bool:
    """Whether a name has no ending, as files of DICOM often have none, or is but numbers."""
    return "." not in name or name.replace(".", "").isdecimal()


def _from_folder(source: str, root: Path, reading: Reading) -> VolumeSamples:
    names, slices = _listed(root)
    if names:
        return _from_files(source, root, names, reading)
    if not slices:
        raise UserError(
            f"{root} holds no volume: give a folder with .nii, .nii.gz, .nrrd, .mha or .npy files, or with "
            f"DICOM series; of images, {IMAGES}{root}."
        )
    series, problems = find_series(str(root), slices)
    if not series:
        first = f", for instance {problems[0]}" if problems else ""
        raise UserError(f"{source} holds no series of slices{first}: give DICOM files that open.")
    names = [one.identity for one in series]
    groups = [one.patient or patient_of(name) for one, name in zip(series, names, strict=True)]
    kinds = sorted({one.modality for one in series} - {""})
    kind = f"DICOM series{' (' + ', '.join(kinds) + ')' if kinds else ''}"
    given, classes = _folder_labels(names)
    return VolumeSamples(
        source, SeriesVolumes(str(root), series), kind, reading, given, classes, np.array(groups), problems
    )


def _from_files(source: str, root: Path, names: Sequence[str], reading: Reading) -> VolumeSamples:
    masks = {_bare(name): name for name in names if _is_mask(name)}
    volumes = [name for name in names if not _is_mask(name)] or list(names)
    if any(IMAGE_FOLDER.match(part) for name in volumes for part in name.split("/")[:-1]):
        volumes = [n for n in volumes if any(IMAGE_FOLDER.match(part) for part in n.split("/")[:-1])]
    # nnU-Net numbers the channels of an image, not of its mask
    beside = [masks.get(_bare(name)) or masks.get(re.sub(r"_\d{4}$", "", _bare(name))) for name in volumes]
    store: Volumes = FileVolumes(str(root), volumes, beside if any(beside) else None)
    groups = np.array([patient_of(name) for name in volumes])
    given, classes = (None, None) if any(beside) else _folder_labels(volumes)
    kinds = " and ".join(sorted({ending(name) for name in volumes}))
    return VolumeSamples(
        source, store, f"volumes ({kinds})", reading, given, classes, groups, structures=_names_of(root)
    )


def _is_mask(name: str) -> bool:
    *folders, _ = name.split("/")
    return any(MASK_FOLDER.match(folder) for folder in folders) or bool(MASK_NAME.search(_stem(name)))


def _stem(name: str) -> str:
    """A path without the ending."""
    return name[: len(name) - len(ending(name))] if ending(name) else name


def _bare(name: str) -> str:
    """What the paths of a volume and of its mask share."""
    *folders, last = _stem(name).split("/")
    kept = [folder for folder in folders if not (MASK_FOLDER.match(folder) or IMAGE_FOLDER.match(folder))]
    return "/".join([*kept, MASK_NAME.sub("", last)])


def _names_of(root: Path) -> dict[int, str]:
    """Names of the structures, where a ``dataset.json`` of the Medical Segmentation Decathlon says them."""
    path = root / "dataset.json"
    if not path.is_file():
        return {}
    try:
        named = json.loads(path.read_text(encoding="utf-8")).get("labels", {})
        pairs = [(key, value) if str(key).isdecimal() else (value, key) for key, value in named.items()]
        return {int(number): str(name) for number, name in pairs if str(number).isdecimal() and int(number)}
    except (ValueError, AttributeError, OSError):
        return {}  # names are a courtesy: numbers do as well


def patient_of(identity: str) -> str:
    """Whose volume a relative path is: see `open_volumes`."""
    subject = subject_of(identity)
    if subject is not None:
        return subject
    stem = _stem(identity)
    while (shorter := SEQUENCE.sub("", stem)) != stem and shorter.rsplit("/", 1)[-1]:
        if re.search(r"\d", shorter.rsplit("/", 1)[-1]) is None and re.search(r"[-_]\d{4}$", stem):
            break  # the number was the patient's, not a channel's
        stem = shorter
    return stem


def _folder_labels(names: Sequence[str]) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels from the first level of folders, where there are two or more and no digits in their names."""
    first = [name.split("/", 1)[0] if "/" in name else None for name in names]
    if any(folder is None or re.search(r"\d", folder) for folder in first):
        return None, None
    given, classes = index_classes(first)
    return (given, classes) if len(classes) > 1 else (None, None)


def _arranged(values: np.ndarray, source: str) -> np.ndarray:
    """(n, slices, rows, columns, channels)."""
    if values.dtype.kind not in "biuf":
        raise UserError(f"{source} holds values of type {values.dtype}: give numbers.")
    values = values[None] if values.ndim == 3 else values
    values = values[..., None] if values.ndim == 4 else values
    if values.ndim != 5 or not values.size:
        raise UserError(
            f"{source} has shape {values.shape}: give volumes as (n, slices, rows, columns[, channels])."
        )
    return values


def _from_npy(source: str, path: Path, reading: Reading) -> VolumeSamples:
    try:
        values = read_array(path, mapped=True)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a .npy file of numbers: {_line(error)}.") from None
    return VolumeSamples(source, ArrayVolumes(_arranged(values, source)), "volumes in a .npy file", reading)


def _from_npz(source: str, path: Path, split: str | None, reading: Reading) -> VolumeSamples:
    given, classes, groups = None, None, None
    spacing: Sequence[float] = (1.0, 1.0, 1.0)
    try:
        with open_archive(path) as file:
            keys = list(file.files)
            key, label = named_arrays(keys, VOLUME_KEYS, LABEL_KEYS, split, source, "volumes")
            values = _arranged(file[key], f"{key} in {path}")
            if label is not None:
                given, classes = array_labels(file[label], f"{label} in {path}")
            beside = [name for name in ("groups", "group", "patients", "patient") if name in keys]
            groups = file[beside[0]].astype(str) if beside else None
            if "spacing" in keys:
                spacing = np.ravel(file["spacing"]).astype(float).tolist()
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a .npz file of numbers: {_line(error)}.") from None
    for what, column in (("labels", given), ("groups", groups)):
        if column is not None and len(column) != len(values):
            raise UserError(
                f"{path} holds {len(values)} volumes but {len(column)} {what}: make them one to one."
            )
    if len(spacing) != 3 or not all(0 < side < 1000 for side in spacing):
        raise UserError(
            f"{path} claims a spacing of {spacing}: give millimetres of slices, rows and columns."
        )
    store = ArrayVolumes(values, spacing)
    return VolumeSamples(source, store, "volumes in a .npz file", reading, given, classes, groups)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
