"""Detection in LiDAR frames: what counts for KITTI, and the whole probe on a handful of frames."""

import dataclasses

import numpy as np
import pytest

import anyjepa
from anyjepa.core.average_precision import average_precision
from anyjepa.core.errors import UserError
from anyjepa.domains.lidar_head import Detection
from anyjepa.domains.lidar_labels import Calibration, Objects
from anyjepa.domains.lidar_simulation import Simulated
from anyjepa.engine.train import Settings
from anyjepa.evaluation import detection
from anyjepa.evaluation.detection import frame_matches
from anyjepa.evaluation.finetuning import FineTuning
from anyjepa.recipes import recipe

RECIPE = recipe("ad-l-jepa").preset("tiny")
CAMERA = Calibration(
    np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]),
    np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]]),
)
BOXES = np.array(
    [[10.0, 0, 0, 4, 2, 1.5, 0], [20, 5, 0, 4, 2, 1.5, 0], [30, -5, 0, 4, 2, 1.5, 0]], np.float32
)


def marked(
    names=("Car", "Car", "Car"), heights=(50.0, 50, 50), occlusion=(0.0, 0, 0), truncation=(0.0, 0, 0)
):
    return Objects(
        BOXES, list(names), np.array(truncation), np.array(occlusion), np.array(heights), CAMERA
    )  # fmt: skip


def said(boxes=BOXES, scores=(0.9, 0.8, 0.7), number=0):
    return Detection(boxes.astype(np.float64), np.array(scores), np.full(len(boxes), number))


def test_all_found():
    one = frame_matches(said(), 0, marked(), "Car", 0.7, RECIPE)
    assert (one.truths, one.right[-1], one.wrong[-1]) == (3, 3, 0)
    assert average_precision([one] * 30) == 1


@pytest.mark.parametrize(
    ("objects", "difficulty", "truths"),
    [
        (marked(heights=(50, 30, 20)), "easy", 1),
        (marked(heights=(50, 30, 20)), "moderate", 2),
        (marked(heights=(50, 25, 24)), "hard", 1),
        (marked(occlusion=(0, 1, 2)), "easy", 1),
        (marked(occlusion=(0, 1, 2)), "moderate", 2),
        (marked(occlusion=(0, 2, 3)), "hard", 2),
        (marked(truncation=(0.1, 0.3, 0.4)), "easy", 1),
        (marked(truncation=(0.1, 0.3, 0.4)), "moderate", 2),
        (marked(("Car", "Van", "Truck")), "moderate", 1),
    ],
)
def test_what_is_hard_to_see_and_neighbouring_classes_are_ignored(objects, difficulty, truths):
    one = frame_matches(said(), 0, objects, "Car", 0.7, RECIPE, difficulty=difficulty)
    assert one.truths == truths and one.right[-1] == truths
    # what hits an object of a class that is no neighbour is a false alarm
    assert one.wrong[-1] == int("Truck" in objects.names)


def test_detections_that_are_small_in_the_image_are_no_false_alarms():
    """At 60 m a height of 1.5 m is 18 rows, at 35 m some 32."""
    far, near = BOXES[:1].copy(), BOXES[:1].copy()
    far[0, :2], near[0, :2] = (60, 9), (35, 9)
    for box, wrong in ((far, 0), (near, 1)):
        assert frame_matches(said(box, [0.9]), 0, marked(), "Car", 0.7, RECIPE).wrong[-1] == wrong


def test_objects_out_of_the_range_need_not_be_found():
    short = dataclasses.replace(RECIPE, high=(24.0, 20.0, 3.0))
    one = frame_matches(said(), 0, marked(), "Car", 0.7, short)
    assert (one.truths, one.right[-1], one.wrong[-1]) == (2, 2, 0)


def test_where_nobody_says_how_objects_are_seen_all_count():
    plain = Objects.plain(BOXES, ["Car"] * 3)
    raised = BOXES + np.array([0, 0, 0.5, 0, 0, 0, 0])
    assert frame_matches(said(raised), 0, plain, "Car", 0.7, RECIPE).right[-1] == 0
    assert frame_matches(said(raised), 0, plain, "Car", 0.7, RECIPE, solid=False).right[-1] == 3
    assert frame_matches(said(raised), 0, plain, "Car", 0.4, RECIPE).right[-1] == 3
    assert frame_matches(said(number=1), 0, plain, "Car", 0.7, RECIPE).right[-1] == 0


def test_a_detector_is_trained_from_the_run_from_scratch_and_from_the_raw_map(tmp_path, monkeypatch):
    monkeypatch.setattr(Simulated, "__len__", lambda _: 10)
    monkeypatch.setattr(detection, "FEWEST_STEPS", 2)
    monkeypatch.setattr(detection, "RESAMPLES", 5)
    fields = {"batch_size": 4, "widths": (8, 8), "voxel": (1.0, 1.0, 6.0), "points": 2048}
    anyjepa.train(
        "ad-l-jepa", out=tmp_path / "run", settings=Settings(steps=2, quiet=True, workers=0), **fields
    )
    tuning = FineTuning(epochs=1.0, tune_batch_size=4)
    result = anyjepa.evaluate(
        tmp_path / "run", probe="detection", labels_fraction=0.5, draws=2, tuning=tuning
    )
    assert result["metric"] == "ap_3d" and result["train"] == 5 and result["test"] == 10
    for kind in ("value", "untrained", "raw"):
        assert 0 <= result[kind] <= 1
    assert len(result["draws"]) == 2
    assert set(result["metrics"]) == {"ap_bev", "ap_3d_loose", "ap_3d_11"}
    frames = np.random.default_rng(0).uniform([0, -20, -2, 0], [40, 20, 1, 1], (6, 500, 4))
    np.save(tmp_path / "frames.npy", frames)
    with pytest.raises(UserError, match="label_2"):
        anyjepa.evaluate(tmp_path / "run", str(tmp_path / "frames.npy"), probe="detection")
