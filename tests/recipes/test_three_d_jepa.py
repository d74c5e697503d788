"""3D-JEPA by the exact checks of its note."""

import pytest
import torch

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.core.objectives import cosine
from anyjepa.recipes import recipe

SMALL = {
    "points": 96, "candidates": 96, "groups": 16, "neighbours": 8, "patch_widths": (8, 16),
    "width": 24, "depth": 2, "heads": 2, "position_width": 12, "decoder_width": 16, "decoder_heads": 2,
}  # fmt: skip
TEACHER = {
    "teacher": "frozen", "teacher_width": 32, "teacher_depth": 1, "teacher_heads": 2,
    "teacher_patch_widths": (4, 8), "teacher_position_width": 8,
}  # fmt: skip
FACTS = {"channels": 0, "channel_mean": [], "channel_std": [], "points": 96, "radius": 1.0}


def small_method(seed=0, **fields):
    torch.manual_seed(seed)
    return recipe("3d-jepa").preset("tiny", **{**SMALL, **fields}).method(FACTS)


def clouds(count=6, points=96, seed=0):
    return {"points": torch.randn(count, points, 3, generator=torch.Generator().manual_seed(seed))}


def context(step=1, seed=0):
    return Context(step, 10, torch.Generator().manual_seed(seed))


def test_shapes_are_those_of_the_note():
    """Exact check 1, with the sizes of the paper and of ACT."""
    method = recipe("3d-jepa").preset("paper").method(FACTS).eval()
    batch = clouds(2, 2100)
    with torch.no_grad():
        tokens, masks = method.tokens(batch), method.masks(batch, context())
        added = method.encoder.positions(tokens.coordinates)
        predicted = method._predicted(tokens, added, masks)
        assert method.embed(batch).shape == (2, 768)
    assert tokens.values.shape == (2, 64, 384)
    assert masks.targets.shape[:2] == (2, 4)
    assert predicted.shape == (*masks.targets.shape, 384)
    assert len(method.encoder.trunk.blocks) == 12 and len(method.decoder.blocks) == 2


@pytest.mark.parametrize(("angle", "known"), [(1.0, 0.0), (0.0, 1.0), (-1.0, 2.0)])
def test_the_loss_of_known_directions_is_known(angle, known):
    """Exact check 6."""
    target = torch.tensor([[1.0, 0.0]])
    told = torch.tensor([[angle, 1.0 - abs(angle)]])
    assert cosine(told, target).item() == pytest.approx(known)
    assert cosine(5 * told, 0.1 * target).item() == pytest.approx(known)


def test_a_step_on_a_free_prediction_turns_it_towards_the_target():
    """Exact check 7: the printed formula fails it."""
    told, target = torch.randn(1, 8, requires_grad=True), torch.randn(1, 8)
    before = cosine(told, target)
    (slope,) = torch.autograd.grad(before, told)
    assert cosine(told - 0.1 * slope, target) < before


@pytest.mark.parametrize("teacher", [{}, TEACHER])
def test_nothing_learns_through_the_targets(teacher):
    """Exact checks 8 and 9: no trainable map acts on them, and a frozen teacher stays as it was."""
    method = small_method(**teacher).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    points, centres = method.cut(clouds(), context())
    tokens = method.encoder.tokenizer(points, centres)
    goal = method._targets(points, centres, tokens, method.encoder.positions(tokens.coordinates))
    assert not goal.requires_grad
    assert torch.allclose(goal.mean(2), torch.zeros(6, 16), atol=1e-5)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    method(clouds(), context())["loss"].backward()
    optimiser.step()
    method.after_step(context())
    after = method.state_dict()
    held = [name for name in before if name.startswith("teacher.")]
    assert bool(held) == bool(teacher)
    assert all(torch.equal(before[name], after[name]) for name in held)
    moved = [name for name in before if name.startswith(("encoder.", "decoder."))]
    assert any(not torch.equal(before[name], after[name]) for name in moved)
    if not teacher:
        assert any(
            not torch.equal(before[name], after[name]) for name in before if name.startswith("target.")
        )


@pytest.mark.parametrize("depth", [2, 0])
def test_what_lies_in_targets_only_is_not_seen(depth):
    """Exact check 11; without a decoder its place alone is known."""
    method = small_method(decoder_depth=depth).eval()
    tokens = method.encoder.patched(clouds())
    added = method.encoder.positions(tokens.coordinates)
    masks = method.hidden(tokens.coordinates, context().generator)
    assert masks.present is not None
    outside = torch.ones(6, 16, dtype=torch.bool)
    for row, (index, real) in enumerate(zip(masks.context, masks.present, strict=True)):
        outside[row, index[real]] = False
    other = tokens.values.clone()
    other[outside] += 5.0
    changed = type(tokens)(other, tokens.coordinates)
    assert torch.equal(method._predicted(tokens, added, masks), method._predicted(changed, added, masks))
    assert not torch.allclose(method.seen(tokens, added, masks).values, tokens.values[:, :1])


def test_the_teacher_sees_the_same_patches_and_the_whole_cloud():
    method = small_method(**TEACHER).eval()
    points, centres = method.cut(clouds(), context())
    tokens = method.encoder.tokenizer(points, centres)
    told = method.teacher.tokenizer(points, centres)
    assert torch.equal(told.coordinates, tokens.coordinates)
    goal = method._targets(points, centres, tokens, method.encoder.positions(tokens.coordinates))
    assert goal.shape == (6, 16, 32)
    moved = points.clone()
    moved[:, centres[0, -1]] += 1.0
    assert not torch.allclose(method._targets(moved, centres, tokens, tokens.values)[:, 0], goal[:, 0])


def test_losses_say_how_far_from_collapse_they_are():
    method = small_method()
    found = method(clouds(), context())
    assert 0 < found["loss"] < 2
    assert 0 < found["target_spread"] <= 1.05
    assert found["mean_target_loss"] < 1
    assert 0 < found["seen"] < 1
    with torch.no_grad():
        for parameter in method.target.parameters():
            parameter.zero_()
        method.target.encoder.blocks[-1].mlp[-1].bias.copy_(torch.randn(24))
        method.target.encoder.norm.weight.fill_(1)
        method.encoder.tokenizer.network.out.weight.zero_()
        method.encoder.tokenizer.network.out.bias.zero_()
        for parameter in method.encoder.positions.parameters():
            parameter.zero_()
    same = method(clouds(), context())
    assert same["target_spread"] < 1e-3, "all targets are one point"
    assert same["mean_target_loss"] < 1e-3


def test_positions_are_added_once_or_at_every_block():
    once, everywhere = small_method(), small_method(positions="every")
    everywhere.load_state_dict(once.state_dict())
    batch = clouds()
    assert not torch.allclose(once.eval().embed(batch), everywhere.eval().embed(batch), atol=1e-3)


def test_a_run_of_point_jepa_decides_the_frozen_teacher():
    other = recipe("point-jepa").preset("tiny")
    taken = recipe("3d-jepa").inherited(other)
    kind = recipe("3d-jepa").preset("tiny", **taken)
    method, before = kind.method(FACTS), other.method(FACTS)
    method.foundation.load_state_dict(before.backbone.state_dict())
    assert kind.teacher == "frozen" and kind.groups == other.groups
    batch, same = clouds(points=512), before.eval().encoder
    assert torch.equal(method.eval().teacher.patched(batch).values, same.patched(batch).values)
    assert recipe("3d-jepa").inherited(recipe("i-jepa").preset("tiny")) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"decoder_heads": 5}, "--decoder-width 16 does not divide into --decoder-heads 5"),
        ({"decoder_depth": -1}, "--decoder-depth"),
        ({"target_ratio": (0.4, 0.3)}, "target ratio"),
        ({"groups": 200}, "--groups must lie between 2 and --points 96"),
        ({"candidates": 10}, "cannot be chosen"),
    ],
)
def test_values_that_cannot_work_are_one_sentence(fields, words):
    with pytest.raises(UserError, match=words):
        small_method(**fields)
