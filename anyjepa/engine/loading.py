"""Batches as a function of the step: any number of workers, any point to start from, the same batches."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.method import Batch
from anyjepa.domains import Samples
from anyjepa.engine.randomness import permutation, uniforms
from anyjepa.recipes import Recipe

Loaded = tuple[Batch, list[BadSample]]


def read_many(
    samples: Samples, indices: np.ndarray, chances: np.ndarray | None = None
) -> tuple[list[np.ndarray] | np.ndarray, list[BadSample]]:
    """Raw samples; a damaged one is replaced by the next that is whole, and named.

    Args:
        samples: those with a method ``read_part(index, uniforms)`` give the part that a step trains on, so
            that no more of a long sample, such as a video, is decoded.
        indices: of the samples wanted.
        chances: (n, 16) uniforms of each, as `Recipe.draw` gets them.

    Raises:
        UserError: a hundred in a row are damaged.
    """
    resident = getattr(samples, "array", None)
    if resident is not None:
        return resident[indices], []
    found, problems = [], []
    part = getattr(samples, "read_part", None)
    for row, index in enumerate(indices):
        for attempt in range(100):
            place = int((index + attempt) % len(samples))
            try:
                found.append(
                    samples.read(place) if part is None or chances is None else part(place, chances[row])
                )
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
    """

    def __init__(self, samples: Samples, recipe: Recipe, batch_size: int, seed: int, steps: int) -> None:
        self.samples, self.recipe, self.batch_size, self.seed, self.steps = (
            samples,
            recipe,
            batch_size,
            seed,
            steps,
        )
        self.steps_per_epoch = max(1, len(samples) // batch_size)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Loaded:
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, len(self.samples))
        indices = order[position * self.batch_size : (position + 1) * self.batch_size]
        chances = uniforms(self.seed, epoch, indices)
        raw, problems = read_many(self.samples, indices, chances)
        return self.recipe.draw(raw, chances), problems


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, samples: int) -> np.ndarray:
    return permutation(seed, epoch, samples)


class _Carried(Dataset):
    """The same items; a UserError comes as an item, since a worker wraps what it raises in a traceback."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __getitem__(self, step: int) -> Loaded | UserError:
        try:
            return self.steps[step]
        except UserError as mistake:
            return mistake


def batches(steps: Steps, start: int, workers: int, pin: bool) -> Iterator[Loaded]:
    """Batches of the steps after `start`, loaded ahead by `workers` processes (0: in this one).

    Raises:
        UserError: samples cannot be read, see `read_many`.
    """
    options: dict[str, Any] = {"prefetch_factor": 4, "persistent_workers": True} if workers else {}
    loader = DataLoader(
        _Carried(steps),
        batch_size=None,
        sampler=range(start, len(steps)),
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),  # its own, so that iterating leaves the global one alone
        worker_init_fn=_leave_signals_to_the_run,
        **options,
    )
    try:
        for item in loader:
            if isinstance(item, UserError):
                raise item
            yield item
    finally:
        # the error holds this frame: left to the garbage collector, workers are not told to leave in time
        del loader


def _leave_signals_to_the_run(_worker: int) -> None:
    # Ctrl-C and a batch system's SIGTERM reach the whole group; a worker that died of it would keep the run
    # from writing its last checkpoint
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _pass_over_one)


def _pass_over_one(number: int, _frame: Any) -> None:
    # the next one is the run's own, which wants its workers gone
    signal.signal(number, signal.SIG_DFL)
