"""ECG-JEPA by the exact checks of its note."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.core.positions import grid
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.randomness import step_generator, uniforms
from anyjepa.recipes import recipe
from anyjepa.recipes.ecg_jepa import Intervals

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
FACTS = {"leads": LEADS, "rate": 500.0, "points": 5000, "mean": [0.0] * 12, "std": [0.2] * 12}
SMALL = {
    "width": 24, "depth": 2, "heads": 2, "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2,
    "initialisation": "fan-in",
}  # fmt: skip


def small(facts=FACTS, seed=0, **fields):
    torch.manual_seed(seed)
    return recipe("ecg-jepa").preset("paper", **{**SMALL, **fields}).method(facts)


def context(step=1, steps=10):
    return Context(step, steps, step_generator(0, step))


def records(count=4, points=5000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "ecg": 0.2 * torch.randn(count, 12, points, generator=generator),
        "recorded": torch.ones(count, 12, dtype=torch.bool),
    }


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("preset", "encoder", "predictor"),
    [
        ("vit-xs", 3_600_000, 923_328),
        ("paper", 14_277_888, 3_689_856),
        ("vit-b", 85_185_024, 21_833_472),
    ],
)
def test_presets_have_the_published_number_of_parameters(preset, encoder, predictor):
    """Exact check 2; nothing is allocated on the meta device."""
    with torch.device("meta"):
        method = recipe("ecg-jepa").preset(preset, initialisation="fan-in").method(FACTS)
    assert (count(method.encoder), count(method.predictor)) == (encoder, predictor)
    assert not [name for name, _ in method.named_parameters() if name.endswith("bias")]
    assert {part.eps for part in method.modules() if isinstance(part, nn.LayerNorm)} == {1e-6}


def draws(number, batch=8, sampler=None):
    sampler = sampler or Intervals(200)
    for seed in range(number):
        masks = sampler(batch, torch.Generator().manual_seed(seed))
        hidden = torch.zeros(batch, sampler.tokens, dtype=torch.bool)
        hidden.scatter_(1, masks.targets[:, 0], True)
        yield masks, hidden


def runs(member):
    """Lengths of the runs of True in each row of (rows, tokens)."""
    edges = torch.diff(nn.functional.pad(member.int(), (1, 1)), dim=1)
    return (edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]


def test_masks_have_the_statistics_of_the_note():
    """Exact check 3 and the derived statistics, over 4,000 records."""
    hidden_runs, seen_runs, widths = [], [], set()
    for masks, hidden in draws(500):
        assert masks.context.shape[1] + masks.targets.shape[2] == 200
        assert torch.equal(hidden.sum(1), torch.full((8,), masks.targets.shape[2]))
        assert not hidden.gather(1, masks.context).any()
        assert not masks.relaxed.any()
        widths.add(masks.context.shape[1])
        hidden_runs.append(runs(hidden))
        seen_runs.append(runs(~hidden))
    lengths, seen = torch.cat(hidden_runs).double(), torch.cat(seen_runs).double()
    assert (min(widths), max(widths)) == (31, 50)
    assert (lengths.min(), lengths.max() <= 169) == (10, True)
    assert len(lengths) / 4000 == pytest.approx(2.7, abs=0.1)
    assert lengths.mean() == pytest.approx(59, abs=3)
    assert lengths.median() == pytest.approx(41, abs=5)
    assert seen.mean() == pytest.approx(12.5, abs=1.0)


@given(
    tokens=st.integers(2, 120), least=st.integers(1, 40), low=st.floats(0.02, 0.9), spread=st.floats(0, 0.5),
    seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=150)
def test_any_masks_split_the_sequence_and_hide_only_long_runs(tokens, least, low, spread, seed):
    keep = (low, min(low + spread, 0.95))
    if math.ceil(keep[1] * tokens - 1e-9) >= tokens:
        with pytest.raises(ValueError, match="leaves none to hide"):
            Intervals(tokens, keep, least)
        return
    sampler = Intervals(tokens, keep, least)
    masks = sampler(5, torch.Generator().manual_seed(seed))
    everything = torch.cat([masks.context, masks.targets[:, 0]], dim=1).sort(dim=1).values
    assert torch.equal(everything, torch.arange(tokens).expand(5, -1))
    hidden = torch.zeros(5, tokens, dtype=torch.bool).scatter_(1, masks.targets[:, 0], True)
    assert runs(hidden).min() >= min(least, masks.targets.shape[2])
    assert sampler.seen(keep[0]) <= masks.context.shape[1] <= sampler.seen(keep[1])
    for part in (masks.context, masks.targets[:, 0]):
        assert (part.diff(dim=1) > 0).all(), "in order of time"


def one_after_the_other(random, tokens, hide, least):
    """The note's mask algorithm for one sample, step by step, as a set of hidden tokens."""
    pieces, masked = [(0, tokens)], set()
    while len(masked) < hide:
        sizes = np.array([stop - start for start, stop in pieces])
        start, stop = pieces.pop(random.choice(len(pieces), p=sizes / sizes.sum()))
        room = hide - len(masked)
        block = int(random.integers(least, room + 1)) if room >= least else room
        if stop - start <= block:
            first, last = start, stop
        elif room >= least:
            first = int(random.integers(start, stop - block + 1))
            last = first + block
        else:
            ends = [start] * (start > 0) + [stop - block] * (stop < tokens)
            first = int(random.choice(ends))
            last = first + block
        masked |= set(range(first, last))
        pieces += [piece for piece in ((start, first), (last, stop)) if piece[0] < piece[1]]
    return masked


def test_masks_are_distributed_as_those_of_the_loop():
    """How often each token is hidden, and how many runs there are, against the algorithm sample by sample."""
    random, sampler = np.random.default_rng(0), Intervals(60, (0.2, 0.2), 4)
    loop = np.zeros((4000, 60), bool)
    for row in loop:
        row[list(one_after_the_other(random, 60, 48, 4))] = True
    ours = ~sampler.visible(4000, 12, torch.Generator().manual_seed(0))
    assert np.abs(loop.mean(0) - ours.double().mean(0).numpy()).max() < 0.04
    number = [torch.bincount(_runs_each(torch.as_tensor(m)), minlength=12)[:12] / 4000 for m in (loop, ours)]
    assert (number[0] - number[1]).abs().max() < 0.04


def _runs_each(member):
    return (torch.diff(nn.functional.pad(member.int(), (1, 0)), dim=1) == 1).sum(1)


@pytest.mark.parametrize(("ratio", "seen"), [(0.15, 30), (0.2, 40), (0.25, 50)])
def test_a_keep_ratio_is_rounded_up(ratio, seen):
    """Exact check 4."""
    sampler = Intervals(200, (ratio, ratio))
    assert sampler.seen(ratio) == seen
    assert sampler(2, torch.Generator().manual_seed(0)).context.shape == (2, seen)


def test_all_draws_of_a_step_see_as_many_tokens():
    generator = step_generator(0, 1)
    widths = {Intervals(200)(3, generator).context.shape[1] for _ in range(5)}
    assert len(widths) == 1


def test_positions_alternate_sines_and_cosines():
    """Exact check 5."""
    method = small()
    for positions in (method.encoder.positions, method.predictor.positions):
        table = positions(grid(200))[0]
        assert table[0].tolist() == [0, 1] * (table.shape[1] // 2)
        assert table[1, :2].tolist() == pytest.approx([0.84147, 0.54030], abs=1e-5)
        assert table[7, 4].item() == pytest.approx(math.sin(7 * 10_000 ** (-4 / table.shape[1])), abs=1e-6)


def test_the_masked_waveform_reaches_the_targets_and_not_the_context():
    """Exact check 7."""
    method, batch = small(), records()
    masks = method.masks(batch, context())
    hidden = torch.zeros(4, 200, dtype=torch.bool).scatter_(1, masks.targets[:, 0], True)
    changed = {**batch, "ecg": batch["ecg"] + 0.3 * hidden.repeat_interleave(25, 1)[:, None]}
    seen, other = (method.encoder(b, keep=masks.context).values for b in (batch, changed))
    assert torch.equal(seen, other)
    goals, others = (method.target(method.encoder, b).values for b in (batch, changed))
    assert (goals - others)[hidden].abs().mean() > 0.01
    assert not torch.equal(*(method.losses(b, context())["loss"] for b in (batch, changed)))


def test_the_loss_is_l1_to_the_teachers_tokens_as_they_are():
    method, batch = small(), records()
    masks = method.masks(batch, context())
    goal = method.target.encoder(batch)
    guess = method.predictor(method.encoder(batch, keep=masks.context), goal.coordinates, masks)[:, 0]
    total = torch.stack([(guess[i] - goal.values[i, masks.targets[i, 0]]).abs().mean() for i in range(4)])
    assert torch.allclose(method.losses(batch, context())["loss"], total.mean(), atol=1e-6)


def test_momentum_goes_from_its_start_to_its_end():
    """Exact check 8."""
    teacher = small().target
    assert [teacher.momentum(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.998, 0.99875, 0.9995])


def test_schedules_of_the_published_training():
    """Exact check 9, and the published number of steps."""
    paper = recipe("ecg-jepa").preset("paper")
    steps = 100_000
    assert round(paper.epochs * (1_011_849 // paper.batch_size)) == pytest.approx(steps, rel=1e-3)
    rates = [schedule(paper, step, steps)["learning_rate"] for step in (0, 5000, 10_000, steps)]
    assert rates == pytest.approx([1e-6, 5.005e-4, 1e-3, 1e-6], rel=1e-9)
    decays = [schedule(paper, step, steps)["weight_decay"] for step in (0, 50_000, steps)]
    assert decays == pytest.approx([0.01, 0.055, 0.1])


def test_weights_of_layers_alone_are_decayed_and_adam_has_the_published_constants():
    """Exact check 10."""
    method = small()
    optimiser = build_optimiser(method, recipe("ecg-jepa").preset("paper"))
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    decayed = {names[id(p)] for group in optimiser.param_groups if group["decayed"] for p in group["params"]}
    linear = {f"{name}.weight" for name, part in method.named_modules() if isinstance(part, nn.Linear)}
    assert decayed == {name for name in linear if not name.startswith("target.")}
    others = {names[id(p)] for g in optimiser.param_groups if not g["decayed"] for p in g["params"]}
    assert {"encoder.registers", "predictor.mask_token", "encoder.norm.weight"} <= others
    assert {(group["betas"], group["eps"]) for group in optimiser.param_groups} == {((0.9, 0.99), 1e-6)}


def test_a_step_moves_all_that_learns_and_the_teacher_by_its_momentum():
    """Exact check 6: no gradient in the teacher, some in every other part."""
    method, kind = small(momentum=(0.9, 0.9)), recipe("ecg-jepa").preset("paper")
    before, optimiser = copy.deepcopy(method.state_dict()), build_optimiser(method, kind)
    apply(optimiser, {"learning_rate": 0.01, "weight_decay": 0.0})
    method.losses(records(), context())["loss"].backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) if name.startswith("target.") else parameter.grad.any(), name
    optimiser.step()
    method.after_step(context())
    for name, parameter in method.encoder.named_parameters():
        expected = 0.9 * before[f"target.encoder.{name}"] + 0.1 * parameter.detach()
        assert torch.allclose(method.state_dict()[f"target.encoder.{name}"], expected, atol=1e-7)


@pytest.mark.parametrize(
    ("rule", "std", "output"),
    [("scaled", 0.02, 0.02 / math.sqrt(16)), ("xavier", (2 / (64 + 256)) ** 0.5, (2 / (256 + 64)) ** 0.5)],
)
def test_weights_begin_as_published(rule, std, output):
    method = small(width=64, depth=8, initialisation=rule)
    block = method.encoder.blocks[3]
    assert block.mlp[0].weight.std().item() == pytest.approx(std, rel=0.05)
    assert block.mlp[2].weight.std().item() == pytest.approx(output, rel=0.05)
    assert method.encoder.registers.std().item() == pytest.approx(0.02, rel=0.4)


def test_a_record_is_embedded_by_seven_windows():
    """Exact check 11: 2.5 s at a stride of 1.25 s."""
    method, batch = small(), records(2)
    sizes = []
    method.backbone.register_forward_pre_hook(lambda _, given: sizes.append(given[0]["ecg"].shape))
    found = method.embed(batch)
    assert sizes == [(14, 12, 1250)]
    parts = [
        method.backbone({**batch, "ecg": batch["ecg"][..., s : s + 1250]}).values.mean(1)
        for s in range(0, 3751, 625)
    ]
    assert torch.allclose(found, torch.stack(parts).mean(0), atol=1e-5)


def test_records_of_any_length_are_embedded_alike_in_any_company():
    kind, method = recipe("ecg-jepa").preset("paper", **SMALL), small()
    rows = [
        np.float32(0.2) * np.random.default_rng(n).normal(size=(12, n)).astype(np.float32)
        for n in (1300, 5000, 9000)
    ]
    together = method.embed(kind.present(rows))
    alone = torch.cat([method.embed(kind.present([row])) for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)
    tokens = method.tokens(kind.present(rows))
    assert tokens.values.shape == (3, 200, 24)
    assert tokens.present.sum(1).tolist() == [52, 200, 200]


def test_a_lead_that_was_not_recorded_does_not_matter():
    method, batch = small(), records(2)
    batch["recorded"][:, 3] = False
    other = {**batch, "ecg": batch["ecg"].clone()}
    other["ecg"][:, 3] = 7.0
    assert torch.equal(method.embed(batch), method.embed(other))


def test_crops_are_random_and_use_is_not():
    kind = recipe("ecg-jepa").preset("paper", **SMALL)
    rows = [np.random.default_rng(n).normal(size=(12, 7000)).astype(np.float32) for n in range(3)]
    first, again, other = (kind.draw(rows, uniforms(0, epoch, np.arange(3))) for epoch in (0, 0, 1))
    assert first["ecg"].shape == (3, 12, 5000)
    assert torch.equal(first["ecg"], again["ecg"])
    assert not torch.equal(first["ecg"], other["ecg"])
    assert kind.present(rows)["ecg"].shape == (3, 12, 7000)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 25}, "--width 25 does not divide into --heads 6"),
        ({"rate": 0.0}, "--rate must be above 0"),
        ({"use_seconds": 0.01}, "--use-seconds 0.01 at 500 Hz is shorter than a token of 25 samples"),
        ({"record_seconds": 5.0}, "--record-seconds 5 is shorter than --seconds 10"),
    ],
)
def test_numbers_that_cannot_work_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        recipe("ecg-jepa").preset("paper", **fields)


def test_masks_that_cannot_be_drawn_are_refused():
    with pytest.raises(UserError, match="leaves none to hide; change --keep"):
        small(keep=(0.5, 0.999))
    with pytest.raises(UserError, match="fewer than two tokens"):
        small({**FACTS, "points": 30})


def test_leads_are_asked_for_by_name():
    kind = recipe("ecg-jepa").preset("tiny", leads="II, V5")
    assert kind.reading()["leads"] == ["II", "V5"]
    assert recipe("ecg-jepa").preset("tiny").reading()["leads"] is None
