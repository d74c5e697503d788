"""Damaged LiDAR frames, calibration and labels: left out or refused in words, never worse."""

import pytest
from damaged import refuses, withstands
from test_lidar import CALIBRATION, LABEL, points

FEW = pytest.mark.parametrize("examples", [30, pytest.param(400, marks=pytest.mark.slow)])


@FEW
def test_a_damaged_folder_of_kitti(tmp_path, examples):
    parts = {
        "training/velodyne/000000.bin": points().tobytes(), "training/calib/000000.txt": CALIBRATION.encode(),
        "training/label_2/000000.txt": LABEL.encode(),
    }  # fmt: skip
    withstands("lidar", tmp_path, parts, "{}", examples=examples, random=examples > 100, labels="objects")


@FEW
def test_a_damaged_real_frame(tmp_path, data_folder, examples):
    root = data_folder("kitti_object3") / "training"
    names = ("velodyne/000001.bin", "calib/000001.txt", "label_2/000001.txt")
    parts = {f"training/{name}": (root / name).read_bytes()[:160_000] for name in names}
    withstands("lidar", tmp_path, parts, "{}", examples=examples, random=examples > 100, labels="objects")


def test_a_cut_off_scan_is_named(tmp_path):
    assert "cut off" in refuses("lidar", tmp_path, {"a.bin": points().tobytes()[:-3]})
