"""seq-JEPA: what the paper's note says must hold exactly, on modules of the tiny preset."""

import math

import numpy as np
import pytest
import torch

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.core.objectives import cosine
from anyjepa.core.rotations import between
from anyjepa.core.view_sequences import CosineTeacher
from anyjepa.domains import domains
from anyjepa.domains.image_views import PARAMETERS
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method
from anyjepa.recipes import recipe

POSED = {
    "channels": 1, "mean": [90.0], "std": [60.0], "views": 5, "rotation": "quaternion",
    "others": ["light"], "others_std": [0.3], "height": 16, "width": 16, "dtype": "uint8",
}  # fmt: skip
SINGLE = {**POSED, "views": 1, "channels": 3, "mean": [90.0] * 3, "std": [60.0] * 3}
SMALL = {"image_size": (16, 16), "loaded_size": (16, 16), "width": 32, "action_width": 16, "depth": 2}


def small(facts=POSED, seed=0, **fields):
    return build_method(recipe("seq-jepa").preset("tiny", **{**SMALL, **fields}), facts, seed)


def posed(size=6, views=4, seed=0):
    random = np.random.default_rng(seed)
    pose = random.normal(size=(size, views, 5)).astype(np.float32)
    pose[..., :4] /= np.linalg.norm(pose[..., :4], axis=2, keepdims=True)
    image = random.integers(0, 256, (size, views, 1, 16, 16), dtype=np.uint8)
    return {"image": torch.from_numpy(image), "pose": torch.from_numpy(pose)}


def images(size=6, side=16, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (size, 3, side, side), dtype=np.uint8)
    return {"image": torch.from_numpy(values)}


def step(number=1, steps=10):
    return Context(number, steps, step_generator(0, number))


def test_defaults_are_those_of_the_paper():
    kind = recipe("seq-jepa")()
    assert (kind.learning_rate, kind.weight_decay, kind.warmup_epochs) == (4e-4, 1e-3, 20)
    assert (kind.predicted_from, kind.action_width, kind.predictor_width) == (3, 128, 1024)
    method = kind.method(POSED)
    assert method.encoder.network.width == 512
    assert method.encoder.aggregator.token.shape[-1] == 640
    assert not method.encoder.aggregator.token.any(), "learned from zero"
    first, last = method.predictor[0], method.predictor[-1]
    assert (first.in_features, first.out_features, first.bias) == (768, 1024, None)
    assert last.out_features == 512
    assert method.encoder.code is not None
    assert method.encoder.code.linear.bias is None
    assert not method.encoder.code.norm.affine


@pytest.mark.parametrize("told", ["both", "aggregator", "predictor", "none"])
@pytest.mark.parametrize("count", [1, 3])
def test_shapes_with_any_number_of_views(told, count):
    """Check 1: B x (M + 1) views, B x (M + 1) tokens, B x D predicted; widths follow what is told."""
    method = small(told=told, predicted_from=count)
    batch = posed(views=count + 1)
    sequence = method.sequence(batch, step(), count + 1)
    z = method.encoder.views(sequence.views[:, :-1])
    coded = method.encoder.actions(method.maker.actions(sequence))
    wide = 32 + (16 if told in ("both", "aggregator") else 0)
    used = None if coded is None or told == "predictor" else coded[:, :-1]
    assert method.encoder.aggregator.tokens(z, used).shape == (6, count + 1, wide)
    aggregate = method.encoder.aggregate(z, None if coded is None else coded[:, :-1])
    assert aggregate.shape == (6, wide)
    assert method.predicted(aggregate, None if coded is None else coded[:, -1]).shape == (6, 32)
    method.losses(batch, step())["loss"].backward()
    assert all(p.grad is not None for p in [*method.encoder.parameters(), *method.predictor.parameters()])


def test_the_loss_is_of_directions_only():
    """Check 2."""
    goal = torch.randn(5, 8, dtype=torch.float64)
    assert float(cosine(3 * goal, goal)) == pytest.approx(0)
    assert float(cosine(-goal, 2 * goal)) == pytest.approx(2)
    across = torch.eye(8, dtype=torch.float64)[:5]
    assert float(cosine(across, across.roll(1, 1))) == pytest.approx(1)
    guess = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    cosine(guess, goal).backward()
    assert guess.grad is not None
    torch.testing.assert_close((guess.grad * guess).sum(1), torch.zeros(5, dtype=torch.float64))


def test_gradients_reach_every_view_and_action_and_no_target():
    """Check 3."""
    method = small().double()
    batch = posed()
    sequence = method.sequence(batch, step(), 4, predicted=True)
    views = sequence.views.double().requires_grad_(True)
    actions = method.maker.actions(sequence).requires_grad_(True)
    coded = method.encoder.actions(actions)
    aggregate = method.encoder.aggregate(method.encoder.views(views[:, :-1]), coded[:, :-1])
    goal = method.target(method.encoder.network, {"image": views[:, -1]})
    assert not goal.requires_grad
    cosine(method.predicted(aggregate, coded[:, -1]), goal).backward()
    reached = views.grad.abs().flatten(2).amax(2)
    assert (reached[:, :-1] > 0).all()
    assert not reached[:, -1].any()
    assert (actions.grad.abs().amax(2) > 0).all()
    assert method.encoder.aggregator.token.grad.any()
    assert all(parameter.grad is None for parameter in method.target.parameters())


def test_the_last_action_is_the_predictors_alone():
    """Check 4: its slot is zero; an earlier action changes the aggregate."""
    method = small().eval()
    z, coded = torch.randn(2, 3, 32), torch.randn(2, 2, 16)
    tokens = method.encoder.aggregator.tokens(z, coded)
    assert not tokens[:, 2, 32:].any()
    torch.testing.assert_close(tokens[:, :2, 32:], coded)
    assert not tokens[:, 3].any(), "the aggregating token, not yet learned"
    batch = posed()
    sequence = method.sequence(batch, step(), 4)
    moved = sequence.parameters.clone()
    moved[:, 3, :4] = moved[:, 3, :4].roll(1, 0)
    other = method.maker.actions(sequence._replace(parameters=moved))
    actions = method.maker.actions(sequence)
    torch.testing.assert_close(other[:, :-1], actions[:, :-1])
    z = method.encoder.views(sequence.views[:, :-1])
    aggregates, told = [], []
    for one in (actions, other):
        coded = method.encoder.actions(one)
        aggregates.append(method.encoder.aggregate(z, coded[:, :-1]))
        told.append(method.predicted(aggregates[-1], coded[:, -1]))
    torch.testing.assert_close(*aggregates)
    assert not torch.allclose(*told)
    changed = method.encoder.actions(torch.cat([actions[:, :1].roll(1, 0), actions[:, 1:]], dim=1))
    assert not torch.allclose(method.encoder.aggregate(z, changed[:, :-1]), aggregates[0])


def test_order_is_in_the_actions_alone():
    """Check 5."""
    method = small().eval()
    torch.nn.init.normal_(method.encoder.aggregator.token)
    z, coded = torch.randn(3, 4, 32), torch.randn(3, 3, 16)
    order = torch.tensor([2, 0, 3, 1])
    plain = method.encoder.aggregator(z, 0 * coded)
    torch.testing.assert_close(method.encoder.aggregator(z[:, order], 0 * coded), plain)
    assert not torch.allclose(
        method.encoder.aggregator(z[:, order], coded), method.encoder.aggregator(z, coded)
    )


def test_the_momentum_rises_along_half_a_cosine():
    """Check 9."""
    teacher = CosineTeacher(torch.nn.Linear(2, 2), 0.996, 1.0)
    for progress in (0.0, 0.3, 0.5, 1.0):
        expected = 1 - (1 - 0.996) * (math.cos(math.pi * progress) + 1) / 2
        assert teacher.momentum(progress) == pytest.approx(expected)
    assert teacher.momentum(0.5) == pytest.approx(0.998)


def test_the_teacher_follows_and_keeps_statistics_of_its_own():
    method = small(momentum=(0.5, 0.5)).train()
    before = {name: value.clone() for name, value in method.target.encoder.named_parameters()}
    with torch.no_grad():
        for parameter in method.encoder.network.parameters():
            parameter.add_(1.0)
    method.after_step(step())
    for name, value in method.target.encoder.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.5)
    method.losses(posed(seed=1), step())
    mine, theirs = (dict(part.named_buffers()) for part in (method.encoder.network, method.target.encoder))
    assert not torch.equal(mine["layers.1.running_mean"], theirs["layers.1.running_mean"])


@pytest.mark.parametrize(("teacher", "learned"), [("none", False), ("collapse", True)])
def test_without_a_teacher_the_encoder_gives_targets(teacher, learned):
    method = small(teacher=teacher)
    goal = method.target(method.encoder.network, {"image": posed()["image"][:, 0]})
    assert goal.requires_grad is learned
    assert method.scheduled(step()) == {}


def test_actions_of_poses():
    method, batch = small(), posed()
    sequence = method.sequence(batch, step(), 4)
    assert method.maker.names == ["x", "y", "z", "w"]
    actions = method.maker.actions(sequence)
    torch.testing.assert_close(
        actions, between(sequence.parameters[:, :-1, :4], sequence.parameters[:, 1:, :4])
    )
    assert (actions[..., 3] >= 0).all()
    both = small(beside_rotation=True)
    assert both.maker.names == ["x", "y", "z", "w", "light"]
    beside = both.maker.actions(sequence)[..., 4]
    torch.testing.assert_close(beside, sequence.parameters[..., 4].diff(dim=1) / 0.3)


def test_a_turntable_is_told_by_cosine_and_sine():
    method = small({**POSED, "rotation": "turn", "others": [], "others_std": []})
    angles = torch.tensor([[[0.0], [math.pi / 2], [2 * math.pi]]])
    actions = method.maker.relation(angles[:, :-1], angles[:, 1:])
    torch.testing.assert_close(actions, torch.tensor([[[0.0, 1.0], [0.0, -1.0]]]), atol=1e-6, rtol=0)


def test_an_image_is_turned_as_its_action_says():
    method = small({**SINGLE}, transformation="affine", scale=(1.0, 1.0), shift=0.0)
    batch = images(2)
    quarter = torch.tensor([0.5, 0.75, 0.0]).view(1, 3, 1).expand(2, 3, 4)  # 0, +90 and -180 degrees
    sequence = method.maker.made(batch, quarter)
    whole = batch["image"].float()
    torch.testing.assert_close(sequence.views[:, 0], whole, atol=1e-2, rtol=0)
    torch.testing.assert_close(sequence.views[:, 1], whole.rot90(-1, (2, 3)), atol=1e-2, rtol=0)
    torch.testing.assert_close(sequence.views[:, 2], whole.rot90(2, (2, 3)), atol=1e-2, rtol=0)
    torch.testing.assert_close(
        method.maker.actions(sequence)[0, 0], torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]), atol=1e-6, rtol=0
    )


def test_an_image_is_shifted_as_its_action_says():
    method = small({**SINGLE}, transformation="affine", turn=1e-3, scale=(1.0, 1.0), shift=0.25)
    drawn = torch.full((1, 2, 4), 0.5)
    drawn[0, 1, 2], drawn[0, 1, 3] = 1.0, 0.75  # down by a quarter, right by an eighth
    sequence = method.maker.made(images(1), drawn)
    first, second = sequence.views[0]
    torch.testing.assert_close(second[:, 4:, 2:], first[:, :-4, :-2], atol=1e-1, rtol=0)


def test_augmentations_are_told_as_they_were_made():
    """Parameters are those of `Views`: the box cuts what it says, factors are in range, targets differ."""
    method = small({**SINGLE}, transformation="augmentations", everything=True)
    assert method.maker.names == list(PARAMETERS)
    batch = images(40, 24)
    sequence = method.sequence(batch, step(), 4, predicted=True)
    told = dict(zip(PARAMETERS, sequence.parameters.unbind(-1), strict=True))
    assert (told["top"] + told["height"] <= 1 + 1e-6).all()
    assert (told["height"] * told["width"] >= 0.2 - 0.1).all()
    assert (told["blur"][:, :-1] > 0).all(), "what is seen is always blurred"
    assert float((told["blur"][:, -1] > 0).float().mean()) < 0.4
    assert not told["solarised"][:, :-1].any()
    assert told["solarised"][:, -1].any()
    plain = small({**SINGLE}, transformation="augmentations")
    assert plain.maker.names == list(PARAMETERS[:9])
    assert plain.maker.actions(sequence).shape == (40, 3, 9)


def test_saccades_add_up_and_show_what_is_there():
    """Checks 7 and 8 in the method: actions sum to the way from first to last."""
    method = small({**SINGLE}, transformation="saccades", image_size=(8, 8), loaded_size=(32, 32))
    batch = images(5, 32)
    sequence = method.sequence(batch, step(), 4)
    actions = method.maker.actions(sequence)
    assert actions.abs().max() <= 1
    torch.testing.assert_close(actions.sum(1), sequence.parameters[:, -1] - sequence.parameters[:, 0])
    places = (sequence.parameters * 32 - 0.5).round().long()
    for sample in range(5):
        row, column = places[sample, 2].tolist()
        assert torch.equal(sequence.views[sample, 2, :, 4, 4], batch["image"][sample, :, row, column])
    mapped = {**batch, "saliency": torch.zeros(5, 32, 32)}
    mapped["saliency"][:, 20, 9] = 1.0
    first = method.sequence(mapped, step(), 1).parameters[:, 0]
    torch.testing.assert_close(first, torch.tensor([20.5, 9.5]).expand(5, 2) / 32)


def test_health_measures_both_parts_and_uses_of_actions():
    method = small().eval()
    with torch.inference_mode():
        found = method.health([posed(24, 5, seed) for seed in range(2)], step())
    names = "action_r2 action_r2_of_aggregate path_r2 prediction_loss prediction_loss_shuffled mrr"
    assert " ".join(found) == names
    assert found["action_r2"] < 0.2, "noise says nothing of actions"
    assert 0.2 <= found["mrr"] <= 1
    assert method.health([], step()) == {}


def test_the_report_gets_views_actions_and_fixations():
    method = small({**SINGLE}, transformation="saccades", image_size=(8, 8), loaded_size=(32, 32))
    made = method.augmented(images(2, 32), step())["in sequence"]
    drawn = domains()["views"].figure(made, 1, SINGLE)
    assert drawn is not None
    assert not method.views_agree, "the page says that the last one is predicted"
    assert drawn.count("<figure") == 4
    assert drawn.count("<circle") == 4
    assert drawn.count("<svg") == 4, "three actions and the way of the eye"
    assert "predicted" in drawn
    assert "down" in drawn


@pytest.mark.parametrize(
    ("facts", "fields", "words"),
    [
        (SINGLE, {}, "single images"),
        (POSED, {"transformation": "affine"}, "several views"),
        (POSED, {"aggregator_heads": 5}, "does not divide"),
    ],
)
def test_what_does_not_fit_the_data_is_said(facts, fields, words):
    with pytest.raises(UserError, match=words):
        small(facts, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"seen": 0},
        {"transformation": "saccades"},
        {"transformation": "saccades", "image_size": (8, 16)},
        {"scale": (0.0, 1.0)},
        {"backbone": "resnet-81"},
        {"backbone": "vit", "image_size": (18, 18), "patch_size": 4},
    ],
)
def test_fields_that_cannot_work_together(fields):
    with pytest.raises(UserError):
        recipe("seq-jepa").preset("tiny", **{**SMALL, **fields})


def test_views_of_data_that_has_none_are_advised():
    kind, domain = recipe("seq-jepa"), domains()["views"]
    for source, expected in (("digits", {"transformation": "affine"}), ("synthetic-turntable", {})):
        samples = domain.open(source, reading=kind().reading())
        assert kind.advice(samples, domain.measure(samples)) == expected
