"""What a training begins with: the run that it goes on with, or the weights of another one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import UserError
from anyjepa.core.method import Method
from anyjepa.engine.checkpoint import checkpoints, load_strictly
from anyjepa.engine.run import load, read_config, recipe_fields, recipe_of
from anyjepa.engine.vision_layouts import resampled
from anyjepa.recipes import Recipe

TABLE = "positions.table"  # of learned positions: the one weight whose shape goes with the size of the input


def same_recipe(asked: str, stored: Recipe, fields: dict[str, Any]) -> Recipe:
    """The stored recipe of a run that goes on, where it is the one that is asked for."""
    if asked != stored.name:
        raise UserError(f"this run was trained with {stored.name}, not {asked}: choose another --out.")
    stored.known(fields)
    for name, value in fields.items():
        if getattr(stored, name) != value:
            raise UserError(
                f"this run was started with {name} = {getattr(stored, name)}, not {value}: "
                "leave it out with --resume, or choose another --out."
            )
    return stored


def same_length_and_seed(steps: int | None, seed: int | None, config: dict[str, Any]) -> None:
    """Raise UserError where a run that goes on is asked for another length or seed than it began with."""
    for name, asked in [("steps", steps), ("seed", seed)]:
        if asked not in (None, config[name]):
            raise UserError(
                f"this run was started with {name} = {config[name]}, not {asked}: "
                "leave it out with --resume, or choose another --out."
            )


def begun_with(
    init: str | Path, asked: Recipe | type[Recipe], fields: dict[str, Any], preset: str = "tiny"
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of a run that begins with `init`, and the facts of data that its weights are used to.

    Args:
        init: a run's folder.
        asked: its recipe, or one that trains upon the encoder of such runs (`Recipe.inherited`): facts are
            then none, for the data is its own.
        preset: of such another recipe.
        fields: other values than that run's; only those that no weight's shape depends on can differ.
            Another ``image_size`` stretches the positions.

    Raises:
        UserError: it is no run, or one of another recipe.
    """
    config = read_config(init)
    before = recipe_of(config)
    if config["recipe"] != asked.name:
        return _upon(init, before, asked, preset, fields), {}
    before.known(fields)
    kind = dataclasses.replace(before, **stretched(recipe_fields(before), fields))
    kind.check()
    return kind, config["data"]["facts"]


def _upon(
    init: str | Path,
    before: Recipe,
    asked: Recipe | type[Recipe],
    preset: str,
    fields: dict[str, Any],
) -> Recipe:
    """The recipe `asked`, with what the run's encoder decides."""
    taken = asked.inherited(before)
    if taken is None:
        raise UserError(f"{init} is a run of {before.name}, not {asked.name}: name that recipe.")
    for name in taken.keys() & fields.keys():
        if fields[name] != taken[name]:
            raise UserError(
                f"the encoder of {init} has {name} = {taken[name]}, not {fields[name]}: leave it out."
            )
    if isinstance(asked, Recipe):
        kind = dataclasses.replace(asked, **{**fields, **taken})
        kind.check()
        return kind
    return asked.preset(preset, **{**fields, **taken})


def stretched(before: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """`fields`, with the size that sines are to be stretched from where another is asked.

    Of images, and of clips, whose number of frames is stretched alike.
    """
    if before.get("positions") != "sin-cos":
        return fields
    added: dict[str, Any] = {}
    for name, spanned in (("image_size", "position_size"), ("frames", "position_frames")):
        if name not in fields or spanned in fields or name not in before:
            continue
        asked, own = (np.atleast_1d(values[name]).tolist() for values in (fields, before))
        if asked != own and not np.any(before.get(spanned, 0)):
            added[spanned] = before[name] if name == "frames" else tuple(before[name])
    return {**fields, **added}


def fill_from(init: str | Path, method: Method, kind: Recipe) -> None:
    """Give `method` all that the run `init` has learned: encoder, predictor and teacher where it has them.

    Parts that only one of them has, such as the head of a loss that the other goes without, begin anew or
    stay behind.

    Raises:
        UserError: a weight is missing, unexpected or of another shape.
    """
    run = load(init, "cpu")
    if run.recipe.name != kind.name:
        load_strictly(method.foundation, run.method.backbone.state_dict())
        return
    state = run.method.state_dict()
    if not checkpoints(Path(init) / "checkpoints"):
        # only the encoder was taken away: the teacher and its pupil begin alike
        kept = run.method.backbone.state_dict()
        for name in kept:
            for part in ("encoder.", "target.encoder."):
                if part + name in state:
                    state[part + name] = kept[name]
    own = method.state_dict()
    for name, value in state.items():
        if name.endswith(TABLE) and name in own and own[name].shape != value.shape:
            state[name] = resampled(value, _places(run.recipe), _places(kind))
    # of one recipe, one stage of training may have losses, and parts for them, that another has not
    parts, known = ({name.partition(".")[0] for name in each} for each in (own, state))
    state = {name: value for name, value in state.items() if name.partition(".")[0] in parts}
    state |= {name: value for name, value in own.items() if name.partition(".")[0] not in known}
    load_strictly(method, state)


def _places(kind: Recipe) -> tuple[int, int]:
    """Rows and columns of patches."""
    fields = recipe_fields(kind)
    height, width = fields["image_size"]
    return height // fields["patch_size"], width // fields["patch_size"]
