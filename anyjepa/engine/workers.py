"""Loader processes that may die or hang: what they were reading is left out, and the same batches come."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from anyjepa.core.errors import UserError
from anyjepa.engine.loading import Loaded, Steps

DEATHS = 5  # without a batch in between, after which it is no accident
CHECK = 3.0  # seconds without a batch after which it is asked who is dead or hangs
CHANCES = 2  # deaths over one sample after which it counts as damaged


def batches(
    steps: Steps,
    start: int,
    workers: int,
    pin: bool,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Loaded]:
    """Batches of the steps after `start`, loaded ahead by `workers` processes (0: in this one).

    A process that dies (a decoder's crash, the system short of memory) or hangs is replaced, and the same
    steps are loaded again. A sample that one hangs over, or two die over, counts as damaged. What is loaded
    is waited for within `waiting`, which may end that by an exception.

    Raises:
        UserError: samples cannot be read, see `read_many`; or loader processes keep dying.
    """
    if not workers:
        for step in range(start, len(steps)):
            with waiting():
                batch, problems = steps[step]
            yield ({name: part.pin_memory() for name, part in batch.items()} if pin else batch), problems
        return
    deaths, over = 0, Counter[int]()
    while start < len(steps):
        crew, done = _Crew(steps, start, workers, pin, waiting), False
        try:
            for item in crew:
                if isinstance(item, UserError):
                    raise item
                yield item
                start, deaths = start + 1, 0
            done = True
            return
        except _Lost as loss:
            deaths += 1
            if deaths > DEATHS:
                raise UserError(
                    f"loader processes died {deaths} times in a row, most often because memory is short: "
                    "use fewer with --workers 1, or none with --workers 0."
                ) from None
            for index, hung in loss.reading.items():
                over[index] += CHANCES if hung else 1
                if over[index] >= CHANCES and index not in steps.lost:
                    steps.lost[index] = (
                        f"reading it took longer than {steps.patience:g} s"
                        if hung
                        else f"the process that read it died {over[index]} times"
                    )
        finally:
            crew.dismiss(at_once=not done)


class _Lost(Exception):
    """Processes are gone; what they were reading, and whether they hung over it."""

    def __init__(self, reading: dict[int, bool]) -> None:
        super().__init__(reading)
        self.reading = reading


class _Crew:
    """One set of loader processes."""

    def __init__(
        self,
        steps: Steps,
        start: int,
        workers: int,
        pin: bool,
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.patience, self.waiting = steps.patience, waiting
        # index that each is reading, -1 for none, and since when
        self.reading = torch.full((workers, 2), -1.0, dtype=torch.float64).share_memory_()
        loader = DataLoader(
            _Watched(steps, self.reading),
            batch_size=None,
            sampler=range(start, len(steps)),
            num_workers=workers,
            prefetch_factor=4,
            pin_memory=pin,
            generator=torch.Generator(),  # its own, so that iterating leaves the global one alone
            worker_init_fn=_leave_signals_to_the_run,
            timeout=CHECK,
        )
        self.handler = _without_child_handler()
        # the garbage collector writes to every object it looks at: in the processes it shall leave alone what
        # is there now, for each page that is written to becomes a copy
        gc.collect()
        gc.freeze()
        self.loading: Any = iter(loader)
        gc.unfreeze()
        _without_child_handler()

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                with self.waiting():
                    item = next(self.loading)
                yield item
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as problem:
                if hung := self._hung():
                    raise _Lost(hung) from problem
                dead = [not process.is_alive() for process in self.loading._workers]
                if any(dead):
                    raise _Lost(self._read_by(dead)) from problem
                if "timed out" not in str(problem):
                    raise

    def _hung(self) -> dict[int, bool]:
        now = time.monotonic()
        return {
            int(index): True
            for index, since in self.reading.tolist()
            # a sample's own alarm rings first; this is for what no alarm reaches
            if self.patience and index >= 0 and now - since > 1.5 * self.patience
        }

    def _read_by(self, chosen: list[bool]) -> dict[int, bool]:
        rows = zip(self.reading.tolist(), chosen, strict=True)
        return {int(index): False for (index, _), wanted in rows if index >= 0 and wanted}

    def dismiss(self, at_once: bool) -> None:
        """End the processes; `at_once` also those that are reading, hang or are deaf to milder signals."""
        if at_once:
            for process in self.loading._workers:
                process.kill()
        # left to the garbage collector, they would not be told to leave in time
        del self.loading
        if self.handler is not None:
            signal.signal(signal.SIGCHLD, self.handler)


class _Watched(Dataset):
    """The same items, and word of what is being read; a UserError comes as an item, not as a traceback."""

    def __init__(self, steps: Steps, reading: torch.Tensor) -> None:
        self.steps, self.reading = steps, reading

    def __getitem__(self, step: int) -> Loaded | UserError:
        worker = get_worker_info()
        place = self.reading[worker.id if worker else 0]

        def begun(index: int) -> None:
            place[0], place[1] = index, time.monotonic()

        self.steps.begun = begun
        try:
            return self.steps[step]
        except UserError as mistake:
            return mistake
        finally:
            place[0] = -1.0


def _without_child_handler() -> Any:
    """Take off the handler of SIGCHLD and return it, None where that cannot be done.

    Torch's raises wherever the run happens to be when a process dies, even between two updates of weights.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return None
    return signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _leave_signals_to_the_run(_worker: int) -> None:
    # Ctrl-C and a batch system's SIGTERM reach the whole group; a worker that died of it would keep the run
    # from writing its last checkpoint
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _pass_over_one)


def _pass_over_one(number: int, _frame: Any) -> None:
    # the next one is the run's own, which wants its workers gone
    signal.signal(number, signal.SIG_DFL)
