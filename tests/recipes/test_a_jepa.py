"""A-JEPA: the exact checks of the note; sounds of any length; regularised masking."""

import numpy as np
import pytest
import torch

from anyjepa.core.attention import Attention
from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.core.tokens import Tokens
from anyjepa.core.transformer import Block
from anyjepa.domains import domains
from anyjepa.engine.randomness import step_generator
from anyjepa.evaluation.finetuning import FineTuning, _unread
from anyjepa.recipes import recipe
from anyjepa.recipes.a_jepa_method import hard_share, inverse_share

RATE = 8000.0
FACTS = {"rate": RATE, "mean": -5.0, "std": 3.0, "seconds": 1.0, "crop": 1.0}
SMALL = {
    "width": 24, "depth": 2, "heads": 2, "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2,
    "frames": 32, "patch": (8, 8),
}  # fmt: skip


def kind(**fields):
    return recipe("a-jepa").preset("tiny", **{**SMALL, **fields})


def small(seed=0, **fields):
    torch.manual_seed(seed)
    return kind(**fields).method(FACTS).double()


def sounds(*seconds, seed=0):
    random = np.random.default_rng(seed)
    return [(0.1 * random.standard_normal(round(s * RATE))).astype(np.float32) for s in seconds]


def context(step=1, steps=10, seed=0):
    return Context(step, steps, step_generator(seed, step))


def batch_of(clips, **fields):
    batch = kind(**fields).present(clips)
    return {**batch, "audio": batch["audio"].double()}


def test_the_published_grid_and_masks():
    paper = recipe("a-jepa").preset("paper")
    assert paper.grid == (64, 8)
    method = (
        recipe("a-jepa")
        .preset("paper", width=48, depth=1, predictor_width=32, predictor_depth=1)
        .method({"rate": 16000.0, "mean": -4.3, "std": 4.6, "seconds": 10.0, "crop": 10.0})
    )
    assert method.tokens({"audio": torch.randn(1, 160_000)}).values.shape == (1, 512, 48)
    easy, hard = recipe("a-jepa").preset("paper", mask="curriculum").samplers()
    assert (easy.targets, hard.targets) == (4, 3)
    assert easy.realised == pytest.approx(0.175, rel=0.1) and hard.realised == pytest.approx(0.0625, rel=0.1)


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, 0.01), (0.01, 0.1005), (0.1, 0.316), (0.25, 0.5), (0.5, 0.707), (1.0, 1.0)]
)
def test_the_curriculum_is_the_square_root_of_what_was_learned(progress, share):
    assert hard_share(progress) == pytest.approx(share, abs=5e-4)
    assert inverse_share(1 - progress) == pytest.approx(share, abs=5e-4)


def test_hard_masks_are_drawn_by_the_step_alone():
    method, steps = small(mask="curriculum"), 1000
    drawn = np.array([method.is_hard(context(step, steps)) for step in range(1, steps + 1)])
    assert drawn.mean() == pytest.approx(2 / 3, abs=0.03)
    last = [method.is_hard(context(10_000 - n, 10_000)) for n in range(100)]
    first = [method.is_hard(context(n + 1, 10_000)) for n in range(100)]
    assert np.mean(last) > 0.98 and np.mean(first) < 0.11
    # another process, or one that resumes, asks with a generator of the same seed in whatever state
    for step in (1, 400, 900):
        used = context(step, steps)
        torch.rand(17, generator=used.generator)
        assert small(seed=5, mask="curriculum").is_hard(used) == drawn[step - 1]
    backwards = small(mask="inverse")
    assert np.mean([backwards.is_hard(context(n + 1, 300)) for n in range(300)]) == pytest.approx(
        2 / 3, abs=0.08
    )
    assert all(small(mask="hard").is_hard(context(n)) for n in range(1, 4))
    assert not any(small(mask=name).is_hard(context(10)) for name in ("easy", "random"))


@pytest.mark.parametrize("fill", ["repeat", "silence"])
@pytest.mark.parametrize("mask", ["random", "easy", "hard"])
def test_one_target_pass_and_the_loss_by_hand(mask, fill):
    method = small(mask=mask, fill=fill, objective="l2", gain=0.0)
    batch = batch_of(sounds(0.2, 0.4, 0.1), fill=fill)
    calls = []
    hook = method.target.encoder.register_forward_hook(lambda *_: calls.append(1))
    terms = method(batch, context(3))
    hook.remove()
    assert len(calls) == 1
    terms["loss"].backward()
    assert all(p.grad is None for p in method.target.parameters())
    for part in (method.encoder, method.predictor):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name
    prepared = method.prepared(batch)
    masks = method.masks(prepared, context(3))
    whole = method.target(method.encoder, prepared)
    seen = method._seen(prepared, masks)
    predicted = method.predictor(
        Tokens(seen.values, seen.coordinates, masks.present), whole.coordinates, masks
    )
    blocks = []
    for sample in range(3):
        for block in range(masks.targets.shape[1]):
            places = masks.targets[sample, block]
            weights = torch.ones(len(places)) if masks.weights is None else masks.weights[sample, block]
            each = []
            for place, guess, weight in zip(places, predicted[sample, block], weights, strict=True):
                goal = whole.values[sample, place]
                goal = (goal - goal.mean()) / (goal.var(correction=0) + 1e-5).sqrt()
                if weight > 0:
                    each.append(float(((guess - goal).detach() ** 2).mean()))
            blocks.append(np.mean(each))
    assert float(terms["loss"].detach()) == pytest.approx(np.mean(blocks), rel=1e-9)


@pytest.mark.parametrize("fill", ["repeat", "silence"])
def test_what_lies_behind_a_clip_changes_nothing(fill):
    """Neither its own padding nor a longer neighbour (nor a longer window, where silence is left out)."""
    method = small(fill=fill).eval()
    short, long = sounds(0.15, 1.3)
    alone = method.embed(batch_of([short], fill=fill))
    together = batch_of([short, long], fill=fill)
    torch.testing.assert_close(method.embed(together)[:1], alone)
    loud = {**together, "audio": together["audio"].clone()}
    loud["audio"][0, len(short) :] = 3.0
    torch.testing.assert_close(method.embed(loud), method.embed(together))
    torch.testing.assert_close(method.embed(together)[1:], method.embed(batch_of([long], fill=fill)))
    if fill == "silence":
        wider = small(fill=fill, frames=64).eval()
        wider.load_state_dict(method.state_dict())
        torch.testing.assert_close(wider.embed(batch_of([short], fill=fill)), alone)
        masks = method.masks(batch_of([short, long], fill=fill), context())
        own = int(method.prepared(together)["columns"][0]) * method.encoder.tokenizer.rows
        assert int(masks.targets[0].max()) < own and int(masks.context[0][masks.present[0]].max()) < own


def test_a_clip_repeated_embeds_as_the_clip():
    """Cyclic filling: what a short clip is filled with is itself."""
    method = small(fill="repeat").eval()
    size = method.samples
    once = sounds(0.1)[0]
    filled = np.tile(once, -(-size // len(once)))[:size]
    torch.testing.assert_close(method.embed(batch_of([once])), method.embed(batch_of([filled])))


def test_a_long_clip_is_the_mean_of_its_windows():
    method = small(pooling="mean").eval()
    long = sounds(0.9)[0]
    size, count = method.samples, -(-len(long) // method.samples)
    starts = [n * (len(long) - size) // (count - 1) for n in range(count)]
    windows = [long[start : start + size] for start in starts]
    assert len(windows) == 3
    torch.testing.assert_close(
        method.embed(batch_of([long]))[0], method.embed(batch_of(windows)).mean(0), atol=1e-12, rtol=1e-9
    )


def test_rows_of_frequencies_are_pooled_by_themselves():
    method = small(pooling="bands").eval()
    batch = batch_of(sounds(0.3, 0.3))
    tokens = method.tokens(batch).values.unflatten(1, (4, 4))
    torch.testing.assert_close(method.embed(batch), tokens.mean(1).flatten(1))


def test_gain_is_drawn_within_its_decibels():
    method = small(gain=6.0)
    batch = batch_of(sounds(*[0.2] * 64))
    level = 20 * (method.as_trained(batch, context())["audio"][:, 100] / batch["audio"][:, 100]).log10()
    assert level.abs().max() <= 6.0 and level.min() < -4 and level.max() > 4
    assert torch.equal(small(gain=0.0).as_trained(batch, context())["audio"], batch["audio"])


def test_training_crops_are_of_the_clip_and_by_its_chance():
    chosen, [clip] = kind(), sounds(1.0)
    size = small().samples
    uniforms = np.zeros((2, 16))
    uniforms[1, 0] = 0.9999
    batch = chosen.draw([clip, clip], uniforms)
    np.testing.assert_array_equal(batch["audio"][0], clip[:size])
    np.testing.assert_array_equal(batch["audio"][1], clip[-size:])
    assert batch["length"].tolist() == [size, size]


def test_what_cannot_work_is_one_sentence():
    for fields, words in (
        ({"frames": 60}, "does not divide into patches"), ({"heads": 5}, "does not divide into --heads"),
        ({"high": 10.0}, "is not above --low"), ({"hop": 0.0}, "must be above 0"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            kind(**fields)
    with pytest.raises(UserError, match="not within sound"):
        kind(high=6000.0).method(FACTS)
    with pytest.raises(UserError, match="cannot be drawn"):
        kind(target_scale=(0.2, 1.5), mask="easy").method(FACTS)


def test_regularised_masking_keeps_a_token_from_all_others(monkeypatch):
    """What was chosen shapes no other token; without the rate, or in use, attention is what it was."""
    torch.manual_seed(0)
    attention = Attention(16, 2).double()
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    plain = attention(x)
    attention.train()
    assert torch.equal(attention(x), plain), "rate 0"
    attention.unread = 0.4
    assert torch.equal(attention.eval()(x), plain), "in use"
    attention.train()
    torch.manual_seed(3)
    kept = attention._readable(x, None)
    torch.manual_seed(3)
    masked = attention(x)
    hidden = ~kept
    assert 0 < hidden[0].sum() < 12
    changed = x + hidden.unsqueeze(-1) * torch.randn_like(x)
    torch.manual_seed(3)
    again = attention(changed)
    torch.testing.assert_close(again[kept], masked[kept])
    # as a query it still answers for itself
    assert (again[hidden] != masked[hidden]).all()
    shares = torch.stack([attention._readable(torch.zeros(64, 100, 16), None) for _ in range(5)]).float()
    assert float(shares.mean()) == pytest.approx(0.6, abs=0.01)
    assert not torch.equal(shares[0], shares[1]), "every layer draws its own"
    attention.unread = 1.0
    assert torch.isfinite(attention(x)).all(), "something is always left to read"
    padded = torch.arange(12) < torch.tensor([[3], [12]])
    attention.unread = 0.5
    assert not (attention._readable(x, padded) & ~padded).any()


def test_fine_tuning_masks_the_encoder_s_attention_and_nothing_else():
    method = small()
    _unread(method.backbone, FineTuning(unread=0.1).unread)
    rates = [module.unread for module in method.backbone.modules() if isinstance(module, Attention)]
    assert rates == [0.1, 0.1]
    assert [block.attention.unread for block in method.predictor.modules() if isinstance(block, Block)] == [
        0.0
    ]
    with pytest.raises(UserError, match="--unread"):
        FineTuning(unread=1.0).check()


def test_clips_that_do_not_fill_a_window_are_not_repeated_unsaid():
    short = {**FACTS, "seconds": 0.4, "hop": 0.01}
    kind = recipe("a-jepa")
    for fill, facts, said in (("repeat", short, 1), ("silence", short, 0), ("repeat", FACTS, 0)):
        assert len(kind.preset("tiny", fill=fill).method(facts).cautions(100)) == said
    samples = domains()["audio"].open(
        np.ones((2, 800), np.float32).cumsum(1) % 7 - 3, reading=kind.preset("tiny").reading()
    )
    assert kind.advice(samples, short) == {"fill": "silence"}
