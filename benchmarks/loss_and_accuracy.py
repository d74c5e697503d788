"""Does LeJEPA's training loss, which needs no labels, tell which run is the better encoder?

Trains LeJEPA over a grid of lambda, learning rate and length, and compares, run by run, the final training
loss divided by lambda^0.4 (the paper's figure), the raw loss and RankMe with the accuracy of a linear probe
on held-out samples: Spearman's rank correlation, with 95 % intervals by bootstrap over runs. Writes the
figure.

    python benchmarks/loss_and_accuracy.py                                   # digits
    python benchmarks/loss_and_accuracy.py --data CIFAR_FOLDER --image-size 32 --loaded-size 32

Other flags are fields of the recipe, for all runs. A run that is finished is not trained again.
"""

from __future__ import annotations

import argparse
import html
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from once import trained_once

from anyjepa.engine.files import read_lines
from anyjepa.engine.run import Run
from anyjepa.engine.train import Settings
from anyjepa.evaluation.probes import linear_probe
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words

EXPONENT = 0.4  # of lambda, section 6 of the paper
SMALL = {"width": 48, "depth": 2, "heads": 2, "batch_size": 64, "slices": 64, "projection": 16}
PREDICTORS = {"scaled": f"loss / lambda^{EXPONENT}", "loss": "loss", "rankme": "RankMe"}
BOOTSTRAPS = 5000
COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7")


def one(options: argparse.Namespace, weight: float, rate: float, steps: int) -> dict[str, Any]:
    """Train and probe one setting."""
    out = Path(options.out) / f"lambda-{weight:g}-rate-{rate:g}-steps-{steps}"
    settings = Settings(seed=options.seed, steps=steps, quiet=True, log_every=20)
    fields = {**SMALL, **options.fields, "regularisation": weight, "learning_rate": rate}
    run = trained_once(out, "lejepa", options.data, preset="tiny", settings=settings, **fields)
    last = read_lines(out / "metrics.jsonl")[-1]
    return {
        "lambda": weight, "rate": rate, "steps": steps,
        "loss": last["loss"], "scaled": last["loss"] / weight**EXPONENT, "rankme": last["rankme"],
        "sigreg": last["sigreg"], "invariance": last["invariance"], "accuracy": accuracy(run, options.test),
    }  # fmt: skip


def accuracy(run: Run, test: str | None) -> float:
    """Linear probe on held-out samples."""
    held_out = run.open(split="test") if test is None else run.open(test)
    labelled = []
    for samples in (run.open(), held_out):
        labelled += [run.embed(samples).clone(), torch.as_tensor(samples.labels)]
    return linear_probe(*labelled).value


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, of equal values their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[places]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of ranks; NaN where one is constant."""
    a, b = (ranks(values) - ranks(values).mean() for values in (first, second))
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length else float("nan")


def intervals(rows: list[dict[str, Any]], seed: int = 0) -> dict[str, dict[str, float]]:
    """Correlation of each predictor with accuracy, its 95 % interval, and how often it is the stronger.

    ``stronger_than_X``: share of the bootstraps in which it correlates more strongly than X.
    """
    table = {name: np.array([row[name] for row in rows]) for name in (*PREDICTORS, "accuracy")}
    draws = np.random.default_rng(seed).integers(len(rows), size=(BOOTSTRAPS, len(rows)))
    found, strength = {}, {}
    for name in PREDICTORS:
        resampled = np.array([spearman(table[name][draw], table["accuracy"][draw]) for draw in draws])
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
        found[name] = {"value": spearman(table[name], table["accuracy"]), "low": low, "high": high}
        strength[name] = np.abs(resampled)
    for name, other in itertools.permutations(PREDICTORS, 2):
        found[name][f"stronger_than_{other}"] = float(np.mean(strength[name] > strength[other]))
    return found


def figure(rows: list[dict[str, Any]], found: dict[str, dict[str, float]], title: str) -> str:
    """SVG: accuracy over each predictor, a panel each, points coloured by lambda."""
    side, gap, top = 260, 60, 60
    weights = sorted({row["lambda"] for row in rows})
    colours = dict(zip(weights, itertools.cycle(COLOURS), strict=False))
    width, height = len(PREDICTORS) * (side + gap) + gap, side + top + 70
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" '
        f'fill="white"/><text x="{gap}" y="22" font-size="14">{html.escape(title)}</text>'
    ]
    for number, (name, words) in enumerate(PREDICTORS.items()):
        left, value = gap + number * (side + gap), found[name]
        said = f"rho {value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
        parts.append(
            f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#999"/>'
            f'<text x="{left}" y="{top - 8}">{said}</text>'
            f'<text x="{left + side / 2}" y="{top + side + 34}" text-anchor="middle">{words}</text>'
        )
        across, up = (_axis([row[key] for row in rows]) for key in (name, "accuracy"))
        for axis, share in ((across, 0), (across, 1)):
            parts.append(
                f'<text x="{left + share * side}" y="{top + side + 16}" fill="#555" '
                f'text-anchor="{("start", "end")[share]}">{axis[share]:.3g}</text>'
            )
        for share in (0, 1):
            parts.append(
                f'<text x="{left - 4}" y="{top + side * (1 - share) + 4}" fill="#555" text-anchor="end">'
                f"{up[share]:.3g}</text>"
            )
        for row in rows:
            x = left + side * (row[name] - across[0]) / (across[1] - across[0])
            y = top + side * (1 - (row["accuracy"] - up[0]) / (up[1] - up[0]))
            tip = f"lambda {row['lambda']:g}, rate {row['rate']:g}, {row['steps']} steps"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colours[row["lambda"]]}">'
                f"<title>{tip}: {row['accuracy']:.3f}</title></circle>"
            )
    for number, weight in enumerate(weights):
        x = gap + number * 110
        parts.append(
            f'<circle cx="{x}" cy="{height - 16}" r="5" fill="{colours[weight]}"/>'
            f'<text x="{x + 10}" y="{height - 12}">lambda {weight:g}</text>'
        )
    parts.append(f'<text x="14" y="{top + side / 2}" transform="rotate(-90 14 {top + side / 2})" '
                 'text-anchor="middle">linear probe accuracy</text></svg>')  # fmt: skip
    return "".join(parts)


def _axis(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def main() -> None:
    """Run the grid, print the table and the correlations, write the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="digits", help="labelled images")
    parser.add_argument("--test", help="the held-out ones, where --data has no test part")
    parser.add_argument("--lambdas", type=float, nargs="+", default=[0.01, 0.02, 0.05, 0.1])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 4e-3])
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 300])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/loss_and_accuracy", help="folder for runs and figure.svg")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options, rest = parser.parse_known_args()
    options.fields = parse_words(recipe("lejepa"), rest)
    rows = []
    print("lambda   rate     steps  loss     scaled   RankMe  accuracy", file=sys.stderr)
    for setting in itertools.product(options.lambdas, options.rates, options.steps):
        rows.append(row := one(options, *setting))
        print(
            f"{row['lambda']:<8g} {row['rate']:<8g} {row['steps']:<6d} {row['loss']:<8.4f} "
            f"{row['scaled']:<8.4f} {row['rankme']:<7.2f} {row['accuracy']:.4f}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    found = intervals(rows)
    for name, words in PREDICTORS.items():
        value = found[name]
        print(
            f"{words}: Spearman {value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})",
            file=sys.stderr,
        )
    path = Path(options.out) / "figure.svg"
    path.write_text(figure(rows, found, f"{len(rows)} runs of LeJEPA on {options.data}"))
    print(f"figure: {path}", file=sys.stderr)
    if options.json:
        print(json.dumps({"runs": rows, "spearman": found, "figure": str(path)}))


if __name__ == "__main__":
    main()
