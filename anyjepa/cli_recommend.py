"""The command that recommends items of a catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyjepa.cli import command_parser, show_result


def command_recommend(words: Sequence[str]) -> int:
    """Write lists of items for the queries of a log."""
    parser = command_parser(
        "recommend",
        "Which items fit a query best? Items that it took are left out. How good such lists are: "
        "anyjepa evaluate RUN --probe recommendation.",
        "anyjepa recommend runs/films --most 20 --out lists.parquet",
    )
    parser.add_argument("run", help="the run's folder, of item-ssl")
    parser.add_argument("--data", help="a log with its catalogue (default: that it was trained on)")
    parser.add_argument("--queries", nargs="+", default=[], help="ids of queries (default: all of the log)")
    parser.add_argument("--most", type=int, default=10, help="items a query (default 10)")
    parser.add_argument("--taken", action="store_true", help="recommend again what a query took already")
    parser.add_argument(
        "--approximate", action="store_true", help="search through FAISS, for millions of items (extra ann)"
    )
    parser.add_argument("--out", help="file for all lists, .csv or .parquet: query, rank, item, title, score")
    options = parser.parse_all(words)
    from anyjepa.evaluation.recommending import recommend

    found = recommend(
        options.run, options.data, queries=options.queries, most=options.most, taken=options.taken,
        approximate=options.approximate, out=options.out,
    )  # fmt: skip
    return show_result(options, found, show_lists)


def show_lists(result: dict[str, Any]) -> None:
    """A table of the first queries' lists."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, soft_wrap=True, highlight=False)
    table = Table("query", "rank", "item", "title", "score", box=SIMPLE_HEAD)
    for one in result["lists"]:
        for rank, item in enumerate(one["items"], 1):
            named = "" if item["title"] == item["item"] else item["title"]
            table.add_row(one["query"] if rank == 1 else "", str(rank), item["item"], named,
                          f"{item['score']:.3f}")  # fmt: skip
    console.print(table)
    further = result["queries"] - len(result["lists"])
    if "out" in result:
        console.print(f"the lists of {result['queries']:,} queries are in {result['out']}")
    elif further > 0:
        console.print(f"{further:,} further queries: say --out FILE.parquet to have all, or --queries ID.")
