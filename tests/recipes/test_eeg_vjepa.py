"""EEG-VJEPA: the exact checks of the note, and the defects of the release that are not repeated."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from anyjepa.core.accumulation import Accumulator
from anyjepa.core.errors import UserError
from anyjepa.core.health import Shape, collapse
from anyjepa.core.method import Context
from anyjepa.core.tube_masks import TubeBlocks
from anyjepa.domains.eeg_batches import beside
from anyjepa.domains.eeg_frames import Film, FrameTubelets, stretched_centre
from anyjepa.domains.eeg_montage import TEN_TWENTY, ten_twenty
from anyjepa.evaluation.confidence import macro_auc
from anyjepa.recipes import recipe

SMALL = {
    "width": 24,
    "depth": 1,
    "heads": 2,
    "predictor_width": 24,
    "predictor_depth": 1,
    "predictor_heads": 2,
}
PLACES = ten_twenty()
FACTS = {"electrodes": list(TEN_TWENTY), "places": PLACES.tolist(), "rate": 64.0}
GRID = (8, 4, 16)


def small(seed=0, facts=FACTS, **fields):
    torch.manual_seed(seed)
    return recipe("eeg-vjepa").preset("tiny", **{**SMALL, **fields}).method(facts).eval()


def clips(count=4, points=256, places=PLACES, seed=0):
    random = np.random.default_rng(seed)
    signals = 1e-5 * random.standard_normal((count, len(places), points))
    return beside([np.concatenate([places, one], axis=1).astype(np.float32) for one in signals])


def context(step=1, steps=10):
    return Context(step, steps, torch.Generator().manual_seed(step))


def test_the_published_grids_have_512_tokens_and_leave_some_out():
    for preset in ("paper", "vit-b"):
        kind = recipe("eeg-vjepa").preset(preset)
        film = kind.film(19)
        assert film.grid == GRID
        assert film.uncovered == (3, 20)
        method = kind.preset(preset, **SMALL).method(FACTS)
        video = torch.randn(1, film.frames, 19, 500)
        assert film.patches(video).shape == (1, 512, film.token[0] * 4 * 30)
        said = method.cautions(100)[0]
        assert "3 of 19 electrodes and 20 of 500 samples" in said
    filled = recipe("eeg-vjepa").preset("paper", fill=True).film(19)
    assert filled.grid == (8, 5, 17) and filled.uncovered == (0, 0)
    assert small().cautions(100) == []


def test_a_tubelet_is_a_convolution():
    film = Film(4, 100, 100, 8, (2, 4, 30))
    tubelets = FrameTubelets(film, 24, PLACES[:8].tolist())
    video = torch.randn(2, 4, 8, 100)
    weight = tubelets.project.weight.unflatten(1, (1, 2, 4, 30))
    wanted = functional.conv3d(video.unsqueeze(1), weight, tubelets.project.bias, stride=(2, 4, 30))
    found = tubelets.project(film.patches(video))
    torch.testing.assert_close(found, wanted.flatten(2).mT, atol=1e-5, rtol=1e-5)


def test_masks_are_tubes_of_the_published_sizes():
    for scale, blocks, sizes in (
        (0.15, 8, {(3, 3), (4, 3), (4, 2)}),
        (0.7, 2, {(4, w) for w in (5, 6, 7, 8)}),
    ):
        generator = torch.Generator().manual_seed(0)
        single = TubeBlocks(GRID, 1, scale).predicted(300, generator).view(300, 8, 4, 16)
        assert torch.equal(single, single[:, :1].expand_as(single)), "the same at every depth"
        found = {
            (int(one.any(1).sum()), int(one.any(0).sum())) for one in single[:, 0]
        }  # fmt: skip
        # widths of the second family reach the whole row at the smallest heights
        assert found <= sizes | {(4, w) for w in range(9, 12)} if scale > 0.5 else found == sizes
        sampler = TubeBlocks(GRID, blocks, scale)
        hidden = sampler.predicted(500, generator)
        visible = float((~hidden).double().mean())
        assert visible == pytest.approx(0.33 if blocks == 8 else 0.40, abs=0.03)


def test_one_target_pass_serves_two_families_of_which_each_has_its_mask_token(monkeypatch):
    method, batch, calls = small(), clips(), []
    encoder, target = type(method.encoder).forward, type(method.target).forward
    monkeypatch.setattr(
        type(method.encoder), "forward", lambda *a, **k: calls.append("encoder") or encoder(*a, **k)
    )
    monkeypatch.setattr(
        type(method.target), "forward", lambda *a, **k: calls.append("target") or target(*a, **k)
    )
    seen = []
    method.objective = lambda predicted, goal: seen.append(goal) or (predicted - goal).abs().mean()
    families = method.families(batch, context())
    method.losses_of(batch, families)["loss"].backward()
    assert calls.count("target") == 1
    assert calls.count("encoder") == 3, "the teacher's own, and once a family"
    for goal in seen:
        torch.testing.assert_close(goal.mean(-1), torch.zeros_like(goal[..., 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            goal.var(-1, correction=0), torch.ones_like(goal[..., 0]), atol=1e-3, rtol=0
        )
    assert all(one.grad is None for one in method.target.parameters())
    method.zero_grad()
    whole = method.tokens(batch)
    keep = families[1].context
    method.predictor(method.encoder(batch, keep), whole.coordinates, families[1], 1).sum().backward()
    assert not method.predictor.mask_token.grad[0].any() and method.predictor.mask_token.grad[1].any()


def test_the_teacher_is_planned_for_more_than_the_training():
    method = small(momentum=(0.998, 1.0))
    steps = 1000
    half = Context(int(steps * 1.25 / 2) + 1, steps, torch.Generator())
    assert method.scheduled(half)["momentum"] == pytest.approx(0.999, abs=1e-6)
    last = Context(steps, steps, torch.Generator())
    assert method.scheduled(last)["momentum"] == pytest.approx(0.9996, abs=1e-5)


def test_no_augmentation_takes_time_or_mixes_electrodes():
    """A clip whose samples say which electrode and which moment they are reaches the tokens as it is."""
    kind = recipe("eeg-vjepa").preset("paper")
    film = kind.film(19)
    raw = [
        np.concatenate([PLACES, 1e-5 * np.random.default_rng(0).standard_normal((19, film.points))], 1)
    ] * 2
    raw = [one.astype(np.float32) for one in raw]
    drawn, shown = kind.draw(raw, np.full((2, 16), 0.3)), kind.present(raw)
    assert all(torch.equal(drawn[name], shown[name]) for name in shown)
    moments = torch.arange(film.points, dtype=torch.float64).expand(1, 19, -1)
    rows = torch.arange(19, dtype=torch.float64).view(1, 19, 1).expand(-1, -1, film.points)
    kept_moments, kept_rows = (film.patches(film.video(one)) for one in (moments, rows))
    assert len(kept_rows.unique()) == 16
    each_frame = kept_moments.unique().div(film.hop, rounding_mode="floor").long().bincount()
    assert (each_frame == 480).all() and len(each_frame) == 32
    assert 480 * 16 / (500 * 19) > 0.8, "the configured scale of the crop begins at 0.3"


def test_the_released_crop_keeps_a_quarter_of_a_second():
    video = torch.arange(500.0).expand(1, 2, 19, 500)
    found = stretched_centre(video)
    assert found.shape == video.shape
    assert found.min() == 237 and found.max() == 262, "26 samples of 500"
    method = small(defect=True)
    method.train()
    batch = clips()
    defect = method.encoder.tokenizer(batch).values
    method.eval()
    assert not torch.allclose(method.encoder.tokenizer(batch).values, defect)


def absolute(film):
    """Which absolute samples, over all electrodes, each token holds."""
    moments = torch.arange(film.rows * film.points).view(1, film.rows, film.points)
    return film.patches(film.video(moments.double()))[0].long()


@pytest.mark.parametrize(("step", "leaks"), [(1, True), (2, False), (3, False)])
def test_what_is_hidden_is_nowhere_seen_in_absolute_time(step, leaks):
    """The note's windows of 5 s every 2.5 s: each frame overlaps the next, but not the second."""
    film = Film(8, 500, 250 * step, 16, (2, 4, 30))
    assert film.leaks == leaks
    held = absolute(film)
    common = False
    for scale, blocks in ((0.15, 8), (0.7, 2)):
        masks = TubeBlocks(film.grid, blocks, scale)(4, torch.Generator().manual_seed(1))
        for seen, hidden in zip(masks.context, masks.targets[:, 0], strict=True):
            common |= bool(torch.isin(held[seen], held[hidden]).any())
    assert common == leaks
    fields = {"frames": 8, "frame_seconds": 5.0, "hop": 2.5 * step, "rate": 100.0, "token_seconds": 0.3}
    if leaks:
        with pytest.raises(UserError, match="overlap"):
            recipe("eeg-vjepa").preset("tiny", **fields)
    else:
        recipe("eeg-vjepa").preset("tiny", **fields)


def test_rows_are_found_by_place_whatever_the_order_in_a_file():
    method, batch = small(), clips()
    order = torch.randperm(19, generator=torch.Generator().manual_seed(0))
    shuffled = {name: value[:, order] for name, value in batch.items()}
    torch.testing.assert_close(method.embed(shuffled), method.embed(batch), atol=1e-5, rtol=1e-5)
    wider = {name: functional.pad(value, (0, 0, 0, 3)) for name, value in batch.items() if value.ndim == 3}
    wider["present"] = functional.pad(batch["present"], (0, 3))
    torch.testing.assert_close(method.embed(wider), method.embed(batch), atol=1e-5, rtol=1e-5)
    swapped = {**batch, "eeg": batch["eeg"][:, order]}
    assert not torch.allclose(method.embed(swapped), method.embed(batch), atol=1e-3), "rows are no places"
    fewer = {name: value[:, 1:] for name, value in batch.items()}
    signals, there = method.encoder.tokenizer.rows(fewer)
    assert not there[:, 0].any() and there[:, 1:].all() and not signals[:, 0].any()


def test_each_electrode_is_standardised_over_its_clip():
    method, batch = small(), clips()
    signals, _ = method.encoder.tokenizer.rows(batch)
    torch.testing.assert_close(signals.std(-1, correction=0), torch.ones(4, 19), atol=1e-4, rtol=0)
    louder = {**batch, "eeg": batch["eeg"] * torch.linspace(0.5, 1e6, 19).view(1, 19, 1) + 1e-6}
    torch.testing.assert_close(method.embed(louder), method.embed(batch), atol=1e-3, rtol=1e-3)


def test_the_collapse_of_the_published_weights_is_seen():
    """Tokens whose spread is 0.0051 where random weights give 0.634, and clips whose cosine is 0.99998."""
    method, batch = small(), clips(64)
    fresh, found = method.embed(batch), method.health([batch], context())
    assert found["token_spread"] > 0.1
    with torch.no_grad():
        method.backbone.norm.weight *= 0.005
        method.backbone.norm.bias += 0.5
    collapsed, worse = method.embed(batch), method.health([batch], context())
    assert worse["clip_cosine"] > 0.9999
    assert worse["token_spread"] < 0.1 * found["token_spread"]
    before, after = Accumulator(24), Accumulator(24)
    before.add(fresh.detach(), torch.arange(64))
    after.add(collapsed.detach(), torch.arange(64))
    assert collapse(after.gram(), Shape.of(before.gram())) is not None
    assert collapse(before.gram(), Shape.of(before.gram())) is None


def test_area_under_the_curve_with_the_notes_four_scores():
    scores = torch.tensor([0.9, 0.8, 0.4, 0.3]).view(1, 4, 1)
    labels = torch.tensor([[1], [0], [1], [0]], dtype=torch.int8)
    assert float(macro_auc(scores, labels)[0]) == 0.75


def test_electrodes_that_lack_are_named():
    few = {"electrodes": ["Fz", "Cz"], "places": PLACES[:2].tolist(), "rate": 100.0}
    with pytest.raises(UserError, match=r"lacks Fp1.*auto"):
        recipe("eeg-vjepa").preset("paper").method(few)
    method = small(facts={**few, "rate": 64.0}, token_rows=1)
    assert method.encoder.tokenizer.film.rows == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"families": "8"}, "families"), ({"frames": 3, "token_frames": 2}, "divide"),
        ({"token_seconds": 9.0}, "token-seconds"), ({"heads": 5}, "divide"), ({"heads": 8}, "rotary"),
        ({"rate": -1.0}, "rate"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_sentence(fields, said):
    with pytest.raises(UserError, match=said):
        recipe("eeg-vjepa").preset("tiny", **{**SMALL, **fields})
