"""Our step taken apart: its sizes, its useful FLOPs, the machine's matrix rate, and where its time goes.

Useful FLOPs, a multiply-add being two: a linear layer of a inputs and b outputs costs 2ab a token, attention
of q queries over k keys at width w costs 4qkw; so a block of width w over n tokens costs 24nw^2 + 4n^2w. The
teacher runs forward over all N patches: once. Encoder (K context patches) and predictor (M sequences of K + T
tokens, the last block answering for T only) are trained: three times; the patch projection of the encoder
twice, as nothing needs the gradient of pixels. Norms, GELU, softmax and optimiser count for nothing.
`FlopCounterMode` counts what is executed, which is more where tokens are computed and then dropped.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anyjepa.core.method import Context, MaskedJepa
from anyjepa.core.transformer import Encoder, Predictor
from anyjepa.domains import domains
from anyjepa.engine.checkpoint import save_checkpoint
from anyjepa.engine.journal import Journal
from anyjepa.engine.loading import Steps
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method
from anyjepa.engine.train import Settings
from anyjepa.engine.watch import Watch
from anyjepa.engine.workers import batches
from anyjepa.recipes.i_jepa import IJepa

CHECKPOINT_SECONDS = 60.0  # between two, the engine's default
MODEL = ("teacher forward", "forward", "backward")


@dataclass(frozen=True)
class Sizes:
    """Of the data and the model; the defaults are ViT-Ti/16 on 224 pixels."""

    image: int = 224
    patch: int = 16
    width: int = 192
    depth: int = 12
    heads: int = 3
    predictor_width: int = 96
    predictor_depth: int = 4
    predictor_heads: int = 3
    batch_size: int = 32
    targets: int = 4
    files: int = 512
    file_side: int = 256

    def recipe(self) -> IJepa:
        """Ours at these sizes."""
        return IJepa.preset(
            "paper", image_size=(self.image, self.image), patch_size=self.patch, width=self.width,
            depth=self.depth, heads=self.heads, predictor_width=self.predictor_width,
            predictor_depth=self.predictor_depth, predictor_heads=self.predictor_heads,
            batch_size=self.batch_size, targets=self.targets,
        )  # fmt: skip


def useful_flops(sizes: Sizes, context: int, target: int) -> dict[str, int]:
    """FLOPs of one of our steps by part, for K context tokens and T tokens a target block."""
    patches, pixels = (sizes.image // sizes.patch) ** 2, 3 * sizes.patch**2
    wide, narrow = sizes.width, sizes.predictor_width

    def blocks(tokens: int, width: int, depth: int) -> int:
        return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)

    sequence = context + target
    # the last block: keys and values of all tokens; queries, output and perceptron of the mask tokens
    last = 4 * sequence * narrow**2 + 20 * target * narrow**2 + 4 * target * sequence * narrow
    one = blocks(sequence, narrow, sizes.predictor_depth - 1) + last + 2 * target * narrow * wide
    parts = {
        "teacher": 2 * patches * pixels * wide + blocks(patches, wide, sizes.depth),
        "encoder": 2 * 2 * context * pixels * wide + 3 * blocks(context, wide, sizes.depth),
        "predictor": 3 * (2 * context * wide * narrow + sizes.targets * one),
    }
    return {name: sizes.batch_size * flops for name, flops in parts.items()}


def counted_flops(step: Callable[[], Tensor]) -> int:
    """FLOPs of the matrix products that a step executes, forward and backward."""
    counter = FlopCounterMode(display=False)
    # the counter does not know the fused attention of CPUs; written out, it consists of products it knows
    with sdpa_kernel(SDPBackend.MATH), counter:
        step().backward()
    return counter.get_total_flops()


def matrix_rates(sizes: Sizes, seconds: float) -> dict[str, float]:
    """FLOP/s of fp32 linear layers: the step's own shapes, and a large square."""
    patches, wide, narrow = (sizes.image // sizes.patch) ** 2, sizes.width, sizes.predictor_width
    shapes = [
        (sizes.batch_size * patches, wide, 4 * wide),
        (sizes.batch_size * patches, 4 * wide, wide),
        (sizes.batch_size * patches, narrow, 4 * narrow),
        (2048, 2048, 2048) if sizes.width >= 192 else (256, 256, 256),
    ]
    rates = {}
    for rows, inputs, outputs in shapes:
        x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
        functional.linear(x, weight)
        times, end = [], time.perf_counter() + seconds / len(shapes)
        while not times or time.perf_counter() < end:
            times.append(seconds_of(lambda x=x, weight=weight: functional.linear(x, weight)))
        rates[f"{rows} x {inputs} x {outputs}"] = 2 * rows * inputs * outputs / statistics.median(times)
    return rates


def seconds_of(call: Callable[[], Any]) -> float:
    """How long the call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Phases:
    """Adds up the seconds of named phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The seconds within count for `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


class Dissected:
    """Our step out of the engine's parts in the engine's order, with a clock between them.

    Args:
        sizes: of model and data.
        folder: of the images.
        run: an empty folder, for what is logged and saved.
        steps: of the whole training, which the schedules follow.
        compiled: compile encoder, teacher and predictor, as ``anyjepa train --compile true`` does.
    """

    def __init__(
        self, sizes: Sizes, folder: Path, run: Path, steps: int = 1_000_000, compiled: bool = False
    ) -> None:
        self.recipe, self.run = sizes.recipe(), run
        self.domain = domains()["image"]
        self.samples = self.domain.open(str(folder))
        method = build_method(self.recipe, self.domain.measure(self.samples, 0), seed=0)
        assert isinstance(method, MaskedJepa)
        self.method, self.watch = method, Watch()
        if compiled:
            for part in method.modules():
                if isinstance(part, Encoder | Predictor):
                    part.compile()
        self.optimiser = build_optimiser(method, self.recipe)
        self.data = Steps(self.samples, self.recipe, sizes.batch_size, 0, steps)
        self.phases, self.step = Phases(), 0
        self._time_parts()

    def _time_parts(self) -> None:
        draw, target = self.method.sampler, self.method.target.forward

        def masks(batch: int, generator: torch.Generator) -> Any:
            with self.phases.phase("masks"):
                return draw(batch, generator)

        def forward(encoder: nn.Module, batch: dict[str, Tensor]) -> Any:
            with self.phases.phase("teacher forward"):
                return target(encoder, batch)

        self.method.sampler, self.method.target.forward = masks, forward

    def context(self) -> Context:
        """Of the present step."""
        return Context(self.step, self.data.steps, step_generator(0, self.step))

    def update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step on a batch; each phase's seconds are added up."""
        self.step += 1
        context, phase = self.context(), self.phases.phase
        with phase("optimiser"):
            apply(self.optimiser, schedule(self.recipe, self.step, self.data.steps))
        inner = ("masks", "teacher forward")
        before = sum(self.phases.seconds[name] for name in inner)
        with phase("forward"):
            losses = self.method.losses(batch, context)
        self.phases.seconds["forward"] -= sum(self.phases.seconds[name] for name in inner) - before
        with phase("backward"):
            losses["loss"].backward()
        with phase("optimiser"):
            self.optimiser.step()
            self.optimiser.zero_grad()
        with phase("teacher average"):
            self.method.after_step(context)
        with phase("logging"):
            self.watch.see(losses.pop("embedding"))
        return losses

    def inside(self, steps: int) -> float:
        """Seconds of a step when its batch is there already."""
        batch, _ = self.data[0]
        self.update(batch)
        return seconds_of(lambda: [self.update(batch) for _ in range(steps)]) / steps

    def breakdown(self, steps: int) -> dict[str, float]:
        """Seconds of a step by phase, with logging and checkpoints at the engine's default intervals."""
        workers, phase = max(1, torch.get_num_threads() - 1), self.phases.phase
        loader = batches(self.data, 0, workers, pin=False)
        for _ in range(2):  # workers start, memory is taken
            losses = self.update(next(loader)[0])
        self.phases.seconds.clear()
        for _ in range(steps):
            with phase("waiting for data"):
                batch, _ = next(loader)
            losses = self.update(batch)
        seconds = {name: value / steps for name, value in self.phases.seconds.items()}
        seconds["logging"] += self._record(losses) / Settings().log_every
        seconds["checkpoints"] = self.checkpoint_share() * sum(seconds.values())
        return seconds

    def _record(self, losses: dict[str, Tensor]) -> float:
        journal = Journal(self.run, self.data.steps, quiet=True)
        values = schedule(self.recipe, self.step, self.data.steps)

        def record() -> None:
            figures, _ = self.watch.measure()
            means = {name: float(value.detach()) for name, value in losses.items()}
            journal.record({"step": self.step, **means, **values, **figures})

        record()
        seconds = seconds_of(record)
        journal.close()
        return seconds

    def checkpoint_share(self) -> float:
        """Seconds of saving for each second of training."""
        folder = self.run / "checkpoints"
        folder.mkdir(exist_ok=True)
        return (
            seconds_of(lambda: save_checkpoint(folder, 1, self.method, self.optimiser, {}))
            / CHECKPOINT_SECONDS
        )

    def loader_seconds(self, count: int = 3) -> float:
        """Seconds of one core that a batch costs in a loader process."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        start = time.process_time()
        for step in range(count):
            self.data[step]
        seconds = (time.process_time() - start) / count
        torch.set_num_threads(threads)
        return seconds
