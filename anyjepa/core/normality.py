"""Statistics of how far samples are from a standard normal: what a slice of embeddings is tested with.

One convention for all: samples are on the last axis but one, everything else is batch, and each grows with
the distance from N(0, 1), so that each can be minimised by gradient descent. None centres or scales the
samples first, but for those that say so. `x` is (..., N, slices), the answer (..., slices); the multivariate
ones take (..., N, dim) and answer (...). With several processes only Epps-Pulley sees all samples.

Order statistics are written x_(1) <= ... <= x_(N), Phi is the standard normal distribution function.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.epps_pulley import epps_pulley

Samples = Float[Tensor, "*batch samples slices"]
Values = Float[Tensor, "*batch slices"]
LOG_2_PI = math.log(2 * math.pi)


def _ranks(x: Tensor) -> Tensor:
    """1..N beside the samples' axis."""
    return torch.arange(1, x.shape[-2] + 1, dtype=x.dtype, device=x.device).unsqueeze(-1)


def _sorted(x: Tensor) -> Tensor:
    return x.sort(dim=-2).values


def cramer_von_mises(x: Samples) -> Values:
    """W^2 = 1/(12 N) + sum_i (Phi(x_(i)) - (2i - 1)/(2N))^2, the integral of N (F_N - Phi)^2 dPhi.

    LeJEPA's released test is this less 1/(12 N), over N.
    """
    count = x.shape[-2]
    wanted = (2 * _ranks(x) - 1) / (2 * count)
    return 1 / (12 * count) + ((torch.special.ndtr(_sorted(x)) - wanted) ** 2).sum(-2)


def watson(x: Samples) -> Values:
    """U^2 = W^2 - N (mean Phi(x) - 1/2)^2: Cramer-von Mises less what a shift explains."""
    return cramer_von_mises(x) - x.shape[-2] * (torch.special.ndtr(x).mean(-2) - 0.5) ** 2


def anderson_darling(x: Samples) -> Values:
    """A^2 = -N - (1/N) sum_i (2i - 1) (log Phi(x_(i)) + log(1 - Phi(x_(N+1-i)))).

    The logarithms are those of the tails themselves, so that far outliers have a value and a gradient.
    """
    x, count = _sorted(x), x.shape[-2]
    tails = torch.special.log_ndtr(x) + torch.special.log_ndtr(-x.flip(-2))
    return -count - ((2 * _ranks(x) - 1) * tails).sum(-2) / count


def mean_variance(x: Samples) -> Values:
    """N mean^2 / var + (N - 1) (var - 1)^2 / 2 with the unbiased variance; chi^2 of 2 degrees of freedom.

    What VICReg's variance and a centring term ask of one direction; LeJEPA's package calls it VCReg.
    """
    count, variance = x.shape[-2], x.var(-2)
    return count * x.mean(-2) ** 2 / variance + (count - 1) * (variance - 1) ** 2 / 2


def jarque_bera(x: Samples) -> Values:
    """(N / 6) (skewness^2 + (kurtosis - 3)^2 / 4), blind to mean and variance; chi^2 of 2 degrees of freedom.

    Moments are biased (divided by N), as Jarque and Bera (1980) have them.
    """
    centred = x - x.mean(-2, keepdim=True)
    scale = (centred**2).mean(-2)
    skewness, kurtosis = (centred**3).mean(-2) / scale**1.5, (centred**4).mean(-2) / scale**2
    return x.shape[-2] / 6 * (skewness**2 + (kurtosis - 3) ** 2 / 4)


def extended_jarque_bera(x: Samples) -> Values:
    """`mean_variance` + `jarque_bera`: chi^2 of 4 degrees of freedom, so above 9.488 in one case of 20."""
    return mean_variance(x) + jarque_bera(x)


def moments(x: Samples, highest: int = 4) -> Values:
    """|mean| + sum over k = 2..highest of e^-k |mean x^k - E x^k|; E x^k is (k - 1)!!, or 0 for odd k."""
    total = x.mean(-2).abs()
    for order in range(2, highest + 1):
        normal = 0.0 if order % 2 else float(math.prod(range(1, order, 2)))
        total = total + math.exp(-order) * ((x**order).mean(-2) - normal).abs()
    return total


def vasicek(x: Samples, window: int = 1) -> Values:
    """exp of (entropy of a normal with the samples' deviation - the samples' entropy by m-spacings), >= 1.

    The entropy is the mean of log(N / (2m) (x_(i+m) - x_(i-m))), indices cut off at 1 and N (Vasicek 1976).
    Blind to mean and variance. The deviation is the biased one, for which the bound of 1 holds.
    """
    x, count = _sorted(x), x.shape[-2]
    index = torch.arange(count, device=x.device)
    above, below = (index + window).clamp(max=count - 1), (index - window).clamp(min=0)
    gaps = (x.index_select(-2, above) - x.index_select(-2, below)).clamp(min=torch.finfo(x.dtype).tiny)
    entropy = torch.log(count / (2 * window) * gaps).mean(-2)
    return torch.exp((LOG_2_PI + 1) / 2 + x.var(-2, correction=0).log() / 2 - entropy)


def normal_scores(count: int, positions: str = "blom") -> Float[Tensor, " samples"]:
    """Where N sorted standard normal samples are expected: the quantiles of plotting positions, float64.

    Args:
        count: N.
        positions: "blom" (i - 3/8)/(N + 1/4), "elfving" (i - pi/8)/(N + 1 - pi/4), or "rahman" i/(N + 1).
    """
    shift = {"blom": 3 / 8, "elfving": math.pi / 8, "rahman": 0.0}[positions]
    index = torch.arange(1, count + 1, dtype=torch.float64)
    return torch.special.ndtri((index - shift) / (count + 1 - 2 * shift))


def shapiro_francia(x: Samples, positions: str = "blom") -> Values:
    """1 - the squared correlation of the sorted samples with `normal_scores`; blind to mean and variance."""
    scores = normal_scores(x.shape[-2], positions).to(x)
    return _unlike(x, scores / scores.norm())


def shapiro_wilk(x: Samples) -> Values:
    """1 - W with Royston's (1992) approximation of the optimal weights; blind to mean and variance.

    Raises:
        ValueError: fewer than six samples, for which the approximation does not hold.
    """
    count = x.shape[-2]
    if count < 6:
        raise ValueError(f"Royston's weights need six samples or more, not {count}")
    scores = normal_scores(count)
    square, unit = float(scores @ scores), scores / scores.norm()
    last, next_to_last = _polynomial(ROYSTON_LAST, count), _polynomial(ROYSTON_NEXT, count)
    last, next_to_last = last + float(unit[-1]), next_to_last + float(unit[-2])
    rest = (square - 2 * float(scores[-1]) ** 2 - 2 * float(scores[-2]) ** 2) / (
        1 - 2 * last**2 - 2 * next_to_last**2
    )
    weights = scores / math.sqrt(rest)
    weights[0], weights[1], weights[-2], weights[-1] = -last, -next_to_last, next_to_last, last
    return _unlike(x, weights.to(x))


# coefficients of 1/sqrt(N), its square and so on, of what Royston adds to the two outermost weights
ROYSTON_LAST = (0.221157, -0.147981, -2.07119, 4.434685, -2.706056)
ROYSTON_NEXT = (0.042981, -0.293762, -1.752461, 5.682633, -3.582633)


def _polynomial(coefficients: tuple[float, ...], count: int) -> float:
    return sum(value * count ** (-(power + 1) / 2) for power, value in enumerate(coefficients))


def _unlike(x: Tensor, weights: Tensor) -> Tensor:
    """1 - squared correlation of sorted samples with weights of mean 0 and length 1."""
    centred = _sorted(x) - x.mean(-2, keepdim=True)
    along = (centred * weights.unsqueeze(-1)).sum(-2)
    return 1 - along**2 / (centred**2).sum(-2)


def order_likelihood(x: Samples) -> Values:
    """Mean over i of -log density of x_(i) as the i-th order statistic of N standard normal samples."""
    x, count = _sorted(x), x.shape[-2]
    rank = _ranks(x)
    ways = math.lgamma(count + 1) - torch.lgamma(rank) - torch.lgamma(count + 1 - rank)
    below, above = torch.special.log_ndtr(x), torch.special.log_ndtr(-x)
    density = -(x**2) / 2 - LOG_2_PI / 2
    return -(ways + (rank - 1) * below + (count - rank) * above + density).mean(-2)


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "epps-pulley": epps_pulley,
    "cramer-von-mises": cramer_von_mises,
    "watson": watson,
    "anderson-darling": anderson_darling,
    "mean-variance": mean_variance,
    "jarque-bera": jarque_bera,
    "extended-jarque-bera": extended_jarque_bera,
    "moments": moments,
    "vasicek": vasicek,
    "shapiro-wilk": shapiro_wilk,
    "shapiro-francia": shapiro_francia,
    "order-likelihood": order_likelihood,
}


def bhep(x: Float[Tensor, "*batch samples dim"], beta: float = 0.1) -> Float[Tensor, "*batch"]:
    """Baringhaus, Henze, Epps & Pulley: weighted distance of all directions' characteristic functions.

    mean_ij exp(-b^2 |x_i - x_j|^2 / 2) - 2 (1 + b^2)^(-D/2) mean_i exp(-b^2 |x_i|^2 / (2 + 2 b^2))
    + (1 + 2 b^2)^(-D/2), with b = `beta`. Time and memory grow with the square of N.
    """
    square, dim = beta**2, x.shape[-1]
    lengths = (x**2).sum(-1)
    distances = (lengths.unsqueeze(-1) + lengths.unsqueeze(-2) - 2 * x @ x.mT).clamp(min=0)
    pairs = torch.exp(-square / 2 * distances).mean((-2, -1))
    alone = torch.exp(-square / (2 + 2 * square) * lengths).mean(-1)
    return pairs - 2 * (1 + square) ** (-dim / 2) * alone + (1 + 2 * square) ** (-dim / 2)


def henze_zirkler(x: Float[Tensor, "*batch samples dim"]) -> Float[Tensor, "*batch"]:
    """`bhep` with the width that suits N and D, ((2D + 1) N / 4)^(1 / (D + 4)) / sqrt(2).

    Henze and Zirkler (1990) standardise the samples first and multiply by N; here N(0, I) itself is tested.
    """
    count, dim = x.shape[-2:]
    return bhep(x, ((2 * dim + 1) * count / 4) ** (1 / (dim + 4)) / math.sqrt(2))
