"""The mask samplers: what holds for every draw, and every defect of the released collator absent."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from anyjepa.core.masking import Blocks, MultiBlock, RandomPatches

SHARED_DRAW_SIZES = {(5, 6): 0.265, (6, 6): 0.218, (6, 5): 0.126, (7, 5): 0.364, (8, 5): 0.026}
PAPER_SIZES = {*SHARED_DRAW_SIZES, (5, 5), (5, 7), (6, 4), (6, 7), (7, 4), (7, 6)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def counts(indices, patches):
    return torch.bincount(indices.flatten(), minlength=patches)


@given(
    rows=st.integers(3, 18),
    columns=st.integers(3, 18),
    targets=st.integers(1, 5),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**31),
    low=st.floats(0.3, 1.0),
)
@settings(max_examples=60)
def test_masks_are_unique_inside_the_grid_and_disjoint_unless_relaxed(
    rows, columns, targets, batch, seed, low
):
    sampler = MultiBlock((rows, columns), targets, context_scale=(low, 1.0))
    masks = sampler(batch, generator(seed))
    assert masks.context.shape == (batch, sampler.context_width)
    assert masks.targets.shape == (batch, targets, sampler.target_width)
    for context, blocks, relaxed in zip(masks.context, masks.targets, masks.relaxed, strict=True):
        assert len(set(context.tolist())) == len(context)
        assert all(len(set(block.tolist())) == len(block) for block in blocks)
        assert int(blocks.min()) >= 0
        assert int(max(blocks.max(), context.max())) < rows * columns
        overlap = set(context.tolist()) & set(blocks.flatten().tolist())
        if not relaxed:
            assert not overlap


def test_the_same_generator_state_gives_the_same_masks_and_another_does_not():
    sampler = MultiBlock((14, 14))
    first, again, other = sampler(8, generator(1)), sampler(8, generator(1)), sampler(8, generator(2))
    assert torch.equal(first.context, again.context)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.targets, other.targets)


def test_target_blocks_of_the_paper_on_its_grid():
    sampler = MultiBlock((14, 14))
    blocks = sampler.target_blocks(4096, generator())
    assert (
        set(zip(blocks.height.flatten().tolist(), blocks.width.flatten().tolist(), strict=True))
        == PAPER_SIZES
    )
    area = blocks.height * blocks.width
    assert (int(area.min()), int(area.max())) == (24, 42)
    assert int(blocks.height.max()) <= 13
    assert int(blocks.width.max()) <= 13
    assert sampler.target_width == 24


def test_every_target_patch_lies_in_its_block():
    sampler = MultiBlock((14, 14))
    state = generator(5)
    blocks = sampler.target_blocks(64, generator(5))
    inside = blocks.members((14, 14))
    assert inside.gather(-1, sampler(64, state).targets).all()


def test_blocks_reach_the_last_row_and_column_as_the_released_ones_never_do():
    ours, theirs = MultiBlock((14, 14)), MultiBlock((14, 14), published=True)
    for sampler, reached in ((ours, True), (theirs, False)):
        used = torch.zeros(196, dtype=torch.long)
        for step in range(60):
            masks = sampler(64, generator(step))
            used += counts(masks.context, 196) + counts(masks.targets, 196)
        used = used.view(14, 14)
        assert bool((used[13] > 0).all()) == reached
        assert bool((used[:, 13] > 0).all()) == reached
        assert bool((used[:13, :13] > 0).all())


def test_positions_of_a_block_are_uniform():
    blocks = MultiBlock((14, 14)).target_blocks(8192, generator())
    tops = blocks.top[(blocks.height == 6)]
    assert stats.chisquare(torch.bincount(tops, minlength=9).numpy()).pvalue > 1e-4


def test_scale_and_aspect_are_drawn_independently_for_each_block():
    ours = MultiBlock((24, 24)).target_blocks(4096, generator())
    area = (ours.height * ours.width).double().flatten()
    aspect = (ours.height / ours.width).double().flatten()
    assert abs(stats.pearsonr(area, aspect).statistic) < 0.05
    assert ours.height.unique(dim=1).shape[1] > 1
    released = MultiBlock((24, 24), published=True)
    theirs = [released(1, generator(step)).targets.shape[-1] for step in range(200)]
    assert len(set(theirs)) > 3  # one size for all blocks of a batch, another the next step


def kept_share_of_rows(sampler):
    """For each row of a 16 x 16 grid: patches in contexts over patches that were free to be."""
    kept, free = torch.zeros(256, dtype=torch.long), torch.zeros(256, dtype=torch.long)
    for step in range(20):
        masks = sampler(128, generator(step))
        hidden = torch.zeros(128, 256, dtype=torch.bool).scatter_(1, masks.targets.flatten(1), True)
        if not sampler.published:  # targets are thinned; ask the blocks themselves
            hidden = sampler.target_blocks(128, generator(step)).union((16, 16))
        kept += counts(masks.context, 256)
        free += (~hidden).sum(0)
    return kept.view(16, 16).sum(1).double() / free.view(16, 16).sum(1)


def test_contexts_are_thinned_alike_in_all_rows_as_the_released_ones_are_not():
    # a context block of the whole grid, so that every patch outside the targets is free to be kept
    ours = kept_share_of_rows(MultiBlock((16, 16), context_scale=(1.0, 1.0)))
    theirs = kept_share_of_rows(MultiBlock((16, 16), context_scale=(1.0, 1.0), published=True))
    assert ours.min() > 0.93 * ours.max()
    assert theirs[13:].max() < 0.2 * theirs[:3].min()


def test_rows_equally_far_from_the_middle_are_seen_equally_often():
    sampler, found = MultiBlock((16, 16)), torch.zeros(256, dtype=torch.long)
    for step in range(20):
        found += counts(sampler(128, generator(step)).context, 256)
    rows = found.view(16, 16).sum(1)
    for row in range(8):
        assert stats.chisquare([int(rows[row]), int(rows[15 - row])]).pvalue > 1e-4


def test_thinning_keeps_every_patch_of_a_block_equally_often():
    sampler = MultiBlock((14, 14), target_scale=(0.2, 0.2), target_aspect=(1.5, 1.5))
    sampler.target_width = 20
    blocks = Blocks(*(torch.full((4096, 4), value) for value in (2, 3, 8, 5)))
    kept = counts(sampler._thin_targets(blocks, generator()), 196).view(14, 14)[2:10, 3:8].flatten()
    assert int(kept.sum()) == 4096 * 4 * 20
    assert stats.chisquare(kept.numpy()).pvalue > 1e-4


def test_published_sizes_have_the_probabilities_of_the_note():
    sampler = MultiBlock((14, 14), published=True)
    found: dict[tuple[int, int], int] = {}
    for step in range(4000):
        block = sampler(1, generator(step)).targets[0, 0]
        row, column = block // 14, block % 14
        size = (int(row.max() - row.min() + 1), int(column.max() - column.min() + 1))
        found[size] = found.get(size, 0) + 1
    assert set(found) == set(SHARED_DRAW_SIZES)
    for size, share in SHARED_DRAW_SIZES.items():
        assert found[size] / 4000 == pytest.approx(share, abs=0.03)


def test_published_contexts_are_cut_to_the_smallest_keeping_the_first():
    masks = MultiBlock((16, 16), published=True)(128, generator())
    ours = MultiBlock((16, 16))(128, generator())
    assert (masks.context.diff(dim=1) > 0).all()
    assert 45 < masks.context.shape[1] < 95  # about 69 of 111 survive
    assert ours.context.shape[1] > masks.context.shape[1]


def test_published_relaxation_gives_up_the_last_targets_first():
    sampler = MultiBlock((8, 8), published=True)
    context = torch.ones(1, 64, dtype=torch.bool)
    targets = torch.zeros(1, 4, 64, dtype=torch.bool)
    for block in range(4):
        targets[0, block, 15 * block : 15 * block + 15] = True
    free, relaxed = sampler._drop_constraints(context, targets)
    assert bool(relaxed)
    assert free[0].nonzero().flatten().tolist() == list(range(45, 64))


def test_a_sample_whose_targets_cover_too_much_is_relaxed_and_says_so():
    sampler = MultiBlock((6, 6), targets=4, target_scale=(0.2, 0.3), context_width=14)
    masks = sampler(256, generator())
    assert masks.relaxed.any()
    assert not masks.relaxed.all()
    for context, blocks, relaxed in zip(masks.context, masks.targets, masks.relaxed, strict=True):
        if relaxed:
            assert len(set(context.tolist())) == 14
        else:
            assert not set(context.tolist()) & set(blocks.flatten().tolist())


def test_two_thousand_masks_take_under_twenty_milliseconds_on_one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sampler, state, best, end = MultiBlock((16, 16)), generator(), 1.0, time.perf_counter() + 20
    try:
        # the best of many: other work on the machine can only make a draw slower than it is
        while best >= 0.020 and time.perf_counter() < end:
            start = time.thread_time()
            sampler(2048, state)
            best = min(best, time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert best < 0.020, f"{1e3 * best:.1f} ms"


def test_random_patches_are_disjoint_and_uniform():
    sampler = RandomPatches(64, 4, 8, 18)
    masks = sampler(4096, generator())
    everything = torch.cat([masks.context, masks.targets.flatten(1)], dim=1)
    assert (everything.sort(dim=1).values.diff(dim=1) > 0).all()
    assert stats.chisquare(counts(masks.context, 64).numpy()).pvalue > 1e-4
    with pytest.raises(ValueError, match="do not fit"):
        RandomPatches(64, 4, 12, 18)


@pytest.mark.parametrize(
    "bad", [{"target_scale": (0.3, 0.2)}, {"context_scale": (0.0, 1.0)}, {"shape": (1, 3)}]
)
def test_masks_that_cannot_be_drawn_are_refused(bad):
    with pytest.raises(ValueError, match=r"range|too small"):
        MultiBlock(**{"shape": (8, 8), **bad})
