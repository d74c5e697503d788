"""Boxes around objects of a LiDAR frame, and calibration: KITTI's text files, and plain ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from anyjepa.core.boxes import corners
from anyjepa.core.errors import BadSample

__all__ = ["Calibration", "Objects", "parse_boxes", "parse_calibration", "parse_kitti_labels"]

IMAGE = (1242, 375)  # width and height in pixels of KITTI's images, where none lies beside the scan
FARTHEST = 1e4  # metres, degrees of an angle far beyond: what lies further is damage


@dataclass(frozen=True)
class Calibration:
    """From the sensor's metres to a camera's pixels.

    to_camera: (4, 4) from x forward, y left, z up to x right, y down, z forward. projection: (3, 4) from
    there to pixels. image: its width and height in pixels.
    """

    to_camera: np.ndarray
    projection: np.ndarray
    image: tuple[int, int] = IMAGE

    def seen(self, points: Float[np.ndarray, "points columns"]) -> Bool[np.ndarray, " points"]:
        """Which points fall into the image."""
        pixels, depth = self.pixels(points[:, :3])
        inside = (pixels >= 0) & (pixels < np.array(self.image))
        return inside.all(axis=1) & (depth > 0)

    def pixels(self, places: Float[np.ndarray, "places 3"]) -> tuple[np.ndarray, np.ndarray]:
        """(places, 2) columns and rows in the image, and (places,) metres before the camera."""
        whole = np.concatenate([places.astype(np.float64), np.ones((len(places), 1))], axis=1)
        found = whole @ self.to_camera.T @ self.projection.T
        depth = found[:, 2]
        return found[:, :2] / np.where(np.abs(depth) < 1e-6, 1e-6, depth)[:, None], depth

    def heights(self, boxes: Float[np.ndarray, "boxes 7"]) -> Float[np.ndarray, " boxes"]:
        """How many rows of the image each box covers; 0 behind the camera."""
        if not len(boxes):
            return np.zeros(0)
        flat = corners(boxes)
        ends = [
            np.concatenate(
                [flat, np.repeat((boxes[:, 2] + side * boxes[:, 5] / 2)[:, None, None], 4, axis=1)], axis=2
            )
            for side in (-1, 1)
        ]
        pixels, depth = self.pixels(np.concatenate(ends, axis=1).reshape(-1, 3))
        rows = np.clip(pixels[:, 1], 0, self.image[1]).reshape(len(boxes), 8)
        whole = (depth.reshape(len(boxes), 8) > 0).all(axis=1)
        return np.where(whole, rows.max(axis=1) - rows.min(axis=1), 0.0)


@dataclass(frozen=True)
class Objects:
    """What was marked in a frame.

    boxes: (n, 7) float32 as of `anyjepa.core.boxes`, in metres about the sensor. names: of their classes.
    truncation: (n,) share outside the image. occlusion: (n,) 0 seen whole to 3 unknown. heights: (n,) rows of
    the image. The three are NaN where nobody said. calibration: of the camera, where there is one.
    """

    boxes: Float[np.ndarray, "objects 7"]
    names: list[str]
    truncation: np.ndarray
    occlusion: np.ndarray
    heights: np.ndarray
    calibration: Calibration | None = None

    @classmethod
    def plain(cls, boxes: np.ndarray, names: Sequence[str]) -> Objects:
        """Of boxes of which no camera says anything."""
        unknown = np.full(len(names), np.nan)
        boxes = np.asarray(boxes, np.float32).reshape(-1, 7)
        return cls(boxes, list(names), unknown, unknown, unknown)


def parse_calibration(text: str, identity: str, image: tuple[int, int] = IMAGE) -> Calibration:
    """KITTI's calibration of an object frame, or of an odometry sequence (``Tr``). Raises BadSample."""
    found: dict[str, np.ndarray] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        try:
            numbers = np.array(rest.split(), dtype=np.float64)
        except ValueError:
            continue
        if len(numbers) in (9, 12) and np.isfinite(numbers).all() and (np.abs(numbers) < 1e9).all():
            found[name.strip()] = numbers
    place = found.get("Tr_velo_to_cam", found.get("Tr"))
    projection, turn = found.get("P2"), found.get("R0_rect", np.eye(3).ravel())
    if place is None or projection is None or len(place) != 12 or len(projection) != 12 or len(turn) != 9:
        raise BadSample(identity, "has calibration without P2 or Tr_velo_to_cam")
    rectify, to_camera = np.eye(4), np.eye(4)
    rectify[:3, :3], to_camera[:3] = turn.reshape(3, 3), place.reshape(3, 4)
    whole = rectify @ to_camera
    if abs(np.linalg.det(whole[:3, :3])) < 1e-3:
        raise BadSample(identity, "has calibration that maps space onto a plane")
    return Calibration(whole, projection.reshape(3, 4), image)


def parse_kitti_labels(text: str, calibration: Calibration, identity: str) -> Objects:
    """KITTI's labels: a line an object; areas that say DontCare are left out. Raises BadSample.

    A label's place is the middle of the box's bottom in the camera's metres; its angle is about the camera's
    downward axis, so that the sensor's is minus it, less a quarter turn.
    """
    rows, names = [], []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] == "DontCare":
            continue
        if len(words) not in (15, 16):
            raise BadSample(identity, f"has a label of {len(words)} words, not 15")
        names.append(words[0])
        rows.append(_numbers(words[1:15], identity))
    table = np.array(rows, np.float64).reshape(-1, 14)
    height, width, length = table[:, 7:10].T
    middle = table[:, 10:13] - np.stack([0 * height, height / 2, 0 * height], axis=1)
    ones = np.ones((len(table), 1))
    places = np.concatenate([middle, ones], axis=1) @ np.linalg.inv(calibration.to_camera).T
    angle = _turned(-table[:, 13] - np.pi / 2)
    boxes = np.stack([*places[:, :3].T, length, width, height, angle], axis=1).astype(np.float32)
    return Objects(
        _sized(boxes, identity), names, table[:, 0], table[:, 1], table[:, 6] - table[:, 4], calibration
    )


def parse_boxes(text: str, identity: str) -> Objects:
    """Plain labels in the sensor's metres, a line an object: x y z length width height angle class.

    Raises BadSample.
    """
    rows, names = [], []
    for line in re.sub(r"#[^\n]*", "", text).splitlines():
        words = re.split(r"[\s,]+", line.strip())
        if words == [""]:
            continue
        if len(words) != 8:
            raise BadSample(identity, f"has a label of {len(words)} words, not x y z l w h angle class")
        rows.append(_numbers(words[:7], identity))
        names.append(words[7])
    boxes = np.array(rows, np.float32).reshape(-1, 7)
    boxes[:, 6] = _turned(boxes[:, 6])
    return Objects.plain(_sized(boxes, identity), names)


def _numbers(words: Sequence[str], identity: str) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise BadSample(identity, f"has a label of which {' '.join(words)[:60]!r} are no numbers") from None
    if not all(abs(value) < FARTHEST for value in values):
        raise BadSample(identity, "has a label with a number that is not finite or far too large")
    return values


def _sized(boxes: np.ndarray, identity: str) -> np.ndarray:
    if (boxes[:, 3:6] <= 0).any():
        raise BadSample(identity, "has a box without length, width or height")
    return boxes


def _turned(angle: np.ndarray) -> np.ndarray:
    """The same angles between minus and plus half a turn."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
