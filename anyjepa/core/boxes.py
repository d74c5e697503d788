"""Boxes that stand upright in space, turned about the vertical: corners, overlaps, points inside.

A box is seven numbers: the middle x, y, z, then length along its own forward axis, width and height, all in
metres, and the angle from x to that axis about the vertical in radians.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["corners", "inside", "intersections", "overlaps"]

Boxes = Float[np.ndarray, "boxes 7"]
First = Float[np.ndarray, "first 7"]
Second = Float[np.ndarray, "second 7"]
Pairs = Float[np.ndarray, "first second"]

EDGE = 1e-9  # metres by which a point on an edge may lie outside


def corners(boxes: Boxes) -> Float[np.ndarray, "boxes 4 2"]:
    """Corners seen from above, x and y, counter-clockwise."""
    x, y, _, length, width, _, angle = boxes.T
    along = np.stack([length, -length, -length, length], axis=1) / 2
    across = np.stack([width, width, -width, -width], axis=1) / 2
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return np.stack(
        [x[:, None] + cosine * along - sine * across, y[:, None] + sine * along + cosine * across], axis=2
    )


def inside(points: Float[np.ndarray, "points columns"], boxes: Boxes) -> Bool[np.ndarray, "boxes points"]:
    """Which points (x, y, z and more) lie in each box."""
    apart = points[None, :, :3] - boxes[:, None, :3]
    cosine, sine = np.cos(boxes[:, 6:]), np.sin(boxes[:, 6:])
    along = cosine * apart[..., 0] + sine * apart[..., 1]
    across = cosine * apart[..., 1] - sine * apart[..., 0]
    half = boxes[:, 3:6, None] / 2
    return (
        (np.abs(along) <= half[:, 0]) & (np.abs(across) <= half[:, 1]) & (np.abs(apart[..., 2]) <= half[:, 2])
    )


def intersections(first: First, second: Second) -> Pairs:
    """Areas in square metres that each pair of boxes shares, seen from above.

    What two rectangles share is convex, and its corners are corners of one within the other, or places where
    edges cross: all are found at once and put in order about their middle.
    """
    a, b = (corners(np.asarray(part, np.float64)) for part in (first, second))
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    a, b = a[:, None], b[None, :]
    held_a, held_b = _within(a, b), _within(b, a)
    crossings, crossed = _crossings(a, b)
    shape = held_a.shape[:2]
    places = np.concatenate(
        [np.broadcast_to(a, (*shape, 4, 2)), np.broadcast_to(b, (*shape, 4, 2)), crossings], axis=2
    )
    kept = np.concatenate([held_a, held_b, crossed], axis=2)
    count = kept.sum(axis=2)
    middle = (places * kept[..., None]).sum(axis=2) / np.maximum(count, 1)[..., None]
    apart = (places - middle[:, :, None]) * kept[..., None]
    angle = np.where(kept, np.arctan2(apart[..., 1], apart[..., 0]), np.inf)
    order = np.argsort(angle, axis=2, kind="stable")
    ring = np.take_along_axis(apart, order[..., None], axis=2)
    # places that do not count come last: the first one stands for them, so that the ring is closed
    real = np.take_along_axis(kept, order, axis=2)
    ring = np.where(real[..., None], ring, ring[:, :, :1])
    after = np.roll(ring, -1, axis=2)
    area = (ring[..., 0] * after[..., 1] - ring[..., 1] * after[..., 0]).sum(axis=2) / 2
    return np.where(count > 2, np.maximum(area, 0), 0.0)


def _within(points: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """(n, m, 4) which of the points (n, m, 4, 2) lie in the counter-clockwise ring (n, m, 4, 2)."""
    edge = (np.roll(ring, -1, axis=2) - ring)[:, :, None]
    to = points[:, :, :, None] - ring[:, :, None]
    length = np.maximum(np.hypot(edge[..., 0], edge[..., 1]), 1e-300)
    return np.asarray(((edge[..., 0] * to[..., 1] - edge[..., 1] * to[..., 0]) / length >= -EDGE).all(axis=3))


def _crossings(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, m, 16, 2) where edges of both cross, and (n, m, 16) whether they do."""
    along_a, along_b = np.roll(a, -1, axis=2) - a, np.roll(b, -1, axis=2) - b
    start_a, start_b = a[:, :, :, None], b[:, :, None]
    along_a, along_b = along_a[:, :, :, None], along_b[:, :, None]
    apart = start_b - start_a
    turn = along_a[..., 0] * along_b[..., 1] - along_a[..., 1] * along_b[..., 0]
    parallel = np.abs(turn) < 1e-12
    turn = np.where(parallel, 1.0, turn)
    share_a = (apart[..., 0] * along_b[..., 1] - apart[..., 1] * along_b[..., 0]) / turn
    share_b = (apart[..., 0] * along_a[..., 1] - apart[..., 1] * along_a[..., 0]) / turn
    crossed = ~parallel & (share_a >= 0) & (share_a <= 1) & (share_b >= 0) & (share_b <= 1)
    places = start_a + share_a[..., None] * along_a
    return places.reshape(*places.shape[:2], 16, 2), crossed.reshape(*crossed.shape[:2], 16)


def overlaps(first: First, second: Second, solid: bool = True) -> Pairs:
    """Intersection over union of each pair of boxes, 0 to 1.

    Args:
        first: (n, 7).
        second: (m, 7).
        solid: of volumes; else of the areas seen from above.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    shared = intersections(first, second)
    sizes = [part[:, 3] * part[:, 4] * (part[:, 5] if solid else 1.0) for part in (first, second)]
    if solid:
        top = np.minimum.outer(first[:, 2] + first[:, 5] / 2, second[:, 2] + second[:, 5] / 2)
        bottom = np.maximum.outer(first[:, 2] - first[:, 5] / 2, second[:, 2] - second[:, 5] / 2)
        shared = shared * np.maximum(top - bottom, 0)
    union = np.add.outer(*sizes) - shared
    return shared / np.maximum(union, 1e-12)
