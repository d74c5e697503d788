"""The command that looks at all runs of a folder: board."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anyjepa.cli import command_parser, show_result


def command_board(words: Sequence[str]) -> int:
    """A local page over all runs of a folder."""
    parser = command_parser(
        "board",
        "A local page over all runs of a folder, live while they train: curves, health, scores, reports.",
        "anyjepa board runs --port 0",
    )
    parser.add_argument("runs", nargs="?", default="runs", help="the folder of the runs (default runs)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)"
    )
    parser.add_argument("--port", type=int, default=8127, help="port; 0 takes a free one (default 8127)")
    parser.add_argument(
        "--open", action=argparse.BooleanOptionalAction, default=sys.stdout.isatty(),
        help="show the page in the browser (default: on a terminal)",
    )  # fmt: skip
    options = parser.parse_all(words)
    from anyjepa.board import serve
    from anyjepa.board.runs import Runs

    folder = Path(options.runs)
    found = Runs(folder)
    if options.json:
        return show_result(options, serve.table(found), lambda _result: None)
    server = serve.server(found, options.host)
    opened = serve.listen(options.host, options.port)
    address = serve.address_of(opened, options.host)
    print(f"{len(found.rows())} runs of {folder} at {address}  (Ctrl-C ends it)", flush=True)
    if not serve.loopback(options.host):
        print(
            f"warning: on {options.host} everybody who reaches this machine can read these runs and have "
            "reports made; there is no password.",
            file=sys.stderr,
        )
    if options.open:
        import webbrowser

        webbrowser.open(address)
    try:
        server.run(sockets=[opened])
    except KeyboardInterrupt:
        print("ended.", file=sys.stderr)
    return 0
