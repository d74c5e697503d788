"""Ranking encoders without labels, and how well such a ranking agrees with labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from anyjepa.core.errors import UserError, nearest
from anyjepa.evaluation.confidence import Interval

Values = Float[np.ndarray, " runs"]
DRAWS = 2000

# a figure of a run by name, and what of it is better when higher
CRITERIA: dict[str, Callable[[float], float]] = {
    "rankme": lambda value: value,
    "rankme_centred": lambda value: value,
    "lidar": lambda value: value,
    "lidar_corrected": lambda value: value,
    "alpha_req": lambda value: -abs(value - 1),
    "stable_rank": lambda value: value,
    "participation_ratio": lambda value: value,
    "clid": lambda value: value,
    "uniformity": lambda value: -value,
    "loss": lambda value: -value,
    "scaled_loss": lambda value: -value,  # of LeJEPA, over its lambda to the power of 0.4
}


def known_criterion(by: str) -> str:
    """The criterion called `by`.

    Raises:
        UserError: there is none; the message suggests the nearest.
    """
    if by not in CRITERIA:
        raise UserError(
            f"runs cannot be ranked by '{by}' (but by {', '.join(CRITERIA)}).{nearest(by, CRITERIA)}"
        )
    return by


def score(row: Mapping[str, Any], by: str) -> float:
    """What is better when higher; minus infinity for a run that has no such figure."""
    value = row.get(by)
    return -math.inf if value is None else CRITERIA[by](float(value))


def spearman(first: Values, second: Values) -> float:
    """Spearman's rank correlation, of equal values the mean rank; NaN where all of one are equal."""
    return float(_spearman(_signs(first), _signs(second), np.ones((1, len(first))))[0])


def kendall(first: Values, second: Values) -> float:
    """Kendall's tau-b; NaN where all of one are equal."""
    return float(_kendall(_signs(first), _signs(second), np.ones((1, len(first))))[0])


def agreement(criterion: Values, truth: Values, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """How well a criterion that sees no labels ranks runs of which the labelled score is known.

    Args:
        criterion: better when higher, one a run; minus infinity where it is not known.
        truth: the labelled score, better when higher.
        level: of the intervals, which come from drawing runs with replacement (percentile bootstrap).
        seed: of the draws.

    Returns:
        ``spearman`` and ``kendall`` (tau-b) as [value, low, high]; ``chosen``: index of the run that the
        criterion takes; ``lost``: [value, low, high] of the best score less that of the run chosen;
        ``lost_by_chance``: the same for a run taken blindly, on average.
    """
    counts = np.random.default_rng(seed).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), DRAWS)
    weights = np.concatenate([np.ones((1, len(truth))), counts])
    signs = _signs(criterion), _signs(truth)
    present = weights > 0
    chosen = np.where(present, criterion, -np.inf).argmax(1)
    # where a draw has only runs without the figure, argmax would take a run that was not drawn
    chosen = np.where(present[np.arange(len(weights)), chosen], chosen, present.argmax(1))
    lost = np.where(present, truth, -np.inf).max(1) - truth[chosen]
    return {
        "spearman": list(_interval(_spearman(*signs, weights), level)),
        "kendall": list(_interval(_kendall(*signs, weights), level)),
        "chosen": int(chosen[0]),
        "lost": list(_interval(lost, level)),
        "lost_by_chance": float(truth.max() - truth.mean()),
    }


def standardised_sum(*columns: Sequence[float]) -> list[float]:
    """Sum of columns, each less its mean and over its deviation: how CLID joins its two parts over runs."""
    total = np.zeros(len(columns[0]))
    for column in columns:
        values = np.asarray(column, dtype=float)
        spread = values.std()
        total += (values - values.mean()) / spread if spread > 0 else 0.0
    return total.tolist()


def plateau_edge(settings: Sequence[float], best: int, tied: Sequence[bool]) -> int:
    """Which of several settings of one number to take when some are as good as the best.

    RankMe saturates, and its paper takes the edge of the plateau (figure 4): the least setting of those tied
    where the plateau goes on to the largest one, the largest where it goes on to the least; `best` where it
    reaches neither end or both, or where settings that are not tied lie between.
    """
    order = sorted(range(len(settings)), key=lambda i: settings[i])
    on = [bool(tied[i]) or i == best for i in order]
    first, last = on.index(True), len(on) - 1 - on[::-1].index(True)
    if not all(on[first : last + 1]):
        return best
    reaches = first == 0, last == len(on) - 1
    return {(False, True): order[first], (True, False): order[last]}.get(reaches, best)


def _signs(values: Values) -> np.ndarray:
    """(runs, runs): sign of value i less value j, which is all that ranks depend on."""
    values = np.asarray(values, dtype=float)
    return (values[:, None] > values).astype(float) - (values[:, None] < values)


def _spearman(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    a, b = weights @ first.T, weights @ second.T  # ranks less their mean, twice
    lengths = np.sqrt((weights * a**2).sum(1) * (weights * b**2).sum(1))
    return _ratio((weights * a * b).sum(1), lengths)


def _kendall(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    def pairs(signs: np.ndarray) -> np.ndarray:
        return ((weights @ signs) * weights).sum(1)

    return _ratio(pairs(first * second), np.sqrt(pairs(first**2) * pairs(second**2)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


def _interval(draws: np.ndarray, level: float) -> Interval:
    """The first one, and percentiles of the others; draws in which it is not defined say nothing."""
    known = draws[1:][~np.isnan(draws[1:])]
    if not len(known):
        return Interval(float(draws[0]), math.nan, math.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(draws[0]), float(low), float(high))
