"""The commands that choose without labels: inspect, compare and sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyjepa.cli import Parser, add_fields, command_parser, given_fields, show_result
from anyjepa.core.errors import UserError

SHOWN = ("rankme", "lidar", "alpha_req", "loss")
SIGNIFICANT = 4


def command_inspect(words: Sequence[str]) -> int:
    """Label-free health of a run."""
    parser = command_parser(
        "inspect", "Is a run's encoder healthy? No labels are used.", "anyjepa inspect runs/digits"
    )
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("--data", help="samples to look at (default: the data it was trained on)")
    parser.add_argument(
        "--samples", type=int, default=2000, help="how many of them; 0 for all (default 2000)"
    )
    options = parser.parse_all(words)
    from anyjepa.evaluation.inspection import inspect

    return show_result(options, inspect(options.run, options.data, samples=options.samples), show_health)


def show_health(result: dict[str, Any]) -> None:
    """A table of measures beside those of the untrained encoder, then the verdict."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from anyjepa.evaluation.inspection import MEANINGS

    table = Table("measure", "trained", "untrained", "what it says", box=SIMPLE_HEAD)
    numbers = (name for name, value in result.items() if isinstance(value, float))
    for name in numbers:
        trained = figure(result[name], result["errors"].get(name))
        table.add_row(
            name.replace("_", " "), trained, figure(result["untrained"].get(name)), MEANINGS.get(name, "")
        )
    console = _console()
    console.print(table)
    console.print(f"{result['samples']} samples; ± is one standard error over samples.", highlight=False)
    console.print(
        f"{result['verdict']}.", style="bold red" if result["collapsed"] else "bold", highlight=False
    )
    for remark in result["remarks"]:
        console.print(remark, highlight=False)
    console.print(result["advice"], highlight=False)


def command_compare(words: Sequence[str]) -> int:
    """Runs side by side, ranked without labels."""
    parser = command_parser(
        "compare",
        "Runs side by side on the same samples, ranked without labels. With labelled --data, each run is "
        "probed as well, and the ranking is judged by that.",
        "anyjepa compare runs/sweep-i-jepa/trial-000 runs/sweep-i-jepa/trial-001 --by lidar",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--data", help="samples to embed (default: the data that all were trained on)")
    parser.add_argument("--labels", help="file (csv, tsv, parquet: id, label) or column of labels")
    parser.add_argument("--by", default="rankme", help="what to rank by: rankme (default), lidar, loss ...")
    parser.add_argument("--probe", default="linear", help="of the labelled score (default linear)")
    parser.add_argument(
        "--checkpoints", action="store_true", help="compare the checkpoints that each run has kept"
    )
    parser.add_argument(
        "--across", action="store_true", help="rank runs of different recipes and widths together"
    )
    parser.add_argument(
        "--samples", type=int, default=2000, help="how many samples; 0 for all (default 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of samples and masks (default 0)")
    options = parser.parse_all(words)
    from anyjepa.evaluation.comparison import compare

    result = compare(
        options.runs,
        options.data,
        labels=options.labels,
        by=options.by,
        probe=options.probe,
        checkpoints=options.checkpoints,
        across=options.across,
        samples=options.samples,
        seed=options.seed,
    )
    return show_result(options, result, show_comparison)


def show_comparison(result: dict[str, Any]) -> None:
    """A table of runs, best first, and how well each measure agrees with the labels."""
    console = _console()
    for recipe, dim in dict.fromkeys((row["recipe"], row["dim"]) for row in result["runs"]):
        rows = [row for row in result["runs"] if (row["recipe"], row["dim"]) == (recipe, dim)]
        console.print(_table(rows, result["by"], f"{recipe}, {dim} wide"))
    console.print(
        "± is one standard error over samples; = is not told apart from the best by two of them.",
        highlight=False,
    )
    for remark in result["remarks"]:
        console.print(remark, highlight=False)
    if result["agreement"]:
        console.print(_agreement(result["agreement"]))
        console.print("in brackets: 95 % interval, runs drawn with replacement.", highlight=False)


def _table(rows: Sequence[Mapping[str, Any]], by: str, title: str, names: Sequence[str] = ()) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = list(dict.fromkeys((by, *SHOWN)))
    table = Table("rank", "run", title=title, box=SIMPLE_HEAD)
    for name in (*names, *shown):
        table.add_column(name.replace("_", " "), no_wrap=True)
    metric = next((row["metric"] for row in rows if "metric" in row), None)
    table.add_column("step", justify="right")
    if metric:
        table.add_column(f"{metric} (labels)")
    for row in rows:
        rank = f"{row['rank']}{' =' if row['tied'] else ''}" if "rank" in row else row["state"]
        cells = [
            rank,
            _folder(row.get("run", "")) if names else row["run"],
            *(_written(row["params"].get(name)) for name in names),
        ]
        cells += [figure(row.get(name), row.get("errors", {}).get(name)) for name in shown]
        cells.append(str(row.get("step", "")))
        if metric:
            cells.append(f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
        table.add_row(*cells, style="red" if row.get("collapsed") else None)
    return table


def _agreement(rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        "chosen by", "Spearman", "Kendall", "it chooses", rows[0]["metric"], "lost", "lost blindly",
        title=f"how well choosing without labels did, over {rows[0]['count']} runs",
        box=SIMPLE_HEAD,
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["by"].replace("_", " "),
            *(
                f"{value:.2f} ({low:.2f} to {high:.2f})"
                for value, low, high in (row["spearman"], row["kendall"])
            ),
            row["chosen"],
            f"{row['value']:.3f}",
            "{:.3f} ({:.3f} to {:.3f})".format(*row["lost"]),
            f"{row['lost_by_chance']:.3f}",
        )
    return table


def command_sweep(words: Sequence[str]) -> int:
    """Try settings, rank them without labels."""
    about = "Train a recipe with every combination of some values and rank the runs without labels. The same "
    about += "command goes on with a sweep that was stopped, and joins one that is at work."
    name = words[0] if words and not words[0].startswith("-") else "RECIPE"
    example = f"anyjepa sweep {name} --grid learning_rate=5e-4,1.5e-3 seed=0,1 --steps 200"
    example = example.replace("RECIPE", "i-jepa")
    parser = command_parser(f"sweep {name}", about, example)
    parser.usage = f"anyjepa sweep {name} --grid FIELD=a,b,c ... [--data SRC] [--out DIR] [--FIELD VALUE ...]"
    parser.add_argument(
        "--grid", nargs="+", action="extend", metavar="FIELD=a,b,c",
        help="values to try; several numbers of one field are joined by colons, 0.98:1; seed is a field too",
    )  # fmt: skip
    parser.add_argument("--data", help="a folder, a file, hf:NAME[:SPLIT], wds:PATTERN, or a shipped name")
    parser.add_argument("--out", help="folder of the trials' runs (default runs/sweep-RECIPE)")
    parser.add_argument("--preset", default="tiny", help="the recipe's preset (default tiny)")
    parser.add_argument("--by", default="rankme", help="what to rank by: rankme (default), lidar, loss ...")
    parser.add_argument(
        "--trials", type=int, help="so many combinations only, drawn by chance (default: all)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at work at the same time (default 1)")
    parser.add_argument(
        "--samples", type=int, default=2000, help="each is measured on; 0 for all (default 2000)"
    )
    if name == "RECIPE":
        parser.parse_all(words)
        raise UserError("name the recipe first: anyjepa sweep RECIPE --grid FIELD=a,b,c ...")
    from anyjepa.engine.train import Settings
    from anyjepa.evaluation.sweeping import parse_grid, sweep
    from anyjepa.recipes import recipe

    kind = recipe(name)
    add_fields(parser, "how to train", Settings)
    add_fields(parser, f"fields of {name} (in brackets the paper's values)", kind)
    options = parser.parse_all(words[1:])
    given = vars(options)
    result = sweep(
        name, parse_grid(name, options.grid or []), options.data, options.out, preset=options.preset,
        by=options.by, trials=options.trials, jobs=options.jobs, samples=options.samples,
        settings=Settings(**given_fields(Settings, given)), **given_fields(kind, given),
    )  # fmt: skip
    return show_result(options, result, show_sweep)


def show_sweep(result: dict[str, Any]) -> None:
    """A table of trials, best first, and the best setting."""
    console = _console()
    names = list(result["trials"][0]["params"])
    console.print(_table(result["trials"], result["by"], result["out"], names))
    for row in result["trials"]:
        if "reason" in row:
            console.print(f"trial {row['number']} {row['state']}: {row['reason']}", highlight=False)
    for remark in result["remarks"]:
        console.print(remark, highlight=False)
    best = result["best"]
    if best is None and "stopped_by" in result:
        return
    if best is None:
        console.print("no trial is worth choosing: all collapsed or were given up.", style="bold red")
        return
    flags = " ".join(f"--{name.replace('_', '-')} {_written(v)}" for name, v in best["params"].items())
    console.print(
        f"best by {result['by']} ({best['rule']}): {flags}\nnext: anyjepa inspect {best['run']}",
        highlight=False,
    )


def _folder(run: str) -> str:
    from pathlib import PurePath

    return PurePath(run).name


def figure(value: float | None, error: float | None = None) -> str:
    """A number to four digits, and its standard error to two."""
    if value is None:
        return ""
    return f"{value:.{SIGNIFICANT}g}" + (f" ± {error:.2g}" if error else "")


def _written(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _console() -> Any:
    from rich.console import Console

    # a file has no width of its own, and what is cut there cannot be read any more
    console = Console(markup=False, emoji=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, width=180)


__all__ = ["Parser", "command_compare", "command_inspect", "command_sweep"]
