"""Told to stop, a command leaves within seconds, keeps what was done, and leaves nothing half-written."""

import json
import os
import signal
import time

import numpy as np
import pytest
from small import lines, picture_folder, pictures, same_to_the_bit, train_small

from anyjepa.cli import main
from anyjepa.engine.checkpoint import checkpoints
from anyjepa.engine.folder import read_config
from anyjepa.engine.loading import Steps
from anyjepa.engine.loop import Training
from anyjepa.engine.run import Run

STEPS = 40
SOON = 5.0  # seconds


def forked(body, result):
    """The process that runs `body` and writes what it gives."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.setsid()
            # a shell starts what it puts into the background deaf to Ctrl-C, and children inherit that
            signal.signal(signal.SIGINT, signal.default_int_handler)
            result.write_text(json.dumps(body()))
            code = 0
        finally:
            os._exit(code)
    return process


def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def hanging_from(step, deaf):
    """Loading waits for ever once a step is reached; `deaf` to whatever can be blocked."""
    load = Steps.__getitem__

    def hang(self, index):
        if index >= step:
            if deaf:
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(100)
        return load(self, index)

    Steps.__getitem__ = hang


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "pictures.npy", pictures())
    return str(tmp_path / "pictures.npy")


@pytest.mark.parametrize(
    ("workers", "deaf", "blow"),
    [
        (0, False, signal.SIGTERM),
        (1, True, signal.SIGINT),
        pytest.param(0, False, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(1, False, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(1, False, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(1, True, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_waits_for_its_loader_leaves_at_once(tmp_path, data, blow, workers, deaf):
    out = tmp_path / "run"

    def train():
        hanging_from(4, deaf)
        return train_small(out, data, steps=STEPS, workers=workers)

    process = forked(train, tmp_path / "result.json")
    ends = time.monotonic() + 30
    while lines(out / "metrics.jsonl") < 4 and time.monotonic() < ends:
        time.sleep(0.01)
    time.sleep(0.2)
    began = time.monotonic()
    os.kill(process, blow)
    assert ended(process) == 0
    assert time.monotonic() - began < SOON
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["steps"], result["stopped_by"]) == (4, blow)
    assert [path.name for path in checkpoints(out / "checkpoints")] == ["step-000000004"]
    assert read_config(out)["status"] == "stopped"
    train_small(out, data, resume=True, fields={}, steps=None)
    train_small(tmp_path / "whole", data, steps=STEPS)
    assert same_to_the_bit(out, tmp_path / "whole")


def test_a_run_told_before_its_first_batch_leaves_and_can_begin_again(tmp_path, data):
    out = tmp_path / "run"

    def train():
        hanging_from(0, deaf=False)
        introduce = Training._introduce

        def told_soon(self, complaints):
            introduce(self, complaints)
            if os.fork() == 0:
                time.sleep(0.5)
                os.kill(os.getppid(), signal.SIGTERM)
                os._exit(0)

        Training._introduce = told_soon
        return train_small(out, data, steps=STEPS)

    assert ended(forked(train, tmp_path / "result.json")) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["steps"], result["stopped_by"]) == (0, signal.SIGTERM)
    assert not checkpoints(out / "checkpoints")
    train_small(out, data, resume=True, fields={}, steps=None)
    train_small(tmp_path / "whole", data, steps=STEPS)
    assert same_to_the_bit(out, tmp_path / "whole")


@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGINT])
def test_a_run_told_in_the_first_step_after_it_went_on(tmp_path, data, blow):
    out = tmp_path / "run"
    train_small(tmp_path / "whole", data, steps=6)

    def train():
        step = Training._step

        def told(self, batch, number, values):
            if number == self.start + 1:
                os.kill(os.getpid(), blow)
            return step(self, batch, number, values)

        Training._step = told
        return [train_small(out, data, resume=True, steps=6) for _ in range(3)]

    assert ended(forked(train, tmp_path / "result.json")) == 0
    results = json.loads((tmp_path / "result.json").read_text())
    assert [result["steps"] for result in results] == [1, 2, 3]
    assert lines(out / "metrics.jsonl") == 3
    train_small(out, data, resume=True, fields={}, steps=None)
    assert same_to_the_bit(out, tmp_path / "whole")


def everything_in(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "typed",
    [
        ("embed", "RUN", "--out", "OUT/e.parquet"),
        ("embed", "RUN", "--out", "OUT/e.npy"),
        ("evaluate", "RUN", "--data", "DATA"),
        ("report", "RUN"),
        ("inspect", "RUN"),
    ],
)
def test_a_command_told_in_its_midst_leaves_nothing_half_written(tmp_path, capfd, blow, typed):
    folder, out = picture_folder(tmp_path / "data", 24), tmp_path / "out"
    train_small(tmp_path / "run", str(folder), steps=1)
    out.mkdir()
    before = everything_in(tmp_path / "run")
    places = {"RUN": str(tmp_path / "run"), "DATA": str(folder)}
    words = [places.get(word, word.replace("OUT", str(out))) for word in typed]

    def called():
        batches = Run.batches

        def told(self, samples, indices=None, batch_size=256):
            for number, found in enumerate(batches(self, samples, indices, 8)):
                if number == 1:
                    os.kill(os.getpid(), blow)
                yield found

        Run.batches = told
        return main(words)

    assert ended(forked(called, tmp_path / "result.json")) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == 128 + blow
    said = capfd.readouterr().err
    assert said.strip().splitlines()[-1] == "stopped."
    assert "Traceback" not in said
    assert everything_in(out) == {}
    assert everything_in(tmp_path / "run") == before
