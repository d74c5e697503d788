"""Files that grow: each line once, a half-written one later, a file that was replaced anew."""

import itertools
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written import row

from anyjepa.board.growing import Glance, Growing, History, number, row_of, smoothed


def append(path, content):
    with open(path, "ab") as file:
        file.write(content)


@given(cuts=st.lists(st.integers(0, 400), max_size=12))
def test_however_a_file_is_written_each_line_is_read_once(tmp_path_factory, cuts):
    path = tmp_path_factory.mktemp("growing") / "metrics.jsonl"
    content = b"".join(json.dumps({"step": step, "loss": 0.5}).encode() + b"\n" for step in range(12))
    reader, read = Growing(path), []
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    for start, end in itertools.pairwise(places):
        append(path, content[start:end])
        restarted, new = reader.new()
        assert not restarted
        read += new
    assert [json.loads(line)["step"] for line in read] == list(range(12))
    assert reader.new() == (False, [])


def test_a_file_that_is_not_there_yet_or_no_longer(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reader = Growing(path)
    assert reader.new() == (False, [])
    append(path, b'{"step": 1}\n')
    assert reader.new() == (False, [b'{"step": 1}'])
    path.unlink()
    assert reader.new() == (True, [])
    append(path, b'{"step": 9}\n')
    assert reader.new()[1] == [b'{"step": 9}']


def test_a_file_that_was_replaced_or_cut_is_read_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    history = History(path)
    append(path, b"".join(json.dumps(row(step)).encode() + b"\n" for step in (20, 40, 60)))
    history.update()
    assert list(history.steps) == [20, 40, 60]
    # what a resumed training does: the rows up to its checkpoint, in a new file under the old name
    beside = tmp_path / "beside"
    beside.write_text("".join(json.dumps(row(step)) + "\n" for step in (20, 40, 50, 70, 90)))
    os.replace(beside, path)
    history.update()
    assert list(history.steps) == [20, 40, 50, 70, 90]
    path.write_text(json.dumps(row(20)) + "\n")
    history.update()
    assert list(history.steps) == [20]


def test_a_link_is_no_file_of_the_run(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text('{"step": 1}\n')
    (tmp_path / "metrics.jsonl").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    assert Growing(tmp_path / "metrics.jsonl").new() == (False, [])
    assert Growing(tmp_path / "pipe").new() == (False, []), "a pipe would be waited for"


JUNK = [
    b"",
    b"nonsense",
    b"[1]",
    b'"text"',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"step": "x"}',
    b'{"step": null}',
    b"{}",
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_a_damaged_line_between_good_ones_is_passed_over(tmp_path, junk):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row(20)).encode(), junk, json.dumps(row(40)).encode(), b'{"step": 60, "lo']
    append(path, b"\n".join(lines))
    history, glance = History(path), Glance(path)
    history.update()
    glance.update()
    assert list(history.steps) == [20, 40]
    assert (glance.first["step"], glance.last["step"]) == (20, 40)
    append(path, b'ss": 3}\n')
    history.update()
    assert history.series("loss", "step")[0].tolist() == [20, 40, 60]


def test_what_is_no_finite_number_is_a_gap_and_what_is_absent_is_not(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 1, "big": 1' + "0" * 400 + '}\n{"step": 2}\n{"step": 3, "loss": NaN}\n'
    )
    history = History(path)
    history.update()
    x, y = history.series("loss", "step")
    assert x.tolist() == [1, 3]
    assert y[0] == 1
    assert math.isnan(y[1])
    assert math.isnan(history.series("big", "step")[1][0])
    assert [len(part) for part in history.series("nowhere", "step")] == [0, 0]


def test_along_steps_epochs_samples_and_time(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"step": 10, "epoch": 0.5, "loss": 3.0, "seconds_per_step": 0.1},
        {"step": 30, "epoch": 1.5, "loss": 2.0, "seconds_per_step": 0.2},
        {"step": 40, "epoch": 2.0, "loss": 1.0},
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    history = History(path)
    history.update()
    assert history.series("loss", "step")[0].tolist() == [10, 30, 40]
    assert history.series("loss", "epoch")[0].tolist() == [0.5, 1.5, 2.0]
    assert history.series("loss", "samples", 64.0)[0].tolist() == [640, 1920, 2560]
    assert history.series("loss", "time")[0].tolist() == pytest.approx([1, 5, 5])
    assert history.series("loss", "step")[1].tolist() == [3, 2, 1]
    assert "epoch" not in history.columns


@given(
    values=st.lists(st.one_of(st.floats(-100, 100), st.just(math.nan)), max_size=40), rows=st.integers(1, 50)
)
def test_smoothing_is_the_mean_of_the_finite_values_in_the_window(values, rows):
    y = np.array(values, dtype=np.float64)
    found = smoothed(y, rows)
    assert len(found) == len(y)
    for place in range(len(y)):
        window = y[max(0, place - rows + 1) : place + 1]
        finite = window[np.isfinite(window)]
        expected = finite.mean() if finite.size else math.nan
        assert found[place] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_warnings_are_found_wherever_they_are(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [row(step) for step in range(1, 200)]
    rows[50]["warning"], rows[120]["warning"] = "collapsed", "no longer collapsed"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    glance = Glance(path)
    glance.update()
    assert glance.warnings == [(51, "collapsed"), (121, "no longer collapsed")]
    assert glance.count == 199


def test_numbers_and_rows():
    assert number(3) == 3.0
    assert [number(value) for value in (True, "3", None, math.inf, math.nan, 10**400)] == [None] * 6
    assert row_of(b'{"a": 1}') == {"a": 1}
