"""Action chunks: what sees what, which losses count what, where gradients go (the note's exact checks)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.action_chunks import Scaling, absolute_difference
from anyjepa.core.method import Context
from anyjepa.recipes import recipe

SMALL = {
    "chunk": 5, "width": 16, "depth": 1, "heads": 2, "hidden": 32, "predictor_width": 8,
    "predictor_depth": 1, "predictor_heads": 2, "predictor_hidden": 16, "decoder_hidden": 32, "tasks": 3,
}  # fmt: skip
FACTS = {
    "chunk": 5, "tasks": 3, "rate": 10.0,
    **{f"state_{name}": value for name, value in (("mean", [1.0, -2.0]), ("std", [2.0, 0.5]),
                                                 ("low", [-3.0, -3.0]), ("high", [5.0, -1.0]))},
    **{f"action_{name}": value for name, value in (("mean", [10.0, 0.0, 1.0]), ("std", [4.0, 1.0, 0.0]),
                                                  ("low", [0.0, -2.0, 1.0]), ("high", [20.0, 2.0, 1.0]))},
}  # fmt: skip


def method_of(**fields):
    torch.manual_seed(0)
    return recipe("act-jepa").preset("tiny", **{**SMALL, **fields}).method(FACTS)


def batch_of(size=4, seed=0, chunk=5):
    draw = torch.Generator().manual_seed(seed)
    padded = torch.zeros(size, chunk, dtype=torch.bool)
    padded[0, 1:] = True
    padded[1, 3:] = True
    return {
        "states": torch.randn(size, chunk, 2, generator=draw),
        "actions": torch.randn(size, chunk, 3, generator=draw),
        "padded": padded,
        "acted": torch.ones(size, dtype=torch.bool),
        "task": torch.arange(size) % 3,
    }


def context(step=1, steps=10):
    return Context(step, steps, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("side", "tokens"), [(96, 11), (128, 18)])
def test_a_picture_gives_as_many_tokens_as_published_and_no_part_has_other_weights(side, tokens):
    pytest.importorskip("transformers")
    facts = FACTS | {f"action_{name}": FACTS[f"state_{name}"] for name in ("mean", "std", "low", "high")}
    facts |= {"channels": 3, "mean": [127.0] * 3, "std": [70.0] * 3}
    method = recipe("act-jepa").preset("paper", image_size=(side, side)).method(facts)
    counts = [
        sum(p.numel() for p in part.parameters())
        for part in (method.encoder, method.encoder.trunk, method.predictor, method.policy.decoder)
    ]
    assert counts == [24_066_624, 11_176_512, 1_191_552, 4_218_882]
    batch = {
        "state": torch.zeros(1, 2), "task": torch.zeros(1, dtype=torch.int64),
        "image": torch.zeros(1, 3, side, side),
    }  # fmt: skip
    with torch.inference_mode():
        seen = method.eval().tokens(batch)
        assert seen.values.shape == (1, tokens, 512)
        assert seen.coordinates.shape == (1, tokens, 2)
        assert method.predictor(seen.values).shape == (1, 30, 512)
        assert method.act(batch).shape == (1, 30, 2)


@pytest.mark.parametrize("mask_keys", [False, True])
def test_padding_changes_no_loss_and_no_valid_target(mask_keys):
    method, batch = method_of(mask_keys=mask_keys), batch_of()
    garbage = dict(batch)
    for name in ("states", "actions"):
        garbage[name] = batch[name].masked_fill(batch["padded"].unsqueeze(-1), torch.nan)
    plain, spoilt = (method.losses(one, context()) for one in (batch, garbage))
    for name in ("loss", "actions", "states"):
        assert torch.equal(plain[name], spoilt[name])
    spoilt["loss"].backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in method.parameters())
    # targets of a cut window are those of the window that ends there
    short = {name: value[:, :3] if value.ndim > 1 else value for name, value in batch.items()}
    cut, whole = (method.target(method.encoder.steps, one).values for one in (short, garbage))
    assert torch.allclose(cut[1], whole[1, :3], atol=1e-6)
    assert not torch.allclose(cut[2], whole[2, :3], atol=1e-3), "of a whole window all steps count"


def test_only_the_first_step_is_seen_and_the_target_sees_them_all():
    method, batch = method_of().eval(), batch_of()
    other = {**batch, "states": batch["states"].clone(), "actions": batch["actions"] + 5}
    other["states"][:, 1:] += 3
    assert torch.equal(method.tokens(batch).values, method.tokens(other).values)
    assert torch.equal(method.act(batch), method.act(other))
    assert torch.equal(method.act(batch), method.act(method.observed(batch)))
    first, second = (method.target(method.encoder.steps, one).values[2, 0] for one in (batch, other))
    assert not torch.allclose(first, second), "targets are made of the whole window"


def test_the_teacher_follows_as_it_should():
    method = method_of(dropout=0.3, momentum=(0.996, 1.0)).train()
    assert not any(part.training for part in method.target.modules())
    assert not any(p.requires_grad for p in method.target.parameters())
    pairs = list(zip(method.target.encoder.parameters(), method.encoder.steps.parameters(), strict=True))
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    with torch.no_grad():
        for _, theirs in pairs:
            theirs.add_(1)
    before = [mine.clone() for mine, _ in pairs]
    method.after_step(context(1, 10))
    for (mine, _), old in zip(pairs, before, strict=True):
        assert torch.allclose(mine - old, torch.full_like(old, 0.004), atol=1e-6)
    assert method.scheduled(context(6, 10))["momentum"] == pytest.approx(0.996 + 0.004 * 5 / 10)


def test_targets_without_a_teacher_are_those_of_the_encoder():
    found = {}
    for teacher in ("ema", "none", "collapse"):
        method = method_of(teacher=teacher, action_weight=0.0)
        loss = method.losses(batch_of(), context())["loss"]
        loss.backward()
        found[teacher] = loss, method.encoder.steps.state.weight.grad
        method.after_step(context())
        assert bool(method.scheduled(context())) == (teacher == "ema")
    for teacher in ("none", "collapse"):
        assert torch.allclose(found[teacher][0], found["ema"][0]), "a teacher begins as a copy"
    assert torch.allclose(found["none"][1], found["ema"][1], atol=1e-6)
    assert not torch.allclose(found["collapse"][1], found["ema"][1], atol=1e-6), "gradients pass the targets"


def reached(part):
    return any(p.grad is not None and p.grad.any() for p in part.parameters())


@pytest.mark.parametrize(
    ("fields", "encoder", "predictor", "decoder"),
    [
        ({"action_weight": 0.0}, True, True, False),
        ({"state_weight": 0.0}, True, False, True),
        ({"freeze": True}, False, False, True),
        ({}, True, True, True),
    ],
)
def test_each_loss_trains_what_it_should(fields, encoder, predictor, decoder):
    method = method_of(**fields)
    method(batch_of(), context())["loss"].backward()
    found = [reached(part) for part in (method.encoder, method.predictor, method.policy.decoder)]
    assert found == [encoder, predictor, decoder]
    assert not reached(method.target)


def test_a_frozen_encoder_stays_and_its_teacher_too():
    method = method_of(freeze=True, dropout=0.5).train()
    assert not method.encoder.training
    assert method.policy.decoder.training
    before = [p.clone() for p in method.target.parameters()]
    with torch.no_grad():
        next(iter(method.encoder.parameters())).add_(1)
    method.after_step(context())
    assert all(torch.equal(a, b) for a, b in zip(before, method.target.parameters(), strict=True))


def test_unknown_actions_train_states_alone():
    method, batch = method_of(), batch_of()
    nobody = {**batch, "acted": torch.zeros(4, dtype=torch.bool)}
    nobody["actions"] = torch.full_like(batch["actions"], torch.nan)
    found = method.losses(nobody, context())
    assert found["actions"] == 0
    assert torch.equal(found["loss"], found["states"])
    half = {**batch, "acted": torch.tensor([True, False, True, False])}
    kept = {name: value[[0, 2]] for name, value in batch.items()}
    assert torch.allclose(
        method.losses(half, context())["actions"], method.losses(kept, context())["actions"]
    )


def test_the_value_of_the_loss():
    torch.manual_seed(0)
    wanted, valid = torch.randn(3, 5, 2), torch.ones(3, 5, dtype=torch.bool)
    assert absolute_difference(wanted, wanted, valid) == 0
    assert absolute_difference(wanted + 0.7, wanted, valid) == pytest.approx(0.7, abs=1e-6)
    assert absolute_difference(wanted + 0.7, wanted, valid, "sum") == pytest.approx(1.4, abs=1e-6)
    normal = torch.nn.functional.layer_norm(torch.randn(64, 5, 512), (512,))
    zeros = absolute_difference(torch.zeros_like(normal), normal, torch.ones(64, 5, dtype=torch.bool))
    assert zeros == pytest.approx((2 / np.pi) ** 0.5, abs=0.01)  # the mean of |N(0, 1)|, about 0.80
    nothing = absolute_difference(wanted, wanted + 1, torch.zeros(3, 5, dtype=torch.bool))
    assert nothing == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0, 1e3)), min_size=1, max_size=4), st.integers(0, 99)
)
def test_scaling_is_undone(pairs, seed):
    offset, scale = zip(*pairs, strict=True)
    scaling = Scaling(offset, scale)
    x = torch.randn(6, len(pairs), generator=torch.Generator().manual_seed(seed)) * 10
    size = 1 + max(map(abs, offset)) + max(scale)
    assert torch.allclose(scaling.undone(scaling(x)), x, atol=1e-5 * size)


@pytest.mark.parametrize(
    ("kind", "state", "scaled"),
    [
        ("mean-std", [3.0, -1.0], [1.0, 2.0]),
        ("range", [5.0, -3.0], [1.0, -1.0]),
        ("none", [5.0, 7.0], [5.0, 7.0]),
    ],
)
def test_numbers_are_scaled_as_asked_and_actions_come_in_their_own_units(kind, state, scaled):
    method = method_of(normalise=kind).eval()
    assert torch.allclose(method.encoder.steps.scaling(torch.tensor(state)), torch.tensor(scaled))
    names = method.state_dict()
    assert {"control.scaling.offset", "control.encoder.steps.scaling.scale"} <= names.keys(), "stored"
    # a decoder that says 0 says the middle of what was seen
    torch.nn.init.zeros_(method.policy.decoder.out.weight)
    torch.nn.init.zeros_(method.policy.decoder.out.bias)
    middle = {"mean-std": [10.0, 0.0, 1.0], "range": [10.0, 0.0, 1.0], "none": [0.0] * 3}[kind]
    assert torch.allclose(method.act(batch_of())[0, 0], torch.tensor(middle))


def test_shuffled_targets_are_another_samples():
    plain, shuffled = method_of(), method_of(shuffle_targets=True)
    batch = batch_of()
    assert not torch.equal(
        plain.losses(batch, context())["states"], shuffled.losses(batch, context())["states"]
    )
    same = {name: value[[2, 2, 2, 2]] for name, value in batch.items()}
    assert torch.equal(plain.losses(same, context())["states"], shuffled.losses(same, context())["states"])
