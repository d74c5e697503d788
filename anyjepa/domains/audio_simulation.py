"""Simulated speech: vowels of several voices, their pitch rising or falling, in noise."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "spoken_vowels"]

FORMANTS = {  # Hz: means of men, Peterson and Barney 1952, table II
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
STRENGTHS = (1.0, 0.5, 0.25)  # of the formants
BANDWIDTHS = (90.0, 110.0, 170.0)  # Hz
GLIDES = {"rising": 1, "falling": -1}
CLASSES = [f"{vowel} {glide}" for vowel in FORMANTS for glide in GLIDES]
VOICES = {"train": [f"voice {n:02d}" for n in range(16)], "test": [f"voice {n:02d}" for n in range(16, 24)]}
CLIPS = {"train": 512, "test": 256}
PITCH = (140.0, 280.0)  # Hz, of a voice
TRACT = (0.88, 1.18)  # by which a voice's formants differ from the table's
SECONDS = (0.45, 0.7)  # of a clip
GLIDE = (0.12, 0.3)  # change of the pitch from beginning to end
NOISE = (0.05, 0.35)  # standard deviation over that of the voice
HARMONICS = 20


def spoken_vowels(split: str | None, rate: float) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Clips (time,) float32 of 0.45 to 0.7 s, labels (n,) int64 into `CLASSES`, and who speaks (n,).

    Always the same ones. A clip is a vowel by its three formants (two of which say which it is), sung with
    harmonics of a pitch that rises or falls by 12 to 30 %, by one of several voices that differ in pitch and
    in the length of the vocal tract, with white noise. The label is the vowel and the way its pitch goes. 512
    clips of 16 voices in ``train`` (also None), 256 of 8 other voices in ``test``. Raises NoSplit for
    another.
    """
    words = [word.lower() for word in split_order(split)]
    name = next((word for word in words if word in CLIPS), None)
    if name is None:
        raise NoSplit(f"synthetic-audio has no split {split!r}, only train and test")
    random, count = np.random.default_rng(0 if name == "train" else 1), CLIPS[name]
    voices = VOICES[name]
    labels = random.permutation(np.arange(count) % len(CLASSES))
    who = random.integers(len(voices), size=count)
    pitch = random.permutation(np.geomspace(*PITCH, len(voices)))[who] * random.uniform(0.95, 1.05, count)
    tract = random.permutation(np.linspace(*TRACT, len(voices)))[who]
    seconds, glide = random.uniform(*SECONDS, count), random.uniform(*GLIDE, count)
    noise = random.uniform(*NOISE, count)
    formants = np.array(list(FORMANTS.values()), np.float64)
    number, clips = np.arange(1, HARMONICS + 1)[:, None], []
    for clip, label in enumerate(labels):
        time = np.arange(round(seconds[clip] * rate)) / rate
        share = (time / seconds[clip]).astype(np.float32)
        change = glide[clip] * (1 if label % 2 == 0 else -1)
        # the integral of a pitch that goes in a straight line
        cycles = pitch[clip] * (time * (1 - change / 2) + change * time * share / 2)
        ends = number * pitch[clip] * np.array([1 - change / 2, 1 + change / 2])
        first, last = _loudness(ends, formants[label // 2] * tract[clip], rate).T.astype(np.float32)[
            :, :, None
        ]
        waves = np.sin(((2 * np.pi * cycles)[None] * number).astype(np.float32))
        voice = ((first + (last - first) * share) * waves).sum(axis=0)
        voice *= np.minimum(1.0, np.minimum(time, seconds[clip] - time) / 0.05)
        voice /= voice.std()
        hiss = random.standard_normal(len(time), np.float32)
        clips.append((0.1 * (voice + noise[clip] * hiss)).astype(np.float32))
    return clips, labels.astype(np.int64), np.array(voices)[who]


def _loudness(frequency: np.ndarray, formants: np.ndarray, rate: float) -> np.ndarray:
    """Of harmonics at some frequencies: resonances over a slope of 6 dB an octave, none above half a rate."""
    away = (frequency[..., None] - formants) / np.array(BANDWIDTHS)
    resonance = (np.array(STRENGTHS) / np.sqrt(1 + away**2)).sum(axis=-1)
    return resonance * (200.0 / frequency) * (frequency < 0.48 * rate)
