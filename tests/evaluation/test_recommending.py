"""Lists of items for queries: the best that a query has not taken, exact and approximate, as tables."""

import json

import numpy as np
import pytest
from pyarrow import csv, parquet

import anyjepa
from anyjepa.cli import main
from anyjepa.core.errors import UserError
from anyjepa.evaluation.recommendation import catalogue_of, queries_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "run"
    anyjepa.train("item-ssl", out=folder, settings=anyjepa.Settings(quiet=True, workers=0, steps=2))
    return anyjepa.load(folder)


def test_lists_hold_the_best_items_that_were_not_taken(run, tmp_path):
    out = tmp_path / "new" / "lists.parquet"
    found = anyjepa.recommend(run, most=7, out=out)
    table = parquet.read_table(out).to_pydict()
    samples = run.open()
    assert found["queries"] == len(samples.query_ids) == len(set(table["query"]))
    assert table["rank"] == [*range(1, 8)] * found["queries"]
    query = 3
    scores = (queries_of(run, samples, np.array([query])) @ catalogue_of(run, samples).T)[0].numpy()
    for log in (samples.log, samples.held_out):
        scores[log.items[log.queries == query]] = -np.inf
    wanted = [samples.identity(int(place)) for place in np.argsort(-scores)[:7]]
    assert table["item"][7 * query : 7 * query + 7] == wanted
    assert table["score"][7 * query] == pytest.approx(scores.max(), abs=1e-6)


def test_what_was_taken_is_recommended_where_that_is_said(run):
    samples = run.open()
    queries = [samples.query_ids[place].as_py() for place in (5, 2)]
    found = anyjepa.recommend(run, queries=queries, most=len(samples) + 9, taken=True)
    assert [one["query"] for one in found["lists"]] == queries
    assert [len(one["items"]) for one in found["lists"]] == [len(samples)] * 2, "no more than there are"
    fewer = anyjepa.recommend(run, queries=queries, most=len(samples))
    assert [len(one["items"]) for one in fewer["lists"]] == [len(samples) - 24] * 2, "24 are taken by each"


def test_approximate_lists_are_nearly_the_same(run):
    pytest.importorskip("faiss")
    exact, near = (anyjepa.recommend(run, approximate=word)["lists"] for word in (False, True))
    same = [
        len({item["item"] for item in a["items"]} & {item["item"] for item in b["items"]})
        for a, b in zip(exact, near, strict=True)
    ]
    assert np.mean(same) > 7


def test_the_command_writes_and_says_what_is_wrong(run, tmp_path, capsys):
    folder, out = str(run.path), tmp_path / "lists.csv"
    assert main(["recommend", folder, "--most", "3", "--out", str(out)]) == 0
    assert "item-" in capsys.readouterr().out
    assert csv.read_csv(out).num_rows == 3 * 700
    assert main(["recommend", folder, "--queries", "c001", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lists"][0]["query"] == "c001"
    for words in (["--queries", "c01"], ["--most", "0"], ["--out", "lists.xls"]):
        assert main(["recommend", folder, *words]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_another_recipe_recommends_nothing(tmp_path):
    settings = anyjepa.Settings(quiet=True, workers=0, steps=1)
    anyjepa.train("t-jepa", out=tmp_path / "run", settings=settings, batch_size=8)
    with pytest.raises(UserError, match="item-ssl"):
        anyjepa.recommend(tmp_path / "run")
