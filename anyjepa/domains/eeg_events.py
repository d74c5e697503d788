"""What windows of a recording are labelled by: its own events, or a table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from anyjepa.core.errors import UserError
from anyjepa.domains.eeg_recordings import Header, Mark
from anyjepa.domains.label_files import GROUP_COLUMNS, table_columns
from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["Event", "events_of_headers", "events_of_table", "is_bad", "is_event_table"]

RECORDINGS = ("recording", "file", "id", "filename")
SAMPLES = ("onset_sample", "sample")
FEWEST = 2  # times that a kind of event must occur to be a class


@dataclass(frozen=True)
class Event:
    """A labelled moment of a recording: seconds from its start, label, and group where a table says one."""

    recording: int
    onset: float
    label: str | None
    group: str = ""


def is_bad(mark: Mark) -> bool:
    """Whether an annotation marks a stretch that is not to be used, as MNE's users mark them."""
    return mark.what.lower().startswith(("bad", "edge"))


def events_of_headers(headers: Sequence[Header]) -> list[Event]:
    """Every mark of the recordings that is an event; kinds that occur once are left out.

    Raises:
        UserError: there are none.
    """
    found = [
        Event(number, mark.onset, mark.what)
        for number, header in enumerate(headers)
        for mark in header.marks
        if not is_bad(mark) and mark.what.strip() and not _boundary(mark.what)
    ]
    counts = Counter(event.label for event in found)
    kept = [event for event in found if counts[event.label] >= FEWEST]
    if not kept:
        raise UserError("these recordings hold no events to label windows by: give --labels a table of them.")
    return kept


def _boundary(what: str) -> bool:
    return what.lower().startswith(("boundary", "new segment", "start", "end of", "recording"))


def is_event_table(path: str) -> bool:
    """Whether a label file says when things happened: it has a column of onsets."""
    names = set(table_columns(path, ())[1])
    return bool(names & {"onset", *SAMPLES})


def events_of_table(
    path: str, identities: Sequence[str], headers: Sequence[Header], split: str | None
) -> list[Event]:
    """Events of a CSV, TSV or Parquet file with columns recording, onset or onset_sample, and label.

    ``onset`` is in seconds from the first sample of the recording, ``onset_sample`` in its samples; both are
    as BIDS and MNE count. A column ``split`` says what belongs to train and test, one of `GROUP_COLUMNS`
    what belongs together. A table without recordings is for all there are, if there is one.

    Raises:
        UserError: columns are missing or name no recording. NoSplit: the table has no such split.
    """
    names = table_columns(path, ())[1]
    place = next((name for name in RECORDINGS if name in names), None)
    onset = next((name for name in ("onset", *SAMPLES) if name in names), "onset")
    if place is None and len(identities) > 1:
        raise UserError(f"{path} does not say which recording an event is of: add a column recording.")
    label = next((name for name in ("label", "trial_type", "value", "description") if name in names), None)
    if label is None:
        raise UserError(f"{path} has no column label.")
    group = next((name for name in GROUP_COLUMNS if name in names), None)
    wanted = [name for name in (place, onset, label, group, "split") if name and name in names]
    columns, _ = table_columns(path, wanted)
    rows = _of_split(columns.get("split"), len(columns[onset]), split, path)
    numbers = {name: index for index, identity in enumerate(identities) for name in _spellings(identity)}
    found = []
    for row in rows:
        name = str(columns[place][row]) if place else identities[0]
        number = numbers.get(name, numbers.get(PurePosixPath(name).stem))
        try:
            at = float(columns[onset][row])
        except (TypeError, ValueError):
            raise UserError(f"{path}: row {row + 1} has no number as its {onset}.") from None
        if number is None or not np.isfinite(at):
            continue
        if onset in SAMPLES:
            at /= headers[number].rate or 1.0
        text = columns[label][row]
        known = None if text is None or not str(text).strip() else str(text).strip()
        found.append(Event(number, at, known, str(columns[group][row]) if group else ""))
    if not found:
        example = str(columns[place][0]) if place and columns[place] else "nothing"
        raise UserError(
            f"no row of {path} (such as {example}) is of a recording (such as {identities[0]}): use "
            "those names."
        )
    return found


def _spellings(identity: str) -> tuple[str, ...]:
    return (identity, PurePosixPath(identity).name)


def _of_split(column: list | None, count: int, split: str | None, path: str) -> list[int]:
    """Rows of a split; all of them where the table has none and the training part is meant."""
    if column is None:
        if split is None or split_order(split)[0].lower() in split_order("train"):
            return list(range(count))
        raise NoSplit(f"{path} has no column split: add one, or leave the split out.")
    words = [str(value).lower() for value in column]
    for name in split_order(split):
        rows = [row for row, word in enumerate(words) if word == name.lower()]
        if rows:
            return rows
    raise NoSplit(f"{path} has no row of the split {split!r}.")
