"""Planning: the energy is what it says, bounds hold, and (slow) a trained model reaches goals."""

import numpy as np
import pytest
import torch

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.core.planning import CrossEntropy
from anyjepa.domains.control_world import REACH, ReachWorld
from anyjepa.evaluation import planning
from anyjepa.evaluation.planning import Planner, plan, unlearned

FEW = CrossEntropy(horizon=2, candidates=6, elite=2, rounds=2)
SMALL = {"width": 24, "heads": 2, "predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "run"
    settings = anyjepa.Settings(steps=1, quiet=True, workers=0, device="cpu")
    anyjepa.train("v-jepa-2-ac", None, folder, settings=settings, batch_size=8, **SMALL)
    return anyjepa.load(folder, "cpu")


def test_the_energy_is_the_distance_of_imagined_tokens_to_the_goals(run, monkeypatch):
    planner = Planner(run, FEW)
    world = ReachWorld(3, np.random.default_rng(0))
    now, places = planner._seen(world.seen())
    goal = planner.tokens(world.seen(ReachWorld.somewhere(np.random.default_rng(1), 3)))
    state, actions = torch.from_numpy(world.state), torch.rand(3, 5, 2, 2) * 0.1
    energy = planner._energy(now, state, goal, actions, places)
    for problem in range(3):
        for one in range(5):
            first = now[problem][None, None], actions[problem, one][None], state[problem][None, None]
            ahead = planner.model.rolled_out(*first, places, 2)
            wanted = (ahead[0, -1] - goal[problem]).abs().mean()
            torch.testing.assert_close(energy[problem, one], wanted, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(planning, "TOGETHER", 70)
    torch.testing.assert_close(planner._energy(now, state, goal, actions, places), energy)


def test_plans_keep_to_the_range_and_depend_on_the_seed_alone(run):
    world = ReachWorld(4, np.random.default_rng(0))
    goals = world.seen(ReachWorld.somewhere(np.random.default_rng(1), 4))
    found = [Planner(run, FEW, seed=seed).plan(world.seen(), world.state, goals) for seed in (0, 0, 1)]
    assert found[0].shape == (4, 2, 2)
    assert np.abs(found[0]).max() <= REACH + 1e-6
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    held = Planner(run, FEW, low=np.array([0.0, -0.02]), high=np.array([0.0, 0.02]))
    actions = held.plan(world.seen(), world.state, goals)
    assert (actions[..., 0] == 0).all() and np.abs(actions).max() <= 0.02 + 1e-6


def test_pictures_are_seen_as_in_training(run):
    world = ReachWorld(5, np.random.default_rng(0))
    video = world.seen()[:, None].repeat(8, 1)
    wanted, _ = run.method.encoder.encode(torch.from_numpy(video).permute(0, 4, 1, 2, 3))
    torch.testing.assert_close(Planner(run, FEW).tokens(world.seen()), wanted[:, 0])


def test_unlearned_is_the_predictor_before_training_upon_the_same_encoder(run):
    before = unlearned(run).method
    trained, fresh = run.method.encoder.predictor, before.encoder.predictor
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True))
    for name, value in run.method.foundation.state_dict().items():
        assert torch.equal(before.foundation.state_dict()[name], value)


def test_a_result_says_all_it_promises(run):
    result = plan(run, episodes=4, steps=2, search=FEW)
    assert result == plan(run, episodes=4, steps=2, search=FEW)
    for name in ("", "_untrained", "_random"):
        assert result[f"success{name}_low"] <= result[f"success{name}"] <= result[f"success{name}_high"]
        # goals lie at 0.3 metres, and two actions lead no farther than 0.29
        assert result[f"distance{name}"] > 0.0
    assert result["gain_random"] == pytest.approx(result["success"] - result["success_random"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"world": "synthetic-reech"}, "Did you mean"),
        ({"episodes": 1}, "2 episodes"),
        ({"steps": 0}, "a step"),
    ],
)
def test_what_cannot_be_planned_is_said(run, options, word):
    with pytest.raises(UserError, match=word):
        plan(run, **options)


def test_other_recipes_do_not_plan(run, tmp_path):
    settings = anyjepa.Settings(steps=1, quiet=True, workers=0, device="cpu")
    anyjepa.train("i-jepa", "digits", tmp_path / "run", settings=settings, batch_size=8)
    with pytest.raises(UserError, match="knows no actions"):
        plan(tmp_path / "run")
    with pytest.raises(UserError, match="needs a range"):
        Planner(run, FEW, low=np.zeros(3), high=np.ones(3))


@pytest.mark.slow
def test_a_trained_model_reaches_goals(tmp_path):
    """Check 14 of the note: true actions beat shuffled ones and copying, plans beat chance."""
    settings = anyjepa.Settings(quiet=True, workers=0, device="cpu")
    run = anyjepa.train("v-jepa-2-ac", None, tmp_path / "run", settings=settings)["run"]
    health = anyjepa.inspect(run)
    assert health["one_step_error"] < health["one_step_error_copying"] < health["one_step_error_shuffled"]
    result = plan(run, episodes=30)
    assert result["gain_untrained_low"] > 0.3
    assert result["gain_random_low"] > 0.3
