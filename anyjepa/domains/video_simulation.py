"""Simulated video: shapes pass in front of a photograph, in one of four directions and at one of two speeds."""

from __future__ import annotations

import numpy as np

from anyjepa.core.errors import require
from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "SIDE", "moving_shapes"]

SIDE = 32  # pixels
SPEEDS = {"slow": 8.0, "fast": 24.0}  # pixels a second
DIRECTIONS = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
CLASSES = [f"{speed} {direction}" for speed in SPEEDS for direction in DIRECTIONS]
CLIPS = {"train": 768, "test": 256}
SHAPES = 3  # in a clip
LARGEST = 7.0  # half of the side of a shape, in pixels


def moving_shapes(split: str | None, frames: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Clips (n, frames, 32, 32, 3) uint8 and labels (n,) int64 into `CLASSES`, always the same ones.

    Three discs and squares of random size and colour pass over a resting photograph (of those that come with
    scikit-learn), all as the label says, at 8 or 24 pixels a second, 10 % more or less; what leaves comes in
    again on the other side. A single frame tells nothing of the label. 768 clips of ``train`` (also None),
    256 of ``test``, over other parts of the photographs. Raises NoSplit for another split.
    """
    words = [word.lower() for word in split_order(split)]
    name = next((word for word in words if word in CLIPS), None)
    if name is None:
        raise NoSplit(f"synthetic-video has no split {split!r}, only train and test")
    random, count = np.random.default_rng(0 if name == "train" else 1), CLIPS[name]
    labels = random.permutation(np.arange(count) % len(CLASSES))
    speeds = np.array([SPEEDS[kind.split()[0]] for kind in CLASSES])[labels] * random.uniform(0.9, 1.1, count)
    steps = np.array([DIRECTIONS[kind.split()[1]] for kind in CLASSES], np.float64)[labels]
    moved = (steps * speeds[:, None])[:, None] * (np.arange(frames) / rate)[:, None]
    clips = np.repeat(_backgrounds(name, count, random)[:, None], frames, axis=1)
    for _ in range(SHAPES):
        half = random.uniform(3.5, LARGEST, count).astype(np.float32)[:, None, None, None]
        # what has left on one side is wholly out of sight before it comes in again
        course = SIDE + 2 * LARGEST
        place = (random.random((count, 1, 2)) * course + moved) % course - LARGEST
        apart = [
            np.arange(SIDE, dtype=np.float32) - place[:, :, axis, None].astype(np.float32) for axis in (0, 1)
        ]
        down, across = np.abs(apart[0])[..., :, None], np.abs(apart[1])[..., None, :]
        square = random.random(count)[:, None, None, None] < 0.5
        edge = half - np.where(square, np.maximum(down, across), np.sqrt(down**2 + across**2))
        # edges half a pixel soft, so that a shape can move by less than one
        cover = np.clip(edge + 0.5, 0, 1)[..., None]
        colour = random.choice([15.0, 128.0, 240.0], (count, 1, 1, 1, 3)).astype(np.float32)
        clips += cover * (colour - clips)
    return np.rint(clips).astype(np.uint8), labels.astype(np.int64)


def _backgrounds(split: str, count: int, random: np.random.Generator) -> np.ndarray:
    """Windows (count, 32, 32, 3) float32 of two photographs shrunk to half."""
    load = require("sklearn.datasets", "video").load_sample_image
    windows = []
    for scene in ("china.jpg", "flower.jpg"):
        photograph = load(scene)[:426, :640].reshape(213, 2, 320, 2, 3).mean(axis=(1, 3), dtype=np.float32)
        # the left part is for training, the rest for testing
        part = photograph[:, :208] if split == "train" else photograph[:, 208:]
        windows.append(np.lib.stride_tricks.sliding_window_view(part, (SIDE, SIDE), axis=(0, 1)))
    chosen = random.integers(len(windows), size=count)
    place = (random.random((count, 2)) * windows[0].shape[:2]).astype(int)
    found = [windows[scene][top, left] for scene, (top, left) in zip(chosen, place, strict=True)]
    return np.stack(found).transpose(0, 2, 3, 1)
