"""Simulated video: a random pattern drifts behind flicker, in one of four directions at one of two speeds."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "SIDE", "drifting_patterns"]

SIDE = 32  # pixels
SPEEDS = {"slow": 8.0, "fast": 24.0}  # pixels a second
DIRECTIONS = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
CLASSES = [f"{speed} {direction}" for speed in SPEEDS for direction in DIRECTIONS]
CLIPS = {"train": 768, "test": 256}
BLUR = 2.0  # standard deviation of the patterns' smoothing, in pixels
FLICKER = 1.0  # of what is new in every frame, in standard deviations of what drifts


def drifting_patterns(split: str | None, frames: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Clips (n, frames, 32, 32, 1) uint8 and labels (n,) int64 into `CLASSES`, always the same ones.

    The stimulus of motion psychophysics: smoothed noise, a new one for each clip, drifts as the label says at
    8 or 24 pixels a second, 10 % more or less, and comes in again on the other side. Over it lies another
    such pattern that is new in every frame, so that no two frames alone tell much of the motion. A single
    frame, or the average of all, tells nothing of the label. 768 clips of ``train`` (also None), 256 of
    ``test``. Raises NoSplit for another split.
    """
    words = [word.lower() for word in split_order(split)]
    name = next((word for word in words if word in CLIPS), None)
    if name is None:
        raise NoSplit(f"synthetic-video has no split {split!r}, only train and test")
    random, count = np.random.default_rng(0 if name == "train" else 1), CLIPS[name]
    labels = random.permutation(np.arange(count) % len(CLASSES))
    speeds = np.array([SPEEDS[kind.split()[0]] for kind in CLASSES])[labels] * random.uniform(0.9, 1.1, count)
    steps = np.array([DIRECTIONS[kind.split()[1]] for kind in CLASSES], np.float64)[labels]
    moved = ((steps * speeds[:, None])[:, None] * (np.arange(frames) / rate)[:, None]).astype(np.float32)
    # smoothing and moving by parts of a pixel are both products in the domain of frequencies
    down, across = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :]
    smooth = np.exp(-2 * (np.pi * BLUR) ** 2 * (down**2 + across**2))
    spectrum = np.fft.rfft2(random.standard_normal((count, SIDE, SIDE), np.float32)) * smooth
    flicker = np.fft.rfft2(random.standard_normal((count, frames, SIDE, SIDE), np.float32)) * smooth
    turned = moved[..., 0, None, None] * down + moved[..., 1, None, None] * across
    turned = spectrum[:, None] * np.exp(np.complex64(-2j * np.pi) * turned)
    pattern = np.fft.irfft2(turned + FLICKER * flicker, s=(SIDE, SIDE))
    pattern /= pattern.std(axis=(1, 2, 3), keepdims=True)
    grey = np.clip(np.rint(127.5 + 60 * pattern), 0, 255).astype(np.uint8)
    return grey[..., None], labels.astype(np.int64)
