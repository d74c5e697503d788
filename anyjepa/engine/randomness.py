"""All randomness of a run, as functions of (seed, epoch, sample) or (seed, step): nothing to save."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

# streams of one seed that must not be alike
_PERMUTATION, _SAMPLE, _STEP, _BLOCKS, _WINDOW = 1, 2, 3, 4, 5


def permutation(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order of an epoch: (samples,) int64."""
    return _generator(seed, _PERMUTATION, epoch).permutation(samples)


class WindowedOrder:
    """The order of an epoch over blocks that are fetched whole: shuffled blocks, and samples within windows.

    Consecutive blocks of a shuffled order make a window, whose samples are shuffled together: a buffer of a
    stream, but a function of (seed, epoch, place) like everything else, so that a run can begin anywhere and
    reads nothing that it passes over. An epoch sees every sample once.

    Args:
        seed, epoch: of the run.
        ends: (blocks,) int64, where each block's samples end.
        window: samples that a window holds at least, but for the last.
    """

    def __init__(self, seed: int, epoch: int, ends: np.ndarray, window: int) -> None:
        self.seed, self.epoch = seed, epoch
        sizes = np.diff(ends, prepend=0)
        self.blocks = _generator(seed, _BLOCKS, epoch).permutation(len(ends))
        self.starts, self.sizes = (ends - sizes)[self.blocks], sizes[self.blocks]
        totals = np.cumsum(self.sizes)
        cuts, reached = [0], 0
        for block, total in enumerate(totals.tolist()):
            if total - reached >= window:
                cuts.append(block + 1)
                reached = total
        if cuts[-1] < len(totals):
            cuts.append(len(totals))
        self.cuts = np.array(cuts)
        self.window_ends = totals[self.cuts[1:] - 1]
        self._kept: dict[int, np.ndarray] = {}

    def take(self, start: int, stop: int) -> np.ndarray:
        """The samples at places `start` up to `stop` of the epoch, (stop - start,) int64."""
        first, last = np.searchsorted(self.window_ends, [start, stop - 1], side="right").tolist()
        parts = [self._window(number) for number in range(first, last + 1)]
        begin = start - (int(self.window_ends[first - 1]) if first else 0)
        return np.concatenate(parts)[begin : begin + stop - start]

    def _window(self, number: int) -> np.ndarray:
        if number not in self._kept:
            if len(self._kept) > 1:
                self._kept.pop(next(iter(self._kept)))
            first, last = self.cuts[number : number + 2].tolist()
            pairs = zip(self.starts[first:last].tolist(), self.sizes[first:last].tolist(), strict=True)
            samples = np.concatenate([np.arange(start, start + size) for start, size in pairs])
            random = _generator(self.seed, _WINDOW, self.epoch * 2**32 + number)
            self._kept[number] = random.permutation(samples)
        return self._kept[number]


def uniforms(seed: int, epoch: int, indices: np.ndarray, count: int = 16) -> np.ndarray:
    """Chance of each sample in an epoch: (len(indices), count) float64 in [0, 1).

    A sample's row depends on its own index only, so it is the same in whatever batch, worker or process the
    sample is drawn. The mixing function is splitmix64 (Steele et al. 2014) over a counter.
    """
    with np.errstate(over="ignore"):
        start = np.uint64(_key(seed, _SAMPLE, epoch) & (2**64 - 1))
        row = _mix(start ^ _mix(np.asarray(indices, dtype=np.uint64)))
        bits = _mix(row[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one training step, on `device`."""
    return torch.Generator(device).manual_seed(_key(seed, _STEP, step) & (2**63 - 1))


def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _generator(seed: int, stream: int, counter: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=_key(seed, stream, counter)))


def _key(seed: int, stream: int, counter: int) -> int:
    """128 bits that differ for every (seed, stream, counter)."""
    return int.from_bytes(
        np.random.SeedSequence((seed, stream, counter)).generate_state(4).tobytes(), "little"
    )
