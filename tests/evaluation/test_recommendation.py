"""Rankings of a catalogue: ranks, recall and NDCG by hand, baselines, search, and the report's lists."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.domains.interaction_samples import Log
from anyjepa.evaluation.catalogue_search import ApproximateCatalogue, exact_best
from anyjepa.evaluation.ranking_of_items import by_popularity, deciles, ndcg, ranks, recall
from anyjepa.evaluation.recommendation import recommendation_probe
from anyjepa.reports import summary


def log_of(*pairs):
    return Log(*(np.array(part, dtype=np.int64) for part in zip(*pairs, strict=True)))


def test_ranks_by_hand():
    table = np.array([[0.9, 0.8, 0.7, 0.6, 0.6], [0.1, 0.2, 0.3, 0.4, 0.5]])
    known, test = log_of((0, 0), (1, 4), (1, 3)), log_of((0, 3), (1, 2), (0, 1))
    standing = ranks(lambda queries: table[queries], test, known, 5, best=2)
    assert standing.queries.tolist() == [0, 0, 1]
    assert standing.ranks.tolist() == [4, 1, 1], "equal scores count against it; what is known is not listed"
    assert standing.lists.tolist() == [[1, 2], [2, 1]]
    assert recall(standing, 2).tolist() == [0.5, 1.0]
    ideal = 1 + 1 / math.log2(3)
    assert ndcg(standing, 4).tolist() == pytest.approx([(1 + 1 / math.log2(5)) / ideal, 1.0])
    assert ndcg(standing, 2).tolist() == pytest.approx([1 / ideal, 1.0])


def test_a_score_that_is_alike_for_all_earns_nothing():
    test = log_of((0, 1), (1, 2))
    standing = ranks(lambda queries: np.full((len(queries), 30), np.nan), test, log_of((0, 0)), 30)
    assert standing.ranks.tolist() == [29, 30]
    assert recall(standing, 10).sum() == 0


@given(st.integers(0, 10_000))
def test_ranks_as_sorting_gives_them(seed):
    random = np.random.default_rng(seed)
    table = random.permutation(60).reshape(4, 15).astype(float)
    pairs = random.permutation([(q, i) for q in range(4) for i in range(15)])
    known, test = log_of(*pairs[:20].tolist()), log_of(*pairs[20:30].tolist())
    standing = ranks(lambda queries: table[queries], test, known, 15)
    for query, item, rank in zip(standing.queries, standing.items, standing.ranks, strict=True):
        left = [i for i in np.argsort(-table[query]) if i not in known.items[known.queries == query]]
        assert left.index(item) + 1 == rank


def test_tenths_hold_as_many_items_and_all_pairs():
    counts = np.random.default_rng(0).zipf(1.5, 95)
    tenth = deciles(counts)
    assert np.bincount(tenth).min() >= 9
    assert counts[tenth == 0].min() >= counts[tenth == 9].max()
    test = log_of(*[(q, q) for q in range(95)])
    standing = ranks(lambda q: np.eye(95)[q], test, log_of((0, 1)), 95)
    rows = by_popularity(standing, counts, 5)
    assert sum(row["pairs"] for row in rows) == 95
    assert all(row["recall"] == 1 and row["ndcg"] == 1 for row in rows)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 9))
def test_search_in_blocks_is_exact(items, most, block):
    torch.manual_seed(items)
    x, q = torch.randn(items, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    values, places = exact_best(q, x.split(block), most)
    wanted = (q @ x.T).topk(min(most, items), dim=1)
    assert torch.allclose(values, wanted.values)
    assert torch.equal(places, wanted.indices)


def test_approximate_search_finds_nearly_the_same():
    pytest.importorskip("faiss")
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(4000, 16), dim=1)
    catalogue = ApproximateCatalogue(x[:2000], len(x), probes=1000)
    catalogue.add(x)
    assert len(catalogue) == 4000
    _, found = catalogue.best(x[:50], 10)
    _, wanted = exact_best(x[:50], [x], 10)
    share = np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]) / 10
    assert share > 0.9, "all lists are looked through: only bytes for numbers are lost"
    assert found[:, 0].tolist() == list(range(50))
    with pytest.raises(UserError):
        ApproximateCatalogue(x[:0], 10)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "run"
    settings = anyjepa.Settings(quiet=True, workers=0, steps=60)
    anyjepa.train("item-ssl", out=folder, settings=settings, held_out=0.2)
    return folder


def test_a_run_is_scored_beside_what_a_field_tries_first(run):
    found = anyjepa.evaluate(run, probe="recommendation")
    assert found["metric"] == "recall_at_50"
    assert found["low"] < found["value"] < found["high"]
    assert found["value"] > found["untrained"] + 0.1
    assert {"popularity"} <= set(found["baselines"])
    assert found["metrics"]["recall_at_10"]["trained"] <= found["metrics"]["recall_at_50"]["trained"]
    tenths = found["deciles"]["popularity"]
    assert len(tenths) == 10
    assert sum(tenth["recall"] or 0 for tenth in tenths[1:]) == 0, "popularity knows the head alone"
    assert sum(tenth["pairs"] for tenth in tenths) == found["test"]
    json.dumps(found)


def test_the_report_shows_methods_recall_by_popularity_and_lists(run):
    result = recommendation_probe(anyjepa.load(run), baselines=False)
    result["baseline_metrics"] = {"popularity": dict.fromkeys(result["metrics"], 0.999)}
    result["deciles"]["popularity"] = [{"pairs": 1, "recall": None, "ndcg": None}] * 10
    result["lists"][0]["query"] = "<script>"
    [score] = summary.scores([result])
    assert "<script>" not in score.picture and "&lt;script&gt;" in score.picture
    assert score.picture.count("<b>0.999</b>") == 6, "the best of each column"
    assert f"<td>{result['value']:.3f}</td>" in score.picture
    assert all(f"<td>{tenth['pairs']:,}</td>" in score.picture for tenth in result["deciles"]["trained"])
    assert score.picture.count("<li>") == sum(len(one["recommended"]) for one in result["lists"])


def test_another_recipe_has_no_queries(tmp_path):
    settings = anyjepa.Settings(quiet=True, workers=0, steps=1)
    anyjepa.train("t-jepa", out=tmp_path / "run", settings=settings, batch_size=8)
    with pytest.raises(UserError, match="item-ssl"):
        recommendation_probe(anyjepa.load(tmp_path / "run"))
    with pytest.raises(UserError, match="no head"):
        anyjepa.evaluate(tmp_path / "run", probe="recommendation")


@pytest.mark.slow
def test_popularity_on_movielens(data_folder, tmp_path):
    """The figure of the data's README is 0.086."""
    source = str(data_folder("recsys_ml100k"))
    settings = anyjepa.Settings(quiet=True, workers=0, steps=1)
    anyjepa.train("item-ssl", source, tmp_path / "run", settings=settings)
    found = recommendation_probe(anyjepa.load(tmp_path / "run"), most=10)
    assert 0.06 < found["baselines"]["popularity"] < 0.12
