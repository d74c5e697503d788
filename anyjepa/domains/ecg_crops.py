"""ECGs to batches: random crops for training, whole records side by side for use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

__all__ = ["random_crops", "side_by_side"]

Signals = Sequence[np.ndarray] | np.ndarray


def random_crops(
    signals: Signals, uniforms: Float64[np.ndarray, " samples"], points: int, multiple: int = 1
) -> dict[str, Tensor]:
    """A crop of each ECG (leads, time), its start drawn evenly from all that there are.

    Args:
        signals: ECGs in millivolts, NaN in leads that were not recorded.
        uniforms: (n,) chance of each in [0, 1).
        points: length of a crop; where the shortest ECG is shorter than that, its own.
        multiple: the length is cut down to a multiple of it.

    Returns:
        ``ecg`` (n, leads, length) float32, zeros in leads that were not recorded; ``recorded`` (n, leads)
        bool.
    """
    points = min(points, *(len(row[0]) for row in signals)) // multiple * multiple
    starts = [int(u * (row.shape[1] - points + 1)) for row, u in zip(signals, uniforms, strict=True)]
    crops = np.stack(
        [row[:, start : start + points] for row, start in zip(signals, starts, strict=True)]
    ).astype(np.float32, copy=False)
    return _without_gaps(crops)


def side_by_side(signals: Signals) -> dict[str, Tensor]:
    """Whole ECGs as of `random_crops`, shorter ones filled up with zeros, and their ``length`` (n,) int64."""
    lengths = np.array([row.shape[1] for row in signals], np.int64)
    whole = np.zeros((len(signals), len(signals[0]), int(lengths.max())), np.float32)
    for place, row in zip(whole, signals, strict=True):
        place[:, : row.shape[1]] = row
    return _without_gaps(whole) | {"length": torch.from_numpy(lengths)}


def _without_gaps(signals: np.ndarray) -> dict[str, Tensor]:
    """In place: the array is a copy of what was read."""
    # a lead is recorded throughout or not at all, so its first sample tells
    recorded = ~np.isnan(signals[:, :, 0])
    if not recorded.all():
        signals[~recorded] = 0
    return {"ecg": torch.from_numpy(signals), "recorded": torch.from_numpy(recorded)}
