"""EEG windows to batches: any number of channels side by side, each with its place on the head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from anyjepa.domains.eeg_samples import PLACE

__all__ = ["Windows", "beside", "some_channels"]

Windows = Sequence[np.ndarray] | np.ndarray


def beside(windows: Windows) -> dict[str, Tensor]:
    """Windows (channels, 3 + time), as `EegSamples.read` gives them, as one batch.

    Returns:
        ``eeg`` (n, channels, time) float32 volts, ``positions`` (n, channels, 3) float32 metres, ``present``
        (n, channels) bool; what fills a window up to the most channels is zero and not present.
    """
    channels = max(len(window) for window in windows)
    points = len(windows[0][0])
    whole = np.zeros((len(windows), channels, points), np.float32)
    present = np.zeros((len(windows), channels), bool)
    for place, there, window in zip(whole, present, windows, strict=True):
        place[: len(window)] = window
        there[: len(window)] = True
    return {
        "eeg": torch.from_numpy(whole[:, :, PLACE:]),
        "positions": torch.from_numpy(whole[:, :, :PLACE].copy()),
        "present": torch.from_numpy(present),
    }


def some_channels(
    windows: Windows, uniforms: Float64[np.ndarray, " samples"], most: int
) -> list[np.ndarray] | np.ndarray:
    """At most so many channels of each window, drawn by its chance, in their own order; 0 for all."""
    if not most or max(len(window) for window in windows) <= most:
        return windows if isinstance(windows, np.ndarray) else list(windows)
    chosen = []
    for window, chance in zip(windows, uniforms, strict=True):
        order = np.random.default_rng(int(chance * 2**53)).permutation(len(window))
        chosen.append(window[np.sort(order[:most])])
    return chosen
