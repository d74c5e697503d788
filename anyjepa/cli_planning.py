"""The command that plans with a world model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyjepa.cli import add_fields, command_parser, given_fields, show_result


def command_plan(words: Sequence[str]) -> int:
    """Plan with a world model in a simulated world."""
    from anyjepa.core.planning import CrossEntropy
    from anyjepa.evaluation.planning import SEARCH, plan

    parser = command_parser(
        "plan",
        "How often does a world model reach goals that it is shown? In a simulated world, beside random "
        "actions and the untrained predictor. To plan from your own pictures, use anyjepa.Planner.",
        "anyjepa plan runs/v-jepa-2-ac --episodes 50",
    )
    parser.add_argument("run", help="the run's folder, of v-jepa-2-ac")
    parser.add_argument("--world", default="synthetic-reach", help="the world (default synthetic-reach)")
    parser.add_argument("--episodes", type=int, default=50, help="goals to reach (default 50)")
    parser.add_argument("--steps", type=int, default=14, help="actions that may be taken (default 14)")
    parser.add_argument("--seed", type=int, default=0, help="of places, goals and the search (default 0)")
    add_fields(parser, "how actions are searched for (in brackets the paper's values)", CrossEntropy)
    options = parser.parse_all(words)
    fields = {name: getattr(SEARCH, name) for name in SEARCH.__dataclass_fields__}
    try:
        search = CrossEntropy(**{**fields, **given_fields(CrossEntropy, vars(options))})
    except ValueError as problem:
        from anyjepa.core.errors import UserError

        raise UserError(f"{problem}.") from None
    result = plan(
        options.run, options.world, episodes=options.episodes, steps=options.steps, search=search,
        seed=options.seed,
    )  # fmt: skip
    return show_result(options, result, show_success)


def show_success(result: dict[str, Any]) -> None:
    """A table of how often goals were reached, and how far from them the hand was left."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table("by", "reached", "95 %", "left over (m)", box=SIMPLE_HEAD)
    for name, words in (
        ("", "this run"),
        ("_untrained", "untrained predictor"),
        ("_random", "random actions"),
    ):
        low, high = result[f"success{name}_low"], result[f"success{name}_high"]
        shown = (
            f"{result[f'success{name}']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{result[f'distance{name}']:.2f}",
        )
        table.add_row(words, *shown)
    console = Console(markup=False, emoji=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"{result['episodes']} goals in {result['world']}, {result['steps']} actions each.", highlight=False
    )
