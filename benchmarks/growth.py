"""How cost grows: seconds and peak memory of a training step over a decade of samples, tokens kept and FLOPs.

    OMP_NUM_THREADS=1 python benchmarks/growth.py --rounds 5 --clock processor --figure docs/growth.svg

Each point is a process of its own (its peak of memory is then its own), forked when all is imported; the
points of a decade take turns, round after round. A power law is fitted through each round; its exponent is
the median over the rounds, with the least and greatest. 1 is linear, less is overhead that a larger step
shares out, more is cost that grows faster, as attention does with the square of tokens. The exponent of the
FLOPs that `FlopCounterMode` counts stands beside.

    samples        I-JEPA's step, batch 4 to 40, everything else alike
    tokens kept    encoder forward and backward over 30 to 300 of 400 tokens, batch 4
    model FLOPs    I-JEPA's step, width 128 x depth 2 to width 288 x depth 5, batch 8
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from anyjepa.core.method import Context, MaskedJepa
from anyjepa.engine.optimiser import apply, build_optimiser
from anyjepa.engine.run import build_method
from anyjepa.recipes import recipe

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
FACTS = {"channels": 3, "mean": [127.0] * 3, "std": [70.0] * 3}
SMALL = {
    "width": 128,
    "depth": 3,
    "heads": 2,
    "predictor_width": 64,
    "predictor_depth": 2,
    "predictor_heads": 2,
}


def built(size: int, batch: int, fields: dict[str, Any]) -> tuple[MaskedJepa, dict[str, torch.Tensor]]:
    kind = recipe("i-jepa").preset(
        "tiny", **{**SMALL, **fields, "image_size": (size, size), "patch_size": 8, "batch_size": batch}
    )
    method = build_method(kind, FACTS, 0)
    assert isinstance(method, MaskedJepa)
    return method.train(), {"image": torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)}


def step(batch: int, fields: dict[str, Any]) -> Callable[[], None]:
    """A whole training step on 96 pixels in patches of 8."""
    method, images = built(96, batch, fields)
    optimiser = build_optimiser(method)
    apply(optimiser, {"learning_rate": 1e-4, "weight_decay": 0.05})
    context = Context(1, 10, torch.Generator().manual_seed(0))

    def call() -> None:
        method.losses(images, context)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(context)

    return call


def encoding(kept: int) -> Callable[[], None]:
    """The encoder over some tokens of each image."""
    method, images = built(160, 4, {"width": 192, "heads": 3})
    keep = torch.stack([torch.randperm(400)[:kept] for _ in range(4)])

    def call() -> None:
        method.encoder(images, keep=keep).values.square().mean().backward()
        method.zero_grad()

    return call


DECADES: dict[str, list[tuple[float, Callable[[], Callable[[], None]]]]] = {
    "samples": [(n, lambda n=n: step(n, {})) for n in (4, 7, 12, 22, 40)],
    "tokens kept": [(n, lambda n=n: encoding(n)) for n in (30, 53, 95, 169, 300)],
    "model FLOPs": [
        (0, lambda w=w, d=d: step(8, {"width": w, "depth": d, "heads": w // 32}))
        for w, d in ((128, 2), (160, 2), (192, 3), (224, 4), (288, 5))
    ],
}


def point(make: Callable[[], Callable[[], None]], steps: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds, FLOPs and megabytes of one point, measured in a process of its own."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        before = peak()
        call = make()
        call()
        with FlopCounterMode(display=False) as counter:
            call()
        seconds = []
        for _ in range(steps):
            began = clock()
            call()
            seconds.append(clock() - began)
        found = {
            "seconds": min(seconds), "flops": float(counter.get_total_flops()), "megabytes": peak() - before
        }  # fmt: skip
        os.write(writing, pickle.dumps(found))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        sys.exit(f"a point's process ended with {code}")
    return pickle.loads(content)


def peak() -> float:
    """Megabytes that this process has had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def exponent(x: list[float], y: list[float]) -> float:
    """Of the power law through the points, by least squares of logarithms."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def measure(name: str, rounds: int, steps: int, clock: Callable[[], float]) -> dict[str, Any]:
    """All points of one decade in turn, `rounds` times."""
    found = [[point(make, steps, clock) for _, make in DECADES[name]] for _ in range(rounds)]
    flops = [one["flops"] for one in found[0]]
    x = [value or count for (value, _), count in zip(DECADES[name], flops, strict=True)]
    result: dict[str, Any] = {"x": x, "flops": flops, "flops_exponent": exponent(x, flops)}
    for what in ("seconds", "megabytes"):
        slopes = [exponent(x, [one[what] for one in row]) for row in found]
        each = [[row[place][what] for row in found] for place in range(len(x))]
        result[what] = {
            "median": [statistics.median(values) for values in each],
            "least": [min(values) for values in each], "greatest": [max(values) for values in each],
            "exponent": statistics.median(slopes), "exponents": slopes,
        }  # fmt: skip
    return result


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Seconds and memory over each decade, with the power law through them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(2, len(found), figsize=(11, 6), constrained_layout=True)
    words = {"seconds": "seconds of a step", "megabytes": "peak memory of a step, MB"}
    for column, (name, one) in enumerate(found.items()):
        for row, what in enumerate(words):
            axis, values = axes[row][column], one[what]
            middle, x = values["median"], one["x"]
            errors = [
                [m - low for m, low in zip(middle, values["least"], strict=True)],
                [high - m for m, high in zip(middle, values["greatest"], strict=True)],
            ]
            axis.errorbar(x, middle, errors, fmt="o", capsize=3, color="#1f5fa8")
            height = statistics.mean(math.log(v) for v in middle) - values["exponent"] * statistics.mean(
                math.log(v) for v in x
            )
            line = [math.exp(height) * v ** values["exponent"] for v in x]
            low, high = min(values["exponents"]), max(values["exponents"])
            label = f"{name}$^{{{values['exponent']:.2f}}}$ ({low:.2f} to {high:.2f})"
            axis.plot(x, line, color="#c8502d", label=label)
            axis.set(xscale="log", yscale="log", xlabel=name, ylabel=words[what] if column == 0 else "")
            axis.set_xticks(
                [x[0], x[len(x) // 2], x[-1]], [f"{v:.3g}" for v in (x[0], x[len(x) // 2], x[-1])]
            )
            axis.xaxis.set_minor_formatter(ticker.NullFormatter())
            axis.legend(fontsize=8)
            axis.grid(alpha=0.3, which="both")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def show(found: dict[str, dict[str, Any]]) -> None:
    table = Table(
        "over a decade of", "seconds ~", "least to greatest", "memory ~", "least to greatest", "FLOPs ~"
    )
    for name, one in found.items():
        cells = []
        for what in ("seconds", "megabytes"):
            slopes = one[what]["exponents"]
            cells += [f"x^{one[what]['exponent']:.2f}", f"{min(slopes):.2f} to {max(slopes):.2f}"]
        table.add_row(name, *cells, f"x^{one['flops_exponent']:.2f}")
    Console().print(table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(DECADES)} (default all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of which the fastest counts")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--figure", type=Path, help="a PNG or SVG file to draw")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # processes are forked, and threads do not come along
    clock = CLOCKS[given.clock]
    for warm in (step(1, {}), encoding(4)):
        warm()  # what is loaded once shall not count as a point's memory
    found = {name: measure(name, given.rounds, given.steps, clock) for name in given.names or DECADES}
    if given.figure:
        draw(found, given.figure)
    if given.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
