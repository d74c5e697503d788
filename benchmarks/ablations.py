"""Compare the paper's ablations at small scale: do they have the paper's sign?

Every setting is trained for the same number of steps with the same seeds; the linear probe and kNN on
held-out samples decide. Differences are paired by seed. The run without stop-gradient must say that it
collapses.

    python benchmarks/ablations.py --data CIFAR_FOLDER --steps 1500 --width 64 --depth 3 --heads 2
    python benchmarks/ablations.py --recipe ecg-jepa --steps 600
    python benchmarks/ablations.py --recipe dseq-jepa --preset tiny-photos --data CIFAR_FOLDER

Other flags are fields of the recipe, for all settings.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from once import trained_once

import anyjepa
from anyjepa.engine.files import read_lines
from anyjepa.engine.train import Settings
from anyjepa.evaluation.confidence import mean_interval
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "i-jepa": {
        "base": {},
        "one-target": {"targets": 1},
        "small-context": {"context_scale": (0.4, 1.0)},
        "random-patches": {"mask": "random"},
        "frozen-teacher": {"momentum": (1.0, 1.0)},
        "no-stop-gradient": {"teacher": "collapse"},
        "published-masks": {"published": True},
    },
    "dseq-jepa": {
        "base": {},
        "i-jepa": {"curriculum": (0.0, 0.0)},  # with a class token that no loss asks for
        "always-in-order": {"curriculum": (1.0, 1.0)},
        "order-random": {"order": "random"},
        "order-inverse": {"order": "inverse"},
        "order-spatial": {"order": "spatial"},
        "no-sequence": {"order": "flat"},
        "rectangles": {"curriculum_of": "regions", "curriculum": (0.0, 0.0)},
        "rectangles-no-sequence": {"curriculum_of": "regions", "curriculum": (0.0, 0.0), "order": "flat"},
        "regions-replaced": {"curriculum_of": "regions"},
        "contextual-saliency": {"saliency": "contextual"},
        "prefixes": {"encoding": "prefixes"},
    },
    "ecg-jepa": {
        "base": {},
        "random-tokens": {"mask": "random"},
        "keep-0.6": {"keep": (0.55, 0.65)},
        "frozen-teacher": {"momentum": (1.0, 1.0)},
        "no-stop-gradient": {"teacher": "collapse"},
    },
    "point-jepa": {
        "base": {},
        "large-targets": {"target_ratio": (0.35, 0.4)},
        "frozen-teacher": {"momentum": (1.0, 1.0), "copied_updates": 0},
        "no-teacher": {"teacher": "none"},
        "no-stop-gradient": {"teacher": "collapse"},
    },
}


def one(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train one setting with one seed and probe it; a finished one is not trained again."""
    out = Path(options.out) / f"{options.recipe}-{name}-{seed}"
    settings = Settings(seed=seed, steps=options.steps, quiet=True)
    fields = {**options.fields, **SETTINGS[options.recipe][name]}
    trained_once(out, options.recipe, options.data, preset=options.preset, settings=settings, **fields)
    row: dict[str, Any] = {"setting": name, "seed": seed}
    for result in anyjepa.evaluate(out, probe=["linear", "knn"])["results"]:
        row[result["probe"]] = result["value"]
        if name == "base":
            row |= {f"{result['probe']}_{kind}": result[kind] for kind in ("untrained", "raw")}
    metrics = read_lines(out / "metrics.jsonl")
    row["loss"], row["rankme_centred"] = metrics[-1]["loss"], metrics[-1].get("rankme_centred")
    row["seconds_per_step"] = round(statistics.fmean(m["seconds_per_step"] for m in metrics), 4)
    row |= {name: round(value, 3) for name, value in metrics[-1].items() if name.startswith("with_")}
    row["warnings"] = [f"step {m['step']}: {m['warning']}" for m in metrics if "warning" in m]
    return row


def main() -> None:
    """Run the settings and print one JSON object a line, then the paired differences to the base."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="i-jepa", choices=list(SETTINGS))
    parser.add_argument("--data", help="labelled samples; else what the recipe shows itself on")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--settings", nargs="+", help="some of the recipe's, all where not given; base is the paper's"
    )
    parser.add_argument("--out", default="runs/ablations", help="folder for the runs")
    options, rest = parser.parse_known_args()
    options.fields = parse_words(recipe(options.recipe), rest)
    options.settings = options.settings or list(SETTINGS[options.recipe])
    if strange := set(options.settings) - set(SETTINGS[options.recipe]):
        parser.error(
            f"{options.recipe} has no setting {', '.join(strange)}, but {', '.join(SETTINGS[options.recipe])}"
        )
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
