"""Whether a run is still being trained: by its settings, its process, and how long it has been silent."""

import os
import re
import socket
import subprocess
import sys
import time

import pytest
from small import struck

from anyjepa.core.errors import UserError
from anyjepa.engine.folder import read_config, state
from anyjepa.engine.lock import sole_owner
from anyjepa.engine.run import write_config

TRAINING = {"status": "training"}


@pytest.fixture
def run(tmp_path):
    """A folder that a process of some machine has held since some time ago."""

    def made(process, machine=None, ago=3000.0):
        holder = tmp_path / ".holder"
        holder.write_text(f"{process} on {machine or socket.gethostname()}")
        os.utime(holder, (time.time() - ago,) * 2)
        return tmp_path

    return made


def ended():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def began(number):
    """When a process began, in seconds since 1970."""
    with open(f"/proc/{number}/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/stat") as file:
        booted = int(re.search(r"btime (\d+)", file.read())[1])
    return booted + ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("said", ["finished", "stopped", "imported"])
def test_what_the_settings_say_is_so(run, said):
    assert state(run(os.getpid()), {"status": said}) == said


def test_the_process_decides_on_this_machine(run):
    assert state(run(os.getpid(), ago=0), TRAINING) == "training"


def test_a_process_that_is_gone_has_died(run):
    assert state(run(ended(), ago=0), TRAINING) == "died"


def test_a_later_process_with_the_same_number_is_another(run):
    assert state(run(os.getpid(), ago=time.time() - began(os.getpid()) + 100), TRAINING) == "died"


def test_a_training_that_nobody_holds_has_died(tmp_path):
    assert state(tmp_path, TRAINING) == "died"


@pytest.mark.parametrize("process", ["9" * 30, "", "x", "-1"])
def test_a_holder_of_another_shape_is_no_process(run, process):
    assert state(run(process), TRAINING) == "died"


def test_on_another_machine_silence_decides(run):
    path = run(ended(), machine="other.example.org", ago=1000)
    assert state(path, TRAINING) == "died"
    (path / "metrics.jsonl").touch()
    assert state(path, TRAINING) == "training"


def test_it_reads_what_the_owner_of_a_run_writes(tmp_path):
    with sole_owner(tmp_path):
        assert state(tmp_path, TRAINING) == "training"
    assert state(tmp_path, TRAINING) == "died"


@pytest.mark.slow
def test_kill_leaves_a_run_that_has_died(tmp_path):
    import signal

    from small import picture_folder

    data = picture_folder(tmp_path / "data")
    path = tmp_path / "run"
    seen = []
    blow, real = signal.SIGKILL, os.kill

    def watched(number, what):
        if what == blow:  # rather than asking whether the process lives
            seen.append(state(path, read_config(path)))
        real(number, what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("small.os.kill", watched)
        struck(path, data, blow, rows=3, steps=100_000)
    assert seen[0] == "training"
    assert state(path, read_config(path)) == "died"


def test_settings_survive_writing_and_reading(tmp_path):
    config = {"recipe": "x", "fields": {"a": [1, 2.5]}, "seed": 0, "steps": 3, "data": {"source": None}}
    write_config(tmp_path, config)
    assert read_config(tmp_path) == config


@pytest.mark.parametrize(
    "content", [b"", b"a: [", b"- 1", b"recipe: x", b"\xff\xfe\x00", b"!!python/object:x {}"]
)
def test_settings_that_are_none(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match="restore it from a copy"):
        read_config(tmp_path)
