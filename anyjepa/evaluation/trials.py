"""Trials of a sweep: an Optuna study on disk, shared by processes, each trial a run of its own."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from anyjepa.core.errors import UserError, require
from anyjepa.domains.sources import choose
from anyjepa.engine.files import explained
from anyjepa.engine.run import load, read_config
from anyjepa.engine.signals import stop_signals
from anyjepa.engine.train import Settings, train
from anyjepa.engine.watch import RECOVERED
from anyjepa.evaluation.comparison import Measured, measure, reached
from anyjepa.evaluation.inspection import SAMPLES
from anyjepa.evaluation.ranking import score

PATIENCE = 0.1  # share of the steps that a collapse may last before the trial is given up
SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every trial of a sweep has in common, and the values that they differ in.

    Args:
        recipe: its name.
        data: source, the recipe's example where None.
        preset: of the recipe.
        grid: values of each field that is varied; ``seed`` may be one.
        fields: other fields of the recipe, the same in all trials.
        settings: how each is trained.
        by: what trials are ranked by.
        samples: of each measurement.
    """

    recipe: str
    data: str | None
    preset: str
    grid: dict[str, list[Any]]
    fields: dict[str, Any]
    settings: Settings
    by: str = "rankme"
    samples: int = SAMPLES

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values, the last field changing fastest."""
        return [
            dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())
        ]

    def definition(self) -> str:
        """What must be the same for a sweep to go on, as JSON."""
        kept = ("recipe", "data", "preset", "grid", "fields")
        settings = {"steps": self.settings.steps, "seed": self.settings.seed}
        return json.dumps({name: getattr(self, name) for name in kept} | settings, sort_keys=True)


class Study:
    """The sweep's Optuna study, and the locks that say which process is at which trial.

    A lock is let go of by the operating system when its process dies, so that a trial which was killed is
    told at once from one that is being trained.
    """

    def __init__(self, path: Path) -> None:
        optuna = require("optuna", "sweep")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.path = optuna, path
        self.filelock = require("filelock", "sweep")
        with self.lock("study"), explained(f"open the study in {path}"):
            url = f"sqlite:///{path.resolve() / 'study.db'}"
            storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
            self.study = optuna.create_study(
                study_name="sweep", storage=storage, direction="maximize", load_if_exists=True
            )

    def lock(self, name: str) -> Any:
        """A lock that all processes share and that the death of its holder opens."""
        return self.filelock.FileLock(self.path / f".{name}.lock")

    def begin(self, plan: Plan, points: Sequence[dict[str, Any]]) -> None:
        """Put the points in the queue that are not yet there."""
        with self.lock("study"):
            known = self.study.user_attrs.get("definition")
            if known is None:
                self.study.set_user_attr("definition", plan.definition())
            elif known != plan.definition():
                raise UserError(
                    f"{self.path} already holds another sweep ({_difference(known, plan.definition())}): "
                    "choose another --out."
                )
            there = [trial.user_attrs.get("point") for trial in self.study.get_trials(deepcopy=False)]
            for point in points:
                if point not in there:
                    words = {name: _word(value) for name, value in point.items()}
                    self.study.enqueue_trial(words, user_attrs={"point": point})

    def claim(self, plan: Plan) -> tuple[Any, Any] | None:
        """A trial to train and its lock: one whose process died, else the next; None where none is left."""
        states = self.optuna.trial.TrialState
        with self.lock("study"):
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state == states.RUNNING:
                    lock = self.lock(f"trial-{trial.number:03d}")
                    try:
                        lock.acquire(timeout=0)
                    except self.filelock.Timeout:
                        continue
                    return self.optuna.trial.Trial(self.study, trial._trial_id), lock
            if not any(trial.state == states.WAITING for trial in trials):
                return None
            trial = self.study.ask()
            for name, values in plan.grid.items():
                trial.suggest_categorical(name, [_word(value) for value in values])
            lock = self.lock(f"trial-{trial.number:03d}")
            lock.acquire(timeout=0)
            return trial, lock

    def trials(self) -> list[Any]:
        """All trials, as they are stored."""
        return self.study.get_trials(deepcopy=False)


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of fields as a recipe takes them: what was a list in JSON is a tuple."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _word(value: Any) -> Any:
    """A value that Optuna can store as one of several choices."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _difference(known: str, asked: str) -> str:
    one, other = json.loads(known), json.loads(asked)
    return next(f"{name} was {one[name]}, not {other[name]}" for name in one if one[name] != other[name])


def work(path: Path, plan: Plan, data: np.ndarray | None = None) -> int:
    """Train trial after trial until none is left; the number of a signal that came, else 0."""
    study, console = (
        Study(path),
        Console(markup=False, emoji=False, stderr=True, soft_wrap=True, highlight=False),
    )
    while claimed := study.claim(plan):
        trial, lock = claimed
        try:
            stopped = _try(study, trial, plan, data, console)
        finally:
            lock.release()
        if stopped:
            return stopped
    return 0


def _try(study: Study, trial: Any, plan: Plan, data: np.ndarray | None, console: Console) -> int:
    states = study.optuna.trial.TrialState
    point = trial.user_attrs["point"]
    words = ", ".join(f"{name} {_word(value)}" for name, value in point.items())
    console.print(f"trial {trial.number + 1} of {len(study.trials())}: {words}")
    folder, begun = study.path / f"trial-{trial.number:03d}", time.monotonic()
    values = typed({name: value for name, value in point.items() if name != SEED})
    settings = replace(plan.settings, seed=point.get(SEED, plan.settings.seed))
    source = plan.data if data is None else data
    told = study.trials()[trial.number].intermediate_values
    watcher = Watcher(trial, folder, list(told))
    try:
        result = train(
            plan.recipe, source, folder, preset=plan.preset, settings=settings, observe=watcher,
            resume=(folder / "config.yaml").exists(), **typed(plan.fields), **values,
        )  # fmt: skip
        if result.get("stopped_by"):
            return result["stopped_by"]
        measured = _measured(folder, source, plan)
    except UserError as mistake:
        trial.set_user_attr("reason", str(mistake))
        study.study.tell(trial, state=states.FAIL)
        console.print(f"  failed: {mistake}", style="red")
        return 0
    row = measured.row | {"seconds": time.monotonic() - begun}
    trial.set_user_attr("row", row)
    trial.set_user_attr("estimates", {name: list(one) for name, one in measured.estimates.items()})
    if "ended" in result:
        trial.set_user_attr("reason", result["ended"])
        study.study.tell(trial, state=states.PRUNED)
        console.print(f"  given up: {result['ended']}", style="yellow")
        return 0
    value = score(row, plan.by)
    # Optuna takes no trial without a finite value for complete
    study.study.tell(trial, value if math.isfinite(value) else -1e300, state=states.COMPLETE)
    said = "collapsed" if row["collapsed"] else f"{plan.by} {row.get(plan.by, math.nan):.4g}"
    console.print(f"  {said}, {row['seconds']:.0f} s")
    return 0


def _measured(folder: Path, source: str | np.ndarray | None, plan: Plan) -> Measured:
    run = load(folder, plan.settings.device)
    opened = run.open(source)
    return measure(run, reached(run), opened, choose(len(opened), plan.samples, 0))


class Watcher:
    """Tells Optuna what is logged, and ends a trial that has been collapsed for a tenth of its steps.

    Args:
        trial: of Optuna.
        folder: of its run, which says how long it is.
        known: steps that were told before the trial was resumed.
    """

    def __init__(self, trial: Any, folder: Path, known: Sequence[int] = ()) -> None:
        self.trial, self.folder, self.known = trial, folder, set(known)
        self.since: int | None = None
        self.words = ""

    def __call__(self, row: dict[str, Any]) -> str | None:
        """A sentence when the trial is to end."""
        step = row["step"]
        if "rankme" in row and step not in self.known:
            self.trial.report(row["rankme"], step)
        warning = row.get("warning")
        if warning == RECOVERED:
            self.since = None
        elif warning:
            self.since, self.words = step if self.since is None else self.since, warning
        if self.since is None or step - self.since < PATIENCE * read_config(self.folder)["steps"]:
            return None
        return f"collapsed since step {self.since} ({self.words})"


def workers(path: Path, plan: Plan, jobs: int) -> int:
    """`work` in several processes; the number of a signal that came, else 0.

    Raises:
        UserError: a process died.
    """
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_worker, args=(path, plan, threads)) for _ in range(jobs)]
    with stop_signals() as stopped:
        for process in processes:
            process.start()
        told = False
        while any(process.is_alive() for process in processes):
            processes[0].join(0.2) if processes[0].is_alive() else time.sleep(0.2)
            if stopped and not told:
                # a terminal tells them itself, other senders do not; telling twice does no harm here
                told = True
                for process in processes:
                    process.terminate()
    if stopped:
        return stopped.number
    if any(process.exitcode for process in processes):
        raise UserError("a process of the sweep died; give the same command again to go on without it.")
    return 0


def _worker(path: Path, plan: Plan, threads: int) -> None:
    torch.set_num_threads(threads)
    # a signal that comes between two trials must not leave a traceback
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    work(path, plan)


def _leave_with_parent() -> None:
    """A sweep that was killed must not go on unseen: its workers save and leave."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
