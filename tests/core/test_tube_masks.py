"""V-JEPA's masks: tubes, partitions, sizes, and what thinning must not do (checks 2 and 3 of the note)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.masking import Masks
from anyjepa.core.tube_masks import TRIES, RandomTubes, TubeBlocks

GRID = (8, 14, 14)
generators = st.integers(0, 10_000).map(lambda seed: torch.Generator().manual_seed(seed))


def sides(mask, shape=GRID):
    return mask.unflatten(1, shape)


def test_every_mask_is_a_tube():
    hidden = sides(TubeBlocks(GRID).predicted(256, torch.Generator().manual_seed(0)))
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden)), "the same places in every time slice"
    assert hidden.flatten(1).any(1).all()


def test_areas_of_the_published_blocks():
    assert TubeBlocks(GRID, 8, 0.15).area == 29
    assert TubeBlocks(GRID, 2, 0.7).area == 137
    generator = torch.Generator().manual_seed(0)
    one = sides(TubeBlocks(GRID, 1, 0.15).predicted(4096, generator))[:, 0].float()
    # a rounded height times a rounded width is not the area itself
    assert one.sum((1, 2)).mean() == pytest.approx(29, rel=0.04)


def test_blocks_reach_every_border_alike():
    one = sides(TubeBlocks(GRID, 1, 0.15).predicted(20_000, torch.Generator().manual_seed(0)))[:, 0].float()
    share = one.mean(0)
    assert share.min() > 0
    for first, last in ((share[0], share[-1]), (share[:, 0], share[:, -1])):
        assert first.mean() == pytest.approx(float(last.mean()), rel=0.1)


def test_shares_that_are_hidden_before_thinning():
    """63 % and 82 % by the note's draws of one aspect ratio a batch; ours are drawn block by block."""
    for blocks, scale, share in ((8, 0.15, 0.63), (2, 0.7, 0.83)):
        hidden = TubeBlocks(GRID, blocks, scale).predicted(4096, torch.Generator().manual_seed(0))
        assert hidden.float().mean() == pytest.approx(share, abs=0.015)


def test_widths_are_near_those_of_the_released_collator():
    """About 367 and 99 of 1,568 tokens stay after its cut to the smallest of 24."""
    assert TubeBlocks(GRID, 8, 0.15).context_width == pytest.approx(367, rel=0.1)
    assert TubeBlocks(GRID, 2, 0.7).context_width == pytest.approx(99, rel=0.1)


@settings(max_examples=30)
@given(
    generators,
    st.tuples(st.integers(1, 4), st.integers(3, 8), st.integers(3, 8)),
    st.integers(1, 6),
    st.floats(0.1, 0.5),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from(["blocks", "unseen", "outside"]),
)
def test_context_and_predictions_are_disjoint_sets(generator, shape, blocks, scale, duration, predict):
    sampler = TubeBlocks(
        shape, blocks, scale, duration, inverted=predict == "outside", everything=predict == "unseen"
    )
    masks = sampler(8, generator)
    assert masks.context.shape == (8, sampler.context_width)
    assert masks.targets.shape == (8, 1, sampler.target_width)
    for context, targets, relaxed in zip(masks.context, masks.targets[:, 0], masks.relaxed, strict=True):
        seen, wanted = set(context.tolist()), set(targets.tolist())
        assert len(seen) == len(context)
        assert len(wanted) == len(targets)
        assert max(seen | wanted) < shape[0] * shape[1] * shape[2]
        if not relaxed or predict == "unseen":
            assert not seen & wanted
        if predict == "unseen":
            assert len(seen | wanted) == sampler.tokens


def test_relaxed_masks_are_next_to_none():
    sampler = TubeBlocks(GRID, 2, 0.7)
    assert not sampler(2_000, torch.Generator().manual_seed(0)).relaxed.any()
    assert TRIES >= 4


def test_thinning_spares_no_time_slice():
    """The released cut keeps the earliest tokens; ours hides and shows all slices alike."""
    for published, spread in ((False, 1.15), (True, None)):
        sampler = TubeBlocks(GRID, 2, 0.7, published=published)
        masks = sampler(512, torch.Generator().manual_seed(0))
        slices = torch.bincount(masks.context.flatten() // 196, minlength=8).float()
        if spread:
            assert slices.max() < spread * slices.min()
        else:
            assert slices[-1] < 0.3 * slices[0]


def test_published_masks_are_the_first_of_the_smallest():
    sampler = TubeBlocks((2, 6, 6), 3, 0.2, published=True)
    generator = torch.Generator().manual_seed(3)
    hidden = sampler.predicted(4 * TRIES, torch.Generator().manual_seed(3)).unflatten(0, (4, TRIES))[:, 0]
    masks = sampler(4, generator)
    assert masks.context.shape[1] == int((~hidden).sum(1).min())
    assert masks.targets.shape[2] == int(hidden.sum(1).min())
    for row in range(4):
        assert masks.context[row].tolist() == (~hidden[row]).nonzero()[: masks.context.shape[1], 0].tolist()


def test_a_causal_context_keeps_to_the_first_slices():
    sampler = TubeBlocks(GRID, context_slices=3)
    masks = sampler(64, torch.Generator().manual_seed(0))
    assert int(masks.context.max()) < 3 * 196
    assert int(masks.targets.max()) >= 7 * 196


def test_inverted_blocks_are_what_is_seen():
    hidden = sides(TubeBlocks(GRID, 1, 0.15, inverted=True).predicted(64, torch.Generator().manual_seed(0)))
    assert (~hidden)[:, 0].sum((1, 2)).float().mean() == pytest.approx(29, rel=0.1)


def test_random_tubes_partition_the_clip():
    masks = RandomTubes((4, 5, 5), 0.9)(16, torch.Generator().manual_seed(0))
    assert isinstance(masks, Masks)
    assert masks.targets.shape == (16, 1, 4 * 22)
    for context, targets in zip(masks.context, masks.targets[:, 0], strict=True):
        assert sorted([*context.tolist(), *targets.tolist()]) == list(range(100))
        assert len(set((context % 25).tolist())) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"spatial_scale": 0.0},
        {"temporal_scale": 2.0},
        {"aspect": (2.0, 1.0)},
        {"spatial_scale": 1.0, "aspect": (1.0, 1.0)},
    ],
)
def test_masks_that_cannot_be_drawn_are_refused(wrong):
    with pytest.raises(ValueError, match=r"scales|leave nothing"):
        TubeBlocks(GRID, **wrong)
