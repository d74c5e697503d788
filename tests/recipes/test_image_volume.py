"""Image-Volume by the exact checks of its note."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import anyjepa
from anyjepa.core.chance import uniform
from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.domains.volume_encoder import mean_of_present
from anyjepa.domains.volume_sources import open_volumes
from anyjepa.domains.volume_views import TRANSFORMS, VolumeViews, coarsening
from anyjepa.engine.run import load
from anyjepa.recipes import recipe
from anyjepa.recipes.image_volume_method import hidden_slices, interpolated

SMALL = {
    "shape": (10, 16, 16), "crop_size": (16, 16), "stem": 4, "width": 16, "hidden": 16, "depth": 1,
    "heads": 2, "head_width": 8, "head": 16, "slice_width": 8, "slices_drawn": 3, "slice_clusters": 4,
    "volume_clusters": 3,
}  # fmt: skip
FACTS = {"channels": 1, "spacing": [4.0, 2.0, 2.0], "plane": "axial", "slices": 10, "samples": 40}


def small_method(seed=0, **fields):
    torch.manual_seed(seed)
    return recipe("image-volume").preset("tiny", **{**SMALL, **fields}).method(FACTS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def context(step=1, seed=0):
    return Context(step, 10, seeded(seed))


def volumes(count=4, slices=10, side=16, seed=0, pads=0):
    present = torch.ones(count, slices, dtype=torch.bool)
    values = torch.rand(count, 1, slices, side, side, generator=seeded(seed))
    if pads:
        present[1, -pads:] = False
        values[1, :, -pads:] = 0
    return {"volume": values, "present": present}


@pytest.mark.parametrize("slices", [64, 5])
def test_shapes_are_those_of_the_note(slices):
    """Exact check 1, with the paper's widths and a thin ResNet, for any number of slices."""
    kind = recipe("image-volume").preset(
        "paper", stem=2, bottleneck=False, blocks=(1, 1, 1, 1), weights=(0.0, 1.0, 1.0)
    )
    method = kind.method(FACTS).eval()
    batch = volumes(2, slices, 32)
    with torch.no_grad():
        tokens, z = method.tokens(batch), method.embed(batch)
    assert tokens.values.shape == (2, slices, 640) and z.shape == (2, 640)
    assert torch.allclose(z.norm(dim=1), torch.ones(2))
    millimetres = tokens.coordinates[0, :, 0]
    assert torch.allclose(millimetres.diff(), torch.full((slices - 1,), 4.0))
    assert millimetres.mean().abs() < 1e-5


def test_the_paper_s_network_has_four_stages_of_a_resnet_50():
    kind = recipe("image-volume").preset("paper")
    with torch.device("meta"):
        trunk = kind.method(FACTS).encoder.trunk
    assert trunk.out.in_features == 256 + 512 + 1024 + 2048 and trunk.out.out_features == 640
    convolutions = sum(isinstance(part, torch.nn.Conv2d) for part in trunk.modules())
    assert convolutions == 1 + 3 * 16 + 4  # the fiftieth layer of a ResNet-50 is its classifier


@pytest.mark.parametrize(("slices", "hidden"), [(64, 7), (32, 4), (10, 1)])
def test_a_tenth_of_the_slices_is_hidden_rounded_up(slices, hidden):
    """Exact check 2."""
    found = hidden_slices(torch.ones(50, slices, dtype=torch.bool), 0.1, 1, seeded())
    assert found.sum(1).eq(hidden).all()
    assert found.any(0).all() or slices == 64


@given(st.integers(2, 20), st.floats(0.05, 0.9), st.integers(1, 5), st.integers(0, 99), st.integers(0, 6))
def test_only_slices_that_are_there_are_hidden_and_in_runs(slices, ratio, slabs, seed, pads):
    present = torch.ones(3, slices, dtype=torch.bool)
    pads = min(pads, slices - 2)
    present[1, : pads // 2], present[1, slices - (pads - pads // 2) :] = False, False
    found = hidden_slices(present, ratio, slabs, seeded(seed))
    assert not (found & ~present).any()
    for row, real in zip(found, present.sum(1).tolist(), strict=True):
        assert int(row.sum()) == math.ceil(real * ratio - 1e-6)
    # of the first volume: no more runs than whole slabs, and one for the cut at either end
    runs = int((torch.nn.functional.pad(found[0].int(), (1, 0)).diff() == 1).sum())
    assert runs <= math.ceil(int(found[0].sum()) / slabs) + 2


def test_every_slice_is_hidden_as_often():
    found = hidden_slices(torch.ones(20_000, 8, dtype=torch.bool), 0.25, 2, seeded())
    assert torch.allclose(found.float().mean(0), torch.full((8,), 0.25), atol=0.05)


def test_what_is_not_hidden_enters_as_it_is_and_the_loss_is_over_what_is():
    """Exact check 2: the divisor is the number of hidden slices."""
    method = small_method(predicted="hidden", mask_ratio=0.3).eval()
    slices, present = torch.randn(4, 10, 16), volumes(4, pads=3)["present"]
    entered = []
    method.encoder.context = lambda x, there: entered.append(x) or x
    parts = method._masked(slices, present, seeded())
    hidden = method.hidden(present[:2], seeded()).repeat(2, 1)
    assert torch.equal(entered[0][~hidden], slices[~hidden])
    assert torch.equal(entered[0][hidden], method.mask_token.expand(int(hidden.sum()), -1))
    wrong = (method.told(entered[0]) - slices).square().mean(2)
    assert parts["mask_loss"].item() == pytest.approx(wrong[hidden].mean().item(), rel=1e-6)
    every = small_method(predicted="all", mask_ratio=0.3).eval()
    every.encoder.context = lambda x, there: x
    alike = torch.ones(4, 10, dtype=torch.bool)
    published = every._masked(slices, alike, seeded())["mask_loss"].item()
    hidden = every.hidden(alike[:2], seeded()).repeat(2, 1)
    shown = torch.where(hidden.unsqueeze(2), every.mask_token, slices)
    views = (every.told(shown) - slices).square().unflatten(0, (2, 2)).mean((1, 2, 3))
    assert published == pytest.approx(views.sum().item() / 3, rel=1e-5)  # 3 of 10 slices are hidden


@pytest.mark.parametrize("predicted", ["hidden", "all"])
def test_nothing_learns_through_the_targets_of_masks(predicted):
    """Exact check 3."""
    method = small_method(weights=(0.0, 1.0, 0.0), predicted=predicted)
    method(volumes(), context())["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in method.encoder.trunk.parameters())
    assert all(p.grad is not None and p.grad.any() for p in method.encoder.layers.parameters())
    taught = small_method(weights=(0.0, 1.0, 0.0), predicted=predicted, through_trunk=True)
    taught(volumes(), context())["loss"].backward()
    assert taught.encoder.trunk.out.weight.grad.any()


@pytest.mark.parametrize("attention", ["deformable", "plain"])
def test_slices_hear_of_one_another(attention):
    """Exact check 4."""
    method = small_method(attention=attention, depth=2).eval().double()
    batch = volumes(2)
    other = {**batch, "volume": batch["volume"].clone()}
    other["volume"][:, :, 4] = 1 - other["volume"][:, :, 4]
    with torch.no_grad():
        apart = (method.tokens(batch).values - method.tokens(other).values).abs().amax((0, 2))
    assert (apart > 1e-9).all()


def test_the_order_of_slices_counts_by_their_places_alone():
    """Exact check 4: with plain attention and no positions the mean does not change with the order."""
    order = torch.randperm(10, generator=seeded())
    batch = volumes(2)
    shuffled = {**batch, "volume": batch["volume"][:, :, order]}
    for positions in (False, True):
        method = small_method(attention="plain", positions=positions).eval().double()
        with torch.no_grad():
            same = torch.allclose(method.embed(batch), method.embed(shuffled), atol=1e-9)
            inside = method.tokens(batch).values[:, order]
            moved = torch.allclose(inside, method.tokens(shuffled).values, atol=1e-9)
        assert same is not positions and moved is not positions
    # slices that take their places with them take their outputs with them
    method = small_method(attention="plain").eval().double()
    x = torch.randn(2, 10, 16, dtype=torch.float64)
    at = method.encoder.positions(method.encoder.coordinates(10, x) / 10.0).double()
    layer = method.encoder.layers[0]
    with torch.no_grad():
        assert torch.allclose(layer(x + at)[:, order], layer(x[:, order] + at[:, order]), atol=1e-9)


@pytest.mark.parametrize("attention", ["deformable", "plain", "none"])
def test_padding_changes_nothing_but_places(attention):
    """What is in slices that pad is never read."""
    weights = (1.0, 0.0, 1.0) if attention == "none" else (1.0, 1.0, 1.0)
    method = small_method(attention=attention, weights=weights).eval()
    batch = volumes(2, pads=4)
    other = {**batch, "volume": batch["volume"].clone()}
    other["volume"][1, :, -4:] = 0.7
    with torch.no_grad():
        assert torch.allclose(method.embed(batch), method.embed(other), atol=1e-6)


def test_a_slice_by_itself_is_what_the_trunk_says():
    """One encoder serves pictures and volumes: what is one slice passes through the ResNet alone."""
    method = small_method().eval()
    batch = volumes(3, 1)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(method.encoder.trunk(batch["volume"][:, :, 0]), dim=1)
        assert torch.allclose(method.embed(batch), expected, atol=1e-6)
    images = small_method(weights=(1.0, 0.0, 0.0)).train()
    found = images(batch, context())
    assert torch.isfinite(found["loss"]) and "mask_loss" not in found


def test_a_frozen_trunk_stays_as_it_was():
    """Exact check 9: no parameter and no running statistic changes."""
    method = small_method(weights=(0.0, 1.0, 1.0), trunk="frozen").train()
    before = {name: value.clone() for name, value in method.encoder.trunk.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    layers = [p.clone() for p in method.encoder.layers.parameters()]
    for step in (1, 2):
        method(volumes(), context(step))["loss"].backward()
        optimiser.step()
    after = method.encoder.trunk.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert any(not torch.equal(a, b) for a, b in zip(layers, method.encoder.layers.parameters(), strict=True))


def test_views_differ_from_each_other_and_from_step_to_step():
    """Exact check 10, and the two views of a volume undergo different transforms."""
    make = VolumeViews(1, (4.0, 2.0, 2.0))
    values = volumes(30)["volume"]
    first, again, later = make(values, seeded()), make(values, seeded()), make(values, seeded(1))
    assert torch.equal(first, again) and first.shape == (2, *values.shape)
    assert not (first == later).flatten(1).all(1).any()
    assert (first[0] - first[1]).abs().flatten(1).amax(1).gt(0).all()
    assert first.min() >= 0 and first.max() <= 1
    order = uniform((1000, len(TRANSFORMS)), seeded()).argsort(1).argsort(1)
    assert not ((order == 0) & (order == 1)).any()


def chosen(name, count=6):
    found = torch.zeros(count, len(TRANSFORMS), dtype=torch.bool)
    found[:, TRANSFORMS.index(name)] = True
    return found


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_does_what_it_says_and_no_other(name):
    make, random = VolumeViews(1, (1.0, 1.0, 1.0)), seeded()
    x = torch.rand(6, 1, 8, 12, 12, generator=random)
    x = torch.nn.functional.avg_pool3d(x, 3, 1, 1) * 0.5 + 0.25
    chance, noise = torch.rand(6, 40, generator=random), torch.randn(x.shape, generator=random)
    none = make._changed(x, torch.zeros(6, len(TRANSFORMS), dtype=torch.bool), chance, noise)
    assert torch.allclose(none, x, atol=1e-6)
    y = make._changed(x, chosen(name), chance, noise)
    assert (y - x).abs().flatten(1).amax(1).gt(1e-4).all()
    if name == "flip":
        assert torch.allclose(y, x.flip(4))
    elif name == "noise":
        spread = (y - x).flatten(1).std(1)
        assert torch.allclose(spread, 0.25 * chance[:, 33], rtol=0.25)
    elif name == "gamma":
        assert torch.allclose(
            y.log() / x.log(),
            ((0.6 * chance[:, 32] - 0.3).exp()).view(-1, 1, 1, 1, 1).expand_as(x),
            rtol=1e-3,
        )
    elif name in ("blur", "anisotropy"):
        assert y.flatten(1).std(1).lt(x.flatten(1).std(1)).all()
    elif name == "bias field":
        ratio = (y / x).log()[y < 1]
        assert ratio.abs().max() < 20 * 0.5 and ratio.std() > 0.05
    flat = make._changed(torch.full_like(x, 0.5), chosen(name), chance, noise)
    if name in ("flip", "blur", "anisotropy"):
        assert torch.allclose(flat, torch.full_like(x, 0.5), atol=1e-5)


def test_the_affine_scales_each_axis_and_turns_in_millimetres():
    make = VolumeViews(1, (1.0, 2.0, 1.0))
    x = torch.zeros(1, 1, 12, 12, 16)
    x[..., 3:9, 3:9, 4:12] = 1
    middle = torch.full((1, 6), 0.5)
    assert torch.allclose(make._turned(x, middle), x, atol=1e-5)
    for axis in range(3):
        for end, scale in ((0.0, 0.9), (1.0, 1.1)):
            chance = middle.clone()
            chance[0, axis] = end
            assert (make._turned(x, chance).sum() / x.sum()).item() == pytest.approx(1 / scale, rel=0.03)
    # a line of 16 mm along the columns, turned by 10 degrees in the slice, rises by 16 sin 10 / 2 mm a row
    line = torch.zeros(1, 1, 1, 41, 41)
    line[..., 20, 12:29] = 1
    chance = middle.clone()
    chance[0, 5] = 1.0
    turned = make._turned(line, chance)[0, 0, 0]
    rows = (turned * torch.arange(41.0)[:, None]).sum(0) / turned.sum(0)
    slope = abs(float(rows[27] - rows[13])) / 14 * 2
    assert slope == pytest.approx(math.tan(math.radians(10)), rel=0.15)


def test_coarser_lines_are_joined_by_straight_ones():
    matrix = coarsening(torch.tensor([1.0, 3.0]), 9)
    assert torch.allclose(matrix[0], torch.eye(9))
    assert torch.allclose(matrix.sum(2), torch.ones(2, 9))
    assert torch.allclose(
        matrix[1] @ torch.arange(9.0), torch.tensor([2 / 3, 1, 2, 3, 4, 5, 6, 7, 22 / 3]), atol=1e-5
    )


def test_the_mean_of_the_nearest_slices_is_known():
    values = torch.arange(6.0).view(1, 6, 1) ** 2
    seen = torch.tensor([[False, True, False, False, True, False]])
    assert interpolated(values, seen).flatten().tolist() == [1.0, 1.0, 8.5, 8.5, 16.0, 16.0]


def test_masks_of_the_report_are_those_of_the_loss():
    method = small_method(mask_ratio=0.3)
    batch = volumes(4, pads=4)
    masks = method.masks(batch, context())
    hidden = method.hidden(batch["present"], seeded())
    for row in range(4):
        assert set(masks.targets[row, 0].tolist()) == set(hidden[row].nonzero().flatten().tolist())
        seen = batch["present"][row] & ~hidden[row]
        assert set(masks.context[row].tolist()) == set(seen.nonzero().flatten().tolist())


def test_crops_come_from_slices_that_are_there():
    method = small_method(slices_drawn=6)
    batch = volumes(4, pads=8)
    batch["volume"][1, :, :2] = 0.25
    batch["volume"][1, :, 2:] = 1.0
    taken = []
    method.crops = lambda images, generator, dtype: taken.append(images) or torch.stack([images, images])
    method._crops(batch["volume"], batch["present"], seeded())
    assert taken[0].shape == (24, 1, 16, 16)
    assert taken[0][6:12].eq(0.25).all()


def test_more_clusters_than_the_data_fills_are_said():
    """Exact check 14."""
    assert small_method(slice_clusters=4, volume_clusters=4).cautions(10) == []
    said = small_method(slice_clusters=3000, volume_clusters=30).cautions(10)
    assert len(said) == 2 and "3,000 clusters for 400 slices" in said[0]


def test_clustering_by_k_means_moves_prototypes_only_when_it_is_time_to():
    method = small_method(
        assignment="k-means", slice_bank=24, volume_bank=8, cluster_every=100, frozen_steps=0
    ).train()
    began = method.volume_prototypes.centres.clone()
    for step in (1, 2):
        method(volumes(seed=step), context(step))
        method.after_step(context(step))
        assert torch.equal(method.volume_prototypes.centres, began) is (step == 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weights": (0.0, 0.0, 0.0)}, "--weights"), ({"weights": (-1.0, 1.0, 1.0)}, "--weights"),
        ({"trunk": "frozen"}, "frozen ResNet"), ({"attention": "none"}, "without a transformer"),
        ({"mask_ratio": 1.0}, "--mask-ratio"), ({"transforms": 4}, "--transforms"),
        ({"width": 63}, "heads"), ({"slabs": 0}, "--slabs"), ({"shape": (4, 4, 32)}, "--shape"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said(fields, words):
    with pytest.raises(UserError, match=words):
        recipe("image-volume").preset("tiny", **fields)


def test_a_run_of_images_gives_its_encoder_to_one_of_volumes():
    kind = recipe("image-volume")
    images = kind.preset("tiny", **SMALL, weights=(1.0, 0.0, 0.0))
    taken = kind.inherited(images)
    other = kind.preset("tiny", **{**SMALL, **taken, "weights": (0.0, 1.0, 1.0), "trunk": "frozen"})
    first, second = images.method(FACTS), other.method(FACTS)
    second.foundation.load_state_dict(first.backbone.state_dict())
    assert kind.inherited(recipe("i-jepa").preset("tiny")) is None


def test_data_that_would_be_cropped_is_advised_another_spacing():
    kind = recipe("image-volume")
    facts = {"slices": 60, "most": [64, 64, 32], "spacing": [1.0, 1.0, 1.0]}
    samples = open_volumes(np.ones((1, 2, 8, 8)))
    assert kind.advice(samples, facts)["spacing"] == (4.0, 2.0, 2.0)
    assert kind.advice(samples, {**facts, "most": [16, 32, 32]}) == {}
    assert kind.advice(samples, {**facts, "slices": 1})["weights"] == (1.0, 0.0, 0.0)


def test_the_mean_is_over_slices_that_are_there():
    x = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [100.0, 0.0]]])
    z = mean_of_present(x, torch.tensor([[True, True, False]]))
    assert torch.allclose(z, torch.tensor([[0.6, 0.8]]))
    assert np.isfinite(z.numpy()).all()


def test_the_stages_of_the_released_scripts_follow_each_other(tmp_path):
    """Slices, then hidden slices under a frozen ResNet, then volumes: each begins with what was learned."""
    settings = anyjepa.Settings(quiet=True, workers=0, steps=2, device="cpu")
    stages = {"a": (1.0, 0.0, 0.0), "b": (0.0, 1.0, 0.0), "c": (0.0, 0.0, 1.0)}
    before = None
    for name, weights in stages.items():
        fields = {"trunk": "frozen"} if name == "b" else {"trunk": "learned"} if name == "c" else SMALL
        anyjepa.train(
            "image-volume", out=tmp_path / name, settings=settings, init=before, weights=weights, **fields
        )
        before = tmp_path / name
    first, second, third = (load(tmp_path / name, "cpu").method for name in stages)
    trunks = [method.encoder.trunk.state_dict() for method in (first, second, third)]
    assert all(torch.equal(value, trunks[1][name]) for name, value in trunks[0].items())
    assert not all(torch.equal(value, trunks[2][name]) for name, value in trunks[0].items())
    assert second.projector is None and third.told is None and third.volume_prototypes is not None
