"""From what a person types to EEG windows: tells folders, recordings, arrays and simulation apart."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest
from anyjepa.domains.eeg_events import Event, events_of_headers, events_of_table, is_bad, is_event_table
from anyjepa.domains.eeg_montage import TEN_TWENTY, ten_twenty
from anyjepa.domains.eeg_recordings import (
    ENDINGS,
    FACTORS,
    ArrayRecordings,
    FileRecordings,
    Recordings,
    ending,
    is_recording,
)
from anyjepa.domains.eeg_samples import EegSamples, Reading, Window
from anyjepa.domains.eeg_simulation import CLASSES, simulated_eeg
from anyjepa.domains.image_arrays import LABEL_KEYS, array_labels
from anyjepa.domains.label_files import groups_from_file, labels_from_file
from anyjepa.domains.number_files import open_archive, read_array
from anyjepa.domains.sources import (
    NoSplit,
    as_labels,
    existing,
    index_classes,
    list_files,
    list_folders,
    natural_split,
    split_order,
)

__all__ = ["open_eeg"]

SUBJECT = re.compile(
    r"(?:^|[/_\-])((?:sub|subject|subj|patient|pat|s|p)[-_]?\d+)(?=[/_\-.rR@]|$)", re.IGNORECASE
)
LISTED = frozenset({*(ENDINGS - {".fif.gz"}), ".gz"})
ARRAY_KEYS = ("x", "eeg", "data", "signals", "epochs")
NAME_KEYS, RATE_KEYS = ("channels", "ch_names", "names"), ("rate", "sfreq", "fs")
GROUP_KEYS = ("group", "groups", "subject", "subjects", "patient")
Labelled = tuple[np.ndarray | None, list[str] | None, np.ndarray | None]


def open_eeg(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> EegSamples:
    """Open EEG.

    source: a folder tree of EDF, BDF, GDF, BrainVision (.vhdr), EEGLAB (.set) or FIF files, or one such file;
    a .npz file with x (n, channels, time) and channels (names), and y, rate, positions (metres) and subject
    where known; a .npy file of such an array, whose channels --channels names; ``synthetic-eeg``, which is
    simulated; or an array (n, channels, time) in memory. Numbers of arrays are in ``unit`` and at the rate
    that is wanted unless the file says another.

    labels: ``events``, for windows at the recordings' own annotations or events; a table with columns
    recording, onset (seconds) or onset_sample, and label, and split and group or subject where known, for
    windows at these; or a table with columns id and label of whole recordings. Else recordings are cut into
    windows from end to end, and folders of the first level, where they name no subjects, are their classes.
    Stretches that are annotated as bad are left out.

    Groups are subjects, by names such as ``sub-01`` and ``S001R04`` or by the table, else recordings. split:
    train, val or test. reading: see `Reading`.

    Raises UserError where nothing can be read, NoSplit where the split is missing.
    """
    asked = Reading.of(reading or {})
    if asked.unit not in FACTORS:
        raise UserError(f"--unit is one of {', '.join(FACTORS)}, not '{asked.unit}'.")
    if isinstance(source, np.ndarray):
        return _from_values("an array", source, "EEGs in an array", (None, None, None), labels, split, asked)
    source = os.fspath(source)
    if source == "synthetic-eeg":
        values, kinds, subjects = simulated_eeg(split, asked.rate, asked.seconds)
        store = ArrayRecordings(values, list(TEN_TWENTY), asked.rate, given=ten_twenty())
        found = (kinds, list(CLASSES), subjects)
        asked = replace(asked, band=(0.0, 0.0))  # it holds nothing beyond the band
        return _assembled(source, store, "simulated trials", found, labels, split, asked, [])
    if re.match(r"[A-Za-z][A-Za-z0-9+-]+:", source) and not os.path.exists(source):
        raise UserError(f"{source} is not a source of EEG: give a path, wds:PACK, or synthetic-eeg.")
    if not source:
        raise UserError("the source is empty: give a path, or synthetic-eeg.")
    if source.startswith("synthetic") and not os.path.exists(source):
        raise UserError(f"there is no '{source}'.{nearest(source, ['synthetic-eeg'])}")
    path = existing(source)
    if path.is_dir():
        return _from_folder(source, path, labels, split, asked)
    suffix = ending(path.name)
    if suffix in (".npy", ".npz"):
        return _from_numpy(source, path, labels, split, asked)
    if suffix in (".eeg", ".vmrk", ".fdt"):  # beside what is named in their place
        beside = path.with_suffix(".set" if suffix == ".fdt" else ".vhdr")
        path, suffix = (beside, ending(beside.name)) if beside.is_file() else (path, suffix)
    if suffix not in ENDINGS:
        known = ", ".join(sorted(ENDINGS))
        raise UserError(
            f"{source} is no EEG recording: give a folder, or a file that ends in {known} or .npz."
        )
    return _from_files(source, path.parent, [path.name], labels, split, asked)


def _from_folder(
    source: str, root: Path, labels: str | None, split: str | None, reading: Reading
) -> EegSamples:
    table = labels is not None and labels != "events" and is_event_table(labels)
    chosen = None if table else natural_split(list_folders(root), split)
    root = root / chosen if chosen else root
    names = [name for name in list_files(root, LISTED) if is_recording(name)]
    if not names:
        raise UserError(
            f"{root} holds no EEG: give a folder with .edf, .bdf, .gdf, .vhdr, .set, .fif or .fif.gz files."
        )
    # the same split was chosen here already
    return _from_files(source, root, names, labels, None if chosen else split, reading)


def _from_files(
    source: str, root: Path, names: Sequence[str], labels: str | None, split: str | None, reading: Reading
) -> EegSamples:
    store = FileRecordings(str(root), names, FACTORS[reading.unit])
    if not store.headers:
        reason = f": {store.problems[0]}" if store.problems else ""
        raise UserError(f"{source} holds no EEG that opens{reason}")
    identities = [store.identity(index) for index in range(len(store.headers))]
    subjects = [_subject(identity) for identity in identities]
    given, classes = _folder_labels(identities, subjects)
    groups = np.array([who or identity for who, identity in zip(subjects, identities, strict=True)])
    if reading.group == "recording":
        groups = np.array(identities)
    kinds = {ending(name).split(".")[1].upper() for name in store.names}
    kind = f"{' and '.join(sorted(kinds))} recording{'s' * (len(identities) > 1)}"
    return _assembled(source, store, kind, (given, classes, groups), labels, split, reading, store.problems)


def _subject(identity: str) -> str | None:
    """``sub-01`` of ``sub-01/eeg/sub-01_task-rest``, ``S001`` of ``S001R04``; None where no part is one."""
    found = SUBJECT.search(identity)
    return found[1].lower() if found else None


def _folder_labels(
    identities: Sequence[str], subjects: Sequence[str | None]
) -> tuple[np.ndarray | None, list[str] | None]:
    """Classes from the first level of folders, where there are two or more and they are not subjects."""
    tops = [identity.split("/", 1)[0] if "/" in identity else None for identity in identities]
    if any(
        who is not None and top is not None and _subject(top) for who, top in zip(subjects, tops, strict=True)
    ):
        return None, None
    found, classes = index_classes(tops)
    return (found, classes) if len(classes) > 1 else (None, None)


def _from_numpy(
    source: str, path: Path, labels: str | None, split: str | None, reading: Reading
) -> EegSamples:
    names, rate, given = None, None, None
    found: Labelled = (None, None, None)
    mapped = None
    try:
        if path.suffix.lower() == ".npy":
            large = path.stat().st_size > 512 * 2**20
            values = read_array(path, mapped=True)
            values, kind = (
                (values, "EEGs in a mapped .npy file") if large else (np.array(values), "EEGs in a .npy file")
            )
            mapped = str(path) if large else None
        else:
            with open_archive(path) as file:
                values, kind = file[_key(file.files, ARRAY_KEYS, split, source)], "EEGs in a .npz file"
                label, group = _maybe(file.files, LABEL_KEYS, split), _maybe(file.files, GROUP_KEYS, split)
                classes = None
                if label is not None:
                    found_labels, classes = array_labels(file[label], f"{label} in {path}")
                    found = (found_labels, classes, None)
                if group is not None:
                    found = (found[0], found[1], np.array([str(value) for value in file[group]]))
                names, rate, given = _described(file)
    except (ValueError, EOFError, OSError) as problem:
        line = (str(problem).splitlines() or ["damaged"])[0].rstrip(".")
        raise UserError(f"{path} is not a file of numbers: {line}.") from None
    for what, part in zip(("labels", "classes", "subjects"), found, strict=True):
        if what != "classes" and part is not None and len(part) != len(values):
            raise UserError(f"{path} holds {len(values)} EEGs but {len(part)} {what}: make them one to one.")
    wide = path.suffix.lower() == ".npz"
    return _from_values(
        source, values, kind, found, labels, None if wide else split, reading, names, rate, given, mapped
    )


def _described(file: Any) -> tuple[list[str] | None, float | None, np.ndarray | None]:
    """Names of channels, rate and positions, where an archive says them."""
    names = _maybe(file.files, NAME_KEYS, None)
    rate = _maybe(file.files, RATE_KEYS, None)
    places = np.asarray(file["positions"], np.float64) if "positions" in file.files else None
    if places is not None and (places.ndim != 2 or places.shape[1] != 3):
        raise ValueError(f"positions have shape {places.shape}, not (channels, 3)")
    given = None if names is None else [str(name) for name in np.ravel(file[names])]
    return given, None if rate is None else float(np.ravel(file[rate])[0]), places


def _maybe(keys: Sequence[str], stems: Sequence[str], split: str | None) -> str | None:
    lower = {key.lower(): key for key in keys}
    words = [f"{stem}_{word}" for word in split_order(split) for stem in stems]
    return next((lower[word] for word in [*words, *stems] if word in lower), None)


def _key(keys: Sequence[str], stems: Sequence[str], split: str | None, source: str) -> str:
    lower = {key.lower() for key in keys}
    parts = any(f"{stem}_{word}" in lower for stem in stems for word in ("train", "test", "val"))
    if split is not None and not parts and split_order(split)[0].lower() not in split_order("train"):
        raise NoSplit(f"{source} has no split {split!r}: leave the split out.")
    found = _maybe(keys, stems, split)
    if found is None:
        raise ValueError(f"it has no array called x (only {', '.join(keys) or 'nothing'})")
    return found


def _from_values(
    source: str, values: np.ndarray, kind: str, found: Labelled, labels: str | None, split: str | None,
    reading: Reading, names: Sequence[str] | None = None, rate: float | None = None,
    given: np.ndarray | None = None, mapped: str | None = None,
) -> EegSamples:  # fmt: skip
    if values.ndim != 3 or values.dtype.kind not in "iuf" or not values.size:
        raise UserError(
            f"{source} has shape {values.shape} of {values.dtype}: EEG is an array (n, channels, "
            "time) of numbers."
        )
    names = names or list(reading.channels or ()) or None
    if names is None and values.shape[1] == len(TEN_TWENTY):
        names = list(TEN_TWENTY)
    if names is None and given is not None:
        names = [f"electrode {number + 1}" for number in range(values.shape[1])]
    if names is None or len(names) != values.shape[1]:
        said = f"{len(names)} names" if names else "no names"
        raise UserError(
            f"{source} has {values.shape[1]} channels but {said}: name them in order with --channels "
            "Fz,Cz,..., or store them as 'channels' in a .npz file."
        )
    store = ArrayRecordings(values, names, rate, FACTORS[reading.unit], given, mapped)
    return _assembled(source, store, kind, found, labels, split, reading, [])


def _assembled(
    source: str, store: Recordings, kind: str, found: Labelled, labels: str | None, split: str | None,
    reading: Reading, problems: Sequence[BadSample],
) -> EegSamples:  # fmt: skip
    given, classes, groups = found
    identities = [store.identity(index) for index in range(len(store.headers))]
    trained = split is None or split_order(split)[0].lower() in split_order("train")
    if labels == "events" or (labels is not None and is_event_table(labels)):
        if labels == "events":
            if not trained:
                raise NoSplit(f"{source} has no split {split!r}: leave the split out.")
            events = events_of_headers(store.headers)
        else:
            events = events_of_table(labels, identities, store.headers, split)
        return _at_events(source, store, kind, events, groups, reading, problems)
    if not trained and source != "synthetic-eeg":
        raise NoSplit(f"{source} has no split {split!r}: leave the split out.")
    if labels is not None:
        given, classes = labels_from_file(labels, identities)
        who = groups_from_file(labels, identities)
        if who is not None:
            groups = np.array([name or identity for name, identity in zip(who, identities, strict=True)])
    windows, short = _windows(store, reading, source)
    rows = [recording for recording, _, _ in windows]
    if groups is None and len(set(rows)) < len(rows):
        groups = np.array(identities)
    return EegSamples(
        source, store, windows, kind, reading, None if given is None else given[rows], classes,
        None if groups is None else groups[rows], [*problems, *short],
    )  # fmt: skip


def _at_events(
    source: str, store: Recordings, kind: str, events: Sequence[Event], groups: np.ndarray | None,
    reading: Reading, problems: Sequence[BadSample],
) -> EegSamples:  # fmt: skip
    """Windows that begin some time after events; those that reach beyond a recording are problems."""
    windows, kept, lost = [], [], []
    for event in events:
        header = store.headers[event.recording]
        rate = header.rate or reading.rate
        start = round((event.onset + reading.delay) * rate)
        stop = start + round(reading.seconds * rate)
        if start < 0 or stop > header.points:
            name = f"{store.identity(event.recording)}@{event.onset:.6g}s"
            lost.append(
                BadSample(
                    name, f"its window of {reading.seconds:g} s reaches beyond the recording (--seconds)"
                )
            )
        else:
            windows.append((event.recording, start, stop))
            kept.append(event)
    if not kept:
        raise UserError(
            f"no event of {source} leaves room for a window of {reading.seconds:g} s: shorten --seconds."
        )
    given, classes = as_labels([event.label for event in kept])
    named = any(event.group for event in kept)
    who = None if groups is None else groups[[event.recording for event in kept]]
    if named and reading.group != "recording":
        who = np.array([event.group or store.identity(event.recording) for event in kept])
    return EegSamples(source, store, windows, kind, reading, given, classes, who, [*problems, *lost])


def _windows(store: Recordings, reading: Reading, source: str) -> tuple[list[Window], list[BadSample]]:
    """Windows from end to end of every recording, without what is annotated as bad."""
    windows, short = [], []
    longest = 0.0
    for number, header in enumerate(store.headers):
        rate = header.rate or reading.rate
        length, seconds = round(reading.seconds * rate), header.points / rate
        longest = max(longest, seconds)
        # a sample's worth of rounding is no reason to refuse a recording
        if header.points + 1 < length:
            reason = f"lasts {seconds:.3g} s, shorter than a window of {reading.seconds:g} s (--seconds)"
            short.append(BadSample(store.identity(number), reason))
            continue
        step = max(1, round((reading.stride or reading.seconds) * rate))
        bad = [
            (mark.onset * rate, (mark.onset + mark.seconds) * rate) for mark in header.marks if is_bad(mark)
        ]
        for start in range(0, max(1, header.points - length + 1), step):
            if not any(begin < start + length and end > start for begin, end in bad):
                windows.append((number, start, min(start + length, header.points)))
    if not windows:
        raise UserError(
            f"no recording of {source} has room for a window of {reading.seconds:g} s (the longest lasts "
            f"{longest:.3g} s): choose shorter --seconds."
        )
    return windows, short
