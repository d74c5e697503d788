"""A limit on how long one sample may keep the rest waiting."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from anyjepa.core.errors import BadSample
from anyjepa.domains import Samples

PATIENCE = 60.0  # seconds that reading one sample may take before it counts as damaged


@contextmanager
def time_limit(seconds: float, samples: Samples, index: int) -> Iterator[None]:
    """End what takes longer, by an alarm of the system; outside the main thread there is no limit.

    A reader that never comes back to Python cannot be ended so: `workers.batches` ends its process.

    Raises:
        BadSample: the time is over.
    """
    timed = seconds > 0 and hasattr(signal, "SIGALRM")
    if not timed or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise BadSample(samples.identity(index), f"reading it took longer than {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, handler)
