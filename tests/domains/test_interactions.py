"""Logs and catalogues: read in every layout, split in time, encoded; information of fields."""

import math

import numpy as np
import pyarrow as arrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score

from anyjepa.core.errors import UserError
from anyjepa.domains import domains
from anyjepa.domains.interaction_fields import encode, fields_of, stated_kinds
from anyjepa.domains.interaction_relations import (
    adjusted_information,
    entropy,
    mutual_information,
    relations,
)
from anyjepa.domains.interaction_samples import Log, held_out
from anyjepa.domains.sources import NoSplit

DOMAIN = domains()["interactions"]
LOG = "user_id,movieId,rating,timestamp\n1,10,5,3\n1,11,4,1\n1,12,1,2\n2,10,3,5\n2,12,5,4\n3,11,2,9\n"
ITEMS = (
    "movieId,title,genres,year\n10,Toy Story,Comedy|Children,1995\n11,Heat,Action,1995\n"
    "12,Casino,,1990\n13,Sabrina,Comedy,\n"
)


@pytest.fixture
def films(tmp_path):
    (tmp_path / "ratings.csv").write_text(LOG)
    (tmp_path / "movies.csv").write_text(ITEMS)
    return tmp_path


def test_a_folder_of_tables(films):
    samples = DOMAIN.open(str(films))
    assert [samples.identity(i) for i in range(4)] == ["10", "11", "12", "13"]
    assert samples.title(0) == "Toy Story"
    # the last of each query by time; a query with one pair keeps it
    pairs = {(int(q), int(i)) for q, i in zip(samples.held_out.queries, samples.held_out.items, strict=True)}
    assert pairs == {(0, 0), (1, 0)}
    assert samples.counts.tolist() == [0, 2, 2, 0]
    assert samples.log_probability.tolist() == pytest.approx([math.log(1e-8), math.log(0.5)] * 0
        + [math.log(1e-8), math.log(0.5), math.log(0.5), math.log(1e-8)])  # fmt: skip
    kinds = {field.name: field.kind for field in samples.item_fields}
    assert kinds == {"movieId": "category", "title": "category", "genres": "list", "year": "category"}


def test_stated_kinds_and_least_values(films):
    reading = {"columns": "year=number,title=left-out", "least_value": 4.0}
    samples = DOMAIN.open(str(films), reading=reading)
    kinds = {field.name: field.kind for field in samples.item_fields}
    assert kinds == {"movieId": "category", "genres": "list", "year": "number"}
    assert len(samples.log) + len(samples.held_out) == 3
    assert np.isnan(samples.item_table.numbers[3, 0])
    with pytest.raises(UserError, match=r"states no kind.*Did you mean 'number'"):
        stated_kinds("year=numbr")


def test_movielens_without_headings(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::10::5::3\n1::11::4::1\n2::10::3::5\n2::11::3::6\n")
    (tmp_path / "movies.dat").write_bytes(
        "10::Amélie (2001)::Comedy|Romance\n11::Heat (1995)::Action\n".encode("latin-1")
    )
    samples = DOMAIN.open(str(tmp_path))
    assert samples.title(0) == "Amélie (2001)"
    assert len(samples) == 2
    assert [f.kind for f in samples.item_fields if f.name == "genres"] == ["list"]


def test_one_file_tells_what_describes_items(tmp_path):
    table = arrow.table({
        "user": ["a", "a", "b", "b"], "product_id": ["x", "y", "x", "z"],
        "colour": ["red", "blue", "red", "blue"],
        "tags": [["p", "q"], ["p"], ["p", "q"], []], "session": ["1", "2", "3", "4"],
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "log.parquet")
    samples = DOMAIN.open(str(tmp_path / "log.parquet"))
    assert [field.name for field in samples.item_fields] == ["product_id", "colour", "tags"]
    assert samples.item_table.codes.shape == (3, 4)


def test_an_array_and_a_log_that_is_split(tmp_path):
    samples = DOMAIN.open(np.array([[0, 5], [0, 6], [1, 5], [1, 7]]))
    assert len(samples) == 3
    (tmp_path / "interactions_train.csv").write_text("user_id,item_id\na,x\na,y\nb,x\n")
    (tmp_path / "interactions_test.csv").write_text("user_id,item_id\nb,y\nc,x\n")
    samples = DOMAIN.open(str(tmp_path))
    assert len(samples.log) == 3
    assert len(samples.held_out) == 1, "nobody knows the query c"


def test_what_is_asked_and_not_there(films):
    with pytest.raises(UserError, match=r"no column 'usr_id'.*Did you mean 'user_id'"):
        DOMAIN.open(str(films), reading={"query_column": "usr_id"})
    with pytest.raises(NoSplit):
        DOMAIN.open(str(films), split="test")
    (films / "ratings.csv").unlink()
    with pytest.raises(UserError, match="holds no log"):
        DOMAIN.open(str(films))
    trained = DOMAIN.measure(DOMAIN.open("synthetic-shop"))
    with pytest.raises(UserError, match="among the fields"):
        DOMAIN.open("synthetic-shop", labels="brand", reading=trained)


def test_damaged_rows_are_named(films):
    (films / "ratings.csv").write_text(LOG + "4,10\n,11,3,3\n")
    problems = [str(problem) for problem in DOMAIN.open(str(films)).problems]
    assert problems == ["ratings.csv:line 8: 2 cells, not 4", "row 6: it names no query or no item"]


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"user_id\n", b"user_id,item_id\n", b"\n\n,,,\n"])
def test_damaged_logs_are_refused_in_a_sentence(tmp_path, content):
    for name in ("log.csv", "log.parquet", "ml.inter"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError):
            DOMAIN.open(str(path) if name != "ml.inter" else str(tmp_path / "ml.inter"))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=60), st.floats(0, 0.9))
def test_held_out_are_the_last_of_each_query(pairs, share):
    log = Log(*(np.array(part, dtype=np.int64) for part in zip(*pairs, strict=True)))
    times = np.arange(len(log))[::-1].astype(float)
    train, test = held_out(log, times, share)
    assert len(train) + len(test) == len(log)
    assert set(train.queries) == set(log.queries), "each query keeps one to learn from"
    for query in set(test.queries):
        count = (log.queries == query).sum()
        assert (test.queries == query).sum() == min(count - 1, max(1, np.rint(share * count)))
        newest = log.items[log.queries == query][: (test.queries == query).sum()]
        assert sorted(newest) == sorted(test.items[test.queries == query])


def test_cold_items_are_never_learned_from():
    samples = DOMAIN.open("synthetic-shop", reading={"cold": 0.1})
    assert not set(samples.log.items) & set(samples.held_out.items)
    assert len(set(samples.held_out.items)) == pytest.approx(0.1 * (samples.counts > 0).sum(), rel=0.2)


def test_other_data_is_read_with_the_fields_that_were_trained(films, tmp_path):
    samples = DOMAIN.open(str(films))
    facts = DOMAIN.measure(samples)
    (films / "movies.csv").write_text(ITEMS.replace("Action", "Western").replace("12,", "99,"))
    again = DOMAIN.open(str(films), reading=facts)
    assert again.item_table.codes.shape == (5, 5), "the log still knows of film 12"
    assert again.item_table.codes[0].tolist() == samples.item_table.codes[0].tolist()
    assert 0 in again.item_table.codes[1], "a genre that was never seen"


def test_digests_where_there_are_too_many_values(monkeypatch):
    monkeypatch.setattr("anyjepa.domains.interaction_fields.MOST_NAMED", 10)
    table = arrow.table({"item_id": [f"n{n}" for n in range(50)]})
    [field] = fields_of(table, "item_id", {})
    codes = encode(table, [field]).codes[:, 0]
    assert field.values == () and field.rows == 101
    assert codes.min() >= 1 and codes.max() <= 100
    assert len(set(codes.tolist())) > 30
    assert encode(table.take([3]), [field]).codes[0, 0] == codes[3]


def test_information_has_known_values():
    rng = np.random.default_rng(0)
    a = np.repeat(np.arange(20), 50)
    assert mutual_information(a, a) == pytest.approx(math.log(20))
    assert mutual_information(a, a // 2) == pytest.approx(math.log(10))
    assert mutual_information(a, np.tile(np.arange(50), 20)) == pytest.approx(0, abs=1e-12)
    b = rng.integers(0, 7, 1000)
    assert mutual_information(a, b) == pytest.approx(mutual_info_score(a, b))
    assert mutual_information(np.arange(1000), b) == pytest.approx(entropy(b)), "an id tells everything"


@given(st.integers(0, 50))
def test_information_corrected_for_chance(seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 12, 600)
    b = np.where(rng.random(600) < rng.random(), a, rng.integers(0, 30, 600))
    assert adjusted_information(a, b) == pytest.approx(adjusted_mutual_info_score(a, b), abs=0.03)


def test_ids_are_related_to_nothing():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 5, 2000)
    fields = np.stack([np.arange(2000), a, a // 2, rng.integers(0, 500, 2000)], axis=1)
    found = relations(fields)
    assert np.array_equal(found, found.T)
    assert (found.diagonal() == 0).all() and (found[0] == 0).all()
    assert found[1, 2] > 0.5
    assert abs(found[1, 3]) < 0.05, "of many values, and yet unrelated"


def test_information_is_counted_over_the_catalogue():
    """On the log, a popular item would count many times, and say something else."""
    samples = DOMAIN.open("synthetic-shop")
    by_items = mutual_information(*samples.item_table.codes[:, 1:3].T)
    by_log = mutual_information(*samples.item_table.codes[samples.log.items, 1:3].T)
    assert abs(by_items - by_log) > 0.02
    facts = DOMAIN.measure(samples)
    codes = samples.item_table.codes
    assert facts["relations"][1][2] == pytest.approx(adjusted_information(codes[:, 1], codes[:, 2]), abs=5e-3)


def test_drawings_escape_what_they_show(films):
    (films / "movies.csv").write_text(ITEMS.replace("Comedy|Children", "<b>bold</b>|x"))
    samples = DOMAIN.open(str(films))
    facts = DOMAIN.measure(samples)
    batch = {"codes": torch.from_numpy(samples.item_table.codes.astype(np.int64)),
             "numbers": torch.from_numpy(samples.item_table.numbers)}  # fmt: skip
    assert "<b>" not in DOMAIN.figure(batch, 0, facts)
    assert DOMAIN.picture(batch, 0, facts).shape == (96, 96, 3)
    hidden = torch.ones(4, len(facts["item_fields"]), dtype=torch.bool)
    assert "hidden" in DOMAIN.figure({**batch, "hidden": hidden}, 0, facts)


def test_movielens_100k(data_folder):
    samples = DOMAIN.open(str(data_folder("recsys_ml100k")))
    assert (len(samples), len(samples.query_ids)) == (1682, 943)
    assert len(samples.log) + len(samples.held_out) == 100_000
    assert len(samples.held_out) == 943
    assert not samples.problems
