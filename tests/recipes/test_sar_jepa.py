"""SAR-JEPA by the exact checks of its note."""

import numpy as np
import pytest
import torch

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.domains import domains
from anyjepa.recipes import recipe
from anyjepa.recipes.sar_jepa import draw_windows

FACTS = {"channels": 1, "low": 0.0, "top": 2.0, "mean": [1.0], "std": [1.0]}
SMALL = {
    "image_size": (48, 48), "width": 24, "depth": 1, "heads": 2, "predictor_width": 16, "predictor_depth": 1,
    "window": 3, "contrast": 0.0,
}  # fmt: skip


def small_method(facts=FACTS, **fields):
    torch.manual_seed(0)
    return recipe("sar-jepa").preset("tiny", **{**SMALL, **fields}).method(facts)


def chips(count=3, channels=1, seed=0):
    return {"image": torch.rand(count, channels, 48, 48, generator=torch.Generator().manual_seed(seed)) * 2}


def context(step=1, seed=0):
    return Context(step, 10, torch.Generator().manual_seed(seed))


def test_targets_are_the_maps_cut_into_patches():
    """Exact check 7: 4 p p numbers a patch and channel, map by map; putting them back gives the maps."""
    published = recipe("sar-jepa")()
    assert len(published.radii) * published.patch_size**2 == 1024
    method, images = small_method({**FACTS, "channels": 2}), chips(channels=2)["image"]
    numbers = method.features(images)
    assert numbers.shape == (3, 36, 4 * 2 * 64)
    maps = numbers.view(3, 6, 6, 8, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(3, 8, 48, 48)
    assert torch.equal(maps, method.bank(images))


@pytest.mark.parametrize("shared", [False, True])
def test_windows_are_inside_with_their_own_rows_and_columns(shared):
    """Exact check 8."""
    kind = recipe("sar-jepa")()
    assert kind.hidden_count == 39
    windows = draw_windows(64, (14, 14), kind, torch.Generator().manual_seed(0), shared)
    first = windows.patches[:, :, 0]
    rows, columns = first // 14, first % 14
    for corner in (rows, columns):
        assert corner.max() <= 7
        assert (corner.sort(1).values.diff(dim=1) > 0).all()
    side = torch.arange(7)
    assert torch.equal(
        windows.patches - first.unsqueeze(2), (side[:, None] * 14 + side).flatten().expand(64, 4, -1)
    )
    assert windows.hidden.shape == (64, 4, 39) and windows.seen.shape == (64, 4, 10)
    both = torch.cat([windows.hidden, windows.seen], dim=2).sort(2).values
    assert torch.equal(both, torch.arange(49).expand(64, 4, -1))
    assert (windows.patches == windows.patches[:1]).all() == shared
    assert not (windows.hidden == windows.hidden[:1]).all()


def test_a_hidden_patch_is_not_seen_and_one_outside_the_windows_neither():
    method, batch = small_method(windows=1).eval(), chips()
    windows = method.windows(3, context().generator)
    tokens = method.encoder.tokenizer(batch).values
    known = method._predicted(tokens, windows)[1]
    other = torch.ones(3, 36, 1, dtype=torch.bool)
    shown = windows.patches.gather(2, windows.seen).flatten(1)
    other = other.scatter(1, shown.unsqueeze(2), False)
    noise = torch.randn_like(tokens)
    assert torch.equal(method._predicted(tokens + noise * other, windows)[1], known)
    assert not torch.allclose(method._predicted(tokens + noise * ~other, windows)[1], known, atol=1e-3)


def test_the_mask_token_stands_where_the_hidden_patches_are():
    method = small_method().eval()
    windows = method.windows(3, context().generator)
    tokens = method.encoder.tokenizer(chips()).values
    seen = {}
    method.encoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.setdefault("x", args[0]))
    method._predicted(tokens, windows)
    sequence = seen["x"][:, 1:].unflatten(0, (3, 4))
    for chip in range(3):
        for window in range(4):
            for place in range(9):
                token = sequence[chip, window, place]
                if place in windows.hidden[chip, window].tolist():
                    assert torch.equal(token, method.mask_token[0, 0])
                else:
                    assert torch.equal(token, tokens[chip, windows.patches[chip, window, place]])


def test_the_loss_is_the_mean_square_over_hidden_patches():
    """Exact check 9: nothing for what is exact; the mean square of the targets for zeros."""
    method, batch = small_method(), chips()
    torch.nn.init.zeros_(method.predictor.out.weight)
    torch.nn.init.zeros_(method.predictor.out.bias)
    found = method(batch, context())
    windows = method.windows(3, _after_contrast())
    asked = windows.patches.gather(2, windows.hidden).flatten(1)
    goal = method.features(batch["image"] / 2.0)
    known = torch.stack([goal[row, asked[row]] for row in range(3)]).square().mean()
    assert found["loss"].item() == pytest.approx(known.item(), rel=1e-5)
    assert found["zero_loss"].item() == pytest.approx(known.item(), rel=1e-5)


def _after_contrast():
    generator = torch.Generator().manual_seed(0)
    torch.rand((3, 1, 1, 1), generator=generator)
    return generator


def test_no_gradient_goes_through_targets_and_all_else_learns():
    """Exact check 10."""
    method = small_method(teacher_weight=0.5)
    method(chips(), context())["loss"].backward()
    silent = {name for name, p in method.named_parameters() if p.requires_grad and p.grad is None}
    assert not silent
    assert all(p.grad is None for p in method.target.parameters())
    assert not list(method.bank.parameters())


def test_a_learned_target_is_added_by_one_switch():
    """Behaviour 15."""
    method = small_method(teacher_weight=0.5)
    found = method(chips(), context())
    assert found["loss"].item() == pytest.approx(
        (found["gradient_loss"] + 0.5 * found["teacher_loss"]).item(), rel=1e-6
    )
    before = [p.clone() for p in method.target.parameters()]
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(1.0)
    method.after_step(context())
    assert all(
        torch.allclose(new - old, torch.full_like(old, 0.004), atol=1e-4)
        for new, old in zip(method.target.parameters(), before, strict=True)
    )


@pytest.mark.parametrize("values", ["amplitude", "intensity", "decibel"])
def test_what_files_hold_becomes_amplitude(values):
    kind = recipe("sar-jepa").preset("tiny", values=values)
    linear = np.random.default_rng(0).uniform(0.1, 2.0, (2, 64, 64, 1)).astype(np.float32)
    held = {"amplitude": linear, "intensity": linear**2, "decibel": 20 * np.log10(linear)}[values]
    assert np.allclose(kind.present(held)["image"].numpy()[:, 0], linear[..., 0], atol=1e-4)


def test_values_below_zero_are_decibels_or_refused():
    facts = {**FACTS, "low": -40.0, "top": 6.0}
    with pytest.raises(UserError, match="--values decibel"):
        small_method(facts)
    samples = domains()["sar"].open(np.random.default_rng(0).normal(-20, 9, (4, 64, 64)).astype(np.float32))
    measured = domains()["sar"].measure(samples)
    assert recipe("sar-jepa").advice(samples, measured) == {"values": "decibel"}
    assert "--values decibel" in domains()["sar"].doubts(samples, measured)[0]
    assert small_method(facts, values="decibel").top == pytest.approx(10**0.3)


def test_contrast_moves_away_from_the_mean_and_never_below_zero():
    method, images = small_method(contrast=0.5), chips()["image"]
    varied = method.varied(images, torch.Generator().manual_seed(1))
    mean = images.mean((1, 2, 3), keepdim=True)
    slope = ((varied - mean) / (images - mean)).flatten(1)
    inside = (varied > 0).flatten(1)
    for row, kept in zip(slope, inside, strict=True):
        assert row[kept].std() < 1e-3
        assert 0.5 <= row[kept].mean() <= 1.5
    assert (varied >= 0).all()


def test_the_class_token_or_the_patches_are_the_embedding():
    patches, token = small_method().eval(), small_method(pooled="class").eval()
    batch = chips()
    assert torch.equal(patches.embed(batch), patches.tokens(batch).values.mean(1))
    assert not torch.allclose(token.embed(batch), patches.embed(batch), atol=1e-2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_size": (50, 48)}, "does not divide into patches"),
        ({"window": 5}, "4 windows of 5 patches need as many places on each side, and there are 2"),
        ({"hidden_ratio": 0.05}, "--hidden-ratio"),
        ({"radii": (0, 3)}, "--radii"),
        ({"predictor_heads": 3}, "--predictor-width 16 does not divide"),
    ],
)
def test_values_that_cannot_work_are_one_sentence(fields, words):
    with pytest.raises(UserError, match=words):
        small_method(**fields)


def test_simulated_chips_are_speckled_as_radar_is():
    samples = domains()["sar"].open("synthetic-sar")
    corner = np.stack([samples.read(index)[:8, :8, 0] for index in range(0, 600, 5)]) ** 2
    contrast = (corner.std((1, 2)) / corner.mean((1, 2))).mean()
    assert contrast == pytest.approx(1.0, abs=0.12), "the intensity of one look is exponential"
    assert samples.labels is not None and samples.classes is not None
    assert np.bincount(samples.labels).tolist() == [100] * len(samples.classes)
