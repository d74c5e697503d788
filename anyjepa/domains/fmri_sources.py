"""From what a person types to runs of fMRI: tells folders, files, arrays, packs and simulation apart."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest
from anyjepa.domains.fmri_runs import LAYOUTS, ArrayRuns, FileRuns, PackRuns, Runs, regions_first
from anyjepa.domains.fmri_samples import FmriSamples, Piece
from anyjepa.domains.fmri_simulation import CLASSES, REPETITION_TIME, simulated
from anyjepa.domains.fmri_tables import TABLES, ending
from anyjepa.domains.fmri_volumes import IMAGES
from anyjepa.domains.label_files import groups_from_file, labels_from_file
from anyjepa.domains.number_files import open_archive, read_array
from anyjepa.domains.packs import required_pack
from anyjepa.domains.sources import (
    NoSplit,
    as_labels,
    existing,
    index_classes,
    list_folders,
    natural_split,
    split_order,
)

__all__ = ["FILES", "open_fmri", "subject_of"]

FILES = TABLES | IMAGES
OTHERS = re.compile(
    r"(ses|session|run|task|acq|rest|scan|visit|day|echo|space|desc|part)[-_]?\d*", re.IGNORECASE
)
BIDS = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)")
SUBJECT = re.compile(r"[A-Za-z]{1,12}[-_]?\d+|\d{4,}")
NUMBERED = re.compile(r"^(\d{4,})(?=[_.-])")  # a file's name that begins with a subject's number
KEYS = {
    "x": ("x", "bold", "series", "timeseries", "data", "samples"),
    "y": ("y", "labels", "label", "target", "targets"),
    "groups": ("groups", "group", "subjects", "subject"),
    "names": ("regions", "names", "roi", "rois"),
    "step": ("repetition_time", "tr", "step"),
}


def open_fmri(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> FmriSamples:
    """Open runs of resting-state or task fMRI.

    source: a folder tree or single file of ROI series (AFNI's .1D, .csv, .tsv, .txt, .npy, MATLAB's .mat), of
    NIfTI volumes in four dimensions (with an atlas), or of CIFTI series (.dtseries.nii with a .dlabel.nii
    atlas, .ptseries.nii without); a .npz file with x (n, regions, time), and y, subjects, regions and
    repetition_time where known; ``synthetic-fmri``, which is simulated; or such an array in memory.
    Tables say by names in their first column or row which way round they lie; of the others the axis that is
    equally long in all files is the regions, or else the shorter one, unless ``layout`` says it. Matrices of
    connectivity, atlases and anatomical images that lie among the files are passed over.

    labels: a CSV, TSV or Parquet file with columns id (of a run, or of a subject) and label, and group or
    subject where known. Else labels are the folders of the first level where these are no subjects. Groups
    are subjects: by that file, or by names such as ``sub-01``, ``101309`` and ``NAP_001`` in a path; else a
    run is a group of its own. split: train, val or test.

    reading: ``step`` (seconds between points that runs are resampled to; the commonest repetition time where
    0), ``repetition_time`` (of runs that do not say theirs; ``step`` where 0), ``atlas``, ``layout``,
    ``run_seconds`` (a longer run is cut into pieces at least so long), ``points`` and ``every`` (of a crop),
    and, for other data of a run, its facts: ``regions``.

    Raises UserError where nothing can be read, NoSplit where the split is missing.
    """
    asked = dict(reading or {})
    if asked.get("layout", "auto") not in LAYOUTS:
        raise UserError(f"--layout is one of {', '.join(LAYOUTS)}, not '{asked['layout']}'.")
    if isinstance(source, np.ndarray):
        return _from_array("an array", source, "runs in an array", labels, asked)
    source = os.fspath(source)
    if source == "synthetic-fmri":
        bold, given, subjects, names = simulated(split)
        runs = ArrayRuns(bold, REPETITION_TIME, names)
        return _assembled(source, runs, "simulated runs", labels, (given, list(CLASSES), subjects), [], asked)
    if source.startswith("wds:"):
        pack = required_pack(source, split, "fmri")
        found = (pack.labels, pack.classes, pack.groups)
        return _assembled(source, PackRuns(pack), pack.manifest["kind"], labels, found, pack.problems, asked)
    if re.match(r"[A-Za-z][A-Za-z0-9+-]+:", source) and not os.path.exists(source):
        raise UserError(f"{source} is not a source of fMRI: give a path, wds:PACK, or synthetic-fmri.")
    if not source:
        raise UserError("the source is empty: give a path, or synthetic-fmri.")
    if source.startswith("synthetic") and not os.path.exists(source):
        raise UserError(f"there is no '{source}'.{nearest(source, ['synthetic-fmri'])}")
    path = existing(source)
    if path.is_dir():
        chosen = natural_split(list_folders(path), split)
        path = path / chosen if chosen else path
        return _from_files(source, path, _listed(path), labels, asked)
    if (
        split is not None
        and split_order(split)[0].lower() not in split_order("train")
        and path.suffix != ".npz"
    ):
        raise NoSplit(f"{source} has no split {split!r}: leave the split out.")
    if path.suffix.lower() == ".npz":
        return _from_npz(source, path, labels, split, asked)
    if path.suffix.lower() == ".npy":
        try:
            values = read_array(path)
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{path} is not a .npy file of numbers: {_sentence(error)}.") from None
        if values.ndim == 3:
            return _from_array(source, values, "runs in a .npy file", labels, asked)
    if ending(path.name) not in FILES:
        raise UserError(
            f"{source} is no file of fMRI: give .nii, .dtseries.nii, .1D, .csv, .tsv, .npy, .npz or .mat."
        )
    return _from_files(source, path.parent, [path.name], labels, asked)


def _listed(root: Path) -> list[str]:
    """Relative paths of all files that may hold runs, without hidden ones and those that only describe."""
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in names:
            if name.startswith(".") or ending(name) not in FILES or ending(name) == ".txt":
                continue
            if name.lower().startswith(("participants", "labels", "phenotypic", "readme")):
                continue
            if name.endswith(".mat") and f"{name[:-4]}.hea" in names:  # records of WFDB
                continue
            found.append(Path(folder, name).relative_to(root).as_posix())
    return sorted(found)


def _from_files(
    source: str, root: Path, names: Sequence[str], labels: str | None, asked: dict[str, Any]
) -> FmriSamples:
    runs = FileRuns(str(root), names, asked)
    if not runs.headers:
        reason = f", for instance {runs.problems[0]}" if runs.problems else ""
        beside = f" ({runs.aside} files are matrices, atlases or images without time)" if runs.aside else ""
        raise UserError(
            f"{source} holds no run of fMRI{beside}{reason}: give series of regions or volumes in time."
        )
    identities = [runs.identity(index) for index in range(len(runs.headers))]
    subjects = [subject_of(identity) for identity in identities]
    found = index_classes([_folder(identity) for identity in identities])
    several = len(found[1]) > 1 and all(_folder(identity) for identity in identities)
    given, classes = found if several else (None, None)
    groups = np.array([s or identity for s, identity in zip(subjects, identities, strict=True)])
    kind = f"runs ({' and '.join(sorted(runs.kinds))})"
    return _assembled(source, runs, kind, labels, (given, classes, groups), runs.problems, asked)


def _folder(identity: str) -> str | None:
    """The first folder, unless it is a subject's or a session's."""
    first = identity.split("/", 1)[0] if "/" in identity else None
    return None if first is None or SUBJECT.fullmatch(first) or OTHERS.fullmatch(first) else first


def subject_of(identity: str) -> str | None:
    """Whose run a relative path is: ``sub-01`` of BIDS, else the innermost folder named like a subject."""
    bids = BIDS.search(identity)
    if bids:
        return bids[1]
    *folders, name = identity.split("/")
    found = [folder for folder in folders if SUBJECT.fullmatch(folder) and not OTHERS.fullmatch(folder)]
    numbered = NUMBERED.match(name)
    return found[-1] if found else numbered[1] if numbered else None


def _from_array(
    source: str,
    values: np.ndarray,
    kind: str,
    labels: str | None,
    asked: dict[str, Any],
    found: tuple[np.ndarray | None, list[str] | None, np.ndarray | None] = (None, None, None),
    names: Sequence[str] | None = None,
    step: float | None = None,
) -> FmriSamples:
    if values.dtype.kind not in "biuf":
        raise UserError(f"{source} holds values of type {values.dtype}: give numbers.")
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape:
        raise UserError(f"{source} has shape {values.shape}: give runs as (n, regions, time).")
    layout = asked.get("layout") or "auto"
    rows = (
        regions_first([(values.shape[1], values.shape[2])]) if layout == "auto" else layout == "regions-first"
    )
    if names is not None and layout == "auto" and len(names) in values.shape[1:]:
        rows = len(names) == values.shape[1]
    values = values if rows else values.swapaxes(1, 2)
    if names is not None and len(names) != values.shape[1]:
        raise UserError(f"{source} names {len(names)} regions and has {values.shape[1]}: name each of them.")
    return _assembled(source, ArrayRuns(values, step, names), kind, labels, found, [], asked)


def _from_npz(
    source: str, path: Path, labels: str | None, split: str | None, asked: dict[str, Any]
) -> FmriSamples:
    try:
        with open_archive(path) as file:
            keys = {key.lower(): key for key in file.files}
            word = next((w for w in split_order(split) if any(f"{k}_{w}" in keys for k in KEYS["x"])), None)
            if (
                word is None
                and split is not None
                and split_order(split)[0].lower() not in split_order("train")
            ):
                raise NoSplit(f"{source} has no split {split!r}: leave the split out.")
            ends = [f"_{word}"] if word else [""]

            def member(kind: str, ends: Sequence[str]) -> np.ndarray | None:
                stems = [stem + end for end in ends for stem in KEYS[kind] if stem + end in keys]
                return file[keys[stems[0]]] if stems else None

            values, targets, groups = (member(kind, ends) for kind in ("x", "y", "groups"))
            names, step = (member(kind, [*ends, ""]) for kind in ("names", "step"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a .npz file of numbers: {_sentence(error)}.") from None
    if values is None:
        raise UserError(f"{path} holds {', '.join(keys) or 'nothing'}: call the runs x and the labels y.")
    for what, column in (("labels", targets), ("subjects", groups)):
        if column is not None and (column.ndim != 1 or len(column) != len(values)):
            raise UserError(
                f"{path} holds {len(values)} runs and {what} of shape {column.shape}: give one a run."
            )
    seconds = (
        None if step is None or step.dtype.kind not in "iuf" or not step.size else float(np.ravel(step)[0])
    )
    if seconds is not None and not 0 < seconds < 100:
        raise UserError(f"{path} claims a repetition time of {seconds:g} s: give the true one in seconds.")
    given, classes = (None, None) if targets is None else as_labels([str(value) for value in targets])
    found = (given, classes, None if groups is None else groups.astype(str))
    texts = None if names is None else [str(name) for name in np.ravel(names)]
    return _from_array(source, values, "runs in a .npz file", labels, asked, found, texts, seconds)


def _assembled(
    source: str,
    runs: Runs,
    kind: str,
    label_file: str | None,
    found: tuple[np.ndarray | None, list[str] | None, np.ndarray | None],
    problems: Sequence[BadSample],
    asked: dict[str, Any],
) -> FmriSamples:
    labels, classes, groups = found
    identities = [runs.identity(index) for index in range(len(runs.headers))]
    if label_file is not None:
        labels, classes = _labelled(label_file, identities, groups)
        subjects = groups_from_file(label_file, identities)
        if subjects is not None and (subjects != "").any():
            own = identities if groups is None else groups
            groups = np.array([s or identity for s, identity in zip(subjects, own, strict=True)])
    regions, odd = _regions(runs, asked.get("regions"), source)
    step = _step(runs, asked)
    pieces, short = _pieces(runs, step, asked, source, {problem.identity for problem in odd})
    if groups is None and len(pieces) > len({run for run, _, _ in pieces}):
        groups = np.array(identities)
    rows = [run for run, _, _ in pieces]
    return FmriSamples(
        source, runs, pieces, kind, regions, step, asked,
        None if labels is None else labels[rows], classes, None if groups is None else groups[rows],
        [*problems, *odd, *short],
    )  # fmt: skip


def _labelled(
    file: str, identities: Sequence[str], groups: np.ndarray | None
) -> tuple[np.ndarray, list[str] | None]:
    """Labels by a run's name, or else by its subject's."""
    try:
        return labels_from_file(file, identities)
    except UserError:
        if groups is None or not os.path.isfile(file):
            raise
        return labels_from_file(file, groups.tolist())


def _regions(runs: Runs, wanted: Sequence[str] | None, source: str) -> tuple[list[str], list[BadSample]]:
    """Names of the regions that most runs have, or that are wanted; and the runs that have others."""
    counts = Counter(header.regions for header in runs.headers)
    number = len(wanted) if wanted else counts.most_common(1)[0][0]
    if number not in counts:
        have = ", ".join(str(count) for count in sorted(counts))
        raise UserError(
            f"{source} has runs of {have} regions, and {number} are wanted: use the atlas of the training."
        )
    if number < 2:
        raise UserError(f"{source} has runs of one region: give several, one column or row a region.")
    odd = [
        BadSample(runs.identity(index), f"has {header.regions} regions, not {number}")
        for index, header in enumerate(runs.headers)
        if header.regions != number
    ]
    named = [header.names for header in runs.headers if header.regions == number and header.names]
    if (
        wanted
        and named
        and not _placeholders(wanted)
        and set(named[0]) == set(wanted)
        and list(named[0]) != list(wanted)
    ):
        raise UserError(f"{source} has its regions in another order than in training: sort them alike.")
    names = list(wanted or (named[0] if named else [f"region {place + 1}" for place in range(number)]))
    return names, odd


def _placeholders(names: Sequence[str]) -> bool:
    return list(names) == [f"region {place + 1}" for place in range(len(names))]


def _step(runs: Runs, asked: Mapping[str, Any]) -> float:
    """Seconds between points: what is wanted, or the commonest repetition time."""
    steps = Counter(header.step for header in runs.headers if header.step)
    commonest = steps.most_common(1)[0][0] if steps else float(asked.get("repetition_time") or 1.0)
    return float(asked.get("step") or commonest)


def _pieces(
    runs: Runs, step: float, asked: Mapping[str, Any], source: str, left_out: set[str]
) -> tuple[list[Piece], list[BadSample]]:
    """Every run, or equal parts of it where it is long; and those that are shorter than a crop."""
    stated = float(asked.get("repetition_time") or step)
    seconds = [header.volumes * (header.step or stated) for header in runs.headers]
    span = ((int(asked.get("points") or 1) - 1) * int(asked.get("every") or 1) + 1) * step
    kept = [index for index in range(len(seconds)) if runs.identity(index) not in left_out]
    longest = max(seconds[index] for index in kept)
    # where every run is shorter than a crop the crop is made shorter, unless a trained run asks for its own
    least = span if longest >= span or asked.get("regions") else 0.0
    limit = asked.get("run_seconds") or np.inf
    pieces, short = [], []
    for run in kept:
        if seconds[run] < least - step:
            reason = (
                f"lasts {seconds[run]:.4g} s, shorter than a crop of {span:.4g} s (--points, --every, --step)"
            )
            short.append(BadSample(runs.identity(run), reason))
            continue
        parts = max(1, int(seconds[run] // max(limit, span)))
        edges = np.linspace(0, seconds[run], parts + 1).tolist()
        pieces += [(run, start, stop) for start, stop in itertools.pairwise(edges)]
    if not pieces:
        raise UserError(f"every run of {source} is shorter than {least:.4g} s: {short[0].reason}.")
    return pieces, short


def _sentence(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
