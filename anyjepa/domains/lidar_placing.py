"""Frames turned, mirrored and scaled by chance, and put into batches of one number of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Change", "Variation", "batch_of", "turned_boxes", "turned_points"]


@dataclass(frozen=True)
class Change:
    """What is done to one frame: mirrored across the forward or the sideways axis, turned, scaled."""

    across: bool = False
    along: bool = False
    angle: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Variation:
    """How frames vary in training.

    Args:
        mirror: chances that left and right, and that front and back change places.
        rotation: largest turn about the vertical in degrees, either way.
        scale: (low, high) factors.
    """

    mirror: tuple[float, float]
    rotation: float
    scale: tuple[float, float]

    def drawn(self, uniforms: Float[np.ndarray, "frames 16"]) -> list[Change]:
        """The change of each frame by its own chance."""
        reach, (low, high) = np.deg2rad(self.rotation), self.scale
        return [
            Change(
                bool(row[0] < self.mirror[0]), bool(row[1] < self.mirror[1]),
                float((2 * row[2] - 1) * reach), float(low + (high - low) * row[3]),
            )
            for row in uniforms
        ]  # fmt: skip


def turned_points(points: Float[np.ndarray, "points columns"], change: Change) -> np.ndarray:
    """Points after a change; their other columns stay."""
    found = np.array(points, np.float32)
    found[:, :2] = _turned(found[:, :2], change)
    found[:, 2] *= change.scale
    return found


def turned_boxes(boxes: Float[np.ndarray, "boxes 7"], change: Change) -> np.ndarray:
    """Boxes after the same change."""
    found = np.array(boxes, np.float32)
    found[:, :2] = _turned(found[:, :2], change)
    found[:, 2:6] *= change.scale
    angle = -found[:, 6] if change.across else found[:, 6]
    angle = np.pi - angle if change.along else angle
    found[:, 6] = (angle + change.angle + np.pi) % (2 * np.pi) - np.pi
    return found


def _turned(places: np.ndarray, change: Change) -> np.ndarray:
    signs = np.array([-1.0 if change.along else 1.0, -1.0 if change.across else 1.0])
    cosine, sine = np.cos(change.angle), np.sin(change.angle)
    matrix = change.scale * np.array([[cosine, -sine], [sine, cosine]]) * signs
    return (places @ matrix.T).astype(np.float32)


def batch_of(
    frames: Sequence[np.ndarray],
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    count: int,
    chances: np.ndarray | None = None,
) -> dict[str, Tensor]:
    """{"points": (n, count, 4) float32, "present": (n, count) bool}: what lies in range, then empty rows.

    Args:
        frames: (any, 4) each.
        low, high: corners of the range in metres.
        count: of points; of a frame that has more, some are drawn by chance, or evenly where there is none.
        chances: (n,) in [0, 1) of each frame.
    """
    points = np.zeros((len(frames), count, 4), np.float32)
    present = np.zeros((len(frames), count), bool)
    for row, frame in enumerate(frames):
        kept = np.asarray(frame, np.float32)
        kept = kept[((kept[:, :3] >= low) & (kept[:, :3] < high)).all(axis=1)]
        if len(kept) > count:
            if chances is None:
                chosen = np.linspace(0, len(kept) - 1, count).astype(int)
            else:
                random = np.random.default_rng(int(chances[row] * 2**53))
                chosen = random.choice(len(kept), count, replace=False)
            kept = kept[chosen]
        points[row, : len(kept)], present[row, : len(kept)] = kept, True
    return {"points": torch.from_numpy(points), "present": torch.from_numpy(present)}
