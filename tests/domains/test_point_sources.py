"""Folders, tables, lists, voxels: what is found where, with which labels and splits."""

import pickle

import numpy as np
import pytest
from clouds import CUBE_FACES, cloud, cube, lines, off, ordered, ply, write
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Samples, domains, point_samples
from anyjepa.domains.point_samples import cleaned
from anyjepa.domains.point_sources import open_points
from anyjepa.domains.sources import NoSplit

h5py = pytest.importorskip("h5py", reason="needs h5py")


def folder(root, places, seed=0):
    """Files by their relative paths, each a cloud of 20 points."""
    for number, place in enumerate(places):
        write(root / place, lines(cloud(20, seed=seed + number)))
    return str(root)


def test_class_folders_are_labels(tmp_path):
    samples = open_points(folder(tmp_path, ["b/0.xyz", "a/1.xyz", "b/2.xyz"]))
    assert isinstance(samples, Samples)
    assert samples.classes == ["a", "b"]
    assert samples.labels.tolist() == [0, 1, 1]
    assert samples.identity(0) == "a/1.xyz"
    assert samples.description == "3 XYZ clouds in 2 class folders of 20 points"
    assert np.array_equal(samples.read(0), ordered(cloud(20, seed=1)))
    again = pickle.loads(pickle.dumps(samples))
    assert np.array_equal(again.read(2), samples.read(2))


@pytest.mark.parametrize("layout", ["{split}/{name}/{i}.off", "{name}/{split}/{name}_{i}.off"])
def test_splits_lie_above_the_classes_or_within_each(tmp_path, layout):
    """ModelNet's layout is the second."""
    for i, (name, split) in enumerate(
        [("bed", "train"), ("bed", "test"), ("sofa", "train"), ("sofa", "train")]
    ):
        write(tmp_path / layout.format(split=split, name=name, i=i), off(cube() * (i + 1), CUBE_FACES, "OFF"))
    train, test = (open_points(str(tmp_path), split=split, on_surface=64) for split in (None, "test"))
    assert (len(train), len(test)) == (3, 1)
    assert train.classes == ["bed", "sofa"]
    assert train.labels.tolist() == [0, 1, 1]
    assert train.read(0).shape == (64, 3)
    with pytest.raises(NoSplit):
        open_points(str(tmp_path), split="other")


def test_text_beside_scans_is_not_a_scan(tmp_path):
    scan = cloud(20, 4, dtype=np.float32)
    write(tmp_path / "velodyne/0.bin", scan.tobytes())
    write(tmp_path / "calib/0.txt", "P0: 1 2 3\n")
    samples = open_points(str(tmp_path), channels=1)
    assert len(samples) == 1
    assert samples.read(0).shape == (20, 4)


def test_hdf5_files_of_modelnet40(tmp_path):
    clouds, labels = (
        cloud(6 * 30).reshape(6, 30, 3).astype(np.float32),
        np.array([[1], [0], [1], [2], [0], [2]]),
    )
    for name, rows in [
        ("ply_data_train0", slice(0, 2)),
        ("ply_data_train1", slice(2, 4)),
        ("ply_data_test0", slice(4, 6)),
    ]:
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["data"], file["label"] = clouds[rows], labels[rows]
    write(tmp_path / "shape_names.txt", "airplane\nbathtub\nbed\n")
    train, test = open_points(str(tmp_path)), open_points(str(tmp_path), split="test")
    assert (len(train), len(test)) == (4, 2)
    assert [train.classes[label] for label in train.labels] == ["bathtub", "airplane", "bathtub", "bed"]
    assert np.array_equal(train.read(3), ordered(clouds[3]))
    one = open_points(str(tmp_path / "ply_data_test0.h5"), split="test")
    assert np.array_equal(one.read(1), ordered(clouds[5]))
    listed = write(tmp_path / "train_files.txt", "ply_data_train0.h5\ndata/hdf5/ply_data_train1.h5\n")
    assert np.array_equal(open_points(str(listed)).read(3), train.read(3))


def test_tables_too_large_for_memory_are_read_as_asked_for(tmp_path, monkeypatch):
    clouds = cloud(5 * 30).reshape(5, 30, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = clouds[:3]
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = clouds[3:]
    np.save(tmp_path / "c.npy", clouds)
    held = {name: open_points(str(tmp_path / name)) for name in ("", "c.npy")}
    monkeypatch.setattr(point_samples, "RESIDENT_BYTES", 10)
    for name, whole in held.items():
        samples = open_points(str(tmp_path / name))
        assert samples.array is None and whole.array is not None
        assert all(np.array_equal(samples.read(i), whole.read(i)) for i in range(5))
        assert samples.description == whole.description


def test_npy_files_one_a_cloud_and_sets_and_lists(tmp_path):
    for number in range(3):
        (tmp_path / "all").mkdir(exist_ok=True)
        np.save(tmp_path / f"all/02691156-{number}.npy", cloud(20, seed=number))
    assert len(open_points(str(tmp_path / "all"))) == 3
    listed = write(tmp_path / "all/train.txt", "02691156-0.npy\n02691156-2.npy\n")
    samples = open_points(str(listed))
    assert [samples.identity(i) for i in range(2)] == ["02691156-0.npy", "02691156-2.npy"]
    write(listed, "02691156-0.npy\nlost.npy\n")
    with pytest.raises(UserError, match=r"names lost\.npy"):
        open_points(str(listed))


def test_npz_sets_with_splits_and_labels(tmp_path):
    clouds = cloud(4 * 20).reshape(4, 20, 3)
    np.savez(
        tmp_path / "a.npz",
        x_train=clouds[:3],
        y_train=["cup", "jug", "cup"],
        x_test=clouds[3:],
        y_test=["jug"],
    )
    train, test = (open_points(str(tmp_path / "a.npz"), split=split) for split in (None, "test"))
    assert train.classes == ["cup", "jug"] and train.labels.tolist() == [0, 1, 0]
    assert np.array_equal(test.read(0), ordered(clouds[3]))


@pytest.mark.parametrize("packed", [True, False])
def test_occupied_voxels_become_points_in_their_cells(tmp_path, packed):
    grids = np.random.default_rng(0).random((5, 8, 8, 8)) < 0.2
    table = {"voxels": grids.astype(np.uint8)}
    if packed:
        table = {"voxels_packed": np.packbits(grids.reshape(5, 1, -1), axis=2).repeat(2, axis=1)}
    table |= {"label": [0, 1, 0, 1, 1], "class_names": ["bed", "sofa"], "is_test": [0, 0, 1, 0, 1]}
    np.savez(tmp_path / "v.npz", **table)
    train, test = (open_points(str(tmp_path / "v.npz"), split=split) for split in (None, "test"))
    assert [train.identity(i) for i in range(3)] == ["0", "1", "3"]
    assert [test.classes[label] for label in test.labels] == ["bed", "sofa"]
    places = train.store.decode(1)
    assert np.array_equal(np.rint(places), np.argwhere(grids[1])), "moved out of their cell"
    assert np.array_equal(places, train.store.decode(1))
    assert "voxel grids of 8 x 8 x 8" in train.description
    assert np.array_equal(open_points(str(tmp_path)).read(1), train.read(1)), "the folder of the one file"


def test_arrays_in_memory():
    clouds = cloud(60, dtype=np.float32).reshape(3, 20, 3)
    assert np.array_equal(open_points(clouds).read(2), ordered(clouds[2]))
    ragged = np.empty(2, object)
    ragged[:] = [cloud(10), cloud(20)]
    assert [len(open_points(ragged).read(i)) for i in range(2)] == [10, 20]
    assert len(open_points(clouds[0])) == 1


def test_labels_come_from_a_file_too(tmp_path):
    source = folder(tmp_path / "a", ["0.xyz", "1.xyz", "2.xyz"])
    table = write(tmp_path / "labels.csv", "id,label\n0,cup\n2,jug\n")
    samples = open_points(source, labels=str(table))
    assert samples.labels.tolist() == [0, -1, 1]


def test_damaged_files_are_named_and_the_rest_is_read(tmp_path):
    folder(tmp_path, [f"{i}.ply" for i in range(3)])
    for number in range(3, 6):
        write(tmp_path / f"{number}.ply", ply(cloud(20, seed=number)))
    samples = open_points(str(tmp_path))
    assert [problem.identity for problem in samples.problems] == ["0.ply", "1.ply", "2.ply"]
    assert len(samples) == 3
    assert np.allclose(samples.read(0), ordered(cloud(20, seed=3)), atol=1e-5)


def test_points_that_are_not_finite_or_met_before_are_dropped_and_counted(tmp_path):
    table = cloud(20)
    bad = np.concatenate([table, table[:4], [[np.nan, 0, 0], [np.inf, 1, 1]]])
    write(tmp_path / "a.xyz", lines(bad))
    samples = open_points(str(tmp_path))
    assert samples.dropped == {"not_finite": 2, "duplicates": 4}
    facts = domains()["points"].measure(samples)
    assert (facts["dropped_not_finite"], facts["dropped_duplicates"]) == (2, 4)
    assert np.array_equal(samples.read(0), ordered(table))


def test_large_offsets_are_taken_off_before_precision_is_lost():
    places = np.round(cloud(50), 3)
    far = cleaned(places + np.array([5e5, 5.4e6, 300.0]), 0, "a").points
    assert np.abs(far - ordered(places)).max() < 1e-6


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(0, 2))
def test_a_cleaned_cloud_depends_on_no_order(seed, count, channels):
    random = np.random.default_rng(seed)
    # few distinct places, so that duplicates are met
    values = random.integers(0, 3, (count, 3 + channels)).astype(float)
    first, second = (cleaned(v, channels, "a") for v in (values, values[random.permutation(count)]))
    assert np.array_equal(first.points, second.points)
    assert len(np.unique(first.points[:, :3], axis=0)) == len(first.points) == count - first.duplicates
    assert np.abs(first.points[:, :3].mean(0)).max() < 1e-5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((4, 3), np.nan), "no finite point"),
        (np.empty((0, 3)), "no points"),
        (np.zeros((4, 2)), "has 2 numbers a point"),
    ],
)
def test_clouds_that_are_none_are_refused(values, words):
    with pytest.raises(BadSample, match=words):
        cleaned(values, 0, "a")


def test_asking_for_channels_that_are_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="--channels 2 are asked for"):
        open_points(folder(tmp_path, ["0.xyz", "1.xyz"]), channels=2)


def test_fingerprints_follow_the_content(tmp_path):
    source = folder(tmp_path, ["0.xyz", "1.xyz"])
    first = open_points(source).fingerprint()
    assert open_points(source).fingerprint() == first
    write(tmp_path / "1.xyz", lines(cloud(20, seed=9)))
    assert open_points(source).fingerprint() != first


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("synthetic-shape", "Did you mean 'synthetic-shapes'"),
        ("", "the source is empty"),
        ("nowhere", "nowhere does not exist"),
    ],
)
def test_sources_that_are_not_there_are_refused(source, words):
    with pytest.raises(UserError, match=words):
        open_points(source)


def test_files_that_hold_no_points_are_refused(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros(5))
    np.savez(tmp_path / "odd.npz", a=np.zeros(3), b=np.zeros(3))
    write(tmp_path / "a.doc", b"")
    write(tmp_path / "a.h5", b"nothing")
    (tmp_path / "empty").mkdir()
    for name, words in [
        ("flat.npy", "give clouds as"),
        ("odd.npz", "call the clouds data"),
        ("a.doc", "not a file of points"),
        ("a.h5", "not a HDF5 file"),
        ("empty", "holds no points"),
    ]:
        with pytest.raises(UserError, match=words):
            open_points(str(tmp_path / name))
    with pytest.raises(UserError, match="give numbers"):
        open_points(np.array([["a", "b", "c"]]))
    with pytest.raises(NoSplit):
        open_points(folder(tmp_path / "flat", ["0.xyz"]), split="test")


def test_simulated_shapes_are_always_the_same_and_differ_between_splits():
    train, again, test = (open_points("synthetic-shapes", split=s) for s in (None, "train", "test"))
    assert train.fingerprint() == again.fingerprint() != test.fingerprint()
    assert np.bincount(train.labels).tolist() == [80] * 10
    assert np.bincount(test.labels).tolist() == [30] * 10
    assert "simulated" in train.description
    with pytest.raises(NoSplit):
        open_points("synthetic-shapes", split="other")


def test_simulated_solids_are_what_they_are_called():
    from anyjepa.domains.point_shapes import SHAPES

    random = np.random.default_rng(0)
    both = {name: shape(random, 4000) for name, shape in SHAPES.items()}
    made = {name: points for name, (points, _) in both.items()}
    assert all(len(parts) == len(made[name]) for name, (_, parts) in both.items())
    assert all(len(points) > 3500 and np.isfinite(points).all() for points in made.values())
    assert np.allclose(np.linalg.norm(made["sphere"], axis=1), 1)
    assert np.allclose(np.abs(made["box"]).max(axis=1), 1)
    radius = np.linalg.norm(made["cylinder"][:, [0, 2]], axis=1)
    side = np.isclose(radius, 0.6)
    assert side.mean() == pytest.approx(2 * 0.6 * 2 / (2 * 0.6 * 2 + 2 * 0.6**2), abs=0.03), "not even"
    cone = np.linalg.norm(made["cone"][:, [0, 2]], axis=1)
    assert (np.isclose(cone, 0.4 * (1 - made["cone"][:, 1])) | np.isclose(made["cone"][:, 1], -1)).all()
    assert np.linalg.norm(made["plate with a hole"][:, [0, 2]], axis=1).min() > 0.35


def test_real_voxels_and_scans(data_folder):
    voxels = data_folder("modelnet10_voxels")
    train, test = open_points(str(voxels)), open_points(str(voxels / "modelnet10_voxels.npz"), split="test")
    assert (len(train), len(test)) == (727, 181)
    assert train.classes[0] == "bathtub" and len(train.classes) == 10
    scans = open_points(str(data_folder("kitti_scan_sequence")), channels=1)
    assert len(scans) == 4 and scans.read(0).shape[1] == 4
    assert scans.read(0)[:, 3].min() >= 0 and scans.read(0)[:, 3].max() <= 1
    assert len(open_points(str(data_folder("kitti_object3")))) == 3
