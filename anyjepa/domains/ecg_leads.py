"""Leads of an ECG: their names in all spellings; limb leads out of one another (Einthoven, Goldberger)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

__all__ = ["STANDARD", "arranged", "common_leads", "lead_name", "millivolts", "unnamed"]

STANDARD = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
# Holter's modified limb leads have their electrodes on the torso and are read as the limb leads they stand
# for
SPELLINGS = {"mli": "I", "mlii": "II", "mliii": "III", "di": "I", "dii": "II", "diii": "III"}
BY_NAME = {name.lower(): name for name in STANDARD} | SPELLINGS
# every limb lead as a combination of I and II; III = II - I (Einthoven), the others Goldberger's
LIMB = {
    "I": (1.0, 0.0), "II": (0.0, 1.0), "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0),
}  # fmt: skip
IN_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6, "v": 1e3}
UNSTATED = {"", "n/a", "na", "nu", "adu"}  # no unit is said: taken for millivolts


def lead_name(name: str) -> str:
    """The standard spelling of a lead, or the name as it is where it is none of the twelve.

    ``avf``, ``Lead aVF``, ``ECG AVF`` and ``EKG_aVF`` are aVF; ``MLII`` and ``DII`` are II.
    """
    bare = re.sub(r"^(ecg|ekg|lead)[\s_:.-]*", "", name.strip().lower())
    bare = re.sub(r"^(ecg|ekg|lead)[\s_:.-]*", "", bare)
    return BY_NAME.get(bare.replace(" ", ""), name.strip())


def millivolts(unit: str | None) -> float | None:
    """Factor from `unit` to millivolts: 1 where none is stated, None where it is no voltage (mmHg, bpm)."""
    word = (unit or "").strip().lower()
    return 1.0 if word in UNSTATED else IN_MILLIVOLTS.get(word)


def unnamed(count: int) -> list[str]:
    """Names for leads that have none: twelve are the standard ones in their order, others are numbered."""
    return list(STANDARD) if count == 12 else [f"lead {number + 1}" for number in range(count)]


def common_leads(names: Sequence[Sequence[str]]) -> list[str]:
    """The leads to use of records that have these: those of the twelve that at least half of them have.

    Where no lead is one of the twelve, those that at least half have, in the order of the first that has
    them. Limb leads that can be worked out count as there.
    """
    found = Counter(lead for record in names for lead in _with_derived(record))
    half = [lead for lead, count in found.items() if 2 * count >= len(names)]
    standard = [lead for lead in STANDARD if lead in half]
    return standard or half or [lead for lead, _ in found.most_common(1)]


def _with_derived(names: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(names))
    derived = [lead for lead in LIMB if lead not in names] if _two_limb(names) else []
    return names + derived


def _two_limb(names: Sequence[str]) -> list[str]:
    """Two leads of which all other limb leads follow; empty where there are none."""
    limb = [lead for lead in LIMB if lead in names]
    return limb[:2] if len(limb) >= 2 else []


def arranged(signals: np.ndarray, names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Rows of `signals` (channels, time) by their `names`, as `wanted`: (len(wanted), time) float64.

    A row of NaN is as good as none. Of two channels with one name the first that is not NaN counts. A limb
    lead that is not there is worked out of two that are; what cannot be had is NaN.
    """
    rows = {}
    for name, row in zip(names, signals, strict=True):
        if name not in rows and not np.isnan(row).any():
            rows[name] = row
    pair = _two_limb(list(rows))
    if pair:
        # the pair's own two combinations, inverted, give I and II
        first_two = np.linalg.solve(
            np.array([LIMB[lead] for lead in pair]), np.stack([rows[p] for p in pair])
        )
        for lead, weights in LIMB.items():
            rows.setdefault(lead, np.array(weights) @ first_two)
    nothing = np.full(signals.shape[1], np.nan)
    return np.stack([rows.get(name, nothing) for name in wanted]).astype(np.float64)
