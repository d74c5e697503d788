"""The command that makes shards: pack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyjepa.cli import command_parser, print_figures, show_result


def command_pack(words: Sequence[str]) -> int:
    """Shards of any source."""
    parser = command_parser(
        "pack",
        "Write the samples of a source into WebDataset tar shards with an index, in parallel processes: ids, "
        "labels and groups are kept, damaged samples named in skipped.jsonl. The same command goes on where "
        "it was stopped. Train with --data wds:OUT, or with wds:https://HOST/OUT once it is on a server.",
        "anyjepa pack digits shards/digits",
    )
    parser.add_argument("source", help="a folder, a file, hf:NAME[:SPLIT], wds:PATTERN, or a shipped name")
    parser.add_argument(
        "out", help="the pack's folder; for the test split of a pack, OUT/test beside OUT/train"
    )
    parser.add_argument("--domain", help="the kind of data (default: found out, as by `anyjepa look`)")
    parser.add_argument("--recipe", help="read as this recipe does (rate, leads, pieces), and pack that")
    parser.add_argument("--labels", help="file (csv, tsv, parquet: id, label) or column of labels")
    parser.add_argument("--split", help="train, val or test, where the source is split (default train)")
    parser.add_argument("--shard-samples", type=int, metavar="N", help="samples of a shard (default: 256 MB)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    parser.add_argument(
        "--max-bad-fraction", type=float, default=0.01, metavar="X",
        help="share of damaged samples at which nothing is packed (default 0.01)",
    )  # fmt: skip
    options = parser.parse_all(words)
    from anyjepa.engine.packing import pack

    result = pack(
        options.source, options.out, domain=options.domain, recipe_name=options.recipe,
        labels=options.labels, split=options.split, shard_samples=options.shard_samples,
        workers=options.workers, max_bad_fraction=options.max_bad_fraction,
    )  # fmt: skip

    def show(result: dict[str, Any]) -> None:
        print_figures(result)
        if result["skipped"]:
            print(f"\n{result['skipped']} damaged samples are named in {result['out']}/skipped.jsonl")
        print(f"\nnext: anyjepa look {result['source']}")

    return show_result(options, result, show)
