"""How a volume lies in the body: brought to one orientation and one spacing.

Places are in millimetres towards the patient's left, back and head (LPS, as in DICOM; NIfTI has right and
front instead of the first two).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PLANES", "Scan", "canonical", "length_at", "resampled"]

# which directions (0 left, 1 back, 2 head) slices, rows and columns run in, and the sign of each: pictures
# are as radiologists hang them, the patient's right on the left
PLANES: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "axial": ((2, 1), (1, 1), (0, 1)),
    "coronal": ((1, 1), (2, -1), (0, 1)),
    "sagittal": ((0, 1), (2, -1), (1, 1)),
}
ALIKE = 0.02  # share by which spacings may differ and count as the same


@dataclass(frozen=True)
class Scan:
    """Values with the directions of their axes.

    Args:
        values: (a, b, c, channels), in the order in which they lie in the file.
        axes: (3, 3): row i is the step of axis i in millimetres towards left, back and head.
    """

    values: np.ndarray
    axes: np.ndarray


def canonical(scan: Scan, plane: str) -> tuple[np.ndarray, tuple[float, float, float]]:
    """(slices, rows, columns, channels), and the millimetres from one to the next along each.

    Axes are exchanged and turned round, never mixed: a scan that lies askew stays so, by less than 45 degrees
    where its axes are square to one another.
    """
    order: dict[int, int] = {}
    signs: dict[int, int] = {}
    directions = scan.axes / np.linalg.norm(scan.axes, axis=1, keepdims=True)
    # the clearest direction first, so that two axes askew cannot both be the same
    for _ in range(3):
        taken = list(order.values())
        free = [world for world in range(3) if world not in order]
        pairs = [(axis, world) for axis in range(3) if axis not in taken for world in free]
        axis, world = max(pairs, key=lambda pair: abs(directions[pair]))
        order[world], signs[world] = axis, 1 if directions[axis, world] >= 0 else -1
    chosen = [order[world] for world, _ in PLANES[plane]]
    values = scan.values.transpose(*chosen, 3)
    flips = tuple(slice(None, None, signs[world] * sign) for world, sign in PLANES[plane])
    spacing = np.linalg.norm(scan.axes, axis=1)[chosen]
    return values[flips], (float(spacing[0]), float(spacing[1]), float(spacing[2]))


def length_at(count: int, own: float, wanted: float) -> int:
    """How many places there are along an axis of `count` places at another spacing."""
    return count if abs(own / wanted - 1) <= ALIKE else max(1, round(count * own / wanted))


def resampled(
    values: np.ndarray, spacing: Sequence[float], wanted: Sequence[float], labels: bool = False
) -> np.ndarray:
    """Values (slices, rows, columns, channels) at another spacing in millimetres, the middle staying.

    Along an axis that becomes coarser values are averaged over a triangle as wide as two new steps; along one
    that becomes finer they are joined by straight lines. Labels are taken from the nearest place.
    """
    for axis, (own, asked) in enumerate(zip(spacing, wanted, strict=True)):
        if abs(own / asked - 1) <= ALIKE:
            continue
        count = values.shape[axis]
        length = length_at(count, own, asked)
        place = (np.arange(length) - (length - 1) / 2) * asked / own + (count - 1) / 2
        if labels:
            values = values.take(np.clip(np.rint(place), 0, count - 1).astype(int), axis=axis)
            continue
        width = max(1.0, asked / own)
        weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(count)) / width)
        outside = weights.sum(axis=1) <= 0
        weights[outside, np.clip(np.rint(place[outside]), 0, count - 1).astype(int)] = 1
        weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        values = np.moveaxis(np.tensordot(weights, values.astype(np.float32), (1, axis)), 0, axis)
    return values
