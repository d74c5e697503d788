"""Average precision by KITTI's definition: recall is sampled evenly, and some objects count for nobody.

Of each frame it needs how detections and true objects overlap, which of both are to be ignored (too small,
hidden, or of a class that may be mistaken), and the scores. Written from the definition of the benchmark:
Geiger, Lenz, Urtasun 2012, and 40 places instead of 11 after Simonelli et al. 2019 (arXiv:1905.12365).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["Matched", "average_precision", "matched", "precisions"]

PLACES = 41  # of recall, from 0 to 1


@dataclass(frozen=True)
class Matched:
    """What a frame's detections make of its objects, for every threshold that its own scores allow.

    truths: objects that count. found: scores of the detections that hit one where none is thresholded.
    scores: of its detections, highest first. right, wrong: (detections + 1,) hits and false alarms when the
    first so many detections are kept.
    """

    truths: int
    found: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    wrong: np.ndarray


def matched(
    overlap: Float[np.ndarray, "detections truths"],
    scores: Float[np.ndarray, " detections"],
    least: float,
    ignored_truths: Bool[np.ndarray, " truths"] | None = None,
    ignored_detections: Bool[np.ndarray, " detections"] | None = None,
) -> Matched:
    """Give each true object of a frame at most one detection, and each detection at most one object.

    Args:
        overlap: of each pair, 0 to 1.
        scores: of the detections.
        least: overlap that a hit must exceed.
        ignored_truths: objects that need not be found; what hits them is no false alarm.
        ignored_detections: that are neither hits nor false alarms, such as those that are too small.
    """
    detections, truths = overlap.shape
    hidden = np.zeros(truths, bool) if ignored_truths is None else ignored_truths
    small = np.zeros(detections, bool) if ignored_detections is None else ignored_detections
    order = np.argsort(-scores, kind="stable")
    overlap, scores, small = overlap[order], scores[order], small[order]
    hits = overlap > least
    found = _scores_found(hits, scores, hidden, small)
    right, wrong = np.zeros(detections + 1, np.int64), np.zeros(detections + 1, np.int64)
    for kept in range(1, detections + 1):
        right[kept], wrong[kept] = _counted(overlap[:kept], hits[:kept], hidden, small[:kept])
    return Matched(int((~hidden).sum()), found, scores, right, wrong)


def _scores_found(hits: np.ndarray, scores: np.ndarray, hidden: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Each object takes the best-scored detection that hits it and is still free."""
    free, found = np.ones(len(scores), bool), []
    for truth in range(hits.shape[1]):
        able = np.flatnonzero(hits[:, truth] & free)
        if not len(able):
            continue
        free[able[0]] = False  # scores fall
        if not hidden[truth] and not small[able[0]]:
            found.append(scores[able[0]])
    return np.array(found, np.float64)


def _counted(overlap: np.ndarray, hits: np.ndarray, hidden: np.ndarray, small: np.ndarray) -> tuple[int, int]:
    """Hits and false alarms; each object takes the free detection of greatest overlap, ignored ones last."""
    free, right = np.ones(len(overlap), bool), 0
    for truth in range(hits.shape[1]):
        able = np.flatnonzero(hits[:, truth] & free)
        if not len(able):
            continue
        whole = able[~small[able]]
        taken = whole[np.argmax(overlap[whole, truth])] if len(whole) else able[0]
        free[taken] = False
        right += bool(not hidden[truth] and not small[taken])
    return right, int((free & ~small).sum())


def _thresholds(found: np.ndarray, truths: int) -> np.ndarray:
    """Scores at which recall comes nearest to each of 41 even places, highest first."""
    chosen, recall = [], 0.0
    for place, score in enumerate(found):
        left = (place + 1) / truths
        right = (place + 2) / truths if place + 1 < len(found) else left
        if right - recall < recall - left and place + 1 < len(found):
            continue
        chosen.append(score)
        recall += 1 / (PLACES - 1)
    return np.array(chosen[:PLACES])


def precisions(frames: Sequence[Matched]) -> Float[np.ndarray, " 41"]:
    """Precision at 41 even places of recall: at each, the best that is had there or further on; 0 beyond."""
    truths = sum(frame.truths for frame in frames)
    result = np.zeros(PLACES)
    found = np.sort(np.concatenate([frame.found for frame in frames]))[::-1] if frames else np.empty(0)
    if not truths or not len(found):
        return result
    limits = _thresholds(found, truths)
    right, wrong = np.zeros(len(limits)), np.zeros(len(limits))
    for frame in frames:
        kept = np.searchsorted(-frame.scores, -limits, side="right")
        right += frame.right[kept]
        wrong += frame.wrong[kept]
    values = right / np.maximum(right + wrong, 1)
    result[: len(values)] = np.maximum.accumulate(values[::-1])[::-1]
    return result


def average_precision(frames: Sequence[Matched], places: int = 40) -> float:
    """Mean precision, 0 to 1, over 40 places of recall (without 0) or 11 (with it); NaN if there is no truth.

    As the benchmark counts, n objects allow n thresholds: of fewer than 41 even perfect detections fall short
    of 1.

    Raises:
        ValueError: another number of places.
    """
    if places not in (11, 40):
        raise ValueError(f"precision is averaged over 11 or 40 places, not {places}")
    if not any(frame.truths for frame in frames):
        return float("nan")
    found = precisions(frames)
    return float(found[::4].mean() if places == 11 else found[1:].mean())
