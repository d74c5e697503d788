"""The figures of docs/scaling.md: counted and measured here, and what follows for 8 to 4,096 GPUs.

    python benchmarks/scaling.py --page docs/scaling.md

Counted: FLOPs of a step by torch's counter against the formula; bytes that a block keeps; the bytes that two
gloo processes reduce in a real training against the formula. Measured: what one core's loader gives, and how
evenly; how fast state is written. Everything beyond one machine is arithmetic and simulation on assumptions
that the page names.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scaling_model import MODELS, Machine, Model, all_reduce, step, waiting
from scaling_page import page
from step_parts import counted_flops
from throughput import write_images

from anyjepa.core.method import Context
from anyjepa.core.transformer import Block
from anyjepa.engine.loading import Steps
from anyjepa.engine.packing import pack
from anyjepa.engine.randomness import WindowedOrder
from anyjepa.engine.run import build_method
from anyjepa.engine.train import Settings, train
from anyjepa.recipes import recipe

GPUS = (8, 64, 512, 4096)
FACTS = {"channels": 3, "mean": [127.0] * 3, "std": [70.0] * 3}
SMALL = (Model("96 wide, 4 deep", 96, 4, 16, predictor_width=48, predictor_depth=2),
         Model("192 wide, 12 deep", 192, 12, 16, predictor_width=96, predictor_depth=4))  # fmt: skip


def method_of(model: Model) -> Any:
    kind = recipe("i-jepa").preset(
        "paper", width=model.width, depth=model.depth, heads=3, patch_size=model.patch,
        predictor_width=model.predictor_width, predictor_depth=model.predictor_depth, predictor_heads=3,
    )  # fmt: skip
    return build_method(kind, FACTS, 0)


def count_flops(model: Model, batch: int = 2) -> dict[str, float]:
    """FLOPs of a real forward and backward pass, and by the formula."""
    method = method_of(model)
    images = {"image": torch.randint(0, 256, (batch, 3, model.image, model.image), dtype=torch.uint8)}
    context = Context(1, 10, torch.Generator().manual_seed(0))
    counted = counted_flops(lambda: method.losses(images, context)["loss"]) / batch
    parameters = sum(p.numel() for p in method.parameters() if p.requires_grad)
    return {
        "counted": counted, "formula": model.flops(*model.masks()), "parameters": parameters,
        "parameters_formula": model.parameters()["trained"],
    }  # fmt: skip


def kept_widths(width: int = 192, tokens: int = 196) -> float:
    """Numbers that a block's forward pass keeps for its backward pass, in widths a token."""
    block, seen = Block(width, 3), dict[int, int]()
    weights = {p.untyped_storage().data_ptr() for p in block.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or keep(t), lambda t: t):
        block(torch.randn(2, tokens, width, requires_grad=True))
    return sum(seen.values()) / (4 * 2 * tokens * width)


def count_collectives(steps: int = 6) -> dict[str, float]:
    """Bytes that each of two real gloo processes hands to collectives in a step, and by the formula."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counted.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                   __file__, "--count-into", str(out), "--steps", str(steps)]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        return json.loads(out.read_text())


def counting(out: Path, steps: int) -> None:
    """One of the two processes: every collective of a training is counted where torch is asked for it."""
    from torch import distributed
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel

    found: Counter[str] = Counter()
    begin = DistributedDataParallel.__init__

    def hook(state, bucket):
        found["gradient_bytes"] += bucket.buffer().nbytes
        found["buckets"] += 1
        # the hook reduces by the function that is counted as the rest
        found["other_bytes"] -= bucket.buffer().nbytes
        found["other_calls"] -= 1
        return allreduce_hook(state, bucket)

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        self.register_comm_hook(None, hook)
        found["parameters"] = sum(p.numel() for p in self.parameters() if p.requires_grad)

    DistributedDataParallel.__init__ = init
    reduce = distributed.all_reduce

    def other(tensor: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        found["other_bytes"] += tensor.nbytes
        found["other_calls"] += 1
        return reduce(tensor, *arguments, **named)

    distributed.all_reduce = other
    settings = Settings(steps=steps, quiet=True, workers=0, device="cpu")
    train("i-jepa", "digits", out.with_suffix(".run"), settings=settings, image_size=(8, 8), patch_size=2,
          batch_size=16)  # fmt: skip
    if distributed.get_rank() == 0:
        out.write_text(json.dumps({name: count / (1 if name == "parameters" else steps)
                                   for name, count in found.items()}))  # fmt: skip


def loading(count: int = 256, side: int = 320) -> dict[str, Any]:
    """Samples a second that one core reads from a pack, decodes and crops to 224 pixels; and batch times."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "files").mkdir()
        write_images(Path(folder) / "files", count, side)
        size = statistics.mean(f.stat().st_size for f in (Path(folder) / "files").iterdir())
        pack(f"{folder}/files", f"{folder}/pack", domain="image", workers=1)
        from anyjepa.domains import domains, image_samples

        image_samples.RESIDENT_BYTES = 0
        samples = domains()["image"].open(f"wds:{folder}/pack")
        kind, times = recipe("i-jepa").preset("paper"), []
        began = time.perf_counter()
        while time.perf_counter() - began < 8:
            loader = Steps(samples, kind, 32, len(times), 8)
            for number in range(8):
                start = time.perf_counter()
                loader[number]
                times.append(time.perf_counter() - start)
    times = times[2:]
    return {
        "samples_per_second": 32 / statistics.median(times), "bytes_each": size, "side": side,
        "variation": statistics.stdev(times) / statistics.mean(times), "times": times,
    }  # fmt: skip


def starving(times: list[float], ranks: int, load: float, ahead: int = 4, steps: int = 300) -> float:
    """Share of the time that ranks wait for data, each batch taking a measured time, all ranks in step.

    load: of the loaders: the mean time of a batch, over a step's, all workers of a rank taken together.
    """
    random, mean = np.random.default_rng(0), statistics.mean(times)
    drawn = load * random.choice(np.array(times) / mean, size=(steps, ranks))
    ready = np.zeros((steps, ranks))
    ended = np.zeros(steps)
    for number in range(steps):
        before = ready[number - 1] if number else 0.0
        # a loader may be `ahead` batches before the step that takes them
        free = ended[number - ahead] if number >= ahead else 0.0
        ready[number] = np.maximum(before, free) + drawn[number]
        ended[number] = max(ended[number - 1] if number else 0.0, float(ready[number].max())) + 1.0
    return float(1 - steps / ended[-1])


def writing(size: int = 400 * 10**6) -> float:
    """Bytes a second of a file that is written and synced."""
    block = os.urandom(2**24)
    with tempfile.NamedTemporaryFile() as file:
        began = time.perf_counter()
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return (size // len(block)) * len(block) / (time.perf_counter() - began)


def ordering(samples: int = 10_000_000) -> dict[str, float]:
    """Bytes a sample of an epoch's order: of a permutation, and in windows of shards of 10,000."""
    order = WindowedOrder(0, 0, np.arange(10_000, samples + 1, 10_000), 65_536)
    order.take(samples // 2, samples // 2 + 2048)
    held = sum(part.nbytes for part in order._kept.values())
    held += order.blocks.nbytes + order.starts.nbytes + order.sizes.nbytes
    return {"permutation_bytes_each": 8.0, "windowed_bytes": held, "samples": samples}


def measured() -> dict[str, Any]:
    """Everything that needs a machine."""
    torch.set_num_threads(1)
    found = loading()
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": str(torch.__version__),
        "flops": {model.name: count_flops(model) for model in SMALL},
        "kept_widths": kept_widths(),
        "collectives": count_collectives(),
        "loading": found,
        "starving": {
            str(load): {str(ranks): starving(found["times"], ranks, load) for ranks in GPUS}
            for load in (0.5, 0.8, 0.9)
        },
        "write_bytes_per_second": writing(),
        "ordering": ordering(),
    }


def planned(machine: Machine, kept: float) -> dict[str, Any]:
    """Everything that follows."""
    waits = {gpus: waiting(gpus, machine) for gpus in GPUS}
    rows = {}
    for model in MODELS:
        context, target = model.masks()
        state, each = model.state(), model.activations(context, target, kept)
        fits = int((0.9 * machine.memory - sum(state.values())) // each)
        tables, size = {}, 4.0 * model.parameters()["trained"]
        for title, share in (("batch 2,048", None), ("32 a GPU", 32.0)):
            base = step(model, 1, 32.0, machine, 1.0).total / 32
            tables[title] = {}
            for gpus in GPUS:
                batch = share or 2048 / gpus
                if batch < 1:
                    continue
                found = step(model, gpus, batch, machine, waits[gpus])
                tables[title][gpus] = {
                    "batch": batch, "milliseconds": 1e3 * found.total,
                    "reduce_milliseconds": 1e3 * found.reduce,
                    "samples_per_second": gpus * batch / found.total,
                    "efficiency": base * batch / found.total,
                }  # fmt: skip
        rows[model.name] = {
            "context": context, "target": target, "parameters": model.parameters(),
            "gflops": model.flops(context, target) / 1e9, "state_gb": sum(state.values()) / 1e9,
            "sharded_gb": {gpus: sum(state.values()) / gpus / 1e9 for gpus in GPUS},
            "activations_mb": each / 1e6, "largest_batch": fits,
            "reduced_gb": size / 1e9,
            "reduce_milliseconds": {g: 1e3 * all_reduce(size, g, machine) for g in GPUS},
            "samples_a_gpu": machine.peak * machine.reached / model.flops(context, target),
            "tables": tables,
        }  # fmt: skip
    return {"models": rows, "waiting": waits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--page", type=Path, help="write the page")
    parser.add_argument("--large", type=Path, help="what large_data.py --json printed, for the page")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count-into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count_into:
        counting(options.count_into, options.steps)
        return
    machine, found = Machine(), measured()
    plan = planned(machine, found["kept_widths"])
    if options.large:
        found["large"] = json.loads(options.large.read_text())
    text = page(machine, found, plan)
    if options.page:
        options.page.write_text(text)
    found["loading"].pop("times")
    print(json.dumps({"measured": found, "plan": plan}) if options.json else text)


if __name__ == "__main__":
    main()
