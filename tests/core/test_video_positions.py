"""Positions over time, row and column: the released tables, and rotations that keep lengths (check 7)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.positions import AxisSinCos, Rotary, grid, rotate
from anyjepa.core.tokens import Tokens
from anyjepa.core.transformer import Encoder


def test_uniform_power_cuts_the_last_axis():
    """Width 1,024: three times 342 numbers are 1,026, of which 1,024 stay; width 384: 128 each."""
    for width, each in ((1024, 342), (384, 128)):
        table = AxisSinCos(width, (each,) * 3)(grid(2, 3, 4))
        assert table.shape == (1, 24, width)
        rates = 10_000.0 ** (-np.arange(each // 2) / (each // 2))
        angles = 3 * rates  # the last column
        wanted = np.concatenate([np.sin(angles), np.cos(angles)])[: width - 2 * each]
        np.testing.assert_allclose(table[0, 23, 2 * each :].numpy(), wanted, atol=1e-6)


def test_shares_must_fill_the_width():
    with pytest.raises(ValueError, match="do not fill"):
        AxisSinCos(24, (8, 8, 6))


@pytest.mark.parametrize(("head", "pairs", "free"), [(64, 10, 4), (32, 5, 2), (80, 13, 2)])
def test_pairs_of_a_head_as_published(head, pairs, free):
    rotary = Rotary(head, 3, pairs="adjacent")
    angles = rotary(torch.ones(1, 1, 3))
    assert rotary.pairs == pairs
    assert int((angles == 0).sum()) == free
    assert angles[0, 0, 0] == angles[0, 0, 1] == 1.0


places = st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=2, max_size=6)


@settings(max_examples=30)
@given(places, st.integers(0, 5), st.sampled_from(["halves", "adjacent"]))
def test_rotations_keep_lengths_and_only_differences_count(where, shift, pairs):
    rotary, generator = Rotary(24, 3, pairs=pairs), torch.Generator().manual_seed(1)
    coordinates = torch.tensor(where, dtype=torch.float32).unsqueeze(0)
    queries, keys = torch.randn(2, 1, 2, len(where), 24, generator=generator).unbind(0)

    def logits(moved):
        angles = rotary(coordinates + moved)
        return rotate(queries, angles) @ rotate(keys, angles).mT

    turned = rotate(queries, rotary(coordinates))
    torch.testing.assert_close(turned.norm(dim=-1), queries.norm(dim=-1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits(0), logits(torch.tensor([1.0, 2.0, 3.0]) * shift), rtol=0, atol=2e-5)


def test_adjacent_pairs_are_halves_in_another_order():
    coordinates, x = grid(2, 3, 4), torch.randn(1, 2, 24, 18, generator=torch.Generator().manual_seed(0))
    halves = rotate(x, Rotary(18, 3)(coordinates))
    together = torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2)
    adjacent = rotate(together, Rotary(18, 3, pairs="adjacent")(coordinates))
    torch.testing.assert_close(torch.stack(halves.chunk(2, -1), -1).flatten(-2), adjacent)


def test_the_published_defect_is_what_the_note_says():
    """Neighbours turn with frequencies of tiled tables, so lengths change."""
    rotary = Rotary(12, 3, pairs="published")
    coordinates = torch.tensor([[[2.0, 3.0, 5.0]]])
    angles = rotary(coordinates)[0, 0]
    rates = torch.tensor([1.0, 0.01])
    torch.testing.assert_close(
        angles, torch.cat([2 * rates, 2 * rates, 3 * rates, 3 * rates, 5 * rates, 5 * rates])
    )
    x = torch.randn(1, 1, 1, 12, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, rotary(coordinates))
    first, second = x[..., 0], x[..., 1]
    torch.testing.assert_close(turned[..., 0], first * angles[0].cos() - second * angles[0].sin())
    torch.testing.assert_close(turned[..., 1], second * angles[1].cos() + first * angles[1].sin())
    assert abs(float(turned.norm() - x.norm())) > 1e-3


def test_tokens_shuffled_with_their_places_give_shuffled_outputs():
    class Given(torch.nn.Module):
        def forward(self, batch, keep=None):
            tokens = Tokens(batch["x"], batch["places"])
            return tokens if keep is None else tokens.take(keep)

    torch.manual_seed(0)
    encoder = Encoder(Given(), None, 24, 2, 2, rotary=Rotary(12, 3, pairs="adjacent"))
    x, order = torch.randn(2, 24, 24), torch.randperm(24)
    places = grid(2, 3, 4).expand(2, -1, -1)
    straight = encoder({"x": x, "places": places}).values
    shuffled = encoder({"x": x[:, order], "places": places[:, order]}).values
    torch.testing.assert_close(straight[:, order], shuffled, rtol=0, atol=1e-5)
    kept = encoder({"x": x, "places": places}, keep=order.expand(2, -1)).values
    torch.testing.assert_close(kept, shuffled)
