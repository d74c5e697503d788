"""Buckets of offsets, and what they add to attention."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.core.attention import Attention
from anyjepa.core.positions import grid
from anyjepa.core.relative import RelativeBuckets, RelativeKeys
from anyjepa.core.tokens import Tokens
from anyjepa.core.transformer import Encoder


def test_buckets_along_a_line_are_those_of_the_formula():
    """Exact up to 1.9 patches, then by the logarithm up to 3 of 3.8: 49 buckets in two axes and one more."""
    line = torch.arange(20.0).view(1, 20, 1)
    found = RelativeBuckets(1)(line)[0, 0] - 3
    # 1.9 (1 + ln(x / 1.9) / ln 8), rounded: 2 to 4 patches give 2, 5 and more 3
    assert found.tolist() == [0, 1, 2, 2, 3, *[3] * 15]
    assert RelativeBuckets(2).count == 50


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), front=st.integers(0, 2))
def test_buckets_depend_on_offsets_alone_and_mirror(rows, columns, front):
    buckets, places = RelativeBuckets(2), grid(rows, columns)
    found = buckets(places, front)
    assert torch.equal(found, buckets(places + 7.0, front))
    inner = found[:, front:, front:]
    assert torch.equal(inner + inner.mT, torch.full_like(inner, buckets.count - 2))
    assert (found[:, :front] == buckets.count - 1).all() and (found[:, :, :front] == buckets.count - 1).all()
    assert inner.max() < buckets.count - 1


def test_what_is_added_is_the_query_times_the_key_of_the_offset():
    torch.manual_seed(0)
    buckets, places = RelativeBuckets(2), grid(2, 3)
    attention = Attention(12, 3, buckets=buckets.count)
    torch.nn.init.normal_(attention.relative.table)
    x, relation = torch.randn(2, 6, 12), buckets(places)
    queries, keys, values = (
        part.unflatten(-1, (3, 4)).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1)
    )
    weights = torch.empty(2, 3, 6, 6)
    for asking in range(6):
        for token in range(6):
            key = keys[:, :, token] + attention.relative.table[:, relation[0, asking, token]]
            weights[:, :, asking, token] = (queries[:, :, asking] * key).sum(-1) / 2
    known = attention.out((weights.softmax(-1) @ values).transpose(1, 2).flatten(-2))
    assert torch.allclose(attention(x, relation=relation), known, atol=1e-5)
    assert torch.allclose(attention(x, 2, relation=relation), known[:, -2:], atol=1e-5)


def test_padding_is_not_looked_at_with_relative_places_either():
    torch.manual_seed(0)
    encoder = Encoder(torch.nn.Identity(), None, 12, 2, 3, registers=1, relative=RelativeBuckets(2)).eval()
    for block in encoder.blocks:
        torch.nn.init.normal_(block.attention.relative.table)
    values, places = torch.randn(2, 6, 12), grid(2, 3).expand(2, -1, -1)
    present = torch.tensor([True, True, True, True, False, False]).expand(2, -1)
    known, front = encoder.encode(Tokens(values[:, :4], places[:, :4]))
    other = values.clone()
    other[:, 4:] += 3.0
    found, again = encoder.encode(Tokens(other, places, present))
    assert torch.allclose(found.values[:, :4], known.values, atol=1e-5)
    assert torch.allclose(front, again, atol=1e-5)


def test_a_table_of_zeros_changes_nothing():
    keys = RelativeKeys(4, 50)
    assert not keys(torch.randn(2, 3, 6, 4), RelativeBuckets(2)(grid(2, 3))).any()
