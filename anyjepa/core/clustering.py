"""Embeddings told which cluster they are of: spherical k-means, balanced assignment, prototypes.

DeepCluster-v2 and SwAV, both of Caron et al. 2020 (arXiv:2006.09882), without a pass over the data: clusters
are of the embeddings of the last steps.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.processes import of_all, process

__all__ = ["Prototypes", "balanced", "perplexity", "spherical_kmeans"]

Assignment = Literal["k-means", "sinkhorn"]


def spherical_kmeans(
    points: Float[Tensor, "points width"], clusters: int, iterations: int, generator: Generator
) -> Float[Tensor, "clusters width"]:
    """Directions that the most points lie near; unit length.

    Random points are where it starts; then each point goes to the direction with which its product is the
    largest, and each direction becomes the mean of its points, `iterations` times. One without points stays.

    Raises:
        ValueError: fewer points than clusters.
    """
    if clusters > len(points):
        raise ValueError(f"{len(points)} points cannot make {clusters} clusters")
    chance = torch.rand(len(points), generator=generator, device=generator.device)
    centres = functional.normalize(points[chance.argsort()[:clusters].to(points.device)], dim=1)
    for _ in range(iterations):
        nearest = (points @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        moved = functional.normalize(sums, dim=1)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, moved, centres)
    return centres


def balanced(
    scores: Float[Tensor, "points clusters"], sharpness: float, iterations: int
) -> Float[Tensor, "points clusters"]:
    """Shares of each point in each cluster, such that all clusters have about as much (Sinkhorn and Knopp).

    Args:
        scores: products of points and prototypes.
        sharpness: epsilon; the smaller, the nearer to one cluster a point.
        iterations: how often clusters and points are scaled in turn.
    """
    shares = ((scores - scores.amax()) / sharpness).exp()
    for _ in range(iterations):
        shares = shares / shares.sum(0, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
    return shares


def perplexity(shares: Float[Tensor, "points clusters"]) -> Float[Tensor, ""]:
    """How many clusters are in use: e to the entropy of how full they are, 1 to all of them."""
    full = shares.mean(0)
    return torch.special.entr(full / full.sum()).sum().exp()


class Prototypes(nn.Module):
    """Several clusterings of the same embeddings, and the loss of telling a sample's cluster from a view.

    Prototypes are the centres of the clusters plus what is learned since; a new clustering takes that back.
    With ``k-means``, clustering h looks at view h modulo 2, and both views must name the cluster that this
    view is nearest to. With ``sinkhorn`` nothing is clustered: each view must name the shares that the other
    one has, balanced over the batch.

    Args:
        width: of the embeddings.
        clusters: of each clustering.
        heads: how many clusterings there are.
        assignment: how samples get their clusters.
        temperature: that scores are divided by.
        kept: embeddings of the last steps that are clustered.
        every: steps from one clustering to the next; the first is when `kept` embeddings are there.
        iterations: of k-means, or of scaling.
        sharpness: epsilon of balanced assignment.
        frozen: first steps in which no gradient reaches the prototypes.
    """

    bank: Tensor
    centres: Tensor

    def __init__(
        self,
        width: int,
        clusters: int,
        heads: int,
        assignment: Assignment,
        temperature: float = 0.1,
        kept: int = 4096,
        every: int = 313,
        iterations: int = 10,
        sharpness: float = 0.05,
        frozen: int = 0,
    ) -> None:
        super().__init__()
        self.assignment, self.temperature, self.every = assignment, temperature, every
        self.iterations, self.sharpness, self.frozen = iterations, sharpness, frozen
        centres = functional.normalize(torch.randn(heads, clusters, width), dim=2)
        self.register_buffer("centres", centres)
        rows = max(kept, clusters) if assignment == "k-means" else 0
        self.register_buffer("bank", torch.zeros(2, rows, width))
        self.moved = nn.Parameter(torch.zeros(heads, clusters, width))
        self._rows = 0

    @property
    def weights(self) -> Float[Tensor, "heads clusters width"]:
        """The prototypes, of unit length."""
        return functional.normalize(self.centres + self.moved, dim=2)

    def assign(self, z: Float[Tensor, "2 points width"]) -> Float[Tensor, "heads 2 points clusters"]:
        """What each view must say of each point, from the points of all processes; no gradient."""
        with torch.no_grad():
            heads = self.weights
            if self.assignment == "k-means":
                seen = torch.stack([z[number % 2] for number in range(len(heads))])
                nearest = (seen @ heads.mT).argmax(2)
                told = functional.one_hot(nearest, heads.shape[1]).to(z.dtype)
                return told.unsqueeze(1).expand(-1, 2, -1, -1)
            rank, _ = process()
            everything = torch.stack([of_all(view) for view in z])
            scores = torch.einsum("vnd,hkd->hvnk", everything, heads)
            own = slice(rank * z.shape[1], (rank + 1) * z.shape[1])
            shares = [
                [balanced(one, self.sharpness, self.iterations)[own] for one in head] for head in scores
            ]
            return torch.stack([torch.stack(head[::-1]) for head in shares])

    def loss(
        self, z: Float[Tensor, "2 points width"], step: int
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy over clusterings, views and points; and how many clusters this batch uses.

        Args:
            z: embeddings of unit length of two views of the same points.
            step: of the training, from 1.
        """
        z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
        told = self.assign(z.detach())
        heads = self.weights.to(z.dtype)
        heads = heads.detach() if step <= self.frozen else heads
        said = (torch.einsum("vnd,hkd->hvnk", z, heads) / self.temperature).log_softmax(3)
        return -(told * said).sum(3).mean(), perplexity(told[0].flatten(0, 1))

    @torch.no_grad()
    def remember(self, z: Float[Tensor, "2 points width"], step: int) -> None:
        """Keep the embeddings of a step, of all processes, in the place of the oldest."""
        size = self.bank.shape[1]
        if not size:
            return
        rows = torch.stack([of_all(view)[:size] for view in z])
        self._rows = rows.shape[1]
        start = (step - 1) * self._rows
        at = (start + torch.arange(self._rows, device=z.device)) % size
        self.bank[:, at] = rows.to(self.bank.dtype)

    @torch.no_grad()
    def regroup(self, step: int, generator: Generator) -> bool:
        """Cluster what is kept, where it is time to; whether it was."""
        size, rows = self.bank.shape[1], self._rows
        if not rows:
            return False
        filled = min(step * rows, size)
        just_full = (step - 1) * rows < size <= step * rows
        if not (just_full or step % self.every == 0) or filled < self.centres.shape[1]:
            return False
        for number, centres in enumerate(self.centres):
            points = self.bank[number % 2, :filled]
            centres.copy_(spherical_kmeans(points, len(centres), self.iterations, generator))
        self.moved.zero_()
        return True

    def clusters(self, z: Float[Tensor, "points width"]) -> Int[Tensor, "heads points"]:
        """Which prototype of each clustering each point is nearest to."""
        return torch.einsum("nd,hkd->hnk", z, self.weights).argmax(2)
