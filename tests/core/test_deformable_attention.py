"""Deformable attention along a line, against a loop and against known answers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.core.deformable_attention import DeformableAttention, DeformableBlock, between, ends


def test_values_between_are_known():
    """Exact check 5, with the ends held instead of faded: places from 0 to 7 give 1 to 8, evenly."""
    line = torch.arange(1.0, 9)
    even = torch.linspace(0, 7, 5)
    assert torch.allclose(between(line, even), torch.tensor([1.0, 2.75, 4.5, 6.25, 8.0]))
    assert torch.allclose(between(line, torch.tensor([-3.0, 9.0, 6.9])), torch.tensor([1.0, 8.0, 7.9]))
    assert torch.equal(between(torch.tensor([5.0]), torch.tensor([0.0, 3.0])), torch.tensor([5.0, 5.0]))


@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 999))
def test_values_between_are_those_of_straight_lines(length, asked, seed):
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(2, length, generator=random, dtype=torch.float64)
    places = 1.4 * length * torch.rand(2, asked, generator=random, dtype=torch.float64) - 0.2 * length
    found = between(values, places)
    for row in range(2):
        for number, place in enumerate(places[row].clamp(0, length - 1).tolist()):
            low = min(math.floor(place), length - 1)
            high = min(low + 1, length - 1)
            line = values[row, low] * (1 - (place - low)) + values[row, high] * (place - low)
            assert found[row, number].item() == pytest.approx(line.item(), abs=1e-12)


def small(width=12, heads=3, seed=0, **options):
    torch.manual_seed(seed)
    return DeformableAttention(width, heads, head_width=4, **options).double()


def looped(module, x, coordinates, present):
    """The same, one head, one query and one point at a time."""
    batch, count, width = x.shape
    part, out = width // module.heads, torch.zeros_like(x)
    weights = {n: getattr(module, n).weight.squeeze(2) for n in ("queries", "keys", "values", "out")}
    wide = weights["queries"].shape[0] // module.heads
    for b in range(batch):
        real = present[b].nonzero().flatten().tolist()
        first, last = real[0], real[-1]
        read = torch.zeros(count, module.heads * wide, dtype=x.dtype)
        for h in range(module.heads):
            rows = slice(h * wide, (h + 1) * wide)
            own = x[b][:, h * part : (h + 1) * part]
            query = own @ weights["queries"][rows].T
            padded = torch.zeros(count + 2 + max(0, module.kernel - count - 2), wide, dtype=x.dtype)
            for place in real:
                padded[1 + place] = query[place]
            moves, start = [], 0
            while start + module.kernel <= len(padded):
                window = padded[start : start + module.kernel]
                kernel = module.surroundings.weight[:, 0]
                seen = (window * kernel.T).sum(0) + module.surroundings.bias
                told = (torch.nn.functional.gelu(seen) * module.shift.weight[0, :, 0]).sum()
                moves.append(math.tanh(told) * module.reach)
                start += module.stride
            number = len(moves)
            points = []
            for p in range(number):
                if number == 1:
                    place = (first + last) / 2 + moves[0] * module.stride
                else:
                    step = (last - first) / (number - 1)
                    at = (first + p * step) * (number - 1) / (count - 1)
                    low = min(int(at), number - 2)
                    move = moves[low] + (at - low) * (moves[low + 1] - moves[low])
                    place = first + (p + move) * step
                points.append(min(max(place, first), last))
            for q in range(count):
                scores, values = [], []
                for place in points:
                    low = min(int(place), max(0, count - 2))
                    high, share = min(low + 1, count - 1), place - low
                    there = own[low] * (1 - share) + own[high] * share
                    where = coordinates[low] * (1 - share) + coordinates[high] * share
                    apart = where - coordinates[q]
                    near = torch.tensor([math.copysign(math.log1p(abs(apart)), apart)], dtype=x.dtype)
                    key = weights["keys"][rows] @ there
                    scores.append(query[q] @ key / math.sqrt(wide) + module.nearness(near)[0])
                    values.append(weights["values"][rows] @ there)
                shares = torch.stack(scores).softmax(0)
                read[q, rows] = sum(s * v for s, v in zip(shares, values, strict=True))
        out[b] = read @ weights["out"].T + module.out.bias
    return out


@pytest.mark.parametrize(("count", "kernel", "stride"), [(11, 6, 4), (9, 3, 2), (3, 6, 4), (1, 6, 4)])
def test_it_is_what_a_loop_computes(count, kernel, stride):
    module = small(kernel=kernel, stride=stride)
    x = torch.randn(2, count, 12, dtype=torch.float64)
    with torch.no_grad():
        module.shift.weight.mul_(20)  # so that points move far, and against the ends
    coordinates = 2.5 * torch.arange(count, dtype=torch.float64) - 3
    present = torch.ones(2, count, dtype=torch.bool)
    present[1, : count // 3] = present[1, count - count // 4 :] = False
    with torch.no_grad():
        found = module(x, coordinates[None, :, None], present)
        assert torch.allclose(found, looped(module, x, coordinates.tolist(), present), atol=1e-10)


def test_points_begin_evenly_from_the_first_slice_to_the_last_and_stay_within():
    module = small(reach=2.0)
    present = torch.ones(3, 16, dtype=torch.bool)
    present[1, :4] = present[2, 13:] = False
    queries = torch.randn(3, 3, 4, 16, dtype=torch.float64)
    with torch.no_grad():
        module.shift.weight.zero_()
        still = module.points(queries, present)
        module.shift.weight.normal_(std=50)
        moved = module.points(queries, present)
    first, last = ends(present)
    for row in range(3):
        even = torch.linspace(first[row].item(), last[row].item(), still.shape[2], dtype=torch.float64)
        assert torch.allclose(still[row], even.expand(3, -1), atol=1e-9)
        step = even[1] - even[0]
        assert moved[row].min() >= first[row] and moved[row].max() <= last[row]
        assert (moved[row] - even).abs().max() <= 2 * step + 1e-9
    assert (moved - still).abs().max() > 0.5


def test_what_pads_is_never_read():
    module = DeformableBlock(12, 16, 0.0, heads=3, head_width=4).double().eval()
    x = torch.randn(2, 12, 12, dtype=torch.float64)
    present = torch.ones(2, 12, dtype=torch.bool)
    present[:, 9:] = False
    other = x.clone()
    other[:, 9:] += 10
    at = torch.arange(12.0, dtype=torch.float64)[None, :, None]
    assert torch.allclose(module(x, at, present)[:, :9], module(other, at, present)[:, :9])


def test_a_width_that_heads_do_not_share():
    with pytest.raises(ValueError, match="shared out"):
        DeformableAttention(10, 4)
