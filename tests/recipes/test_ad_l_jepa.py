"""AD-L-JEPA by the exact checks of its note."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.engine.optimiser import build_optimiser
from anyjepa.recipes import recipe
from anyjepa.recipes.ad_l_jepa_method import _area, draw_cells, missing_deviation

FACTS = {"intensity": 1.0, "least": [0.0, -4.0, -2.0], "most": [8.0, 4.0, 1.0], "points": 200}
SMALL = {
    "low": (0.0, -4.0, -3.0), "high": (8.0, 4.0, 1.0), "voxel": (0.5, 0.5, 4.0), "widths": (6, 8),
    "points": 400,
}  # fmt: skip
VOXELS = {
    "encoder": "voxels", "voxel": (0.1, 0.1, 0.1), "high": (6.4, 4.0, 1.0), "widths": (4, 6, 8, 8, 8),
}  # fmt: skip


def small_method(**fields):
    torch.manual_seed(0)
    return recipe("ad-l-jepa").preset("tiny", **{**SMALL, **fields}).method(FACTS)


def frames(count=3, points=300, seed=0, high=(8.0, 4.0, 1.0)):
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([0.0, -4.0, -3.0, 0.0]), torch.tensor([*high, 1.0])
    # most lie in some places, so that cells stay empty
    share = torch.rand(count, points, 4, generator=generator)
    share[..., :2] = (share[..., :2] ** 2 * 0.999).clamp(max=0.999)
    present = torch.ones(count, points, dtype=torch.bool)
    present[:, -20:] = False
    return {"points": low + share * 0.999 * (high - low), "present": present}


def context(step=1, seed=0):
    return Context(step, 10, torch.Generator().manual_seed(seed))


def test_shapes_and_parameters_are_those_of_the_note():
    """Exact checks 1 and 9."""
    method = recipe("ad-l-jepa").preset("paper").method(FACTS)
    assert method.grid.shape == (200, 176) and method.encoder.width == 256
    assert method.grid.cell == pytest.approx((0.4, 0.4)) and method.grid.voxels == (1408, 1600, 40)
    assert sum(p.numel() for p in method.encoder.parameters()) == 711_872
    assert sum(p.numel() for p in method.predictor.parameters()) == 1_771_776
    waymo = recipe("ad-l-jepa").preset("waymo")
    assert waymo.grid.shape == (188, 188) and waymo.hinge == 10
    assert waymo.grid.cell == pytest.approx((0.8, 0.8))
    points = torch.tensor([[[10.02, 3.33, 0.0, 0.5]]]), torch.ones(1, 1, dtype=torch.bool)
    batch = dict(zip(("points", "present"), points, strict=True))
    with torch.no_grad():
        assert method.eval().encoder(batch).shape == (1, 256, 200, 176)
    cell = method.encoder.occupied(batch).nonzero()[0, 1]
    assert divmod(int(cell), 176) == (int((3.33 + 40) / 0.05) // 8, int(10.02 / 0.05) // 8)


@pytest.mark.parametrize("row", [0, 7, 8, 33, 79])
@pytest.mark.parametrize("column", [0, 15, 16, 63])
def test_the_cell_of_any_voxel_is_active_in_the_encoders_output(row, column):
    method = small_method(**VOXELS).eval()
    place = torch.tensor([[[(column + 0.5) * 0.1, (row + 0.5) * 0.1 - 4, -0.05, 0.5]]])
    with torch.no_grad():
        found = method.encoder({"points": place, "present": torch.ones(1, 1, dtype=torch.bool)})
    for norm in method.encoder.norms:
        norm.bias.data.fill_(1.0)
    with torch.no_grad():
        found = method.encoder({"points": place, "present": torch.ones(1, 1, dtype=torch.bool)})
    assert found[0, :, row // 8, column // 8].any()


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.7])
def test_four_sets_of_cells_share_none_and_hold_all(share, together):
    """Exact check 2."""
    occupied = torch.rand(5, 90, generator=torch.Generator().manual_seed(1)) < 0.3
    cells = draw_cells(occupied, share, torch.Generator().manual_seed(0), together)
    assert torch.equal(sum(part.int() for part in cells), torch.ones(5, 90, dtype=torch.int32))
    assert torch.equal(cells.seen | cells.wanted, occupied)
    counts, seen = (occupied.sum(), cells.seen.sum()) if together else (occupied.sum(1), cells.seen.sum(1))
    assert torch.equal(seen, (counts * (1 - share) + 1e-6).long())
    assert abs(cells.void.sum() / (~occupied).sum() - share) < 0.1
    none = draw_cells(occupied, share, torch.Generator().manual_seed(0), hide_empty=False)
    assert not none.void.any()


@pytest.mark.parametrize("fields", [{}, VOXELS])
def test_what_lies_in_hidden_cells_is_not_seen_and_the_teacher_sees_nothing_else(fields):
    """Exact check 3: no point reaches both encoders, and all points of a cell go together."""
    method = small_method(**fields).eval()
    batch = frames(high=(6.4, 4.0, 1.0))
    cells = method.hidden(method.encoder.occupied(batch), context().generator)
    of_points = method.grid.place(batch["points"], batch["present"]).cell
    hidden = functional.pad(cells.wanted, (0, 1)).gather(1, of_points)
    generator = torch.Generator().manual_seed(5)
    moved = {name: batch["points"].clone() for name in ("hidden", "seen")}
    for name, chosen in (("hidden", hidden), ("seen", ~hidden)):
        # up and down: no point leaves its cell
        other = torch.rand(chosen.shape, generator=generator) * 3.9 - 3
        moved[name][..., 2] = torch.where(chosen, other, batch["points"][..., 2])
    begun, goals = method.context(batch, cells), method.goals(batch, cells)
    again = {**batch, "points": moved["hidden"]}
    assert torch.equal(method.context(again, cells), begun)
    assert not torch.allclose(method.goals(again, cells), goals, atol=1e-3)
    again = {**batch, "points": moved["seen"]}
    assert torch.equal(method.goals(again, cells), goals)
    assert not torch.allclose(method.context(again, cells), begun, atol=1e-3)
    full = small_method(**fields, target="full").eval()
    assert not torch.allclose(full.goals(again, cells), full.goals(batch, cells), atol=1e-3)


@pytest.mark.parametrize("fields", [{}, VOXELS])
def test_the_predictor_begins_with_tokens_where_nothing_is_seen(fields):
    """Exact check 4."""
    method = small_method(**fields)
    batch = frames(high=(6.4, 4.0, 1.0))
    cells = method.hidden(method.encoder.occupied(batch), context().generator)
    begun, goals = method.context(batch, cells), method.goals(batch, cells)
    mask, empty = (functional.normalize(t, dim=0) for t in (method.mask_token, method.empty_token))
    for chosen, token in ((cells.wanted | cells.void, mask), (cells.told, empty)):
        assert torch.allclose(begun[chosen], token.expand_as(begun[chosen]))
    assert torch.allclose(goals[cells.void], empty.expand_as(goals[cells.void]))
    norms = begun.norm(dim=2)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)


def test_the_hinge_of_a_collapse_is_known():
    """Exact check 5: 1/16 - 0.01 of constant directions of 256 channels."""
    same = functional.normalize(torch.randn(256), dim=0).expand(2, 50, 256)
    found = missing_deviation(same, torch.ones(2, 50, dtype=torch.bool))
    assert found.item() == pytest.approx(0.0525, abs=1e-6)


def test_the_hinge_closes_for_directions_all_over_the_sphere_and_never_for_those_without_a_sign():
    """Exact check 6."""
    vectors = torch.randn(1, 20_000, 256, generator=torch.Generator().manual_seed(0))
    there = torch.ones(1, 20_000, dtype=torch.bool)
    spread = missing_deviation(functional.normalize(vectors, dim=2), there).item()
    rectified = missing_deviation(functional.normalize(vectors.relu(), dim=2), there).item()
    assert spread < 1e-4
    assert rectified > 0.005
    wide = torch.zeros(1, 4, 256)
    wide[0, :2], wide[0, 2:] = 0.06, -0.06  # a deviation of 0.0693, with what is added under the root more
    assert missing_deviation(wide, there[:, :4]) == 0


@pytest.mark.parametrize("fields", [{}, VOXELS, {"rectified": True}])
def test_tokens_learn_and_the_teacher_does_not(fields):
    """Exact check 7, and that each parameter is in exactly one group of the optimiser."""
    method = small_method(**fields)
    optimiser = build_optimiser(method, recipe("ad-l-jepa").preset("tiny"))
    grouped = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    for group in optimiser.param_groups:
        group["lr"] = 1e-2
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method(frames(high=(6.4, 4.0, 1.0)), context())["loss"].backward()
    assert all(p.grad is None for p in method.target.parameters())
    for token in (method.mask_token, method.empty_token):
        assert token.grad.abs().sum() > 0
    optimiser.step()
    for name in ("mask_token", "empty_token"):
        assert (before[name] - method.state_dict()[name]).abs().min() > 1e-4, name
    assert torch.equal(before["target.encoder.norms.0.weight"], method.target.encoder.norms[0].weight)


def test_nothing_is_learned_through_the_token_that_is_a_target():
    method = small_method()
    batch = frames()
    cells = method.hidden(method.encoder.occupied(batch), context().generator)
    assert not method.goals(batch, cells).requires_grad


def test_fixed_tokens_stay_as_they_began():
    method = small_method(tokens="fixed")
    method(frames(), context())["loss"].backward()
    assert method.mask_token.grad is None and method.empty_token.grad is None


def test_the_teacher_follows_from_0996_to_1():
    """Exact check 8."""
    target = recipe("ad-l-jepa").preset("paper").method(FACTS).target
    assert target.momentum(Context(1, 6960, context().generator).progress) == pytest.approx(0.996)
    assert target.momentum(0.5) == pytest.approx(0.998)
    assert target.momentum(1.0) == 1.0


@pytest.mark.parametrize("fields", [{}, VOXELS])
@pytest.mark.parametrize("points", [0, 1, 2])
def test_a_frame_of_next_to_nothing_is_no_error(points, fields):
    """Exact check 10."""
    method, batch = small_method(**fields), frames(2, 40, high=(6.4, 4.0, 1.0))
    batch["present"][0] = torch.arange(40) < points
    found = method(batch, context())
    found["loss"].backward()
    assert all(torch.isfinite(value).all() for value in found.values())
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    assert torch.isfinite(method.eval().embed(batch)).all()
    batch["present"][:] = False
    nothing = method.train()(batch, context())
    assert all(torch.isfinite(value).all() for value in nothing.values())


def test_learning_rates_of_one_cycle():
    kind, steps = recipe("ad-l-jepa").preset("paper"), 6960
    rates = [kind.learning_rate_at(step, steps) for step in (1, 2784, 2785, steps)]
    assert rates == pytest.approx([3e-5, 3e-4, 3e-4, 3e-9], rel=1e-3)


def test_embeddings_do_not_depend_on_the_order_of_points():
    method, batch = small_method().eval(), frames()
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    other = {name: value[:, order] for name, value in batch.items()}
    assert torch.allclose(method.embed(batch), method.embed(other), atol=1e-5)
    more = (
        functional.pad(batch["points"], (0, 0, 0, 50), value=3.0),
        functional.pad(batch["present"], (0, 50)),
    )
    longer = dict(zip(("points", "present"), more, strict=True))
    assert torch.allclose(method.embed(batch), method.embed(longer), atol=1e-5)


def test_frames_are_turned_before_they_are_cut():
    kind = recipe("ad-l-jepa").preset("tiny", **SMALL, scale=(1.0, 1.0), mirror=(0.0, 0.0))
    frame = np.array([[5.0, 5.0, 0.0, 0.3]], np.float32)
    assert not kind.present([frame])["present"].any()
    uniforms = np.zeros((1, 16))
    found = kind.draw([frame], uniforms)
    assert found["present"].sum() == 1
    assert torch.allclose(found["points"][0, 0], torch.tensor([50**0.5, 0.0, 0.0, 0.3]), atol=1e-5)


def test_occupancy_is_a_half_for_chance_and_one_for_who_knows():
    scores, truth = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])
    assert _area(scores, truth) == pytest.approx(0.75)
    assert _area(torch.zeros(4), truth) == 0.5
    found = small_method().eval().health([frames()], context())
    assert 0 <= found["occupancy"] <= 1 and -2 < found["gain"] < 2


def test_masks_for_a_page_are_the_four_sets():
    method, batch = small_method().eval(), frames()
    masks = method.masks(batch, context())
    cells = method.hidden(method.encoder.occupied(batch), context().generator)
    assert set(masks.context[0].tolist()) == set((cells.seen | cells.told)[0].nonzero()[:, 0].tolist())
    for block, part in enumerate((cells.wanted, cells.void)):
        assert set(masks.targets[0, block].tolist()) == set(part[0].nonzero()[:, 0].tolist())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"high": (8.2, 4.0, 1.0)}, "no whole number"),
        ({"voxel": (0.5, 0.5, 0.5)}, "as high as the whole range"),
        ({"high": (8.5, 4.0, 1.0)}, "do not divide into cells of 2"),
        ({"hidden": 1.0}, "--hidden"),
        ({**VOXELS, "widths": (4, 4)}, "5 numbers, not 2"),
        ({**VOXELS, "voxel": (0.1, 0.1, 0.2)}, "too few to halve"),
        ({"columns": 2}, "--columns"),
        ({"scale": (1.1, 1.0)}, "--scale"),
    ],
)
def test_values_that_cannot_work_are_one_sentence(fields, words):
    with pytest.raises(UserError, match=words):
        small_method(**fields)


PROGRAM = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
import anyjepa
from anyjepa.engine.train import Settings
fields = {fields}
settings = Settings(steps=2, quiet=True, workers=0, device="cpu")
anyjepa.train("ad-l-jepa", sys.argv[1], sys.argv[2], settings=settings, batch_size=2, **fields)
assert any("velodyne" in name for name in opened)
assert not [name for name in opened if "label_2" in name], "a label was opened"
"""


def test_pre_training_opens_no_label(tmp_path):
    """Released pre-training pastes labelled objects in; ours opens no such file, and cannot depend on one."""
    for name in ("velodyne", "label_2", "calib"):
        (tmp_path / "kitti" / "training" / name).mkdir(parents=True)
    for number in range(3):
        scan = frames(1, 300, number)["points"][0].numpy().astype("<f4")
        (tmp_path / f"kitti/training/velodyne/{number:06d}.bin").write_bytes(scan.tobytes())
        (tmp_path / f"kitti/training/label_2/{number:06d}.txt").write_text("not a label at all")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(fields={**SMALL, "camera": False}), str(tmp_path / "kitti"),
         str(tmp_path / "run")], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_spconv_gives_what_our_own_convolutions_do():
    """The weights are laid out alike; its convolutions on a CPU have no gradient."""
    pytest.importorskip("spconv.pytorch")
    method, batch = small_method(**VOXELS).eval(), frames(high=(6.4, 4.0, 1.0))
    with torch.no_grad():
        ours = method.encoder(batch)
        method.encoder.backend = "spconv"
        assert torch.allclose(method.encoder(batch), ours, atol=1e-6)
