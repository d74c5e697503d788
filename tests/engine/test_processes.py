"""Several processes train what one would have trained."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from small import FIELDS, KINDS, tensors_of

from anyjepa.engine.checkpoint import checkpoints
from anyjepa.engine.files import read_lines
from anyjepa.engine.team import _processes
from anyjepa.engine.train import Settings, train
from anyjepa.recipes import recipes

PROGRAM = Path(__file__).with_name("two_processes.py")
STEPS, MANY, BATCH = 5, 20, 8
CUT = ("i-jepa", "lejepa", "s-jepa")


def together(runs, folder, processes=2):
    """Train with torchrun; what went wrong is in the message."""
    asked = folder / "asked.json"
    asked.write_text(json.dumps(runs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               f"--nproc-per-node={processes}", str(PROGRAM), str(asked)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def without_dropout(kind):
    """Dropout draws from a stream of its own in every process, so that nothing is equal with it."""
    rates = {f.name: 0.0 for f in dataclasses.fields(kind) if "drop" in f.name and f.type == "float"}
    return {**rates, "batch_size": BATCH}


def asked_of(folder, name, sharded, steps=STEPS):
    """What two processes are to train of a recipe, in double precision."""
    kind, settings = recipes()[name], {"steps": steps, "precision": "64-true", "seed": 3}
    settings = {**settings, "checkpoint_every": steps, "sharded": sharded}
    out = str(folder / f"{'cut' if sharded else 'two'}-{name}")
    fields = without_dropout(kind)
    return {
        "recipe": name, "data": kind.example_data, "out": out, "settings": settings, "fields": fields
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, worker_id):
    """Where each kind of recipe was trained by two processes, three also cut; once for all that test."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "processes"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            whole = [asked_of(folder, name, False) for name in KINDS]
            together(whole + [asked_of(folder, name, True) for name in CUT], folder)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_learn_what_one_learns(folder, name):
    two_learn_as_one(folder, name, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(recipes()))
def test_two_processes_learn_what_one_learns_in_twenty_steps(tmp_path, name):
    together([asked_of(tmp_path, name, False, MANY)], tmp_path)
    two_learn_as_one(tmp_path, name, MANY)


def two_learn_as_one(folder, name, steps):
    asked = asked_of(folder, name, False, steps)
    settings = Settings(quiet=True, workers=0, device="cpu", **asked["settings"])
    train(name, asked["data"], folder / name, settings=settings, **asked["fields"])
    one, two = tensors_of(folder / name), tensors_of(folder / f"two-{name}")
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-6, rtol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
    mine, theirs = (read_lines(folder / out / "metrics.jsonl")[-1] for out in (name, f"two-{name}"))
    # Fabric hands losses back in single precision
    assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-6)
    assert theirs["rankme"] == pytest.approx(mine["rankme"], rel=1e-5)
    assert len(checkpoints(folder / f"two-{name}" / "checkpoints")) == 1


def same_weights_when_cut(folder, names):
    for name in names:
        two, cut = (load_file(folder / f"{how}-{name}" / "encoder.safetensors") for how in ("two", "cut"))
        for key, value in two.items():
            torch.testing.assert_close(
                cut[key], value, atol=1e-6, rtol=1e-6, msg=lambda m, k=f"{name} {key}": f"{k}: {m}"
            )


def test_weights_cut_over_processes_learn_the_same(folder):
    same_weights_when_cut(folder, CUT)


@pytest.mark.slow
def test_weights_cut_over_processes_learn_the_same_in_every_recipe(folder, tmp_path):
    rest = sorted(set(recipes()) - set(CUT))
    together([asked_of(tmp_path, name, cut) for name in rest for cut in (False, True)], tmp_path)
    same_weights_when_cut(tmp_path, rest)


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_of_two_processes_goes_on_with_one(folder, tmp_path, sharded, capfd):
    """The batch is the run's, not a process's, so that its number may change at any checkpoint."""
    asked = asked_of(folder, "i-jepa", sharded)
    whole = folder / "two-i-jepa"
    asked["settings"] = {
        **asked["settings"],
        "checkpoint_every": 2,
        "keep_checkpoints": 0,
    }
    together([{**asked, "out": str(tmp_path / "run")}], tmp_path)
    last, middle, first = checkpoints(tmp_path / "run" / "checkpoints")
    assert first.name == "step-000000002"
    assert len(list(first.glob("*.safetensors"))) == (2 if sharded else 1)
    shutil.rmtree(last)
    written = min(middle.glob("*.safetensors"))
    written.write_bytes(written.read_bytes()[:-1000])
    settings = Settings(workers=0, device="cpu", precision="64-true")
    train("i-jepa", asked["data"], tmp_path / "run", resume=True, settings=settings)
    assert f"checkpoint {middle.name} is damaged" in capfd.readouterr().err
    one, two = tensors_of(tmp_path / "run"), tensors_of(whole)
    for key, value in two.items():
        torch.testing.assert_close(one[key], value, atol=1e-6, rtol=1e-6)


def test_a_signal_to_one_process_stops_both_after_the_same_step(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
               "anyjepa", "train", "i-jepa", "--data", "digits", "--out", str(tmp_path / "run"),
               "--steps", "100000", "--batch-size", "16", "--log-every", "1", "--workers", "0"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    metrics, until = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and len(read_lines(metrics)) > 3) and time.monotonic() < until:
        time.sleep(0.1)
    holder = int((tmp_path / "run" / ".holder").read_text().split()[0])
    os.kill(holder, signal.SIGTERM)
    out, errors = running.communicate(timeout=60)
    rows = read_lines(metrics)
    assert len(rows) > 3, errors
    assert checkpoints(tmp_path / "run" / "checkpoints")[0].name == f"step-{rows[-1]['step']:09d}"
    assert errors.count("go on with --resume") == 1, errors
    assert out.count('"i-jepa"') <= 1
    assert out.count("next: anyjepa inspect") == 1, out


@pytest.mark.parametrize(
    ("blow", "workers", "step", "to"),
    [
        pytest.param(signal.SIGTERM, 1, 4, "torchrun", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 0, 4, "all", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 0, 4, "hanging", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 0, 0, "all", marks=pytest.mark.slow),
    ],
)
def test_processes_of_which_one_waits_for_its_loader_leave_together(tmp_path, blow, workers, step, to):
    """One goes the step that it holds with the others, which are in the middle of it, and tells them."""
    fields = {**FIELDS, "batch_size": BATCH}
    settings = {"steps": 9, "log_every": 1, "workers": workers, "precision": "64-true"}
    run = {"recipe": "i-jepa", "data": "digits", "out": str(tmp_path / "run"), "fields": fields}
    asked, say = tmp_path / "asked.json", tmp_path / "say"
    asked.write_text(json.dumps([{**run, "settings": settings, "hang": [1, step]}]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               str(PROGRAM), str(asked)]  # fmt: skip
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "SAY": str(say),
    }
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    until = time.monotonic() + 60
    while not Path(f"{say}-hangs").exists() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)
    began = time.monotonic()
    for process in {"torchrun": [running.pid], "all": ranks(running.pid), "hanging": ranks(running.pid)[1:]}[
        to
    ]:
        os.kill(process, blow)
    results = [Path(f"{say}-{rank}.json") for rank in (0, 1)]
    while not all(result.exists() for result in results) and time.monotonic() < began + 30:
        time.sleep(0.05)
    took = time.monotonic() - began
    _, errors = running.communicate(timeout=60)
    assert took < 10, errors
    told = [json.loads(result.read_text()) for result in results]
    assert [(one["steps"], one["stopped_by"]) for one in told] == [(step, blow)] * 2
    found = [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert found == ([f"step-{step:09d}"] if step else [])
    if to == "torchrun":
        settings = Settings(quiet=True, workers=0, device="cpu", steps=9, precision="64-true")
        train("i-jepa", "digits", tmp_path / "run", resume=True, settings=settings)
        train("i-jepa", "digits", tmp_path / "whole", settings=settings, **fields)
        for key, value in tensors_of(tmp_path / "whole").items():
            torch.testing.assert_close(tensors_of(tmp_path / "run")[key], value, atol=1e-6, rtol=1e-6)


def ranks(launcher):
    """Processes that torchrun started, by rank."""
    found = {}
    for child in (Path(f"/proc/{launcher}/task/{launcher}/children").read_text()).split():
        words = dict(w.partition("=")[::2] for w in Path(f"/proc/{child}/environ").read_text().split("\0"))
        if "RANK" in words:
            found[int(words["RANK"])] = int(child)
    return [found[rank] for rank in sorted(found)]


def test_a_shell_within_an_allocation_trains_alone_and_a_job_with_all_its_tasks(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    for name, found in (("bash", (1, 1)), ("training", (2, 4))):
        monkeypatch.setenv("SLURM_JOB_NAME", name)
        assert _processes(1) == found
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert _processes(1) == (3, 6)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_evenly_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
               "anyjepa", "train", "i-jepa", "--data", "digits", "--out", str(tmp_path / "run"),
               "--batch-size", "15"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode != 0
    assert done.stderr.count("a batch of 15 cannot be shared by 2 processes") == 1, done.stderr
    assert "anyjepa/cli.py" not in done.stderr
