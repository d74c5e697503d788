"""What every recipe must do, found without being registered: a new one is held to it as it appears."""

import json
from dataclasses import replace

import pytest
import torch
from recapture import BATCH, GOLDEN, SEED, golden_losses, smallest
from small import every_recipe, killed_at, same_to_the_bit

import anyjepa
from anyjepa.core.method import Context
from anyjepa.core.targets import EmaTeacher
from anyjepa.domains import domains
from anyjepa.engine.loading import Steps
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method
from anyjepa.recipes import Recipe, recipe, recipes
from anyjepa.recipes.fields import fields_of

# Losses of fp64 parameters are computed in fp64; sums may be taken in another order on another machine.
TOLERANCE = 1e-9

all_recipes = pytest.mark.parametrize("name", recipes())
SETTINGS = anyjepa.Settings(quiet=True, workers=0, log_every=1, checkpoint_every=1, steps=2)


@pytest.fixture(scope="module", params=recipes())
def trained(request, tmp_path_factory):
    """A run of the smallest preset, two steps long."""
    out = tmp_path_factory.mktemp(request.param) / "whole"
    anyjepa.train(request.param, out=out, settings=SETTINGS, batch_size=BATCH)
    return out


def drawn(name):
    kind, samples, facts = smallest(name)
    batch, problems = Steps(samples, kind, BATCH, SEED, 1)[0]
    assert not problems
    return build_method(kind, facts, SEED), batch, Context(1, 10, step_generator(SEED, 1))


@all_recipes
def test_it_says_what_it_is(name):
    kind = recipe(name)
    assert issubclass(kind, Recipe)
    assert kind.name == name
    assert kind.paper
    assert kind.domain in domains()
    assert kind.presets["paper"] == {}, "the defaults are the published numbers"
    for preset in kind.presets:
        kind.preset(preset)
    assert [field.name for field in fields_of(kind) if not field.meaning] == []
    assert f"anyjepa train {name}" in (kind.__doc__ or ""), "an example to copy"
    assert len(domains()[kind.domain].open(kind.example_data)) >= BATCH


@all_recipes
def test_gradients_reach_all_that_learns_and_nothing_else(name):
    method, batch, context = drawn(name)
    losses = method(batch, context)
    assert losses["loss"].ndim == 0
    assert torch.isfinite(losses["loss"])
    losses["loss"].backward()
    teacher = {id(p) for part in method.modules() if isinstance(part, EmaTeacher) for p in part.parameters()}
    for part_name, parameter in method.named_parameters():
        if id(parameter) in teacher:
            assert parameter.grad is None, part_name
            continue
        assert parameter.requires_grad, part_name
        assert parameter.grad is not None, part_name
        assert torch.isfinite(parameter.grad).all(), part_name
        assert parameter.grad.any(), part_name


@all_recipes
def test_a_step_depends_on_its_generator_only(name):
    method, batch, context = drawn(name)
    first = method(batch, context)["loss"]
    torch.rand(3)
    again = method(batch, Context(1, 10, step_generator(SEED, 1)))["loss"]
    other = method(batch, Context(1, 10, step_generator(SEED, 2)))["loss"]
    assert torch.equal(first, again)
    assert torch.equal(first, other) is not method.draws


@all_recipes
def test_the_loss_of_three_steps_is_the_golden_one(name):
    golden = json.loads(GOLDEN.read_text())
    assert name in golden, (
        f"{name} has no golden loss: run `python tests/recapture.py` and commit tests/golden.json"
    )
    assert golden_losses(name) == pytest.approx(golden[name], rel=TOLERANCE), (
        "the mathematics changed; where that is meant, run `python tests/recapture.py`"
    )


def test_no_golden_loss_is_left_of_a_recipe_that_went():
    assert json.loads(GOLDEN.read_text()).keys() == recipes().keys()


@pytest.mark.parametrize("trained", every_recipe(), indirect=True)
def test_being_killed_changes_nothing(trained, tmp_path):
    """Killed in its second step, and gone on with by another number of loader processes."""
    name, stopped = anyjepa.load(trained, "cpu").recipe.name, tmp_path / "stopped"
    killed_at(2, anyjepa.train, name, out=stopped, settings=SETTINGS, batch_size=BATCH)
    anyjepa.train(name, out=stopped, resume=True, settings=replace(SETTINGS, workers=1))
    assert same_to_the_bit(trained, stopped)


def test_what_was_saved_loads_and_embeds_the_same(trained):
    run, again = anyjepa.load(trained, "cpu"), anyjepa.load(trained, "cpu")
    samples = run.open()
    some = torch.arange(BATCH).numpy()
    embeddings = run.embed(samples, indices=some)
    assert embeddings.shape[0] == BATCH
    assert embeddings.dtype == torch.float32
    assert torch.isfinite(embeddings).all()
    assert torch.equal(embeddings, again.embed(samples, indices=some))
    assert not torch.equal(embeddings, run.untrained().embed(samples, indices=some)), "it learned nothing"


def test_an_embedding_depends_on_no_other_sample_and_no_order(trained):
    run = anyjepa.load(trained, "cpu")
    samples = run.open()
    some = torch.arange(BATCH).numpy()
    embeddings = run.embed(samples, indices=some)
    for batch_size in (1, 3):
        assert torch.allclose(run.embed(samples, batch_size, some), embeddings, atol=1e-5)
    assert torch.allclose(run.embed(samples, indices=some[::-1]), embeddings.flip(0), atol=1e-5)


def test_it_is_exported_without_a_difference(trained, tmp_path):
    result = anyjepa.export(trained, "safetensors", tmp_path / "encoder.safetensors")
    assert result["max_difference"] == 0
    run, again = anyjepa.load(trained, "cpu"), anyjepa.load(tmp_path / "encoder.safetensors", "cpu")
    some = torch.arange(BATCH).numpy()
    assert torch.equal(run.embed(run.open(), indices=some), again.embed(run.open(), indices=some))
