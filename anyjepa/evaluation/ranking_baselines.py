"""What a field tries first on a log: popularity, item-kNN and ALS, tuned on a part of the log."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyjepa.core.errors import UserError, require
from anyjepa.domains.interaction_samples import InteractionSamples, Log
from anyjepa.evaluation.ranking_of_items import ranks, recall

__all__ = ["ALS_CHOICES", "NEIGHBOUR_CHOICES", "Ranking", "kept_apart", "ranking_baselines"]

Scores = Callable[[np.ndarray], np.ndarray]
NEIGHBOUR_CHOICES = ({"neighbours": 20}, {"neighbours": 100}, {"neighbours": 500})
# Which of a wider grid (8 to 128 factors, strengths of 0.01 to 100, weights of 1 to 40) was best, or within a
# hundredth of it, on MovieLens 100K and on the simulated shop; and the library's own.
ALS_CHOICES = (
    {"factors": 64, "regularisation": 0.01, "confidence": 1.0},
    {"factors": 16, "regularisation": 1.0, "confidence": 1.0},
    {"factors": 64, "regularisation": 10.0, "confidence": 1.0},
    {"factors": 8, "regularisation": 10.0, "confidence": 10.0},
    {"factors": 32, "regularisation": 10.0, "confidence": 10.0},
    {"factors": 16, "regularisation": 100.0, "confidence": 40.0},
    {"factors": 64, "regularisation": 100.0, "confidence": 40.0},
)
ROUNDS = 15  # of ALS
MOST_TUNED = 500_000  # pairs of a log up to which settings are chosen: a fit takes seconds
EXTRA = "interactions"


@dataclass(frozen=True)
class Ranking:
    """A baseline: scores of queries (n,) with all items, and the settings it was fitted with."""

    scores: Scores
    settings: Mapping[str, int | float]


def ranking_baselines(
    samples: InteractionSamples, most: int, seed: int = 0
) -> tuple[dict[str, Ranking], list[str]]:
    """Baselines fitted to the log, and in words what was left out.

    Settings of item-kNN and of ALS for implicit feedback (Hu, Koren, Volinsky 2008) are those of the best
    recall on one pair of each query that is kept apart, never on the test's; both then learn from the whole
    log. Above 500,000 pairs the first of each are taken.

    Args:
        samples: with a log.
        most: length of the lists that recall is of.
        seed: of ALS and of the pairs that are kept apart.
    """
    counts = samples.counts.astype(np.float64)
    found = {"popularity": Ranking(lambda queries: np.tile(counts, (len(queries), 1)), {})}
    shape = (len(samples.query_ids), len(samples))
    try:
        for name, fit, choices in (
            ("item-kNN", _neighbours, NEIGHBOUR_CHOICES),
            ("ALS", _factors, ALS_CHOICES),
        ):
            settings: Mapping[str, int | float] = choices[0]
            if len(samples.log) <= MOST_TUNED:
                part, rest = kept_apart(samples.log, seed)
                reached = [
                    recall(ranks(fit(rest, shape, seed, **one), part, rest, shape[1]), most).mean()
                    for one in choices
                ] if len(part) else [0.0]  # fmt: skip
                settings = choices[int(np.argmax(reached))]
            found[name] = Ranking(fit(samples.log, shape, seed, **settings), settings)
    except UserError as problem:
        return found, [f"item-kNN and ALS were left out: {problem}"]
    return found, []


def kept_apart(log: Log, seed: int) -> tuple[Log, Log]:
    """One pair of each query that has two or more, drawn with the seed, and the others."""
    order = np.lexsort((np.random.default_rng(seed).random(len(log)), log.queries))
    queries = log.queries[order]
    first = np.diff(queries, prepend=-1) != 0
    last = np.diff(queries, append=-1) != 0
    chosen = np.zeros(len(log), dtype=bool)
    chosen[order[last & ~first]] = True
    return log.take(chosen), log.take(~chosen)


def _table(log: Log, shape: tuple[int, int]) -> Any:
    sparse = require("scipy.sparse", EXTRA)
    table = sparse.csr_matrix((np.ones(len(log), np.float32), (log.queries, log.items)), shape=shape)
    table.data[:] = 1  # taken twice is taken
    return table


def _neighbours(log: Log, shape: tuple[int, int], seed: int, neighbours: int) -> Scores:
    nearest = require("implicit.nearest_neighbours", EXTRA)
    table = _table(log, shape)
    model = nearest.CosineRecommender(K=neighbours, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a matrix of its own
        model.fit(table, show_progress=False)
    alike = model.similarity.tocsr()
    return lambda asked: np.asarray((table[asked] @ alike.T).todense())


def _factors(
    log: Log, shape: tuple[int, int], seed: int, factors: int, regularisation: float, confidence: float
) -> Scores:
    als = require("implicit.als", EXTRA)
    model = als.AlternatingLeastSquares(
        factors=factors, regularization=regularisation, alpha=confidence, iterations=ROUNDS, num_threads=1,
        random_state=seed, use_gpu=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads of other libraries
        model.fit(_table(log, shape), show_progress=False)
    people, things = np.asarray(model.user_factors), np.asarray(model.item_factors)
    return lambda asked: people[asked] @ things.T
