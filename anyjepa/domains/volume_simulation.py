"""Simulated volumes: a belly of ellipsoid organs in noise, healthy or with one of three findings."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "SPACING", "STRUCTURES", "synthetic_volumes"]

SHAPE = (16, 32, 32)  # slices upwards, rows to the back, columns to the left
SPACING = (12.0, 9.0, 9.0)  # millimetres
CLASSES = ["healthy", "large spleen", "liver lesions", "one kidney"]
STRUCTURES = {1: "liver", 2: "spleen", 3: "kidney", 4: "lesion"}
PATIENTS = {"train": 100, "test": 50}
SCANS = 2  # of a patient, on different days
NOISE = 0.08
DRIFT, GAMMA = 0.3, 0.25  # of the scanner: brightness along each axis, logarithm of the contrast
LESION = 0.22  # value
# middle and half axes (slice, row, column) as shares of the volume, value, structure; right is to the left
ORGANS = {
    "body": ((0.5, 0.52, 0.5), (0.9, 0.40, 0.46), 0.35, 0),
    "spine": ((0.5, 0.78, 0.5), (0.9, 0.07, 0.07), 0.95, 0),
    "right lung": ((1.0, 0.50, 0.28), (0.30, 0.28, 0.17), 0.05, 0),
    "left lung": ((1.0, 0.50, 0.72), (0.30, 0.28, 0.17), 0.05, 0),
    "liver": ((0.62, 0.45, 0.32), (0.26, 0.22, 0.21), 0.60, 1),
    "spleen": ((0.64, 0.62, 0.77), (0.13, 0.11, 0.09), 0.56, 2),
    "right kidney": ((0.35, 0.66, 0.32), (0.16, 0.09, 0.08), 0.72, 3),
    "left kidney": ((0.38, 0.66, 0.68), (0.16, 0.09, 0.08), 0.72, 3),
}


def synthetic_volumes(
    split: str | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Volumes (n, 16, 32, 32, 1) float32, structures (n, 16, 32, 32) uint8, classes (n,) and patients (n,).

    Two scans of each of 100 patients for ``train`` (also None), of 50 others for ``test`` and ``val``, always
    the same. Organs differ in place and size from patient to patient; the way a patient lies, contrast, gain,
    the field's drift and the noise from scan to scan. A large spleen is 1.6 times as long in each direction,
    a liver's eight lesions are dark balls, and the kidney that is missing is the right one. Raises NoSplit.
    """
    words = [word.lower() for word in split_order(split)]
    part = next((name for name in PATIENTS if name in words), None)
    if part is None:
        raise NoSplit(f"synthetic-volumes has no split {split!r}, only train and test")
    random = np.random.default_rng([2212, 1893, list(PATIENTS).index(part)])
    count = PATIENTS[part]
    patients = np.repeat(np.arange(count), SCANS)
    labels = (np.arange(count) % len(CLASSES))[patients]
    moved = random.normal(0, 0.03, (count, 1, 3))[patients] + random.normal(0, 0.02, (len(patients), 1, 3))
    grown = np.exp(random.normal(0, 0.06, (count, 1, 3)))[patients]
    axes = [np.linspace(0, 1, length, dtype=np.float32) for length in SHAPE]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    volumes = np.zeros((len(patients), *SHAPE), np.float32)
    structures = np.zeros(volumes.shape, np.uint8)

    def drawn(middle: np.ndarray, half: np.ndarray) -> np.ndarray:
        """(n, slices, rows, columns): the places inside an ellipsoid of each scan."""
        parts = [
            ((axis - middle[:, number, None, None, None]) / half[:, number, None, None, None]) ** 2
            for number, axis in enumerate(grid)
        ]
        return parts[0] + parts[1] + parts[2] < 1

    places = {}
    for name, (middle, half, value, structure) in ORGANS.items():
        own = random.normal(0, 0.015, (count, 3))[patients]
        size = np.array(half) * grown[:, 0] * np.exp(random.normal(0, 0.08, (count, 3)))[patients]
        if name == "spleen":
            size = np.where((labels == 1)[:, None], size * 1.6, size)
        if name == "right kidney":
            size = np.where((labels == 3)[:, None], size * 1e-6, size)
        places[name] = (np.array(middle) + moved[:, 0] + own).astype(np.float32), size.astype(np.float32)
        inside = drawn(*places[name])
        volumes[inside] = value
        if structure:
            structures[inside] = structure
    middle, half = places["liver"]
    ill = np.flatnonzero(labels == 2)
    for _ in range(8):
        there = (random.uniform(-0.75, 0.75, (count, 3))[patients] * half + middle).astype(np.float32)
        size = random.uniform(0.05, 0.08, (count, 1))[patients] * np.array([[1.4, 1.0, 1.0]])
        inside = np.zeros(volumes.shape, bool)
        inside[ill] = drawn(there[ill], size[ill].astype(np.float32))
        volumes[inside], structures[inside] = LESION, 4
    volumes **= np.exp(random.normal(0, GAMMA, (len(patients), 1, 1, 1))).astype(np.float32)
    for axis in grid:
        slope = random.uniform(-DRIFT, DRIFT, (len(patients), 1, 1, 1)).astype(np.float32)
        volumes *= np.exp(2 * slope * (axis - 0.5))
    volumes += NOISE * random.standard_normal(volumes.shape, np.float32)
    gain = random.uniform(300, 1500, len(patients)).astype(np.float32)  # units differ from scanner to scanner
    first = 0 if part == "train" else PATIENTS["train"]  # no patient is in both parts
    return (volumes * gain[:, None, None, None])[..., None], structures, labels, first + patients
