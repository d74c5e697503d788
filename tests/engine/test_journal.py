"""What a run tells while it trains."""

import errno
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anyjepa.core.errors import UserError
from anyjepa.engine.files import read_lines
from anyjepa.engine.journal import Journal


def record(folder, steps, start=0):
    journal = Journal(folder, 10, start, quiet=True)
    for step in steps:
        journal.record({"step": step, "loss": 1 / step, "seconds_per_step": 0.1})
    journal.close()


def test_rows_after_the_step_that_is_gone_on_from_are_dropped(tmp_path):
    record(tmp_path, range(1, 8))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # the crash
    record(tmp_path, range(5, 11), start=4)
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert all(row["loss"] == 1 / row["step"] for row in rows)


def test_tensorboard_shows_the_same_rows_once(tmp_path):
    record(tmp_path, range(1, 8))
    record(tmp_path, range(5, 11), start=4)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 11))


def test_every_row_is_on_disk_as_soon_as_it_is_recorded(tmp_path):
    journal = Journal(tmp_path, 10, quiet=True)
    journal.record({"step": 1, "loss": 0.25})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.25}
    journal.close()


def test_the_person_reads_on_stderr_and_only_when_not_quiet(tmp_path, capfd):
    for quiet in (True, False):
        journal = (
            Journal(tmp_path / str(quiet), 10, quiet=quiet)
            if (tmp_path / str(quiet)).mkdir() is None
            else None
        )
        journal.say("a word")
        journal.record({"step": 10, "loss": 0.5, "rankme": 3.25, "seconds_per_step": 0.1})
        journal.close()
        out, err = capfd.readouterr()
        assert out == ""
        assert err.splitlines() == (
            [] if quiet else ["a word", "step 10/10  loss 0.5  rankme 3.25  0 s left"]
        )


def test_a_full_disk_under_the_events_is_one_sentence(tmp_path, monkeypatch):
    journal = Journal(tmp_path, 10, quiet=True)

    def fail(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    for method in ("add_scalar", "close"):
        monkeypatch.setattr(journal.board, method, fail)
    with pytest.raises(UserError, match="the disk is full"):
        journal.record({"step": 1, "loss": 0.5})
    with pytest.raises(UserError, match="the disk is full"):
        journal.close()
