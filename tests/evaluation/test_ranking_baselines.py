"""Baselines of recommendation: tuned on pairs of the log that are kept apart, never on the test's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.domains import domains
from anyjepa.domains.interaction_samples import Log
from anyjepa.evaluation import ranking_baselines as module
from anyjepa.evaluation.ranking_baselines import kept_apart, ranking_baselines
from anyjepa.evaluation.ranking_of_items import ranks, recall


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=30), st.integers(0, 3))
def test_one_pair_of_each_query_is_kept_apart(pairs, seed):
    log = Log(*np.array(pairs, dtype=np.int64).reshape(-1, 2).T)
    part, rest = kept_apart(log, seed)
    several = [query for query in range(6) if (log.queries == query).sum() > 1]
    assert sorted(part.queries.tolist()) == several
    both = [*zip(part.queries, part.items, strict=True), *zip(rest.queries, rest.items, strict=True)]
    assert sorted(both) == sorted(pairs)


def test_settings_are_those_of_the_best_recall_on_what_is_kept_apart(monkeypatch):
    pytest.importorskip("implicit")
    samples = domains()["interactions"].open("synthetic-shop", reading={"held_out": 0.2})
    monkeypatch.setattr(module, "ALS_CHOICES", module.ALS_CHOICES[::5])

    def reached(found):
        standing = ranks(found["ALS"].scores, samples.held_out, samples.log, len(samples), 50)
        return recall(standing, 50).mean()

    tuned, notes = ranking_baselines(samples, 50)
    assert not notes and list(tuned) == ["popularity", "item-kNN", "ALS"]
    assert tuned["ALS"].settings == module.ALS_CHOICES[1]
    monkeypatch.setattr(module, "MOST_TUNED", 10)
    first, _ = ranking_baselines(samples, 50)
    assert first["ALS"].settings == module.ALS_CHOICES[0]
    assert reached(tuned) > reached(first) + 0.05
