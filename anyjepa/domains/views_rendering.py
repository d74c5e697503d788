"""A simulated turntable: solids of a few convex pieces, shaded and seen from known sides."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "SOURCE", "quaternions", "synthetic_turntable"]

SOURCE = "synthetic-turntable"
SIDE, VIEWS = 24, 8  # pixels a side, views a thing
TURN = np.pi / 4  # greatest angle about each axis
EACH = {"train": 32, "test": 24}  # things of every class
FLOOR = 90.0  # of 255, the brightest floor
DARKER = (1.0, 0.7, 0.45, 0.45)  # brightness of the pieces of a solid
REACH = 1.25  # of the picture from its middle, in the units of the solids
LIGHT = np.array([0.4, -0.6, -0.7], np.float32) / np.float32(np.linalg.norm([0.4, -0.6, -0.7]))

ZERO, INFINITE = np.float32(0), np.float32(np.inf)
Triple = tuple[float | int, float | int, float | int]
Piece = tuple[np.ndarray, np.ndarray]  # (faces, 3) outward normals, (faces,) distances from the origin


def box(half: Triple, centre: Triple = (0, 0, 0)) -> Piece:
    """A box by half its sides."""
    normals = np.concatenate([np.eye(3), -np.eye(3)])
    return normals, np.tile(half, 2) + normals @ np.array(centre)


def prism(sides: int, radius: float, half: float, centre: Triple = (0, 0, 0)) -> Piece:
    """An upright prism (along z) over a regular polygon of `sides` corners."""
    turn = 2 * np.pi * np.arange(sides) / sides
    around = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    normals = np.concatenate([around, [[0, 0, 1], [0, 0, -1]]])
    return normals, np.r_[np.full(sides, radius), half, half] + normals @ np.array(centre)


def pyramid(sides: int, radius: float, half: float, centre: Triple = (0, 0, 0)) -> Piece:
    """An upright pyramid, its point at `half` above the centre and its foot as far below."""
    turn = 2 * np.pi * np.arange(sides) / sides
    around = np.stack([np.cos(turn), np.sin(turn), np.full(sides, radius / (2 * half))], axis=1)
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    normals = np.concatenate([around, [[0, 0, -1]]])
    return normals, np.r_[half * around[:, 2], half] + normals @ np.array(centre)


# every kind is several pieces, none symmetric under any turn, so that each view says how it is turned
SOLIDS: dict[str, list[Piece]] = {
    "anvil": [box((0.8, 0.3, 0.2), (0.1, 0, 0.3)), prism(6, 0.3, 0.4, (-0.2, 0, -0.2)),
              pyramid(4, 0.25, 0.25, (0.7, 0, 0.6))],
    "boat": [box((0.9, 0.35, 0.2), (0, 0, -0.2)), box((0.25, 0.25, 0.25), (-0.4, 0, 0.2)),
             pyramid(3, 0.2, 0.45, (0.4, 0, 0.4))],
    "chair": [box((0.5, 0.5, 0.1)), box((0.1, 0.5, 0.5), (-0.5, 0, 0.5)),
              box((0.1, 0.1, 0.5), (0.4, 0.4, -0.5)), box((0.1, 0.1, 0.5), (-0.4, -0.4, -0.5))],
    "house": [box((0.6, 0.4, 0.4), (0, 0, -0.3)), pyramid(4, 0.6, 0.35, (0, 0, 0.4)),
              box((0.1, 0.1, 0.3), (0.4, 0.1, 0.4))],
    "key": [prism(8, 0.4, 0.15, (-0.6, 0, 0)), box((0.6, 0.1, 0.12), (0.3, 0, 0)),
            box((0.1, 0.25, 0.12), (0.75, 0.25, 0))],
    "lamp": [prism(6, 0.45, 0.1, (0, 0, -0.8)), box((0.1, 0.1, 0.6), (0.1, 0, -0.2)),
             pyramid(5, 0.6, 0.35, (0.3, 0, 0.5))],
    "mug": [prism(8, 0.5, 0.6), box((0.15, 0.1, 0.1), (0.6, 0, 0.35)), box((0.1, 0.1, 0.35), (0.7, 0, 0.1))],
    "tower": [box((0.3, 0.3, 0.8), (0, 0, -0.1)), pyramid(4, 0.35, 0.25, (0, 0, 0.9)),
              box((0.45, 0.2, 0.2), (0.3, 0, -0.7))],
}  # fmt: skip
CLASSES = list(SOLIDS)


def synthetic_turntable(split: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Views (n, 8, 24, 24, 3) uint8, poses (n, 8, 6) float32 and classes (n,) int64.

    A pose is the rotation as a quaternion, and the hues of floor and light, 0 to 1, which are of each view,
    as in 3DIEBench: what all views of a thing share is its shape. 32 things of each of eight kinds for
    ``train`` (also None), 24 others for ``test`` and ``val``, always the same, each stretched in its own way
    and turned about each axis by up to half a right angle. Raises NoSplit for another name.
    """
    words = [word.lower() for word in split_order(split)]
    part = next((name for name in EACH if name in words), None)
    if part is None:
        raise NoSplit(f"{SOURCE} has no split {split!r}, only train and test")
    random = np.random.default_rng([2505, 3176, list(EACH).index(part)])
    labels = np.repeat(np.arange(len(CLASSES)), EACH[part])
    turned = quaternions(random.uniform(-TURN, TURN, (len(labels), VIEWS, 3)))
    hues = random.uniform(size=(len(labels), VIEWS, 2))
    stretches = random.uniform(0.75, 1.2, (len(labels), 3))
    views = np.stack(
        [
            _pictures(SOLIDS[CLASSES[label]], *one)
            for label, *one in zip(labels, turned, hues, stretches, strict=True)
        ]
    )
    return views, np.concatenate([turned, hues], axis=2).astype(np.float32), labels


def _colour(hues: np.ndarray) -> np.ndarray:
    """(views, 1, 1, 3) float32 of hues, none of the three parts below a fifth."""
    parts = 0.6 + 0.4 * np.cos(2 * np.pi * (hues[:, None] - np.arange(3) / 3))
    return parts[:, None, None].astype(np.float32)


def _pictures(
    pieces: list[Piece], rotations: np.ndarray, hues: np.ndarray, stretch: np.ndarray
) -> np.ndarray:
    """(views, side, side, 3) uint8 of one thing; a later piece of it is darker."""
    place = ((np.arange(SIDE) + 0.5) / SIDE * 2 - 1).astype(np.float32) * REACH
    turn = _matrices(rotations)
    depth = np.full((len(rotations), SIDE, SIDE), np.inf, np.float32)
    brightness = np.zeros_like(depth)
    for (normals, distances), own in zip(pieces, DARKER, strict=False):
        # stretching a solid turns its normals the other way
        slant = normals / stretch
        length = np.linalg.norm(slant, axis=1)
        facing = (turn @ (slant / length[:, None]).T).transpose(0, 2, 1).astype(np.float32)
        reach = (distances / length).astype(np.float32)[None, :, None, None]
        # a ray along +z through (x, y) meets the plane n . p = d at z = (d - n_x x - n_y y) / n_z
        x, y, z = (facing[..., axis][:, :, None, None] for axis in range(3))
        z = np.where(np.abs(z) < 1e-4, np.float32(1e-4), z)
        met = (reach / z - (y / z) * place[:, None]) - (x / z) * place
        left = (met + np.where(z > 0, ZERO, INFINITE)).min(1)
        met += np.where(z < 0, ZERO, -INFINITE)
        face = met.argmax(1)
        entered = met.max(1)
        seen = (entered < left) & (entered < depth)
        shade = own * (0.35 + 0.65 * np.clip(facing @ LIGHT, 0, 1))
        lit = shade[np.arange(len(shade))[:, None, None], face]
        brightness, depth = np.where(seen, lit, brightness), np.where(seen, entered, depth)
    solid, floor = brightness[..., None] * _colour(hues[:, 1]) * 255, _colour(hues[:, 0]) * FLOOR
    return np.rint(np.where(np.isfinite(depth)[..., None], solid, floor)).astype(np.uint8)


def quaternions(angles: np.ndarray) -> np.ndarray:
    """(..., 4) x, y, z, w with w >= 0 of angles (..., 3) in radians about the fixed axes x, y, z in turn."""
    a, b, c = np.moveaxis(np.cos(angles / 2), -1, 0)
    d, e, f = np.moveaxis(np.sin(angles / 2), -1, 0)
    parts = [d * b * c - a * e * f, a * e * c + d * b * f, a * b * f - d * e * c, a * b * c + d * e * f]
    found = np.stack(parts, axis=-1)
    return np.where(found[..., 3:] < 0, -found, found)


def _matrices(rotations: np.ndarray) -> np.ndarray:
    """(views, 3, 3) of quaternions (x, y, z, w)."""
    x, y, z, w = rotations.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)
