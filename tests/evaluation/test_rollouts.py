"""Closed loop and the probe of states to come."""

from pathlib import Path

import numpy as np
import pytest
import torch

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.domains.control_pendulum import swinging
from anyjepa.evaluation.future import Probing, errors_of, future_states
from anyjepa.evaluation.rollouts import TASKS, Controller, ensembled, rollout


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("act") / "run"
    settings = anyjepa.Settings(steps=2, quiet=True, workers=0)
    anyjepa.train("act-jepa", out=folder, settings=settings, batch_size=8)
    return anyjepa.load(folder, "cpu")


def test_a_chunk_is_carried_out_before_the_next_is_asked_for(run):
    states = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    whole, part = Controller(run), Controller(run, execute=5)
    plan = whole.chunk(states)
    assert plan.shape == (3, 16, 1)
    for step in range(33):
        np.testing.assert_array_equal(whole(states), plan[:, step % 16])
        np.testing.assert_array_equal(part(states), plan[:, step % 5])
    assert (whole.asked, part.asked) == (3, 7)
    whole.reset()
    whole(states)
    assert whole.asked == 1, "asked again right after it was reset"
    batch = {"state": torch.from_numpy(states), "task": torch.zeros(3, dtype=torch.int64)}
    np.testing.assert_allclose(plan, run.method.act(batch).detach().numpy(), rtol=1e-6)


def test_ensembles_weigh_the_oldest_most(run):
    said = np.array([[[3.0]], [[1.0]], [[2.0]]])
    assert ensembled(said, 0.0).item() == 2.0
    weights = np.exp(-0.5 * np.arange(3))
    assert ensembled(said, 0.5).item() == pytest.approx(weights @ [3, 1, 2] / weights.sum())
    controller, states = Controller(run, ensemble=0.0), np.zeros((1, 3), np.float32)
    plan = controller.chunk(states)[0, :, 0]
    for step in range(20):
        # of chunks that all begin alike, what is said of a step is the mean of those that still reach it
        assert controller(states).item() == pytest.approx(plan[: min(step + 1, 16)].mean(), abs=1e-5)
    assert controller.asked == 20


def test_success_is_counted_beside_others(run):
    pytest.importorskip("gymnasium")
    found = rollout(run, episodes=3, steps=110)
    assert {
        "success",
        "success_untrained",
        "success_random",
        "success_expert_low",
        "gain_random",
    } <= found.keys()
    assert found["success_expert"] == 1
    assert found["success_random"] == 0
    page = (run.path / "rollout.html").read_text()
    assert page.count("<svg") == 2, "a film strip and lines of the first episode, which failed"
    assert "torque, Nm" in page
    assert "expert" in page
    told = anyjepa.load(run.path, "cpu").results()[-1]
    assert (told["value"], told["raw"], told["test"]) == (found["success"], found["success_still"], 3)
    written = anyjepa.report(run, samples=20)["report"]
    words = Path(written).read_text(encoding="utf-8")
    assert 'href="rollout.html"' in words
    assert "anyjepa rollout" in words
    assert "50 steps" in page
    with pytest.raises(UserError, match="Pendulum-v1"):
        rollout(run, "Pendulum-v2")
    with pytest.raises(UserError, match="other ones"):
        rollout(run, "MountainCarContinuous-v0")


def test_what_counts_as_success():
    up = np.tile([1.0, 0.0, 0.0], (60, 1))
    fallen = up.copy()
    fallen[30, 0] = 0.9
    assert TASKS["Pendulum-v1"].succeeded(up, False)
    assert not TASKS["Pendulum-v1"].succeeded(fallen, False)


def test_who_cannot_act_says_so(run, tmp_path):
    anyjepa.export(run, "safetensors", tmp_path / "encoder.safetensors")
    with pytest.raises(UserError, match="encoder alone"):
        Controller(anyjepa.load(tmp_path / "encoder.safetensors", "cpu"))
    with pytest.raises(UserError, match="17"):
        Controller(run, execute=17)
    with pytest.raises(UserError, match="no actions"):
        anyjepa.export(run, "safetensors", tmp_path / "a.safetensors", output="actions")


@pytest.mark.slow  # the exporter alone takes seconds to import
def test_an_exported_policy_does_the_same(run, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found = anyjepa.export(run, "onnx", tmp_path / "policy.onnx", output="actions")
    assert found["max_difference"] < 1e-4
    session = runtime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    states = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    given = {"state": states, "task": np.zeros(2, np.int64)}
    names = [place.name for place in session.get_inputs()]
    assert set(names) == given.keys()
    said = session.run(None, {name: given[name] for name in names})[0]
    np.testing.assert_allclose(said, Controller(run).chunk(states), atol=1e-5)


def test_errors_by_hand():
    valid = torch.ones(1, 2, dtype=torch.bool)
    zeros = torch.zeros(1, 2, 2)
    rmse, ate = errors_of(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), zeros, valid)
    assert (rmse, ate) == (2.5, 2.5)
    rmse, ate = errors_of(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), zeros, valid)
    assert (rmse, ate) == (pytest.approx(0.5**0.5), 1.0)
    padded = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]])
    assert errors_of(padded, zeros, torch.tensor([[True, False]]))[1] == 1.0


def test_states_to_come_are_told_on_other_episodes(run, tmp_path):
    parts = {}
    for split, count in (("train", 8), ("test", 3)):
        states, actions, _ = swinging(split)
        parts |= {f"states_{split}": states[:count], f"actions_{split}": actions[:count]}
    np.savez(tmp_path / "few.npz", **parts)
    few = str(tmp_path / "few.npz")
    found = future_states(run, few, others={"again": run}, probing=Probing(steps=3, batch_size=32, depth=1))
    assert found["windows"] == [480, 180]
    assert found["episodes"] == 3
    assert found["rmse"] == found["rmse_again"], "the same probe of the same tokens"
    assert found["rmse"] != found["rmse_untrained"]
    held = run.open(few, split="test").array
    wanted = (held["states"] - held["states"][:, :1]) / np.array(run.facts["state_std"])
    errors = wanted[~held["padded"]]
    assert found["rmse_hold"] == pytest.approx(float(np.sqrt((errors**2).mean())), rel=1e-4)
