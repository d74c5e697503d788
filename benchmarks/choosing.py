"""How close does choosing without labels come to choosing by labels?

For each kind of data, a grid of settings of one recipe is swept (`anyjepa sweep`), each run is probed with
labels on held-out samples, and every label-free criterion is judged by them (`anyjepa compare`): Spearman's
and Kendall's rank correlation with the labelled score, and the score lost by taking the run that the
criterion puts first instead of the best one, beside what is lost by taking a run blindly. The claim under
test is that of RankMe (arXiv:2210.02885): on average less than half a point is lost.

    python benchmarks/choosing.py --images CIFAR_FOLDER --table ADULT_FOLDER --target income

A sweep that is stopped goes on when the same command is given again. What a probe reads out of the raw input
and the untrained encoder is given too: runs that do not beat these are chosen among all the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import anyjepa

SHOWN = ("rankme", "rankme_centred", "lidar", "lidar_corrected", "alpha_req", "clid", "uniformity", "loss")
SMALL = {
    "i-jepa": {
        "width": 48, "depth": 2, "heads": 2,
        "predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2,
        "patch_size": 8,
    },
    "t-jepa": {"width": 16, "depth": 2, "predictor_width": 8, "predictor_depth": 1, "predictor_heads": 2},
    "ecg-jepa": {
        "width": 48, "depth": 2, "heads": 2,
        "predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2,
    },
}  # fmt: skip
GRIDS: dict[str, dict[str, list[Any]]] = {
    "i-jepa": {
        "learning_rate": [1e-4, 5e-4, 2e-3, 8e-3],
        "momentum": [[0.9, 1.0], [0.98, 1.0], [0.999, 1.0]],
        "context_scale": [[0.4, 1.0], [0.85, 1.0]],
    },
    "t-jepa": {
        "learning_rate": [1e-4, 5e-4, 2e-3, 8e-3],
        "momentum": [[0.9, 1.0], [0.98, 1.0], [0.999, 1.0]],
        "context_share": [[0.136, 0.368], [0.4, 0.6]],
    },
    "ecg-jepa": {
        "learning_rate": [1e-4, 5e-4, 2e-3, 8e-3],
        "momentum": [[0.9, 0.9995], [0.98, 0.9995], [0.998, 0.9995]],
        "keep": [[0.15, 0.25], [0.4, 0.5]],
    },
}


def study(
    recipe: str, data: str, out: Path, options: argparse.Namespace, labels: str | None, **fields: Any
) -> dict[str, Any]:
    """Sweep, probe and judge one kind of data."""
    grid = GRIDS[recipe]
    if options.quick:
        grid = {name: values[:2] for name, values in list(grid.items())[:2]}
    settings = anyjepa.Settings(steps=options.steps, seed=options.seed, log_every=20, workers=0)
    swept = anyjepa.sweep(
        recipe, grid, data, out, settings=settings, samples=options.samples, **SMALL[recipe], **fields
    )
    if swept.get("stopped_by"):
        sys.exit(128 + swept["stopped_by"])
    runs = [row["run"] for row in swept["trials"] if row["state"] == "complete"]
    compared = anyjepa.compare(runs, data, labels=labels, probe=options.probe, samples=options.samples)
    scores = [row["value"] for row in compared["runs"]]
    return {
        "recipe": recipe,
        "data": data,
        "runs": len(runs),
        "given_up": len(swept["trials"]) - len(runs),
        "metric": compared["runs"][0]["metric"],
        "best": max(scores),
        "median": statistics.median(scores),
        "worst": min(scores),
        "untrained": compared["runs"][0]["untrained"],
        "raw": compared["runs"][0]["raw"],
        "agreement": compared["agreement"],
        "rows": [
            {key: row.get(key) for key in ("run", "value", "collapsed", *SHOWN)} for row in compared["runs"]
        ],
    }


def describe(found: dict[str, Any]) -> str:
    """The figures of one kind of data as a table for docs/experiments.md."""
    lines = [
        f"{found['recipe']} on {found['data']}: {found['runs']} runs, {found['given_up']} given up; "
        f"{found['metric']} {found['worst']:.3f} to {found['best']:.3f} (median {found['median']:.3f}), "
        f"untrained {found['untrained']:.3f}, raw {found['raw']:.3f}",
        "",
        "| chosen by | Spearman | Kendall | lost | lost blindly |",
        "|---|---|---|---|---|",
    ]
    for row in found["agreement"]:
        if row["by"] in SHOWN:
            cells = [
                "{:.2f} ({:.2f} to {:.2f})".format(*row["spearman"]),
                "{:.2f} ({:.2f} to {:.2f})".format(*row["kendall"]),
                "{:.3f} ({:.3f} to {:.3f})".format(*row["lost"]),
                f"{row['lost_by_chance']:.3f}",
            ]
            lines.append(f"| {row['by'].replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="digits", help="labelled images for i-jepa (default digits)")
    parser.add_argument("--table", help="table for t-jepa, whose target is --target")
    parser.add_argument("--target", help="column of the table that is the label")
    parser.add_argument("--ecg", help="labelled ECGs for ecg-jepa")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--samples", type=int, default=1000, help="each run is measured on")
    parser.add_argument("--probe", default="linear")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/choosing"))
    parser.add_argument("--quick", action="store_true", help="four runs of 10 steps each: does it run?")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps = 10
    found = [study("i-jepa", options.images, options.out / "images", options, None)]
    if options.table:
        fields = {"target": options.target} if options.target else {}
        found.append(study("t-jepa", options.table, options.out / "table", options, None, **fields))
    if options.ecg:
        found.append(study("ecg-jepa", options.ecg, options.out / "ecg", options, None))
    for one in found:
        print(describe(one), end="\n\n", file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps({"studies": found}))


if __name__ == "__main__":
    main()
