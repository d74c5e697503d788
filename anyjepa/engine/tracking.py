"""Weights & Biases and MLflow: the rows of a run's metrics.jsonl, where a person already follows their runs.

Both are optional (extra ``tracking``) and imported only where they are asked for. Where they keep runs is
theirs to say: ``WANDB_MODE=offline`` and ``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI`` and
``MLFLOW_EXPERIMENT_NAME``.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from anyjepa.core.errors import UserError, require
from anyjepa.engine.files import explained, write_whole

NAMES = ("wandb", "mlflow")
PROJECT = "anyjepa"
MOST_AT_ONCE = 100  # parameters of a run that MLflow takes in one call


class Tracker(ABC):
    """One run as a tracking service keeps it."""

    errors: tuple[type[Exception], ...] = (OSError,)
    """What the service raises when it cannot be reached: training goes on without it."""

    @abstractmethod
    def record(self, step: int, figures: dict[str, float]) -> None:
        """One logged row."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will come."""


class WandbTracker(Tracker):
    """Weights & Biases. A run that goes on keeps its id, so that its curves go on too.

    Args:
        run: the run's folder, below which offline runs are kept (``wandb/``).
        config: what the run is trained with, plain values.
        quiet: say nothing on the terminal.

    Raises:
        UserError: the library is not installed, or nobody is logged in and it is not offline.
    """

    def __init__(self, run: Path, config: dict[str, Any], quiet: bool) -> None:
        wandb = require("wandb", "tracking")
        self.errors = (wandb.Error, OSError)
        known = _kept(run).get("wandb")
        online = os.environ.get("WANDB_MODE", "online") not in ("offline", "disabled", "dryrun")
        # on a terminal it would ask for a key, and training must not wait for an answer
        if online and not wandb.login(prompt=False):
            raise UserError("nobody is logged in to W&B: run `wandb login`, or set WANDB_MODE=offline.")
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT), dir=str(run), name=run.resolve().name,
                id=known or uuid.uuid4().hex[:8], resume="allow", config=config,
                settings=wandb.Settings(silent=quiet, console="off"),
            )  # fmt: skip
        except wandb.Error as problem:
            raise UserError(f"W&B does not take this run: {problem}.") from problem
        _keep(run, "wandb", self.run.id)

    def record(self, step: int, figures: dict[str, float]) -> None:
        """One logged row."""
        self.run.log(figures, step=step)

    def close(self) -> None:
        """Upload what is left, or keep it for `wandb sync`."""
        self.run.finish()


class MlflowTracker(Tracker):
    """MLflow. A run that goes on is found by its id.

    Args:
        run: the run's folder.
        config: what the run is trained with, plain values.

    Raises:
        UserError: the library is not installed, or its store cannot be used.
    """

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        # the library tells its makers how it is used; who wants that says so in the environment
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        tracking = require("mlflow.tracking", "tracking")
        problems = require("mlflow.exceptions", "tracking").MlflowException
        self.errors = (problems, OSError)
        self.entities = require("mlflow.entities", "tracking")
        try:
            self.client = tracking.MlflowClient()
            known = _kept(run).get("mlflow")
            self.id = known or self._new(run.resolve().name, config)
            self.client.update_run(self.id, status="RUNNING")
        except (problems, OSError, ImportError) as problem:
            raise UserError(f"MLflow does not take this run: {str(problem).splitlines()[0]}") from problem
        _keep(run, "mlflow", self.id)

    def _new(self, name: str, config: dict[str, Any]) -> str:
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        there = self.client.get_experiment_by_name(wanted)
        experiment = there.experiment_id if there else self.client.create_experiment(wanted)
        created = self.client.create_run(experiment, run_name=name).info.run_id
        values = [self.entities.Param(key, str(value)) for key, value in config.items()]
        for start in range(0, len(values), MOST_AT_ONCE):
            self.client.log_batch(created, params=values[start : start + MOST_AT_ONCE])
        return created

    def record(self, step: int, figures: dict[str, float]) -> None:
        """One logged row."""
        now = int(time.time() * 1000)
        self.client.log_batch(
            self.id, metrics=[self.entities.Metric(name, value, now, step) for name, value in figures.items()]
        )

    def close(self) -> None:
        """Mark the run as finished."""
        self.client.set_terminated(self.id)


def tracker(name: str, run: Path, config: dict[str, Any], quiet: bool = False) -> Tracker | None:
    """The tracker that a name stands for; None for ``none``.

    Args:
        name: ``none``, ``wandb`` or ``mlflow``.
        run: the run's folder, there already.
        config: of ``config.yaml``.
        quiet: say nothing on the terminal.

    Raises:
        UserError: its library is not installed, or it does not take the run.
    """
    if name == "none":
        return None
    told = {key: config[key] for key in ("recipe", "preset", "seed", "steps", "batch_size")}
    told |= {"data": config["data"]["description"], **config["fields"], "batch_size": config["batch_size"]}
    return WandbTracker(run, told, quiet) if name == "wandb" else MlflowTracker(run, told)


def _kept(run: Path) -> dict[str, str]:
    file = run / "tracking.json"
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _keep(run: Path, name: str, identity: str) -> None:
    with explained(f"write {run / 'tracking.json'}"):
        write_whole(run / "tracking.json", json.dumps({**_kept(run), name: identity}).encode())
