"""Being told to stop: finish the step, save, and leave; while waiting for a batch, at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Told(BaseException):
    """Raised out of a wait that a signal ends; no Exception, so that no reader takes it for damage."""


class StopSignals:
    """The signals received so far, and whether one is to end what is going on.

    Attributes: number: of the first, 0 where there was none.
    """

    def __init__(self) -> None:
        self.number, self._waiting = 0, False

    def __bool__(self) -> bool:
        return self.number != 0

    def receive(self, number: int) -> None:
        """Note a signal; raises Told where it comes while `waiting`."""
        self.number = self.number or number
        if self._waiting:
            self._waiting = False
            raise Told

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done within may be given up at any point: a signal raises Told."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second one of a kind acts as usual."""
    received = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, _frame: Any) -> None:
        signal.signal(number, previous[signal.Signals(number)])
        received.receive(number)

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Ended(BaseException):
    """SIGTERM, as an exception that lets what is half-written be cleaned away."""


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Within, SIGTERM raises Ended instead of ending the process where it stands."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Ended

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
