"""What a step of every recipe costs: samples a second, where its time goes, how much of the machine it uses.

Each recipe trains its preset (`tiny` where not given) on its own example data, in a process of its own, in
fp32. A step is taken apart as the engine goes through it: batches drawn and stacked (in this process,
though the engine draws ahead where a loader pays), the model forward and backward, and the rest (guard,
optimiser, teacher, collapse watch). FLOPs are those that `FlopCounterMode` counts as executed by the model;
the share is of the rate of square matrix products measured before and after. The ceiling is the same share
if the step did nothing but its own products: each shape of linear layer, batched product and attention,
forward and backward, timed alone in the same process, as often as the step does it. With --clock processor
(one thread) times are those that the processor spent, which a busy machine changes less. Memory is the peak
of the process, Python and torch included. With --grow the time of model and rest is measured over a decade
of batch sizes, and the exponent of a power law through it is given: 1 is linear, less is overhead that a
larger batch shares out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from product_shapes import products_of, seconds_alone
from torch.utils.flop_counter import FlopCounterMode

from anyjepa.core.method import Context
from anyjepa.domains import domains
from anyjepa.engine.guard import Guard
from anyjepa.engine.loading import Steps
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method, open_source
from anyjepa.engine.watch import Watch
from anyjepa.recipes import recipe, recipes

WARM = 3  # steps that are not counted
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
now = CLOCKS[os.environ.get("ANYJEPA_BENCHMARK_CLOCK", "wall")]


def matrix_rate(side: int = 1024, seconds: float = 0.3) -> float:
    """FLOPs a second of square fp32 products, the best of those that fit into the time."""
    left, right, best = torch.randn(side, side), torch.randn(side, side), math.inf
    until = now() + seconds
    while now() < until:
        start = now()
        left @ right
        best = min(best, now() - start)
    return 2 * side**3 / best


class Stepping:
    """One recipe's step, in the engine's order."""

    def __init__(self, name: str, preset: str, batch_size: int | None, steps: int) -> None:
        fields = {} if batch_size is None else {"batch_size": batch_size}
        self.recipe = recipe(name).preset(preset, **fields)
        domain = domains()[self.recipe.domain]
        samples = open_source(domain, self.recipe.example_data, reading=dict(self.recipe.reading()))
        self.batch_size = min(self.recipe.batch_size, len(samples))
        self.loader = Steps(samples, self.recipe, self.batch_size, 0, steps)
        self.method = build_method(self.recipe, domain.measure(samples, 0), 0).train()
        self.optimiser = build_optimiser(self.method, self.recipe)
        self.guard = Guard(self.method, self.optimiser, torch.device("cpu"))
        self.watch, self.steps = Watch(), steps

    def take(self, step: int) -> dict[str, float]:
        """Seconds of the parts of update `step`, from 1."""
        marks = [now()]
        batch, _ = self.loader[(step - 1) % len(self.loader)]
        marks.append(now())
        context = Context(step, self.steps, step_generator(0, step))
        self.guard.remember()
        losses = self.method(batch, context)
        losses["loss"].backward()
        marks.append(now())
        apply(self.optimiser, schedule(self.recipe, step, self.steps))
        self.method.before_step(context)
        norm = None
        if self.recipe.gradient_clip:
            norm = torch.nn.utils.clip_grad_norm_(self.method.parameters(), self.recipe.gradient_clip)
        self.guard.judge(losses["loss"], norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.method.after_step(context)
        if "embedding" in losses:
            self.watch.see(losses["embedding"])
        marks.append(now())
        parts = ("data", "model", "rest")
        return {part: end - start for part, start, end in zip(parts, marks, marks[1:], strict=False)}

    def flops(self) -> int:
        """Executed in one forward and backward pass."""
        batch, _ = self.loader[0]
        with FlopCounterMode(display=False) as counter:
            self.method(batch, Context(1, self.steps, step_generator(0, 1)))["loss"].backward()
        self.optimiser.zero_grad()
        return counter.get_total_flops()

    def products(self) -> Any:
        """Which matrix products one forward and backward pass does, and how often."""
        batch, _ = self.loader[0]
        context = Context(1, self.steps, step_generator(0, 1))
        found = products_of(lambda: self.method(batch, context)["loss"].backward())
        self.optimiser.zero_grad()
        return found


def measure(name: str, preset: str, steps: int, grow: bool) -> dict[str, Any]:
    """The figures of one recipe."""
    stepping = Stepping(name, preset, None, steps + WARM)
    before = matrix_rate()
    taken = [stepping.take(step) for step in range(1, steps + WARM + 1)][WARM:]
    alone = seconds_alone(stepping.products(), now)
    rate = (before + matrix_rate()) / 2
    parts = {part: statistics.median(one[part] for one in taken) for part in taken[0]}
    flops = stepping.flops()
    found: dict[str, Any] = {
        "recipe": name, "preset": preset, "batch_size": stepping.batch_size,
        "threads": torch.get_num_threads(),
        "samples_per_second": stepping.batch_size / sum(parts.values()),
        "seconds": parts, "outside_model": 1 - parts["model"] / sum(parts.values()),
        "gflops_of_step": flops / 1e9, "share_of_matrix_rate": flops / parts["model"] / rate,
        "ceiling": flops / alone / rate, "share_of_ceiling": alone / parts["model"],
        "machine_gflops": rate / 1e9,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip
    if grow:
        found["growth"] = growth(name, preset, stepping.batch_size, steps)
    return found


def growth(name: str, preset: str, largest: int, steps: int) -> dict[str, Any]:
    """Seconds of model and rest over a decade of batch sizes, and the exponent of their power law."""
    sizes = sorted({max(2, round(largest * share)) for share in (0.1, 0.2, 0.5, 1.0)})
    seconds = []
    for size in sizes:
        stepping = Stepping(name, preset, size, steps + WARM)
        taken = [stepping.take(step) for step in range(1, steps + WARM + 1)][WARM:]
        seconds.append(statistics.median(one["model"] + one["rest"] for one in taken))
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    slope = statistics.linear_regression(x, y).slope
    return {"batch_sizes": sizes, "seconds": seconds, "exponent": slope}


def describe(rows: list[dict[str, Any]]) -> str:
    """A table for docs and people."""
    lines = [
        "| recipe | batch | samples/s | data, model, rest (ms) | outside model | of matrix rate | "
        "its products alone | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        parts = ", ".join(f"{1000 * row['seconds'][part]:.1f}" for part in ("data", "model", "rest"))
        grown = f", time ~ batch^{row['growth']['exponent']:.2f}" if "growth" in row else ""
        lines.append(
            f"| `{row['recipe']}` {row['preset']} | {row['batch_size']}{grown} | "
            f"{row['samples_per_second']:.0f} | {parts} | {row['outside_model']:.1%} | "
            f"{row['share_of_matrix_rate']:.1%} | {row['ceiling']:.1%} | {row['peak_megabytes']:.0f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="recipes (default all)")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--grow", action="store_true", help="over a decade of batch sizes too")
    parser.add_argument("--here", action="store_true", help="one recipe, in this process, as JSON")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    if given.here:
        print(json.dumps(measure(given.names[0], given.preset, given.steps, given.grow)))
        return
    rows = []
    for name in given.names or recipes():
        words = [
            sys.executable,
            __file__,
            name,
            "--here",
            "--preset",
            given.preset,
            "--steps",
            str(given.steps),
        ]
        words += ["--grow"] if given.grow else []
        clock = {"ANYJEPA_BENCHMARK_CLOCK": given.clock}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **clock})
        if done.returncode:
            sys.exit(done.stderr)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    print(json.dumps(rows) if given.json else describe(rows))


if __name__ == "__main__":
    main()
