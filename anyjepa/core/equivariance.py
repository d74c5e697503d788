"""How much vectors say of what was done: R squared of actions told from representations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

KEPT = 32  # principal components of a representation whose products are taken
RIDGES = (1e-4, 1e-2, 1.0)  # relative to the mean of the features' squares

Rows = Float[Tensor, "rows dim"]
Targets = Float[Tensor, "rows numbers"]
Others = Float[Tensor, "others dim"]
Told = Float[Tensor, "others numbers"]


def r_squared(predicted: Float[Tensor, "rows numbers"], target: Float[Tensor, "rows numbers"]) -> float:
    """Mean over numbers of 1 - squared error / squared distance from their mean; below 0 where worse.

    The mean of `target` itself as prediction gives 0. Numbers that never change do not count; NaN where none
    does.
    """
    error = (target - predicted).double().square().sum(0)
    spread = (target - target.mean(0)).double().square().sum(0)
    told = spread > 1e-12 * len(target)
    return float((1 - error[told] / spread[told]).mean()) if told.any() else float("nan")


def told_linearly(train: Rows, target: Targets, test: Others) -> Told:
    """What ridge regression of the targets gives for `test`; its strength is chosen on a third of `train`."""
    held = torch.arange(len(train), device=train.device) % 3 == 0
    scores = []
    for ridge in RIDGES:
        guess = _ridge(train[~held], target[~held], train[held], ridge)
        scores.append(r_squared(guess, target[held]))
    best = max(range(len(RIDGES)), key=lambda number: scores[number])
    return _ridge(train, target, test, RIDGES[best])


def _ridge(train: Rows, target: Targets, test: Others, ridge: float) -> Told:
    train, target, test = train.double(), target.double(), test.double()
    mean, centre = train.mean(0), target.mean(0)
    x, y = train - mean, target - centre
    size = x.square().mean() * len(x)
    gram = x.T @ x + ridge * size.clamp(min=1e-12) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return (test - mean) @ torch.linalg.solve(gram, x.T @ y) + centre


class Pairs:
    """Features of pairs of vectors: both, and the products of their principal components.

    A rotation that turns one vector to another is bilinear in both (cos(b - a) = cos a cos b + sin a sin b),
    which no linear layer over the two can say.

    Args:
        vectors: what components are taken from.
        kept: how many of them at the most.
    """

    def __init__(self, vectors: Rows, kept: int = KEPT) -> None:
        self.mean = vectors.double().mean(0)
        centred = vectors.double() - self.mean
        values, axes = torch.linalg.eigh(centred.T @ centred / len(vectors))
        values, axes = values.flip(0)[:kept], axes.flip(1)[:, :kept]
        real = values > 1e-9 * values[0].clamp(min=1e-300)
        self.axes = axes[:, real] / values[real].sqrt()

    def __call__(self, first: Rows, second: Rows) -> Float[Tensor, "rows features"]:
        """(rows, 2 K + K^2) of K components."""
        a, b = ((one.double() - self.mean) @ self.axes for one in (first, second))
        products = (a[:, :, None] * b[:, None, :]).flatten(1)
        return torch.cat([a, b, products / max(1, a.shape[1]) ** 0.5], dim=1)


def told_by_network(
    train: Rows, target: Targets, test: Others, hidden: int = 1024, epochs: int = 50, seed: int = 0
) -> Told:
    """The same by the paper's network: two hidden layers, Adam at 1e-3 in batches of 256.

    Args:
        train, target: to fit.
        test: to tell the targets of.
        hidden: width of both layers.
        epochs: passes over `train`; 300 in the paper.
        seed: of weights and order.
    """
    mean, deviation = train.mean(0), train.std(0).clamp(min=1e-6)
    centre, scale = target.mean(0), target.std(0).clamp(min=1e-6)
    x, y = (train - mean) / deviation, (target - centre) / scale
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, y.shape[1]),
        ).to(x)  # fmt: skip
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(256):
                optimiser.zero_grad()
                functional.mse_loss(network(x[rows]), y[rows]).backward()
                optimiser.step()
    with torch.no_grad():
        return network((test - mean) / deviation) * scale + centre
