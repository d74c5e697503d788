"""Local correlation as one product of rows, beside a loop over displacements and beside unfolding.

What each costs forward and backward, in one process, by turns; all give the same numbers. Radius 4: 81
displacements.

    OMP_NUM_THREADS=1 python benchmarks/flow.py --rounds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from anyjepa.core.flow import correlation

RADIUS = 4
SHAPES = [(16, 64, 8, 8), (16, 32, 16, 16), (16, 16, 32, 32), (4, 96, 28, 48), (2, 48, 56, 96)]


def ours(first: Tensor, second: Tensor) -> Tensor:
    """A product of rows, and a diagonal band of it."""
    return correlation(first, second, RADIUS)


def loop(first: Tensor, second: Tensor) -> Tensor:
    """One elementwise product for each displacement."""
    height, width = first.shape[2:]
    around, side = functional.pad(second, (RADIUS,) * 4), range(2 * RADIUS + 1)
    parts = [(first * around[:, :, y : y + height, x : x + width]).sum(1) for y in side for x in side]
    return torch.stack(parts, dim=1)


def unfolded(first: Tensor, second: Tensor) -> Tensor:
    """All neighbours of every place at once, in memory."""
    batch, channels, height, width = first.shape
    around = functional.unfold(second, 2 * RADIUS + 1, padding=RADIUS)
    return (first.unsqueeze(2) * around.view(batch, channels, -1, height, width)).sum(1)


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ours": ours, "loop": loop, "unfolded": unfolded}


def measured(shape: tuple[int, int, int, int], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of a forward and a backward pass, of each way in each round."""
    first, second = (torch.randn(shape, device=device, requires_grad=True) for _ in range(2))
    wanted = loop(first, second)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds + 1):
        for name, way in WAYS.items():
            start = time.perf_counter()
            result = way(first, second)
            result.sum().backward()
            if device == "cuda":
                torch.cuda.synchronize()
            found[name].append(1000 * (time.perf_counter() - start))
            torch.testing.assert_close(result, wanted, atol=1e-3, rtol=1e-3)
    return {name: times[1:] for name, times in found.items()}


def main() -> None:
    """Print one JSON object for each shape."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for shape in SHAPES:
        times = measured(shape, options.rounds, options.device)
        row = {
            "shape": shape,
            "ms": {name: round(statistics.median(each), 2) for name, each in times.items()},
        }
        for other in ("loop", "unfolded"):
            ratios = [theirs / mine for theirs, mine in zip(times[other], times["ours"], strict=True)]
            row[f"{other}_over_ours"] = round(statistics.median(ratios), 2)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
