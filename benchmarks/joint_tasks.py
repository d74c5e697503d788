"""Do motion and content help each other in one encoder (MC-JEPA's claim), at small scale?

Trains both tasks together, content alone (VICReg) and motion alone (M-JEPA), for the same steps with the same
seeds, batches and pairs a step. Content is what a linear probe and kNN make of frozen embeddings on held-out
samples, motion the end-point error of held-out pairs. Differences are paired by seed: above 0 the tasks
help each other.

    python benchmarks/joint_tasks.py --seeds 0 1 2
    python benchmarks/joint_tasks.py --settings joint motion no-smoothness no-cycle no-regression

Other flags are fields of mc-jepa, for all settings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from once import trained_once

import anyjepa
from anyjepa.engine.train import Settings
from anyjepa.evaluation.confidence import mean_interval
from anyjepa.evaluation.flow import flow
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words

SETTINGS: dict[str, dict[str, Any]] = {
    "joint": {},
    "content": {"flow": 0.0},
    "motion": {"content": 0.0},
    "late": {"flow_start": 0.1},
    "no-smoothness": {"smooth": 0.0},
    "no-cycle": {"cycle": 0.0},
    "no-regression": {"regression": 0.0},
    "no-occlusion": {"occlusion": False},
    "no-variance": {"level_variance": (0.0,) * 4, "level_covariance": (0.0,) * 4},
}
MEASURES = ("linear", "knn", "epe")


def one(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train one setting with one seed and measure it; a finished one is not trained again."""
    out = Path(options.out) / f"{name}-{seed}"
    settings = Settings(seed=seed, steps=options.steps, quiet=True)
    fields = {**options.fields, **SETTINGS[name]}
    run = trained_once(out, "mc-jepa", options.data, preset=options.preset, settings=settings, **fields)
    row: dict[str, Any] = {"setting": name, "seed": seed}
    scored = anyjepa.evaluate(run, options.data, probe=["linear", "knn"])
    for result in scored["results"]:
        row |= {result["probe"]: result["value"]}
        row |= {f"{result['probe']}_{kind}": result[kind] for kind in ("untrained", "raw")}
    if getattr(run.recipe, "flow", 0.0) > 0:
        found = flow(run, options.pairs or options.data)
        kept = (
            "epe",
            "epe_zero",
            "epe_untrained",
            "epe_farneback",
            "epe_dis",
            "fl",
            "forward_backward_error",
        )
        row |= {key: found[key] for key in kept if key in found}
    last = run.metrics()[-1]
    return row | {key: value for key, value in last.items() if key.startswith("spread_level")}


def main() -> None:
    """Run the settings and print one JSON object a line, then the paired differences to the joint one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="synthetic-frames", help="labelled pairs (default simulated ones)")
    parser.add_argument("--pairs", help="pairs with known flow, where the data has none")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=["joint", "content", "motion"], choices=SETTINGS)
    parser.add_argument("--out", default="runs/joint-tasks", help="folder for the runs")
    options, rest = parser.parse_known_args()
    options.fields = parse_words(recipe("mc-jepa"), rest)
    rows = {}
    for seed in options.seeds:
        for name in options.settings:
            rows[name, seed] = one(options, name, seed)
            print(json.dumps(rows[name, seed]), flush=True)
    if len(options.seeds) < 2:
        return
    for name in options.settings:
        found = {
            key: [
                round(value, 4) for value in mean_interval([rows[name, seed][key] for seed in options.seeds])
            ]
            for key in rows[name, options.seeds[0]]
            if key in MEASURES
        }
        print(json.dumps({"mean of": name, **found}))
        if name == "joint" or "joint" not in options.settings:
            continue
        gains: dict[str, Any] = {"joint gains over": name}
        for key in MEASURES:
            if all(key in rows[which, options.seeds[0]] for which in (name, "joint")):
                sign = -1 if key == "epe" else 1
                each = [sign * (rows["joint", seed][key] - rows[name, seed][key]) for seed in options.seeds]
                gains[key] = [round(value, 4) for value in mean_interval(each)]
                gains[f"{key}_seeds_in_favour"] = f"{sum(gain > 0 for gain in each)} of {len(each)}"
        print(json.dumps(gains))


if __name__ == "__main__":
    main()
