"""The command line: parse, call, print. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from anyjepa import __version__
from anyjepa.core.errors import UserError, nearest, visible
from anyjepa.engine.signals import Ended, ended_by_signal

STOPPED = 128  # a shell's exit code for a command that a signal stopped is this plus its number


class _Help(argparse.RawDescriptionHelpFormatter):
    """Examples as written, and the shape of a field's value without the brackets of optional words."""

    def _format_args(self, action: argparse.Action, default_metavar: Any) -> str:
        if action.nargs == "*" and isinstance(action.metavar, str):
            return action.metavar
        return super()._format_args(action, default_metavar)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UserErrors and whose help keeps the examples as written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, allow_abbrev=False, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and leaving."""
        raise UserError(f"{self.prog}: {message}; see `{self.prog} --help`.")

    def parse_all(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse; an unknown flag suggests the nearest."""
        options, rest = self.parse_known_args(words)
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings]
            unknown = next((word for word in rest if word.startswith("-")), rest[0])
            name = unknown.split("=")[0]
            raise UserError(f"{self.prog} has no option '{name}'.{nearest(name, flags)}")
        return options


def command_parser(command: str, about: str, example: str) -> Parser:
    """A command's parser, with what all of them take."""
    parser = Parser(prog=f"anyjepa {command}", description=about, epilog=f"example:\n  {example}")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line of stdout"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def print_figures(figures: dict[str, Any]) -> None:
    """A result as a table of names and values."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in figures.items():
        if not isinstance(value, dict | list):
            table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    Console(markup=False, emoji=False, soft_wrap=True).print(table)


def show_result(
    options: argparse.Namespace, result: dict[str, Any], show: Callable[[dict[str, Any]], None]
) -> int:
    """Print a result as JSON, or as `show` does; the command's exit code."""
    stopped = result.get("stopped_by")
    if not _first_process():
        return STOPPED + stopped if stopped else 0
    if options.json:
        print(json.dumps(result))
    else:
        show(_visible(result))
    if stopped:
        how = "the same command" if "trials" in result else "--resume"
        print(f"stopped at step {result['steps']}; go on with {how}.", file=sys.stderr)
    return STOPPED + stopped if stopped else 0


def _visible(value: Any) -> Any:
    """A result whose texts can be shown: names of files and classes may move a terminal's cursor."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {_visible(name): _visible(part) for name, part in value.items()}
    return [_visible(part) for part in value] if isinstance(value, list) else value


def _first_process() -> bool:
    """Whether this is the first of several processes that torchrun, SLURM or Fabric started."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank), "0") == "0"


def command_recipes(words: Sequence[str]) -> int:
    """List the recipes, or say all about one."""
    parser = command_parser("recipes", "List the recipes, or say all about one.", "anyjepa recipes i-jepa")
    parser.add_argument("name", nargs="?", help="a recipe")
    options = parser.parse_all(words)
    from anyjepa.recipes import recipe, recipes
    from anyjepa.recipes.fields import fields_of

    chosen = [recipe(options.name)] if options.name else list(recipes().values())
    rows = [
        {"name": kind.name, "paper": kind.paper, "domain": kind.domain, "presets": list(kind.presets)}
        for kind in chosen
    ]
    if options.name:
        rows[0]["fields"] = {
            f.name: {"default": f.default, "meaning": f.meaning} for f in fields_of(chosen[0])
        }

    def show(_result: dict[str, Any]) -> None:
        import inspect

        from rich.console import Console
        from rich.table import Table

        table = Table("recipe", "paper", "data", "presets")
        for row in rows:
            table.add_row(row["name"], row["paper"], row["domain"], ", ".join(row["presets"]))
        Console(markup=False, emoji=False, soft_wrap=True).print(table)
        if options.name:
            print(inspect.getdoc(chosen[0]), "\n")
            for field in fields_of(chosen[0]):
                print(f"  {field.flag} {field.shape}\n      {field.meaning} (paper: {field.default})")

    return show_result(options, {"recipes": rows}, show)


def _train_parser(name: str, about: str, data: str) -> Parser:
    example = (
        f"anyjepa train {'i-jepa' if name == 'RECIPE' else name} --data {data} --out runs/{data} --steps 100"
    )
    parser = command_parser(f"train {name}", about, example)
    parser.usage = (
        f"anyjepa train {name} [--data SRC] [--out DIR] [--preset P] [--resume] [--FIELD VALUE ...]"
    )
    parser.add_argument(
        "--data", help="a folder, a file, hf:NAME[:SPLIT], hf-stream:NAME, wds:PATTERN, or a shipped name"
    )
    parser.add_argument("--out", help="the run's folder (default runs/RECIPE)")
    parser.add_argument("--preset", default="tiny", help="the recipe's preset (default tiny)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    parser.add_argument("--init", metavar="RUN", help="begin with another run's weights and fields")
    return parser


def add_fields(parser: Parser, title: str, kind: type) -> None:
    """Every field of a dataclass as a flag, under a heading."""
    from anyjepa.recipes.fields import fields_of

    group = parser.add_argument_group(title)
    for field in fields_of(kind):
        default = "" if field.default is None else f" ({field.default})"
        group.add_argument(
            field.flag, nargs="*", metavar=field.shape, dest=field.name,
            help=f"{field.meaning}{default}".replace("%", "%%"),
        )  # fmt: skip


def given_fields(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass that were given as flags, in their types."""
    from anyjepa.recipes.fields import fields_of

    return {f.name: f.parse(options[f.name]) for f in fields_of(kind) if options[f.name] is not None}


def command_train(words: Sequence[str]) -> int:
    """Pre-train an encoder."""
    about = "Pre-train an encoder on unlabelled data."
    if not words or words[0].startswith("-"):
        about += " `anyjepa train RECIPE --help` lists a recipe's own fields, `anyjepa recipes` the recipes."
        parser = _train_parser("RECIPE", about, "digits")
        parser.parse_all(words)
        raise UserError("name the recipe first: anyjepa train RECIPE ...; `anyjepa recipes` lists them.")

    from anyjepa.engine.train import Settings, train
    from anyjepa.recipes import recipe

    name, kind = words[0], recipe(words[0])
    parser = _train_parser(name, about, kind.example_data)
    add_fields(parser, "how to train", Settings)
    add_fields(parser, f"fields of {name} (in brackets the paper's values)", kind)
    cli_slurm = import_module("anyjepa.cli_slurm")
    cli_slurm.add_flags(parser)
    given = parser.parse_all(words[1:])
    options = vars(given)
    settings, fields = Settings(**given_fields(Settings, options)), given_fields(kind, options)
    if given.slurm:
        kind.preset(given.preset, **fields)
        return cli_slurm.submit(words, given, given.out or f"runs/{name}")
    result = train(
        name, options["data"], options["out"], preset=options["preset"], resume=options["resume"],
        init=options["init"], settings=settings, **fields,
    )  # fmt: skip

    def show(result: dict[str, Any]) -> None:
        print_figures(result)
        print(f"\nnext: anyjepa inspect {result['run']}\n      anyjepa report {result['run']}")

    return show_result(given, result, show)


def command_report(words: Sequence[str]) -> int:
    """One self-contained HTML page."""
    parser = command_parser(
        "report", "Write one self-contained HTML page about a run.", "anyjepa report runs/digits"
    )
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("--data", help="samples to show (default: the data it was trained on)")
    parser.add_argument("--labels", help="file or column of labels")
    options = parser.parse_all(words)
    from anyjepa.reports.gather import report

    return show_result(options, report(options.run, options.data, options.labels), print_figures)


def command_demo(words: Sequence[str]) -> int:
    """The main job, end to end, on data that ships with a dependency."""
    parser = command_parser(
        "demo",
        "Train, inspect, evaluate and report on scikit-learn's digits, in about two minutes.",
        "anyjepa demo",
    )
    parser.add_argument("--out", default="runs/demo", help="the run's folder (default runs/demo); made anew")
    parser.add_argument("--steps", type=int, help="length of the training (default: about two minutes)")
    options = parser.parse_all(words)
    from anyjepa.demo import STEPS, demo

    return show_result(options, demo(options.out, options.steps or STEPS), lambda _result: None)


def _of(module: str, name: str) -> Callable[[Sequence[str]], int]:
    """A command of another module, which is read when the command is called."""

    def command(words: Sequence[str]) -> int:
        return getattr(import_module(f"anyjepa.{module}"), f"command_{name}")(words)

    return command


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "demo": (command_demo, "the main job, end to end, in about two minutes"),
    "look": (_of("cli_look", "look"), "what is in there, what is damaged, what to train and what it costs"),
    "pack": (_of("cli_pack", "pack"), "make shards of any source, for data larger than memory and disk"),
    "recipes": (command_recipes, "list the recipes, or say all about one"),
    "train": (command_train, "pre-train an encoder on unlabelled data"),
    "inspect": (_of("cli_choosing", "inspect"), "is it healthy? (no labels)"),
    "compare": (_of("cli_choosing", "compare"), "runs side by side, ranked without labels"),
    "sweep": (_of("cli_choosing", "sweep"), "try settings, rank them without labels"),
    "evaluate": (_of("cli_evaluate", "evaluate"), "is it useful? (few labels)"),
    "plan": (_of("cli_planning", "plan"), "does a world model reach goals, in a simulated world?"),
    "rollout": (_of("cli_rollout", "rollout"), "does a policy succeed, in a gymnasium environment?"),
    "flow": (_of("cli_flow", "flow"), "optical flow of pairs of frames, and how far off it is"),
    "recommend": (_of("cli_recommend", "recommend"), "lists of items for the queries of a log"),
    "embed": (_of("cli_takeaway", "embed"), "write the embedding of every sample"),
    "export": (_of("cli_takeaway", "export"), "write the encoder for other tools"),
    "push": (_of("cli_takeaway", "push"), "put the encoder and its card on the Hugging Face hub"),
    "import": (_of("cli_takeaway", "import"), "make a run of a published checkpoint"),
    "report": (command_report, "one page to look at"),
    "board": (_of("cli_board", "board"), "a local page over all runs of a folder, live"),
}


def _help() -> str:
    rows = "\n".join(f"  {name:10}{about}" for name, (_, about) in COMMANDS.items())
    return (
        "Pre-train an encoder on unlabelled data, see whether it is any good, and take it away.\n\n"
        f"usage: anyjepa COMMAND ...\n\n{rows}\n\n"
        "`anyjepa COMMAND --help` says more and gives an example; every command takes --json and --debug.\n"
        "start with:\n  anyjepa demo"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one sentence and exit code 2."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"anyjepa {__version__}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise UserError(
                f"there is no command '{words[0]}'; see `anyjepa --help`.{nearest(words[0], COMMANDS)}"
            )
        with ended_by_signal():
            return COMMANDS[words[0]][0](words[1:])
    except UserError as mistake:
        if "--debug" in words:
            raise
        print(f"error: {visible(str(mistake))}", file=sys.stderr)
        return 2
    except Ended:
        print("stopped.", file=sys.stderr)
        return STOPPED + 15
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return STOPPED + 2
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
