"""TI-JEPA: the exact checks of its structure, masks, gradients and energies."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.core.objectives import DISTANCES, OBJECTIVES
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.tokens import Tokens
from anyjepa.domains.image_text_samples import record
from anyjepa.domains.image_text_simulation import scenes
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.run import build_method
from anyjepa.evaluation.captions import ranks, recalls
from anyjepa.recipes import recipe
from anyjepa.recipes.i_jepa import IJepa
from anyjepa.recipes.ti_jepa import learned
from anyjepa.recipes.ti_jepa_method import CrossBlock, Matching, PairEncoder, TextStack, explained
from anyjepa.recipes.ti_jepa_twin import ContrastiveTwin

FACTS = {"channels": 3, "mean": [119.0] * 3, "std": [58.0] * 3}
SMALL = {
    "width": 24, "depth": 1, "heads": 2, "stack_heads": 2, "predictor_width": 16, "predictor_depth": 1,
    "predictor_heads": 2, "text_width": 12, "text_length": 6, "drop_text": 0.0,
}  # fmt: skip


def small_recipe(**fields):
    return recipe("ti-jepa").preset("tiny", **{**SMALL, **fields})


def small_method(seed=0, **fields):
    return build_method(small_recipe(**fields), FACTS, seed)


def pairs(count=3, first=0, **fields):
    images, captions = scenes("test")[:2]
    samples = [record(images[row], captions[row]) for row in range(first, first + count)]
    return small_recipe(**fields).present(samples)


def context(seed=0):
    return Context(1, 10, torch.Generator().manual_seed(seed))


def part(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def test_shapes_of_the_steps_are_those_of_the_paper():
    method, batch = small_method(text_in="both", targets=4), pairs(3)
    masks, words = method.masks(batch, context()), method.encoder.read(batch)
    whole = method.encoder.see(batch)
    assert whole.values.shape == (3, 16, 24)
    assert words[0].shape == (3, 6, 12)
    assert method.target.encoder(whole.values, words).shape == (3, 16, 24)
    seen = method.encoder.see(batch, masks.context)
    visible = method.sampler.context_width
    assert method.encoder.stack(seen.values, words).shape == (3, visible, 24)
    goal = method.goal(whole.values, words, masks)
    assert goal.shape == method.predicted(seen, whole.coordinates, words, masks).shape == (3, 4, 4, 24)


def test_a_stack_that_begins_as_the_identity_changes_nothing():
    method, batch = small_method(identity_start=True), pairs()
    seen = method.encoder.see(batch)
    assert torch.equal(method.encoder(batch).values, seen.values)
    assert not torch.equal(small_method().encoder(batch).values, seen.values)


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(0, 4), st.integers(0, 2**31))
def test_padding_changes_nothing(length, more, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    stack = TextStack(8, 5, 2, 2)
    x, values = torch.randn(2, 3, 8, generator=generator), torch.randn(2, length, 5, generator=generator)
    present = torch.rand(2, length, generator=generator) < 0.5  # of some rows none
    noise = torch.full((2, more, 5), 1e6)
    padded = (torch.cat([values, noise], 1), torch.cat([present, torch.zeros(2, more, dtype=torch.bool)], 1))
    found = stack(x, (values, present))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(stack(x, padded), found, atol=1e-6, rtol=1e-6)


def test_a_pair_without_a_word_reads_the_null_token():
    method, batch = small_method(), pairs(2)
    silent = {**batch, "said": torch.zeros_like(batch["said"])}
    other = {**silent, "ids": batch["ids"].flip(0)}
    assert torch.isfinite(method.encoder(silent).values).all()
    assert torch.equal(method.encoder(silent).values, method.encoder(other).values)
    assert not torch.equal(method.encoder(silent).values, method.encoder(batch).values)


@pytest.mark.parametrize("place", ["both", "context", "predictor"])
def test_nothing_of_a_hidden_patch_leaks_into_the_context(place):
    method, batch = small_method(text_in=place), pairs(2)
    masks, words = method.masks(batch, context()), method.encoder.read(batch)
    hidden = masks.targets.flatten(1)
    image = batch["image"].clone()
    for row in range(2):
        for patch in hidden[row].tolist():
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            image[row, :, top : top + 8, left : left + 8] = (
                255 - image[row, :, top : top + 8, left : left + 8]
            )
    changed = {**batch, "image": image}
    before, after = (method.encoder.see(one, masks.context) for one in (batch, changed))
    assert torch.equal(before.values, after.values)
    assert torch.equal(method.encoder.stack(before.values, words), method.encoder.stack(after.values, words))
    # what is gathered from the whole image has been mixed with what is hidden
    whole = [method.encoder.see(one).take(masks.context).values for one in (batch, changed)]
    assert not torch.equal(*whole)


@pytest.mark.parametrize("place", ["both", "context", "predictor"])
def test_targets_see_the_whole_image(place):
    method, batch = small_method(text_in=place), pairs(2)
    masks, words = method.masks(batch, context()), method.encoder.read(batch)
    patch = int(masks.context[0, 0])
    changed = batch["image"].clone()
    top, left = 8 * (patch // 4), 8 * (patch % 4)
    changed[0, :, top : top + 8, left : left + 8] = 255 - changed[0, :, top : top + 8, left : left + 8]
    before, after = (
        method.goal(method.encoder.see({**batch, "image": one}).values, words, masks)
        for one in (batch["image"], changed)
    )
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("place", ["both", "context", "predictor"])
def test_only_stack_and_predictor_learn(place):
    kind = small_recipe(text_in=place)
    method, batch = build_method(kind, FACTS, 0).train(), pairs(8)
    frozen = {
        name: value.clone()
        for name, value in method.state_dict().items()
        if name.startswith(("encoder.image.", "encoder.text."))
    }
    teacher = {name: value.clone() for name, value in method.target.state_dict().items()}
    optimiser = build_optimiser(method, kind)
    held = {id(one) for group in optimiser.param_groups for one in group["params"]}
    assert held == {id(one) for one in [*method.encoder.stack.parameters(), *method.predictor.parameters()]}
    assert sum(one.numel() for group in optimiser.param_groups for one in group["params"]) == learned(method)
    for step in range(1, 11):
        apply(optimiser, schedule(kind, step, 10))
        method(batch, Context(step, 10, torch.Generator().manual_seed(step)))["loss"].backward()
        assert all(one.grad is None for one in method.encoder.image.parameters())
        assert all(one.grad is None for one in method.target.parameters())
        assert method.predictor.mask_token.grad.any()
        assert method.encoder.stack.null.grad.any()
        optimiser.step()
        optimiser.zero_grad()
    assert not any(
        part.training for part in (*method.encoder.image.modules(), *method.encoder.text.modules())
    )
    for name, value in frozen.items():
        assert torch.equal(method.state_dict()[name], value), name
    for name, value in teacher.items():
        assert torch.equal(method.target.state_dict()[name], value), "it moves in after_step alone"


def test_frozen_parts_and_learned_ones_are_counted():
    method = small_method()
    frozen = sum(one.numel() for one in method.parameters() if not one.requires_grad)
    assert frozen == sum(one.numel() for one in method.encoder.image.parameters())
    assert learned(method) == sum(
        one.numel() for part in (method.encoder.stack, method.predictor) for one in part.parameters()
    )


@functools.cache
def paper_sampler():
    fields = {
        name: getattr(recipe("ti-jepa")(), name) for name in ("targets", "target_scale", "target_aspect")
    }
    kind = small_recipe(image_size=(128, 128), context_scale=(0.85, 1.0), **fields)
    return kind._sampler(kind._images().grid)


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_masks_are_those_of_i_jepa(seed):
    sampler = paper_sampler()
    assert {height for height, _ in sampler.reachable_sizes()} == set(range(5, 10))
    assert {width for _, width in sampler.reachable_sizes()} == set(range(5, 9))
    masks = sampler(3, torch.Generator().manual_seed(seed))
    assert masks.targets.shape == (3, 4, sampler.target_width)
    for row in range(3):
        visible, hidden = set(masks.context[row].tolist()), set(masks.targets[row].flatten().tolist())
        assert len(visible) == masks.context.shape[1]
        assert bool(masks.relaxed[row]) or not visible & hidden


def test_known_distances():
    goal = torch.randn(2, 3, 4, 5)
    assert OBJECTIVES["smooth-l1"](goal, goal) == 0
    for offset, expected in ((0.5, 0.125), (1.0, 0.5), (3.0, 2.5)):
        torch.testing.assert_close(OBJECTIVES["smooth-l1"](goal + offset, goal), torch.tensor(expected))
    torch.testing.assert_close(DISTANCES["l2"](goal + 3, goal) * 5, torch.full((2, 3, 4), 5 * 9.0))


def test_the_target_stack_is_an_average():
    method = small_method(text_in="both", momentum=(0.5, 0.5))
    mine, theirs = method.encoder.stack, method.target.encoder
    assert isinstance(theirs, TextStack)
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    before = [one.clone() for one in theirs.parameters()]
    with torch.no_grad():
        for one in mine.parameters():
            one.add_(1.0)
    method.target.follow(mine, 1.0)
    assert all(torch.equal(one, old) for one, old in zip(theirs.parameters(), before, strict=True))
    method.after_step(context())
    for one, old in zip(theirs.parameters(), before, strict=True):
        torch.testing.assert_close(one, old + 0.5)
    method.target.follow(mine, 0.0)
    assert all(
        torch.equal(one, other) for one, other in zip(theirs.parameters(), mine.parameters(), strict=True)
    )


@pytest.mark.parametrize("place", ["both", "context", "predictor"])
def test_energy_depends_on_the_pair_alone(place):
    method, batch = small_method(text_in=place).eval(), pairs(4)
    found = method.energies(batch, batch)
    assert found.shape == (4, 4)
    assert (found > 0).all()
    torch.rand(5)
    assert torch.equal(method.energies(batch, batch), found)
    order = [2, 0, 3, 1]
    turned = method.energies(part(batch, order), part(batch, order))
    torch.testing.assert_close(turned, found[order][:, order], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(method.energies(part(batch, [1]), part(batch, [2])), found[1:2, 2:3])
    assert not torch.equal(found[:, 0], found[:, 1])


def test_energy_is_the_loss_of_the_masks_it_is_measured_with(monkeypatch):
    method, batch = small_method(energy_masks=1).eval(), pairs(3)
    masks = method._fixed_masks(3, torch.device("cpu"))[0]
    monkeypatch.setattr(method, "masks", lambda batch, context: masks)
    own = method.energies(batch, batch).diagonal()
    torch.testing.assert_close(own.mean(), method.losses(batch, context())["loss"].detach())
    torch.testing.assert_close(method.health([batch], context())["text_gain"] < 1, True)


def test_pairs_go_through_in_pieces_without_a_difference(monkeypatch):
    method, batch = small_method().eval(), pairs(3)
    whole = method.energies(batch, batch)
    monkeypatch.setattr("anyjepa.recipes.ti_jepa_method.TOGETHER", 1)
    torch.testing.assert_close(method.energies(batch, batch), whole)


def test_with_text_in_both_the_target_may_keep_the_true_one():
    method, batch = small_method(text_in="both").eval(), pairs(3)
    kept, swapped = method.energies(batch, batch, batch), method.energies(batch, batch)
    torch.testing.assert_close(kept.diagonal(), swapped.diagonal())
    assert not torch.allclose(kept, swapped)
    pure = small_method(text_in="context").eval()
    assert torch.equal(pure.energies(batch, batch, batch), pure.energies(batch, batch))


def test_dropped_text_is_the_null_token():
    method, batch = small_method(drop_text=0.999999).train(), pairs(3)
    silent = {**batch, "said": torch.zeros_like(batch["said"])}
    assert torch.equal(method.losses(batch, context())["loss"], method.losses(silent, context())["loss"])


def test_a_linear_map_of_the_text_is_scored_on_the_other_half():
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(400, 5, generator=generator, dtype=torch.float64)
    targets = words @ torch.randn(5, 7, generator=generator, dtype=torch.float64)
    noise = torch.randn(400, 7, generator=generator, dtype=torch.float64)
    assert explained(words, targets) > 0.99
    assert explained(words, noise) < 0.05
    assert explained(words[:6], targets[:6]) is None


def test_the_twin_is_of_the_same_size_and_learns_by_clip_s_loss():
    jepa, twin = small_method(), small_method(learn="contrastive")
    assert isinstance(twin, ContrastiveTwin)
    assert isinstance(twin, Matching)
    assert isinstance(jepa, Matching)
    kind = recipe("ti-jepa").preset("tiny")
    sizes = [
        learned(build_method(dataclasses.replace(kind, learn=how), FACTS, 0))
        for how in ("prediction", "contrastive")
    ]
    assert 0.6 < sizes[1] / sizes[0] < 1.7
    batch = pairs(4)
    found = twin.losses(batch, context())
    cosines = -twin.energies(batch, batch)
    scores = twin.sharpness.exp().detach() * cosines
    own = torch.arange(4)
    by_hand = (nn.functional.cross_entropy(scores, own) + nn.functional.cross_entropy(scores.T, own)) / 2
    torch.testing.assert_close(found["loss"].detach(), by_hand)
    assert (cosines.abs() <= 1 + 1e-6).all()
    assert twin.embed(batch).shape == (4, 48)
    found["loss"].backward()
    assert all(one.grad is not None and one.grad.any() for one in twin.parameters() if one.requires_grad)


def test_an_i_jepa_run_gives_its_encoder():
    fields = {"image_size": (32, 32), "patch_size": 4, "width": 24, "depth": 1, "heads": 2}
    taken = recipe("ti-jepa").inherited(IJepa(**fields, predictor_width=16, predictor_heads=2))
    assert taken is not None
    assert taken["patch_size"] == 4
    method = build_method(recipe("ti-jepa").preset("tiny", **{**SMALL, **taken}), FACTS, 0)
    donor = build_method(
        recipe("i-jepa").preset("tiny", **fields, predictor_width=16, predictor_heads=2), FACTS, 1
    )
    method.foundation.load_state_dict(donor.backbone.state_dict())
    batch = pairs(2)
    assert torch.equal(method.encoder.see(batch).values, donor.backbone(batch).values)
    assert recipe("ti-jepa").inherited(recipe("ti-jepa")()) is None


def test_one_of_several_captions_is_drawn_by_chance_and_the_first_is_presented():
    kind, images, captions = small_recipe(), *scenes("train")[:2]
    samples = [record(images[0], captions[0])] * 3
    chances = np.zeros((3, 16))
    chances[:, 15] = (0.0, 0.5, 0.999)
    drawn = kind.draw(samples, chances)
    for row in range(3):
        assert torch.equal(drawn["ids"][row], kind.read([captions[0][row]])["ids"][0])
    assert torch.equal(kind.present(samples)["ids"][2], drawn["ids"][0])
    silent = kind.draw([record(images[0], ())], chances[:1])
    assert not silent["said"].any()
    cropped = small_recipe(crop_area=(0.3, 0.5)).draw(samples, chances)
    assert cropped["image"].shape == (3, 3, 32, 32)
    assert not torch.equal(cropped["image"], drawn["image"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stack_heads": 5}, "--width 24 does not divide into --stack-heads 5"),
        ({"drop_text": 1.0}, "--drop-text is a chance"),
        ({"energy_masks": 0}, "--energy-masks must be 1 or more"),
        ({"crop_area": (0.0, 1.0)}, "--crop-area is a range"),
        ({"image_size": (30, 30)}, "does not divide into patches"),
    ],
)
def test_what_cannot_work_is_said(fields, words):
    with pytest.raises(UserError, match=words):
        small_recipe(**fields)


def test_impossible_masks_are_said():
    with pytest.raises(UserError, match="these masks cannot be drawn"):
        small_method(target_scale=(0.0, 0.0))


def test_teachers_are_what_they_are_called():
    assert isinstance(small_method(text_in="both").target, EmaTeacher)
    stopped = small_method(text_in="both", teacher="none").target
    assert isinstance(stopped, SameEncoder)
    assert not stopped.gradient
    assert small_method(text_in="both", teacher="collapse").target.gradient
    assert not list(small_method(text_in="context").target.parameters())


def test_a_block_adds_to_the_image():
    block = CrossBlock(8, 2)
    for layer in (block.attention.out, block.mlp[-1]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.randn(2, 3, 8)
    assert torch.equal(block(x, torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.bool)), x)


def test_fused_tokens_have_the_places_of_the_image():
    method, batch = small_method(), pairs(2)
    assert isinstance(method.backbone, PairEncoder)
    tokens = method.tokens(batch)
    assert isinstance(tokens, Tokens)
    assert tokens.coordinates.shape == (1, 16, 2)
    torch.testing.assert_close(method.embed(batch), tokens.values.mean(1))


def test_ranks_and_recalls_of_known_energies():
    energies = torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.5, 0.6], [0.3, 0.3, 0.3]])
    owners = torch.eye(3, dtype=torch.bool)
    # ties count half: what cannot tell is at the middle
    assert ranks(energies, owners).tolist() == [0.0, 1.0, 1.0]
    assert recalls(torch.tensor([0.0, 1.0, 4.5, 9.0, 12.0])) == {1: 0.2, 5: 0.6, 10: 0.8}
