"""Heads trained side by side: the folded attention, the optimiser and the choice, beside torch's own."""

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.evaluation.answers import Answers
from anyjepa.evaluation.attentive import mlp_probe
from anyjepa.evaluation.heads import (
    AttentiveHeads,
    Course,
    PerceptronHeads,
    RowAdamW,
    standardised,
    trained_heads,
)
from anyjepa.evaluation.labelled import Labelled
from anyjepa.evaluation.probes import linear_probe


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masked", [False, True])
def test_folding_the_query_changes_nothing(masked):
    """The same with keys and values of every token, by torch's attention."""
    torch.manual_seed(0)
    heads = AttentiveHeads(3, 128, 4).double()
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    raw = normal(5, 11, 128).double()
    present = torch.rand(5, 11, generator=torch.Generator().manual_seed(1)) < 0.7 if masked else None
    if present is not None:
        present[:, 0] = True
    found = heads(standardised(raw), present)
    for h in range(3):
        own = {name: value[h] for name, value in heads.named_parameters()}
        tokens = functional.layer_norm(raw, (128,), own["scale"], own["shift"])
        query = own["query"] @ own["to_query"].T + own["query_bias"]
        keys, values = tokens @ own["to_key"].T, tokens @ own["to_value"].T + own["value_bias"]
        split = [x.unflatten(-1, (heads.attention, -1)).transpose(1, 2) for x in (keys, values)]
        asked = query.expand(5, 1, 128).unflatten(-1, (heads.attention, -1)).transpose(1, 2)
        mask = None if present is None else present[:, None, None]
        attended = functional.scaled_dot_product_attention(asked, *split, mask)
        x = own["query"] + attended.transpose(1, 2).flatten(1)
        inner = functional.layer_norm(x, (128,), own["norm_scale"], own["norm_shift"])
        inner = functional.gelu(inner @ own["rise"].T + own["rise_bias"])
        x = x + inner @ own["fall"].T + own["fall_bias"]
        assert torch.allclose(found[h], x @ own["out"].T + own["out_bias"], atol=1e-9)
    assert heads.attention == 2


def test_each_row_moves_as_by_an_optimiser_of_its_own():
    rates, decays = (0.01, 0.1), (0.5, 0.0)
    together = torch.nn.Parameter(normal(2, 3, 4))
    alone = [torch.nn.Parameter(together.detach()[h].clone()) for h in range(2)]
    theirs = [
        torch.optim.AdamW([p], lr=rate, weight_decay=decay)
        for p, rate, decay in zip(alone, rates, decays, strict=True)
    ]
    ours = RowAdamW([together], rates, decays, clip=1.0)
    for step in range(20):
        goal = normal(3, 4, seed=step)
        gradient = torch.autograd.grad((together - goal).square().sum(), [together])
        ours.step(gradient, share=0.5)
        for parameter, optimiser, rate in zip(alone, theirs, rates, strict=True):
            optimiser.param_groups[0]["lr"] = 0.5 * rate
            optimiser.zero_grad()
            (parameter - goal).square().sum().backward()
            torch.nn.utils.clip_grad_norm_([parameter], 1.0)
            optimiser.step()
    assert torch.allclose(together, torch.stack(alone).detach(), atol=1e-5)


def labelled(labels, test_labels=None, groups=None):
    test = labels if test_labels is None else test_labels
    return Labelled.checked(
        torch.zeros(len(labels), 1), labels, torch.zeros(len(test), 1), test, groups, None
    )


def test_losses_are_torchs():
    outputs, labels = normal(2, 9, 4), torch.arange(9) % 4
    classes = Answers.of(labelled(labels))
    for smoothing in (0.0, 0.3):
        expected = [functional.cross_entropy(o, labels, label_smoothing=smoothing) for o in outputs]
        assert torch.allclose(classes.loss(outputs, labels, smoothing), torch.stack(expected), atol=1e-6)
    many = (normal(9, 4, seed=3) > 0).to(torch.int8)
    several = Answers.of(labelled(many))
    expected = [functional.binary_cross_entropy_with_logits(o, many.float()) for o in outputs]
    assert torch.allclose(several.loss(outputs, many), torch.stack(expected), atol=1e-6)
    hidden = many.clone()
    hidden[:5, 1] = -1
    kept = hidden >= 0
    expected = functional.binary_cross_entropy_with_logits(outputs[0][kept], many.float()[kept])
    assert float(several.loss(outputs, hidden)[0]) == pytest.approx(float(expected), abs=1e-6)
    targets = normal(9, seed=4).double() * 30 + 7
    numbers = Answers.of(labelled(targets))
    said = numbers.said(((targets - targets.mean()) / targets.std(correction=0))[None, :, None])
    assert torch.allclose(said[0], targets, atol=1e-6)
    assert float(numbers.loss(torch.zeros(1, 9, 1), targets)[0]) == pytest.approx(0.5, abs=1e-5)


def test_a_token_that_stands_out_is_found_where_the_mean_says_nothing():
    """Of two tokens one says the class and the other, marked otherwise, the opposite."""
    count, tokens, dim = 600, 40, 16
    x, labels = normal(count, tokens, dim), torch.arange(count) % 2
    at = torch.randint(tokens, (count,), generator=torch.Generator().manual_seed(2))
    for place, sign in ((at, 1), ((at + 7) % tokens, -1)):
        x[torch.arange(count), place] = 0.1 * x[torch.arange(count), place]
        x[torch.arange(count), place, 0] = 12.0 * sign
        x[torch.arange(count), place, 1] = sign * torch.where(labels == 1, 6.0, -6.0)
    ready = standardised(x)
    data = labelled(labels[:400], labels[400:])
    course = Course(epochs=15, least_steps=200, rates=(3e-3, 1e-2), decays=(0.01,))
    outputs, chosen = trained_heads(
        data, lambda rows: (ready[:400][rows], None), lambda rows: (ready[400:][rows], None),
        lambda settings: AttentiveHeads(settings, dim, 2), course,
    )  # fmt: skip
    assert float((outputs.argmax(1) == labels[400:]).double().mean()) > 0.9
    assert chosen["validation"] > 0.9
    means = ready.mean(1)
    assert linear_probe(means[:400], labels[:400], means[400:], labels[400:]).value < 0.8
    assert chosen["learning_rate"] in course.rates


def circles(count, seed):
    x = normal(count, 6, seed=seed)
    return x, (x[:, :2].norm(dim=1) > 1.18).long()


def test_a_perceptron_tells_what_a_line_cannot_as_scikit_learns_does():
    (x, y), (test, truth) = circles(600, 0), circles(300, 1)
    course = Course(epochs=20, least_steps=200, rates=(3e-3, 1e-2), decays=(0.1,))
    found = mlp_probe(x, y, test, truth, course=course)
    theirs = MLPClassifier(
        (256,), max_iter=400, random_state=0, early_stopping=True, n_iter_no_change=30
    ).fit(x.numpy(), y.numpy())
    assert found.value == pytest.approx(theirs.score(test.numpy(), truth.numpy()), abs=0.06)
    assert found.value > 0.85
    again = mlp_probe(x, y, test, truth, course=course)
    assert torch.equal(found.predictions, again.predictions)


def test_numbers_and_several_labels_and_what_cannot_be_learned():
    x = normal(300, 6)
    course = Course(epochs=15, least_steps=150, rates=(1e-2,), decays=(0.01,))
    targets = (x[:, 0] * x[:, 1]).double() * 100 + 5000
    found = mlp_probe(x[:200], targets[:200], x[200:], targets[200:], course=course)
    assert found.metric == "r2"
    assert found.value > 0.4
    many = (x[:, :3] > 0).to(torch.int8)
    found = mlp_probe(x[:200], many[:200], x[200:], many[200:], course=course)
    assert found.metric == "macro_auc"
    assert found.value > 0.9
    with pytest.raises(UserError, match="all training labels are 0"):
        mlp_probe(x, torch.zeros(300, dtype=torch.long), x, torch.zeros(300, dtype=torch.long))


def test_the_choice_is_made_on_whole_groups():
    seen = []
    groups = torch.arange(60) // 3
    data = labelled(torch.arange(60) % 2, groups=groups)
    x = normal(60, 4)

    def inputs(rows):
        seen.append(rows)
        return x[rows], None

    trained_heads(data, inputs, inputs, lambda settings: PerceptronHeads(settings, 4, 2, hidden=4),
                  Course(epochs=1, least_steps=1, rates=(1e-3,), decays=(0.01,)))  # fmt: skip
    fit, held_out = data.split(0.2, 0)
    assert not set(groups[fit].tolist()) & set(groups[held_out].tolist())
    asked = {tuple(sorted(rows.tolist())) for rows in seen}
    assert tuple(held_out.tolist()) in asked
    assert np.mean([len(set(rows) & set(held_out.tolist())) for rows in asked if len(rows) < 15]) > 0
