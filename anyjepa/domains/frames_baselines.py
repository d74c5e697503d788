"""Optical flow as OpenCV computes it, without learning: what a learned one stands beside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anyjepa.core.errors import require

__all__ = ["BASELINES", "dis", "farneback", "grey"]

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
SMALLEST = 16  # pixels a side below which DIS finds no patches


def grey(pair: np.ndarray) -> np.ndarray:
    """(2, height, width) uint8 of a pair (2, height, width, channels); what is not 8-bit is stretched."""
    values = pair.astype(np.float32)
    values = values @ np.array(LUMA, np.float32) if pair.shape[3] == 3 else values.mean(axis=3)
    if pair.dtype != np.uint8:
        low, high = np.percentile(values, [1, 99])
        values = 255 * (values - low) / max(float(high - low), 1e-12)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def farneback(pair: np.ndarray) -> np.ndarray:
    """Farnebäck 2003, as OpenCV's own example sets it: (height, width, 2) float32 pixels of a pair."""
    first, second = grey(pair)
    library = require("cv2", "flow")
    return library.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)


def dis(pair: np.ndarray) -> np.ndarray:
    """DIS (Kroeger et al. 2016), by inverse search of patches, at OpenCV's medium setting: as above."""
    first, second = grey(pair)
    library = require("cv2", "flow")
    height, width = first.shape
    more = [(0, max(0, SMALLEST - height)), (0, max(0, SMALLEST - width))]
    first, second = (np.pad(one, more, mode="edge") for one in (first, second))
    search = library.DISOpticalFlow_create(library.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return search.calc(first, second, None)[:height, :width]


BASELINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"farneback": farneback, "dis": dis}
