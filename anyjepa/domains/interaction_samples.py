"""The items of a catalogue as samples, with the log that pairs queries with them."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as arrow
from jaxtyping import Float, Int

from anyjepa.core.errors import BadSample, UserError, nearest
from anyjepa.domains.interaction_fields import (
    Encoded,
    Field,
    _lists,
    _numbers,
    _texts,
    encode,
    fields_of,
    stated_kinds,
)
from anyjepa.domains.interaction_tables import Tables, column_of, read_tables
from anyjepa.domains.label_files import labels_from_file
from anyjepa.domains.sources import as_labels, as_many_labels, only_train
from anyjepa.domains.table_columns import compute

__all__ = ["InteractionSamples", "Log", "open_interactions"]

LABEL_NAMES = ("audience", "label", "target")
TITLES = ("title", "name", "movie_title", "product_title", "item_name")
LEAST_SHARE = 0.98  # of a column of a log that must be the same each time for it to describe the item
MOST_PAIRS = 7  # that the numbers drawn for one sample are enough for


@dataclass(frozen=True)
class Log:
    """Pairs of query and item, by their places in the tables.

    Args:
        queries: (n,) places.
        items: (n,) places.
    """

    queries: Int[np.ndarray, " n"]
    items: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, chosen: np.ndarray) -> Log:
        """The pairs at these places, or where a mask is set."""
        return Log(self.queries[chosen], self.items[chosen])


class InteractionSamples:
    """A catalogue: a sample is an item. The rest is as of `anyjepa.domains.Samples`.

    ``log`` and ``held_out`` are the pairs to learn from and to test on, ``item_table`` and ``query_table``
    the encoded features, ``counts`` (items,) how often an item is in ``log``. `read` gives a structured
    row of an item; `read_parts`, for training, rows with pairs of the log drawn beside each.
    """

    def __init__(
        self,
        source: str,
        words: str,
        ids: tuple[arrow.Array, arrow.Array],
        fields: tuple[Sequence[Field], Sequence[Field]],
        tables: tuple[Encoded, Encoded],
        logs: tuple[Log, Log],
        titles: arrow.Array | None,
        problems: list[BadSample],
        pairs: int = 1,
    ) -> None:
        self.source, self.problems, self.titles, self.pairs = source, problems, titles, pairs
        self.item_ids, self.query_ids = ids
        self.item_fields, self.query_fields = fields
        self.item_table, self.query_table = tables
        self.log, self.held_out = logs
        self.labels: np.ndarray | None = None
        self.classes: list[str] | None = None
        self.groups: np.ndarray | None = None
        self.counts = np.bincount(self.log.items, minlength=len(self.item_ids))
        share = np.clip(self.counts / max(1, len(self.log)), 1e-8, 1)
        self.log_probability: Float[np.ndarray, " items"] = np.log(share).astype(np.float32)
        self.description = (
            f"{len(self):,} items that {len(self.query_ids):,} queries took {len(self.log):,} times "
            f"({len(self.held_out):,} more held out) in {words}"
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def item_row(self) -> np.dtype:
        """What `read` gives."""
        return np.dtype([
            ("place", np.int64), ("codes", np.int32, self.item_table.codes.shape[1:]),
            ("numbers", np.float32, self.item_table.numbers.shape[1:]),
        ])  # fmt: skip

    @property
    def pair_row(self) -> np.dtype:
        """What `read_parts` gives: an item of the catalogue, and pairs of the log."""
        return np.dtype([
            ("item", self.item_row), ("positive", self.item_row, (self.pairs,)),
            ("query_codes", np.int32, (self.pairs, *self.query_table.codes.shape[1:])),
            ("query_numbers", np.float32, (self.pairs, *self.query_table.numbers.shape[1:])),
            ("log_probability", np.float32, (self.pairs,)),
        ])  # fmt: skip

    def items(self, places: np.ndarray) -> np.ndarray:
        """Structured rows of items."""
        rows = np.empty(np.shape(places), self.item_row)
        rows["place"] = places
        rows["codes"], rows["numbers"] = self.item_table.codes[places], self.item_table.numbers[places]
        return rows

    def read(self, index: int) -> np.ndarray:
        """One item: its place, codes and numbers."""
        return self.items(np.asarray(index))

    def read_parts(self, indices: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Items of the catalogue, and beside each pairs drawn from the log with the first of its uniforms."""
        drawn = (uniforms[:, : self.pairs] * len(self.log)).astype(np.int64)
        queries, items = self.log.queries[drawn], self.log.items[drawn]
        rows = np.empty(len(indices), self.pair_row)
        rows["item"], rows["positive"] = self.items(np.asarray(indices)), self.items(items)
        rows["query_codes"] = self.query_table.codes[queries]
        rows["query_numbers"] = self.query_table.numbers[queries]
        rows["log_probability"] = self.log_probability[items]
        return rows

    def identity(self, index: int) -> str:
        """The item's id."""
        return self.item_ids[int(index)].as_py()

    def title(self, index: int) -> str:
        """What the item is called, where a column says so; its id otherwise."""
        named = None if self.titles is None else self.titles[int(index)].as_py()
        return named or self.identity(index)

    def fingerprint(self) -> str:
        """Digest of the features and the pairs to learn from."""
        digest = hashlib.blake2b(repr([field.name for field in self.item_fields]).encode(), digest_size=16)
        for part in (self.item_table.codes, self.item_table.numbers, self.log.queries, self.log.items):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def open_interactions(
    source: Any,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> InteractionSamples:
    """Open a log with its catalogue.

    Args:
        source: see `read_tables`.
        labels: a column of the items, or a file with the columns id and label.
        split: only the whole: items are not split, and what is held out of the log lies in ``held_out``.
        reading: of the recipe: names of columns, kinds, what is held out; with the facts of trained data over
            it, rows are encoded with those fields.

    Raises:
        UserError: it cannot be read, or has too little. NoSplit: a part of the items is asked for.
    """
    asked = {**DEFAULTS, **(reading or {})}
    only_train(split, str(source) if isinstance(source, str) else "this log")
    tables = read_tables(source)
    names = {role: column_of(tables.log, role, asked[f"{role}_column"]) for role in
             ("query", "item", "time", "value")}  # fmt: skip
    query, item = str(names["query"]), str(names["item"])
    stated = {**tables.kinds, **stated_kinds(asked["columns"])}
    log, problems = _positives(tables.log, names, asked["least_value"], tables.problems)
    features = _described(tables, log, item, [n for n in names.values() if n and n != item])
    people = _described(tables, log, query, [n for n in names.values() if n and n != query], "queries")
    label = labels if labels in features.column_names else asked["label"]
    if not label and isinstance(source, str) and source.startswith("synthetic-"):
        label = next((name for name in LABEL_NAMES if name in features.column_names), "")
    if label and label not in features.column_names:
        raise UserError(f"items have no column '{label}'.{nearest(label, features.column_names)}")
    if labels is not None and not label and not os.path.exists(labels):
        raise UserError(f"items have no column '{labels}'.{nearest(labels, features.column_names)}")
    sides = []
    for table, identity, key in ((features, item, "item"), (people, query, "query")):
        known = asked.get(f"{key}_fields")
        fields = (
            [Field.of(facts) for facts in known]
            if known
            else fields_of(table, identity, {**stated, str(label): "left-out"}, asked[f"{key}_id"])
        )
        if not fields:
            raise UserError(f"nothing is known of the {key} but its id: say --{key}-id true to learn that.")
        sides.append(([*fields], encode(table, fields), _texts(table[identity])))
    if label in [field.name for field in sides[0][0]]:
        raise UserError(
            f"'{label}' is among the fields the towers were trained on, so a score on it would say nothing: "
            f"train again with --label {label}."
        )
    ids = (sides[0][2], sides[1][2])
    whole = _pairs(log, query, item, ids[1], ids[0])
    if tables.held_out is not None:
        rest, more = _positives(tables.held_out, names, asked["least_value"], [])
        logs, problems = (whole, _pairs(rest, query, item, ids[1], ids[0])), problems + more
    else:
        times = _numbers(log[names["time"]]) if names["time"] else None
        logs = held_out(whole, times, asked["held_out"], asked["cold"])
    if not len(logs[0]):
        raise UserError(f"{source} leaves no pair to learn from: give a longer log, or hold less out.")
    title = next((name for name in features.column_names if name.lower() in TITLES), None)
    samples = InteractionSamples(
        source if isinstance(source, str) else "array", tables.words, ids, (sides[0][0], sides[1][0]),
        (sides[0][1], sides[1][1]), logs, None if title is None else _texts(features[title]), problems,
        int(asked["pairs"]),
    )  # fmt: skip
    if label:
        samples.labels, samples.classes = _labels(features[label])
    elif labels is not None:
        names_of = [samples.identity(index) for index in range(len(samples))]
        samples.labels, samples.classes = labels_from_file(labels, names_of)
    return samples


DEFAULTS: dict[str, Any] = {
    "query_column": "", "item_column": "", "time_column": "", "value_column": "", "columns": "", "label": "",
    "least_value": 0.0, "held_out": 0.0, "cold": 0.0, "item_id": True, "query_id": True, "pairs": 1,
}  # fmt: skip


def held_out(log: Log, times: np.ndarray | None, share: float, cold: float = 0.0) -> tuple[Log, Log]:
    """The pairs to learn from, and those to test on: the last of each query, by time or else by row.

    Args:
        log: all pairs.
        times: (n,) when; NaN sorts last.
        share: of each query's pairs that is held out; 0 for the very last. A query with one pair keeps it.
        cold: share of the items, drawn once and for all, whose pairs are all held out: as if they were new.
    """
    if cold:
        items = np.unique(log.items)
        new = np.isin(log.items, np.random.default_rng(0).choice(items, round(cold * len(items)), False))
        return log.take(~new), log.take(new)
    order = np.lexsort((np.arange(len(log)) if times is None else times, log.queries))
    queries = log.queries[order]
    starts = np.flatnonzero(np.diff(queries, prepend=-1))
    lengths = np.diff(np.append(starts, len(queries)))
    left = np.repeat(starts + lengths, lengths) - np.arange(len(queries))  # 1 for the last of a query
    kept_out = np.minimum(np.maximum(1, np.rint(share * lengths)), lengths - 1)
    test = np.zeros(len(log), dtype=bool)
    test[order] = left <= np.repeat(kept_out, lengths)
    return log.take(~test), log.take(test)


def _positives(
    log: arrow.Table, names: Mapping[str, str | None], least: float, problems: list[BadSample]
) -> tuple[arrow.Table, list[BadSample]]:
    """Rows that name a query and an item and whose value is high enough; those without names are problems."""
    for role in ("query", "item"):
        if names[role] not in log.column_names:
            raise UserError(f"the log that is held out has no column '{names[role]}'.")
    query, item = _texts(log[names["query"]]), _texts(log[names["item"]])
    whole = compute.and_(compute.is_valid(query), compute.is_valid(item)).to_numpy(zero_copy_only=False)
    problems = problems + [
        BadSample(f"row {row}", "it names no query or no item") for row in np.flatnonzero(~whole).tolist()
    ]
    if least and names["value"]:
        whole &= ~(_numbers(log[names["value"]]) < least)
    return log.filter(arrow.array(whole)), problems


def _described(
    tables: Tables, log: arrow.Table, identity: str, others: Sequence[str], role: str = "items"
) -> arrow.Table:
    """The table of items or queries, one row each; those that only the log knows follow without features."""
    given = tables.items if role == "items" else tables.queries
    taken = _texts(log[identity])
    if given is None:
        return _gathered(log, taken, identity, others)
    wanted = "item" if role == "items" else "query"
    own = identity if identity in given.column_names else column_of(given, wanted)
    given = given.rename_columns([identity if name == own else name for name in given.column_names])
    ids = _texts(given[identity])
    seen: dict[str | None, int] = {}
    for row, name in enumerate(ids.to_pylist()):
        if name is not None:
            seen.setdefault(name, row)
    given = given.take(arrow.array(list(seen.values()), arrow.int64()))
    given = given.set_column(
        given.column_names.index(identity), identity, arrow.array(list(seen), arrow.string())
    )
    unknown = [name for name in compute.unique(taken).to_pylist() if name not in seen]
    if not unknown:
        return given
    return arrow.concat_tables(
        [given, arrow.table({identity: arrow.array(unknown, arrow.string())})], promote_options="default"
    )


def _gathered(log: arrow.Table, taken: arrow.Array, identity: str, others: Sequence[str]) -> arrow.Table:
    """A row a value of `identity`, with the columns of the log that always say the same of it."""
    coded = taken.dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False)
    first = np.unique(codes, return_index=True)[1]
    columns = {identity: coded.dictionary}
    for name in log.column_names:
        if name == identity or name in others:
            continue
        if arrow.types.is_nested(log[name].type):
            values, same = log[name], True
        else:
            values = _texts(log[name])
            words = compute.fill_null(values.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)
            same = (words == words[first][codes]).mean() >= LEAST_SHARE
        if same:
            columns[name] = log[name].take(arrow.array(first))
    return arrow.table(columns)


def _pairs(log: arrow.Table, query: str, item: str, queries: arrow.Array, items: arrow.Array) -> Log:
    places = [
        compute.fill_null(compute.index_in(_texts(log[name]), value_set=known), -1)
        .to_numpy(zero_copy_only=False).astype(np.int64)
        for name, known in ((query, queries), (item, items))
    ]  # fmt: skip
    known = (places[0] >= 0) & (places[1] >= 0)
    return Log(places[0][known], places[1][known])


def _labels(column: Any) -> tuple[np.ndarray, list[str] | None]:
    if arrow.types.is_list(column.type) or arrow.types.is_large_list(column.type):
        values, starts = _lists(column)
        texts = values.to_pylist()
        return as_many_labels([texts[a:b] for a, b in itertools.pairwise(starts)])
    return as_labels(_texts(column).to_pylist())
