"""``anyjepa look``: what is asked for on the command line, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyjepa.cli import command_parser, print_figures, show_result

SHOWN = 10  # damaged samples that are named on the terminal


def command_look(words: Sequence[str]) -> int:
    """What is in there, what cannot work, and the training to begin with."""
    parser = command_parser(
        "look",
        "Say what is in a source: kind of data, counts, shapes, labels, what is damaged; and propose a "
        "training with its time and memory, which are measured by a few real steps.",
        "anyjepa look photos/ --out photos.html",
    )
    parser.add_argument("source", help="a folder, a file, hf:NAME[:SPLIT], wds:PATTERN, or a shipped name")
    parser.add_argument("--labels", help="file (csv, tsv, parquet: id, label) or column of labels")
    parser.add_argument("--kind", help="of data, where a source can be read as several: image, ecg, ...")
    parser.add_argument("--recipe", help="the recipe to propose (default: the first that reads such data)")
    parser.add_argument("--out", help="an HTML page to write, with masks drawn over samples")
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="longest training to propose (default 30)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or mps")
    parser.add_argument("--seed", type=int, default=0, help="of the samples that are checked and drawn")
    options = parser.parse_all(words)
    from anyjepa.reports.look import look

    result = look(
        options.source, labels=options.labels, kind=options.kind, recipe=options.recipe, out=options.out,
        minutes=options.minutes, device=options.device, seed=options.seed,
    )  # fmt: skip
    return show_result(options, result, _show)


def _show(result: dict[str, Any]) -> None:
    from anyjepa.reports.look import rows

    print_figures(dict(rows(result)))
    for problem in result["problems"][:SHOWN]:
        print(f"  damaged: {problem['sample']}: {problem['reason']}")
    if result["problem_count"] > SHOWN:
        print(f"  ... and {result['problem_count'] - SHOWN:,} more (--json names up to 100)")
    for sentence in result["cannot"]:
        print(f"- {sentence}")
    if "page" in result:
        print(f"\nmasks over samples: {result['page']}")
    if "command" in result:
        print(f"\nnext: {result['command']}")
