"""Simulated resting-state fMRI: networks of regions along a gradient, and subjects of three kinds."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "NETWORKS", "REPETITION_TIME", "simulated"]

NETWORKS = ("visual", "somatomotor", "attention", "salience", "limbic", "control", "default")
"""From the sensory to the transmodal end of the gradient."""
REGIONS = 4  # of each network
CLASSES = ["flat", "steep", "reversed"]
MEMORY, STEEPNESS = 5.0, 0.6
SUBJECTS = {"train": 320, "test": 160}
RUNS = 1  # of each subject
VOLUMES = 90
REPETITION_TIME = 2.0  # seconds
LEVEL, SWING = 9000.0, 90.0  # scanner units: mean of a region, and deviation over time
NOISE = 1.0  # deviation of what is a region's own, in those of its network


def simulated(split: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Runs (n, regions, volumes) float32, labels (n,) into `CLASSES`, subjects (n,) and the regions' names.

    Always the same ones: 320 subjects of ``train`` (also None), 160 others of ``test``. Every network has a
    slow signal of its own; neighbours along the gradient share some of it. The attention and the default
    network are coupled or opposed, and signals are fast or slow at the transmodal end of the gradient: the
    two traits of a subject that make its class. Regions lie in an order that says nothing. Each region adds
    noise, a drift and a mean of its own, which differs from subject to subject as in a scanner.
    Raises NoSplit for another split.
    """
    words = [word.lower() for word in split_order(split)]
    name = next((word for word in words if word in SUBJECTS), None)
    if name is None:
        raise NoSplit(f"synthetic-fmri has no split {split!r}, only train and test")
    fixed, random = np.random.default_rng(7), np.random.default_rng(0 if name == "train" else 1)
    networks, count = len(NETWORKS), SUBJECTS[name] * RUNS
    labels = random.permutation(np.arange(count) % len(CLASSES))
    place = np.arange(networks) / (networks - 1)
    # seconds after which a signal has forgotten itself
    slope = np.array([0.0, 1.0, -1.0])[labels][:, None] * (2 * place - 1)
    memory = MEMORY * np.exp(STEEPNESS * slope + 0.15 * random.standard_normal((count, networks)))
    own = _slow(random.standard_normal((count, networks, VOLUMES + 40)), memory)[..., 40:]
    near = np.exp(-(((place[:, None] - place[None]) / 0.25) ** 2))
    mixing = np.tile(near, (count, 1, 1))
    signals = mixing @ own
    signals /= signals.std(axis=2, keepdims=True)
    which = np.repeat(np.arange(networks), REGIONS)
    gain = random.uniform(0.7, 1.3, (count, len(which), 1))
    series = signals[:, which] * gain
    series += NOISE * random.uniform(0.2, 0.8, (count, 1, 1)) * random.standard_normal(series.shape)
    series += 0.4 * random.standard_normal((*series.shape[:2], 1)) * np.linspace(-1, 1, VOLUMES)
    level = LEVEL * (1 + 0.15 * fixed.standard_normal((1, len(which), 1)))
    level = level * (1 + 0.1 * random.standard_normal((count, 1, 1)))
    order = fixed.permutation(len(which))
    bold = (level + SWING * series)[:, order].astype(np.float32)
    names = [f"{NETWORKS[which[row]]} {row % REGIONS + 1}" for row in order]
    subjects = np.array([f"{name}-{number // RUNS + 1:03d}" for number in range(count)])
    return bold, labels.astype(np.int64), subjects, names


def _slow(noise: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """White noise (..., time) as a signal of unit variance that forgets itself after `memory` (...) seconds."""
    kept = np.exp(-REPETITION_TIME / memory)
    made = np.empty_like(noise)
    made[..., 0] = noise[..., 0]
    for time in range(1, noise.shape[-1]):
        made[..., time] = kept * made[..., time - 1] + np.sqrt(1 - kept**2) * noise[..., time]
    return made
