"""Tokens, blocks, encoder and predictor: identities that any right implementation satisfies."""

import copy

import pytest
import torch
from torch import nn

from anyjepa.core import transformer
from anyjepa.core.attention import Attention
from anyjepa.core.masking import Masks, MultiBlock
from anyjepa.core.positions import Rotary, SinCos, grid
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.transformer import Block, Encoder, Predictor, initialise


class Vectors(nn.Module):
    """A tokenizer for batches that already hold vectors on a 4 x 4 grid."""

    def forward(self, batch, keep=None):
        tokens = Tokens(batch["vectors"], grid(4, 4), batch.get("present"))
        return tokens if keep is None else tokens.take(keep)


def encoder(rotary=False, width=24, positions=True):
    torch.manual_seed(0)
    made = Encoder(
        Vectors(),
        SinCos(width, 2) if positions else None,
        width,
        3,
        2,
        rotary=Rotary(12, 2) if rotary else None,
    )
    initialise(made, None)
    return made.eval()


def test_taking_tokens_takes_coordinates_and_presence_with_them():
    tokens = Tokens(torch.randn(2, 16, 3), grid(4, 4), torch.rand(2, 16) > 0.5)
    indices = torch.tensor([[3, 0, 9], [5, 5, 15]])
    taken = tokens.take(indices)
    for sample in range(2):
        assert torch.equal(taken.values[sample], tokens.values[sample, indices[sample]])
        assert torch.equal(taken.coordinates[sample], tokens.coordinates[0, indices[sample]])
        assert torch.equal(taken.present[sample], tokens.present[sample, indices[sample]])


def test_a_shared_table_is_taken_as_an_expanded_one():
    table, indices = torch.randn(1, 7, 3), torch.randint(0, 7, (4, 5))
    assert torch.equal(take(table, indices), take(table.expand(4, -1, -1), indices))


def test_attention_is_softmax_of_scaled_scores():
    torch.manual_seed(0)
    attention, x = Attention(8, 2), torch.randn(3, 5, 8)
    queries, keys, values = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in attention.qkv(x).chunk(3, -1))
    weights = (queries @ keys.transpose(-1, -2) / 2.0).softmax(-1)
    expected = attention.out((weights @ values).transpose(1, 2).flatten(2))
    assert torch.allclose(attention(x), expected, atol=1e-5)


def test_a_width_that_does_not_divide_into_heads_is_refused():
    with pytest.raises(ValueError, match="heads"):
        Attention(10, 3)


@pytest.mark.parametrize("rotary", [False, True])
def test_answering_for_the_last_tokens_only_changes_nothing_about_them(rotary):
    torch.manual_seed(0)
    block, x = Block(24, 2), torch.randn(2, 9, 24)
    angles = Rotary(12, 1)(torch.arange(9.0).view(1, 9, 1)) if rotary else None
    assert torch.allclose(block(x, last=4, angles=angles), block(x, angles=angles)[:, -4:], atol=1e-5)


@pytest.mark.parametrize("rotary", [False, True])
def test_order_of_the_kept_tokens_does_not_matter(rotary):
    made, batch = encoder(rotary), {"vectors": torch.randn(2, 16, 24)}
    keep = torch.tensor([[1, 7, 3, 12], [0, 5, 10, 15]])
    order = torch.tensor([2, 0, 3, 1])
    straight, shuffled = made(batch, keep), made(batch, keep[:, order])
    assert torch.allclose(straight.values[:, order], shuffled.values, atol=1e-5)
    assert torch.equal(straight.coordinates[:, order], shuffled.coordinates)


def test_keeping_every_token_is_keeping_none_out():
    made, batch = encoder(), {"vectors": torch.randn(2, 16, 24)}
    everything = torch.arange(16).expand(2, -1)
    assert torch.allclose(made(batch, everything).values, made(batch).values, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_pieces_that_fit_the_cache_give_the_tokens_of_the_whole_batch(shared, monkeypatch):
    torch.manual_seed(0)
    made = Encoder(Vectors(), SinCos(24, 2), 24, 2, 2, registers=2).eval()
    nn.init.normal_(made.registers)
    places = grid(4, 4) if shared else torch.rand(5, 16, 2)
    tokens = Tokens(torch.randn(5, 16, 24), places, torch.rand(5, 16) > 0.3)
    with torch.no_grad():
        whole = made.encode(tokens)
        calls = []
        made.blocks[0].register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
        monkeypatch.setattr(transformer, "CACHED", 2 * 16 * 24)
        pieces = made.encode(tokens)
    assert calls == [2, 2, 1]
    assert torch.allclose(whole[0].values, pieces[0].values, atol=1e-6)
    assert torch.allclose(whole[1], pieces[1], atol=1e-6)
    assert pieces[0].coordinates is places and pieces[0].present is tokens.present


def test_positions_added_before_or_after_dropping_tokens_are_the_same():
    positions, values = SinCos(24, 2), torch.randn(2, 16, 24)
    keep = torch.tensor([[1, 7, 3], [0, 5, 10]])
    before = take(values + positions(grid(4, 4)), keep)
    after = take(values, keep) + positions(take(grid(4, 4), keep))
    assert torch.allclose(before, after, atol=1e-6)


def test_what_each_sample_may_look_at_is_its_own():
    """One call with each sample's own table says what one call a sample says, for all tokens or the last."""
    torch.manual_seed(1)
    x, allowed = torch.randn(3, 5, 8), torch.rand(3, 5, 5) < 0.5
    allowed |= torch.eye(5, dtype=torch.bool)
    present = torch.ones(3, 5, dtype=torch.bool)
    present[:, 1] = False
    block = Block(8, 2)
    alone = [block(x[i : i + 1], present=present[i : i + 1], allowed=allowed[i]) for i in range(3)]
    assert torch.allclose(block(x, present=present, allowed=allowed), torch.cat(alone), atol=1e-6)
    last = block(x, last=2, present=present, allowed=allowed)
    assert torch.allclose(last, torch.cat(alone)[:, -2:], atol=1e-6)


@pytest.mark.parametrize("registers", [0, 2])
def test_halfway_is_what_an_encoder_of_fewer_blocks_gives(registers, monkeypatch):
    made = Encoder(Vectors(), SinCos(24, 2), 24, 3, 2, registers=registers)
    initialise(made)
    batch = {"vectors": torch.randn(5, 16, 24)}
    shorter = copy.deepcopy(made)
    shorter.blocks = shorter.blocks[:2]
    for kept in (transformer.CACHED, 800):  # whole, and in pieces
        monkeypatch.setattr(transformer, "CACHED", kept)
        with torch.no_grad():
            tokens, noted = made.halfway(batch, 2)
            expected, front = shorter.read(batch)
            assert torch.equal(tokens.values, made(batch).values)
            assert torch.allclose(noted, torch.cat([front, expected.values], dim=1), atol=1e-6)


def test_padding_never_leaks():
    made, vectors = encoder(), torch.randn(2, 16, 24)
    present = torch.ones(2, 16, dtype=torch.bool)
    present[:, 10:] = False
    other = vectors.clone()
    other[:, 10:] = 1e3
    first = made({"vectors": vectors, "present": present}).values[:, :10]
    second = made({"vectors": other, "present": present}).values[:, :10]
    assert torch.allclose(first, second, atol=1e-5)


def predictor(rotary=False):
    torch.manual_seed(1)
    made = Predictor(24, SinCos(16, 2), 16, 2, 2, rotary=Rotary(8, 2) if rotary else None)
    initialise(made, None)
    return made.eval()


@pytest.mark.parametrize("rotary", [False, True])
def test_predictions_follow_the_order_of_targets_and_ignore_that_of_the_context(rotary):
    made, coordinates = predictor(rotary), grid(4, 4)
    masks = Masks(
        torch.tensor([[0, 3, 9]]), torch.tensor([[[5, 6, 10], [1, 2, 12]]]), torch.zeros(1, dtype=torch.bool)
    )
    values = torch.randn(1, 3, 24)
    context = Tokens(values, take(coordinates, masks.context))
    base = made(context, coordinates, masks)
    order, swap = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    moved = Masks(masks.context[:, order], masks.targets[:, :, swap], masks.relaxed)
    context = Tokens(values[:, order], take(coordinates, moved.context))
    assert torch.allclose(made(context, coordinates, moved), base[:, :, swap], atol=1e-5)


def test_each_target_block_is_predicted_as_if_it_were_alone():
    made, coordinates = predictor(), grid(4, 4)
    masks = MultiBlock((4, 4))(3, torch.Generator().manual_seed(0))
    context = Tokens(torch.randn(3, masks.context.shape[1], 24), take(coordinates, masks.context))
    together = made(context, coordinates, masks)
    for block in range(4):
        alone = Masks(masks.context, masks.targets[:, block : block + 1], masks.relaxed)
        assert torch.allclose(made(context, coordinates, alone)[:, 0], together[:, block], atol=1e-5)


@pytest.mark.parametrize(
    ("width", "depth", "heads", "predictor_width", "expected"),
    [(768, 6, 12, 384, 11_238_912), (1024, 12, 16, 384, 22_082_560), (1280, 12, 16, 384, 22_279_424)],
)
def test_predictors_have_the_published_number_of_parameters(width, depth, heads, predictor_width, expected):
    with torch.device("meta"):
        made = Predictor(width, SinCos(predictor_width, 2), predictor_width, depth, heads)
    assert sum(p.numel() for p in made.parameters()) == expected


def test_initial_weights_have_the_asked_spread():
    layer = nn.Linear(400, 900)
    initialise(layer)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert (layer.bias == 0).all()
    initialise(layer, None)
    assert layer.weight.std().item() == pytest.approx(400**-0.5, rel=0.02)
