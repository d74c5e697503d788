"""Compare the paper's ablations at small scale: do they have the paper's sign?

Every setting is trained for the same number of steps with the same seeds; the linear probe and kNN on
held-out samples decide. Differences are paired by seed. The run without stop-gradient must say that it
collapses.

    python benchmarks/ablations.py --data CIFAR_FOLDER --steps 1500 --width 64 --depth 3 --heads 2

Other flags are fields of the recipe, for all settings.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

import anyjepa
from anyjepa.engine.files import read_lines
from anyjepa.engine.run import Run, load
from anyjepa.engine.train import Settings, train
from anyjepa.evaluation.confidence import mean_interval
from anyjepa.evaluation.probes import knn_probe, linear_probe
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words

SETTINGS: dict[str, dict[str, Any]] = {
    "base": {},
    "one-target": {"targets": 1},
    "small-context": {"context_scale": (0.4, 1.0)},
    "random-patches": {"mask": "random"},
    "frozen-teacher": {"momentum": (1.0, 1.0)},
    "no-stop-gradient": {"teacher": "collapse"},
    "published-masks": {"published": True},
}


def one(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train one setting with one seed and probe it; a finished one is not trained again."""
    out = Path(options.out) / f"{name}-{seed}"
    try:
        if load(out).config["status"] != "finished":
            raise anyjepa.UserError("not finished")
    except anyjepa.UserError:
        shutil.rmtree(out, ignore_errors=True)
        settings = Settings(seed=seed, steps=options.steps, quiet=True)
        fields = {**options.fields, **SETTINGS[name]}
        train("i-jepa", options.data, out, preset=options.preset, settings=settings, **fields)
    run = load(out)
    row: dict[str, Any] = {"setting": name, "seed": seed, **scores(run)}
    if name == "base":
        row |= {f"{probe}_untrained": value for probe, value in scores(run.untrained()).items()}
    metrics = read_lines(out / "metrics.jsonl")
    row["loss"], row["rankme_centred"] = metrics[-1]["loss"], metrics[-1].get("rankme_centred")
    row["warnings"] = [f"step {m['step']}: {m['warning']}" for m in metrics if "warning" in m]
    return row


def scores(run: Run) -> dict[str, float]:
    """Linear probe and kNN on the test part of the data the run was trained on."""
    train_part, test_part = run.open(), run.open(split="test")
    labelled = []
    for samples in (train_part, test_part):
        labelled += [run.embed(samples).clone(), torch.as_tensor(samples.labels)]
    return {"linear": linear_probe(*labelled).value, "knn": knn_probe(*labelled).value}


def main() -> None:
    """Run the settings and print one JSON object a line, then the paired differences to the base."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="labelled images with a test part")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--out", default="runs/ablations", help="folder for the runs")
    options, rest = parser.parse_known_args()
    options.fields = parse_words(recipe("i-jepa"), rest)
    rows = {}
    for seed in options.seeds:
        for name in options.settings:
            rows[name, seed] = one(options, name, seed)
            print(json.dumps(rows[name, seed]), flush=True)
    if len(options.seeds) < 2 or "base" not in options.settings:
        return
    for name in options.settings[1:]:
        summary: dict[str, Any] = {"base minus": name}
        for probe in ("linear", "knn"):
            gains = [rows["base", seed][probe] - rows[name, seed][probe] for seed in options.seeds]
            summary[probe] = [round(value, 4) for value in mean_interval(gains)]
            summary[f"{probe}_seeds_in_favour"] = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
