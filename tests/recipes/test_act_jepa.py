"""ACT-JEPA: what its fields may be, and two stages."""

import numpy as np
import pytest
import torch

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.domains import domains
from anyjepa.recipes import recipe

KIND = recipe("act-jepa")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 30}, "--heads"),
        ({"chunk": 0}, "--chunk"),
        ({"action_weight": 0.0, "state_weight": 0.0}, "above 0"),
        ({"freeze": True, "action_weight": 0.0}, "--freeze"),
        ({"backbone": "resnet-8"}, "resnet-18"),
        ({"dropout": 1.0}, "--dropout"),
    ],
)
def test_what_cannot_work_is_said(fields, words):
    with pytest.raises(UserError, match=words):
        KIND.preset("tiny", **fields)


def test_more_tasks_than_there_are_embeddings():
    samples = domains()["control"].open("synthetic-pendulum")
    facts = domains()["control"].measure(samples) | {"tasks": 51}
    with pytest.raises(UserError, match="--tasks"):
        KIND.preset("tiny").method(facts)
    assert KIND.advice(samples, facts) == {"tasks": 51}


def test_two_stages_train_a_new_decoder_upon_the_frozen_encoder(tmp_path):
    settings = anyjepa.Settings(steps=2, quiet=True, workers=0)
    anyjepa.train("act-jepa", out=tmp_path / "first", settings=settings, action_weight=0.0, batch_size=8)
    anyjepa.train(
        "act-jepa", out=tmp_path / "second", settings=settings, init=tmp_path / "first", freeze=True,
        action_weight=1.0,
    )  # fmt: skip
    first, second = (anyjepa.load(tmp_path / name, "cpu").method for name in ("first", "second"))
    pairs = zip(first.encoder.parameters(), second.encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = zip(first.policy.decoder.parameters(), second.policy.decoder.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_pictures_come_from_files_and_reach_the_encoder(tmp_path):
    pytest.importorskip("transformers")
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "a.npz", states=random.normal(size=(2, 8, 2)), actions=random.normal(size=(2, 8, 1)),
        video=random.integers(0, 255, (2, 8, 20, 24, 3), dtype=np.uint8),
    )  # fmt: skip
    kind = KIND.preset("tiny", chunk=4, camera_name="", image_size=(32, 32))
    domain = domains()["control"]
    samples = domain.open(str(tmp_path / "a.npz"), reading=kind.reading())
    facts = domain.measure(samples)
    batch = kind.present([samples.read(n) for n in (0, 5)])
    assert batch["image"].shape == (2, 3, 32, 32)
    method = kind.method(facts)
    assert method.tokens(batch).values.shape == (2, 3, 64)
    method.losses({**batch, "acted": torch.zeros(2, dtype=torch.bool)}, Context(1, 2, torch.Generator()))[
        "loss"
    ].backward()
    grads = [p.grad for p in method.encoder.trunk.parameters() if p.grad is not None]
    assert any(grad.any() for grad in grads), "the picture is learned from what states follow"
    assert domain.raw(batch, facts).shape == (2, 2 + 1 + 3 * 16 * 16)
    assert "<svg" in domain.figure(method.eval().imagined(batch)["demonstrated and predicted"], 0, facts)
