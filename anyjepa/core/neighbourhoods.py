"""Label-free measures that look at pairs and neighbours of embeddings, so need the matrix, not only its sums.

CLID (Lu et al. 2023): how well nearest neighbours learn clusters that k-means found, and how many dimensions
the points lie in. SelfCluster (Tsitsulin et al. 2023): how far cosines are from those of random directions.
Coherence (the same): whether single samples hold directions of their own. `dominant` names them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import normalize, one_hot

Matrix = Float[Tensor, "samples dim"]


class Clid(NamedTuple):
    """The two parts of CLID; runs are ranked by the sum of both, each standardised over the runs."""

    learnability: float
    dimension: float


def clid(z: Matrix, generator: Generator, clusters: int | None = None) -> Clid:
    """Cluster learnability and intrinsic dimension of at least four embeddings.

    Args:
        z: embeddings, in an order by chance.
        generator: of the first centres of k-means.
        clusters: of k-means; the square root of the number of samples where not given.
    """
    rows = z.double()
    count = clusters or max(2, round(math.sqrt(len(rows))))
    return Clid(learnability(rows, k_means(rows, count, generator)), intrinsic_dimension(rows))


def learnability(z: Matrix, labels: Int[Tensor, " samples"], neighbours: int = 1) -> float:
    """Prequential accuracy of nearest neighbours: each sample is predicted by those before it.

    The first sample, which has none before it, is not counted.
    """
    distances = torch.cdist(z, z)
    later = torch.ones_like(distances, dtype=torch.bool).triu()
    order = distances.masked_fill(later, math.inf)[1:].topk(min(neighbours, len(z) - 1), largest=False)
    votes = one_hot(labels[order.indices]) * order.values.isfinite().unsqueeze(-1)
    return float((votes.sum(1).argmax(1) == labels[1:]).double().mean())


def intrinsic_dimension(z: Matrix) -> float:
    """TwoNN (Facco et al. 2017): N / sum of ln(r2 / r1), r1 and r2 the distances to the two nearest others.

    Samples that coincide with another say nothing and are left out; NaN where fewer than two are left.
    """
    nearest = torch.cdist(z, z).fill_diagonal_(math.inf).topk(2, largest=False).values
    nearest = nearest[nearest[:, 0] > 0]
    spread = (nearest[:, 1] / nearest[:, 0]).log().sum()
    return len(nearest) / float(spread) if len(nearest) > 1 and spread > 0 else math.nan


def self_cluster(z: Matrix) -> float:
    """(d ||G||_F^2 - n (d + n - 1)) / ((d - 1)(n - 1) n), G the cosines: 0 for random directions, 1 for one.

    Vectors of length nought have no direction; they count as one direction.
    """
    rows = normalize(z.double(), dim=1)
    rows = torch.where(rows.any(1, keepdim=True), rows, torch.eye(1, z.shape[1], dtype=rows.dtype).to(rows))
    count, dim = rows.shape
    square = (rows.T @ rows).square().sum()  # ||Z Z^T||_F = ||Z^T Z||_F, which is the smaller matrix
    return float((dim * square - count * (dim + count - 1)) / ((dim - 1) * (count - 1) * count))


def coherence(z: Matrix) -> float:
    """(N / d) max_i ||U_i||^2 with Z = U S V^T: 1 where all samples share all directions, N / d at worst.

    d is the rank of Z here, so that a direction which no sample uses does not count.
    """
    left, values, _ = torch.linalg.svd(z.double(), full_matrices=False)
    left = left[:, values > values[0] * 1e-6] if values.numel() and values[0] > 0 else left[:, :0]
    return float(left.square().sum(1).max() * len(z) / left.shape[1]) if left.shape[1] else 1.0


class Dominance(NamedTuple):
    """A few samples that hold most of the variance.

    Args:
        rows: which samples they are, those farthest out first.
        group: which of the groups they are, or -1 where they are no group but the samples farthest out.
        variance: their share of the summed squared distances from the median embedding.
        samples: their share of the samples.
    """

    rows: Int[Tensor, " few"]
    group: int
    variance: float
    samples: float


def dominant(z: Matrix, groups: Int[Tensor, " samples"] | None = None) -> Dominance | None:
    """One group of less than a quarter of the samples, or single ones of less than a twentieth, that holds
    more than half of the variance; None where there is neither.

    Of a normal distribution, an eighth of the samples holds half of the variance at least, so a twentieth
    never does by chance. Distances are from the median embedding, which such samples cannot draw to them.

    Args:
        z: embeddings.
        groups: number of the patient, recording ... that a sample is of, from 0; where known.
    """  # fmt: skip
    far = (z.double() - z.double().median(0).values).square().sum(1)
    total, order = far.sum(), far.argsort(descending=True)
    if total <= 0:
        return None
    if groups is not None:
        sums = torch.zeros(int(groups.max()) + 1, dtype=far.dtype, device=far.device).index_add_(
            0, groups, far
        )
        group = int(sums.argmax())
        rows = order[groups[order] == group]
        found = Dominance(rows, group, float(sums[group] / total), len(rows) / len(z))
        if found.variance > 0.5 and found.samples < 0.25:
            return found
    count = int((far[order].cumsum(0) < total / 2).sum()) + 1
    rows = order[:count]
    found = Dominance(rows, -1, float(far[rows].sum() / total), count / len(z))
    return found if found.samples < 0.05 else None


def k_means(
    z: Matrix, clusters: int, generator: Generator, starts: int = 5, rounds: int = 30
) -> Int[Tensor, " samples"]:
    """Cluster of each sample: the tightest of several runs of Lloyd's algorithm.

    Each begins at centres far apart (Arthur and Vassilvitskii 2007); a cluster that loses its last sample
    keeps its centre.
    """
    runs = [_lloyd(z, min(clusters, len(z)), generator, rounds) for _ in range(starts)]
    return min(runs, key=lambda run: run[1])[0]


def _lloyd(z: Matrix, clusters: int, generator: Generator, rounds: int) -> tuple[Tensor, float]:
    centres = _far_apart(z, clusters, generator)
    for _ in range(rounds):
        labels = torch.cdist(z, centres).argmin(1)
        members = one_hot(labels, clusters).to(z.dtype)
        counts = members.sum(0)[:, None]
        moved = torch.where(counts > 0, members.T @ z / counts.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    distances, labels = torch.cdist(z, centres).min(1)
    return labels, float(distances.square().sum())


def _far_apart(z: Matrix, count: int, generator: Generator) -> Tensor:
    """Centres drawn one after the other, each with a chance that grows with its squared distance."""
    first = torch.randint(len(z), (1,), generator=generator, device=z.device)
    chosen, nearest = [first], torch.cdist(z, z[first]).square()[:, 0]
    for _ in range(count - 1):
        weights = nearest if bool(nearest.sum() > 0) else torch.ones_like(nearest)
        chosen.append(torch.multinomial(weights, 1, generator=generator))
        nearest = nearest.minimum(torch.cdist(z, z[chosen[-1]]).square()[:, 0])
    return z[torch.cat(chosen)]
