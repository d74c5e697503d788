"""Masks over spectrograms: disjoint, as large as asked, within the clip, and true to their geometry."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from anyjepa.domains.audio_masks import GEOMETRIES, RandomTokens, SpectrogramBlocks

GRID = (64, 8)
EASY = {"targets": 4, "scale": (0.15, 0.2)}
HARD = {"targets": 3, "scale": (0.05, 0.075)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def members(indices, present=None, patches=512):
    found = torch.zeros(len(indices), patches, dtype=torch.bool)
    flat = indices.flatten(1)
    kept = torch.ones_like(flat, dtype=torch.bool) if present is None else present.flatten(1)
    return found.scatter_reduce(1, flat, kept, "amax")


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", [EASY, HARD])
def test_contexts_are_disjoint_from_targets_and_never_empty(geometry, kind):
    sampler = SpectrogramBlocks(GRID, geometry=geometry, **kind)
    masks = sampler(400, generator())
    context, hidden = members(masks.context, masks.present), members(masks.targets)
    assert context.any(1).all()
    assert not (context & hidden)[~masks.relaxed].any()
    assert masks.relaxed.float().mean() < 0.01
    assert (context.sum(1) >= 0.15 * 512)[~masks.relaxed].float().mean() > 0.9
    assert (masks.targets.sort(-1).values.diff(dim=-1) > 0).all(), "a patch twice in one block"
    # what pads the context repeats what is in it
    padding = masks.context[~masks.present]
    rows = (~masks.present).nonzero()[:, 0]
    assert context[rows, padding].all()


@pytest.mark.parametrize(
    ("geometry", "nominal"), [("rect", EASY), ("rect", HARD), ("time", HARD), ("cross", HARD)]
)
def test_blocks_cover_what_was_asked(geometry, nominal):
    """Square blocks do not fit a long thin grid: shares of it do, within a tenth (check 6 of the note)."""
    sampler = SpectrogramBlocks(GRID, geometry=geometry, **nominal)
    assert sampler.realised == pytest.approx(sum(nominal["scale"]) / 2, rel=0.1)


def test_a_cross_shares_neither_moment_nor_neighbouring_band():
    sampler = SpectrogramBlocks(GRID, geometry="cross", least_context=0.0, **HARD)
    own = torch.full((300,), 64)
    blocks = sampler.blocks(own, generator(3))
    masks = sampler(300, generator(3))
    context = members(masks.context, masks.present).unflatten(1, GRID)
    clean = 0
    for index in range(300):
        kept = context[index]
        touched = 0
        for block in range(3):
            top, left, long, tall = (
                int(getattr(blocks, name)[index, block]) for name in ("top", "left", "height", "width")
            )
            touched += int(kept[top : top + long].sum())
            touched += int(kept[max(0, top - long) : top + 2 * long, left : left + tall].sum())
        clean += touched == 0
    assert clean > 0.9 * 300


def test_strips_are_whole_in_time_or_frequency():
    time, frequency, both = (
        SpectrogramBlocks(GRID, geometry=name, **HARD).blocks(torch.full((50,), 64), generator())
        for name in ("time", "frequency", "strip")
    )
    assert (time.width == 8).all() and (time.height >= 3).all() and (time.height <= 5).all()
    assert (frequency.height == 64).all() and (frequency.width == 1).all()
    assert (both.width[:, [0, 2]] == 8).all() and (both.height[:, 1] == 64).all()


@given(
    st.sampled_from([*GEOMETRIES, "random"]), st.integers(0, 2**31),
    st.lists(st.integers(1, 12), min_size=1, max_size=6), st.sampled_from([(12, 4), (12, 1), (12, 8)]),
)  # fmt: skip
def test_nothing_beyond_a_short_clip_is_seen_or_predicted(geometry, seed, columns, grid):
    patches = grid[0] * grid[1]
    sampler = (
        RandomTokens(patches, grid[1]) if geometry == "random"
        else SpectrogramBlocks(grid, geometry=geometry, **HARD)
    )  # fmt: skip
    own = torch.tensor(columns)
    masks = sampler(len(columns), generator(seed), own)
    assert masks.context.shape == (len(columns), sampler.context_width)
    assert masks.targets.shape[2] == sampler.target_width
    context = members(masks.context, masks.present, patches)
    hidden = members(masks.targets, masks.weights > 0, patches)
    there = torch.arange(patches) < own[:, None] * grid[1]
    assert not (hidden & ~there).any()
    assert not (context & ~there)[~masks.relaxed].any()
    assert not (context & hidden)[~masks.relaxed].any()
    assert context.any(1).all() and hidden.any(1).all()
    assert (masks.weights.sum(-1) >= 1).all()
    # what is counted is counted once
    counted = torch.zeros(len(columns), sampler.targets if geometry != "random" else 1, patches)
    counted.scatter_add_(2, masks.targets, masks.weights)
    assert counted.max() <= 1


@pytest.mark.parametrize("hidden", [0.3, 0.5, 0.75])
def test_random_tokens_are_a_partition(hidden):
    sampler = RandomTokens(512, 8, hidden)
    masks = sampler(20, generator())
    whole = torch.cat([masks.context, masks.targets[:, 0]], 1).sort(1).values
    assert (whole == torch.arange(512)).all()
    assert masks.targets.shape == (20, 1, round(512 * hidden))


def test_draws_depend_on_the_generator_alone():
    sampler = SpectrogramBlocks(GRID, geometry="cross", **HARD)
    first, again, other = (sampler(8, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.context, again.context) and torch.equal(first.targets, again.targets)
    assert not torch.equal(first.targets, other.targets)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"grid": (1, 2)}, "too small"), ({"grid": GRID, "scale": (0.0, 0.1)}, "share"),
        ({"grid": GRID, "context_scale": (0.9, 1.2)}, "share"), ({"grid": GRID, "targets": 0}, "blocks"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        SpectrogramBlocks(**arguments)
    with pytest.raises(ValueError, match="leaves none"):
        RandomTokens(16, 4, 1.0)
