"""Simulated radar chips: vehicles of bright points on speckled ground, with the shadow that radar casts."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "synthetic_sar"]

SIDE = 64  # pixels of a chip
EACH = {"train": 100, "test": 40}  # chips of every class
# length and width of the body in pixels, where along it a block stands on it, how many points shine, a barrel
VEHICLES = {
    "bus": (30, 9, 0.0, 6, False),
    "bulldozer": (18, 12, -0.35, 4, False),
    "carrier": (23, 10, 0.2, 8, False),
    "gun": (22, 10, -0.2, 5, True),
    "tank": (25, 13, 0.0, 7, True),
    "truck": (28, 9, 0.36, 4, False),
}
CLASSES = list(VEHICLES)
GROUND, SHADOW, BODY, BLOCK, POINT = 1.0, 0.06, 4.0, 9.0, 60.0  # mean intensities


def synthetic_sar(split: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Amplitude chips (n, 64, 64, 1) float32, single look, and the class of each (n,) int64.

    100 chips of each of six kinds of vehicle for ``train`` (also None), 40 others for ``test`` and ``val``,
    at any angle, always the same. Raises NoSplit for another name.
    """
    words = [word.lower() for word in split_order(split)]
    part = next((name for name in EACH if name in words), None)
    if part is None:
        raise NoSplit(f"synthetic-sar has no split {split!r}, only train and test")
    random = np.random.default_rng([2311, 15153, list(EACH).index(part)])
    labels = np.repeat(np.arange(len(CLASSES)), EACH[part])
    chips = np.stack([_chip(random, *VEHICLES[CLASSES[label]]) for label in labels])
    # single-look speckle: intensity is exponential, whatever its mean
    amplitude = np.sqrt(chips * random.exponential(size=chips.shape))
    gain = random.uniform(0.5, 2.0, len(chips))[:, None, None]  # receivers are not calibrated
    return (gain * amplitude)[..., None].astype(np.float32), labels


def _chip(
    random: np.random.Generator, length: int, width: int, block: float, points: int, barrel: bool
) -> np.ndarray:
    """(64, 64) mean intensity; the radar looks from the top of the image down."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2 + random.uniform(-3, 3, (2, 1, 1))
    angle = random.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)

    def along(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return cosine * columns + sine * y, cosine * y - sine * columns

    def inside(y: np.ndarray) -> np.ndarray:
        u, v = along(y)
        return (np.abs(u) < length / 2) & (np.abs(v) < width / 2)

    u, v = along(rows)
    ground = GROUND * (1 + 0.3 * np.sin(random.uniform(0.05, 0.2) * u + random.uniform(0, 6)))
    hidden = np.any([inside(rows - step) for step in range(1, 15, 2)], axis=0)
    chip = np.where(hidden, SHADOW, ground)
    chip[inside(rows)] = BODY
    chip[(np.abs(u - block * length) < length / 8) & (np.abs(v) < width / 3)] = BLOCK
    if barrel:
        chip[(u > 0) & (u < 0.8 * length) & (np.abs(v) < 1)] = BLOCK
    for number in range(points):  # corners of the outline shine, some more than others
        place = (number / max(1, points - 1) - 0.5) * 0.9 * length, (0.45 - 0.9 * (number % 2)) * width
        chip += POINT * random.uniform(0.2, 1) * np.exp(-((u - place[0]) ** 2 + (v - place[1]) ** 2) / 1.2)
    return chip
