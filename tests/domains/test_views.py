"""Views with poses: arrays, tables, renderings, turntables, images with maps; and the simulated solids."""

import io

import numpy as np
import pytest
import torch
from damaged import withstands
from PIL import Image

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Samples, domains
from anyjepa.domains.sources import NoSplit
from anyjepa.domains.views_rendering import CLASSES, SOLIDS, _pictures, quaternions, synthetic_turntable
from anyjepa.recipes import recipe

VIEWS = domains()["views"]
FEW = {"views_drawn": 3, "views_seen": 2}


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_the_simulated_solids_are_what_they_say():
    samples = VIEWS.open("synthetic-turntable", reading={"views_drawn": 4, "views_seen": 8})
    assert isinstance(samples, Samples)
    assert len(samples) == 256
    assert samples.classes == CLASSES
    one = samples.read(3)
    assert one["image"].shape == (8, 24, 24, 3)
    np.testing.assert_allclose(np.linalg.norm(one["pose"][:, :4], axis=1), 1, atol=1e-6)
    held_out = VIEWS.open("synthetic-turntable", split="test")
    assert len(held_out) == 192
    assert not np.array_equal(held_out.read(0)["image"][0], samples.read(0)["image"][0])
    with pytest.raises(NoSplit):
        synthetic_turntable("dev2")


def test_a_turned_solid_is_seen_as_its_rotation_says():
    """A quarter turn about the line of sight turns the picture, its shading apart."""
    angles = np.array([[0, 0, 0], [0, 0, np.pi / 2]])
    hues, stretch = np.zeros((2, 2)), np.ones(3)
    first, second = _pictures(SOLIDS["key"], quaternions(angles), hues, stretch)
    floor = first[0, 0]
    seen, turned = ((one != floor).any(-1) for one in (first, second))
    # x to the right and y down: a turn from x to y is clockwise
    assert (np.rot90(seen, -1) == turned).mean() > 0.99
    assert (seen == turned).mean() < 0.9


def test_arrays_of_every_kind_of_pose(tmp_path):
    values = pixels(5, 4, 10, 12, 3)
    angle = np.random.default_rng(0).uniform(0, 6, (5, 4))
    euler = np.random.default_rng(1).uniform(-1, 1, (5, 4, 3))
    for name, poses, wide in (("angle", angle, 1), ("euler", euler, 4), ("pose", euler, 3)):
        np.savez(tmp_path / "a.npz", x=values, y=np.arange(5) % 2, **{name: poses})
        samples = VIEWS.open(str(tmp_path / "a.npz"), reading=FEW)
        assert samples.read(1)["pose"].shape == (2, wide)
        np.testing.assert_array_equal(samples.read(1)["image"], values[1, [0, 2]])
        assert samples.labels.tolist() == [0, 1, 0, 1, 0]
        facts = VIEWS.measure(samples)
        assert facts["rotation"] == {"angle": "turn", "euler": "quaternion", "pose": "none"}[name]
        assert len(facts["others"]) == (3 if name == "pose" else 0)
        assert (facts["channels"], facts["height"], facts["width"], facts["views"]) == (3, 10, 12, 2)


def test_splits_of_arrays(tmp_path):
    parts = {f"x_{word}": pixels(4 + n, 3, 8, 8, seed=n) for n, word in enumerate(("train", "test"))}
    poses = {f"angle_{word}": np.ones((4 + n, 3)) for n, word in enumerate(("train", "test"))}
    np.savez(tmp_path / "a.npz", **parts, **poses)
    path = str(tmp_path / "a.npz")
    assert len(VIEWS.open(path, reading=FEW)) == 4
    assert len(VIEWS.open(path, split="test", reading=FEW)) == 5
    np.savez(tmp_path / "b.npz", x=parts["x_train"], angle=poses["angle_train"])
    with pytest.raises(UserError, match="x_test"):
        VIEWS.open(str(tmp_path / "b.npz"), split="test", reading=FEW)


def test_what_fits_no_pose_is_said(tmp_path):
    for arrays, words in (
        ({"x": pixels(3, 8, 8), "angle": np.ones((3, 8))}, "views of shape"),
        ({"x": pixels(3, 4, 8, 8), "angle": np.ones((3, 5))}, "angle of shape"),
        ({"x": pixels(3, 4, 8, 8), "euler": np.ones((3, 4, 4))}, "euler of shape"),
        ({"x": pixels(3, 2, 8, 8), "angle": np.ones((3, 2))}, "no thing with 3 views"),
        ({"x": pixels(3, 4, 8, 8), "angle": np.ones((3, 4)), "y": np.ones(2)}, "labels"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(UserError, match=words):
            VIEWS.open(str(tmp_path / "a.npz"), reading=FEW)


def turntable(folder, things=3, full=6):
    folder.mkdir(exist_ok=True)
    for thing in range(1, things + 1):
        for view in range(full):
            (folder / f"obj{thing}__{view}.png").write_bytes(png(pixels(8, 8, seed=10 * thing + view)))
    return str(folder)


def test_a_turntable_by_the_names_of_its_files(tmp_path):
    """Every thing is a class, and is cut into parts that share no view; training sees all of its views."""
    samples = VIEWS.open(turntable(tmp_path / "coil"), reading=FEW)
    assert samples.classes == ["obj1", "obj2", "obj3"]
    assert len(samples) == 9
    assert samples.groups is None
    seen = [tuple(samples.read(index)["pose"][:, 0].round(3)) for index in range(3)]
    assert len({angle for part in seen for angle in part}) == 6
    assert sorted(a for part in seen for a in part) == pytest.approx(np.arange(6) * np.pi / 3, abs=1e-3)
    drawn = {
        float(angle)
        for chance in range(40)
        for angle in samples.read_part(0, np.random.default_rng(chance).uniform(size=16))["pose"][:, 0]
    }
    assert len(drawn) == 6
    assert samples.identity(1) == "obj1#1"


def test_a_step_draws_other_views_without_repeating_one(tmp_path):
    samples = VIEWS.open("synthetic-turntable", reading={"views_drawn": 8, "views_seen": 2})
    chance = np.random.default_rng(0).uniform(size=16)
    one, again = samples.read_part(0, chance), samples.read_part(0, chance)
    assert np.array_equal(one["pose"], again["pose"])
    assert len(np.unique(one["pose"], axis=0)) == 8


def test_a_table_of_poses(tmp_path):
    rows = ["file,object,label,euler_x,euler_y,euler_z,light"]
    for thing in "ab":
        for view in range(3):
            (tmp_path / f"{thing}{view}.png").write_bytes(png(pixels(8, 8, 3, seed=view)))
            rows.append(f"{thing}{view}.png,{thing},kind-{thing},0,0,{0.5 * view},{view}")
    (tmp_path / "poses.csv").write_text("\n".join(rows))
    samples = VIEWS.open(str(tmp_path), reading={"views_drawn": 3, "views_seen": 3})
    assert samples.classes == ["kind-a", "kind-b"]
    turned = samples.read(0)["pose"]
    np.testing.assert_allclose(2 * np.arctan2(turned[:, 2], turned[:, 3]), [0, 0.5, 1.0], atol=1e-6)
    assert VIEWS.measure(samples)["others"] == ["light"]
    (tmp_path / "poses.csv").write_text("\n".join([*rows, "../a.png,c,kind-a,0,0,0,0"]))
    with pytest.raises(UserError, match="does not lie below"):
        VIEWS.open(str(tmp_path), reading=FEW)
    (tmp_path / "poses.csv").write_text("file,euler_x\na.png,1\n")
    with pytest.raises(UserError, match="needs the columns"):
        VIEWS.open(str(tmp_path), reading=FEW)


def test_renderings_as_of_3diebench(tmp_path):
    for kind, thing in (("chair", "c1"), ("chair", "c2"), ("boat", "b1")):
        folder = tmp_path / kind / thing
        folder.mkdir(parents=True)
        for view in range(3):
            (folder / f"image_{view}.jpg").write_bytes(png(pixels(8, 8, 3, seed=view)))
            (folder / f"latent_{view}.npy").write_bytes(npy(np.array([0, 0, 0.3 * view, 0.5, 0.6])))
    samples = VIEWS.open(str(tmp_path), reading=FEW)
    assert samples.classes == ["boat", "chair"]
    assert len(samples) == 3
    assert samples.read(0)["pose"].shape == (2, 6)
    (tmp_path / "boat" / "b1" / "latent_1.npy").write_bytes(b"no array")
    again = VIEWS.open(str(tmp_path), reading={"views_drawn": 2, "views_seen": 2})
    assert [problem.identity for problem in again.problems] == ["boat/b1/image_1.jpg"]


def test_damaged_views_and_poses_are_named(tmp_path):
    folder = tmp_path / "coil"
    turntable(folder)
    (folder / "obj2__0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    samples = VIEWS.open(str(folder), reading=FEW)
    with pytest.raises(BadSample, match="obj2__0"):
        samples.read(3)
    values, angle = pixels(3, 3, 8, 8), np.zeros((3, 3))
    angle[1, 0] = np.nan
    np.savez(tmp_path / "a.npz", x=values, angle=angle)
    with pytest.raises(BadSample, match="pose of 1"):
        VIEWS.open(str(tmp_path / "a.npz"), reading=FEW).read(1)


def test_readers_take_no_harm(tmp_path):
    rows = [f"a{view}.png,a,{view / 7}" for view in range(6)]
    files = {f"a{view}.png": png(pixels(8, 8, seed=view)) for view in range(6)}
    table = "\n".join(["file,object,angle", *rows]).encode()
    withstands("views", tmp_path / "table", {**files, "poses.csv": table}, "{}")
    file = io.BytesIO()
    np.savez(file, x=pixels(3, 5, 8, 8), angle=np.ones((3, 5)))
    withstands("views", tmp_path / "array", {"a.npz": file.getvalue()}, "{}/a.npz")


def test_maps_of_saliency(tmp_path):
    maps = np.random.default_rng(0).uniform(size=(6, 1, 10, 10)).astype(np.float32)
    maps[2] = 0
    np.savez(tmp_path / "a.npz", x=pixels(6, 10, 10, 3), y=np.arange(6) % 2, saliency=maps)
    samples = VIEWS.open(str(tmp_path / "a.npz"))
    assert isinstance(samples, Samples)
    np.testing.assert_array_equal(samples.read(1)["saliency"], maps[1, 0])
    with pytest.raises(BadSample, match="no density"):
        samples.read(2)
    kind = recipe("seq-jepa").preset(
        "tiny", transformation="saccades", image_size=(4, 4), loaded_size=(10, 10)
    )
    batch = kind.present([samples.read(0), samples.read(1)])
    torch.testing.assert_close(batch["saliency"], torch.from_numpy(maps[:2, 0]))
    assert VIEWS.measure(samples)["saliency"]
    np.savez(tmp_path / "b.npz", x=pixels(6, 10, 10, 3), saliency=maps[:, :, :9])
    with pytest.raises(UserError, match="saliency of shape"):
        VIEWS.open(str(tmp_path / "b.npz"))


def test_images_without_poses_are_read_as_images():
    samples = VIEWS.open("digits")
    assert VIEWS.measure(samples)["views"] == 1
    assert VIEWS.likeness(samples) < domains()["image"].likeness(samples)
    assert VIEWS.likeness(VIEWS.open("synthetic-turntable")) == 1


def test_noise_is_read_as_samples_are():
    samples = VIEWS.open("synthetic-turntable", reading=FEW)
    noise = VIEWS.noise(VIEWS.measure(samples), 3)
    assert noise[0]["image"].shape == samples.read(0)["image"].shape
    assert noise[0]["pose"].shape == samples.read(0)["pose"].shape


def test_what_is_drawn_of_views():
    kind = recipe("seq-jepa").preset("tiny")
    samples = VIEWS.open("synthetic-turntable", reading=kind.reading())
    facts, batch = VIEWS.measure(samples), kind.present([samples.read(0), samples.read(1)])
    assert VIEWS.picture(batch, 1, facts).shape == (2 * 96, 3 * 96, 3)
    figure = VIEWS.figure(batch, 0, facts)
    assert figure.count("<img") == 5
    assert VIEWS.raw(batch, facts).shape == (2, 5 * 3 * 16 * 16)
    assert VIEWS.in_words(facts)["poses"] == "rotation, floor hue, light hue"


def test_coil_20_is_read(data_folder, tmp_path):
    import tarfile

    with tarfile.open(data_folder("coil20") / "coil20_png.tar") as archive:
        some = [m for m in archive.getmembers() if m.name.startswith(("coil20/obj1__", "coil20/obj2__"))]
        archive.extractall(tmp_path, some, filter="data")
    samples = VIEWS.open(str(tmp_path / "coil20"), reading={"views_drawn": 4, "views_seen": 8})
    assert len(samples) == 18
    np.testing.assert_allclose(np.degrees(samples.read(0)["pose"][:, 0]), np.arange(0, 360, 45), atol=1e-3)


def test_records_are_read_as_they_were_given():
    views = domains()["views"]
    told = views.open("synthetic-turntable")
    records = np.stack([told.read(row) for row in range(4)])
    again = views.open(records)
    assert len(again) == 4 and again.poses.rotation == "quaternion" and again.poses.numbers == 6
    for row in range(4):
        assert np.array_equal(again.read(row), records[row])
    with pytest.raises(UserError, match="image and pose"):
        views.open(np.zeros(3, [("a", "f4")]))
