"""``synthetic-ecg``: simulated twelve-lead ECGs of six kinds, several records a patient.

A heart is a dipole whose three components are sums of Gaussians around each R peak, one for each wave (after
McSharry et al. 2003, here with a dipole and with beats laid out in time rather than a phase); a lead is its
projection on the lead's direction: the limb leads by Einthoven's equilateral triangle, the chest leads around
the thorax.
"""

from __future__ import annotations

import functools

import numpy as np

from anyjepa.domains.ecg_arrays import EcgArray
from anyjepa.domains.ecg_leads import STANDARD
from anyjepa.domains.ecg_records import ArrayRecords
from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "DIRECTIONS", "simulated"]

CLASSES = [
    "sinus rhythm", "atrial fibrillation", "bradycardia", "tachycardia", "bundle branch block",
    "ST elevation",
]  # fmt: skip
SINUS, FIBRILLATION, BRADYCARDIA, TACHYCARDIA, BLOCK, ELEVATION = range(6)
RATES = {  # beats a minute: lowest and highest mean of a record
    SINUS: (60, 95), FIBRILLATION: (65, 125), BRADYCARDIA: (38, 54), TACHYCARDIA: (104, 145),
    BLOCK: (58, 98), ELEVATION: (60, 100),
}  # fmt: skip
PATIENTS, RECORDS, HELD_OUT, SECONDS = 30, 3, 5, 10.0  # of a class; of a patient; every fifth patient
BEATS = 34  # more than ten seconds can hold

# Directions are (left, down, to the front). The frontal angles are those of the limb leads' own triangle;
# the chest electrodes go from the right of the breastbone (V1) to the left side (V6).
_FRONTAL = {"I": 0, "II": 60, "III": 120, "aVL": -30, "aVF": 90, "aVR": 210}
_CHEST = {
    "V1": (115, 0.9),
    "V2": (92, 1.5),
    "V3": (70, 1.6),
    "V4": (48, 1.5),
    "V5": (24, 1.2),
    "V6": (2, 1.0),
}


def _direction(lead: str) -> tuple[float, float, float]:
    if lead in _FRONTAL:
        angle = np.deg2rad(_FRONTAL[lead])
        # Goldberger's leads refer to the mean of two electrodes, which costs them a factor of sqrt(3) / 2
        gain = 1.0 if lead in ("I", "II", "III") else np.sqrt(3) / 2
        return gain * np.cos(angle), gain * np.sin(angle), 0.0
    degrees, gain = _CHEST[lead]
    return gain * np.cos(np.deg2rad(degrees)), 0.15, gain * np.sin(np.deg2rad(degrees))


DIRECTIONS = np.array([_direction(lead) for lead in STANDARD])

# Each wave: seconds after the R peak, width in seconds, dipole in millivolts.
P, Q, R, S, ST, T, LATE = range(7)
NORMAL = np.array([
    (-0.16, 0.022, 0.08, 0.12, 0.03), (-0.026, 0.009, -0.14, -0.03, 0.28), (0.0, 0.012, 0.85, 0.75, -0.45),
    (0.028, 0.011, -0.25, -0.10, -0.40), (0.13, 0.045, 0.0, 0.0, 0.0), (0.30, 0.045, 0.25, 0.20, 0.16),
    (0.065, 0.016, 0.0, 0.0, 0.0),
])  # fmt: skip
TERRITORIES = np.array(
    [(0.1, 0.38, -0.12), (0.12, 0.0, 0.32), (0.38, -0.1, 0.05)]
)  # inferior, anterior, lateral


def simulated(split: str | None, rate: float) -> EcgArray:
    """432 records of 144 patients (train, also None), 108 of 36 others (test), or all; always the same.

    Ten seconds at `rate` samples a second, millivolts. Raises NoSplit for another name.
    """
    kinds, patients, signals = _everything(rate)
    held_out = patients % HELD_OUT == 0
    words = [word.lower() for word in split_order(split)]
    if words == ["all"]:
        rows = np.arange(len(kinds))
    elif "train" in words:
        rows = np.flatnonzero(~held_out)
    elif "test" in words:
        rows = np.flatnonzero(held_out)
    else:
        raise NoSplit(f"synthetic-ecg has no split {split!r}, only train, test and all.")
    groups = np.array([f"patient {number:03d}" for number in patients[rows]])
    records = ArrayRecords(signals[rows], STANDARD, rate)
    return EcgArray(records, "simulated ECGs", kinds[rows].astype(np.int64), list(CLASSES), groups)


@functools.lru_cache(maxsize=1)
def _everything(rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind and patient of every record, and its signals; kept, for train and test are asked for in turn."""
    random = np.random.default_rng(20241017)
    kinds = np.repeat(np.arange(len(CLASSES)), PATIENTS)
    patients = np.repeat(np.arange(len(kinds)), RECORDS)
    waves = _hearts(kinds, random)[patients]
    kinds = kinds[patients]
    beats, mean_interval = _beats(kinds, random)
    signals = _recorded(kinds, waves, beats, mean_interval, rate, random)
    return kinds, patients, signals


def _hearts(kinds: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(patients, waves, 5): each patient's own waves, changed as its kind demands."""
    count = len(kinds)
    waves = np.repeat(NORMAL[None], count, axis=0)
    waves[:, T, 2:] *= random.lognormal(0, 0.3, (count, 1))
    waves[:, ST, 2:] = random.normal(0, 0.025, (count, 3))
    waves[kinds == FIBRILLATION, P, 2:] = 0
    left = (kinds == BLOCK) & (random.random(count) < 0.5)
    right = (kinds == BLOCK) & ~left
    # left: no septal q, a broad and notched R to the left and back, T against it
    waves[left, Q, 2:] = 0
    waves[left, R] = (0.008, 0.026, 0.75, 0.35, -0.75)
    waves[left, LATE] = (0.066, 0.026, 0.70, 0.20, -0.65)
    waves[left, S, 2:] = 0
    waves[left, T, 2:] *= -1
    # right: a late wave to the right and to the front
    waves[right, LATE] = (0.068, 0.022, -0.55, 0.0, 0.75)
    infarcted = np.flatnonzero(kinds == ELEVATION)
    strength = random.uniform(0.35, 1.0, (len(infarcted), 1))
    waves[infarcted, ST, 2:] += TERRITORIES[random.integers(len(TERRITORIES), size=len(infarcted))] * strength
    waves[:, :, 2:] = np.einsum("pwi,pij->pwj", waves[:, :, 2:], _rotations(count, random))
    waves[:, :, 2:] *= random.lognormal(0, 0.25, (count, 1, 1))
    waves[:, :, 1] *= random.lognormal(0, 0.08, (count, 1))
    waves[:, P, 0] += random.normal(0, 0.02, count)
    return waves


def _rotations(count: int, random: np.random.Generator) -> np.ndarray:
    """(count, 3, 3) small rotations: hearts do not lie alike (some 15 degrees about each axis)."""
    x, y, z = random.normal(0, np.deg2rad(15), (3, count))
    zero = np.zeros(count)
    spin = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(count, 3, 3)
    # Cayley's formula gives an exact rotation
    one = np.eye(3)
    return np.linalg.solve(one + spin / 2, one - spin / 2)


def _beats(kinds: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(records, beats) times of the R peaks in seconds, the first before the record; the mean interval."""
    low, high = (np.array([RATES[kind][end] for kind in kinds]) for end in (0, 1))
    mean = 60 / random.uniform(low, high)
    irregular = kinds == FIBRILLATION
    spread = np.where(
        irregular, random.uniform(0.16, 0.28, len(kinds)), random.uniform(0.01, 0.04, len(kinds))
    )
    intervals = mean[:, None] * np.exp(random.normal(0, 1, (len(kinds), BEATS)) * spread[:, None])
    intervals = np.maximum(intervals, 0.28)
    times = np.cumsum(intervals, axis=1)
    # the sinus node breathes: a slow swing of the intervals
    phase = random.uniform(0, 2 * np.pi, (len(kinds), 1))
    swing = 0.02 * mean[:, None] * np.sin(2 * np.pi * 0.25 * times + phase)
    times = times + np.where(irregular[:, None], 0, swing)
    return times - times[:, :1] - random.uniform(0, 1, (len(kinds), 1)) * mean[:, None], mean


def _recorded(
    kinds: np.ndarray,
    waves: np.ndarray,
    beats: np.ndarray,
    mean_interval: np.ndarray,
    rate: float,
    random: np.random.Generator,
) -> np.ndarray:
    """(records, leads, time) float32: the hearts as electrodes see them, with what disturbs them."""
    count, points = len(kinds), round(SECONDS * rate)
    times = np.arange(points) / rate
    shapes = np.empty((count, waves.shape[1], points), np.float32)
    # the ventricles recover sooner in a fast heart (Bazett)
    shrink = np.sqrt(np.clip(mean_interval, 0.35, 1.2))[:, None]
    previous = np.stack([np.searchsorted(row, times, side="right") - 1 for row in beats])
    since = (times - np.take_along_axis(beats, previous, axis=1)).astype(np.float32)
    until = (times - np.take_along_axis(beats, previous + 1, axis=1)).astype(np.float32)
    for wave in range(waves.shape[1]):
        centre = waves[:, wave, :1] * (shrink if wave in (ST, T) else 1.0)
        width = waves[:, wave, 1:2]
        shapes[:, wave] = sum(
            np.exp(-0.5 * ((distance - centre.astype(np.float32)) / width.astype(np.float32)) ** 2)
            for distance in (since, until)
        )
    electrodes = DIRECTIONS * np.concatenate(
        [np.ones((count, 6, 1)), random.lognormal(0, 0.12, (count, 6, 1))], axis=1
    )
    signals = np.matmul(np.einsum("rli,rwi->rlw", electrodes, waves[:, :, 2:]).astype(np.float32), shapes)
    signals += _fibrillation(kinds, electrodes, times, random)
    return signals + _disturbance(count, times, rate, random)


def _fibrillation(
    kinds: np.ndarray, electrodes: np.ndarray, times: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The fine waves of fibrillating atria, 4 to 8 a second, largest in V1; nothing in other hearts."""
    count = len(kinds)
    strength = np.where(kinds == FIBRILLATION, random.uniform(0.02, 0.07, count), 0)
    frequency = random.uniform(4.5, 8, (count, 1))
    drift = 0.8 * np.sin(2 * np.pi * random.uniform(0.1, 0.5, (count, 1)) * times)
    wave = np.sin(2 * np.pi * frequency * times + drift + random.uniform(0, 2 * np.pi, (count, 1)))
    seen = electrodes @ np.array([0.1, 0.4, 0.8])
    return ((seen * strength[:, None])[..., None] * wave[:, None]).astype(np.float32)


def _disturbance(count: int, times: np.ndarray, rate: float, random: np.random.Generator) -> np.ndarray:
    """Breathing moves the baseline, muscles and the amplifier make noise, and the mains hum."""
    frequency, phase = random.uniform(0.15, 0.4, (count, 1)), random.uniform(0, 2 * np.pi, (count, 1))
    wander = np.sin(2 * np.pi * frequency * times + phase).astype(np.float32)
    weights = random.normal(0, 0.12, (count, 12, 1)).astype(np.float32)
    hum = np.sin(2 * np.pi * 50 * times + phase).astype(np.float32) if rate > 100 else np.zeros_like(wander)
    loud = random.uniform(0, 0.01, (count, 12, 1)).astype(np.float32)
    # the same noise in a hertz at every rate
    level = (random.uniform(0.02, 0.07, (count, 1, 1)) * np.sqrt(rate / 500)).astype(np.float32)
    noise = random.standard_normal((count, 12, len(times)), dtype=np.float32)
    return weights * wander[:, None] + loud * hum[:, None] + level * noise
