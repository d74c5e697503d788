"""The action-conditioned world model (exact checks 8 to 10 of the note), poses, the cross-entropy method."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.causal import CausalPredictor, block_causal
from anyjepa.core.method import Context
from anyjepa.core.objectives import l1
from anyjepa.core.planning import CrossEntropy
from anyjepa.core.poses import differences, euler, moved, rotation
from anyjepa.core.positions import Rotary
from anyjepa.core.schedules import trapezoid
from anyjepa.core.world_model import ActionConditioned
from anyjepa.recipes import recipe

FACTS = {
    "channels": 3, "mean": [110.0] * 3, "std": [60.0] * 3, "action_mean": [0.0] * 2, "action_std": [0.05] * 2,
    "state_mean": [0.5] * 2, "state_std": [0.3] * 2,
}  # fmt: skip
SMALL = {"width": 24, "heads": 2, "predictor_width": 24, "predictor_depth": 2, "predictor_heads": 2}


def small(seed=0, **fields) -> ActionConditioned:
    torch.manual_seed(seed)
    return recipe("v-jepa-2-ac").preset("tiny", **{**SMALL, "frames": 5, **fields}).method(FACTS)


def clips(count=3, frames=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.rand(count, frames, 2, generator=generator)
    return {
        "video": torch.randint(0, 256, (count, 3, frames, 32, 32), generator=generator).byte(),
        "states": states,
        "actions": states.diff(dim=1),
    }


def context():
    return Context(1, 10, torch.Generator().manual_seed(1))


def test_a_token_looks_at_its_own_step_and_back():
    allowed = block_causal(4, 3)
    for i in range(12):
        for j in range(12):
            assert allowed[i, j] == (j // 3 <= i // 3)


@pytest.mark.parametrize("changed", ["frame", "action", "state"])
def test_what_comes_later_changes_nothing_before(changed):
    model, batch = small().encoder, clips()
    frames, places = model.encode(batch["video"])
    given = [frames[:, :-1], batch["actions"], batch["states"][:, :-1]]
    before = model.predicted(*given, places)
    number = ("frame", "action", "state").index(changed)
    given[number] = given[number].clone()
    given[number][:, 2] += 1.0
    after = model.predicted(*given, places)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2], atol=1e-3)
    assert not torch.allclose(before[:, 3], after[:, 3], atol=1e-4), "and what comes after it does change"


def test_patches_in_another_order_are_predicted_alike():
    torch.manual_seed(0)
    predictor = CausalPredictor(16, 2, 2, 24, 2, 2, rotary=Rotary(12, 3, pairs="adjacent"))
    frames, actions, states = torch.randn(2, 3, 9, 16), torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    places = torch.stack(torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij"), -1).flatten(
        0, 1
    )
    order = torch.randperm(9)
    whole = predictor(frames, actions, states, places)
    shuffled = predictor(frames[:, :, order], actions, states, places[order])
    torch.testing.assert_close(shuffled, whole[:, :, order], rtol=0, atol=1e-5)
    assert not torch.allclose(predictor(frames, actions, states, places[order]), whole, atol=1e-4)


def test_a_roll_out_of_one_step_is_the_first_of_teacher_forcing():
    method, batch = small(rollout=1), clips()
    goal, places = method.encoder.encode(batch["video"])
    forced = method.encoder.predicted(goal[:, :-1], batch["actions"], batch["states"][:, :-1], places)
    losses = method(batch, context())
    torch.testing.assert_close(losses["rolled_out"], l1(forced[:, 0], goal[:, 1]))
    torch.testing.assert_close(losses["teacher_forced"], l1(forced, goal[:, 1:]))
    torch.testing.assert_close(losses["loss"], losses["teacher_forced"] + losses["rolled_out"])
    torch.testing.assert_close(losses["copied"], l1(goal[:, :-1], goal[:, 1:]))


def test_a_roll_out_feeds_its_predictions_back():
    model, batch = small().encoder, clips()
    goal, places = model.encode(batch["video"])
    actions, states = batch["actions"], batch["states"]
    first = model.predicted(goal[:, :1], actions[:, :1], states[:, :1], places)
    second = model.predicted(torch.cat([goal[:, :1], first], 1), actions[:, :2], states[:, :2], places)
    rolled = model.rolled_out(goal[:, :1], actions, states, places, 2)
    torch.testing.assert_close(rolled, torch.cat([first, second[:, 1:]], 1))
    # states that were not measured are moved by the actions, which here lead to the measured ones
    torch.testing.assert_close(model.rolled_out(goal[:, :1], actions, states[:, :1], places, 2), rolled)


def test_tokens_are_normalised_both_ways():
    model, batch = small().encoder, clips()
    goal, places = model.encode(batch["video"])
    predicted = model.predicted(goal[:, :-1], batch["actions"], batch["states"][:, :-1], places)
    for tokens in (goal, predicted):
        torch.testing.assert_close(tokens.mean(-1), torch.zeros_like(tokens[..., 0]), atol=1e-5, rtol=0)
        ones = torch.ones_like(tokens[..., 0])
        torch.testing.assert_close(tokens.var(-1, correction=0), ones, atol=1e-3, rtol=0)
    raw = small(normalise=False)
    torch.nn.init.constant_(raw.foundation.norm.weight, 2.0)
    torch.testing.assert_close(raw.encoder.encode(batch["video"])[0], 2 * goal, rtol=0, atol=1e-3)


def test_each_frame_is_encoded_alone():
    model, batch = small().encoder, clips()
    whole, _ = model.encode(batch["video"])
    alone, _ = model.encode(batch["video"][:, :, 2:3])
    torch.testing.assert_close(whole[:, 2:3], alone)
    twice = model.frozen.encoder({"video": batch["video"][:, :, 2:3].expand(-1, -1, 2, -1, -1)})
    torch.testing.assert_close(model.normal(twice.values), alone[:, 0])


def test_the_encoder_is_frozen():
    method, batch = small(), clips()
    before = {name: value.clone() for name, value in method.foundation.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.1)
    method(batch, context())["loss"].backward()
    optimiser.step()
    method.after_step(context())
    for name, parameter in method.foundation.named_parameters():
        assert parameter.grad is None, name
    for name, value in method.foundation.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_errors_are_those_of_their_names():
    method, batch = small(), clips(4)
    found = method.health([batch, {name: value[:2] for name, value in clips(4, seed=1).items()}], context())
    losses = [method(part, context()) for part in (batch, {n: v[:2] for n, v in clips(4, seed=1).items()})]
    for name, term in (("one_step_error", "teacher_forced"), ("one_step_error_copying", "copied")):
        wanted = (4 * losses[0][term] + 2 * losses[1][term]) / 6
        assert found[name] == pytest.approx(wanted.item(), rel=1e-5)
    assert found["one_step_error_shuffled"] != pytest.approx(found["one_step_error"], rel=1e-5)


def test_what_is_imagined_begins_with_what_was_seen():
    method, batch = small(), clips(20)
    found = method.imagined(batch)
    assert found["true"] is batch
    drawn = found["predicted"]["video"]
    assert drawn.shape == batch["video"].shape and drawn.dtype == torch.uint8
    # tokens as wide as a patch has pixels lose nothing, and the map to pixels gives the frame back
    wide = small(width=192, depth=0)
    seen = wide.imagined(batch)["predicted"]["video"][:, :, 0].float()
    apart = (seen - batch["video"][:, :, 0].float()).abs().mean()
    assert apart < 40, "uniform noise has a mean deviation of 64"


def test_without_a_state_token_the_state_does_not_matter():
    model, batch = small(state_token=False).encoder, clips()
    goal, places = model.encode(batch["video"])
    one = model.predicted(goal[:, :-1], batch["actions"], batch["states"][:, :-1], places)
    other = model.predicted(goal[:, :-1], batch["actions"], batch["states"][:, :-1] + 1, places)
    assert torch.equal(one, other)


angles = st.floats(-3.1, 3.1)
tilt = st.floats(-1.5, 1.5)


@given(st.lists(st.tuples(angles, tilt, angles), min_size=2, max_size=5), st.integers(0, 2**31))
@settings(max_examples=60)
def test_poses_to_differences_and_back(turns, seed):
    generator = torch.Generator().manual_seed(seed)
    count = len(turns)
    place = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    grip = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    poses = torch.cat([place, torch.tensor(turns, dtype=torch.float64), grip], 1)
    actions = differences(poses)
    assert actions.shape == (count - 1, 7)
    pose = poses[0]
    for step, action in enumerate(actions):
        pose = moved(pose, action)
        torch.testing.assert_close(pose[[0, 1, 2, 6]], poses[step + 1, [0, 1, 2, 6]], rtol=0, atol=1e-9)
        turned = rotation(pose[3:6]) - rotation(poses[step + 1, 3:6])
        assert turned.abs().max() < 1e-6
        torch.testing.assert_close(pose[3:6], poses[step + 1, 3:6], rtol=0, atol=1e-6)


def test_rotations_are_those_of_known_angles():
    quarter = math.pi / 2
    x, y, z = torch.eye(3, dtype=torch.float64)
    about = {0: (y, z), 1: (z, x), 2: (x, y)}
    for axis, (start, end) in about.items():
        turn = torch.zeros(3, dtype=torch.float64)
        turn[axis] = quarter
        torch.testing.assert_close(rotation(turn) @ start, end)
    matrix = rotation(torch.tensor([0.3, -0.4, 0.5], dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(euler(matrix), torch.tensor([0.3, -0.4, 0.5], dtype=torch.float64))
    # about the fixed axes: first x, then y, then z
    parts = [rotation(torch.tensor(a, dtype=torch.float64)) for a in ([0.3, 0, 0], [0, -0.4, 0], [0, 0, 0.5])]
    torch.testing.assert_close(matrix, parts[2] @ parts[1] @ parts[0])


def test_the_search_finds_the_lowest_of_a_bowl():
    goal = torch.tensor([[[0.03, -0.02]], [[-0.04, 0.05]], [[0.2, 0.0]]])
    low, high = torch.full((2,), -0.05), torch.full((2,), 0.05)

    def energy(actions):
        return (actions - goal.unsqueeze(1)).abs().sum((2, 3))

    search = CrossEntropy(horizon=1, candidates=200, elite=10, rounds=12)
    found = search.search(energy, 3, low, high, torch.Generator().manual_seed(0))
    wanted = goal.clamp(-0.05, 0.05)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)
    again = search.search(energy, 3, low, high, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=25)
def test_actions_keep_to_their_range(problems, horizon, seed):
    low, high = torch.tensor([-0.1, 0.0, 0.2]), torch.tensor([0.1, 0.0, 0.3])
    generator = torch.Generator().manual_seed(seed)
    search = CrossEntropy(horizon=horizon, candidates=12, elite=3, rounds=3)

    def energy(actions):
        assert (actions >= low).all() and (actions <= high).all()
        return actions.sum((2, 3))

    found = search.search(energy, problems, low, high, generator)
    assert found.shape == (problems, horizon, 3)
    assert (found >= low - 1e-6).all() and (found <= high + 1e-6).all()
    assert (found[..., 1] == 0).all()


def test_momentum_keeps_a_share_of_what_was():
    search = CrossEntropy(horizon=1, candidates=5, elite=5, rounds=1, momentum=0.25)
    low, high = torch.tensor([-1.0]), torch.tensor([3.0])
    drawn = []

    def energy(actions):
        drawn.append(actions)
        return actions.sum((2, 3))

    found = search.search(energy, 1, low, high, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, 0.25 * 1.0 + 0.75 * drawn[0].mean(1))


@pytest.mark.parametrize("fields", [{"elite": 500}, {"rounds": 0}, {"momentum": 1.0}])
def test_searches_that_cannot_be(fields):
    with pytest.raises(ValueError, match="must"):
        CrossEntropy(**fields)


def test_the_rate_rises_stays_and_falls():
    values = [trapezoid(step, 100, 10, 20, 0.0, 1.0, 0.2) for step in range(1, 101)]
    assert values[4] == pytest.approx(0.5)
    assert values[9:80] == [1.0] * 71
    assert values[89] == pytest.approx(0.6)
    assert values[99] == pytest.approx(0.2)
