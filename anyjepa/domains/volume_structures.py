"""Labels that masks of structures give: of a volume how large they are, of a slice what it shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest

__all__ = ["check_word", "counted", "structure_labels"]

NONE = "none"
HIGHEST = 10_000  # number of a structure


def check_word(wanted: str, slices: bool) -> None:
    """Raise UserError for what is no word about structures."""
    words = ["volume", "structures", *(["largest"] if slices else [])]
    if wanted not in words and not re.fullmatch(r"volume:[1-9]\d{0,4}", wanted):
        raise UserError(
            f"--labels {wanted} is no file, nor one of {', '.join(words)}, volume:NUMBER."
            f"{nearest(wanted, words)}"
        )


def counted(parts: np.ndarray, identity: str) -> np.ndarray:
    """Places of each structure of a mask, from 0 for none. Raises BadSample for numbers that no mask has."""
    if parts.min() < 0 or parts.max() > HIGHEST:
        raise BadSample(identity, f"has a mask of numbers below 0 or above {HIGHEST}")
    return np.bincount(parts.ravel())


def structure_labels(
    counts: Sequence[np.ndarray | None],
    structures: Mapping[int, str],
    unit: float,
    wanted: str,
    source: str,
) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels and classes as of `Samples`; neither where no count is known.

    Args:
        counts: of each sample as of `counted`; None where it has no mask.
        structures: names by number.
        unit: size of a place: millilitres of volumes, square centimetres of slices.
        wanted: ``volume`` or ``volume:K`` (float32 sizes), ``structures`` (several labels: which occur), or
            ``largest`` (the structure that most places are of, or none).
        source: for messages.

    Raises:
        UserError: there is no structure K.
    """
    known = np.array([row is not None for row in counts])
    if not known.any():
        return None, None
    most = max(len(row) for row in counts if row is not None)
    table = np.zeros((len(counts), max(most, 2)), np.int64)
    for place, row in enumerate(counts):
        if row is not None:
            table[place, : len(row)] = row
    inside = table[:, 1:]
    if wanted.startswith("volume"):
        number = int(wanted.partition(":")[2] or 0)
        if number > inside.shape[1]:
            raise UserError(f"{source} has no structure {number}, only 1 to {inside.shape[1]}.")
        places = inside[:, number - 1] if number else inside.sum(axis=1)
        return np.where(known, places * unit, np.nan).astype(np.float32), None
    names = [NONE, *(structures.get(k, f"structure {k}") for k in range(1, table.shape[1]))]
    if wanted == "largest":
        shown = np.where(inside.any(axis=1), inside.argmax(axis=1) + 1, 0)
        present = sorted(set(shown[known].tolist()))
        labels = np.where(known, np.searchsorted(present, shown), -1).astype(np.int64)
        return labels, [names[kind] for kind in present]
    found = (inside > 0).astype(np.int8)
    occurs = np.asarray(found[known].any(axis=0))
    found[~known] = -1
    return found[:, occurs], [name for name, there in zip(names[1:], occurs.tolist(), strict=True) if there]
