"""Runs to batches: random crops for training, whole runs side by side for use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

__all__ = ["random_crops", "side_by_side"]

Series = Sequence[np.ndarray] | np.ndarray


def random_crops(
    runs: Series, uniforms: Float64[np.ndarray, " samples"], points: int, every: int = 1, multiple: int = 1
) -> dict[str, Tensor]:
    """A crop of each run (regions, time), its start drawn evenly from all that there are.

    Args:
        runs: series, NaN in regions that were not recorded.
        uniforms: (n,) chance of each in [0, 1).
        points: of a crop; fewer where the shortest run is too short for so many.
        every: how many stored points later the next one of a crop lies.
        multiple: the length is cut down to a multiple of it.

    Returns:
        ``bold`` (n, regions, points) float32, zeros in regions that were not recorded; ``recorded`` (n,
        regions) bool.
    """
    shortest = min(row.shape[1] for row in runs)
    points = min(points, (shortest - 1) // every + 1) // multiple * multiple
    span = (points - 1) * every + 1
    starts = [int(u * (row.shape[1] - span + 1)) for row, u in zip(runs, uniforms, strict=True)]
    crops = [row[:, start : start + span : every] for row, start in zip(runs, starts, strict=True)]
    return _without_gaps(np.stack(crops).astype(np.float32, copy=False))


def side_by_side(runs: Series) -> dict[str, Tensor]:
    """Whole runs, shorter ones filled up with zeros at the end, ``recorded``, and ``length`` (n,) int64."""
    lengths = np.array([row.shape[1] for row in runs], np.int64)
    whole = np.zeros((len(runs), len(runs[0]), int(lengths.max())), np.float32)
    for place, row in zip(whole, runs, strict=True):
        place[:, : row.shape[1]] = row
    return _without_gaps(whole) | {"length": torch.from_numpy(lengths)}


def _without_gaps(series: np.ndarray) -> dict[str, Tensor]:
    # a region was recorded throughout or not at all, so its first point tells
    recorded = ~np.isnan(series[:, :, 0])
    return {
        "bold": torch.from_numpy(np.where(recorded[:, :, None], series, np.float32(0))),
        "recorded": torch.from_numpy(recorded),
    }
