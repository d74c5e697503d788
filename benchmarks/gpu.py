"""One command on a GPU: images a second from ViT-S to ViT-H, share of the machine, recompilations.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json
    python benchmarks/gpu.py --device cpu --quick          # does it run? (seconds)

I-JEPA on 224 pixels, bf16, random images that lie on the device, the whole step: masks, model, optimiser,
teacher. Ours is measured as it is and with `torch.compile` as `--compile` of a training does it; after the
warm-up no step may compile anything anew, which is counted and is an error. The peer is `transformers`'
I-JEPA with its own layers as a predictor (transformers_peer.py), compiled and not. They take turns in
rounds; figures are medians with their range. Useful FLOPs are counted as step_parts.py says; the matrix
rate is that of square bf16 products, measured before and after each round. `synchronisations` counts what
makes the host wait for the device within a step, which a CUDA graph could not hold: there should be none.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from step_parts import Sizes, useful_flops
from torch._dynamo.utils import counters
from transformers_peer import MultiBlockCollator, TransformersJepa

from anyjepa.core.method import Context
from anyjepa.core.transformer import Encoder, Predictor
from anyjepa.engine.guard import Guard
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method

FACTS = {"channels": 3, "mean": [127.0] * 3, "std": [70.0] * 3}
MODELS = {  # width, depth, heads, patch; batch of one GPU
    "ViT-S/16": (384, 12, 6, 16, 256),
    "ViT-B/16": (768, 12, 12, 16, 128),
    "ViT-L/16": (1024, 24, 16, 16, 64),
    "ViT-H/14": (1280, 32, 16, 14, 32),
}
WARM = 4
Step = Callable[[int], None]


def sizes_of(name: str, quick: bool) -> Sizes:
    width, depth, heads, patch, batch = MODELS[name]
    if quick:
        return Sizes(64, 8, 48, 2, 3, 24, 2, 3, 4)
    return Sizes(224, patch, width, depth, heads, 384, 6 if width < 1024 else 12, 12, batch)


def our_step(sizes: Sizes, device: torch.device, compiled: str) -> tuple[Step, Any]:
    """A step as the engine goes it, and the method; compiled by a backend where one is named."""
    kind = sizes.recipe()
    method = build_method(kind, FACTS, 0).to(device).train()
    optimiser = build_optimiser(method, kind)
    guard = Guard(method, optimiser, device)
    if compiled:
        for part in method.modules():
            if isinstance(part, Encoder | Predictor):
                part.compile(backend=compiled)
    batch = {
        "image": torch.randint(0, 256, (sizes.batch_size, 3, sizes.image, sizes.image), dtype=torch.uint8)
    }
    batch = {name: value.to(device) for name, value in batch.items()}

    def step(number: int) -> None:
        context = Context(number, 1000, step_generator(0, number, device))
        apply(optimiser, schedule(kind, number, 1000))
        guard.remember()
        with torch.autocast(device.type, torch.bfloat16):
            losses = method(batch, context)
        losses["loss"].backward()
        guard.judge(losses["loss"], None)
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(context)

    return step, method


def peer_step(sizes: Sizes, device: torch.device, compiled: str) -> Step:
    """The peer's: masks from its collator, drawn ahead as its loader would."""
    predictor = (sizes.predictor_width, sizes.predictor_depth, sizes.predictor_heads)
    model = TransformersJepa(sizes.image, sizes.patch, sizes.width, sizes.depth, sizes.heads, predictor)
    model = model.to(device).train()
    if compiled:
        model.compile(backend=compiled)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, fused=True)
    collate = MultiBlockCollator(sizes.image // sizes.patch, sizes.targets)
    masks = [collate([torch.zeros(1)] * sizes.batch_size)[1:] for _ in range(WARM)]
    masks = [(context.to(device), targets.to(device)) for context, targets in masks]
    images = torch.randn(sizes.batch_size, 3, sizes.image, sizes.image, device=device)
    pairs = list(zip(model.teacher.parameters(), model.encoder.parameters(), strict=True))

    def step(number: int) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(images, *masks[number % WARM])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            for old, new in pairs:
                old.lerp_(new, 0.004)

    return step


def compilations() -> int:
    """How many graphs have been compiled so far."""
    return int(counters["stats"]["unique_graphs"])


class Clock:
    """Seconds between two moments at which the device has done all it was told."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self) -> float:
        """Now."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def timed(step: Step, first: int, steps: int, clock: Clock) -> float:
    began = clock()
    for number in range(first, first + steps):
        step(number)
    return (clock() - began) / steps


def matrix_rate(device: torch.device, clock: Clock, side: int) -> float:
    """FLOPs a second of square bf16 products, the best of some."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = math.inf
    for _ in range(5):
        best = min(best, timed(lambda _n: torch.mm(left, right), 0, 4, clock))
    return 2 * side**3 / best


def synchronisations(step: Step, device: torch.device) -> int | None:
    """What makes the host wait in one step, by torch's own warnings; None where the device is no GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step(WARM + 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def measure(name: str, device: torch.device, rounds: int, steps: int, quick: bool) -> dict[str, Any]:
    """All figures of one size; ends the program where a step compiles after the warm-up."""
    sizes, clock = sizes_of(name, quick), Clock(device)
    backend = "eager" if quick else "inductor"  # recompilations are the same with both
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    plain, method = our_step(sizes, device, compiled="")
    ways: dict[str, Step] = {"ours": plain}
    waits = synchronisations(plain, device)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    ways["ours, compiled"] = our_step(sizes, device, compiled=backend)[0]
    ways["peer"] = peer_step(sizes, device, compiled="")
    ways["peer, compiled"] = peer_step(sizes, device, compiled=backend)
    warm: dict[str, float] = {}
    compiled_again = {}
    for way, step in ways.items():
        began = clock()
        for number in range(1, WARM + 1):
            step(number)
        warm[way] = clock() - began
        before = compilations()
        for number in range(WARM + 1, WARM + 1 + steps):
            step(number)
        compiled_again[way] = compilations() - before
    if compiled_again["ours, compiled"]:
        sys.exit(f"{name}: {compiled_again['ours, compiled']} graphs were compiled again after the warm-up")
    found: dict[str, list[float]] = {way: [] for way in ways}
    rates = []
    for turn in range(rounds):
        rates.append(matrix_rate(device, clock, 256 if quick else 8192))
        for way in ways if turn % 2 else reversed(ways):
            found[way].append(sizes.batch_size / timed(ways[way], WARM + 1, steps, clock))
    masks = method.sampler(sizes.batch_size, step_generator(0, 1, device))
    flops = sum(useful_flops(sizes, masks.context.shape[1], masks.targets.shape[2]).values())
    best = max(("ours", "ours, compiled"), key=lambda way: statistics.median(found[way]))
    shares = [
        flops * rate / sizes.batch_size / machine for rate, machine in zip(found[best], rates, strict=True)
    ]
    ratios = [
        max(found["ours"][turn], found["ours, compiled"][turn])
        / max(found["peer"][turn], found["peer, compiled"][turn])
        for turn in range(rounds)
    ]
    return {
        "model": name, "batch_size": sizes.batch_size,
        "images_per_second": {way: spread(values) for way, values in found.items()},
        "ratio_to_peer": spread(ratios), "share_of_matrix_rate": spread(shares),
        "matrix_rate": spread(rates), "useful_flops_of_step": flops, "peak_bytes": memory,
        "warm_up_seconds": warm, "compiled_after_warm_up": compiled_again, "synchronisations": waits,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MODELS)} (default all)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of each in a round")
    parser.add_argument("--quick", action="store_true", help="one tiny size, two rounds: does it run?")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU here: --device cpu --quick shows only that the program runs")
    names, rounds, steps = given.names or list(MODELS), given.rounds, given.steps
    if given.quick:
        names, rounds, steps = names[:1], 2, 2
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    rows = []
    table = Table(
        "model", "batch", "images/s", "compiled", "x peer", "of bf16 rate", "GB", "waits", "recompiled"
    )
    for name in names:
        row = measure(name, device, rounds, steps, given.quick)
        rows.append(row)
        rates = row["images_per_second"]
        ratio, share = row["ratio_to_peer"], row["share_of_matrix_rate"]
        table.add_row(
            name, str(row["batch_size"]), f"{rates['ours']['median']:.0f}",
            f"{rates['ours, compiled']['median']:.0f}",
            f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['greatest']:.2f})",
            f"{share['median']:.1%}", f"{(row['peak_bytes'] or 0) / 1e9:.1f}", str(row["synchronisations"]),
            str(row["compiled_after_warm_up"]["ours, compiled"]),
        )  # fmt: skip
        torch._dynamo.reset()
        if given.out:
            versions = {"torch": str(torch.__version__), "cuda": torch.version.cuda}
            result = {"machine": machine, "versions": versions, "models": rows}
            given.out.write_text(json.dumps(result, indent=1) + "\n")
    Console().print(f"{machine}, torch {torch.__version__}")
    Console().print(table)


if __name__ == "__main__":
    main()
