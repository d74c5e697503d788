"""Batches: every sample at most once an epoch, all of one shape, damaged samples replaced and named."""

import gc
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_recipe

from anyjepa.core.errors import BadSample, UserError
from anyjepa.engine.loading import Steps, read_many
from anyjepa.engine.workers import batches


class Marked:
    """Pictures whose every pixel is the number of the sample; some are damaged."""

    source, description, labels, classes, problems, groups = "marked", "marked", None, None, [], None

    def __init__(self, count, damaged=()):
        self.count, self.damaged = count, frozenset(damaged)

    def __len__(self):
        return self.count

    def read(self, index):
        if index in self.damaged:
            raise BadSample(self.identity(index), "damaged on purpose")
        return np.full((20, 20, 1), index, np.uint8)

    def identity(self, index):
        return f"sample {index}"

    def fingerprint(self):
        return "0"


def steps_of(samples, batch_size=8, seed=0, steps=12):
    return Steps(samples, small_recipe(), batch_size, seed, steps)


def numbers(batch):
    """Which samples a batch of `Marked` holds, in order."""
    image = batch["image"]
    assert (image == image[:, :1, :1, :1]).all()
    return image[:, 0, 0, 0].tolist()


@given(count=st.integers(1, 60), batch_size=st.integers(1, 20), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_every_sample_comes_at_most_once_an_epoch_and_all_batches_have_one_shape(count, batch_size, seed):
    batch_size = min(batch_size, count)
    loader = steps_of(Marked(count), batch_size, seed, steps=2 * (count // batch_size))
    for epoch in range(2):
        seen = []
        for position in range(loader.steps_per_epoch):
            batch, problems = loader[epoch * loader.steps_per_epoch + position]
            assert batch["image"].shape == (batch_size, 1, 16, 16)
            assert not problems
            seen += numbers(batch)
        assert len(set(seen)) == len(seen) == count // batch_size * batch_size


def test_another_epoch_has_another_order_and_leaves_out_other_samples():
    loader = steps_of(Marked(21), steps=400)
    left_out = []
    for epoch in range(200):
        seen = {n for position in range(2) for n in numbers(loader[2 * epoch + position][0])}
        left_out += set(range(21)) - seen
    assert len(set(left_out)) == 21


def test_a_damaged_sample_is_replaced_by_the_next_whole_one_and_named():
    found, problems = read_many(Marked(10, damaged=(3, 4, 9)), np.array([2, 3, 9]))
    assert [int(image[0, 0, 0]) for image in found] == [2, 5, 0]
    assert [problem.identity for problem in problems] == ["sample 3", "sample 4", "sample 9"]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_with_damaged_samples_are_whole_and_always_alike(workers):
    loader = steps_of(Marked(30, damaged=range(0, 30, 3)))
    loaded = list(batches(loader, 0, workers, pin=False))
    assert len(loaded) == 12
    for step, (batch, problems) in enumerate(loaded):
        again, same = loader[step]
        assert torch.equal(batch["image"], again["image"])
        assert [str(problem) for problem in problems] == [str(problem) for problem in same]
        assert batch["image"].shape == (8, 1, 16, 16)
        assert not {n for n in numbers(batch) if n % 3 == 0}


@pytest.mark.parametrize("start", [0, 1, 5, 12])
def test_loading_may_begin_at_any_step(start):
    loader = steps_of(Marked(30))
    loaded = [numbers(batch) for batch, _ in batches(loader, start, 0, pin=False)]
    assert loaded == [numbers(loader[step][0]) for step in range(start, 12)]


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_cannot_be_read_at_all_is_one_sentence_whoever_reads(workers, monkeypatch):
    patience = 60  # seconds that torch waits for a worker which was not told to leave; five by default
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", patience)
    start = time.monotonic()
    with pytest.raises(UserError, match="100 samples in a row cannot be read") as caught:
        list(batches(steps_of(Marked(30, damaged=range(30))), 0, workers, pin=False))
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()
    assert time.monotonic() - start < patience, "workers were not told to leave: they were waited for"


def test_loading_leaves_the_global_random_numbers_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    list(batches(steps_of(Marked(30)), 0, 0, pin=False))
    assert torch.equal(torch.random.get_rng_state(), state)
