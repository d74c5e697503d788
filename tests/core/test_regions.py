"""Otsu's threshold, connected components and ranked regions against naive loops and scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anyjepa.core.regions import between_class_variance, connected, grey_levels, otsu, salient_regions

GRID = (14, 14)
CORNERS = np.ones((3, 3))


def two_islands(side=8):
    """The map of the note's exact check 2: 40 (or fewer) cells of 1, 36 of 0.5, the others 0."""
    saliency = torch.zeros(GRID)
    saliency[:side, :5] = 1.0
    saliency[8:, 8:] = 0.5
    return saliency.flatten()


def naive_variance(levels, cut):
    """Between-class variance by the definition."""
    low, high = levels[levels <= cut], levels[levels > cut]
    if not len(low) or not len(high):
        return 0.0
    return len(low) * len(high) / len(levels) ** 2 * (low.mean() - high.mean()) ** 2


def naive_regions(saliency, grid, count, least):
    """Slots, found and scores of one map, step by step as the paper says."""
    stretched = (saliency - saliency.min()) / (saliency.max() - saliency.min() + np.float32(1e-6))
    levels = np.floor(stretched * np.float32(255)).astype(int)
    cut = max(range(256), key=lambda cut: naive_variance(levels, cut))
    label, number = ndimage.label((levels > cut).reshape(grid), CORNERS)
    label = label.flatten()
    kept = [part for part in range(1, number + 1) if (label == part).sum() >= least * len(label) - 1e-6]
    kept.sort(key=lambda part: -stretched[label == part].mean())
    slots = np.full(len(label), count - 1)
    for place, part in enumerate(kept[: count - 1]):
        slots[label == part] = place
    scores = [stretched[label == part].mean() for part in kept[: count - 1]]
    return slots, len(scores), scores + [0.0] * (count - 1 - len(scores))


def smooth_maps(batch, grid, seed, width=1.0):
    """Random maps with blobs in them."""
    random = np.random.default_rng(seed)
    maps = [ndimage.gaussian_filter(random.normal(size=grid), width).flatten() for _ in range(batch)]
    return torch.tensor(np.stack(maps), dtype=torch.float32)


def test_otsu_knows_the_answers_of_the_note():
    """Exact check 2: 8969 for a cut between 0 and 127, 8274 for one between 127 and 255."""
    levels = torch.tensor([[255] * 40 + [127] * 36 + [0] * 120])
    variance = between_class_variance(levels)[0]
    assert variance[:127].round().unique().tolist() == [8969]
    assert variance[127:255].round().unique().tolist() == [8274]
    assert variance[255] == 0
    assert otsu(levels).tolist() == [0], "of equal cuts the lowest"


def test_two_islands_become_two_regions_and_a_small_one_none():
    """Exact check 2."""
    maps = torch.stack([two_islands(), two_islands(side=5), torch.full((196,), 0.3)])
    found = salient_regions(maps, GRID, 5, 0.15)
    sizes = [torch.bincount(slots, minlength=5).tolist() for slots in found.slots]
    assert sizes == [[40, 36, 0, 0, 120], [36, 0, 0, 0, 160], [0, 0, 0, 0, 196]]
    assert found.found.tolist() == [2, 1, 0]
    assert found.scores[0].tolist() == pytest.approx([1.0, 0.5, 0, 0], abs=1e-5)
    assert not found.scores[2].any()


@given(
    levels=st.lists(st.integers(0, 255), min_size=2, max_size=40),
    other=st.integers(0, 255),
)
def test_otsu_is_the_best_of_all_cuts(levels, other):
    """Exact check 3; a second map in the batch changes nothing."""
    both = torch.tensor([levels, [other] * len(levels)])
    values = np.array(levels)
    by_cut = np.array([naive_variance(values, cut) for cut in range(256)])
    assert between_class_variance(both)[0].numpy() == pytest.approx(by_cut, abs=1e-8)
    cut = int(otsu(both)[0])
    assert by_cut[cut] == pytest.approx(by_cut.max(), rel=1e-12)
    # no cut that is truly better, and no lower one that parts the values alike
    assert not any((np.array_equal(values <= lower, values <= cut)) for lower in range(cut))
    assert otsu(both)[1] == 0


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 9), columns=st.integers(1, 9), share=st.floats(0, 1))
def test_components_are_those_of_scipy(seed, rows, columns, share):
    mask = np.random.default_rng(seed).random((3, rows, columns)) < share
    got = connected(torch.from_numpy(mask).flatten(1), (rows, columns)).numpy()
    for one, labels in zip(mask, got, strict=True):
        expected, number = ndimage.label(one, CORNERS)
        expected = expected.flatten()
        assert (labels == rows * columns).tolist() == (expected == 0).tolist()
        firsts = [int(np.flatnonzero(expected == part)[0]) for part in range(1, number + 1)]
        assert all((labels[expected == part + 1] == first).all() for part, first in enumerate(firsts))


def test_cells_that_touch_at_a_corner_are_one_component():
    """Exact check 3."""
    mask = torch.eye(4, dtype=torch.bool).flatten().unsqueeze(0)
    assert connected(mask, (4, 4))[0][mask[0]].tolist() == [0, 0, 0, 0]


def test_the_longest_way_there_is_is_followed_to_its_end():
    """A path through every second row is twice as long as log2 of any smaller power would reach."""
    mask = torch.zeros(GRID, dtype=torch.bool)
    mask[::2] = True
    for row in range(1, 13, 2):
        mask[row, 13 if row % 4 == 1 else 0] = True
    got = connected(mask.flatten().unsqueeze(0), GRID)[0]
    assert set(got.tolist()) == {0, 196}


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    count=st.integers(2, 6),
    least=st.sampled_from([0.02, 0.05, 0.1, 0.15]),
)
@settings(max_examples=40)
def test_regions_are_those_of_a_naive_loop(seed, rows, columns, count, least):
    """Exact check 1: disjoint, of enough cells, connected, in falling order; together the whole grid."""
    grid, maps = (rows, columns), smooth_maps(3, (rows, columns), seed)
    found = salient_regions(maps, grid, count, least)
    for index, saliency in enumerate(maps.numpy()):
        slots, number, scores = naive_regions(saliency, grid, count, least)
        assert found.slots[index].tolist() == slots.tolist()
        assert int(found.found[index]) == number
        assert found.scores[index].tolist() == pytest.approx(scores, abs=1e-5)
        for place in range(number):
            region = (found.slots[index] == place).numpy()
            assert region.sum() >= max(1, np.ceil(least * rows * columns - 1e-6))
            assert ndimage.label(region.reshape(grid), CORNERS)[1] == 1
    assert (found.scores.diff(dim=1) <= 0).all()
    assert found.slots.max() < count


def test_many_regions_keep_only_the_most_salient():
    saliency = torch.zeros(9, 9)
    for place in range(5):
        saliency[2 * place, :] = 5.0 + place
    found = salient_regions(saliency.flatten().unsqueeze(0), (9, 9), 4, 0.05)
    assert found.slots.view(9, 9)[:, 0].tolist() == [3, 3, 3, 3, 2, 3, 1, 3, 0]
    assert found.found.tolist() == [3]


@given(scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
@settings(max_examples=20)
def test_scale_and_offset_of_saliency_do_not_matter(scale, shift):
    maps = smooth_maps(2, (7, 7), 3, 1.5).double()
    first, second = (salient_regions(one, (7, 7), 4, 0.1) for one in (maps, maps * scale + shift))
    # the 1e-6 of equation 1 weighs more where the range is small
    assert (grey_levels(maps)[1] - grey_levels(maps * scale + shift)[1]).abs().max() <= 1
    assert (first.slots != second.slots).float().mean() < 0.1


def test_what_is_no_number_stands_out_nowhere():
    maps = smooth_maps(3, (6, 6), 0)
    maps[1, 5], maps[2] = torch.inf, torch.nan
    found = salient_regions(maps, (6, 6), 4, 0.1)
    assert found.found[2] == 0
    assert found.scores.isfinite().all()
