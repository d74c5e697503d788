"""Checkpoints: whole or not at all, the newest two, damage noticed, weights that do not fit refused."""

import errno
import json
import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from small import small_method, small_recipe

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.engine import checkpoint as module
from anyjepa.engine.checkpoint import (
    checkpoints,
    load_strictly,
    newest_checkpoint,
    restore,
    save_checkpoint,
)
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.randomness import step_generator


def trained(steps=3, seed=0):
    method = small_method(seed)
    optimiser = build_optimiser(method)
    for step in range(1, steps + 1):
        update(method, optimiser, step)
    return method, optimiser


def update(method, optimiser, step):
    torch.manual_seed(step)
    context = Context(step, 10, step_generator(0, step))
    apply(optimiser, schedule(small_recipe(), step, 10))
    method.losses({"image": torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)}, context)[
        "loss"
    ].backward()
    optimiser.step()
    optimiser.zero_grad()
    method.after_step(context)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_to_the_bit_and_training_goes_on_alike(tmp_path):
    method, optimiser = trained()
    save_checkpoint(tmp_path, 3, method, optimiser, {"note": "kept"})
    found, complaints = newest_checkpoint(tmp_path)
    assert not complaints
    assert (found.step, found.facts) == (3, {"note": "kept"})
    other = small_method(seed=99)
    other_optimiser = build_optimiser(other)
    restore(found, other, other_optimiser)
    for step in (4, 5):
        update(method, optimiser, step)
        update(other, other_optimiser, step)
    mine, theirs = method.state_dict(), other.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_newest_two_are_kept_in_the_order_of_their_steps(tmp_path):
    method, optimiser = trained(1)
    for step in (1, 2, 9, 10, 100):
        save_checkpoint(tmp_path, step, method, optimiser, {})
    assert names(tmp_path) == ["step-000000010", "step-000000100"]
    assert newest_checkpoint(tmp_path)[0].step == 100


def full(*_arguments, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def refused_write(_tensors, path, *_rest):
    path.write_bytes(b"half")
    raise SafetensorError("Error while serializing: IoError(No space left)")


FAILURES = {
    "os.replace": (os, "replace", full),
    "os.fsync": (os, "fsync", full),
    "save_file": (module, "save_file", full),
    "save_file in its own words": (module, "save_file", refused_write),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_half_way_leaves_the_earlier_ones_and_no_part(tmp_path, monkeypatch, failure):
    method, optimiser = trained(1)
    for step in (1, 2):
        save_checkpoint(tmp_path, step, method, optimiser, {})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(*FAILURES[failure])
        usage = shutil.disk_usage(tmp_path)
        patched.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=10))
        with pytest.raises(UserError, match=r"checkpoint of step 3.*disk is full; free some space"):
            save_checkpoint(tmp_path, 3, method, optimiser, {})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert names(tmp_path) == ["step-000000001", "step-000000002"]
    assert newest_checkpoint(tmp_path)[0].step == 2


def test_what_a_killed_run_left_half_written_is_not_used_and_goes(tmp_path):
    method, optimiser = trained(1)
    save_checkpoint(tmp_path, 2, method, optimiser, {})
    shutil.copytree(tmp_path / "step-000000002", tmp_path / ".step-000000004.partial")
    assert newest_checkpoint(tmp_path)[0].step == 2
    save_checkpoint(tmp_path, 6, method, optimiser, {})
    assert names(tmp_path) == ["step-000000002", "step-000000006"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    method, optimiser = trained(1)
    for step in (1, 2):
        save_checkpoint(folder, step, method, optimiser, {"fact": 1})
    return folder


@given(data=st.data(), name=st.sampled_from(["state.safetensors", "progress.json"]))
@settings(max_examples=60)
def test_no_flipped_bit_and_no_cut_goes_unnoticed(two, data, name):
    path = checkpoints(two)[0] / name
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    bit = data.draw(st.sampled_from([None, *range(8)]))
    damaged = (
        content[:place]
        if bit is None
        else content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
    )
    try:
        path.write_bytes(damaged)
        found, complaints = newest_checkpoint(two)
    finally:
        path.write_bytes(content)
    if found.step == 2:  # a letter of a fact that nothing rests on
        assert name == "progress.json"
        assert json.loads(damaged)["sha256"] == json.loads(content)["sha256"]
    else:
        assert found.step == 1
        assert len(complaints) == 1
        assert "step-000000002 is damaged" in complaints[0]


def test_where_nothing_is_whole_nothing_is_claimed_to_be_used(tmp_path):
    method, optimiser = trained(1)
    save_checkpoint(tmp_path, 1, method, optimiser, {})
    (tmp_path / "step-000000001" / "state.safetensors").unlink()
    found, complaints = newest_checkpoint(tmp_path)
    assert found is None
    assert "there is none before it" in complaints[0]
    assert newest_checkpoint(tmp_path / "nowhere") == (None, [])


def test_weights_that_do_not_fit_are_refused_by_name():
    method = small_method()
    state = method.state_dict()
    lacking = {name: value for name, value in state.items() if name != "encoder.norm.weight"}
    for tensors, words in (
        (lacking, "they lack 'encoder.norm.weight'"),
        ({**state, "stray": torch.zeros(1)}, "they have an unexpected 'stray'"),
        (
            {**state, "encoder.norm.weight": torch.zeros(3)},
            "they have another shape of 'encoder.norm.weight'",
        ),
    ):
        with pytest.raises(UserError, match=words):
            load_strictly(small_method(), tensors)
