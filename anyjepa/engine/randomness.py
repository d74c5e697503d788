"""All randomness of a run, as functions of (seed, epoch, sample) or (seed, step): nothing to save."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

# streams of one seed that must not be alike
_PERMUTATION, _SAMPLE, _STEP = 1, 2, 3


def permutation(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order of an epoch: (samples,) int64."""
    return np.random.Generator(np.random.Philox(key=_key(seed, _PERMUTATION, epoch))).permutation(samples)


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


def _key(seed: int, stream: int, counter: int) -> int:
    """128 bits that differ for every (seed, stream, counter)."""
    return int.from_bytes(
        np.random.SeedSequence((seed, stream, counter)).generate_state(4).tobytes(), "little"
    )
