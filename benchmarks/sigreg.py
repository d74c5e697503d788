"""Time and memory of SIGReg, forward and backward, beside the released algorithm done naively.

The naive one is written here from the paper's Algorithm 1 and the released defaults: it holds t x for every
sample, slice and point, with its cosines and sines, and leaves the gradient to autograd. Both have the same
embeddings and slices, take turns in one process, and must agree. Peak memory is what the process held beyond
its size before, each measured in a process of its own (Linux).

    OMP_NUM_THREADS=1 python benchmarks/sigreg.py --json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from anyjepa.core.sigreg import directions, sigreg

SIZES = ["512x64x256", "1024x256x512", "4096x512x1024"]


def naive(embeddings: Tensor, slices: Tensor) -> Tensor:
    """SIGReg with 17 points on [0, 3] counted twice, nothing shared between points."""
    t = torch.linspace(0, 3, 17)
    weights = torch.full((17,), 2 * 3 / 16)
    weights[[0, -1]] = 3 / 16
    normal = torch.exp(-t.square() / 2)
    phases = (embeddings @ slices).unsqueeze(-1) * t
    error = (phases.cos().mean(0) - normal).square() + phases.sin().mean(0).square()
    return (error @ (weights * normal) * embeddings.shape[0]).mean()


ALGORITHMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ours": sigreg, "naive": naive}


def inputs(size: str) -> tuple[Tensor, Tensor]:
    """Embeddings and slices of NxKxM."""
    samples, dim, count = map(int, size.split("x"))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, dim, generator=generator).requires_grad_(), directions(dim, count, generator)


def seconds(algorithm: str, embeddings: Tensor, slices: Tensor) -> tuple[float, float, Tensor]:
    """One forward and backward: seconds, value, gradient."""
    start = time.perf_counter()
    value = ALGORITHMS[algorithm](embeddings, slices)
    (gradient,) = torch.autograd.grad(value, embeddings)
    return time.perf_counter() - start, float(value.detach()), gradient


def memory(line: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    status = dict(row.split(":") for row in Path("/proc/self/status").read_text().splitlines())
    return int(status[line].split()[0]) * 1024


def peak_bytes(algorithm: str, size: str) -> int:
    """Peak memory beyond the inputs', in a new process."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", algorithm, "--sizes", size],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def compare(size: str, rounds: int) -> dict[str, object]:
    """Both algorithms in turns, the first round left out; the ratio is of the rounds' pairs."""
    embeddings, slices = inputs(size)
    found: dict[str, list[float]] = {name: [] for name in ALGORITHMS}
    for turn in range(rounds + 1):
        results = {name: seconds(name, embeddings, slices) for name in ALGORITHMS}
        ours, theirs = results["ours"], results["naive"]
        # the mean over slices is 1; float32 holds a few digits of it
        if not math.isclose(ours[1], theirs[1], rel_tol=1e-3) or not torch.allclose(
            ours[2], theirs[2], atol=1e-2 * float(theirs[2].abs().max())
        ):
            raise SystemExit(f"the two disagree at {size}: {ours[1]} and {theirs[1]}")
        for name in ALGORITHMS if turn else ():
            found[name].append(results[name][0])
    ratios = [slow / fast for slow, fast in zip(found["naive"], found["ours"], strict=True)]
    row: dict[str, object] = {"samples x dim x slices": size, "rounds": rounds}
    for name, values in found.items():
        row[f"{name}_seconds"] = statistics.median(values)
        row[f"{name}_seconds_range"] = [min(values), max(values)]
        row[f"{name}_peak_bytes"] = peak_bytes(name, size)
    row["times_faster"], row["times_faster_range"] = statistics.median(ratios), [min(ratios), max(ratios)]
    return row


def main() -> None:
    """Compare at each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", default=SIZES, help="samples x dimensions x slices, as 4096x512x1024"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--peak", choices=list(ALGORITHMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        given = inputs(options.sizes[0])
        seconds(options.peak, *inputs("64x8x8"))
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
        before = memory("VmRSS")
        seconds(options.peak, *given)
        print(memory("VmHWM") - before)
        return
    rows = []
    for size in options.sizes:
        rows.append(row := compare(size, options.rounds))
        print(
            f"{size}: ours {row['ours_seconds']:.4f} s, {int(row['ours_peak_bytes']) / 2**20:.0f} MiB; naive "
            f"{row['naive_seconds']:.4f} s, {int(row['naive_peak_bytes']) / 2**20:.0f} MiB; "
            f"{row['times_faster']:.2f} times as fast, {row['times_faster_range']}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    if options.json:
        print(json.dumps({"threads": 1, "rows": rows}))


if __name__ == "__main__":
    main()
