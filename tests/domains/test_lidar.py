"""LiDAR frames: KITTI's folders with calibration and labels, other scans, simulated ones, pictures."""

import os

import numpy as np
import pytest
import torch
from clouds import pcd, ply

from anyjepa.core.boxes import inside
from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import domains
from anyjepa.domains.lidar_drawing import drawn_frame, figure_of_frame
from anyjepa.domains.lidar_frames import LidarSamples
from anyjepa.domains.lidar_labels import parse_boxes, parse_calibration, parse_kitti_labels
from anyjepa.domains.lidar_placing import Change, Variation, batch_of, turned_boxes, turned_points
from anyjepa.domains.lidar_simulation import SCENES, Simulated, cast
from anyjepa.domains.lidar_sources import open_lidar
from anyjepa.domains.sources import NoSplit

LIDAR = domains()["lidar"]
# looks along x without lenses: 100 pixels a unit of slope, the middle at (200, 100)
CALIBRATION = """P0: 1 0 0 0 0 1 0 0 0 0 1 0
P2: 100 0 200 0 0 100 100 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""
LABEL = "Car 0.10 1 0.5 10 20 30 60 1.5 1.8 4.0 -2.0 1.7 10.0 0.0\n"
LABEL += "DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1 -1 -1 -10\n"


def points(count=50, columns=4, seed=0):
    found = np.random.default_rng(seed).uniform(-1, 1, (count, columns)).astype("<f4")
    found[:, 0] += 8
    return found


@pytest.fixture
def kitti(tmp_path):
    for folder in ("velodyne", "label_2", "calib"):
        (tmp_path / "training" / folder).mkdir(parents=True)
    for number in range(3):
        stem = tmp_path / "training"
        (stem / f"velodyne/{number:06d}.bin").write_bytes(points(seed=number).tobytes())
        (stem / f"label_2/{number:06d}.txt").write_text(
            LABEL if number else LABEL.replace("Car 0", "Cyclist 0")
        )
        (stem / f"calib/{number:06d}.txt").write_text(CALIBRATION)
    (tmp_path / "testing/velodyne").mkdir(parents=True)
    (tmp_path / "testing/velodyne/000000.bin").write_bytes(points(seed=9).tobytes())
    return tmp_path


def test_a_folder_as_of_kitti(kitti):
    samples = LIDAR.open(str(kitti), split="train")
    assert len(samples) == 3 and samples.description == "3 BIN frames"
    assert samples.identity(1) == "velodyne/000001.bin"
    assert samples.classes == ["Car", "Cyclist"]
    assert samples.labels.tolist() == [[0, 1], [1, 0], [1, 0]]
    assert np.array_equal(np.sort(samples.read(2), axis=0), np.sort(points(seed=2), axis=0))
    test = LIDAR.open(str(kitti), split="test")
    assert len(test) == 1 and test.labels is None and not test.marked
    with pytest.raises(UserError, match="label_2"):
        test.objects(0)


def test_a_label_is_in_the_sensors_metres(kitti):
    """2 m to the left and 10 m ahead, its bottom 1.7 m below: the middle is half a height above that."""
    objects = LIDAR.open(str(kitti)).objects(1)
    assert objects.names == ["Car"]
    assert np.allclose(objects.boxes, [[10, 2, -1.7 + 0.75, 4.0, 1.8, 1.5, -np.pi / 2]], atol=1e-6)
    assert objects.truncation.tolist() == [0.1] and objects.occlusion.tolist() == [1]
    assert objects.heights.tolist() == [40]
    # nearest corners are 9.1 m away, 1.7 and 0.2 m below
    rows = objects.calibration.heights(objects.boxes)
    near, far = 10 - 0.9, 10 + 0.9
    assert rows[0] == pytest.approx(100 * 1.7 / near - 100 * 0.2 / far, rel=0.02)


def test_what_the_camera_does_not_see_is_left_out(kitti):
    wide = points()
    wide[:5, 0] = -8.0
    (kitti / "training/velodyne/000000.bin").write_bytes(wide.tobytes())
    assert len(LIDAR.open(str(kitti)).read(0)) == 45
    assert len(LIDAR.open(str(kitti), reading={"camera": False}).read(0)) == 50


def test_neither_labels_nor_boxes_are_read_before_they_are_asked_for(kitti):
    for file in (kitti / "training/label_2").iterdir():
        file.write_text("nonsense")
    samples = open_lidar(str(kitti))
    samples.read(0), samples.fingerprint()
    assert "labels" not in vars(samples)
    assert (samples.labels == -1).all() and len(samples.problems) == 3


def test_plain_boxes_and_axes_of_nuscenes(tmp_path):
    (tmp_path / "lidar").mkdir()
    (tmp_path / "labels").mkdir()
    scan = points(columns=5)
    (tmp_path / "lidar/a.pcd.bin").write_bytes(scan.tobytes())
    (tmp_path / "labels/a.txt").write_text("# x y z l w h angle class\n0 10 -1 4 2 1.5 1.5707963 car\n")
    samples = LIDAR.open(str(tmp_path), reading={"forward": "y"})
    found = samples.read(0)
    assert np.allclose(found[:, 0], scan[:, 1]) and np.allclose(found[:, 1], -scan[:, 0])
    assert np.allclose(samples.objects(0).boxes, [[10, 0, -1, 4, 2, 1.5, 0]], atol=1e-6)
    named = LIDAR.open(str(tmp_path / "lidar/a.pcd.bin"))
    assert named.read(0).shape == (50, 4)


def test_other_formats_and_arrays(tmp_path):
    scan = points()
    (tmp_path / "a.pcd").write_bytes(pcd(scan, "x y z intensity", "binary"))
    (tmp_path / "b.ply").write_bytes(ply(scan[:, :3]))
    np.save(tmp_path / "c.npy", scan)
    samples = LIDAR.open(str(tmp_path))
    assert [samples.identity(n) for n in range(3)] == ["a.pcd", "b.ply", "c.npy"]
    assert np.array_equal(samples.read(0), scan) and np.array_equal(samples.read(2), scan)
    assert np.allclose(samples.read(1)[:, :3], scan[:, :3]) and (samples.read(1)[:, 3] == 0).all()
    assert np.array_equal(LIDAR.open(scan[None]).read(0), scan)
    assert len(LIDAR.open(str(tmp_path / "c.npy"))) == 1
    five = points(columns=6)
    (tmp_path / "d.bin").write_bytes(five.tobytes())
    assert LIDAR.open(str(tmp_path / "d.bin"), reading={"columns": 6}).read(0).shape == (50, 4)


def test_sequences_are_groups(tmp_path):
    for drive in ("00", "01"):
        (tmp_path / f"sequences/{drive}/velodyne").mkdir(parents=True)
        (tmp_path / f"sequences/{drive}/velodyne/0.bin").write_bytes(points().tobytes())
        (tmp_path / f"sequences/{drive}/calib.txt").write_text(CALIBRATION.replace("Tr_velo_to_cam", "Tr"))
    samples = LIDAR.open(str(tmp_path))
    assert samples.groups.tolist() == ["sequences/00/velodyne", "sequences/01/velodyne"]
    assert samples.store.calibration(1) is not None


def test_points_that_never_came_back_are_left_out():
    scan = points()
    scan[0, 0], scan[1, 3], scan[2, :3], scan[3, 1] = np.nan, np.inf, 0, 1e30
    assert len(LIDAR.open(scan[None]).read(0)) == 46
    with pytest.raises(BadSample, match="no finite point"):
        LIDAR.open(np.full((1, 5, 4), np.nan)).read(0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Car 1 2 3", "4 words"),
        (LABEL.replace("4.0", "wide"), "no numbers"),
        (LABEL.replace("4.0", "nan"), "not finite"),
        (LABEL.replace("4.0", "-4.0"), "without length"),
    ],
)
def test_damaged_labels_are_named(text, words):
    with pytest.raises(BadSample, match=words):
        parse_kitti_labels(text, parse_calibration(CALIBRATION, "one"), "one")
    with pytest.raises(BadSample, match="not x y z"):
        parse_boxes("1 2 3", "one")


@pytest.mark.parametrize("change", [("P2", "P9"), ("0 -1 0 0 0 0 -1 0 1 0 0 0", "0 -1 0 0 0 0 -1 0 0 0 0 0")])
def test_damaged_calibration_is_named(change):
    with pytest.raises(BadSample, match="calibration"):
        parse_calibration(CALIBRATION.replace(*change), "one")


@pytest.mark.parametrize(
    "change", [Change(), Change(True), Change(False, True), Change(True, True, 0.7, 1.1)]
)
def test_boxes_move_with_their_points(change):
    boxes = np.array([[5.0, 2, 0, 4, 2, 2, 0.4]], np.float32)
    cloud = np.random.default_rng(0).uniform([2, -1, -2, 0], [8, 5, 2, 1], (500, 4)).astype(np.float32)
    moved = turned_boxes(boxes, change), turned_points(cloud, change)
    held = inside(cloud.astype(float), boxes.astype(float))
    assert 20 < held.sum() < 200
    assert (inside(moved[1].astype(float), moved[0].astype(float)) != held).sum() <= 2
    assert np.array_equal(moved[1][:, 3], cloud[:, 3])


def test_variation_is_each_frames_own():
    found = Variation((0.5, 0.0), 45.0, (0.9, 1.1)).drawn(np.array([[0.2] * 16, [0.8] * 16]))
    assert [(c.across, c.along) for c in found] == [(True, False), (False, False)]
    assert [c.angle for c in found] == pytest.approx([-0.6 * np.pi / 4, 0.6 * np.pi / 4])
    assert [c.scale for c in found] == pytest.approx([0.94, 1.06])


def test_batches_hold_what_is_in_range_and_of_too_many_some():
    scan = points(100)
    batch = batch_of([scan, scan[:10]], (7.0, -1.0, -1.0), (8.0, 1.0, 1.0), 20, np.array([0.3, 0.3]))
    assert batch["points"].shape == (2, 20, 4)
    assert batch["present"].sum(1).tolist() == [20, (scan[:10, 0] < 8).sum()]
    assert (batch["points"][batch["present"]][:, 0] < 8).all()
    assert (batch["points"][~batch["present"]] == 0).all()
    again = batch_of([scan], (7.0, -1.0, -1.0), (8.0, 1.0, 1.0), 20, np.array([0.3]))
    assert torch.equal(again["points"][0], batch["points"][0])
    even = batch_of([scan], (7.0, -1.0, -1.0), (8.0, 1.0, 1.0), 20)
    assert not torch.equal(even["points"], again["points"])


def test_rays_meet_the_nearest_wall_where_it_stands():
    walls = np.array([[10.0, 0, 0, 2, 8, 8, 0], [20, 0, 0, 2, 40, 8, 0], [0, 9, 0, 2, 2, 2, np.pi / 4]])
    distance, which = cast(walls, np.array([0.0, 0.1]), np.array([0.0, np.pi / 4, np.pi / 2, np.pi]))
    assert which.tolist() == [[0, 1, 2, -1], [0, 1, 2, -1]]
    assert distance[0, :3] == pytest.approx([9, 19 * 2**0.5, 9 - 2**0.5], rel=1e-5)
    assert distance[1, 0] == pytest.approx(9 / np.cos(0.1), rel=1e-5)
    assert np.isinf(distance[:, 3]).all()


def test_simulated_frames_are_always_the_same_with_objects_where_points_are():
    samples, again = LIDAR.open("synthetic-lidar"), LIDAR.open("synthetic-lidar")
    assert np.array_equal(samples.read(4), again.read(4))
    assert not np.array_equal(LIDAR.open("synthetic-lidar", split="test").read(4), samples.read(4))
    assert samples.classes == SCENES and len(samples) == 240
    for index in range(5):
        frame, objects = samples.read(index), samples.objects(index)
        grown = objects.boxes + np.array([0, 0, 0, 0.2, 0.2, 0.2, 0])
        assert (inside(frame.astype(float), grown).sum(axis=1) >= 5).all()
        assert np.median(frame[:, 2]) == pytest.approx(-1.73, abs=0.3) or objects.names
    with pytest.raises(NoSplit):
        LIDAR.open("synthetic-lidar", split="night")
    with pytest.raises(UserError, match="synthetic-lidar"):
        LIDAR.open("synthetic-ladar")


def test_objects_as_labels_of_simulated_frames(monkeypatch):
    monkeypatch.setattr(Simulated, "__len__", lambda _: 5)
    samples = LIDAR.open("synthetic-lidar", labels="objects")
    assert samples.classes == ["Car", "Pedestrian", "Truck"] and samples.labels.shape == (5, 3)
    with pytest.raises(UserError, match="--labels objects"):
        LIDAR.open(points()[None], labels="scene")


def test_what_is_measured_and_what_is_doubted():
    scan = np.repeat(points(400)[None], 2, axis=0)
    facts = LIDAR.measure(LIDAR.open(scan, reading={"range": [0, 0, 1, 1], "cells": [4, 4]}))
    assert facts["points"] == 400 and facts["range"] == [0, 0, 1, 1]
    assert facts["least"] == pytest.approx([7, -1, -1], abs=0.05)
    assert LIDAR.doubts(LIDAR.open(scan), facts) == []
    scan[..., 2:] = [0.5, 0]
    flat = LIDAR.open(scan[:, :50])
    assert len(LIDAR.doubts(flat, LIDAR.measure(flat))) == 3
    assert "8.0" in LIDAR.in_words(facts)["range"] or "9.0" in LIDAR.in_words(facts)["range"]


def test_the_raw_description_counts_points_in_their_cells():
    facts = {"least": [0.0, 0.0, 0.0], "most": [16.0, 16.0, 32.0], "intensity": 1.0}
    place = torch.tensor([[3.5, 5.5, 8.5, 0.5], [3.5, 5.5, 16.5, 0.7], [0.0, 0.0, 0.0, 0.0]])
    batch = {"points": place[None], "present": torch.tensor([[True, True, False]])}
    found = LIDAR.raw(batch, facts)[0]
    assert found.shape == (16 * 16 * 2 + 32 + 2,)
    assert found[5 * 16 + 3] == pytest.approx(np.log(3)) and found[: 16 * 16].count_nonzero() == 1
    assert found[256 + 5 * 16 + 3] == pytest.approx(16.5 / 32)
    assert found[512:544].nonzero()[:, 0].tolist() == [8, 16]
    assert found[-2:].tolist() == pytest.approx([0.6, 0.1], abs=1e-5)


def test_a_frame_is_drawn_from_above_with_forward_up_and_left_on_the_left():
    facts = {"range": [0.0, -10.0, 20.0, 10.0], "cells": [2, 2]}
    place = np.array([[19.0, 9.0, 0.0, 0.0], [5.0, -5.0, 2.0, 0.0]], np.float32)
    none = np.zeros((0, 7))
    picture = drawn_frame(place, none, facts)
    bright = np.argwhere((picture != picture[120, 120]).any(axis=2))
    assert len(bright) == 8 and (bright[:4] < 20).all() and (bright[4:] > 120).all()
    colours = torch.full((4, 3), torch.nan)
    colours[2] = torch.tensor(
        [1.0, 0.0, 0.0]
    )  # the second row is the left one, its first column the near one
    shaded = drawn_frame(place, none, facts, colours)
    changed = np.argwhere((shaded != picture).any(axis=2))
    assert changed[:, 0].min() >= 119 and changed[:, 1].max() <= 120
    figure = figure_of_frame(place, np.array([[10.0, 0, 0, 4, 2, 2, 0]]), facts, colours)
    assert figure.count("<polyline") == 1 and "1 boxes" in figure and "<script" not in figure


def test_boxes_are_for_pictures_alone(kitti):
    samples = LIDAR.open(str(kitti))
    batch = batch_of([samples.read(0)], (0.0, -5.0, -5.0), (20.0, 5.0, 5.0), 64)
    found = LIDAR.annotated(batch, samples, np.array([0]))
    assert "boxes" not in batch and found["boxes"].isfinite().all(dim=2).sum() == 1
    assert LIDAR.annotated(batch, LIDAR.open(points()[None]), np.array([0])) is batch


def test_real_frames(data_folder):
    """Labels say how high boxes are in the image: so are ours, in the sensor's metres and back."""
    samples = LIDAR.open(str(data_folder("kitti_object3")))
    assert isinstance(samples, LidarSamples)
    assert samples.classes == ["Car", "Cyclist", "Misc", "Pedestrian", "Truck"]
    for index in range(3):
        objects, frame = samples.objects(index), samples.read(index)
        assert 15_000 < len(frame) < 25_000
        assert np.allclose(objects.calibration.heights(objects.boxes), objects.heights, rtol=0.02, atol=0.5)
        assert (inside(frame.astype(float), objects.boxes.astype(float)).sum(axis=1) >= 9).all()
    sequence = LIDAR.open(str(data_folder("kitti_scan_sequence")))
    assert len(sequence) == 4 and sequence.labels is None and sequence.read(0).shape == (124_668, 4)


def test_fingerprints_know_what_decides_the_frames(kitti):
    first = LIDAR.open(str(kitti)).fingerprint()
    assert first == LIDAR.open(str(kitti)).fingerprint()
    assert first != LIDAR.open(str(kitti), reading={"camera": False}).fingerprint()
    os.truncate(kitti / "training/velodyne/000000.bin", 160)
    assert first != LIDAR.open(str(kitti)).fingerprint()
