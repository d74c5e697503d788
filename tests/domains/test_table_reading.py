"""Tables from files, frames and arrays: all give the same rows, and what is wrong is named."""

import io

import numpy as np
import pandas as pd
import polars
import pyarrow as arrow
import pyarrow.feather
import pytest
from scipy.io import arff

from anyjepa.core.errors import UserError
from anyjepa.domains import domains
from anyjepa.domains.sources import NoSplit
from anyjepa.domains.table_columns import Column, encode, inferred, typed
from anyjepa.domains.table_samples import stated_types

TABLE = domains()["table"]
CSV = """age,city,joined,vip,size,zip,weight
31,Oslo,2021-03-04,yes,1,01234,70.5
45,Riga,2020-12-31,no,3,98765,?
28,Oslo,,yes,2,01234,64.25
60,NA,2022-06-01,no,2,55555,81.0
"""


def rows_of(source, **options):
    return TABLE.open(source, **options)


def kinds(samples):
    return {column.name: column.kind for column in samples.layout.columns}


@pytest.fixture
def frame():
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height": draw.normal(170, 10, 60),
            "visits": draw.integers(0, 40, 60),
            "level": pd.Categorical(
                draw.choice(["low", "mid", "high"], 60), ["low", "mid", "high"], ordered=True
            ),
            "colour": pd.Categorical(draw.choice(["red", "blue"], 60)),
            "maybe": pd.array(draw.choice([1, 2, None], 60), dtype="Int64"),
            "flag": pd.array(draw.choice([True, False, None], 60), dtype="boolean"),
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(draw.integers(0, 900, 60), "D"),
            "class": draw.choice(["a", "b"], 60),
        }
    )


def test_types_are_inferred_from_text(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text(CSV)
    samples = rows_of(str(path))
    assert kinds(samples) == {
        "age": "numeric", "city": "categorical", "joined": "datetime", "vip": "boolean",
        "size": "numeric", "zip": "categorical", "weight": "numeric",
    }  # fmt: skip
    columns = {column.name: column for column in samples.layout.columns}
    assert columns["zip"].categories == ("01234", "55555", "98765")
    by_name = dict(zip(columns, samples.array.T, strict=True))
    assert np.isnan(by_name["weight"]).tolist() == [False, True, False, False]
    assert np.isnan(by_name["city"]).tolist() == [False, False, False, True]
    assert by_name["vip"].tolist() == [2, 1, 2, 1]
    days = by_name["joined"].astype(np.float64) + columns["joined"].offset
    assert days[0] == (np.datetime64("2021-03-04") - np.datetime64("2000-01-01")).astype(int)
    assert columns["joined"].text(float(by_name["joined"][0])) == "2021-03-04"
    assert columns["weight"].text(float(by_name["weight"][0])) == "70.5"


def test_every_kind_of_file_gives_the_same_rows(tmp_path, frame):
    plain = frame.assign(level=frame["level"].astype(str))
    plain.to_csv(tmp_path / "t.csv", index=False)
    plain.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    plain.to_csv(tmp_path / "semicolon.csv", index=False, sep=";")
    plain.to_parquet(tmp_path / "t.parquet")
    arrow.feather.write_feather(arrow.Table.from_pandas(plain), tmp_path / "t.feather")
    reference = rows_of(plain)
    assert reference.labels.tolist() == (plain["class"] == "b").astype(int).tolist()
    for source in [
        *(str(tmp_path / name) for name in ("t.csv", "t.tsv", "semicolon.csv", "t.parquet", "t.feather")),
        polars.from_pandas(plain),
        arrow.Table.from_pandas(plain),
    ]:
        samples = rows_of(source)
        assert kinds(samples) == kinds(reference)
        np.testing.assert_allclose(samples.array, reference.array, rtol=1e-6)
        assert samples.labels.tolist() == reference.labels.tolist()
        assert samples.classes == ["a", "b"]


def test_an_ordered_categorical_keeps_its_order(frame):
    [level] = [column for column in rows_of(frame).layout.columns if column.name == "level"]
    assert level == Column("level", "ordinal", ("low", "mid", "high"))


def test_arff_agrees_with_scipy(tmp_path):
    text = """% a comment
@RELATION tiny
@ATTRIBUTE 'sepal length' NUMERIC
@ATTRIBUTE colour {red, darkblue}
@ATTRIBUTE weight REAL
@ATTRIBUTE class {yes,no}
@DATA
5.1,red,2,yes
?,darkblue,3.5,no
4.9,red,?,no
"""
    (tmp_path / "tiny.arff").write_text(text)
    theirs, _ = arff.loadarff(io.StringIO(text))
    samples = rows_of(str(tmp_path / "tiny.arff"))
    ours = samples.array.astype(np.float64) + [column.offset for column in samples.layout.columns]
    assert kinds(samples) == {"sepal length": "numeric", "colour": "categorical", "weight": "numeric"}
    np.testing.assert_allclose(ours[:, 0], theirs["sepal length"], rtol=1e-6)
    np.testing.assert_allclose(ours[:, 2], theirs["weight"], rtol=1e-6)
    assert [samples.layout.columns[1].text(float(code)) for code in ours[:, 1]] == ["red", "darkblue", "red"]
    assert [samples.classes[label] for label in samples.labels] == ["yes", "no", "no"]


def test_arff_may_quote_names_and_values(tmp_path):
    (tmp_path / "q.arff").write_text(
        "@relation q\n@attribute 'a b' numeric\n@attribute c {'dark blue', red}\n@data\n"
        "1.5,'dark blue'\n2.5,red\n4.0,'dark blue'\n"
    )
    samples = rows_of(str(tmp_path / "q.arff"))
    assert list(kinds(samples)) == ["a b", "c"]
    assert [samples.layout.columns[1].text(float(code)) for code in samples.array[:, 1]] == [
        "dark blue", "red", "dark blue",
    ]  # fmt: skip


def test_sparse_arff_has_zeros_where_nothing_is_written(tmp_path):
    (tmp_path / "s.arff").write_text(
        "@relation s\n@attribute a numeric\n@attribute b numeric\n@attribute c numeric\n@data\n"
        "{0 1.5, 2 4}\n{1 2.5}\n{0 3.25, 1 1.75, 2 7}\n"
    )
    samples = rows_of(str(tmp_path / "s.arff"))
    found = samples.array + [column.offset for column in samples.layout.columns]
    assert found.tolist() == [[1.5, 0, 4], [0, 2.5, 0], [3.25, 1.75, 7]]


def test_arrays_of_every_sort(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 4))
    np.save(tmp_path / "x.npy", values)
    np.savez(
        tmp_path / "xy.npz", x_train=values, y_train=np.arange(30) % 3, x_test=values[:5], y_test=np.zeros(5)
    )
    reference = rows_of(values)
    assert list(kinds(reference)) == ["column_0", "column_1", "column_2", "column_3"]
    assert np.array_equal(rows_of(str(tmp_path / "x.npy")).array, reference.array)
    part = rows_of(str(tmp_path / "xy.npz"))
    assert np.array_equal(part.array, reference.array)
    assert part.labels.tolist() == (np.arange(30) % 3).tolist()
    assert len(rows_of(str(tmp_path / "xy.npz"), split="test")) == 5
    fields = np.array([(1.5, "a"), (2.5, "b"), (4.0, "a")], dtype=[("n", float), ("w", "U1")])
    assert kinds(rows_of(fields)) == {"n": "numeric", "w": "categorical"}
    mixed = np.array([[1.5, "a"], [2.5, None], [3.0, "b"]], dtype=object)
    assert kinds(rows_of(mixed)) == {"column_0": "numeric", "column_1": "categorical"}


def test_ids_constants_and_texts_are_named_and_left_out():
    count = 300
    samples = rows_of(
        pd.DataFrame(
            {
                "customer_id": np.random.default_rng(0).permutation(count) * 7,
                "row": np.arange(count),
                "same": 3,
                "empty": [None] * count,
                "note": [f"text {i // 1.5}" for i in range(count)],
                "code": [f"c{i}" for i in range(count)],
                "value": np.random.default_rng(1).normal(size=count),
            }
        )
    )
    assert kinds(samples) == {"value": "numeric"}
    assert samples.layout.left_out["same"] == "is constant"
    assert samples.layout.left_out["empty"] == "is empty"
    assert "free text" in samples.layout.left_out["note"]
    for name in ("customer_id", "row", "code"):
        assert "as an id does" in samples.layout.left_out[name]
        assert f"'{name}'" in samples.description
    assert samples.identity(1) == str(np.random.default_rng(0).permutation(count)[1] * 7)


def test_types_can_be_stated(tmp_path):
    (tmp_path / "t.csv").write_text(
        "a,size,zip,x\n" + "".join(f"{i},{'SML'[i % 3]},{i % 4},{i * 1.5}\n" for i in range(30))
    )
    stated = "a=numeric,size=ordinal:S/M/L,zip=categorical,x=left-out"
    samples = rows_of(str(tmp_path / "t.csv"), reading={"stated": stated})
    assert kinds(samples) == {"a": "numeric", "size": "ordinal", "zip": "categorical"}
    assert samples.array[:3, 1].tolist() == [0, 1, 2]
    for wrong, complaint in [
        ("size=numeric", "'size' is not numeric: row 0 has 'S'"),
        ("size=ordinal", "say the order"),
        ("sise=ordinal", "no column 'sise'.*Did you mean 'size'"),
        ("size=ordnal", "Did you mean 'ordinal'"),
    ]:
        with pytest.raises(UserError, match=complaint):
            rows_of(str(tmp_path / "t.csv"), reading={"stated": wrong})
    with pytest.raises(UserError, match="states no type"):
        stated_types("age")


def facts_of(samples):
    return TABLE.measure(samples)


def test_other_data_is_encoded_alike(frame):
    samples = rows_of(frame)
    facts = facts_of(samples)
    other = frame.iloc[::-1].assign(extra=1).copy()
    other["colour"] = other["colour"].astype(str)
    other.loc[other.index[0], "colour"] = "green"
    again = rows_of(other[sorted(other.columns)], reading=facts)
    place = list(kinds(samples)).index("colour")
    assert again.array[0, place] == 0, "a category that was never seen has a bucket of its own"
    expected = samples.array[::-1].copy()
    expected[0, place] = 0
    np.testing.assert_array_equal(again.array, expected)
    assert again.labels.tolist() == samples.labels[::-1].tolist()


def test_a_missing_column_is_named(frame):
    facts = facts_of(rows_of(frame))
    with pytest.raises(UserError, match=r"lacks the columns height that the encoder was trained on"):
        rows_of(frame.drop(columns="height"), reading=facts)


def test_the_label_never_is_a_feature(frame):
    samples = rows_of(frame, reading={"target": "visits"})
    assert "visits" not in kinds(samples)
    assert samples.labels.dtype == np.float32
    assert "class" in kinds(samples)
    facts = facts_of(samples)
    assert facts["label"] == {"name": "visits", "classes": None}
    with pytest.raises(UserError, match="'class' is among the columns the encoder was trained on"):
        rows_of(frame, labels="class", reading=facts)
    assert "class" in kinds(rows_of(frame, reading={"target": "none"}))
    with pytest.raises(UserError, match="Did you mean 'visits'"):
        rows_of(frame, reading={"target": "vists"})
    unlabelled = rows_of(frame.drop(columns="visits"), reading=facts)
    assert unlabelled.labels is None


def test_labels_come_from_a_file_by_id(tmp_path, frame):
    named = frame.assign(id=[f"p{i}" for i in range(60)]).drop(columns="class")
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"p{i},{i % 2}\n" for i in range(60)))
    samples = rows_of(named, labels=str(tmp_path / "labels.csv"))
    assert samples.labels.tolist() == [i % 2 for i in range(60)]


def test_damaged_rows_are_named(tmp_path):
    text = (
        "a,b,c\n"
        + "".join(f"{i * 1.5},{i % 3},{i * 0.25}\n" for i in range(200))
        + "1,2\n3,4,5,6\n2.5,1,inf\n"
    )
    (tmp_path / "t.csv").write_text(text)
    samples = rows_of(str(tmp_path / "t.csv"))
    assert len(samples) == 200
    assert len(samples.problems) == 3
    assert {problem.reason for problem in samples.problems} == {
        "2 cells, not 3", "4 cells, not 3", "c is 'inf', not a finite number",
    }  # fmt: skip
    facts = facts_of(samples)
    (tmp_path / "other.csv").write_text("a,b,c\n1,2,0.5\nword,1,0.25\n")
    other = rows_of(str(tmp_path / "other.csv"), reading=facts)
    assert len(other) == 1
    assert str(other.problems[0]) == "1: a is 'word', not a finite number"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nowhere.csv", "does not exist"),
        ("sklearn:iriss", "Did you mean 'iris'"),
        ("sklern:iris", "is not a kind of table"),
        ("", "is empty"),
    ],
)
def test_what_cannot_be_read_says_so(source, complaint):
    with pytest.raises(UserError, match=complaint):
        rows_of(source)


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "empty.csv").write_text("\n")
    (tmp_path / "bad.parquet").write_bytes(b"no")
    (tmp_path / "x.png").write_bytes(b"no")
    for name, complaint in [
        ("empty.csv", "is empty"),
        ("bad.parquet", "cannot be read as parquet"),
        ("x.png", "not a table"),
    ]:
        with pytest.raises(UserError, match=complaint):
            rows_of(str(tmp_path / name))
    with pytest.raises(UserError, match="2 axes"):
        rows_of(np.zeros((2, 3, 4)))


def test_a_file_has_a_header_or_has_none(tmp_path):
    (tmp_path / "h.csv").write_text("2019,b\n" + "".join(f"{i * 1.5},x{i % 2}\n" for i in range(9)))
    (tmp_path / "n.csv").write_text("".join(f"{i * 1.5},{i * 2.5},x{i % 2}\n" for i in range(9)))
    (tmp_path / "w.csv").write_text("kind,shape\n" + "".join(f"k{i % 3},s{i % 2}\n" for i in range(9)))
    assert list(kinds(rows_of(str(tmp_path / "n.csv")))) == ["column_0", "column_1", "column_2"]
    assert list(kinds(rows_of(str(tmp_path / "w.csv")))) == ["kind", "shape"]


def test_a_folder_of_parts(tmp_path, frame):
    frame.iloc[:40].to_csv(tmp_path / "people_train.csv", index=False)
    frame.iloc[40:].to_csv(tmp_path / "people_test.csv", index=False)
    (tmp_path / "README.txt").write_text("words")
    assert len(rows_of(str(tmp_path))) == 40
    assert len(rows_of(str(tmp_path), split="test")) == 20
    with pytest.raises(NoSplit):
        rows_of(str(tmp_path / "people_train.csv"), split="test")
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        frame.iloc[20 * number : 20 * number + 20].to_parquet(shards / f"part-{number}.parquet")
    assert np.array_equal(rows_of(str(shards)).labels, (frame["class"] == "b").astype(int))
    with pytest.raises(NoSplit):
        rows_of(str(shards), split="test")


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [("iris", 150, 4), ("wine", 178, 13), ("breast_cancer", 569, 30), ("diabetes", 442, 10)],
)
def test_tables_of_scikit_learn_are_split_for_good(name, rows, columns):
    whole = rows_of(f"sklearn:{name}", split="all")
    assert whole.array.shape == (rows, columns)
    facts = facts_of(rows_of(f"sklearn:{name}"))
    parts = [rows_of(f"sklearn:{name}", split=split, reading=facts) for split in (None, "test")]
    assert [len(part) for part in parts] == [rows - round(rows / 5), round(rows / 5)]
    together = np.concatenate([part.array + [c["offset"] for c in facts["columns"]] for part in parts])
    theirs = whole.array + [column.offset for column in whole.layout.columns]
    np.testing.assert_allclose(np.sort(together, axis=0), np.sort(theirs, axis=0), rtol=1e-4, atol=1e-6)


def test_real_tables_open_as_they_lie(data_folder):
    adult = rows_of(str(data_folder("tabular_adult")))
    assert len(adult) == 32561
    assert adult.classes == ["<=50K", ">50K"]
    assert int(adult.labels.sum()) == 7841
    assert kinds(adult)["workclass"] == "categorical"
    sizes = {column.name: len(column.categories) for column in adult.layout.columns if column.coded}
    # of the note, which counts "?" as a category of three columns
    assert list(sizes.values()) == [8, 16, 7, 14, 6, 5, 2, 41]
    test = rows_of(str(data_folder("tabular_adult")), split="test", reading=facts_of(adult))
    assert len(test) == 16281
    assert test.classes == ["<=50K", ">50K"], "the full stops of the test file are gone"
    housing = rows_of(str(data_folder("tabular_housing")), reading={"target": "median_house_value"})
    assert housing.array.shape == (20640, 9)
    assert int(np.isnan(housing.array).sum()) == 207
    assert housing.labels.max() == 500001
    higgs = rows_of(str(data_folder("tabular_higgs7k")), reading={"target": "column_0"})
    assert higgs.array.shape == (7000, 28)
    assert int(higgs.labels.sum()) == 3716


def test_large_offsets_do_not_eat_small_differences():
    seconds = 1.7e9 + np.arange(50) * 0.5 + np.random.default_rng(0).random(50) * 0.1
    column = inferred("t", typed(arrow.array(seconds)))
    codes, wrong = encode(column, typed(arrow.array(seconds)))
    assert not wrong
    np.testing.assert_allclose(np.diff(codes.astype(np.float32)), np.diff(seconds), rtol=1e-4)


def test_an_ordinal_number_between_levels_lies_between_their_ranks():
    column = Column("n", "ordinal", ("1", "2", "10"))
    codes, _ = encode(column, typed(arrow.array([1.0, 2.0, 6.0, 10.0, 99.0])))
    assert codes.tolist() == [0, 1, 1.5, 2, 2]
