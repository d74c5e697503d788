"""The command that computes and measures optical flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyjepa.cli import command_parser, show_result

BESIDE = (
    ("", "this run"),
    ("_untrained", "untrained"),
    ("_zero", "no flow"),
    ("_farneback", "Farnebäck (OpenCV)"),
    ("_dis", "DIS (OpenCV)"),
)


def command_flow(words: Sequence[str]) -> int:
    """Compute the flow of pairs of frames, and measure it where the truth is known."""
    parser = command_parser(
        "flow",
        "How far off is the optical flow of a run? Beside no flow at all and OpenCV's (pip install "
        "'anyjepa[flow]'). Pairs without known flow are measured by what warping leaves of their difference.",
        "anyjepa flow runs/frames --data flying_chairs/ --out flow/",
    )
    parser.add_argument("run", help="the run's folder, of mc-jepa")
    parser.add_argument("--data", help="pairs of frames (default: those it was trained on)")
    parser.add_argument("--split", help="part of the data (default: its test part, or all)")
    parser.add_argument("--out", help="folder for the flow of each pair, as .flo and .png")
    parser.add_argument("--pairs", type=int, default=1000, help="at most so many pairs (default 1000)")
    options = parser.parse_all(words)
    if options.pairs < 1:
        from anyjepa.core.errors import UserError

        raise UserError(f"--pairs must be 1 or more, not {options.pairs}.")
    from anyjepa.evaluation.flow import flow

    found = flow(options.run, options.data, split=options.split, out=options.out, pairs=options.pairs)
    return show_result(options, found, show_errors)


def show_errors(result: dict[str, Any]) -> None:
    """A table of end-point errors, and what was measured without truth."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, soft_wrap=True)
    if result["known"]:
        table = Table("by", "end-point error (px)", "95 %", "off by > 3 px and 5 %", box=SIMPLE_HEAD)
        for name, words in BESIDE:
            if f"epe{name}" in result:
                low, high = result[f"epe{name}_low"], result[f"epe{name}_high"]
                shown = (
                    f"{result[f'epe{name}']:.2f}",
                    f"{low:.2f} to {high:.2f}",
                    f"{result[f'fl{name}']:.1%}",
                )
                table.add_row(words, *shown)
        console.print(table)
    console.print(
        f"{result['pairs']} pairs, flow known of {result['known']}. Warping leaves "
        f"{result['photometric_left']:.0%} of the difference of frames; there and back ends "
        f"{result['forward_backward_error']:.2f} px from home.",
        highlight=False,
    )
    if "out" in result:
        console.print(f"written to {result['out']}", highlight=False)
