"""Label files with several labels a sample, and with patients."""

import numpy as np
import pyarrow as arrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from anyjepa.domains.label_files import groups_from_file, labels_from_file
from anyjepa.domains.sources import as_many_labels


@pytest.mark.parametrize("between", [";", "|", " ; "])
def test_labels_set_apart_are_several(tmp_path, between):
    table = tmp_path / "labels.csv"
    table.write_text(f"id,label\na,x{between}y\nb,y\nc,\n")
    labels, classes = labels_from_file(str(table), ["a", "b", "c", "d"])
    assert classes == ["x", "y"]
    assert labels.dtype == np.int8
    assert labels.tolist() == [[1, 1], [0, 1], [-1, -1], [-1, -1]]


def test_one_label_each_stays_one_label(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("id,label\na,x\nb,y\n")
    assert labels_from_file(str(table), ["b", "a"])[0].tolist() == [1, 0]


@pytest.mark.parametrize("column", ["group", "patient"])
def test_groups_are_read_beside_labels(tmp_path, column):
    table = tmp_path / "labels.parquet"
    parquet.write_table(arrow.table({"id": ["a", "b"], "label": ["x", "y"], column: ["p", None]}), table)
    assert groups_from_file(str(table), ["b", "a", "c"]).tolist() == ["", "p", ""]
    parquet.write_table(arrow.table({"id": ["a"], "label": ["x"]}), table)
    assert groups_from_file(str(table), ["a"]) is None


@given(rows=st.lists(st.one_of(st.none(), st.sets(st.sampled_from("abcdef"))), min_size=1, max_size=8))
def test_several_labels_become_a_table_and_can_be_read_back(rows):
    table, classes = as_many_labels([None if row is None else sorted(row) for row in rows])
    assert classes == sorted(set().union(*(row for row in rows if row)))
    for row, values in zip(rows, table, strict=True):
        if row is None:
            assert (values == -1).all()
        else:
            assert {name for name, value in zip(classes, values, strict=True) if value == 1} == row
