"""Batches as a function of the step: any number of workers, any point to start from, the same batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from torch.utils.data import Dataset

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.method import Batch
from anyjepa.domains import Samples
from anyjepa.engine.patience import time_limit
from anyjepa.engine.randomness import WindowedOrder, permutation, uniforms
from anyjepa.recipes import Recipe

WINDOW = 65_536  # samples that are shuffled together where shards are fetched whole

Loaded = tuple[Batch, list[BadSample]]


def read_many(
    samples: Samples,
    indices: np.ndarray,
    patience: float = 0.0,
    lost: Mapping[int, str] = MappingProxyType({}),
    begun: Callable[[int], None] | None = None,
    chances: np.ndarray | None = None,
) -> tuple[list[np.ndarray] | np.ndarray, list[BadSample]]:
    """Raw samples; a damaged one is replaced by the next that is whole, and named.

    Args:
        samples: of one source; those with a method ``read_part(index, uniforms)`` give the part that a step
            trains on, so that no more of a long sample, such as a video, is decoded; those with a method
            ``read_parts(indices, uniforms)`` give such parts of all of them at once, from memory; those with
            ``prepare(indices)`` are told what is read next, so that they can fetch it side by side.
        indices: (n,) of the samples.
        patience: seconds that reading one may take; 0 for no limit.
        lost: samples that are known to be unreadable, and why.
        begun: is told which sample is about to be read.
        chances: (n, 16) uniforms of each, as `Recipe.draw` gets them.

    Raises:
        UserError: a hundred in a row are damaged.
    """
    resident = getattr(samples, "array", None)
    if resident is not None:
        return resident[indices], []
    together = None if chances is None else getattr(samples, "read_parts", None)
    if together is not None:
        return together(indices, chances), []
    prepare = getattr(samples, "prepare", None)
    if prepare is not None:
        prepare(indices)
    found, problems = [], []
    part = None if chances is None else getattr(samples, "read_part", None)
    for row, first in enumerate(indices):
        for attempt in range(100):
            index = int((first + attempt) % len(samples))
            try:
                if index in lost:
                    raise BadSample(samples.identity(index), lost[index])
                if begun:
                    begun(index)
                with time_limit(patience, samples, index):
                    if part is None or chances is None:
                        found.append(samples.read(index))
                    else:
                        found.append(part(index, chances[row]))
                break
            except BadSample as problem:
                problems.append(problem)
        else:
            raise UserError(
                f"100 samples in a row cannot be read, the last being {problems[-1]}; check the data."
            )
    return found, problems


class Steps(Dataset):
    """Item s is the batch of step s + 1: read, drawn and stacked.

    Args:
        samples: where raw samples come from.
        recipe: draws them.
        batch_size: samples a step.
        seed: of the run.
        steps: of the whole training.
        patience: seconds that reading one sample may take; 0 for no limit.
        part: which of how many equal parts of each batch to load, for one of several processes.
    """

    def __init__(
        self,
        samples: Samples,
        recipe: Recipe,
        batch_size: int,
        seed: int,
        steps: int,
        patience: float = 0.0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.samples, self.recipe, self.batch_size, self.seed = samples, recipe, batch_size, seed
        self.steps, self.patience, self.part = steps, patience, part
        self.lost: dict[int, str] = {}
        self.begun: Callable[[int], None] | None = None
        self._windowed: WindowedOrder | None = None
        self.steps_per_epoch = max(1, len(samples) // batch_size)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Loaded:
        epoch, position = divmod(step, self.steps_per_epoch)
        rank, processes = self.part
        size = self.batch_size // processes
        start = position * self.batch_size + rank * size
        indices = self._indices(epoch, start, start + size)
        chances = uniforms(self.seed, epoch, indices)
        raw, problems = read_many(self.samples, indices, self.patience, self.lost, self.begun, chances)
        return self.recipe.draw(raw, chances), problems

    def _indices(self, epoch: int, start: int, stop: int) -> np.ndarray:
        blocks = getattr(self.samples, "blocks", None)
        if blocks is None:
            return _order(self.seed, epoch, len(self.samples))[start:stop]
        if self._windowed is None or self._windowed.epoch != epoch:
            window = max(getattr(self.samples, "window", WINDOW), 4 * self.batch_size)
            self._windowed = WindowedOrder(self.seed, epoch, blocks, window)
        return self._windowed.take(start, stop)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, samples: int) -> np.ndarray:
    return permutation(seed, epoch, samples)
