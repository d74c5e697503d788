"""Simulated resting-state fMRI: networks of regions along a gradient, and subjects of three kinds."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "NETWORKS", "REPETITION_TIME", "simulated"]

NETWORKS = ("visual", "somatomotor", "attention", "salience", "limbic", "control", "default")
"""From the sensory to the transmodal end of the gradient."""
REGIONS = 3  # of each network
CLASSES = ["slow-5", "slow-4", "slow-3"]
RHYTHMS = (0.02, 0.045, 0.08)  # Hz; about which the networks of a subject of each class fluctuate
LASTING = 60.0  # seconds in which a fluctuation forgets its phase
SUBJECTS = {"train": 960, "test": 480}
VOLUMES = 64
REPETITION_TIME = 2.0  # seconds
LEVEL, SWING = 9000.0, 60.0  # scanner units: mean of a region, and deviation over time of its network
NOISE = 3.5  # deviation of what is a region's own, in those of its network
REACH = 0.25  # of the gradient, over which networks share signals


def simulated(split: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Runs (n, regions, volumes) float32, labels (n,) into `CLASSES`, subjects (n,) and the regions' names.

    Always the same ones: one run of each of 960 subjects of ``train`` (also None), and of 480 others of
    ``test``. Every network has a signal of its own, of which neighbours along the gradient share some. In
    which of three bands of the resting state it fluctuates is the subject's class. Every region adds noise of
    its own, stronger than the signal, which varies from subject to subject, and a drift; each has a mean that
    differs from subject to subject, as in a scanner. Regions lie in an order that says nothing.
    Raises NoSplit for another split.
    """
    words = [word.lower() for word in split_order(split)]
    name = next((word for word in words if word in SUBJECTS), None)
    if name is None:
        raise NoSplit(f"synthetic-fmri has no split {split!r}, only train and test")
    fixed, random = np.random.default_rng(7), np.random.default_rng(0 if name == "train" else 1)
    networks, count = len(NETWORKS), SUBJECTS[name]
    which = np.repeat(np.arange(networks), REGIONS)
    labels = random.permutation(np.arange(count) % len(CLASSES))
    rhythm = np.array(RHYTHMS)[labels][:, None] * np.exp(0.1 * random.standard_normal((count, networks)))
    own = _waves(random, (count, networks, VOLUMES), rhythm)
    place = np.arange(networks) / (networks - 1)
    shared = np.exp(-(((place[:, None] - place[None]) / REACH) ** 2))
    signals = (shared / np.linalg.norm(shared, axis=1, keepdims=True)).astype(np.float32) @ own
    noise = random.standard_normal((count, len(which), VOLUMES), np.float32)
    gain = random.uniform(0.7, 1.3, (count, len(which), 1))
    noise *= NOISE * random.uniform(0.5, 1.5, (count, 1, 1))
    series = gain * signals[:, which] + noise
    series += 0.4 * random.standard_normal((count, len(which), 1)) * np.linspace(-1, 1, VOLUMES)
    level = LEVEL * (1 + 0.15 * fixed.standard_normal((1, len(which), 1)))
    level = level * (1 + 0.1 * random.standard_normal((count, 1, 1)))
    order = fixed.permutation(len(which))
    bold = (level + SWING * series)[:, order].astype(np.float32)
    names = [f"{NETWORKS[which[row]]} {row % REGIONS + 1}" for row in order]
    subjects = np.array([f"{name}-{number + 1:03d}" for number in range(count)])
    return bold, labels.astype(np.int64), subjects, names


def _waves(random: np.random.Generator, shape: tuple[int, int, int], rhythm: np.ndarray) -> np.ndarray:
    """Signals (n, networks, time) of unit variance that fluctuate about `rhythm` (n, networks) in Hz."""
    turned = np.exp(REPETITION_TIME * (2j * np.pi * rhythm - 1 / LASTING)).astype(np.complex64)
    fresh = np.sqrt(1 - np.abs(turned) ** 2)
    noise = random.standard_normal((2, *shape), np.float32)
    made = noise[0] + 1j * noise[1]
    for time in range(1, shape[2]):
        made[..., time] = turned * made[..., time - 1] + fresh * made[..., time]
    return made.real
