"""V-JEPA: the exact checks of the note, its schedules, and what its presets build."""

import numpy as np
import pytest
import torch
from torch import nn

from anyjepa.core.errors import UserError
from anyjepa.core.masking import Masks, RandomPatches
from anyjepa.core.method import Context
from anyjepa.core.objectives import l1
from anyjepa.core.targets import SameEncoder
from anyjepa.core.tube_masks import RandomTubes
from anyjepa.engine.optimiser import schedule
from anyjepa.recipes import recipe

FACTS = {"channels": 3, "mean": [110.0] * 3, "std": [60.0] * 3}
SMALL = {
    "width": 24,
    "depth": 2,
    "heads": 2,
    "predictor_width": 24,
    "predictor_depth": 1,
    "predictor_heads": 2,
    "variance": 0.0,
}


def small(seed=0, **fields):
    torch.manual_seed(seed)
    return recipe("v-jepa").preset("tiny", **{**SMALL, **fields}).method(FACTS)


def clips(count=4, frames=8, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"video": torch.randint(0, 256, (count, 3, frames, side, side), generator=generator).byte()}


def context(step=1, steps=10):
    return Context(step, steps, torch.Generator().manual_seed(step))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_tokens_of_the_published_clip_are_in_time_row_column_order():
    encoder, _ = recipe("v-jepa").preset("paper", **SMALL).parts(FACTS)
    tokens = encoder.tokenizer(clips(1, 16, 224))
    assert tokens.values.shape[1] == 1568
    places = tokens.coordinates[0]
    for i in (0, 13, 14, 195, 196, 1000, 1567):
        assert places[i].tolist() == [i // 196, i % 196 // 14, i % 14]


def test_a_tubelet_is_a_convolution():
    tubelets = small(patch_size=16).encoder.tokenizer
    batch = clips(2)
    weight = tubelets.project.weight.unflatten(1, (3, 2, 16, 16))
    standard = (batch["video"].float() - 110.0) / 60.0
    wanted = nn.functional.conv3d(standard, weight, tubelets.project.bias, stride=(2, 16, 16)).flatten(2).mT
    torch.testing.assert_close(tubelets(batch).values, wanted, rtol=0, atol=2e-5)


def test_kept_tubelets_are_those_of_the_whole_clip():
    tubelets, batch = small().encoder.tokenizer, clips(3)
    keep = torch.stack([torch.randperm(64)[:9] for _ in range(3)])
    whole, some = tubelets(batch), tubelets(batch, keep)
    torch.testing.assert_close(some.values, whole.take(keep).values)
    assert torch.equal(some.coordinates, whole.take(keep).coordinates)


def test_an_image_is_a_video_of_one_frame():
    method, still = small(), clips(2, 1)
    twice = {"video": still["video"].expand(-1, -1, 2, -1, -1)}
    tokens = method.tokens(still)
    assert tokens.values.shape[1] == 16
    torch.testing.assert_close(tokens.values, method.tokens(twice).values)


@pytest.mark.parametrize(
    ("preset", "encoder", "predictor"),
    [("paper", 303_885_312, 22_082_944), ("vit-h", 631_648_000, 22_279_808)],
)
def test_parameters_of_the_published_sizes(preset, encoder, predictor):
    kind = recipe("v-jepa").preset(preset)
    with torch.device("meta"):
        parts = kind.parts(FACTS)
    assert [count(part) for part in parts] == [encoder, predictor]


def test_one_target_pass_and_one_of_each_else_a_family(monkeypatch):
    method, calls = small(), []
    for name in ("encoder", "predictor", "target"):
        part = getattr(method, name)
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    losses = method(clips(), context())
    assert sorted(calls) == ["encoder", "encoder", "predictor", "predictor", "target"]
    torch.testing.assert_close(losses["loss"], (losses["loss_1"] + losses["loss_2"]) / 2)


def test_families_in_another_order_with_their_mask_tokens_lose_the_same():
    method, batch = small(), clips()
    nn.init.normal_(method.predictor.mask_token)
    masks = method.families(batch, context())
    before = method.losses_of(batch, masks)["loss"]
    with torch.no_grad():
        method.predictor.mask_token.copy_(method.predictor.mask_token.flip(0).clone())
    after = method.losses_of(batch, masks[::-1])["loss"]
    torch.testing.assert_close(before, after)
    assert not torch.isclose(before, method.losses_of(batch, masks)["loss"], rtol=0, atol=1e-7), (
        "the mask tokens are told apart"
    )


def test_l1_of_nothing_against_normalised_targets_is_0_798():
    generator = torch.Generator().manual_seed(0)
    goal = nn.functional.layer_norm(torch.randn(64, 200, 512, generator=generator), (512,))
    assert l1(torch.zeros_like(goal), goal) == pytest.approx((2 / np.pi) ** 0.5, abs=2e-3)
    predicted = torch.zeros(2, 3, 5, requires_grad=True)
    goal = torch.randn(2, 3, 5, generator=generator)
    l1(predicted, goal).backward()
    torch.testing.assert_close(predicted.grad, -goal.sign() / 30)


def test_targets_are_the_teachers_normalised_tokens():
    method, batch = small(), clips()
    seen = torch.arange(10).expand(4, -1)
    masks = Masks(seen, torch.arange(20, 50).expand(4, 1, -1), torch.zeros(4, dtype=torch.bool))
    nn.init.zeros_(method.predictor.out.weight)
    nn.init.zeros_(method.predictor.out.bias)
    whole = method.target.encoder(batch).values[:, 20:50]
    wanted = nn.functional.layer_norm(whole, whole.shape[-1:]).abs().mean()
    torch.testing.assert_close(method.losses_of(batch, [masks, masks])["loss"], wanted)
    raw = small(normalise_targets=False)
    nn.init.zeros_(raw.predictor.out.weight)
    torch.testing.assert_close(raw.losses_of(batch, [masks, masks])["loss"], whole.abs().mean())


def test_the_missing_spread_is_an_option():
    losses = small(variance=1.0)(clips(), context())
    families = (losses["loss_1"] + losses["loss_2"]) / 2
    torch.testing.assert_close(losses["loss"], families + losses["missing_spread"])
    assert 0 < losses["missing_spread"].item() < 1


def test_schedules_are_stopped_at_four_fifths():
    """Final learning rate 7.5e-5, weight decay 0.366, momentum 0.9996 (note)."""
    kind = recipe("v-jepa").preset("paper")
    steps = 90_000
    last = schedule(kind, steps, steps)
    assert last["learning_rate"] == pytest.approx(7.5e-5, rel=0.01)
    assert last["weight_decay"] == pytest.approx(0.366, abs=5e-4)
    assert schedule(kind, 12_000, steps)["learning_rate"] == pytest.approx(6.25e-4, rel=1e-3)
    method = small(stretch=1.25, momentum=(0.998, 1.0))
    assert method.scheduled(context(steps, steps))["momentum"] == pytest.approx(0.9996, abs=1e-6)
    # 3,072 clips of 2 million videos a step
    assert kind.epochs * 2_000_000 / kind.batch_size == pytest.approx(90_000)
    assert kind.warmup_epochs * 2_000_000 / kind.batch_size == pytest.approx(12_000)


def test_v_jepa_2_keeps_its_rates():
    kind = recipe("v-jepa").preset("v-jepa-2")
    for step in (20_000, 120_000, 240_000):
        values = schedule(kind, step, 240_000)
        assert values["learning_rate"] == pytest.approx(5.25e-4)
        assert values["weight_decay"] == pytest.approx(0.04)
    assert (kind.width // kind.heads, kind.predictor_width // kind.predictor_heads) == (64, 32)
    large = recipe("v-jepa").preset("v-jepa-2-l")
    with torch.device("meta"):
        encoder, predictor = large.parts(FACTS)
    assert (count(encoder), count(predictor)) == (303_885_312, 22_082_944)


def test_the_teacher_moves_by_the_stretched_momentum():
    method = small(momentum=(0.5, 1.0))
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(1.0)
    before = [parameter.clone() for parameter in method.target.encoder.parameters()]
    method.after_step(context(6, 10))  # progress 0.5, planned for 1.25
    for old, new in zip(before, method.target.encoder.parameters(), strict=True):
        torch.testing.assert_close(new - old, torch.full_like(new, 0.3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mask", ["tube", "random"])
def test_controls_hide_as_much(mask):
    method = small(mask=mask, tube_ratio=0.75)
    kinds = {"tube": RandomTubes, "random": RandomPatches}
    assert all(isinstance(sampler, kinds[mask]) for sampler in method.samplers)
    blocks = small()
    if mask == "random":
        assert [sampler.context_width for sampler in method.samplers] == [
            sampler.context_width for sampler in blocks.samplers
        ]


def test_collapse_lets_gradients_through_the_targets():
    method = small(teacher="collapse")
    assert isinstance(method.target, SameEncoder)
    assert method.target.gradient


def test_other_sizes_stretch_the_positions():
    method = small(positions="sin-cos", position_size=(16, 16), position_frames=4)
    places = method.encoder.tokenizer(clips(1)).coordinates[0]
    assert places[0].tolist() == [-0.25, -0.25, -0.25]
    assert places[-1].tolist() == [1.25, 1.25, 1.25]
    rotary = small().encoder.tokenizer(clips(1)).coordinates[0]
    assert rotary[-1].tolist() == [3.0, 3.0, 3.0]


def test_clips_are_cropped_alike_in_every_frame():
    kind = recipe("v-jepa").preset("tiny", flip=0.5)
    still = np.random.default_rng(0).integers(0, 256, (3, 1, 40, 50, 3), np.uint8).repeat(8, axis=1)
    uniforms = np.random.default_rng(1).random((3, 16))
    video = kind.draw(list(still), uniforms)["video"]
    assert video.dtype == torch.uint8
    assert video.shape == (3, 3, 8, 32, 32)
    assert torch.equal(video, video[:, :, :1].expand_as(video))
    mirrored = uniforms.copy()
    mirrored[:, 4] = 1 - mirrored[:, 4]
    assert torch.equal(kind.draw(list(still), mirrored)["video"], video.flip(4))


def test_short_clips_end_on_their_last_frame_and_long_ones_are_cut():
    kind = recipe("v-jepa").preset("tiny", crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    numbered = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    samples = [numbered, numbered[:5], numbered[:1]]
    frames = kind.present(samples)["video"][:, 0, :, 16, 16]
    assert frames.tolist() == [[*range(2, 10)], [0, 1, 2, 3, 4, 4, 4, 4], [0] * 8]
    uniforms = np.full((3, 16), 0.5)
    for chance, first in ((0.0, 0), (0.999, 4)):
        uniforms[:, 5] = chance
        drawn = kind.draw(samples, uniforms)["video"][0, 0, :, 16, 16]
        assert drawn.tolist() == list(range(first, first + 8))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"image_size": (30, 32)}, "height"),
        ({"frames": 7}, "--tubelet"),
        ({"heads": 5}, "--heads"),
        ({"predictor_width": 20, "predictor_heads": 5}, "at least 6"),
        ({"families": "eight"}, "--families"),
        ({"families": "40x0.9"}, "--families"),
        ({"mask_tokens": 1}, "--mask-tokens"),
        ({"position_size": (20, 20)}, "--position-size"),
        ({"stretch": 0.0}, "--stretch"),
    ],
)
def test_what_cannot_work_is_said(fields, word):
    with pytest.raises(UserError, match=word):
        recipe("v-jepa").preset("tiny", **fields).method(FACTS)


def test_masks_to_be_shown_are_of_each_family_in_turn():
    method, batch = small(), clips(4)
    shown = method.masks(batch, context())
    for row in range(4):
        seen, wanted = shown.context[row], shown.targets[row, 0]
        sampler = method.samplers[row % 2]
        assert len(set(seen.tolist())) == sampler.context_width
        assert len(set(wanted.tolist())) == sampler.target_width
        assert not set(seen.tolist()) & set(wanted.tolist())
