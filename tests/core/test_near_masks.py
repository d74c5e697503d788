"""Blocks of near tokens: known answers on a line, and what holds for any cloud."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.near_masks import NearBlocks
from anyjepa.core.points import distances, farthest_points


def cloud(batch=64, tokens=64, seed=0):
    return torch.randn(batch, tokens, 3, generator=torch.Generator().manual_seed(seed))


def draw(sampler, centres, seed=0):
    return sampler(centres, torch.Generator().manual_seed(seed))


def test_blocks_on_a_line_are_known():
    """Exact check 2 of the note on 3D-JEPA."""
    line = torch.zeros(1, 64, 3)
    line[0, :, 0] = torch.arange(64.0)
    middles = farthest_points(line, 4, torch.tensor([0]))
    assert middles.tolist() == [[0, 63, 31, 47]]
    blocks = NearBlocks(64)._nearest(distances(line, line), middles, 10)[0]
    found = [set(block.tolist()) for block in blocks]
    assert found == [set(range(10)), set(range(54, 64)), set(range(26, 36)), set(range(42, 52))]
    assert len(set.union(*found)) == 40


def test_widths_are_those_of_the_note():
    """Exact check 5: 9 to 12 of 64 patches a block, 54 to 63 in the context before targets leave it."""
    sampler, chance = NearBlocks(64), torch.Generator().manual_seed(0)
    drawn = [sampler.widths(chance) for _ in range(400)]
    assert {target for target, _ in drawn} == {9, 10, 11, 12}
    assert {context for _, context in drawn} == set(range(54, 64))


def test_every_block_is_its_middle_and_what_lies_nearest():
    """Exact check 3."""
    centres = cloud()
    masks, apart = draw(NearBlocks(64), centres), distances(centres, centres)
    inside = torch.zeros(64, 4, 64, dtype=torch.bool).scatter(2, masks.targets, True)
    middles = masks.targets[:, :, 0]
    rows = apart.gather(1, middles.unsqueeze(2).expand(-1, -1, 64))
    assert (rows.gather(2, masks.targets[:, :, :1]) == 0).all()
    farthest_in = rows.masked_fill(~inside, -1).amax(2)
    nearest_out = rows.masked_fill(inside, torch.inf).amin(2)
    assert (farthest_in <= nearest_out).all()


def test_farthest_middles_spread_the_blocks():
    """Exact check 4: they overlap less and cover more than blocks around random middles."""

    def covered(spread):
        masks = draw(NearBlocks(64, spread=spread), cloud(512))
        inside = torch.zeros(512, 4, 64).scatter(2, masks.targets, 1.0)
        shared = inside @ inside.mT
        overlap = (shared.sum((1, 2)) - shared.diagonal(dim1=1, dim2=2).sum(1)).mean() / 12
        return overlap.item(), inside.amax(1).sum(1).mean().item()

    (overlap, union), (random_overlap, random_union) = covered(True), covered(False)
    assert overlap < 0.6 * random_overlap
    assert union > random_union + 2


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(2, 40),
    targets=st.integers(1, 5),
    low=st.floats(0.05, 0.4),
    context=st.floats(0.1, 1.0),
    spread=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_context_and_targets_are_apart_and_nothing_is_empty(tokens, targets, low, context, spread, seed):
    """Exact check 5, for any numbers that can be drawn at all."""
    targets = min(targets, tokens)
    sampler = NearBlocks(tokens, targets, (low, min(0.9, low + 0.2)), (context, 1.0), spread)
    masks = draw(sampler, cloud(8, tokens, seed % 7), seed)
    assert masks.present is not None
    hidden = torch.zeros(8, tokens, dtype=torch.bool).scatter(1, masks.targets.flatten(1), True)
    assert not (hidden.gather(1, masks.context) & ~masks.relaxed[:, None]).any()
    assert masks.present.any(1).all()
    for row, real in zip(masks.context, masks.present, strict=True):
        kept = row[real]
        assert len(kept.unique()) == len(kept)
        assert (row[~real] == row[0]).all()
    assert (masks.targets.sort(2).values.diff(dim=2) > 0).all()
    assert masks.present.sum(1)[masks.relaxed].eq(1).all()


def test_contexts_are_thinned_rarely_and_padded_little():
    """What the docstring says of the room: spread blocks overlap by little."""
    sampler, centres = NearBlocks(64), cloud(512)
    thinned, used = [], []
    for seed in range(10):
        masks = draw(sampler, centres, seed)
        thinned.append(masks.present.all(1).double().mean())
        used.append(masks.present.double().mean())
    assert torch.stack(thinned).mean() < 0.35
    assert torch.stack(used).mean() > 0.7


def test_masks_follow_from_the_seed_and_differ_between_samples():
    sampler, centres = NearBlocks(32), cloud(1, 32).expand(6, -1, -1)
    one, two, other = draw(sampler, centres), draw(sampler, centres), draw(sampler, centres, 1)
    assert torch.equal(one.targets, two.targets) and torch.equal(one.context, two.context)
    assert len({tuple(row.flatten().tolist()) for row in one.targets}) > 1
    assert one.targets.shape != other.targets.shape or not torch.equal(one.targets, other.targets)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"target_ratio": (0.3, 0.2)}, "target ratio"),
        ({"context_ratio": (0.0, 1.0)}, "context ratio"),
        ({"targets": 65}, "cannot be chosen"),
        ({"target_ratio": (1.0, 1.0)}, "nothing to see"),
    ],
)
def test_what_cannot_be_drawn_is_refused(words, complaint):
    with pytest.raises(ValueError, match=complaint):
        NearBlocks(64, **words)
