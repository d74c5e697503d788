"""Damaged logs and catalogues: left out or refused in words, never worse."""

import io

import pyarrow as arrow
import pytest
from damaged import withstands
from pyarrow import parquet

FEW = pytest.mark.parametrize("examples", [3, pytest.param(400, marks=pytest.mark.slow)])
PAIRS = [(n // 5, n * 7 % 12, 1 + n % 5, 1000 + n) for n in range(60)]
GENRES = ("Comedy|Drama", "Action", "", "Drama|War|Comedy")


def rows(*lines, delimiter=","):
    return "\n".join(delimiter.join(map(str, line)) for line in lines).encode() + b"\n"


def films():
    columns = ("item_id", "title", "genres", "year", "price")
    return [columns, *((n, f"Film {n}", GENRES[n % 4], 1990 + n % 3, 1.5 * n) for n in range(12))]


def table(lists=False):
    names, *lines = films()
    columns = dict(zip(names, map(list, zip(*lines, strict=True)), strict=True))
    if lists:
        columns["genres"] = [cell.split("|") for cell in columns["genres"]]
    target = io.BytesIO()
    parquet.write_table(arrow.table(columns), target)
    return target.getvalue()


MOVIELENS = {
    "u.data": rows(*PAIRS, delimiter="\t"),
    "u.user": rows(*((n, 20 + n, "MF"[n % 2], "none", 9) for n in range(12)), delimiter="|"),
    "u.item": rows(
        *((n, f"Café {n}", "1-Jan-90", "", "", *(n >> k & 1 for k in range(19))) for n in range(12)),
        delimiter="|",
    ).decode().encode("latin-1"),
}  # fmt: skip
HEADING = ("user_id", "item_id", "rating", "timestamp")
SOURCES = {
    "movielens": MOVIELENS,
    "twenty": {
        "ratings.dat": rows(*PAIRS, delimiter="::"),
        "movies.dat": rows(*((n, f"Film {n}", GENRES[n % 4] or "War") for n in range(12)), delimiter="::"),
    },
    "recbole": {
        "a.inter": rows(
            ("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *PAIRS, delimiter="\t"
        ),
        "a.item": rows(
            ("item_id:token", "title:token_seq", "genres:token_seq", "year:float", "price:float"),
            *films()[1:], delimiter="\t",
        ),
    },
    "csv": {"interactions.csv": rows(HEADING, *PAIRS), "items.csv": rows(*films())},
    "parquet": {"interactions.csv": rows(HEADING, *PAIRS), "items.parquet": table()},
    "lists": {"interactions.csv": rows(HEADING, *PAIRS), "items.parquet": table(lists=True)},
    "split": {"ratings-train.csv": rows(HEADING, *PAIRS), "ratings-test.csv": rows(HEADING, *PAIRS[::7])},
}  # fmt: skip


@FEW
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_damaged_log_or_catalogue(tmp_path, source, examples):
    withstands("interactions", tmp_path, source, "{}", examples=examples)


@FEW
def test_a_damaged_log_of_which_kinds_are_stated(tmp_path, examples):
    reading = {"columns": "year=number,genres=list,price=category", "least_value": 2.0, "held_out": 0.2}
    withstands("interactions", tmp_path, SOURCES["csv"], "{}", examples=examples, reading=reading)
