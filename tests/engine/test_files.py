"""Files that hold the old content or the new, never a part."""

import errno
import os

import pytest

from anyjepa.core.errors import UserError
from anyjepa.engine.files import append_line, explained, read_lines, write_whole


def test_the_content_is_replaced_and_nothing_is_left_beside(tmp_path):
    path = tmp_path / "file"
    for content in (b"old", b"", b"new" * 1000):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("where", ["replace", "fsync"])
def test_a_failure_half_way_leaves_the_old_content(tmp_path, monkeypatch, where):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fail(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, where, fail)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "the disk is full; free some space and try again, a training with --resume"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "no permission to use /somewhere; choose another --out"),
        (errno.EROFS, "no permission"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failing_disk_is_one_sentence_with_the_fix(number, advice):
    with pytest.raises(UserError) as caught, explained("write it"):
        raise OSError(number, os.strerror(number), "/somewhere")
    assert str(caught.value).startswith("cannot write it: ")
    assert advice in str(caught.value)


def test_lines_come_back_and_one_cut_off_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_lines(path) == []
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "word": "näme\n"}]
    for row in rows:
        append_line(path, row)
    assert read_lines(path) == rows
    path.write_bytes(path.read_bytes()[:-5])
    assert read_lines(path) == rows[:1]
    append_line(path, rows[1])
    assert read_lines(path) == rows, "what is added later is not lost behind the cut line"
