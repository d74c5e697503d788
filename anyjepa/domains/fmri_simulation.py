"""Simulated resting-state fMRI: networks of regions along a gradient, and subjects of three kinds."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "NETWORKS", "REPETITION_TIME", "simulated"]

NETWORKS = ("visual", "somatomotor", "attention", "salience", "limbic", "control", "default")
"""From the sensory to the transmodal end of the gradient."""
REGIONS = 3  # of each network
CLASSES = ["sensory", "middle", "transmodal"]
MEMORY = 8.0  # seconds in which the signal of a network forgets itself
LEAST, WIDTH = (
    0.3,
    0.3,
)  # of the strength of signals: away from a subject's part of the gradient, and its width
SUBJECTS = {"train": 960, "test": 480}
VOLUMES = 64
REPETITION_TIME = 2.0  # seconds
LEVEL, SWING = 9000.0, 60.0  # scanner units: mean of a region, and deviation over time of its network
NOISE = 1.0  # deviation of what is a region's own, in those of its network
REACH = 0.25  # of the gradient, over which networks share signals


def simulated(split: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Runs (n, regions, volumes) float32, labels (n,) into `CLASSES`, subjects (n,) and the regions' names.

    Always the same ones: one run of each of 960 subjects of ``train`` (also None), and of 480 others of
    ``test``. Every network has a slow signal of its own, of which neighbours along the gradient share some.
    Where on the gradient these signals are strong, at the senses, between, or at the transmodal end, is the
    subject's class: the topography of its fluctuations. Every region adds noise of its own, the level of
    which varies from subject to subject, and a drift; each has a mean that differs from subject to subject,
    as in a scanner. Regions lie in an order that says nothing.
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
    place = np.arange(networks) / (networks - 1)
    centre = labels[:, None] / (len(CLASSES) - 1)
    strength = LEAST + (1 - LEAST) * np.exp(-(((place - centre) / WIDTH) ** 2))
    own = _slow(random.standard_normal((count, networks, VOLUMES), np.float32))
    shared = np.exp(-(((place[:, None] - place[None]) / REACH) ** 2))
    shared = (shared / np.linalg.norm(shared, axis=1, keepdims=True)).astype(np.float32)
    signals = strength[..., None] * (shared @ own)
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


def _slow(noise: np.ndarray) -> np.ndarray:
    """White noise (..., time) as a signal of unit variance that forgets itself in `MEMORY` seconds."""
    kept = np.float32(np.exp(-REPETITION_TIME / MEMORY))
    fresh = np.sqrt(1 - kept**2)
    made = np.empty_like(noise)
    made[..., 0] = noise[..., 0]
    for time in range(1, noise.shape[-1]):
        made[..., time] = kept * made[..., time - 1] + fresh * noise[..., time]
    return made
