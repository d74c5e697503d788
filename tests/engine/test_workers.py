"""Loader processes that die, crash or hang cost time, at most one sample, and no batch."""

import os
import signal
import time

import pytest
import torch
from test_loading import Marked, numbers, steps_of

import anyjepa.engine.workers as workers_module
from anyjepa.core.errors import BadSample, UserError
from anyjepa.engine.patience import time_limit
from anyjepa.engine.workers import batches


@pytest.fixture(autouse=True)
def ask_often(monkeypatch):
    monkeypatch.setattr(workers_module, "CHECK", 0.5)


class Deadly(Marked):
    """Reading one sample ends the process, the first `times` times."""

    def __init__(self, count, folder, index, times, how):
        super().__init__(count)
        self.folder, self.index, self.times, self.how = folder, index, times, how

    def read(self, index):
        if index == self.index and len(list(self.folder.iterdir())) < self.times:
            (self.folder / str(time.monotonic_ns())).touch()
            os.kill(os.getpid(), self.how)
        return super().read(index)


class Hanging(Marked):
    """Reading one sample takes for ever; deaf: not even an alarm ends it, as in a library's own loop."""

    def __init__(self, count, index, deaf):
        super().__init__(count)
        self.index, self.deaf = index, deaf

    def read(self, index):
        if index == self.index:
            if self.deaf:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            time.sleep(600)
        return super().read(index)


def expected(count, lost=()):
    return [numbers(batch) for batch, _ in batches(steps_of(Marked(count, damaged=lost)), 0, 0, pin=False)]


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.slow)])
def test_a_process_that_dies_once_is_replaced_and_the_batches_are_the_same(tmp_path, how):
    loaded = list(batches(steps_of(Deadly(30, tmp_path, 7, 1, how)), 0, 2, pin=False))
    assert [numbers(batch) for batch, _ in loaded] == expected(30)
    assert not any(problems for _, problems in loaded)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_sample_that_two_processes_die_over_is_left_out_and_named(tmp_path):
    handler = signal.getsignal(signal.SIGCHLD)
    loaded = list(batches(steps_of(Deadly(30, tmp_path, 7, 99, signal.SIGSEGV)), 0, 2, pin=False))
    assert [numbers(batch) for batch, _ in loaded] == expected(30, lost=[7])
    assert {str(p) for _, problems in loaded for p in problems} == {
        "sample 7: the process that read it died 2 times"
    }
    assert signal.getsignal(signal.SIGCHLD) is handler


@pytest.mark.slow
def test_processes_that_keep_dying_are_one_sentence(tmp_path):
    class Fatal(Marked):
        def read(self, index):
            os._exit(1)

    steps = steps_of(Fatal(3000), batch_size=1, steps=3000)
    with pytest.raises(UserError, match=r"loader processes died 6 times in a row, .* --workers 0"):
        list(batches(steps, 0, 1, pin=False))


@pytest.mark.parametrize(
    ("deaf", "workers"), [(False, 0), pytest.param(False, 1, marks=pytest.mark.slow), (True, 1)]
)
def test_a_sample_that_hangs_is_left_out_and_named(deaf, workers):
    steps = steps_of(Hanging(30, 7, deaf))
    steps.patience = 0.5
    loaded = list(batches(steps, 0, workers, pin=False))
    assert [numbers(batch) for batch, _ in loaded] == expected(30, lost=[7])
    assert {str(p) for _, problems in loaded for p in problems} == {
        "sample 7: reading it took longer than 0.5 s"
    }


def test_a_limit_of_time_leaves_the_alarm_of_others_as_it_was():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(BadSample), time_limit(0.05, Marked(3), 1):
            time.sleep(1)
        assert not rung
        time.sleep(0.5)
        assert rung
    finally:
        signal.signal(signal.SIGALRM, before)


def test_what_is_loaded_is_the_same_when_a_loader_process_is_killed(tmp_path):
    """To the last pixel, summed in double precision."""
    steps = steps_of(Deadly(30, tmp_path, 7, 1, signal.SIGKILL))
    summed = sum(
        (batch["image"].double().sum() for batch, _ in batches(steps, 0, 1, pin=False)), torch.zeros(())
    )
    whole = sum(
        (batch["image"].double().sum() for batch, _ in batches(steps_of(Marked(30)), 0, 0, pin=False)),
        torch.zeros(()),
    )
    assert summed == whole
