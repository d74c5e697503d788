"""A training handed to a cluster: submitted, told that time is up, queued again, and the same in the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import FIELDS, lines, picture_folder, same_to_the_bit, train_small, words

from anyjepa.cli import main
from anyjepa.cli_slurm import _for_the_job


def submitted(out, data, *more, steps):
    command = [sys.executable, "-m", "anyjepa", "train", "i-jepa", "--data", str(data), "--out", str(out),
               "--steps", str(steps), "--log-every", "1", "--workers", "0", "--quiet", "true", *words(),
               "--slurm", "--slurm-cluster", "local", "--slurm-gpus", "0", "--json", *more]  # fmt: skip
    said = out.with_name("said")
    with open(said, "w") as file:  # not a pipe, which the job on this machine would keep open
        subprocess.run(command, stdout=file, timeout=60, check=True)
    return json.loads(said.read_text().splitlines()[-1])


def wait_for(condition, seconds=90):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_queues_again_and_ends_the_same(tmp_path):
    data, run = picture_folder(tmp_path / "data", count=40), tmp_path / "run"
    job = submitted(run, data, steps=500)
    assert job["run"] == str(run) and job["job"] in job["log"]
    wait_for(lambda: lines(run / "metrics.jsonl") > 5)
    os.kill(int((run / ".holder").read_text().split()[0]), signal.SIGUSR2)
    log = Path(job["out"])
    wait_for(lambda: "Requeued job" in log.read_text())
    wait_for(lambda: "Job completed successfully" in log.read_text())
    assert log.read_text().count("Requeued job") == 1
    train_small(tmp_path / "whole", str(data), steps=500, log_every=100, fields=FIELDS)
    assert same_to_the_bit(run, tmp_path / "whole")


def test_what_cannot_be_submitted_is_said_at_once(tmp_path, capsys, monkeypatch):
    def said(*more):
        code = main(["train", "i-jepa", "--data", "digits", "--out", str(tmp_path / "run"), "--slurm", *more])
        return code, capsys.readouterr().err

    monkeypatch.setenv("PATH", "")
    code, words_said = said()
    assert code == 2 and "there is no SLURM here" in words_said
    code, words_said = said("--widht", "8")
    assert code == 2 and "'--width'" in words_said
    code, words_said = said("--patch-size", "7", "--image-size", "8", "8")
    assert code == 2 and "does not divide" in words_said
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("recipe: i-jepa\n")
    code, words_said = said()
    assert code == 2 and "already holds a run" in words_said


@pytest.mark.parametrize("before", [[], ["--out", "runs/x"], ["--out=runs/x", "--resume"]])
def test_the_job_gets_the_training_s_words_alone(tmp_path, before):
    typed = [
        "i-jepa",
        *before,
        "--steps",
        "9",
        "--slurm",
        "--slurm-nodes",
        "2",
        "--slurm-hours=3",
        "--seed=1",
    ]
    kept = ["i-jepa", "--steps", "9", "--seed=1", "--out", str(tmp_path), "--resume"]
    assert _for_the_job(typed, tmp_path) == kept
