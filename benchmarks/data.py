"""What reading costs: every kind of source, beside the loop that a user would write for it, and a peer.

    OMP_NUM_THREADS=1 python benchmarks/data.py --clock processor
    OMP_NUM_THREADS=1 python benchmarks/data.py tar mp4 --count 200 --json

Each source is made in a temporary folder (photographs are smooth random colours as JPEG; ECGs, clouds and
videos are simulated) and opened so that nothing is held in memory. Samples are read in a shuffled order by
`read_many`, as a loader process does; videos as a step reads them (`read_part`). Beside it stands the plain
loop over the same samples with the library that a user would take, and where one is installed a peer:
`datasets`, `webdataset`, or torch's DataLoader over Pillow in the same process. All take turns, so that a
busy machine slows all; figures are medians of the rounds, ratios those of each round with their range. MB
are those that lie on disk. The share of a core is processor time over time on the wall: less than 1 waits
for the disk, or for its turn on a busy machine. Tables are held in memory by every tool, so opening one is
what is compared there; the plain loop of arrays stacks rows one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from data_sources import CASES, Case
from rich.console import Console
from rich.table import Table

from anyjepa.domains import ecg_samples, image_samples, point_samples, video_sources

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def measure(case: Case, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Samples and MB a second of our way, and how many times as fast it is as the others."""
    order = np.random.default_rng(0).permutation(case.count)
    ways = {"ours": case.ours, "plain": case.plain} | ({"peer": case.peer[1]} if case.peer else {})
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shares = []
    for turn in range(rounds + 1):
        for name, read in ways.items() if turn % 2 else reversed(ways.items()):
            wall, processor, began = time.perf_counter(), time.process_time(), clock()
            read(order)
            took = clock() - began
            if turn:  # the first warms the disk's cache
                seconds[name].append(took)
            if turn and name == "ours":
                shares.append((time.process_time() - processor) / (time.perf_counter() - wall))
    middle = statistics.median(seconds["ours"])
    found: dict[str, Any] = {
        "samples": case.count, "megabytes": case.size / 1e6, "samples_per_second": case.count / middle,
        "megabytes_per_second": case.size / 1e6 / middle, "share_of_a_core": statistics.median(shares),
    }  # fmt: skip
    for name in seconds.keys() - {"ours"}:
        ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds["ours"], strict=True)]
        found[name] = {"ratio": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}
    if case.peer:
        found["peer"]["name"] = case.peer[0]
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    table = Table("source", "samples/s", "MB/s", "of a core", "x plain loop", "x peer")
    for name, row in found.items():
        ratios = [
            f"{row[other]['ratio']:.2f} ({row[other]['least']:.2f} to {row[other]['greatest']:.2f})"
            + (f" {row[other]['name']}" if "name" in row[other] else "") if other in row else ""
            for other in ("plain", "peer")
        ]  # fmt: skip
        figures = f"{row['samples_per_second']:,.0f}", f"{row['megabytes_per_second']:,.1f}"
        table.add_row(CASES[name][0], *figures, f"{row['share_of_a_core']:.0%}", *ratios)
    Console().print(table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)} (default all)")
    parser.add_argument("--count", type=int, default=200, help="samples of a source")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    # nothing is held in memory, however little it is
    for module in (ecg_samples, image_samples, point_samples, video_sources):
        module.RESIDENT_BYTES = 0
    found = {}
    for name in given.names or CASES:
        with tempfile.TemporaryDirectory(prefix="anyjepa-data-") as place:
            found[name] = measure(CASES[name][1](Path(place), given.count), given.rounds, CLOCKS[given.clock])
    if given.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
