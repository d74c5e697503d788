"""From what a person types to ECGs: tells folders of records, single records, arrays and simulation apart."""

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
from anyjepa.domains import ecg_samples
from anyjepa.domains.ecg_arrays import (
    EcgArray,
    from_values,
    is_ucr,
    read_npy,
    read_npz,
    read_ucr,
    ucr_files,
)
from anyjepa.domains.ecg_diagnoses import in_words
from anyjepa.domains.ecg_leads import common_leads, lead_name
from anyjepa.domains.ecg_records import EDF, FileRecords, Header, PackRecords, Records
from anyjepa.domains.ecg_samples import EcgSamples, Piece
from anyjepa.domains.ecg_simulation import simulated
from anyjepa.domains.label_files import groups_from_file, labels_from_file
from anyjepa.domains.packs import required_pack
from anyjepa.domains.sources import (
    as_many_labels,
    existing,
    index_classes,
    list_files,
    list_folders,
    list_names,
    natural_split,
)

__all__ = ["open_ecg"]

PATIENT = re.compile(r"(patient|subject|sub|pat|p)[-_]?\d+", re.IGNORECASE)
SIMULATED_RATE = 250.0
RECORDS = frozenset({".hea", *EDF})


def open_ecg(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> EcgSamples:
    """Open ECGs.

    source: a folder tree of WFDB records (.hea with .dat or .mat) or EDF files; one such record, with or
    without its extension; a .npy file; a .npz file with x and y, and leads, rate and patient where known; the
    beats of a data set of the UCR archive (NAME_TRAIN.tsv) or its folder; ``synthetic-ecg``, which is
    simulated; or an array (n, leads, time) or (n, time, leads) in memory. Values of arrays are millivolts and
    at the rate that is wanted unless they say another; twelve leads are in the standard order.

    labels: a CSV, TSV or Parquet file with columns id and label (several labels set apart by ; or |), and
    group or patient where known. Else labels are the ``Dx:`` codes of WFDB headers, or else the folders of
    the first level where these name no patients. Groups are patients, by that file or by folders such as
    ``patient001``; else a record is a group of its own. split: train, val or test.

    reading: ``leads`` (names; those that at least half of the records have where None), ``rate`` (samples a
    second; the commonest where None), ``record_seconds`` (a longer record is cut into pieces at least so
    long), ``seconds`` (length of a crop), and, for other data of a run, its facts: ``points``,
    ``use_seconds``.

    A record shorter than a crop is a problem, unless all records are equally short: then they are used whole.
    Raises UserError where nothing can be read, NoSplit where the split is missing.
    """
    reading = dict(reading or {})
    if isinstance(source, np.ndarray):
        return _from_array("an array", EcgArray(_array(source, reading), "ECGs in an array"), labels, reading)
    source = os.fspath(source)
    if source == "synthetic-ecg":
        # above 250 Hz there would be nothing more in it
        rate = min(reading.get("rate") or SIMULATED_RATE, SIMULATED_RATE)
        return _from_array(source, simulated(split, rate), labels, reading)
    if source.startswith("wds:"):
        return _from_pack(source, labels, split, reading)
    if re.match(r"[A-Za-z][A-Za-z0-9+-]+:", source) and not os.path.exists(source):
        raise UserError(f"{source} is not a source of ECGs: give a path, wds:PACK, or synthetic-ecg.")
    if not source:
        raise UserError("the source is empty: give a path, or synthetic-ecg.")
    if source.startswith("synthetic") and not os.path.exists(source):
        raise UserError(f"there is no '{source}'.{nearest(source, ['synthetic-ecg'])}")
    beside = Path(f"{source}.hea").expanduser()
    path = beside if beside.is_file() and not Path(source).expanduser().is_file() else existing(source)
    opened = _from_folder if path.is_dir() else _from_file
    return opened(source, path, labels, split, reading)


def _array(values: np.ndarray, reading: Mapping[str, Any]):
    """Records of an array; one with as many leads as are wanted has these."""
    names = reading.get("leads")
    fits = names and values.ndim >= 2 and len(names) == (1 if values.ndim == 2 else min(values.shape[1:]))
    return from_values(values, "the array", names if fits else None)


def _from_file(
    source: str, path: Path, labels: str | None, split: str | None, reading: dict[str, Any]
) -> EcgSamples:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        leads = reading.get("leads")
        return _from_array(source, read_npy(path, split, leads, ecg_samples.RESIDENT_BYTES), labels, reading)
    if suffix == ".npz":
        return _from_array(source, read_npz(path, split), labels, reading)
    if is_ucr(path.name):
        return _from_array(source, read_ucr(path), labels, reading)
    header = path.with_suffix(".hea")
    if suffix in (".dat", ".mat") and header.is_file():
        path = header
    if path.suffix.lower() not in RECORDS:
        raise UserError(
            f"{source} is not a file of ECGs: give a .hea, .edf, .npy or .npz file, or a folder of records."
        )
    return _from_records(source, path.parent, [path.name], labels, reading)


def _from_folder(
    source: str, root: Path, labels: str | None, split: str | None, reading: dict[str, Any]
) -> EcgSamples:
    folders = list_folders(root)
    if not folders and any(map(is_ucr, list_names(root))):
        return _from_array(source, read_ucr(ucr_files(root, split)), labels, reading)
    chosen = natural_split(folders, split)
    root = root / chosen if chosen else root
    names = list_files(root, RECORDS)
    if not names:
        raise UserError(
            f"{root} holds no ECG: give a folder of WFDB records (.hea with .dat or .mat) or EDF."
        )
    return _from_records(source, root, names, labels, reading)


def _from_array(source: str, array: EcgArray, labels: str | None, reading: dict[str, Any]) -> EcgSamples:
    found = (array.labels, array.classes, array.groups)
    return _assembled(source, array.records, array.kind, labels, found, [], reading)


def _from_records(
    source: str, root: Path, names: Sequence[str], labels: str | None, reading: dict[str, Any]
) -> EcgSamples:
    records = FileRecords(str(root), names)
    if not records.headers:
        reason = f": {records.problems[0]}" if records.problems else ""
        raise UserError(f"{source} holds no ECG that opens{reason}")
    identities = [records.identity(index) for index in range(len(records.headers))]
    patients = [_patient(identity) for identity in identities]
    given = _own_labels(records.headers, identities, patients)
    groups = np.array([p or identity for p, identity in zip(patients, identities, strict=True)])
    kinds = {"EDF" if os.path.splitext(name)[1].lower() in EDF else "WFDB" for name in records.names}
    kind = f"{' and '.join(sorted(kinds))} record{'s' * (len(identities) > 1)}"
    return _assembled(source, records, kind, labels, (*given, groups), records.problems, reading)


def _from_pack(source: str, labels: str | None, split: str | None, reading: dict[str, Any]) -> EcgSamples:
    pack = required_pack(source, split, "ecg")
    found = (pack.labels, pack.classes, pack.groups)
    return _assembled(source, PackRecords(pack), pack.manifest["kind"], labels, found, pack.problems, reading)


def _patient(identity: str) -> str | None:
    """The innermost folder that is named like a patient."""
    found = [folder for folder in identity.split("/")[:-1] if PATIENT.fullmatch(folder)]
    return found[-1] if found else None


def _own_labels(
    headers: Sequence[Header], identities: Sequence[str], patients: Sequence[str | None]
) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels from the headers' diagnoses, or else from the first level of folders."""
    if any(header.diagnoses for header in headers):
        table, classes = as_many_labels([header.diagnoses for header in headers])
        return table, in_words(classes)
    if any(patients):
        return None, None
    folders, classes = index_classes(
        [identity.split("/", 1)[0] if "/" in identity else None for identity in identities]
    )
    return (folders, classes) if len(classes) > 1 else (None, None)


def _assembled(
    source: str,
    records: Records,
    kind: str,
    label_file: str | None,
    found: tuple[np.ndarray | None, list[str] | None, np.ndarray | None],
    problems: Sequence[BadSample],
    reading: dict[str, Any],
) -> EcgSamples:
    labels, classes, groups = found
    identities = [records.identity(index) for index in range(len(records.headers))]
    if label_file is not None:
        labels, classes = labels_from_file(label_file, identities)
        classes = in_words(classes)
        patients = groups_from_file(label_file, identities)
        if patients is not None:
            groups = np.array([p or identity for p, identity in zip(patients, identities, strict=True)])
    leads = _leads(records.headers, reading.get("leads"), source)
    rate = float(reading.get("rate") or _commonest_rate(records.headers))
    pieces, short = _pieces(records, rate, reading, source)
    if groups is None and len(pieces) > len({record for record, _, _ in pieces}):
        groups = np.array(identities)
    rows = [record for record, _, _ in pieces]
    return EcgSamples(
        source, records, pieces, kind, leads, rate, reading,
        None if labels is None else labels[rows], classes, None if groups is None else groups[rows],
        [*problems, *short],
    )  # fmt: skip


def _leads(headers: Sequence[Header], wanted: Sequence[str] | None, source: str) -> list[str]:
    present = [header.names for header in headers]
    if not wanted:
        return common_leads(present)
    leads = [lead_name(name) for name in wanted]
    known = dict.fromkeys(name for names in present for name in names)
    if not set(leads) & set(known):
        few = ", ".join(list(known)[:12])
        raise UserError(
            f"{source} has none of the leads {', '.join(leads)}, only {few}: choose others with --leads."
        )
    return leads


def _commonest_rate(headers: Sequence[Header]) -> float:
    rates = Counter(header.rate for header in headers if header.rate)
    return rates.most_common(1)[0][0] if rates else 500.0


def _pieces(
    records: Records, rate: float, reading: Mapping[str, Any], source: str
) -> tuple[list[Piece], list[BadSample]]:
    """Every record, or equal parts of it where it is long; and those that are shorter than a crop."""
    seconds = [header.points / (header.rate or rate) for header in records.headers]
    least = reading.get("seconds", 0.0)
    if "points" in reading:  # a run is used on other data, for which less is enough
        least = min(reading.get("use_seconds", least), reading["points"] / rate)
    # a sample's worth of rounding is no reason to refuse a record
    alike = max(seconds) - min(seconds) <= 1 / rate and max(seconds) < least and "points" not in reading
    longest = reading.get("record_seconds") or np.inf
    pieces, short = [], []
    for record, (header, duration) in enumerate(zip(records.headers, seconds, strict=True)):
        if duration < least - 1 / rate and not alike:
            reason = f"lasts {duration:.3g} s, shorter than {least:g} s (--seconds)"
            short.append(BadSample(records.identity(record), reason))
            continue
        parts = max(1, int(duration // longest))
        edges = np.linspace(0, header.points, parts + 1).astype(int).tolist()
        pieces += [(record, start, stop) for start, stop in itertools.pairwise(edges)]
    if not pieces:
        raise UserError(
            f"every record of {source} is shorter than {least:g} s (the longest lasts {max(seconds):.3g} s): "
            f"choose a shorter --seconds."
        )
    return pieces, short
