"""Label-free measures of embeddings: is the encoder healthy, and how many directions does it use?

Most work on a `Gram`: sums over any number of batches, so that memory does not grow with the number of
samples; LiDAR on `Scatters` of views; `accumulation.Accumulator` holds all that is needed for all measures.
`Z` is the (samples, dim) matrix of embeddings, sigma its singular values, lambda the eigenvalues of its
centred covariance. Equations and sources: RankMe (Garrido et al. 2022, arXiv:2210.02885), alpha-ReQ
(Agrawal et al. 2022), LiDAR (Thilak et al. 2023, arXiv:2312.04000), alignment and uniformity (Wang & Isola
2020, arXiv:2005.10242), NESum (He & Ozay 2022), stable rank and condition number (Tsitsulin et al. 2023).
Measures of neighbours (CLID, SelfCluster, coherence) are in `neighbourhoods`, and can be had from here.
"""

from __future__ import annotations

import importlib
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from anyjepa.core.errors import UserError

_ELSEWHERE = {
    "Accumulator": "accumulation",
    "clid": "neighbourhoods",
    "coherence": "neighbourhoods",
    "dominant": "neighbourhoods",
    "self_cluster": "neighbourhoods",
}

Matrix = Float[Tensor, "samples dim"]
Views = Float[Tensor, "samples views dim"]


def __getattr__(name: str) -> Any:
    """What other modules of `core` measure: ``anyjepa.health`` is one place for a user to look."""
    if name not in _ELSEWHERE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"anyjepa.core.{_ELSEWHERE[name]}"), name)


def summed_over_processes(*tensors: Tensor) -> None:
    """Add up each tensor over all processes, in place; nothing to do where there is one process."""
    if distributed.is_available() and distributed.is_initialized():
        for tensor in tensors:
            distributed.all_reduce(tensor)


class Gram:
    """Running sums of embeddings in float64: count, sum, and Z^T Z.

    Args:
        dim: width of the embeddings.
        device: where the sums live.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.total = torch.zeros(dim, dtype=torch.float64, device=device)
        self.square = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        self._spectra: dict[bool, Tensor] = {}

    def add(self, embeddings: Matrix) -> Gram:
        """Take in a batch of embeddings."""
        z = embeddings.detach().to(self.total)
        self.count += z.shape[0]
        self.total += z.sum(0)
        self.square += z.T @ z
        self._spectra = {}
        return self

    def merge(self, other: Gram) -> Gram:
        """Take in what another one has seen."""
        self.count += other.count
        self.total += other.total.to(self.total)
        self.square += other.square.to(self.square)
        self._spectra = {}
        return self

    def all_reduce(self) -> Gram:
        """Take in what all processes of `torch.distributed` have seen; every one of them must call it."""
        count = torch.tensor(self.count, device=self.total.device)
        summed_over_processes(count, self.total, self.square)
        self.count, self._spectra = int(count), {}
        return self

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.total.shape[0]

    def singular_values(self, centred: bool = False) -> Float[Tensor, " rank"]:
        """Singular values of Z, or of Z less its mean, largest first; at most `count` of them."""
        if centred not in self._spectra:
            square = self.square
            if centred and self.count:
                square = square - torch.outer(self.total, self.total) / self.count
            # several measures ask for the same spectrum, which is what they cost
            self._spectra[centred] = torch.linalg.eigvalsh(square).flip(0).clamp(min=0).sqrt()
        return self._spectra[centred][: min(self.count, self.dim)]

    def spread(self) -> float:
        """Standard deviation of the embeddings relative to the length of their mean; 0 is one point."""
        mean = self.total / self.count
        variance = (self.square.diagonal() / self.count - mean**2).clamp(min=0).sum()
        return float((variance / (mean**2).sum().clamp(min=1e-300)).sqrt())


def _gram(z: Matrix | Gram) -> Gram:
    if isinstance(z, Gram):
        return z
    bad = (~torch.isfinite(z).all(1)).nonzero().flatten()
    if len(bad):
        raise UserError(
            f"embedding {int(bad[0])} is not finite ({len(bad)} are): the health of such a matrix is unknown."
        )
    return Gram(z.shape[1], z.device).add(z)


def effective_rank(spectrum: Float[Tensor, " rank"], eps: float = 1e-7) -> float:
    """exp of the entropy of `spectrum` / its sum, with `eps` added to every share (RankMe, equation 1).

    An empty or all-zero spectrum is one point: 1.
    """
    total = spectrum.sum()
    if spectrum.numel() == 0 or total <= 0:
        return 1.0
    share = spectrum.double() / total + eps
    return float(torch.exp(-(share * share.log()).sum()))


def rankme(z: Matrix | Gram, centred: bool = False, eps: float = 1e-7) -> float:
    """RankMe: effective rank of the singular values of Z (equation 1 of the paper; Z is not centred there).

    With `eps` added and not renormalised, as published, K equal singular values give slightly more than K.

    Raises:
        UserError: a row is not finite; the message names it.
    """
    return effective_rank(_gram(z).singular_values(centred), eps)


def eigen_rank(z: Matrix | Gram, eps: float = 1e-7) -> float:
    """exp of the entropy of the eigenvalues lambda; RankMe is that of singular values, another number."""
    return effective_rank(_gram(z).singular_values(centred=True) ** 2, eps)


def numerical_rank(z: Matrix | Gram, share: float = 1e-6) -> int:
    """Number of eigenvalues lambda above `share` of the largest; 0 for a constant matrix."""
    values = _gram(z).singular_values(centred=True) ** 2
    return int((values > share * values[0]).sum()) if values.numel() and values[0] > 0 else 0


def first_share(z: Matrix | Gram) -> float:
    """lambda_1 / sum lambda: the share of the variance in one direction; 1 for a constant matrix."""
    return 1 / nesum(z)


def participation_ratio(z: Matrix | Gram) -> float:
    """(sum lambda)^2 / sum lambda^2; 1 for a constant matrix."""
    values = _gram(z).singular_values(centred=True) ** 2
    square = (values**2).sum()
    return float(values.sum() ** 2 / square) if square > 0 else 1.0


def condition_number(z: Matrix | Gram, rank: int | None = None) -> float:
    """sigma_1 / sigma_`rank`, the last where not given (Tsitsulin et al. 2023); infinite for a singular Z."""
    values = _gram(z).singular_values()
    if values.numel() == 0 or values[0] <= 0:
        return math.inf
    last = values[(rank or values.numel()) - 1]
    # below this a sum in float64 cannot be told from nought
    return float(values[0] / last) if last > values[0] * 1e-8 else math.inf


def nesum(z: Matrix | Gram) -> float:
    """sum lambda / lambda_1 (He & Ozay 2022): the stable rank of the centred Z; 1 for a constant matrix."""
    values = _gram(z).singular_values(centred=True) ** 2
    return float(values.sum() / values[0]) if values.numel() and values[0] > 0 else 1.0


def mean_cosine(gram: Gram) -> float:
    """Length of the mean embedding squared over the mean squared length: near 1, all point the same way."""
    mean_length = (gram.total / gram.count).square().sum()
    return float(mean_length / (gram.square.diagonal().sum() / gram.count).clamp(min=1e-300))


def stable_rank(z: Matrix | Gram) -> float:
    """||Z||_F^2 / ||Z||_2^2; 1 for a zero matrix."""
    values = _gram(z).singular_values() ** 2
    return float(values.sum() / values[0]) if values.numel() and values[0] > 0 else 1.0


def alpha_req(z: Matrix | Gram) -> tuple[float, float]:
    """Decay exponent alpha of lambda_i ~ i^-alpha, and the R^2 of the fit.

    Least squares of ln lambda on ln i with weights 1/i over ranks 11 to 100, or over as many as there are.
    NaN where fewer than three eigenvalues are positive.
    """
    values = _gram(z).singular_values(centred=True) ** 2
    values = values[values > values.max() * 1e-14] if values.numel() else values
    first = 10 if values.numel() >= 13 else 0
    values = values[first:100]
    if values.numel() < 3:
        return math.nan, math.nan
    rank = torch.arange(first + 1, first + 1 + values.numel(), dtype=torch.float64, device=values.device)
    weight = (1 / rank) / (1 / rank).sum()
    x, y = rank.log(), values.log()
    x, y = x - (weight * x).sum(), y - (weight * y).sum()
    slope = (weight * x * y).sum() / (weight * x * x).sum()
    residual, variance = (weight * (y - slope * x) ** 2).sum(), (weight * y * y).sum()
    return float(-slope), float(1 - residual / variance) if variance > 0 else 1.0


def uniformity(z: Matrix) -> float:
    """ln of the mean over pairs of exp(-2 ||f_i - f_j||^2) on unit-length rows; 0 is collapse."""
    rows = torch.nn.functional.normalize(z.double(), dim=1)
    distances = torch.pdist(rows) ** 2
    return float(torch.logsumexp(-2 * distances, 0) - math.log(distances.numel()))


def alignment(z: Matrix, positive: Matrix) -> float:
    """Mean squared distance of unit-length positive pairs; 0 when views agree."""
    first, second = (torch.nn.functional.normalize(x.double(), dim=1) for x in (z, positive))
    return float(((first - second) ** 2).sum(1).mean())


class Scatters:
    """Running sums over samples of q views each, in float64: what LiDAR and the alignment of views need.

    Args:
        dim: width of the embeddings.
        device: where the sums live.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.count = self.views = 0
        self.centres = torch.zeros(dim, dtype=torch.float64, device=device)
        self.square = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        self.deviations = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        self.distance = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, views: Views) -> Scatters:
        """Take in samples; each with as many views, two or more, as those before.

        Raises:
            UserError: a view is not finite, or there are too few.
        """
        z = views.detach().to(self.centres)
        if not bool(z.isfinite().all()):
            raise UserError(
                "the embedding of a view is not finite: the health of such an encoder is unknown."
            )
        if z.shape[1] < 2 or self.views not in (0, z.shape[1]):
            raise UserError(
                f"LiDAR needs the same number of views of each sample, two or more, not {z.shape[1]}."
            )
        centre = z.mean(1)
        within = (z - centre[:, None]).flatten(0, 1)
        self.count, self.views = self.count + z.shape[0], z.shape[1]
        self.centres += centre.sum(0)
        self.square += centre.T @ centre
        self.deviations += within.T @ within
        self.distance += alignment(z[:, 0], z[:, 1]) * z.shape[0]
        return self

    def merge(self, other: Scatters) -> Scatters:
        """Take in what another one has seen."""
        self.count, self.views = self.count + other.count, self.views or other.views
        for name in ("centres", "square", "deviations", "distance"):
            mine = getattr(self, name)
            mine += getattr(other, name).to(mine)
        return self

    def all_reduce(self) -> Scatters:
        """Take in what all processes of `torch.distributed` have seen; every one of them must call it."""
        # a process without samples does not know how many views each has
        facts = torch.tensor([self.count, self.views, int(self.count > 0)], device=self.centres.device)
        summed_over_processes(facts, self.centres, self.square, self.deviations, self.distance)
        self.count, self.views = int(facts[0]), int(facts[1] / facts[2].clamp(min=1))
        return self

    def between(self) -> Float[Tensor, "dim dim"]:
        """S_b: covariance of the samples' mean views; of two samples or more."""
        spread = self.square - torch.outer(self.centres, self.centres) / self.count
        return spread / (self.count - 1)

    def within(self) -> Float[Tensor, "dim dim"]:
        """S_w: mean covariance of a sample's views."""
        return self.deviations / (self.count * (self.views - 1))

    def alignment(self) -> float:
        """`alignment` of the first two views of the samples."""
        return float(self.distance / self.count)


def _scatters(views: Views | Scatters) -> Scatters:
    return views if isinstance(views, Scatters) else Scatters(views.shape[2], views.device).add(views)


def lidar(views: Views | Scatters, delta: float = 1e-4, eps: float = 1e-8, corrected: bool = False) -> float:
    """LiDAR: effective rank of the between-sample scatter whitened by the within-sample scatter.

    Args:
        views: q embeddings of each of n samples, n and q at least 2.
        delta: added to the diagonal of the within-sample scatter.
        eps: added to every share of the spectrum.
        corrected: take S_w / q, which noise in the views puts into S_b, off it first. Not in the paper.
    """
    sums = _scatters(views)
    between, within = sums.between(), sums.within()
    if corrected:
        between = between - within / sums.views
    values, vectors = torch.linalg.eigh(within + delta * torch.eye(len(within)).to(within))
    whiten = vectors / values.clamp(min=delta).sqrt()
    return effective_rank(torch.linalg.eigvalsh(whiten.T @ between @ whiten).clamp(min=0), eps)


def views_told_apart(views: Views | Scatters, delta: float = 1e-4) -> float:
    """Trace of LiDAR's whitened scatter over its width, in units of what pure noise gives.

    An encoder that knows nothing has S_b = S_w / q, so that LiDAR reads full rank; this reads 1.
    """
    sums = _scatters(views)
    within = sums.within() + delta * torch.eye(len(sums.centres)).to(sums.centres)
    return float(torch.linalg.solve(within, sums.between()).trace() / len(within) * sums.views)


class Shape(NamedTuple):
    """How a cloud of embeddings lies: `spread` as of `Gram.spread`, and effectively used `directions`."""

    spread: float
    directions: float

    @classmethod
    def of(cls, gram: Gram) -> Shape:
        """The shape of what was taken in; of finite embeddings only."""
        return cls(gram.spread(), rankme(gram, centred=True))


def collapse(gram: Gram, before: Shape | None = None) -> str | None:
    """In words, how the embeddings have collapsed; None where they have not.

    One point is a spread below 0.001, or below 0.05 and a quarter of what it was before training: small
    images of one kind lie close together even for a random encoder. One direction is an effective rank of
    the centred embeddings below 2; partly collapsed is one below a quarter of what it was.

    Args:
        gram: of at least as many embeddings as they have dimensions, or the answer is None: too few
            samples look like few directions.
        before: shape of the untrained encoder's embeddings, where known.
    """
    if gram.count < gram.dim:
        return None
    if not bool(torch.isfinite(gram.square).all()):
        return "the embeddings are no longer finite numbers"
    now = Shape.of(gram)
    if now.spread < 1e-3 or (before and now.spread < min(0.05, before.spread / 4)):
        was = f", {before.spread:.2g} before training" if before else ""
        return f"collapsed to one point: embeddings differ by {now.spread:.2g} of their length{was}"
    if now.directions < 2:
        return f"collapsed to one direction: effective rank {now.directions:.1f} of {gram.dim}"
    if before and now.directions < before.directions / 4:
        return (
            f"partly collapsed: the embeddings use {now.directions:.1f} of {gram.dim} directions, "
            f"{before.directions:.1f} before training"
        )
    return None
