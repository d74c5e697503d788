"""Randomness as a function of the seed, the epoch, the sample and the step."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from anyjepa.engine.randomness import WindowedOrder, permutation, step_generator, uniforms

PERMUTATION = [1, 5, 6, 4, 8, 7, 9, 3, 2, 0]
UNIFORMS = [
    [0.06664685391537228, 0.2861724945981269, 0.719348077785259],
    [0.14707614860798102, 0.9612383293537735, 0.34815059407260196],
    [0.6682839639807888, 0.06434459220097333, 0.8089673896273895],
]
STEP_SEED = 4245091184500617293
OTHER_STEP_SEED = 7488109026766694329

seeds = st.integers(0, 2**40)
samples = st.lists(st.integers(0, 2**40), min_size=1, max_size=20)


@given(seed=seeds, epoch=st.integers(0, 10_000), indices=samples, data=st.data())
@settings(max_examples=50)
def test_the_chance_of_a_sample_depends_on_no_other(seed, epoch, indices, data):
    rows = uniforms(seed, epoch, np.array(indices))
    shuffled = data.draw(st.permutations(range(len(indices))))
    assert np.array_equal(uniforms(seed, epoch, np.array(indices)[shuffled]), rows[shuffled])
    chosen = data.draw(st.integers(0, len(indices) - 1))
    assert np.array_equal(uniforms(seed, epoch, np.array([indices[chosen]])), rows[chosen : chosen + 1])


@given(seed=seeds, epoch=st.integers(0, 10_000), indices=samples, count=st.integers(1, 40))
@settings(max_examples=50)
def test_more_chances_begin_with_the_same_ones_and_lie_in_the_unit_interval(seed, epoch, indices, count):
    rows = uniforms(seed, epoch, np.array(indices), count)
    assert rows.shape == (len(indices), count)
    assert rows.dtype == np.float64
    assert ((rows >= 0) & (rows < 1)).all()
    assert np.array_equal(uniforms(seed, epoch, np.array(indices), count + 3)[:, :count], rows)


def test_chances_are_uniform_in_every_column_and_for_every_sample():
    rows = uniforms(0, 0, np.arange(20_000))
    assert min(stats.kstest(column, "uniform").pvalue for column in rows.T) > 1e-4
    over_epochs = np.concatenate([uniforms(0, epoch, np.array([7])) for epoch in range(500)])
    assert stats.kstest(over_epochs.ravel(), "uniform").pvalue > 1e-4


def test_columns_samples_epochs_and_seeds_are_uncorrelated():
    rows = uniforms(3, 5, np.arange(20_000))
    limit = 5 / np.sqrt(len(rows))  # five standard errors
    between_columns = np.corrcoef(rows.T) - np.eye(rows.shape[1])
    assert np.abs(between_columns).max() < limit
    for other in (
        uniforms(3, 6, np.arange(20_000)),
        uniforms(4, 5, np.arange(20_000)),
        uniforms(3, 5, np.arange(1, 20_001)),
    ):
        assert np.abs(np.corrcoef(rows.T, other.T)[:16, 16:]).max() < limit


def test_no_two_samples_share_a_chance():
    assert len(np.unique(uniforms(0, 0, np.arange(100_000), 4))) == 400_000


@given(seed=seeds, epoch=st.integers(0, 10_000), count=st.integers(1, 300))
@settings(max_examples=50)
def test_an_order_holds_every_sample_once(seed, epoch, count):
    order = permutation(seed, epoch, count)
    assert np.array_equal(np.sort(order), np.arange(count))
    assert np.array_equal(order, permutation(seed, epoch, count))


def test_orders_differ_between_epochs_and_seeds_and_every_place_is_as_likely():
    assert not np.array_equal(permutation(0, 0, 50), permutation(0, 1, 50))
    assert not np.array_equal(permutation(0, 0, 50), permutation(1, 0, 50))
    places = np.bincount(
        [int(np.flatnonzero(permutation(0, e, 10) == 3)[0]) for e in range(2000)], minlength=10
    )
    assert stats.chisquare(places).pvalue > 1e-4


def drawn(seed, step):
    return torch.rand(8, generator=step_generator(seed, step))


def test_a_step_has_its_own_generator_that_leaves_the_global_one_alone():
    state = torch.random.get_rng_state()
    assert torch.equal(drawn(1, 2), drawn(1, 2))
    everything = torch.stack([drawn(seed, step) for seed in range(5) for step in range(1, 40)])
    assert len(everything.unique()) == everything.numel()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_was_drawn_for_a_seed_is_drawn_for_it_forever():
    """These change only together with every run that people have: raise the version when they do."""
    assert permutation(0, 0, 10).tolist() == PERMUTATION
    assert uniforms(1, 2, np.array([0, 3, 10**12]), 3).tolist() == UNIFORMS
    assert step_generator(0, 1).initial_seed() == STEP_SEED
    assert step_generator(7, 123).initial_seed() == OTHER_STEP_SEED


@given(
    seed=seeds,
    epoch=st.integers(0, 100),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    window=st.integers(1, 100),
    data=st.data(),
)
@settings(max_examples=60)
def test_an_order_in_windows_has_every_sample_once_wherever_it_is_entered(seed, epoch, sizes, window, data):
    ends, total = np.cumsum(sizes), sum(sizes)
    order = WindowedOrder(seed, epoch, ends, window)
    whole = order.take(0, total)
    assert sorted(whole.tolist()) == list(range(total))
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start + 1, total))
    assert np.array_equal(WindowedOrder(seed, epoch, ends, window).take(start, stop), whole[start:stop])
    # blocks are fetched whole: those of one window are done with before the next begins
    blocks = np.searchsorted(ends, whole, side="right")
    first, last = {}, {}
    for place, block in enumerate(blocks.tolist()):
        first.setdefault(block, place)
        last[block] = place
    begun = 0
    for end in order.window_ends.tolist():
        inside = set(blocks[begun:end].tolist())
        assert all(begun <= first[block] and last[block] < end for block in inside)
        assert end - begun >= window or end == total
        begun = end


def test_an_order_in_windows_mixes_and_changes_with_the_epoch():
    ends = np.arange(100, 10_001, 100)
    orders = [WindowedOrder(0, epoch, ends, 1000).take(0, 10_000) for epoch in (0, 1)]
    for order in orders:
        # ten blocks of a hundred are shuffled together, so neighbours are of one block one time in ten
        alike = (np.diff(order // 100) == 0).mean()
        assert 0.08 < alike < 0.12
        assert abs(stats.spearmanr(order, np.arange(10_000)).statistic) < 0.3
    assert (orders[0] == orders[1]).mean() < 0.01
