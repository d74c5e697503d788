"""Where items stand in rankings of a whole catalogue, and what that makes of recall and NDCG.

Shapes: P pairs that were held out, Q queries, I items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from anyjepa.domains.interaction_samples import Log

__all__ = ["DECILES", "Standing", "by_popularity", "deciles", "ndcg", "ranks", "recall"]

DECILES = 10
TOGETHER = 2**24  # scores that are held at once


@dataclass(frozen=True)
class Standing:
    """Ranks of held-out pairs, and the first items of each query's list.

    Args:
        queries: (P,) of each pair.
        items: (P,) of each pair.
        ranks: (P,) from 1; of equal scores the worst.
        asked: (Q,) queries that have a list.
        lists: (Q, k) their first items, best first.
    """

    queries: Int[np.ndarray, " pairs"]
    items: Int[np.ndarray, " pairs"]
    ranks: Int[np.ndarray, " pairs"]
    asked: Int[np.ndarray, " queries"]
    lists: Int[np.ndarray, "queries best"]


def ranks(
    scores: Callable[[np.ndarray], Float[np.ndarray, "queries items"]],
    test: Log,
    known: Log,
    items: int,
    best: int = 10,
) -> Standing:
    """Rank each held-out item among all items that its query is not known to have taken.

    Other held-out items of the query stay in its list. An item scores with the worst of those that score as
    much, so that a score that is the same for all earns nothing.

    Args:
        scores: of queries (n,) with all items, higher for better; NaN counts as worst.
        test: pairs that are ranked.
        known: pairs to learn from, which are taken out of the lists.
        items: of the catalogue.
        best: length of the lists that are kept.
    """
    order = np.argsort(test.queries, kind="stable")
    queries, wanted = test.queries[order], test.items[order]
    asked, starts = np.unique(queries, return_index=True)
    ends = np.append(starts[1:], len(queries))
    by_query = np.argsort(known.queries, kind="stable")
    had, taken = known.queries[by_query], known.items[by_query]
    found = np.zeros(len(queries), dtype=np.int64)
    size, lists = max(1, TOGETHER // max(1, items)), []
    for start in range(0, len(asked), size):
        block = asked[start : start + size]
        table = np.array(scores(block), dtype=np.float64)
        table[np.isnan(table)] = -np.inf
        low, high = np.searchsorted(had, block, "left"), np.searchsorted(had, block, "right")
        rows = np.repeat(np.arange(len(block)), high - low)
        places = np.arange(high.sum() - low.sum()) - np.repeat(
            np.cumsum(high - low) - (high - low), high - low
        )
        gone = taken[places + np.repeat(low, high - low)]
        own = slice(starts[start], ends[start + len(block) - 1])
        row = np.searchsorted(block, queries[own])
        mine = table[row, wanted[own]]
        hidden = np.zeros(table.shape, dtype=bool)
        hidden[rows, gone] = True
        hidden[row, wanted[own]] = False  # taken before and once more: still to be found
        for pair, (query, value) in enumerate(zip(row.tolist(), mine.tolist(), strict=True)):
            found[own.start + pair] = ((table[query] >= value) & ~hidden[query]).sum()
        table[hidden] = -np.inf
        count = min(best, items)
        first = np.argpartition(-table, count - 1, axis=1)[:, :count]
        scored = np.take_along_axis(table, first, axis=1)
        lists.append(np.take_along_axis(first, np.argsort(-scored, axis=1, kind="stable"), axis=1))
    return Standing(queries, wanted, found, asked, np.concatenate(lists))


def recall(standing: Standing, most: int) -> Float[np.ndarray, " queries"]:
    """Of each query's held-out items the share among the first `most` of its list."""
    return _mean_of_queries(standing, (standing.ranks <= most).astype(np.float64))


def ndcg(standing: Standing, most: int) -> Float[np.ndarray, " queries"]:
    """Of each query: 1 / log2(1 + rank) of its items among the first `most`, as a share of the best sum."""
    place = np.searchsorted(standing.asked, standing.queries)
    gain = np.where(standing.ranks <= most, 1 / np.log2(1.0 + standing.ranks), 0.0)
    counts = np.bincount(place)
    ideal = np.cumsum(1 / np.log2(2.0 + np.arange(most)))
    return np.bincount(place, gain) / ideal[np.minimum(counts, most) - 1]


def _mean_of_queries(standing: Standing, values: np.ndarray) -> np.ndarray:
    place = np.searchsorted(standing.asked, standing.queries)
    return np.bincount(place, values) / np.bincount(place)


def deciles(counts: Int[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    """0 for the tenth of the items that is taken most often, to 9 for the tenth that is taken least."""
    order = np.argsort(-counts, kind="stable")
    found = np.empty(len(counts), dtype=np.int64)
    found[order] = np.arange(len(counts)) * DECILES // len(counts)
    return found


def by_popularity(
    standing: Standing, counts: Int[np.ndarray, " items"], most: int
) -> list[dict[str, float | int | None]]:
    """For each tenth of the items: held-out pairs, share of them among the first `most`, and their mean gain.

    ``ndcg`` is that of a single pair, 1 / log2(1 + rank); both are None where no pair was held out.
    """
    tenth = deciles(counts)[standing.items]
    hit = standing.ranks <= most
    gain = np.where(hit, 1 / np.log2(1.0 + standing.ranks), 0.0)
    rows: list[dict[str, float | int | None]] = []
    for place in range(DECILES):
        own = tenth == place
        share = (float(hit[own].mean()), float(gain[own].mean())) if own.any() else (None, None)
        rows.append({"pairs": int(own.sum()), "recall": share[0], "ndcg": share[1]})
    return rows
