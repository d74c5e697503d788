"""Damaged tables and label files: left out or refused in words, never worse."""

import io
import zipfile

import numpy as np
import pyarrow as arrow
import pytest
from damaged import Part, withstands
from pyarrow import feather, parquet

FEW = pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.slow)])
ROWS = 24
COLUMNS = {
    "age": [20.5 + n for n in range(ROWS)],
    "work": [("office", "field", "none")[n % 3] for n in range(ROWS)],
    "rich": [bool(n % 2) for n in range(ROWS)],
    "count": [n % 5 if n % 7 else None for n in range(ROWS)],
}


def text(delimiter=",") -> bytes:
    rows = [COLUMNS, *zip(*COLUMNS.values(), strict=True)]
    return "\n".join(delimiter.join("" if c is None else str(c) for c in row) for row in rows).encode()


def arff() -> bytes:
    head = "@relation made\n@attribute age numeric\n@attribute 'work' {office, field, none}\n@data\n"
    rows = zip(COLUMNS["age"], COLUMNS["work"], strict=True)
    return (head + "".join(f"{age},{work}\n" for age, work in rows)).encode()


def sparse() -> bytes:
    head = "@relation made\n@attribute a numeric\n@attribute b numeric\n@attribute c numeric\n@data\n"
    return (head + "".join(f"{{0 {n}, 2 {n % 3}}}\n" for n in range(ROWS))).encode()


def written(writer, **options) -> bytes:
    target = io.BytesIO()
    writer(arrow.table(COLUMNS), target, **options)
    return target.getvalue()


def npy(values, **options) -> bytes:
    target = io.BytesIO()
    np.save(target, values, **options)
    return target.getvalue()


def zipped(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", npy(np.arange(ROWS) % 2))
    return target.getvalue()


NUMBERS = np.random.default_rng(0).normal(size=(ROWS, 4))
FILES = {
    "a.csv": text,
    "a.tsv": lambda: text("\t"),
    "a.arff": arff,
    "sparse.arff": sparse,
    "a.parquet": lambda: written(parquet.write_table),
    "plain.parquet": lambda: written(parquet.write_table, compression="none", use_dictionary=False),
    "gzip.parquet": lambda: written(parquet.write_table, compression="gzip"),
    "a.feather": lambda: Part(written(feather.write_feather, compression="lz4"), asks=True),
    "plain.feather": lambda: written(feather.write_feather, compression="uncompressed"),
    "a.npy": lambda: npy(NUMBERS),
    "fields.npy": lambda: npy(
        np.array([(n / 2, n % 5, b"xyz"[n % 3 :]) for n in range(ROWS)], dtype="f8,i4,S3")
    ),
    "a.npz": lambda: Part(npy(NUMBERS), zipped),
}


@FEW
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_table(tmp_path, name, examples):
    withstands("table", tmp_path, {name: FILES[name]()}, examples=examples, random=examples > 100)


@FEW
@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_damaged_file_of_labels(tmp_path, ending, examples):
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data/x.npy", NUMBERS)
    table = arrow.table(
        {"id": [str(n) for n in range(ROWS)], "label": [f"{n % 3}|{n % 2}" for n in range(ROWS)]}
    )
    target = io.BytesIO()
    if ending == "parquet":
        parquet.write_table(table, target)
    between = "\t" if ending == "tsv" else ","
    rows = [table.column_names, *(row.values() for row in table.to_pylist())]
    content = target.getvalue() or "\n".join(between.join(row) for row in rows).encode()
    withstands("table", tmp_path, {f"labels.{ending}": content}, "{}/x.npy", examples=examples,
               random=examples > 100, labels=str(tmp_path / f"data/labels.{ending}"))  # fmt: skip


@FEW
@pytest.mark.parametrize("name", ["tabular_adult", "tabular_higgs7k", "tabular_housing"])
def test_a_damaged_real_table(tmp_path, data_folder, name, examples):
    endings = (".csv", ".data", ".parquet", ".arff", ".npz")
    found = sorted(p for p in data_folder(name).iterdir() if p.suffix in endings)
    if not found:
        pytest.skip("there is no table in it")
    content = found[0].read_bytes()
    if found[0].suffix in (".csv", ".data"):
        content = b"\n".join(content.splitlines()[:60])
    withstands("table", tmp_path, {found[0].name: content}, examples=examples, random=examples > 100)
