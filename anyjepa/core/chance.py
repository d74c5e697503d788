"""Numbers drawn for the samples of a batch, the same however many processes share the batch.

Every process of `torch.distributed` draws for the samples of all, from generators of one seed, and keeps its
own part. So masks and views of a step are the same on one device and on many, and none repeats another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from anyjepa.core.processes import process


def uniform(
    shape: Sequence[int], generator: Generator, axis: int = 0, dtype: torch.dtype | None = None
) -> Tensor:
    """Uniform in [0, 1), on the generator's device.

    Args:
        shape: of this process's numbers.
        generator: in the same state in every process.
        axis: of `shape` along which this process's samples lie.
        dtype: of the numbers; torch's default where None.
    """
    whole = torch.rand(_whole(shape, axis), generator=generator, device=generator.device, dtype=dtype)
    return _own(whole, shape, axis)


def whole_numbers(below: int, shape: Sequence[int], generator: Generator) -> Tensor:
    """Int64 from 0 and below `below`, of samples along the first axis; else as `uniform`."""
    whole = torch.randint(below, _whole(shape, 0), generator=generator, device=generator.device)
    return _own(whole, shape, 0)


def _whole(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    _, processes = process()
    return tuple(size * processes if place == axis else size for place, size in enumerate(shape))


def _own(whole: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    rank, _ = process()
    return whole.narrow(axis, rank * shape[axis], shape[axis])
