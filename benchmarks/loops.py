"""What is done here for a whole batch at once, beside the loop that published code does, in one process.

Farthest point sampling (a loop over clouds, each of a loop over its points in numpy), the predictor (called
for each target block instead of once for all), multi-block masks (drawn for each sample in turn, in torch
on the CPU), and the exponential moving average (a loop over parameters). Both take turns, so that a busy
machine slows both; the figure is the median of the rounds' ratios, with their range.

    OMP_NUM_THREADS=1 python benchmarks/loops.py --rounds 15 --clock processor
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers_peer import MultiBlockCollator

from anyjepa.core.masking import Masks
from anyjepa.core.method import Context, MaskedJepa
from anyjepa.core.points import farthest_points
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.tokens import Tokens, take
from anyjepa.engine.run import build_method
from anyjepa.recipes import recipe

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
FACTS = {"channels": 3, "mean": [127.0] * 3, "std": [70.0] * 3}
Pair = tuple[Callable[[], Any], Callable[[], Any]]


def sampling(clouds: int = 32, points: int = 1024, count: int = 64) -> Pair:
    """Farthest point sampling of a batch of clouds."""
    cloud = torch.randn(clouds, points, 3, generator=torch.Generator().manual_seed(0))
    arrays, first = cloud.numpy(), torch.zeros(clouds, dtype=torch.long)

    def loop() -> np.ndarray:
        found = np.zeros((clouds, count), np.int64)
        for row, one in enumerate(arrays):
            nearest, chosen = np.full(points, np.inf, np.float32), 0
            for place in range(count):
                found[row, place] = chosen
                nearest = np.minimum(nearest, ((one - one[chosen]) ** 2).sum(1))
                chosen = int(nearest.argmax())
        return found

    ours = farthest_points(cloud, count, first).numpy()
    assert (ours == loop()).mean() > 0.99, "both choose the same points, but for ties in rounding"
    return lambda: farthest_points(cloud, count, first), loop


def method(preset: str) -> tuple[MaskedJepa, dict[str, torch.Tensor], Masks, int]:
    kind = recipe("i-jepa").preset(preset, batch_size=16)
    built = build_method(kind, FACTS, 0)
    assert isinstance(built, MaskedJepa)
    batch = {"image": torch.randint(0, 256, (16, 3, *kind.image_size), dtype=torch.uint8)}
    return (
        built,
        batch,
        built.masks(batch, Context(1, 10, torch.Generator().manual_seed(0))),
        kind.image_size[0],
    )


def predictor(preset: str = "tiny") -> Pair:
    """Predictions of all target blocks, forward and backward."""
    built, batch, masks, _ = method(preset)
    with torch.no_grad():
        seen: Tokens = built.encoder(batch, keep=masks.context)
        places = built.encoder(batch).coordinates

    def once() -> torch.Tensor:
        found = built.predictor(seen, places, masks)
        found.square().mean().backward()
        return found

    def loop() -> torch.Tensor:
        found = []
        for block in range(masks.targets.shape[1]):
            one = Masks(masks.context, masks.targets[:, block : block + 1], masks.relaxed)
            found.append(built.predictor(seen, places, one))
        together = torch.cat(found, dim=1)
        together.square().mean().backward()
        return together

    torch.testing.assert_close(once(), loop(), atol=1e-5, rtol=1e-4)
    return once, loop


def masks(preset: str = "tiny", batch: int = 64) -> Pair:
    """Masks of a batch."""
    built, _, _, side = method(preset)
    kind = recipe("i-jepa").preset(preset)
    grid = side // kind.patch_size
    collate = MultiBlockCollator(grid, 4)
    images = [torch.zeros(1)] * batch
    generator = torch.Generator().manual_seed(0)
    return lambda: built.sampler(batch, generator), lambda: collate(images)


def average(preset: str = "tiny") -> Pair:
    """A step of the teacher."""
    built, *_ = method(preset)
    assert isinstance(built.target, EmaTeacher)
    mine, theirs = list(built.target.encoder.parameters()), list(built.encoder.parameters())

    @torch.no_grad()
    def loop() -> None:
        for old, new in zip(mine, theirs, strict=True):
            old.mul_(0.99).add_(new.detach(), alpha=0.01)

    return lambda: built.target.follow(built.encoder, 0.99), loop


PAIRS: dict[str, Callable[[], Pair]] = {
    "farthest points, 32 clouds of 1,024": sampling,
    "predictor, 4 blocks (tiny)": predictor,
    "targets gathered, 4 blocks": lambda: gathered(),
    "masks, batch of 64 (tiny)": masks,
    "teacher's step (tiny)": average,
}


def gathered(batch: int = 64, tokens: int = 196, width: int = 192, blocks: int = 4, size: int = 30) -> Pair:
    """The teacher's tokens at all target places."""
    values = torch.randn(batch, tokens, width)
    places = torch.randint(0, tokens, (batch, blocks, size))

    def loop() -> torch.Tensor:
        return torch.stack([
            torch.stack([values[row][places[row, block]] for block in range(blocks)]) for row in range(batch)
        ])  # fmt: skip

    def once() -> torch.Tensor:
        return take(values, places.flatten(1)).unflatten(1, places.shape[1:])

    assert torch.equal(once(), loop())
    return once, loop


def compare(pair: Pair, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Milliseconds of both and the ratio: median, least and greatest of the rounds."""
    ratios, ours, loops = [], [], []
    for turn in range(rounds + 1):
        seconds = []
        for call in pair if turn % 2 else pair[::-1]:
            calls, began = 0, clock()
            while calls < 2 or clock() - began < 0.02:
                call()
                calls += 1
            seconds.append((clock() - began) / calls)
        mine, theirs = seconds if turn % 2 else seconds[::-1]
        if turn:
            ours.append(1000 * mine)
            loops.append(1000 * theirs)
            ratios.append(theirs / mine)
    return {
        "ours_ms": statistics.median(ours), "loop_ms": statistics.median(loops),
        "ratio": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = {name: compare(make(), given.rounds, CLOCKS[given.clock]) for name, make in PAIRS.items()}
    if given.json:
        print(json.dumps(found))
        return
    table = Table("what", "ours, ms", "loop, ms", "ratio", "least", "greatest")
    for name, row in found.items():
        table.add_row(
            name, *(f"{row[key]:.2f}" for key in ("ours_ms", "loop_ms", "ratio", "least", "greatest"))
        )
    Console().print(table)


if __name__ == "__main__":
    main()
