"""Sweeps: every point once, ranked as compare ranks; killed, joined and given up trials."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small import FIELDS, pictures

from anyjepa.core.errors import UserError
from anyjepa.engine.run import read_config
from anyjepa.engine.train import Settings
from anyjepa.evaluation.comparison import compare
from anyjepa.evaluation.sweeping import parse_grid, sweep
from anyjepa.evaluation.trials import PATIENCE, Watcher

SMALL = {name: value for name, value in FIELDS.items() if name != "batch_size"}
GRID = {"batch_size": [8, 16]}


def settings(**changed):
    return Settings(**{"steps": 3, "log_every": 1, "workers": 0, "device": "cpu", **changed})


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("swept") / "out"
    return out, sweep("i-jepa", GRID, pictures(60), out, settings=settings(), samples=0, **SMALL)


def test_every_point_is_a_run_of_its_own_ranked_as_compare_ranks(swept):
    rows = swept[1]["trials"]
    assert sorted(row["params"]["batch_size"] for row in rows) == [8, 16]
    for row in rows:
        config = read_config(row["run"])
        assert config["fields"]["batch_size"] == row["params"]["batch_size"]
        assert (config["fields"]["width"], config["steps"], config["status"]) == (24, 3, "finished")
    compared = compare([row["run"] for row in rows], pictures(60), samples=0)["runs"]
    assert [row["run"] for row in compared] == [row["run"] for row in rows]
    assert [row["rankme"] for row in compared] == pytest.approx([row["rankme"] for row in rows])
    assert [row["rank"] for row in rows] == [1, 2]
    best = swept[1]["best"]
    assert (best["run"], best["params"]) == (rows[0]["run"], rows[0]["params"])
    assert best["value"] == rows[0]["rankme"]
    json.dumps(swept[1])


def test_the_same_sweep_again_trains_nothing_and_another_is_refused(swept):
    out, result = swept
    times = {row["run"]: os.stat(f"{row['run']}/encoder.safetensors").st_mtime_ns for row in result["trials"]}
    again = sweep("i-jepa", GRID, pictures(60), out, settings=settings(), samples=0, **SMALL)
    assert again["trials"] == result["trials"]
    assert {run: os.stat(f"{run}/encoder.safetensors").st_mtime_ns for run in times} == times
    with pytest.raises(UserError, match=r"already holds another sweep \(grid was"):
        sweep("i-jepa", {"batch_size": [4]}, pictures(60), out, settings=settings(), **SMALL)
    with pytest.raises(UserError, match="steps was 3, not 5"):
        sweep("i-jepa", GRID, pictures(60), out, settings=settings(steps=5), **SMALL)


def test_fewer_trials_are_a_draw_that_more_go_on_from(tmp_path):
    grid = {"learning_rate": [1e-3, 2e-3], "targets": [1, 2], "seed": [0, 1]}
    one = settings(steps=1)
    first = sweep("i-jepa", grid, pictures(20), tmp_path, trials=2, settings=one, **FIELDS)
    points = [row["params"] for row in first["trials"]]
    assert len(points) == 2
    more = sweep("i-jepa", grid, pictures(20), tmp_path, trials=3, settings=one, **FIELDS)
    found = [row["params"] for row in more["trials"]]
    assert len(found) == 3
    assert all(point in found for point in points)
    assert {read_config(row["run"])["seed"] for row in more["trials"]} == {p["seed"] for p in found}


def test_a_grid_as_it_is_typed():
    assert parse_grid("i-jepa", ["learning-rate=1e-3,2e-3", "teacher=ema,none", "seed=0,1"]) == {
        "learning_rate": [1e-3, 2e-3],
        "teacher": ["ema", "none"],
        "seed": [0, 1],
    }
    assert parse_grid("i-jepa", ["momentum=0.98:1,0.99"]) == {"momentum": [(0.98, 1.0), (0.99, 0.99)]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["learnig_rate=1"], "Did you mean 'learning_rate'"),
        (["learning_rate"], "FIELD=a,b,c"),
        (["teacher=emma"], "Did you mean 'ema'"),
        (["width=x"], "--width takes N"),
    ],
)
def test_a_grid_that_is_mistyped(words, said):
    with pytest.raises(UserError, match=said):
        parse_grid("i-jepa", words)


def test_what_cannot_work_is_said_before_anything_is_trained(tmp_path):
    one = settings()
    with pytest.raises(UserError, match="does not divide into --heads"):
        sweep("i-jepa", {"width": [24, 25]}, pictures(20), tmp_path, settings=one)
    with pytest.raises(UserError, match="both a value and a grid"):
        sweep("i-jepa", {"width": [24]}, pictures(20), tmp_path, settings=one, width=24)
    with pytest.raises(UserError, match="name the values to try"):
        sweep("i-jepa", {}, pictures(20), tmp_path, settings=one)
    with pytest.raises(UserError, match="cannot share an array"):
        sweep("i-jepa", {"heads": [2]}, pictures(20), tmp_path, jobs=2, settings=one)
    assert list(tmp_path.iterdir()) == []


def test_trials_that_cannot_be_trained_are_said(tmp_path):
    rates = {"learning_rate": [1e-3, 1e30]}
    fields = {**FIELDS, "start_learning_rate": 1e-4, "warmup_epochs": 0.0, "epochs": 1.0}
    result = sweep("i-jepa", rates, pictures(60), tmp_path, settings=settings(steps=6), **fields)
    bad = [row for row in result["trials"] if row["params"]["learning_rate"] == 1e30]
    assert bad[0]["state"] == "failed" or bad[0]["collapsed"]
    assert result["best"]["params"]["learning_rate"] == 1e-3


class Trial:
    """What Optuna is told."""

    def __init__(self):
        self.told = {}

    def report(self, value, step):
        assert step not in self.told
        self.told[step] = value


def test_a_collapse_that_lasts_a_tenth_of_the_steps_ends_a_trial(tmp_path):
    from anyjepa.engine.run import write_config

    write_config(tmp_path, {"recipe": "x", "fields": {}, "seed": 0, "steps": 100, "data": {}})
    trial = Trial()
    watcher = Watcher(trial, tmp_path, known=[10])
    assert watcher({"step": 10, "rankme": 5.0}) is None
    assert watcher({"step": 20, "rankme": 1.0, "warning": "collapsed to one point: ..."}) is None
    assert watcher({"step": 25, "rankme": 4.0, "warning": "no longer collapsed"}) is None
    assert watcher({"step": 60, "rankme": 4.0}) is None
    assert watcher({"step": 70, "rankme": 1.0, "warning": "collapsed to one direction: ..."}) is None
    assert watcher({"step": 75, "rankme": 1.0, "warning": "collapsed to one point: ..."}) is None
    ended = watcher({"step": 70 + int(100 * PATIENCE), "rankme": 1.0})
    assert ended.startswith("collapsed since step 70 (collapsed to one point")
    assert trial.told == {20: 1.0, 25: 4.0, 60: 4.0, 70: 1.0, 75: 1.0, 80: 1.0}


def command(out, *more):
    words = [sys.executable, "-m", "anyjepa", "sweep", "i-jepa", "--grid", "seed=0,1,2", "--data", "digits"]
    fields = [
        "--width",
        "24",
        "--depth",
        "1",
        "--heads",
        "2",
        "--predictor-width",
        "16",
        "--image-size",
        "16",
    ]
    fields += ["--predictor-depth", "1", "--predictor-heads", "2", "--samples", "200", "--log-every", "1"]
    return [*words, "--out", str(out), *fields, "--json", *more]


def rows_of(out):
    return sum(file.read_bytes().count(b"\n") for file in out.glob("trial-*/metrics.jsonl"))


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_ends_as_one_that_was_not(tmp_path):
    steps = ["--steps", "40", "--checkpoint-every", "10"]
    whole = subprocess.run(command(tmp_path / "whole", *steps), capture_output=True, text=True, check=True)
    process = subprocess.Popen(command(tmp_path / "cut", *steps), stdout=-3, stderr=-3)
    while rows_of(tmp_path / "cut") < 60:  # in the middle of the second trial
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(command(tmp_path / "cut", *steps), capture_output=True, text=True, check=True)
    first, second = (json.loads(done.stdout.splitlines()[-1]) for done in (whole, again))
    assert [row["rankme"] for row in second["trials"]] == [row["rankme"] for row in first["trials"]]
    assert second["best"]["value"] == first["best"]["value"]
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole") == 120


@pytest.mark.slow
def test_processes_share_the_trials_and_none_is_trained_twice(tmp_path):
    steps = ["--steps", "30"]
    two = [
        subprocess.Popen(command(tmp_path, *steps, *jobs), stdout=-1, stderr=-1, text=True)
        for jobs in ([], ["--jobs", "2"])
    ]
    said = [process.communicate(timeout=250) for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    begun = [line for _, errors in said for line in errors.splitlines() if line.startswith("trial ")]
    assert sorted(begun) == sorted(set(begun))
    assert len(begun) == 3
    last = [json.loads(out.splitlines()[-1]) for out, _ in said]
    assert max(sum(row["state"] == "complete" for row in result["trials"]) for result in last) == 3


@pytest.mark.slow
def test_a_collapsing_trial_is_given_up_while_it_trains(tmp_path):
    fields = {**SMALL, "batch_size": 32, "warmup_epochs": 0.0}
    result = sweep(
        "i-jepa", {"teacher": ["ema", "collapse"], "learning_rate": [5e-3]}, "digits", tmp_path,
        settings=settings(steps=1000, log_every=10), **fields,
    )  # fmt: skip
    states = {row["params"]["teacher"]: row for row in result["trials"]}
    lost = states["collapse"]
    assert lost["state"] == "pruned"
    assert lost["step"] < 1000
    assert "collapsed since step" in lost["reason"]
    assert read_config(lost["run"])["status"] == "stopped"
    assert result["best"]["params"]["teacher"] == "ema"
