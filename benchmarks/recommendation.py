"""Does learning from views of items help the rare ones? The same towers with and without, over seeds.

For each seed and variant the recipe is trained on one log and ranks the catalogue for what was held out; all
variants of a seed begin from the same weights and see the same pairs. Means over seeds with 95 % intervals,
and for each variant the paired difference from the towers that learned from the log alone, with the p-value
of a paired t-test. Popularity, item-kNN and ALS once beside.

    python benchmarks/recommendation.py --seeds 0 1 2 3 4
    python benchmarks/recommendation.py --data ../shared/data/recsys_ml100k --held-out 0.2 --seeds 0 1 2 3 4
    python benchmarks/recommendation.py --variants none views --cold 0.1
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import anyjepa
from anyjepa.engine.run import load
from anyjepa.evaluation.recommendation import recommendation_probe
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words

VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"alpha": 0.0},
    "views": {},
    "random": {"masking": "random"},
    "spread": {"masking": "none"},
    "from the log": {"ssl_items": "log"},
    "no logq": {"alpha": 0.0, "logq": False},
}
SHOWN = ("recall_at_10", "recall_at_50", "ndcg_at_10", "head_recall_at_50", "tail_recall_at_50")


def main() -> None:
    """Print one line a training, then a table, and last one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="a log (default: synthetic-shop)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), help=", ".join(VARIANTS))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, help="of each training (default: the preset's epochs)")
    parser.add_argument("--alphas", type=float, nargs="*", default=[], help="further weights to try")
    parser.add_argument(
        "--out",
        type=Path,
        help="keeps the runs, and goes on with those that are there (default: thrown away)",
    )
    options, words = parser.parse_known_args()
    fields = parse_words(recipe("item-ssl"), words)
    variants = {name: VARIANTS[name] for name in options.variants}
    variants |= {f"alpha {alpha:g}": {"alpha": alpha} for alpha in options.alphas}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    baselines: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in options.seeds:
            for name, changes in variants.items():
                settings = anyjepa.Settings(quiet=True, workers=0, seed=seed, steps=options.steps)
                run = folder / f"{name.replace(' ', '-')}-{seed}"
                row, others = _kept(run, options, settings, {**fields, **changes}, not baselines)
                baselines = baselines or others
                found[name].append(row)
                print(f"seed {seed}  {name:>14}  " + _line(row), flush=True)
    summary = {name: _summary(rows, found.get("none"), name) for name, rows in found.items()}
    print()
    for name, row in baselines.items():
        print(f"{name:>21}  " + _line(row))
    for name, row in summary.items():
        print(
            f"{name:>21}  "
            + "  ".join(f"{key} {row[key]['mean']:.3f}±{row[key]['half']:.3f}" for key in SHOWN if key in row)
        )
        gain = row.get("tail_recall_at_50", {}).get("gain")
        if gain is not None:
            p = row["tail_recall_at_50"]["p"]
            print(f"{'':>21}  tail_recall_at_50 {gain:+.4f} against none, p {p:.3g}")
    print(json.dumps({"variants": summary, "baselines": baselines, "seeds": options.seeds}))


def _kept(
    run: Path, options: argparse.Namespace, settings: anyjepa.Settings, fields: dict[str, Any], first: bool
) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures of a training, read back where its folder holds them; with the first those of baselines."""
    file = run / "figures.json"
    if not file.exists():
        start = time.perf_counter()
        anyjepa.train("item-ssl", options.data, run, preset=options.preset, settings=settings, **fields)
        seconds = time.perf_counter() - start
        result = recommendation_probe(load(run), seed=settings.seed, baselines=first)
        metrics = result["metrics"]
        row = {key: metrics[key]["trained"] for key in metrics}
        row |= {"never_listed": result["never_listed"], "seconds": seconds}
        tenths = enumerate(result["deciles"]["trained"], 1)
        row |= {f"tenth_{n}": tenth["recall"] for n, tenth in tenths if tenth["recall"] is not None}
        others = result["baseline_metrics"] | {"raw": {key: metrics[key]["raw"] for key in metrics}}
        file.write_text(json.dumps([row, others if first else {}]))
    row, others = json.loads(file.read_text())
    return row, others


def _line(row: dict[str, float]) -> str:
    return "  ".join(f"{key} {row[key]:.3f}" for key in SHOWN if key in row)


def _summary(
    rows: list[dict[str, float]], plain: list[dict[str, float]] | None, name: str
) -> dict[str, dict[str, float]]:
    """Mean over seeds, half of its 95 % interval, and the paired difference from `plain`."""
    found = {}
    for key in rows[0]:
        values = np.array([row[key] for row in rows])
        spread = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else float("nan")
        found[key] = {"mean": float(values.mean()), "half": float(spread)}
        if plain is not None and name != "none" and len(values) > 1:
            others = np.array([row[key] for row in plain])
            found[key] |= {
                "gain": float((values - others).mean()),
                "p": float(stats.ttest_rel(values, others).pvalue),
            }
    return found


if __name__ == "__main__":
    main()
