"""Electrodes: their names as files spell them, and where on the head they lie."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np

from anyjepa.core.errors import UserError, nearest, require

__all__ = ["TEN_TWENTY", "electrode_name", "is_brain", "placed", "plausible", "ten_twenty"]

RADIUS = 0.095  # metres; of the sphere that names are placed on where no file says more
SMALLEST, LARGEST = 0.03, 0.2  # metres from the origin that an electrode of a head can lie
OLD = {"t3": "T7", "t4": "T8", "t5": "P7", "t6": "P8"}
OTHER = re.compile(
    r"(h|v)?e[ou]g|ecg|ekg|emg|resp|sti|stim|trig|status|event|annot|marker|photic|ibi|bursts|suppr|pulse"
    r"|spo2|temp|gsr|eda|acc|gyro|aux|ref|gnd|misc",
    re.IGNORECASE,
)

# Degrees from the vertex, and degrees around it from the right ear towards the nose: arcs of a tenth and a
# fifth of the way from ear to ear and from nasion to inion, of which the system has its name.
TEN_TWENTY: dict[str, tuple[float, float]] = {
    "Fp1": (90, 108), "Fp2": (90, 72), "F7": (90, 144), "F3": (60, 129), "Fz": (45, 90), "F4": (60, 51),
    "F8": (90, 36), "T7": (90, 180), "C3": (45, 180), "Cz": (0, 0), "C4": (45, 0), "T8": (90, 0),
    "P7": (90, 216), "P3": (60, 231), "Pz": (45, 270), "P4": (60, 309), "P8": (90, 324), "O1": (90, 252),
    "O2": (90, 288),
}  # fmt: skip


def ten_twenty(names: Sequence[str] | None = None) -> np.ndarray:
    """(n, 3) metres of electrodes of the 10-20 system on a sphere: x to the right, y to the nose, z up."""
    angles = np.deg2rad([TEN_TWENTY[name] for name in (names or TEN_TWENTY)])
    down, around = angles[:, 0], angles[:, 1]
    return RADIUS * np.stack(
        [np.sin(down) * np.cos(around), np.sin(down) * np.sin(around), np.cos(down)], axis=1
    )


def electrode_name(name: str) -> str:
    """A channel's name without what recorders add: ``EEG FP1-REF`` is ``FP1``, ``Fc5.`` is ``Fc5``.

    T3, T4, T5 and T6 are the old names of T7, T8, P7 and P8. A pair such as ``Fp1-F7`` stays a pair.
    """
    plain = re.sub(r"^\s*(eeg|poly)[\s_:-]*", "", name, flags=re.IGNORECASE).strip(" .")
    plain = re.sub(
        r"[-_ ](ref\d?|le|re|ar|avg|av|a1|a2|m1|m2|a1a2|linked|cz?ref)$", "", plain, flags=re.IGNORECASE
    )
    return OLD.get(plain.lower(), plain)


def is_brain(name: str) -> bool:
    """Whether a channel of this name records a brain: not the eyes, heart, muscles, triggers or breath."""
    return OTHER.match(electrode_name(name)) is None


def plausible(positions: np.ndarray) -> np.ndarray:
    """(n,) bool: positions (n, 3) that are known and as far from the origin as a head is large, in metres.

    Files are found that hold millimetres, zeros or NaN instead.
    """
    far = np.linalg.norm(np.nan_to_num(positions), axis=1)
    return np.isfinite(positions).all(axis=1) & (far >= SMALLEST) & (far <= LARGEST)


def placed(
    names: Sequence[str], montage: str = "standard_1005", given: np.ndarray | None = None
) -> np.ndarray:
    """(n, 3) float64 metres in the head's frame, NaN where unknown.

    names: of channels; a pair such as ``Fp1-F7`` lies in the middle. montage: of MNE, for what ``given``
    (n, 3), the file's own positions, does not know. The file's are used only where all that a name can be
    found for are plausible, so that two frames are never mixed.
    """
    found = np.full((len(names), 3), np.nan)
    if given is not None and len(names):
        known = plausible(given)
        if known.mean() > 0.5:
            found[known] = given[known]
            return found
    table = _standard(montage)
    for row, name in enumerate(names):
        plain = electrode_name(name)
        ends = [plain] if plain.lower() in table else re.split(r"\s*[-–]\s*", plain)
        places = [table.get(OLD.get(end.lower(), end).lower()) for end in ends[:2]]
        if all(place is not None for place in places):
            found[row] = np.mean(np.array(places), axis=0)
    return found


@functools.cache
def _standard(montage: str) -> dict[str, np.ndarray]:
    if montage == "10-20":
        return dict(zip((name.lower() for name in TEN_TWENTY), ten_twenty(), strict=True))
    mne = require("mne", "eeg")
    known = mne.channels.get_builtin_montages()
    # MNE 1.13 renamed its standard ones after the head that they were measured on
    renamed = montage.replace("standard_", "colin27_")
    montage = renamed if renamed in known else montage
    if montage not in known:
        raise UserError(
            f"there is no montage '{montage}' (MNE has {', '.join(known[:4])} ...).{nearest(montage, known)}"
        )
    table = mne.channels.make_standard_montage(montage)
    info = mne.create_info(table.ch_names, 100.0, "eeg", verbose="error")
    # set on channels, positions are turned into the frame of the head, as those of files are
    info.set_montage(table, on_missing="ignore", verbose="error")
    return {channel["ch_name"].lower(): np.array(channel["loc"][:3]) for channel in info["chs"]}
