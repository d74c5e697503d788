"""Pre-training: one loop for every recipe, on Lightning Fabric."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.domains import Frame, Samples, domains
from anyjepa.engine.beginning import begun_with, same_length_and_seed, same_recipe
from anyjepa.engine.files import explained
from anyjepa.engine.lock import sole_owner
from anyjepa.engine.loop import Observer, Training, limit_damage
from anyjepa.engine.run import open_source, read_config, recipe_fields, recipe_of
from anyjepa.engine.settings import Settings
from anyjepa.engine.team import Team
from anyjepa.recipes import Recipe, recipe

__all__ = ["Settings", "train"]


def train(
    name: str | Recipe,
    data: str | np.ndarray | Frame | None = None,
    out: str | Path | None = None,
    *,
    preset: str = "tiny",
    resume: bool = False,
    init: str | Path | None = None,
    settings: Settings | None = None,
    observe: Observer | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Pre-train an encoder on unlabelled data.

    Args:
        name: a recipe's name, or a recipe.
        data: source; the recipe's example where not given.
        out: the run's folder; ``runs/NAME`` where not given. It must be new unless `resume` is set.
        preset: of the recipe.
        resume: go on with the run in `out` from its newest checkpoint.
        init: a run, imported or trained, whose weights, fields and statistics this one begins with.
        settings: see `Settings`.
        observe: is given each logged row; a sentence that it returns ends the training.
        fields: of the recipe, over the preset's or those of `init`.

    Returns:
        ``run``, ``steps``, ``loss``, ``rankme``, ``samples_per_second``, and ``stopped_by`` (a signal's
        number) or ``ended`` (the observer's sentence) when it was told to stop.

    Raises:
        UserError: a mistake that the message explains.
    """
    settings = settings or Settings()
    team = Team(settings)
    with team.one_voice():
        path, config, kind, samples = _prepared(name, data, out, preset, resume, init, settings, fields)
        team.share(config["batch_size"])
    team.wait()  # for all to have seen that the folder is free
    with explained(f"use {path} for the run"):
        path.mkdir(parents=True, exist_ok=True)
    with sole_owner(path) if team.first else nullcontext():
        return Training(path, config, kind, samples, settings, team, observe).run()


def _prepared(
    name: str | Recipe,
    data: str | np.ndarray | Frame | None,
    out: str | Path | None,
    preset: str,
    resume: bool,
    init: str | Path | None,
    settings: Settings,
    fields: dict[str, Any],
) -> tuple[Path, dict[str, Any], Recipe, Samples]:
    """The run's folder, its record, the recipe and the samples; nothing is written."""
    asked = name if isinstance(name, Recipe) else recipe(name)
    path = Path(out or Path("runs") / asked.name)
    if resume and (path / "config.yaml").exists():
        config = read_config(path)
        if config.get("status") == "imported":
            raise UserError(f"{path} was imported: train it further with --init {path} and a new --out.")
        kind = same_recipe(asked.name, recipe_of(config), fields)
        same_length_and_seed(settings.steps, settings.seed, config)
        facts = config["data"]["facts"] if config.get("init") else {}
        samples = _open(kind, data if data is not None else config["data"]["source"], settings, facts)
        if samples.fingerprint() != config["data"]["fingerprint"]:
            raise UserError(
                f"the data changed since {path} began: put it back as it was, or start a new run."
            )
    else:
        if (path / "config.yaml").exists():
            raise UserError(f"{path} already holds a run: go on with --resume, or choose another --out.")
        if init is not None:
            kind, facts = begun_with(init, asked, fields, preset)
        else:
            kind, facts = asked if isinstance(asked, Recipe) else asked.preset(preset, **fields), {}
        samples = _open(kind, data if data is not None else kind.example_data, settings, facts)
        config = _new_config(kind, preset, samples, data, settings, facts)
        if init is not None:
            config["init"] = str(Path(init).resolve())
    return path, config, kind, samples


def _open(
    kind: Recipe, data: str | np.ndarray | Frame | None, settings: Settings, facts: dict[str, Any]
) -> Samples:
    if data is None:
        raise UserError("this run was trained on an array in memory; give the same data again.")
    samples = open_source(domains()[kind.domain], data, reading={**kind.reading(), **facts})
    total = len(samples) + len(samples.problems)
    limit_damage(samples.problems, total, settings.max_bad_fraction)
    if len(samples) == 0:
        raise UserError(f"there is nothing to train on in {samples.source}.")
    return samples


def _new_config(
    kind: Recipe,
    preset: str,
    samples: Samples,
    data: str | np.ndarray | Frame | None,
    settings: Settings,
    facts: dict[str, Any],
) -> dict[str, Any]:
    batch_size = min(kind.batch_size, len(samples))
    steps = settings.steps or max(1, round(kind.epochs * (len(samples) // batch_size)))
    return {
        "recipe": kind.name,
        "preset": preset,
        "fields": recipe_fields(kind),
        "seed": settings.seed or 0,
        "steps": steps,
        "batch_size": batch_size,
        "data": {
            "source": samples.source if data is None or isinstance(data, str) else None,
            "kind": kind.domain,
            "samples": len(samples),
            "fingerprint": samples.fingerprint(),
            "description": samples.description,
            "facts": facts or domains()[kind.domain].measure(samples, settings.seed or 0),
        },
        "versions": {"anyjepa": anyjepa.__version__, "torch": str(torch.__version__)},
        "status": "training",
    }
