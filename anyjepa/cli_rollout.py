"""The command that runs a policy in an environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyjepa.cli import command_parser, show_result


def command_rollout(words: Sequence[str]) -> int:
    """Run a policy in closed loop."""
    parser = command_parser(
        "rollout",
        "How often does a policy succeed in a gymnasium environment? Beside the untrained policy, no "
        "action, random actions and a scripted expert, from the same starts. Episodes are drawn in "
        "rollout.html.",
        "anyjepa rollout runs/act-jepa --environment Pendulum-v1 --episodes 100",
    )
    parser.add_argument("run", help="the run's folder, of act-jepa")
    parser.add_argument("--environment", default="Pendulum-v1", help="of gymnasium (default Pendulum-v1)")
    parser.add_argument("--episodes", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--steps", type=int, help="of an episode at most (default: the environment's)")
    parser.add_argument(
        "--execute", type=int, default=0, help="actions of a chunk to carry out (default: all of them)"
    )
    parser.add_argument(
        "--ensemble", type=float, metavar="M",
        help="average chunks at every step, with weights exp(-M i) from the oldest on (ACT takes 0.01)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1000, help="of the first episode (default 1000)")
    options = parser.parse_all(words)
    from anyjepa.evaluation.rollouts import rollout

    result = rollout(
        options.run, options.environment, episodes=options.episodes, steps=options.steps,
        execute=options.execute, ensemble=options.ensemble, seed=options.seed,
    )  # fmt: skip
    return show_result(options, result, show_rollouts)


def show_rollouts(result: dict[str, Any]) -> None:
    """A table of successes and rewards."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table("by", "success", "95 %", "reward", box=SIMPLE_HEAD)
    names = (
        ("", "this run"),
        ("_untrained", "untrained"),
        ("_still", "no action"),
        ("_random", "random actions"),
        ("_expert", "expert"),
    )
    for name, words in names:
        if f"success{name}" in result:
            low, high = result[f"success{name}_low"], result[f"success{name}_high"]
            share = f"{result[f'success{name}']:.2f}"
            table.add_row(words, share, f"{low:.2f} to {high:.2f}", f"{result[f'reward{name}']:.0f}")
    console = Console(markup=False, emoji=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"{result['episodes']} episodes of {result['environment']}; success: {result['criterion']}.\n"
        f"Episodes are drawn in {result['page']}.",
        highlight=False,
    )
