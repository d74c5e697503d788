"""How much one field of a catalogue tells of another: mutual information, corrected for chance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from anyjepa.domains.sources import choose

__all__ = ["adjusted_information", "entropy", "mutual_information", "relations"]

SHUFFLES = 4
MOST_ITEMS = 20_000  # that fields are compared over
DENSE = 2_000_000  # cells of a table of counts that is laid out whole


def entropy(values: Int[np.ndarray, " n"]) -> float:
    """Of the values' frequencies, in nats."""
    return _of_counts(np.unique(values, return_counts=True)[1])


def mutual_information(first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"]) -> float:
    """Sum of P(a, b) ln(P(a, b) / (P(a) P(b))) over pairs of values, in nats; every item counts alike."""
    a, b = np.unique(first, return_inverse=True)[1], np.unique(second, return_inverse=True)[1]
    return _information(a, b, entropy(a) + entropy(b))


def adjusted_information(first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"], seed: int = 0) -> float:
    """Mutual information less what chance gives, as a share of what it could be: 0 unrelated, 1 the same.

    Chance is the mean over shuffles of one field. Information alone favours fields of many values: a unique
    id tells everything of every field, and so nothing of it.
    """
    a, b = np.unique(first, return_inverse=True)[1], np.unique(second, return_inverse=True)[1]
    one, other = entropy(a), entropy(b)
    random = np.random.default_rng(seed)
    expected = np.mean([_information(a, random.permutation(b), one + other) for _ in range(SHUFFLES)])
    possible = (one + other) / 2 - expected
    if possible < 1e-9:
        return 0.0
    return float((_information(a, b, one + other) - expected) / possible)


def relations(fields: Int[np.ndarray, "items fields"], seed: int = 0) -> Float[np.ndarray, "fields fields"]:
    """`adjusted_information` of all pairs of fields over the item table, symmetric, with 0 on the diagonal.

    A field whose values are all different is an id, and related to nothing. Of more than 20,000 items, so
    many are drawn.
    """
    unique = np.array([len(np.unique(column)) == len(column) for column in fields.T], dtype=bool)
    fields = fields[choose(len(fields), MOST_ITEMS, seed)]
    count = fields.shape[1]
    found = np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            if not (unique[i] or unique[j]):
                found[i, j] = found[j, i] = adjusted_information(fields[:, i], fields[:, j], seed)
    return found


def _of_counts(counts: np.ndarray) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _information(a: np.ndarray, b: np.ndarray, entropies: float) -> float:
    width = int(b.max()) + 1
    pairs = a.astype(np.int64) * width + b
    if (int(a.max()) + 1) * width <= DENSE:
        counts = np.bincount(pairs)
        counts = counts[counts > 0]
    else:
        counts = np.unique(pairs, return_counts=True)[1]
    return max(0.0, entropies - _of_counts(counts))
