"""The matrix products of a step by their shapes, and how long they take when nothing else is done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ops = torch.ops.aten
PLAIN = (ops.mm.default, ops.bmm.default, ops.addmm.default, ops.baddbmm.default)
FORWARD = ops._scaled_dot_product_flash_attention_for_cpu.default
BACKWARD = ops._scaled_dot_product_flash_attention_for_cpu_backward.default

Product = tuple[
    Any, tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
]  # what, and shape and strides of each


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PLAIN or func in (FORWARD, BACKWARD):
            tensors = [value for value in args if isinstance(value, Tensor)]
            if func is BACKWARD:
                tensors = tensors[1:4]  # query, key and value; the rest follows from them
            elif func is FORWARD:
                tensors = tensors[:3]
            self.found[func, tuple((tuple(t.shape), t.stride()) for t in tensors)] += 1
        return func(*args, **(kwargs or {}))


def products_of(call: Callable[[], Any]) -> Counter[Product]:
    """Every product that `call` does, as often as it does it."""
    with _Recorder() as recorder:
        call()
    return recorder.found


def seconds_alone(products: Counter[Product], clock: Callable[[], float], tries: int = 5) -> float:
    """Seconds of all products one after the other, the best of `tries` of each shape."""
    return sum(count * _seconds(what, shapes, clock, tries) for (what, shapes), count in products.items())


def _seconds(what: Any, shapes: Any, clock: Callable[[], float], tries: int) -> float:
    given = [_like(shape, strides) for shape, strides in shapes]

    def call() -> Any:
        return what(*given)

    if what is BACKWARD:
        out, sums = FORWARD(*given)
        gradient = torch.randn_like(out)

        def call() -> Any:
            return BACKWARD(gradient, *given, out, sums, 0.0, False)

    call()
    best = math.inf
    for _ in range(tries):
        start = clock()
        call()
        best = min(best, clock() - start)
    return best


def _like(shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """Random numbers laid out as in the step: a transposed factor is another kind of product."""
    room = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return torch.randn(max(1, room)).as_strided(shape, strides)
