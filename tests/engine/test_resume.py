"""Stopping anywhere and going on gives the same parameters, to the bit, as never having stopped."""

import json
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from small import FIELDS, picture_folder, pictures, same_to_the_bit, struck, tensors_of, train_small

from anyjepa.core.errors import UserError
from anyjepa.engine.checkpoint import checkpoints
from anyjepa.engine.journal import Journal
from anyjepa.engine.run import read_config

STEPS = 100


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pictures.npy"
    np.save(path, pictures())
    return str(path)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """The run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train_small(out, data, steps=STEPS)
    return out


def logged_steps(out):
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def go_on(out, data, **settings):
    return train_small(out, data, resume=True, fields={}, steps=None, **settings)


def damage_newest(out, how):
    state = checkpoints(out / "checkpoints")[0] / "state.safetensors"
    content = bytearray(state.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) * 2 // 3] ^= 0b00010000
    state.write_bytes(content)


@pytest.mark.parametrize(
    ("blow", "code", "workers"),
    [(signal.SIGTERM, 143, 2), pytest.param(signal.SIGINT, 130, 0, marks=pytest.mark.slow)],
)
def test_a_run_told_to_stop_saves_says_how_to_go_on_and_can(tmp_path, data, whole, blow, code, workers):
    """Loader workers get the signal too, as of a batch system, and must not bring the run down."""
    out = tmp_path / "run"
    more = ("--workers", str(workers), "--json")
    returned, errors = struck(out, data, blow, 10 + workers, *more, steps=STEPS, group=True)
    assert returned == code, errors
    assert "go on with --resume" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    stopped = max(logged_steps(out))
    assert 10 <= stopped < STEPS
    assert read_config(out)["status"] == "stopped"
    assert checkpoints(out / "checkpoints")[0].name == f"step-{stopped:09d}"
    result = go_on(out, data, workers=2 if workers == 0 else 0)
    assert result["steps"] == STEPS
    assert same_to_the_bit(out, whole)
    assert logged_steps(out) == list(range(1, STEPS + 1))
    assert read_config(out)["status"] == "finished"


@pytest.mark.parametrize("rows", [7, pytest.param(41, marks=pytest.mark.slow)])
def test_kill_costs_at_most_the_steps_since_the_last_checkpoint(tmp_path, data, whole, rows):
    out = tmp_path / "run"
    struck(out, data, signal.SIGKILL, rows, "--checkpoint-every", "3", steps=STEPS)
    reached = max(logged_steps(out))
    left = checkpoints(out / "checkpoints")
    assert rows <= reached < STEPS
    assert reached - int(left[0].name.removeprefix("step-")) <= 3
    go_on(out, data, checkpoint_every=50)
    assert same_to_the_bit(out, whole)
    assert logged_steps(out) == list(range(1, STEPS + 1))
    assert not list((out / "checkpoints").glob(".*"))


class Killed(BaseException):
    """What ends a training where it stands, as a kill does."""


def killed_after(monkeypatch, step, training, *arguments, **options):
    """Call `training` and end it where it has logged `step`."""
    record = Journal.record

    def recorded(self, row):
        record(self, row)
        if row["step"] == step:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "record", recorded)
        with pytest.raises(Killed):
            training(*arguments, **options)


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path, data, whole, monkeypatch):
    out = tmp_path / "run"
    # where nothing is said a checkpoint is due after a minute, and a loaded machine may need that for 5 steps
    killed_after(monkeypatch, 5, train_small, out, data, steps=STEPS, checkpoint_every=STEPS)
    assert logged_steps(out) == [1, 2, 3, 4, 5]
    assert not checkpoints(out / "checkpoints")
    go_on(out, data)
    assert same_to_the_bit(out, whole)
    assert logged_steps(out) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path, data, whole, monkeypatch, capfd, how
):
    out = tmp_path / "run"
    killed_after(monkeypatch, 32, train_small, out, data, steps=STEPS, checkpoint_every=10)
    assert [path.name for path in checkpoints(out / "checkpoints")] == ["step-000000030", "step-000000020"]
    damage_newest(out, how)
    go_on(out, data, quiet=False)
    said = capfd.readouterr().err
    assert "checkpoint step-000000030 is damaged" in said
    assert "the one before it is used" in said
    assert f"going on from step 20 of {STEPS}" in said
    assert same_to_the_bit(out, whole)
    assert logged_steps(out) == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_new_checkpoints_survive_beside_damaged_later_ones(tmp_path, data, whole, monkeypatch):
    out = tmp_path / "run"
    killed_after(monkeypatch, 62, train_small, out, data, steps=STEPS, checkpoint_every=30)
    for path in checkpoints(out / "checkpoints"):
        (path / "state.safetensors").write_bytes(b"")
    killed_after(monkeypatch, 35, go_on, out, data, checkpoint_every=10)
    assert [path.name for path in checkpoints(out / "checkpoints")] == ["step-000000030", "step-000000020"]
    go_on(out, data)
    assert same_to_the_bit(out, whole)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_number_of_workers_changes_nothing(tmp_path):
    data = str(picture_folder(tmp_path / "pictures", 40))
    for workers in (0, 1, 3):
        train_small(tmp_path / str(workers), data, workers=workers, steps=5)
    assert same_to_the_bit(tmp_path / "0", tmp_path / "1")
    assert same_to_the_bit(tmp_path / "0", tmp_path / "3")


def test_the_seed_changes_everything_and_decides_everything(tmp_path, data):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_small(tmp_path / name, data, seed=seed)
    assert same_to_the_bit(tmp_path / "a", tmp_path / "b")
    first, other = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "c")
    trained = [name for name in first if name.endswith("weight") and name.startswith("state.method")]
    assert trained
    assert not any((first[name] == other[name]).all() for name in trained if first[name].ndim > 1)


def test_the_state_of_global_random_numbers_changes_nothing(tmp_path, data):
    for name in ("a", "b"):
        random.seed(ord(name))
        torch.manual_seed(ord(name))
        train_small(tmp_path / name, data)
    assert same_to_the_bit(tmp_path / "a", tmp_path / "b")


@pytest.fixture
def stopped(tmp_path, data, monkeypatch):
    out = tmp_path / "run"
    killed_after(monkeypatch, 5, train_small, out, data, steps=STEPS, checkpoint_every=2)
    return out


def test_going_on_with_what_differs_is_refused_in_one_sentence(tmp_path, stopped, data):
    before = (stopped / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"started with depth = 2, not 3: leave it out with --resume"):
        train_small(stopped, data, resume=True, fields={**FIELDS, "depth": 3}, steps=None)
    with pytest.raises(UserError, match=f"started with steps = {STEPS}, not 7"):
        train_small(stopped, data, resume=True, fields={}, steps=7)
    with pytest.raises(UserError, match="started with seed = 0, not 7"):
        train_small(stopped, data, resume=True, fields={}, steps=None, seed=7)
    with pytest.raises(UserError, match=r"no field 'deepth'.*depth"):
        train_small(stopped, data, resume=True, fields={"deepth": 3}, steps=None)
    other = tmp_path / "other.npy"
    np.save(other, pictures(71))
    with pytest.raises(UserError, match="the data changed since"):
        go_on(stopped, str(other))
    config = stopped / "config.yaml"
    config.write_text(config.read_text().replace("recipe: i-jepa", "recipe: v-jepa"))
    with pytest.raises(UserError, match="v-jepa"):
        go_on(stopped, data)
    assert (stopped / "metrics.jsonl").read_bytes() == before


def test_seed_nought_is_told_from_no_seed(tmp_path, data):
    out = tmp_path / "run"
    train_small(out, data, steps=1, seed=7)
    with pytest.raises(UserError, match="started with seed = 7, not 0"):
        train_small(out, data, resume=True, fields={}, steps=None, seed=0)


def test_fields_that_no_preset_allows_together_go_on(tmp_path, data):
    """32 pixels in patches of 5 do not divide, which only the fields of the run, taken together, repair."""
    out = tmp_path / "run"
    fields = {**FIELDS, "image_size": (15, 15), "patch_size": 5}
    train_small(out, data, fields=fields, steps=1)
    assert train_small(out, data, resume=True, fields={"patch_size": 5}, steps=None)["steps"] == 1


def test_a_new_run_never_overwrites_an_old_one(stopped, data):
    with pytest.raises(UserError, match="already holds a run: go on with --resume, or choose another --out"):
        train_small(stopped, data)


def test_going_on_with_a_finished_run_changes_nothing_and_still_gives_its_figures(tmp_path, data):
    out = tmp_path / "run"
    first = train_small(out, data)
    before = tensors_of(out)
    again = go_on(out, data)
    assert again == first
    after = tensors_of(out)
    assert all((before[name] == after[name]).all() for name in before)
