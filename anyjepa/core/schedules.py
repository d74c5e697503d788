"""What changes as training goes, as pure functions of the step: resuming needs no state."""

from __future__ import annotations

import math


def linear(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at progress 1, in a straight line."""
    return start + (end - start) * progress


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at progress 1, along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_cosine(step: int, steps: int, warmup_steps: int, start: float, peak: float, end: float) -> float:
    """Linear rise from `start` to `peak`, then half a cosine down to `end`.

    Args:
        step: counted from 1; `peak` is reached at `warmup_steps` and `end` at `steps`.
        steps: of the whole training.
        warmup_steps: length of the rise, 0 for none.
        start, peak, end: values, in the unit of what is scheduled.
    """
    if step < warmup_steps:
        return linear(start, peak, step / warmup_steps)
    return cosine(peak, end, min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps)))


def trapezoid(
    step: int, steps: int, warmup_steps: int, anneal_steps: int, start: float, peak: float, end: float
) -> float:
    """Linear rise from `start` to `peak`, then constant, then a straight line down to `end`.

    Args:
        step: counted from 1; `peak` is reached at `warmup_steps` and `end` at `steps`.
        steps: of the whole training.
        warmup_steps: length of the rise, 0 for none.
        anneal_steps: length of the fall, 0 for none.
        start, peak, end: values, in the unit of what is scheduled.
    """
    if step < warmup_steps:
        return linear(start, peak, step / warmup_steps)
    left = steps - step
    return linear(peak, end, 1 - left / anneal_steps) if left < anneal_steps else peak
