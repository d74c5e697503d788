"""Train a run unless it is there already and finished, so that a benchmark that was stopped goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anyjepa
from anyjepa.engine.run import Run, load
from anyjepa.engine.train import train


def trained_once(out: Path, *what: Any, **how: Any) -> Run:
    """The finished run in `out`; else of a new training in its place, with the arguments of `train`."""
    try:
        run = load(out)
        if run.config["status"] == "finished":
            return run
    except anyjepa.UserError:
        pass
    shutil.rmtree(out, ignore_errors=True)
    train(what[0], what[1], out, **how)
    return load(out)
