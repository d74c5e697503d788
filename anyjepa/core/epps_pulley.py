"""The Epps-Pulley statistic with one sine and one cosine a sample, in memory that no grid makes larger.

For samples x_1..x_N it is N times the integral of |phi_N(t) - exp(-t^2/2)|^2 exp(-t^2/2) over t, where
phi_N(t) = mean_j exp(i t x_j): how far the samples' characteristic function is from the standard normal's
(Epps & Pulley 1983; LeJEPA, arXiv:2511.08544, section 4). Mean 0 and variance 1 are part of what is tested,
so nothing is centred or scaled first.

The grid of t is uniform and starts at 0, so that cos(k d x) and sin(k d x) follow from cos(d x) and sin(d x)
by the three-term recurrence of Chebyshev polynomials, and the gradient, a trigonometric polynomial in x, by
Clenshaw's. Both run over a few rows at a time, small enough for the cache.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as processes

LARGEST_DERIVATIVE = 8.0  # |dEP/dx| <= 4 integral |t| exp(-t^2/2) dt, whatever x and N
ON_CPU, ON_ACCELERATOR = 2**16, 2**24  # values worked on at once: what a cache holds, what is worth a launch


class Quadrature(NamedTuple):
    """Trapezoid rule on `points` equally spaced values of t in [0, limit], counted for both signs of t."""

    limit: float
    points: int


QUADRATURES = {
    "code": Quadrature(3.0, 17),  # as released: 17 points on [0, 3], doubled
    "paper": Quadrature(5.0, 9),  # Algorithm 1: 17 points on [-5, 5]
}


def epps_pulley(
    samples: Float[Tensor, "*batch samples slices"],
    quadrature: Quadrature = QUADRATURES["code"],
    debiased: bool = False,
) -> Float[Tensor, "*batch slices"]:
    """The statistic of each slice, 0 for a perfect fit, about 1.05 for N draws of a standard normal.

    The released grid is the default; it misses about 0.006 N of the integral, which lies beyond |t| = 3. The
    paper's grid is exact to 1e-6 for samples within |x| < 2. Half precision is computed in float32.

    With several processes (an initialised `torch.distributed`) the samples of all of them are tested
    together: sums and counts are added up, so that the parts may differ in size. The gradient is that of the
    sum of all processes' losses, which gives the single process's gradient once it is averaged.

    Args:
        samples: N of each slice; everything in front is batch.
        quadrature: values of t.
        debiased: replace |phi_N|^2 by (N |phi_N|^2 - 1) / (N - 1), so that the expectation for normal samples
            is 0 and does not pull a small batch towards too regular a shape.

    Raises:
        ValueError: fewer than two points, or one sample where `debiased`.
    """
    if quadrature.points < 2:
        raise ValueError(f"a quadrature needs two points or more, not {quadrature.points}")
    x = samples.float() if samples.dtype in (torch.float16, torch.bfloat16) else samples
    rows = x.mT.reshape(-1, x.shape[-2])
    # a custom function is not touched by autocast, so float32 stays float32
    values: Tensor = _EppsPulley.apply(rows, quadrature, debiased)  # pyright: ignore[reportAssignmentType]
    return values.view(*x.shape[:-2], x.shape[-1])


def expected_epps_pulley(quadrature: Quadrature = QUADRATURES["code"]) -> float:
    """Expectation for any number of independent standard normal samples: sum of w (1 - exp(-t^2))."""
    times, weights = _grid(quadrature)
    return sum(w * (1 - math.exp(-t * t)) for t, w in zip(times, weights, strict=True))


def epps_pulley_exact(samples: Float[Tensor, "*batch samples slices"]) -> Float[Tensor, "*batch slices"]:
    """The statistic with the integral over all t, in closed form; memory grows with the square of N.

    sqrt(2 pi)/N sum_jk exp(-(x_j - x_k)^2/2) - 2 sqrt(pi) sum_j exp(-x_j^2/4) + N sqrt(2 pi/3).
    """
    count = samples.shape[-2]
    pairs = torch.exp(-((samples.unsqueeze(-2) - samples.unsqueeze(-3)) ** 2) / 2).sum((-3, -2))
    alone = torch.exp(-(samples**2) / 4).sum(-2)
    return (
        math.sqrt(2 * math.pi) / count * pairs
        - 2 * math.sqrt(math.pi) * alone
        + count * math.sqrt(2 * math.pi / 3)
    )


def _grid(quadrature: Quadrature) -> tuple[list[float], list[float]]:
    """t and its weight, without t = 0, where both characteristic functions are 1 and the error is 0."""
    step = quadrature.limit / (quadrature.points - 1)
    times = [step * number for number in range(1, quadrature.points)]
    weights = [2 * step * math.exp(-t * t / 2) for t in times]
    weights[-1] /= 2
    return times, weights


def _over_all_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over processes, in place; gloo has no mean."""
    if processes.is_available() and processes.is_initialized():
        processes.all_reduce(value, op=processes.ReduceOp.SUM)
    return value


class _EppsPulley(torch.autograd.Function):
    """Rows (R, N) to statistics (R,)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, quadrature: Quadrature, debiased: bool) -> Tensor:
        times, weights = _grid(quadrature)
        count = _over_all_processes(rows.new_full((), rows.shape[1]))
        means = _over_all_processes(_sums(rows, times)) / count
        normal = torch.exp(-(rows.new_tensor(times) ** 2) / 2)
        weight = rows.new_tensor(weights)
        # |phi|^2 -> square |phi|^2 - less
        square, less = (count / (count - 1), 1 / (count - 1)) if debiased else (count / count, count * 0)
        distance = square * (means**2).sum(0) - less - 2 * normal * means[0] + normal**2
        if rows.requires_grad:
            pull = torch.stack([square * means[0] - normal, square * means[1]])
            ctx.save_for_backward(rows, pull * (2 * weight * rows.new_tensor(times)))
            ctx.step = times[0]
        return count * (distance * weight).sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, pull = ctx.saved_tensors
        # each process's loss holds all processes' samples, so all their gradients come back here
        given = _over_all_processes(gradients[0].clone())
        # d/dx: cos(t x) gives -t sin(t x), sin(t x) gives t cos(t x)
        coefficients = torch.stack([pull[1], -pull[0]]) * given[:, None]
        return _series(rows, coefficients, ctx.step), None, None


def _parts(rows: Tensor) -> int:
    """Rows to work on at once."""
    return max(1, (ON_CPU if rows.device.type == "cpu" else ON_ACCELERATOR) // max(1, rows.shape[1]))


def _sums(rows: Float[Tensor, "rows samples"], times: list[float]) -> Float[Tensor, "2 rows times"]:
    """Sums over samples of cos(t x) and sin(t x), for t = d, 2d, ..."""
    sums = rows.new_empty(2, rows.shape[0], len(times))
    for part, out in zip(rows.split(_parts(rows)), sums.split(_parts(rows), dim=1), strict=True):
        angle = part * times[0]
        current = torch.stack([angle.cos(), angle.sin()])
        double = 2 * current[0]
        # h_(k+1) = 2 cos(d x) h_k - h_(k-1), kept with signs + + - - ...: each is one multiply-add in place
        previous = torch.zeros_like(current)
        previous[0] = 1
        sign = 1.0
        for number in range(len(times)):
            out[..., number] = current.sum(-1).mul_(1 - 2 * ((number + 1) // 2 % 2))
            previous.addcmul_(double, current, value=(sign := -sign))
            previous, current = current, previous
    return sums


def _series(
    rows: Float[Tensor, "rows samples"], coefficients: Float[Tensor, "2 rows times"], step: float
) -> Float[Tensor, "rows samples"]:
    """Sum over k of a_k cos(k d x) + b_k sin(k d x), by Clenshaw's recurrence from the last k down."""
    total, count = torch.empty_like(rows), coefficients.shape[2]
    # signs as in `_sums`, counted from the end
    signs = coefficients.new_tensor([1 - 2 * ((count - 1 - number) // 2 % 2) for number in range(count)])
    signed = (coefficients * signs).unsqueeze(-1)
    size = _parts(rows)
    for part, given, out in zip(rows.split(size), signed.split(size, dim=1), total.split(size), strict=True):
        angle = part * step
        cosine, sine = angle.cos(), angle.sin()
        double = 2 * cosine
        after = torch.zeros(2, *part.shape, dtype=part.dtype, device=part.device)
        current = torch.zeros_like(after)
        sign = -1.0
        for number in reversed(range(count)):
            # after: b_(k+2), current: b_(k+1); after becomes b_k
            after.addcmul_(double, current, value=sign).add_(given[:, :, number])
            after, current, sign = current, after, -sign
        first = 1 - 2 * ((count - 1) // 2 % 2)
        second = 1 - 2 * ((count - 2) // 2 % 2) if count > 1 else 1
        torch.add(current[0] * cosine, current[1] * sine, out=out).mul_(first).sub_(after[0], alpha=second)
    return total
