"""W&B and MLflow, with their own clients and no network."""

import json
import os
import subprocess
import sys

import pytest
from small import FIELDS, pictures, words

from anyjepa.core.errors import UserError
from anyjepa.engine.files import read_lines
from anyjepa.engine.journal import Journal
from anyjepa.engine.tracking import Tracker, tracker
from anyjepa.engine.train import Settings, train

FLAGS = ["--data", "digits", "--log-every", "2", "--quiet", "true", "--workers", "0", *words()]


class Failing(Tracker):
    errors = (ConnectionError,)

    def __init__(self):
        self.rows, self.closed = [], False

    def record(self, step, figures):
        if step > 2:
            raise ConnectionError("gone")
        self.rows.append((step, figures))

    def close(self):
        self.closed = True


def in_a_process(out, name, folder, *more, **environment):
    command = [sys.executable, "-m", "anyjepa", "train", "i-jepa", "--out", str(out), "--log", name]
    return subprocess.run(
        [*command, *FLAGS, *more], cwd=folder, env={**os.environ, **environment}, capture_output=True,
        text=True, timeout=200, check=False,
    )  # fmt: skip


def test_a_tracker_that_fails_costs_nothing_but_its_rows(tmp_path, capsys):
    told = Failing()
    journal = Journal(tmp_path, 4, tracker=told)
    for step in range(1, 5):
        journal.record({"step": step, "loss": 0.5, "warning": "words are not figures"})
    journal.close()
    assert told.rows == [(1, {"loss": 0.5}), (2, {"loss": 0.5})]
    assert not told.closed
    assert [row["step"] for row in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert capsys.readouterr().err.count("goes on without it: gone") == 1


def test_a_tracker_is_closed_with_the_run(tmp_path):
    told = Failing()
    Journal(tmp_path, 2, quiet=True, tracker=told).close()
    assert told.closed


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_names_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.tracking", None)
    with pytest.raises(UserError, match=r"pip install 'anyjepa\[tracking\]'"):
        train(
            "i-jepa",
            pictures(20),
            tmp_path / "run",
            settings=Settings(log=name, steps=1, quiet=True),
            **FIELDS,
        )
    assert tracker("none", tmp_path, {}) is None


@pytest.mark.slow
def test_a_run_without_the_flag_imports_neither(tmp_path):
    code = (
        "import sys, anyjepa; from anyjepa.cli import main; main(sys.argv[1:]); "
        "assert not {'wandb', 'mlflow'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "train", "i-jepa", "--out", str(tmp_path / "run"), "--steps", "2"]
    answer = subprocess.run([*command, *FLAGS], capture_output=True, text=True, timeout=100, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_wandb_offline_keeps_the_rows_of_a_run_that_goes_on(tmp_path):
    pytest.importorskip("wandb", reason="needs the extra tracking")
    run = tmp_path / "run"
    answer = in_a_process(run, "wandb", tmp_path, "--steps", "4", WANDB_MODE="offline")
    assert answer.returncode == 0, answer.stderr
    identity = json.loads((run / "tracking.json").read_text())["wandb"]
    stored = list((run / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(stored) == 1
    content = stored[0].read_bytes()
    for word in (b"rankme", b"samples_per_second", b"learning_rate", b"i-jepa"):
        assert word in content
    assert [row["step"] for row in read_lines(run / "metrics.jsonl")] == [2, 4]


@pytest.mark.slow
def test_wandb_without_a_login_says_what_to_do(tmp_path):
    pytest.importorskip("wandb", reason="needs the extra tracking")
    answer = in_a_process(
        tmp_path / "run", "wandb", tmp_path, "--steps", "2", HOME=str(tmp_path), WANDB_API_KEY="",
        WANDB_MODE="online", NETRC=str(tmp_path / "netrc"),
    )  # fmt: skip
    assert answer.returncode == 2
    assert "WANDB_MODE=offline" in answer.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_mlflow_in_a_local_store_shows_the_rows_of_metrics_jsonl(tmp_path, store):
    pytest.importorskip("mlflow", reason="needs the extra tracking")
    uri = f"sqlite:///{tmp_path}/store.db" if store == "sqlite" else f"file:{tmp_path}/store"
    environment = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_FILE_STORE": "true"}
    run = tmp_path / "run"
    answer = in_a_process(run, "mlflow", tmp_path, "--steps", "4", **environment)
    assert answer.returncode == 0, answer.stderr
    code = (
        "import json, sys; from mlflow.tracking import MlflowClient; c = MlflowClient(); r = sys.argv[1]; "
        "h = c.get_metric_history(r, 'loss'); i = c.get_run(r); "
        "print(json.dumps([[(m.step, m.value) for m in h], i.data.params, i.info.status]))"
    )
    identity = json.loads((run / "tracking.json").read_text())["mlflow"]
    answer = subprocess.run(
        [sys.executable, "-c", code, identity], env={**os.environ, **environment}, capture_output=True,
        text=True, timeout=100, check=True,
    )  # fmt: skip
    losses, params, status = json.loads(answer.stdout.splitlines()[-1])
    assert losses == [[row["step"], row["loss"]] for row in read_lines(run / "metrics.jsonl")]
    assert (params["recipe"], params["width"], status) == ("i-jepa", str(FIELDS["width"]), "FINISHED")
