"""Softmax over a batch: known answers, corrections, and items that are met twice."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.core.contrastive import batch_softmax, same_items


@given(rows=st.integers(2, 9), temperature=st.floats(0.05, 2))
def test_identical_vectors_cost_the_logarithm_of_the_batch(rows, temperature):
    z = torch.nn.functional.normalize(torch.ones(rows, 4, dtype=torch.float64), dim=1)
    assert batch_softmax(z, z, temperature).item() == pytest.approx(math.log(rows))


@given(rows=st.integers(2, 9), temperature=st.floats(0.05, 2))
def test_orthonormal_pairs_have_the_known_cost(rows, temperature):
    z = torch.eye(rows, dtype=torch.float64)
    expected = math.log(1 + (rows - 1) * math.exp(-1 / temperature))
    assert batch_softmax(z, z, temperature).item() == pytest.approx(expected)


def test_the_same_views_pull_nothing_together():
    """Spread-out: the positive's logit is 1 / temperature, and has no gradient along the vector."""
    z = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1).requires_grad_()
    unit = torch.nn.functional.normalize(z, dim=1)
    logits = unit @ unit.T / 0.1
    assert torch.allclose(logits.diagonal(), torch.full((5,), 10.0, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(logits.diagonal().sum(), z)
    assert gradient.abs().max() < 1e-9


def test_an_equal_share_for_all_corrects_nothing():
    q, x = torch.randn(2, 6, 4, dtype=torch.float64).unbind()
    flat = torch.full((6,), math.log(0.2), dtype=torch.float64)
    assert batch_softmax(q, x, 0.5, flat).item() == pytest.approx(batch_softmax(q, x, 0.5).item())


def test_the_correction_is_subtracted():
    """Logits 5 and 5 of items with shares 0.1 and 0.01 become 7.30 and 9.61: the rare one counts more."""
    x = torch.eye(2, dtype=torch.float64)
    q = torch.tensor([[5.0, 5.0], [5.0, 5.0]], dtype=torch.float64)
    share = torch.tensor([0.1, 0.01], dtype=torch.float64).log()
    first, second = 5 - math.log(0.1), 5 - math.log(0.01)
    assert (round(first, 2), round(second, 2)) == (7.30, 9.61)
    total = math.log(math.exp(first) + math.exp(second))
    expected = (total - first + total - second) / 2
    assert batch_softmax(q, x, 1.0, share).item() == pytest.approx(expected)


def test_an_item_met_twice_is_no_negative_of_itself():
    items = torch.tensor([7, 3, 7])
    hidden = same_items(items)
    assert hidden.tolist() == [[False, False, True], [False, False, False], [True, False, False]]
    q = torch.randn(3, 4, dtype=torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64)
    logits = q @ x.T
    expected = (
        -(
            (logits[0, 0] - logits[0, [0, 1]].logsumexp(0))
            + (logits[1, 1] - logits[1].logsumexp(0))
            + (logits[2, 2] - logits[2, [1, 2]].logsumexp(0))
        )
        / 3
    )
    assert batch_softmax(q, x, 1.0, None, hidden).item() == pytest.approx(expected.item())
