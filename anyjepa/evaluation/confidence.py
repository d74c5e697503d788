"""Confidence intervals of accuracies, paired differences, R squared, areas under curves, means over seeds.

Where samples come in groups (records of one patient), groups are drawn, not samples: samples of one group say
less than as many independent ones, and an interval that forgets it is too narrow.

All draws come from a generator with a fixed seed, so the same outcomes always give the same interval.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from anyjepa.core.errors import UserError

RESAMPLES = 10_000
RESAMPLES_OF_RATIOS = 2_000
RESAMPLES_OF_AREAS = 1_000
DRAWS_AT_ONCE = 1 << 22


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval, all in the units of the estimate."""

    value: float
    low: float
    high: float


def accuracy_interval(
    correct: Shaped[Tensor, " samples"],
    level: float = 0.95,
    groups: Int[Tensor, " samples"] | None = None,
) -> Interval:
    """Bootstrap percentile interval of an accuracy.

    `correct` holds one 0/1 (or bool) a test sample. Resampling n zeros and ones with replacement is a
    binomial draw, so no sample is ever gathered. When all samples agree the bootstrap has no spread; the
    exact binomial bound (Clopper and Pearson, 1934) then takes its place. Raises UserError when `correct`
    is empty or not binary, or `level` is not between 0 and 1.
    """
    outcomes = _binary(correct)
    _check_level(level)
    rate, count = float(outcomes.mean()), len(outcomes)
    if groups is not None:
        return Interval(rate, *_percentiles(_mean_of_drawn_groups(outcomes, groups), level))
    rates = np.random.default_rng(0).binomial(count, rate, RESAMPLES) / count
    low, high = _percentiles(rates, level)
    slack = _unseen(count, level)
    return Interval(rate, 1 - slack if rate == 1 else low, slack if rate == 0 else high)


def paired_difference_interval(
    correct_a: Shaped[Tensor, " samples_a"],
    correct_b: Shaped[Tensor, " samples_b"],
    level: float = 0.95,
    groups: Int[Tensor, " samples_a"] | None = None,
) -> Interval:
    """Bootstrap percentile interval of accuracy(a) - accuracy(b), both measured on the same test samples.

    Resampling pairs is a multinomial draw over (only a right, only b right, the same), which keeps the
    correlation of the two and so is narrower than two separate intervals. When the difference is the same
    for every sample, the exact binomial bound widens the interval on the sides that are open. Raises
    UserError when the two differ in length, are empty, or are not binary.
    """
    if len(correct_a) != len(correct_b):
        raise UserError(
            f"a paired difference needs the same test samples on both sides, not {len(correct_a)} and "
            f"{len(correct_b)}: evaluate both on the same data."
        )
    _check_level(level)
    differences = _binary(correct_a) - _binary(correct_b)
    count, value = len(differences), float(differences.mean())
    if groups is not None:
        return Interval(value, *_percentiles(_mean_of_drawn_groups(differences, groups), level))
    shares = np.array([(differences == 1).mean(), (differences == -1).mean(), (differences == 0).mean()])
    draws = np.random.default_rng(0).multinomial(count, shares / shares.sum(), RESAMPLES)
    low, high = _percentiles((draws[:, 0] - draws[:, 1]) / count, level)
    if shares.max() == 1:
        slack = _unseen(count, level)
        low, high = max(-1.0, value - slack), min(1.0, value + slack)
    return Interval(value, low, high)


def sample_mean_interval(
    values: Float[Tensor, " samples"],
    level: float = 0.95,
    groups: Int[Tensor, " samples"] | None = None,
) -> Interval:
    """Bootstrap percentile interval of the mean of one number a test sample, such as its average precision.

    Raises UserError when there are none.
    """
    _check_level(level)
    numbers = values.double().cpu().numpy()
    if not len(numbers):
        raise UserError("there are no test samples to take a mean over: give labelled test data.")
    if groups is not None:
        return Interval(float(numbers.mean()), *_percentiles(_mean_of_drawn_groups(numbers, groups), level))
    random, means = np.random.default_rng(0), []
    rows = max(1, DRAWS_AT_ONCE // len(numbers))
    for start in range(0, RESAMPLES_OF_RATIOS, rows):
        shape = (min(rows, RESAMPLES_OF_RATIOS - start), len(numbers))
        means.append(numbers[random.integers(len(numbers), size=shape)].mean(1))
    return Interval(float(numbers.mean()), *_percentiles(np.concatenate(means), level))


def r2_interval(
    targets: Float[Tensor, " samples"],
    predictions: Float[Tensor, " samples"],
    level: float = 0.95,
    groups: Int[Tensor, " samples"] | None = None,
) -> Interval:
    """Bootstrap percentile interval of R squared, 1 - sum (y - p)^2 / sum (y - mean y)^2, over test samples.

    Raises UserError when there are fewer than two samples or all targets are the same.
    """
    _check_level(level)
    y = targets.double().cpu()
    if len(y) < 2 or bool((y == y[0]).all()):
        raise UserError("R squared needs test targets that differ: give more test samples.")
    y = y - y.mean()
    columns = torch.stack([(targets.double().cpu() - predictions.double().cpu()).square(), y, y.square()])
    if groups is not None:
        error, first, second = (torch.from_numpy(_mean_of_drawn_groups(c.numpy(), groups)) for c in columns)
    else:
        generator = torch.Generator().manual_seed(0)
        rows = max(1, DRAWS_AT_ONCE // len(y))
        means = []
        for start in range(0, RESAMPLES_OF_RATIOS, rows):
            shape = (min(rows, RESAMPLES_OF_RATIOS - start), len(y))
            drawn = torch.randint(len(y), shape, generator=generator)
            means.append(torch.stack([column[drawn].mean(1) for column in columns]))
        error, first, second = torch.cat(means, 1)
    spread = second - first.square()
    # a resample of one sample, drawn n times, has no spread and says nothing about the ratio
    ratios = (1 - error / spread)[spread > 1e-12 * second.clamp(min=1e-300)]
    return Interval(float(1 - columns[0].mean() / columns[2].mean()), *_percentiles(ratios.numpy(), level))


def macro_auc(
    scores: Float[Tensor, "settings samples classes"], labels: Int[Tensor, "samples classes"]
) -> Float[Tensor, " settings"]:
    """Area under the ROC curve, averaged over the classes that both occur and are absent; NaN without one.

    Ties count half (Mann and Whitney, 1947). Labels are 1 and 0, and -1 where unknown, which leaves the
    sample out of that class.
    """
    areas = torch.cat([_areas(one.double().cpu(), labels.cpu()) for one in scores])
    return areas.nanmean(1).to(scores.device)


def auc_interval(
    scores: Float[Tensor, "samples classes"],
    labels: Int[Tensor, "samples classes"],
    level: float = 0.95,
    groups: Int[Tensor, " samples"] | None = None,
    against: Float[Tensor, "samples classes"] | None = None,
) -> Interval:
    """Macro AUC (`macro_auc`) with its bootstrap percentile interval over samples, or over groups.

    With `against`, other scores of the same samples, it is the paired difference of the two. A class that a
    draw has no sample of, or only samples of, is left out of that draw's mean.

    Raises:
        UserError: no class both occurs and is absent among the labels.
    """
    _check_level(level)
    weights = _drawn_counts(len(scores), groups, RESAMPLES_OF_AREAS)
    weights = torch.cat([torch.ones(1, len(scores), dtype=torch.float64), weights])
    areas = _areas(scores.double().cpu(), labels.cpu(), weights).nanmean(1)
    if against is not None:
        areas = areas - _areas(against.double().cpu(), labels.cpu(), weights).nanmean(1)
    if bool(areas[0].isnan()):
        raise UserError("no class both occurs and is absent among the test labels: give more test samples.")
    drawn = areas[1:][~areas[1:].isnan()]
    return Interval(float(areas[0]), *_percentiles(drawn.numpy(), level))


def _areas(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """(draws, classes) areas under the ROC curve, each sample counted `weights` (draws, samples) times."""
    if weights is None:
        weights = torch.ones(1, len(scores), dtype=torch.float64)
    areas = []
    for column, truth in zip(scores.T, labels.T, strict=True):
        order = column.argsort()
        _, tie = column[order].unique_consecutive(return_inverse=True)
        times, yes, no = weights[:, order], truth[order] == 1, truth[order] == 0
        ties = int(tie[-1]) + 1
        positive = torch.zeros(len(times), ties, dtype=torch.float64).index_add_(1, tie, times * yes)
        negative = torch.zeros(len(times), ties, dtype=torch.float64).index_add_(1, tie, times * no)
        below = negative.cumsum(1) - negative / 2
        pairs = positive.sum(1) * negative.sum(1)
        areas.append(torch.where(pairs > 0, (positive * below).sum(1) / pairs, torch.nan))
    return torch.stack(areas, 1)


def _drawn_counts(samples: int, groups: Tensor | None, draws: int) -> Tensor:
    """(draws, samples) float64: how often each sample comes in a draw of as many samples, or groups."""
    random = np.random.default_rng(0)
    if groups is None:
        return torch.from_numpy(random.multinomial(samples, [1 / samples] * samples, draws).astype(float))
    names, number = np.unique(groups.cpu().numpy(), return_inverse=True)
    counts = random.multinomial(len(names), [1 / len(names)] * len(names), draws)
    return torch.from_numpy(counts[:, number].astype(float))


def _mean_of_drawn_groups(values: np.ndarray, groups: Tensor) -> np.ndarray:
    """(draws,) means of `values` over draws of groups with all their samples."""
    names, number = np.unique(groups.cpu().numpy(), return_inverse=True)
    sums, sizes = np.bincount(number, weights=values), np.bincount(number)
    counts = np.random.default_rng(0).multinomial(len(names), [1 / len(names)] * len(names), RESAMPLES)
    return (counts @ sums) / (counts @ sizes)


def mean_interval(values: Sequence[float] | Float[Tensor, " seeds"], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of a few independent values, such as one accuracy a seed.

    mean +- t(n - 1, level) * s / sqrt(n) with s the sample standard deviation (n - 1 in the denominator).
    Raises UserError for fewer than two values: the spread over seeds is then not known.
    """
    _check_level(level)
    numbers = np.asarray([float(value) for value in values])
    if len(numbers) < 2:
        raise UserError(
            f"an interval over seeds needs two values or more, not {len(numbers)}: run more seeds."
        )
    half = _student_quantile(len(numbers) - 1, level) * numbers.std(ddof=1) / math.sqrt(len(numbers))
    mean = float(numbers.mean())
    return Interval(mean, mean - half, mean + half)


def _binary(correct: Tensor) -> np.ndarray:
    outcomes = correct.detach().double().cpu().numpy()
    if len(outcomes) == 0:
        raise UserError("there are no test samples to measure an accuracy on: give labelled test data.")
    if not np.isin(outcomes, (0, 1)).all():
        raise UserError("an accuracy interval needs one 0 (wrong) or 1 (right) a sample.")
    return outcomes


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"a confidence level lies between 0 and 1, such as 0.95, not {level}.")


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _unseen(count: int, level: float) -> float:
    """The largest rate of an event that `count` samples can miss: (1 - rate)^count = (1 - level) / 2."""
    return 1 - ((1 - level) / 2) ** (1 / count)


def _student_quantile(freedom: int, level: float) -> float:
    """The t with P(|T| < t) = level, by bisection."""
    low, high = 0.0, 1.0
    while _student_within(high, freedom) < level:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        if _student_within(middle, freedom) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _student_within(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = (cosine if odd else 1.0) if freedom > 1 else 0.0
    for step in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
