"""The commands that take something away or bring it in: embed, export, push, import."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from anyjepa.cli import Parser, command_parser, print_figures, show_result


def command_embed(words: Sequence[str]) -> int:
    """Embeddings with sample ids."""
    parser = command_parser(
        "embed",
        "Write the embedding of every sample, with its id, and its label where it has one.",
        "anyjepa embed runs/digits --data digits --out digits.parquet",
    )
    parser.add_argument("run", help="the run's folder, or a file of `anyjepa export --format safetensors`")
    parser.add_argument("--data", help="samples to embed (default: the data it was trained on)")
    parser.add_argument("--labels", help="file (csv, tsv, parquet: id, label) or column of labels")
    parser.add_argument(
        "--out", default="embeddings.parquet", help=".parquet or .npy (default embeddings.parquet)"
    )
    parser.add_argument(
        "--shard-rows", type=int, metavar="N",
        help="write a folder of files of so many samples; the same command goes on where it was stopped",
    )  # fmt: skip
    options = parser.parse_all(words)
    from anyjepa.engine.embedding import embed

    result = embed(
        options.run, options.data, options.out, labels=options.labels, shard_rows=options.shard_rows
    )
    return show_result(options, result, print_figures)


def command_export(words: Sequence[str]) -> int:
    """The encoder, for other tools."""
    parser = command_parser(
        "export",
        "Write the encoder for other tools, with a model card, and compare it with the run on a batch.",
        "anyjepa export runs/digits --format onnx --out digits.onnx",
    )
    parser.add_argument("run", help="the run's folder")
    parser.add_argument(
        "--format", default="safetensors",
        help="safetensors (default), onnx, torchscript, torch-export, transformers or timm",
    )  # fmt: skip
    parser.add_argument("--out", help="a file or a folder (default: exports/FORMAT in the run's folder)")
    parser.add_argument(
        "--output", default="embedding", choices=("embedding", "tokens", "actions"),
        help="what a graph (onnx, torchscript, torch-export) gives; actions of a policy (default embedding)",
    )  # fmt: skip
    options = parser.parse_all(words)
    from anyjepa.engine.takeaway import export

    result = export(options.run, options.format, options.out, output=options.output)

    def show(result: dict[str, Any]) -> None:
        print_figures({name: value for name, value in result.items() if name != "create_model"})
        if "create_model" in result:
            print(f"\nload it into\n  model = {result['create_model']}")

    return show_result(options, result, show)


def command_push(words: Sequence[str]) -> int:
    """The encoder and its card, on the Hugging Face hub."""
    parser = command_parser(
        "push",
        "Put the encoder and its model card on the Hugging Face hub. Log in first: `hf auth login`.",
        "anyjepa push runs/digits --repo me/digits --private",
    )
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("--repo", required=True, help="OWNER/NAME on the hub; made if it is not there")
    parser.add_argument(
        "--format", default="safetensors", help="as of `anyjepa export` (default safetensors)"
    )
    parser.add_argument("--private", action="store_true", help="where the repository is made: for you only")
    options = parser.parse_all(words)
    from anyjepa.engine.hub import push

    result = push(options.run, options.repo, options.format, private=options.private)
    return show_result(options, result, print_figures)


def command_import(words: Sequence[str]) -> int:
    """A published checkpoint becomes a run."""
    parser = command_parser(
        "import",
        "Make a run of a published checkpoint, to evaluate, embed, inspect, export and train further "
        "(anyjepa train RECIPE --init RUN). Reads, for i-jepa: the released code's checkpoints, I-JEPA "
        "folders of transformers, and vision transformers of timm as a start; for ecg-jepa: the released "
        "code's checkpoints. Nothing is unpickled. Every field of the recipe is a flag, as of "
        "`anyjepa train RECIPE`: such as --heads where the checkpoint does not say.",
        "anyjepa import IN1K-vit.h.14-300e.pth.tar --recipe i-jepa --out runs/vit-h",
    )
    parser.usage = (
        "anyjepa import CHECKPOINT --recipe NAME --out RUN [--data SRC] [--mean X ...] [--std X ...] "
        "[--FIELD VALUE ...]"
    )
    parser.add_argument("checkpoint", help="a .pth, .pt, .tar, .bin or .safetensors file, or a folder")
    parser.add_argument("--recipe", required=True, help="i-jepa or ecg-jepa")
    parser.add_argument("--out", required=True, help="the run's folder, a new one")
    parser.add_argument("--data", help="samples to measure mean and deviation on (default: published ones)")
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}", nargs="+", type=float, metavar="X",
            help="of each channel or lead, in the data's units (0 to 255 for 8-bit images, millivolts)",
        )  # fmt: skip
    fields = _fields(parser, words)
    options = parser.parse_all(words)
    from anyjepa.engine.importing import import_checkpoint

    given = vars(options)
    result = import_checkpoint(
        options.checkpoint, options.recipe, options.out, data=options.data, mean=options.mean,
        std=options.std, **{f.name: f.parse(given[f.name]) for f in fields if given[f.name] is not None},
    )  # fmt: skip
    return show_result(options, result, _show_import)


def _fields(parser: Parser, words: Sequence[str]) -> Sequence[Any]:
    """Add the fields of the recipe that the words name, if they name one."""
    named = [after for word, after in itertools.pairwise(words) if word == "--recipe"]
    named += [word.removeprefix("--recipe=") for word in words if word.startswith("--recipe=")]
    if not named:
        return ()
    from anyjepa.recipes import recipe
    from anyjepa.recipes.fields import fields_of

    found = fields_of(recipe(named[0]))
    group = parser.add_argument_group(f"fields of {named[0]}")
    for field in found:
        group.add_argument(
            field.flag, nargs="*", metavar=field.shape, dest=field.name, help=field.meaning.replace("%", "%%")
        )
    return found


def _show_import(result: dict[str, Any]) -> None:
    print_figures(result)
    for name, words in (("missing", "begin anew"), ("unexpected", "have no place here")):
        if result[name]:
            shown = ", ".join(result[name][:4])
            more = f" and {len(result[name]) - 4} more" if len(result[name]) > 4 else ""
            print(f"{len(result[name])} weights {words}: {shown}{more}")
    run, recipe = result["run"], result["recipe"]
    print(f"\nnext: anyjepa evaluate {run} --data LABELLED")
    print(f"      anyjepa train {recipe} --init {run} --data SRC")
