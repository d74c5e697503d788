"""V-JEPA 2-AC: published sizes and schedule, what it begins with, what it says of values that cannot work."""

import numpy as np
import pytest
import torch
from torch import nn

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.engine.optimiser import schedule
from anyjepa.recipes import recipe

FACTS = {
    "channels": 3, "mean": [110.0] * 3, "std": [60.0] * 3, "action_mean": [0.0] * 7, "action_std": [0.05] * 7,
    "state_mean": [0.0] * 7, "state_std": [1.0] * 7,
}  # fmt: skip
ENCODER = {"width": 24, "depth": 1, "heads": 2}
SMALL = {**ENCODER, "predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2}


def test_the_published_sizes():
    """ViT-g, and a predictor of 24 blocks of width 1,024 with tokens of action and state."""
    with torch.device("meta"):
        method = recipe("v-jepa-2-ac").preset("paper").method(FACTS)
    width, depth = 1024, 24
    block = 12 * width**2 + 13 * width
    wanted = (
        depth * block + 2 * width + (1408 * width + width) + 2 * (7 * width + width) + (width * 1408 + 1408)
    )
    assert sum(p.numel() for p in method.encoder.predictor.parameters()) == wanted == 305_213_824
    with torch.device("meta"):
        encoder, _ = recipe("v-jepa").preset("v-jepa-2").parts(FACTS)
    same = [p.shape for p in encoder.parameters()]
    assert [p.shape for p in method.foundation.parameters()] == same


def test_the_rate_is_annealed_in_a_straight_line():
    kind, steps = recipe("v-jepa-2-ac").preset("paper"), 94_500
    at = {step: schedule(kind, step, steps) for step in (1, 4_500, 50_000, 90_000, 92_250, steps)}
    assert at[4_500]["learning_rate"] == at[50_000]["learning_rate"] == pytest.approx(4.25e-4)
    assert at[1]["learning_rate"] == pytest.approx(7.5e-5, rel=0.01)
    assert at[92_250]["learning_rate"] == pytest.approx(4.25e-4 / 2, rel=0.01)
    assert at[steps]["learning_rate"] == 0
    assert {values["weight_decay"] for values in at.values()} == {0.04}
    # 62 hours in clips of two seconds
    assert kind.epochs * 62 * 1800 / kind.batch_size == pytest.approx(steps, rel=1e-3)
    for epochs in (kind.warmup_epochs, kind.anneal_epochs):
        assert epochs * 62 * 1800 / kind.batch_size == pytest.approx(4_500, rel=1e-3)


def test_it_is_trained_upon_a_run_of_v_jepa(tmp_path):
    quiet = {"steps": 2, "quiet": True, "workers": 0, "device": "cpu"}
    clips = np.random.default_rng(0).integers(0, 256, (12, 4, 16, 16, 3), np.uint8)
    anyjepa.train(
        "v-jepa", clips, tmp_path / "video", settings=anyjepa.Settings(**quiet), batch_size=4, frames=4,
        fps=0.0, image_size=(16, 16), **SMALL,
    )  # fmt: skip
    given = {"predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2, "batch_size": 4}
    settings = anyjepa.Settings(**quiet)
    out = tmp_path / "world"
    with pytest.raises(UserError, match="has width = 24, not 48"):
        anyjepa.train("v-jepa-2-ac", None, out, init=tmp_path / "video", settings=settings, width=48)
    anyjepa.train("v-jepa-2-ac", None, out, init=tmp_path / "video", settings=settings, **given)
    video, world = anyjepa.load(tmp_path / "video", "cpu"), anyjepa.load(out, "cpu")
    assert world.recipe.image_size == (16, 16)
    assert (world.recipe.positions, world.recipe.position_frames) == ("rotary", 4)
    own = world.method.foundation.state_dict()
    for name, value in video.method.backbone.state_dict().items():
        assert torch.equal(own[name], value), name
    # the statistics of pixels are part of the encoder; those of actions are the new data's
    assert own["tokenizer.mean"].flatten().tolist() == pytest.approx(video.facts["mean"])
    assert len(world.facts["action_mean"]) == 2
    anyjepa.train("v-jepa-2-ac", out=out, resume=True, settings=anyjepa.Settings(quiet=True, workers=0))
    with pytest.raises(UserError, match="not v-jepa"):
        anyjepa.train("v-jepa", None, tmp_path / "no", init=out, settings=settings)


def test_sines_of_the_encoder_are_those_of_the_middle_of_a_clip():
    fields = {**SMALL, "positions": "sin-cos", "position_frames": 8}
    method = recipe("v-jepa-2-ac").preset("tiny", **fields).method(FACTS)
    places = method.foundation.tokenizer({"video": torch.zeros(1, 3, 1, 32, 32)}).coordinates[0]
    assert places[:, 0].tolist() == [1.5] * 16
    assert places[-1].tolist() == [1.5, 3.0, 3.0]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"frames": 1}, "--frames"),
        ({"rollout": 8}, "--rollout"),
        ({"anneal_epochs": 30.0}, "longer"),
        ({"predictor_heads": 5}, "--predictor-heads"),
        ({"predictor_width": 16}, "at least 6"),
        ({"patch_size": 7}, "height"),
        ({"motion": "pose"}, "no poses"),
    ],
)
def test_what_cannot_work_is_said(fields, word):
    facts = {**FACTS, "action_mean": [0.0] * 2, "state_mean": [0.0] * 2, "action_std": [1.0] * 2}
    with pytest.raises(UserError, match=word):
        recipe("v-jepa-2-ac").preset("tiny", **fields).method({**facts, "state_std": [1.0] * 2})


def test_it_learns_nothing_but_the_predictor():
    method = recipe("v-jepa-2-ac").preset("tiny", **SMALL, motion="sum").method(FACTS)
    learned = {name for name, p in method.named_parameters() if p.requires_grad}
    assert learned == {f"encoder.predictor.{name}" for name, _ in method.encoder.predictor.named_parameters()}
    assert isinstance(method.backbone, nn.Module)
