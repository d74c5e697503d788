"""``anyjepa evaluate``: what is asked for on the command line, and how scores are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyjepa.cli import add_fields, command_parser, given_fields, show_result

EXAMPLES = """anyjepa evaluate runs/digits --data digits --probe linear
  anyjepa evaluate runs/digits --data digits --probe attentive finetune --epochs 5
  anyjepa evaluate runs/digits --data digits --probe linear knn --shots 5 --draws 10
  anyjepa evaluate runs/digits --data digits --probe few-shot --ways 5 --shots 10
  anyjepa evaluate runs/shapes --data synthetic-shapes --probe patch"""

OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--data", {"help": "labelled samples (default: the data it was trained on)"}),
    ("--labels", {"help": "file (csv, tsv, parquet: id, label) or column of labels"}),
    ("--groups", {"help": "file (id, group) of what must not be on both sides: patient, subject, speaker"}),
    ("--dense", {"help": "labels of parts, for patch: a folder of masks, or a column or array of points"}),
    ("--test", {"help": "labelled samples to test on (default: the source's own test part, or 20 %% of it)"}),
    ("--labels-fraction", {"type": float, "help": "share of the training labels to use, such as 0.01"}),
    ("--shots", {"type": int, "help": "training labels to use of each class, instead"}),
    ("--draws", {"type": int, "help": "how often few labels are drawn anew (default 5; of episodes 10)"}),
    ("--ways", {"type": int, "default": 5, "help": "classes of an episode of --probe few-shot (default 5)"}),
    ("--queries", {"type": int, "default": 20, "help": "test samples a class of an episode (default 20)"}),
    ("--seed", {"type": int, "default": 0, "help": "of the random split and the draws (default 0)"}),
    ("--allow-leak", {"action": "store_true", "help": "let one patient or recording be on both sides"}),
    ("--no-cache", {"action": "store_true", "help": "compute all embeddings anew and keep none"}),
)  # fmt: skip


def command_evaluate(words: Sequence[str]) -> int:
    """Parse, evaluate, print."""
    from anyjepa.evaluation.finetuning import FineTuning
    from anyjepa.evaluation.own_heads import own_heads
    from anyjepa.evaluation.scores import PROBES, evaluate

    about = "Score a run's encoder with labels, beside the untrained encoder and the raw input."
    parser = command_parser("evaluate", about, EXAMPLES)
    parser.add_argument("run", help="the run's folder")
    parser.add_argument(
        "--probe",
        nargs="+",
        default=["linear"],
        help=f"one or several of: {', '.join(PROBES)}, or {', '.join(own_heads())} (default linear)",
    )
    for flag, options in OPTIONS:
        parser.add_argument(flag, **options)
    add_fields(parser, "how --probe finetune trains", FineTuning)
    options = parser.parse_all(words)
    tuning = FineTuning(**given_fields(FineTuning, vars(options)))
    result = evaluate(
        options.run, options.data, labels=options.labels, probe=options.probe, test=options.test,
        groups=options.groups, dense=options.dense, labels_fraction=options.labels_fraction,
        shots=options.shots, draws=options.draws, ways=options.ways, queries=options.queries,
        tuning=tuning, seed=options.seed, allow_leak=options.allow_leak,
        cache=not options.no_cache,
    )  # fmt: skip
    return show_result(options, result, lambda found: print_scores(found.get("results", [found])))


def print_scores(results: list[dict[str, Any]]) -> None:
    """A table of scores with 95 % intervals, and what else was measured."""
    from rich.console import Console
    from rich.table import Table

    table = Table("probe", "metric", "trained", "untrained", "raw input", "gain over untrained")
    for row in results:
        cells = [
            f"{row[name]:.3f} ({row[low]:.3f} to {row[high]:.3f})"
            for name, low, high in [
                ("value", "low", "high"),
                ("untrained", "untrained_low", "untrained_high"),
                ("raw", "raw_low", "raw_high"),
            ]
        ]
        gain = row.get("gain_over_untrained")
        cells.append("" if gain is None else f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})")
        table.add_row(row["probe"], row["metric"], *cells)
        for name, found in row.get("metrics", {}).items():
            sides = [f"{found[kind]:.3f}" for kind in ("trained", "untrained", "raw")]
            table.add_row("", name.replace("_", " "), *sides, "", style="dim")
    # every result on labels has the same ones
    with_baselines = {
        row["probe"] == "recommendation": row for row in reversed(results) if row.get("baselines")
    }
    for own, row in with_baselines.items():
        for name, value in row["baselines"].items():
            metric = row["metric"] if own else "accuracy"
            table.add_row(name, metric, "", "", f"{value:.3f}", "", style="dim")
    console = Console(markup=False, emoji=False, soft_wrap=True, highlight=False)
    console.print(table)
    for row in results:
        console.print(said(row), style="dim")


def said(row: dict[str, Any]) -> str:
    """In words what a result was measured on."""
    words = f"{row['probe']}: {row['train']:,} samples to learn from, {row['test']:,} to test on"
    if "test_groups" in row:
        words += f" of {row['test_groups']:,} groups, none on both sides"
    if row.get("interval"):
        words += f"; mean and interval over {len(row['draws'])} draws of the labels"
    if row.get("chance"):
        words += "; by chance " + ", ".join(f"{value:.3f} at {rank}" for rank, value in row["chance"].items())
    if row.get("raw_probe"):
        words += f"; of the raw input a {row['raw_probe']} probe"
    return f"{words}."
