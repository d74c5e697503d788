"""A simulated EEG: rhythms of a few sources on the scalp, in noise, of several subjects."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.eeg_montage import TEN_TWENTY, ten_twenty

__all__ = ["CLASSES", "simulated_eeg"]

CLASSES = ["rest", "eyes closed", "left hand", "right hand"]
SUBJECTS = {"train": 8, "test": 4}
TRIALS = {"train": 12, "test": 16}  # of each class of a subject
SPREAD = 0.08  # metres: how far a source reaches on the scalp
# place (near which electrode), rhythm in Hz, and amplitude in microvolts for each class
SOURCES = (
    ("Oz", 10.0, (3.5, 11.0, 3.5, 3.5)),
    ("C3", 11.5, (7.0, 7.0, 7.0, 2.0)),
    ("C4", 11.5, (7.0, 7.0, 2.0, 7.0)),
    ("Fz", 6.0, (4.0, 4.0, 4.0, 4.0)),
    ("C3", 21.0, (2.5, 2.5, 2.5, 4.5)),
    ("C4", 21.0, (2.5, 2.5, 4.5, 2.5)),
)
PINK, WHITE = 6.0, 1.0  # microvolts of background: falling with frequency, and the same at each
NOISE_REACH, SLOPE = 0.1, 0.5  # metres over which the first is common to electrodes, and how it falls


def simulated_eeg(
    split: str | None, rate: float, seconds: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(trials, 19 channels, time) float32 volts, labels (trials,) and subjects (trials,) of text.

    Each trial is one of `CLASSES`: the rhythm over the back of the head grows where the eyes are closed, and
    that over the hand area of one side falls where the other side's hand moves. A rhythm is a narrow band of
    noise, at a frequency and strength of the subject's own, so that no two trials are alike. Training and
    test subjects differ.
    """
    name = "test" if split is not None and split.lower().startswith(("test", "val")) else "train"
    random = np.random.default_rng(20 if name == "train" else 21)
    subjects, each, points = SUBJECTS[name], TRIALS[name], round(seconds * rate)
    labels = np.tile(np.repeat(np.arange(len(CLASSES)), each), subjects)
    who = np.repeat(np.arange(subjects), each * len(CLASSES))
    places = ten_twenty()
    where = {label: places[list(TEN_TWENTY).index(label)] for label in ("C3", "C4", "Fz")}
    where["Oz"] = (places[list(TEN_TWENTY).index("O1")] + places[list(TEN_TWENTY).index("O2")]) / 2
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    background = np.linalg.cholesky(np.exp(-apart / NOISE_REACH) + 1e-6 * np.eye(len(places)))
    frequencies = np.fft.rfftfreq(points, 1 / rate)
    volts = np.zeros((len(labels), len(places), points), np.float32)
    for place, rhythm, amplitudes in SOURCES:
        shift = random.normal(0, 0.6, subjects)[who]
        moved = where[place] + random.normal(0, 0.008, (subjects, 3))
        reach = np.exp(-np.sum((places - moved[:, None]) ** 2, axis=2) / (2 * SPREAD**2))[who]
        gain = random.lognormal(0, 0.15, subjects)[who] * random.lognormal(0, 0.2, len(labels))
        band = np.exp(-0.5 * ((frequencies - rhythm - shift[:, None]) / 0.4) ** 2)
        wave = _noise(random, band)
        volts += (np.array(amplitudes)[labels] * gain)[:, None, None] * reach[:, :, None] * wave[:, None]
    pink = np.maximum(frequencies, 1.0) ** -SLOPE
    loose = _noise(random, np.broadcast_to(pink, (len(labels), len(places), len(frequencies))))
    volts += PINK * np.einsum("ce,net->nct", background, loose, optimize=True)
    volts += WHITE * random.standard_normal(volts.shape, np.float32)
    mixed = random.permutation(len(labels))
    names = np.array([f"{name}-{number:02d}" for number in who])
    return (1e-6 * volts[mixed]).astype(np.float32), labels[mixed].astype(np.int64), names[mixed]


def _noise(random: np.random.Generator, amplitude: np.ndarray) -> np.ndarray:
    """Normal noise with this spectrum along the last axis, of standard deviation 1."""
    parts = random.standard_normal((2, *amplitude.shape), np.float32)
    wave = np.fft.irfft(amplitude.astype(np.float32) * (parts[0] + 1j * parts[1]), axis=-1)
    return (wave / wave.std(axis=-1, keepdims=True)).astype(np.float32)
