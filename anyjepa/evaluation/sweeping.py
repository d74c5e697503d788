"""A grid of settings, tried as trials of an Optuna study and ranked without labels.

Optuna's storage (SQLite, in the sweep's folder) holds what has been tried, so that a sweep goes on where it
was killed and several processes, of one command or of many, share the work. Each trial is a run like any
other, in a folder of its own beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.accumulation import Estimate
from anyjepa.core.errors import UserError, require
from anyjepa.engine.files import explained
from anyjepa.engine.train import Settings
from anyjepa.evaluation.comparison import Measured, ranked
from anyjepa.evaluation.inspection import SAMPLES
from anyjepa.evaluation.ranking import known_criterion, plateau_edge, score
from anyjepa.evaluation.trials import SEED, Plan, Study, typed, work, workers
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import Field, fields_of


def sweep(
    name: str,
    grid: Mapping[str, Sequence[Any]],
    data: str | np.ndarray | None = None,
    out: str | Path | None = None,
    *,
    preset: str = "tiny",
    by: str = "rankme",
    trials: int | None = None,
    jobs: int = 1,
    samples: int = SAMPLES,
    settings: Settings | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Train a recipe with every combination of some values, and rank the runs without labels.

    The same call goes on with a sweep that was stopped, and joins one that another process is at. A trial
    that the training watch has called collapsed for a tenth of its steps is given up.

    Args:
        name: a recipe's name.
        grid: values to try, by field of the recipe; ``seed`` is allowed, and the best setting is then that
            with the highest mean over seeds.
        data: source; the recipe's example where not given.
        out: folder of the study and of the trials' runs; ``runs/sweep-NAME`` where not given.
        preset: of the recipe.
        by: what is ranked by, one of `ranking.CRITERIA`.
        trials: so many combinations only, drawn by chance.
        jobs: processes that train at the same time.
        samples: that each run is measured on; 0 for all.
        settings: how each is trained, its length above all.
        fields: further fields of the recipe, the same for all trials.

    Returns:
        ``best``: ``params``, ``run``, ``value`` of `by` and the ``rule`` it was taken by, or None where all
        collapsed; ``trials``: a row each, best first, with ``params``, ``state`` (complete, pruned, failed),
        ``run`` and what `compare` gives; ``out``; ``remarks``; ``stopped_by`` and ``steps`` when it was told
        to stop.

    Raises:
        UserError: values that cannot work, another sweep in `out`, or no trial that could be trained.
    """
    require("optuna", "sweep")
    known_criterion(by)
    plan = Plan(
        recipe=name,
        data=data if isinstance(data, str) else None,
        preset=preset,
        grid={field: [_plain(value) for value in values] for field, values in grid.items()},
        fields={field: _plain(value) for field, value in fields.items()},
        settings=replace(settings or Settings(), quiet=True),
        by=by,
        samples=samples,
    )
    _check(plan)
    if jobs > 1 and isinstance(data, np.ndarray):
        raise UserError(
            "several jobs cannot share an array in memory: save it and name the file, or use one."
        )
    path = Path(out or Path("runs") / f"sweep-{name}")
    with explained(f"use {path} for the sweep"):
        path.mkdir(parents=True, exist_ok=True)
    Study(path).begin(plan, _drawn(plan, trials))
    given = data if isinstance(data, np.ndarray) else None
    stopped = work(path, plan, given) if jobs == 1 else workers(path, plan, jobs)
    return _result(Study(path), plan, stopped)


def parse_grid(name: str, words: Sequence[str]) -> dict[str, list[Any]]:
    """Values of ``FIELD=a,b,c``; a field of several numbers takes them joined by colons: ``0.98:1,0.99:1``.

    Raises:
        UserError: another form, an unknown field, or a value of another type.
    """
    kind = recipe(name)
    known = {one.name: one for one in fields_of(kind)} | {SEED: Field(SEED, int, 0, "")}
    grid: dict[str, list[Any]] = {}
    for word in words:
        field, mark, values = word.partition("=")
        field = field.lstrip("-").replace("-", "_")
        if not mark or not values:
            raise UserError(f"a grid is written FIELD=a,b,c, not '{word}'.")
        if field not in known:
            kind.known([field])
        grid[field] = [known[field].parse(value.split(":")) for value in values.split(",")]
    return grid


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check(plan: Plan) -> None:
    """Raise UserError for a grid of which any point cannot work, before anything is trained."""
    if not plan.grid or not all(plan.grid.values()):
        raise UserError("name the values to try: --grid FIELD=a,b,c.")
    twice = set(plan.grid) & set(plan.fields)
    if twice:
        raise UserError(f"'{min(twice)}' is given both a value and a grid: leave one out.")
    for point in plan.points():
        values = {name: value for name, value in point.items() if name != SEED}
        recipe(plan.recipe).preset(plan.preset, **typed(plan.fields | values))


def _drawn(plan: Plan, trials: int | None) -> list[dict[str, Any]]:
    points = plan.points()
    if trials is None or trials >= len(points):
        return points
    if trials < 1:
        raise UserError(f"--trials must be 1 or more, not {trials}.")
    # a larger number goes on from a smaller one: the order of the draw does not depend on it
    order = np.random.default_rng(plan.settings.seed or 0).permutation(len(points))[:trials]
    return [points[index] for index in sorted(order)]


def _result(study: Study, plan: Plan, stopped: int) -> dict[str, Any]:
    rows, found = [], []
    for trial in study.trials():
        row = {
            "number": trial.number,
            "state": {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower()),
            "params": trial.user_attrs["point"],
            **{key: trial.user_attrs[key] for key in ("reason",) if key in trial.user_attrs},
            **trial.user_attrs.get("row", {}),
        }
        if row["state"] == "complete":
            estimates = {
                name: Estimate(v, tuple(w)) for name, (v, w) in trial.user_attrs["estimates"].items()
            }
            found.append(Measured(row, estimates))
        else:
            rows.append(row)
    if not stopped and not found and all(row["state"] == "failed" for row in rows):
        raise UserError(f"none of the trials could be trained; the first one: {rows[0].get('reason')}")
    compared = ranked(found, plan.by, across=True)
    remarks = list(compared["remarks"])
    if len({row["dim"] for row in compared["runs"]}) > 1:
        remarks.append(
            "widths differ: a wider encoder has a higher rank, which does not make it a better one."
        )
    result = {
        "best": _best(found, plan), "trials": compared["runs"] + rows, "by": plan.by, "out": str(study.path),
        "remarks": remarks,
    }  # fmt: skip
    if stopped:
        result |= {"stopped_by": stopped, "steps": sum(row.get("step", 0) for row in result["trials"])}
    return result


def _best(found: Sequence[Measured], plan: Plan) -> dict[str, Any] | None:
    """The setting with the highest mean over seeds; at the edge of a plateau where one number was varied."""
    settings: dict[str, list[Measured]] = {}
    for one in found:
        if not one.row["collapsed"]:
            key = str({name: value for name, value in one.row["params"].items() if name != SEED})
            settings.setdefault(key, []).append(one)
    if not settings:
        return None
    many = max(settings.values(), key=lambda ones: sum(score(one.row, plan.by) for one in ones) / len(ones))
    one, rule = min(many, key=lambda one: one.row["rank"]), "highest"
    varied = [name for name in plan.grid if name != SEED]
    if len(many) > 1:
        rule = f"highest mean over {len(many)} seeds"
    elif len(varied) == 1 and all(isinstance(value, int | float) for value in plan.grid[varied[0]]):
        singles = [ones[0] for ones in settings.values()]
        values = [float(single.row["params"][varied[0]]) for single in singles]
        edge = plateau_edge(values, singles.index(one), [single.row["tied"] for single in singles])
        one, rule = singles[edge], rule if singles[edge] is one else "edge of the plateau"
    mean = sum(other.row[plan.by] for other in many) / len(many)
    return {
        "params": {
            name: value for name, value in one.row["params"].items() if name != SEED or len(many) == 1
        },
        "run": one.row["run"],
        "value": mean if len(many) > 1 else one.row.get(plan.by),
        "error": one.row["errors"].get(plan.by),
        "rule": rule,
    }
