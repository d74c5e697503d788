"""What a step of I-JEPA costs on many GPUs: operations, bytes kept, bytes sent, and the time that follows.

Hardware figures are assumptions, named and in one place (`Machine`). What can be counted here is counted by
scaling.py, which also writes the page docs/scaling.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anyjepa.core.masking import MultiBlock


@dataclass(frozen=True)
class Machine:
    """Assumed hardware: nodes of eight H100 SXM with one 400 Gb/s adapter a GPU."""

    gpus_a_node: int = 8
    peak: float = 989e12  # dense bf16 FLOP/s of a GPU, of its data sheet
    reached: float = 0.45  # share of the peak that a step's matrix products reach; the goal of issue 5 is 0.5
    memory: float = 80e9  # bytes of a GPU
    inside: float = 300e9  # bytes/s of an all-reduce between the GPUs of a node
    between: float = 40e9  # bytes/s a GPU between nodes, four fifths of 400 Gb/s
    hop: float = 10e-6  # seconds of latency between two nodes
    bucket: float = 25e6  # bytes that DDP reduces together
    cores_a_gpu: int = 16  # for loading
    hours_between_failures: float = 50_000.0  # of one GPU with its part of the node
    jitter: float = 0.02  # deviation of the logarithm of a GPU's step time
    hiccup: tuple[float, float] = (1e-5, 5.0)  # chance a GPU and step, and how many steps it takes
    image_bytes: float = 110e3  # of a photograph as JPEG, the mean of ImageNet


@dataclass(frozen=True)
class Model:
    """An encoder of I-JEPA with the published predictor, on 224 pixels."""

    name: str
    width: int
    depth: int
    patch: int
    expansion: float = 4.0
    image: int = 224
    predictor_width: int = 384
    predictor_depth: int = 12
    targets: int = 4

    @property
    def patches(self) -> int:
        """Tokens of an image."""
        return (self.image // self.patch) ** 2

    def masks(self) -> tuple[int, int]:
        """Tokens of the context and of a target block, as our sampler fixes them."""
        side = self.image // self.patch
        sampler = MultiBlock((side, side), self.targets, (0.15, 0.2), (0.75, 1.5), (0.85, 1.0))
        return sampler.context_width, sampler.target_width

    def parameters(self) -> dict[str, int]:
        """Of what is trained, and of the teacher beside it."""
        encoder = self._weights(self.width, self.depth, self.expansion) + 2 * self.width
        encoder += (3 * self.patch**2 + 1) * self.width
        narrow = self.predictor_width
        predictor = self._weights(narrow, self.predictor_depth, 4.0) + 2 * narrow
        predictor += (self.width + 1) * narrow + (narrow + 1) * self.width + narrow
        return {"trained": encoder + predictor, "teacher": encoder}

    @staticmethod
    def _weights(width: int, depth: int, expansion: float) -> int:
        hidden = round(expansion * width)
        return depth * (4 * width**2 + 4 * width + 2 * width * hidden + hidden + width + 4 * width)

    def flops(self, context: int, target: int) -> float:
        """Useful FLOPs of a step, a sample (see step_parts.py)."""
        pixels, narrow, wide = 3 * self.patch**2, self.predictor_width, self.width

        def blocks(tokens: int, width: int, depth: int, expansion: float) -> float:
            return depth * ((8 + 4 * expansion) * tokens * width**2 + 4 * tokens**2 * width)

        sequence = context + target
        last = 4 * sequence * narrow**2 + 20 * target * narrow**2 + 4 * target * sequence * narrow
        one = blocks(sequence, narrow, self.predictor_depth - 1, 4.0) + last + 2 * target * narrow * wide
        teacher = 2 * self.patches * pixels * wide + blocks(self.patches, wide, self.depth, self.expansion)
        encoder = 4 * context * pixels * wide + 3 * blocks(context, wide, self.depth, self.expansion)
        return teacher + encoder + 3 * (2 * context * wide * narrow + self.targets * one)

    def activations(self, context: int, target: int, widths: float) -> float:
        """Bytes in bf16 that a sample's forward pass keeps, `widths` times the width a token and block."""
        inside = context * self.width * self.depth
        inside += self.targets * (context + target) * self.predictor_width * self.predictor_depth
        return 2 * widths * inside

    def state(self) -> dict[str, float]:
        """Bytes on each GPU under DDP: fp32 weights, gradients, Adam's two moments, the teacher's weights."""
        count = self.parameters()
        return {
            "weights": 4.0 * count["trained"],
            "gradients": 4.0 * count["trained"],
            "moments": 8.0 * count["trained"],
            "teacher": 4.0 * count["teacher"],
        }


MODELS = (
    Model("ViT-B/16", 768, 12, 16, predictor_depth=6),
    Model("ViT-L/16", 1024, 24, 16),
    Model("ViT-H/14", 1280, 32, 14),
    Model("ViT-g/14", 1408, 40, 14, expansion=48 / 11),
)


@dataclass(frozen=True)
class Step:
    """Seconds of one step on so many GPUs."""

    compute: float
    reduce: float
    exposed: float
    waiting: float

    @property
    def total(self) -> float:
        """Of the whole step."""
        return (self.compute + self.exposed) * self.waiting


def all_reduce(size: float, gpus: int, machine: Machine) -> float:
    """Seconds to reduce `size` bytes: within nodes first, then an eighth a GPU between nodes, in a ring."""
    inside = min(gpus, machine.gpus_a_node)
    nodes = gpus // inside
    seconds = 2 * (inside - 1) / inside * size / machine.inside
    if nodes > 1:
        seconds += 2 * (nodes - 1) / nodes * size / inside / machine.between
        # a tree: NCCL takes it where a ring's latency would tell
        seconds += 2 * math.ceil(math.log2(nodes)) * machine.hop * math.ceil(size / machine.bucket)
    return seconds


def step(model: Model, gpus: int, batch: float, machine: Machine, waiting: float) -> Step:
    """A step of `batch` samples a GPU; the backward pass, two thirds of it, can hide the reducing."""
    flops = model.flops(*model.masks()) * batch
    compute = flops / (machine.peak * machine.reached)
    reduce = all_reduce(4.0 * model.parameters()["trained"], gpus, machine)
    return Step(compute, reduce, max(0.0, reduce - compute * 2 / 3), waiting)


def waiting(gpus: int, machine: Machine, steps: int = 400, seed: int = 0) -> float:
    """How many times longer the slowest of so many GPUs takes than one does, in the mean; drawn by chance."""
    random = np.random.default_rng(seed)
    chance, length = machine.hiccup
    times = np.exp(machine.jitter * random.standard_normal((steps, gpus)))
    times += length * (random.random((steps, gpus)) < chance)
    return float(times.max(1).mean() / times.mean())
