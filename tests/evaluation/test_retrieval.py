"""Retrieval: average precision as scikit-learn has it, recalls by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from anyjepa.core.errors import UserError
from anyjepa.evaluation.retrieval import average_precision, retrieval_probe


@given(st.integers(0, 9999), st.integers(2, 30))
@settings(max_examples=40)
def test_average_precision_is_scikit_learns(seed, count):
    relevant = torch.rand(4, count, generator=torch.Generator().manual_seed(seed)) < 0.3
    relevant[:, seed % count] = True
    ranks = -torch.arange(count).double()
    expected = [average_precision_score(row.numpy(), ranks.numpy()) for row in relevant]
    assert average_precision(relevant).tolist() == pytest.approx(expected)


def test_known_ranks():
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 50.0, 180.0, 190.0, 230.0]))
    gallery = torch.stack([angles.cos(), angles.sin()], 1)
    gallery = torch.cat([gallery, -gallery])  # so that the mean is zero
    labels = torch.tensor([0, 1, 0, 1, 1, 1] + [1] * 6)
    query = torch.tensor([[1.0, 0.05]])
    found = retrieval_probe(gallery, labels, query.repeat(3, 1), torch.tensor([0, 0, 1]))
    order = (query @ gallery.T)[0].argsort(descending=True, stable=True)
    expected = [
        average_precision_score((labels == c)[order].numpy(), -torch.arange(12).numpy()) for c in (0, 0, 1)
    ]
    assert found.value == pytest.approx(sum(expected) / 3)
    assert found.metric == "map"
    assert found.low <= found.value <= found.high
    assert found.chosen["recall_at_5"] >= found.chosen["recall_at_1"]


def test_perfect_and_hopeless_features_and_a_query_without_any_relevant():
    labels = torch.arange(40) % 4
    exact = torch.eye(4)[labels]
    assert retrieval_probe(exact, labels, exact, labels).value == 1
    many = torch.eye(4, dtype=torch.int8)[labels]
    shared = retrieval_probe(exact, many, exact, many)
    assert (shared.value, shared.chosen["recall_at_1"]) == (1, 1)
    alone = many.clone()
    alone[0] = torch.tensor([0, 0, 0, 0], dtype=torch.int8)
    assert torch.isnan(retrieval_probe(exact, many, exact, alone).outcomes[0])
    chance = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    random = torch.randint(4, (400,), generator=torch.Generator().manual_seed(1))
    assert retrieval_probe(chance, random, chance.flip(0), random).value == pytest.approx(0.25, abs=0.03)
    with pytest.raises(UserError, match="no two targets are alike"):
        retrieval_probe(exact, torch.randn(40), exact, torch.randn(40))
