"""The decoder that reads the context in every layer, and attention to other tokens."""

import pytest
import torch
from torch import nn

from anyjepa.core.attention import CrossAttention
from anyjepa.core.context_decoder import ContextDecoder
from anyjepa.core.masking import Masks
from anyjepa.core.tokens import Tokens


def test_cross_attention_is_torchs():
    torch.manual_seed(0)
    ours, theirs = CrossAttention(24, 3, 16), nn.MultiheadAttention(24, 3, kdim=16, vdim=16, batch_first=True)
    keys, values = ours.read.weight.detach().chunk(2)
    bias = torch.cat([ours.query.bias, ours.read.bias]).detach()
    theirs.load_state_dict(
        {
            "q_proj_weight": ours.query.weight.detach(), "k_proj_weight": keys, "v_proj_weight": values,
            "in_proj_bias": bias, "out_proj.weight": ours.out.weight.detach(),
            "out_proj.bias": ours.out.bias.detach(),
        }
    )  # fmt: skip
    x, source = torch.randn(2, 5, 24), torch.randn(2, 7, 16)
    present = torch.ones(2, 7, dtype=torch.bool)
    present[0, 4:] = False
    known, _ = theirs(x, source, source, key_padding_mask=~present)
    assert torch.allclose(ours(x, source, present), known, atol=1e-6)
    with pytest.raises(ValueError, match="cannot be shared out"):
        CrossAttention(24, 5)


def setting(aware=True, depth=2):
    torch.manual_seed(0)
    decoder = ContextDecoder(16, 12, depth, 3, 8, 20, aware).eval()
    nn.init.normal_(decoder.mask_token)
    context = Tokens(torch.randn(3, 6, 16), torch.randn(3, 6, 3), torch.ones(3, 6, dtype=torch.bool))
    masks = Masks(
        torch.arange(6).expand(3, -1),
        torch.stack([torch.arange(6, 10), torch.arange(8, 12)]).expand(3, -1, -1),
        torch.zeros(3, dtype=torch.bool),
        context.present,
    )
    return decoder, context, torch.randn(3, 12, 3), masks


def test_blocks_are_predicted_without_seeing_one_another():
    decoder, context, places, masks = setting()
    both = decoder(context, places, masks)
    assert both.shape == (3, 2, 4, 20)
    for block in range(2):
        alone = Masks(masks.context, masks.targets[:, block : block + 1], masks.relaxed, masks.present)
        assert torch.allclose(decoder(context, places, alone)[:, 0], both[:, block], atol=1e-5)


def test_padding_of_the_context_changes_nothing():
    decoder, context, places, masks = setting()
    known = decoder(context, places, masks)
    extra = torch.cat([context.values, torch.full((3, 2, 16), 9.0)], 1)
    present = torch.cat([context.present, torch.zeros(3, 2, dtype=torch.bool)], 1)
    index = torch.cat([masks.context, torch.zeros(3, 2, dtype=torch.long)], 1)
    padded = Tokens(extra, torch.zeros(3, 8, 3), present)
    found = decoder(padded, places, Masks(index, masks.targets, masks.relaxed, present))
    assert torch.allclose(found, known, atol=1e-5)


@pytest.mark.parametrize("aware", [True, False])
def test_the_context_is_read_in_each_layer_or_in_the_first_only(aware, monkeypatch):
    """Exact check 10: noise instead of the encoder's tokens after the first layer."""
    decoder, context, places, masks = setting(aware)
    known = decoder(context, places, masks)
    second = decoder.blocks[1]
    through = second.forward

    def with_noise(x, source, present, last=None):
        noise = Tokens(torch.randn_like(source.values), source.coordinates, source.present)
        return through(x, noise, present, last)

    monkeypatch.setattr(second, "forward", with_noise)
    assert torch.allclose(decoder(context, places, masks), known, atol=1e-6) != aware
    if aware:
        monkeypatch.undo()
        nn.init.zeros_(second.reading.out.weight)
        assert not torch.allclose(decoder(context, places, masks), known, atol=1e-4)
