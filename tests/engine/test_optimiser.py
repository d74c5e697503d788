"""AdamW's groups and schedules."""

import pytest
import torch
from small import small_method, small_recipe
from torch import nn

from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.recipes import recipe


def names_by_decay(method):
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    found = {True: set(), False: set()}
    for group in build_optimiser(method).param_groups:
        found[group["decayed"]] |= {names[id(parameter)] for parameter in group["params"]}
    return found


def test_weights_and_the_mask_token_are_decayed_biases_and_norms_are_not():
    method = small_method()
    found = names_by_decay(method)
    assert "predictor.mask_token" in found[True]
    assert {name.rsplit(".", 1)[-1] for name in found[True]} == {"weight", "mask_token"}
    spared = {name for name, _ in method.named_parameters() if name.endswith("bias")}
    spared |= {f"{name}.weight" for name, part in method.named_modules() if isinstance(part, nn.LayerNorm)}
    assert found[False] == {name for name in spared if not name.startswith("target.")}


def test_everything_that_learns_is_in_exactly_one_group_and_the_teacher_in_none():
    method = small_method()
    found = names_by_decay(method)
    learns = {name for name, p in method.named_parameters() if p.requires_grad}
    assert found[True] | found[False] == learns
    assert not found[True] & found[False]
    assert not [name for name in learns if name.startswith("target.")]


def test_a_step_decays_by_the_rate_times_the_decay_and_nothing_else():
    """With a gradient of zero AdamW leaves only the decay: p <- p (1 - lr wd)."""
    method = small_method()
    optimiser = build_optimiser(method)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    apply(optimiser, {"learning_rate": 0.5, "weight_decay": 0.2})
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimiser.step()
    found = names_by_decay(method)
    for name, parameter in method.named_parameters():
        kept = 0.9 if name in found[True] else 1.0
        assert torch.allclose(parameter, before[name] * kept, atol=1e-7), name


def test_adam_has_the_published_constants():
    for group in build_optimiser(small_method()).param_groups:
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)


def test_schedules_of_the_published_training():
    """I-JEPA note, exact check 7: 300 epochs of 625 steps, 40 of warm-up, decay 0.04 to 0.4."""
    paper = recipe("i-jepa").preset("paper")
    steps = 300 * 625
    rate = {step: schedule(paper, step, steps)["learning_rate"] for step in (1, 12_500, 25_000, steps)}
    assert rate == pytest.approx({1: 2.00032e-4, 12_500: 6e-4, 25_000: 1e-3, steps: 1e-6}, rel=1e-9)
    assert schedule(paper, steps // 2, steps)["weight_decay"] == pytest.approx(0.22, rel=1e-9)
    assert schedule(paper, steps, steps)["weight_decay"] == pytest.approx(0.4, rel=1e-9)


def test_the_warm_up_keeps_its_share_when_the_training_is_shorter():
    small = small_recipe(epochs=10.0, warmup_epochs=4.0)
    rates = [schedule(small, step, 50)["learning_rate"] for step in range(1, 51)]
    assert max(range(50), key=rates.__getitem__) == 19
