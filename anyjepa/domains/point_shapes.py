"""Simulated clouds: simple solids as a depth sensor would give them, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "PARTS", "synthetic_shapes"]

Random = np.random.Generator
EACH = {"train": 80, "test": 30}  # clouds of every class
POINTS = (600, 1100)  # that a cloud has, before some are hidden


Shape = tuple[np.ndarray, np.ndarray]  # points (n, 3), and the part that each is of (n,), in `PARTS`
PARTS = ["side", "end", "inside", "neck", "face", "tread", "riser", "board", "leg"]
SIDE, END, INSIDE, NECK, FACE, TREAD, RISER, BOARD, LEG = range(len(PARTS))


def _directions(random: Random, count: int) -> np.ndarray:
    points = random.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _sphere(random: Random, count: int) -> Shape:
    return _directions(random, count), np.full(count, SIDE)


def _box(random: Random, count: int) -> Shape:
    points, sign = random.uniform(-1, 1, (count, 3)), random.choice([-1.0, 1.0], count)
    axis = random.integers(3, size=count)
    points[np.arange(count), axis] = sign
    return points, np.where(axis == 1, END, SIDE)


def _lathe(random: Random, count: int, corners: list[tuple[float, float]], parts: list[int]) -> Shape:
    """A profile of (radius, height) corners turned about y, evenly over the surface, and its sides' parts."""
    profile = np.array(corners)
    sides, radii = np.diff(profile, axis=0), (profile[1:, 0] + profile[:-1, 0]) / 2
    areas = np.linalg.norm(sides, axis=1) * radii
    side = random.choice(len(sides), count, p=areas / areas.sum())
    first, second = profile[side, 0], profile[side + 1, 0]
    # the share of a ring's area that lies within is quadratic in the radius
    inner = np.sqrt(first**2 + (second**2 - first**2) * random.random(count))
    flat = np.abs(second - first) < 1e-9
    share = np.where(flat, random.random(count), (inner - first) / np.where(flat, 1.0, second - first))
    radius, height = (profile[side] + share[:, None] * sides[side]).T
    angle = random.uniform(0, 2 * np.pi, count)
    points = np.stack([radius * np.cos(angle), height, radius * np.sin(angle)], axis=1)
    return points, np.array(parts)[side]


def _cylinder(random: Random, count: int) -> Shape:
    return _lathe(random, count, [(0.0, -1.0), (0.6, -1.0), (0.6, 1.0), (0.0, 1.0)], [END, SIDE, END])


def _tube(random: Random, count: int) -> Shape:
    inner = random.uniform(0.3, 0.45)
    corners = [(inner, -1.0), (0.6, -1.0), (0.6, 1.0), (inner, 1.0), (inner, -1.0)]
    return _lathe(random, count, corners, [END, SIDE, END, INSIDE])


def _cone(random: Random, count: int) -> Shape:
    return _lathe(random, count, [(0.0, -1.0), (0.8, -1.0), (0.0, 1.0)], [END, SIDE])


def _bottle(random: Random, count: int) -> Shape:
    neck, shoulder = random.uniform(0.12, 0.3), random.uniform(0.0, 0.5)
    corners = [(0.0, -1.0), (0.6, -1.0), (0.6, shoulder), (neck, shoulder + 0.3), (neck, 1.0), (0.0, 1.0)]
    return _lathe(random, count, corners, [END, SIDE, NECK, NECK, END])


def _torus(random: Random, count: int) -> Shape:
    small = random.uniform(0.2, 0.4)
    around, across = random.uniform(0, 2 * np.pi, (2, count))
    radius = 1 + small * np.cos(across)
    points = np.stack([radius * np.cos(around), small * np.sin(across), radius * np.sin(around)], axis=1)
    return points, np.where(np.cos(across) < 0, INSIDE, SIDE)


def _plate(random: Random, count: int) -> Shape:
    """A thin plate with a round hole."""
    hole = random.uniform(0.35, 0.6)
    flat = random.uniform(-1, 1, (6 * count, 2))
    flat = flat[np.linalg.norm(flat, axis=1) > hole][:count]
    points = np.stack([flat[:, 0], random.choice([-0.08, 0.08], count), flat[:, 1]], axis=1)
    return points, np.full(len(points), FACE)


def _stairs(random: Random, count: int) -> Shape:
    steps = int(random.integers(3, 6))
    along, tread = random.random(count), random.random(count) < 0.5
    step = np.floor(along * steps)
    # a tread is level at the height of its step, a riser upright at the step's edge
    x = np.where(tread, along, step / steps)
    y = np.where(tread, (step + 1) / steps, along)
    points = np.stack([2 * x - 1, 2 * y - 1, random.uniform(-0.7, 0.7, count)], axis=1)
    return points, np.where(tread, TREAD, RISER)


def _table(random: Random, count: int) -> Shape:
    """A board on four legs."""
    top = random.random(count) < 0.6
    board = np.stack([random.uniform(-1, 1, count), np.full(count, 0.7), random.uniform(-0.7, 0.7, count)], 1)
    legs = np.stack(
        [
            random.choice([-0.9, 0.9], count),
            random.uniform(-1, 0.7, count),
            random.choice([-0.6, 0.6], count),
        ],
        1,
    )
    points = np.where(top[:, None], board, legs + random.uniform(-0.07, 0.07, (count, 3)))
    return points, np.where(top, BOARD, LEG)


SHAPES: dict[str, Callable[[Random, int], Shape]] = {
    "bottle": _bottle,
    "box": _box,
    "cone": _cone,
    "cylinder": _cylinder,
    "plate with a hole": _plate,
    "sphere": _sphere,
    "stairs": _stairs,
    "table": _table,
    "torus": _torus,
    "tube": _tube,
}
CLASSES = list(SHAPES)


def _scanned(random: Random, points: np.ndarray, parts: np.ndarray) -> Shape:
    """Stretched, tilted a little, turned about y, partly hidden, noisy."""
    points = points * random.uniform(0.5, 1.0, 3)
    tilt, turn = random.normal(0, 0.15), random.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(tilt), np.sin(tilt)
    x, y, z = points.T
    y, z = cosine * y - sine * z, sine * y + cosine * z
    cosine, sine = np.cos(turn), np.sin(turn)
    points = np.stack([cosine * x + sine * z, y, cosine * z - sine * x], axis=1)
    # what lies farthest along some direction is hidden from the sensor
    away = points @ _directions(random, 1)[0]
    seen = away < np.quantile(away, random.uniform(0.7, 1.0))
    points = points[seen]
    return points + random.normal(0, random.uniform(0.01, 0.04), points.shape), parts[seen]


def synthetic_shapes(split: str | None) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Ten classes of solids, (n, 3) float64 each, labels (clouds,) int64, and each point's part; y points up.

    80 clouds of a class for ``train`` (also None), 30 others for ``test`` (and ``val``), always the same.
    Raises NoSplit for another name.
    """
    words = [word.lower() for word in split_order(split)]
    part = next((name for name in EACH if name in words), None)
    if part is None:
        raise NoSplit(f"synthetic-shapes has no split {split!r}, only train and test")
    random = np.random.default_rng([2404, 16432, list(EACH).index(part)])
    labels = np.repeat(np.arange(len(SHAPES)), EACH[part])
    counts = random.integers(*POINTS, size=len(labels))
    makers = list(SHAPES.values())
    clouds, parts = [], []
    for label, count in zip(labels, counts, strict=True):
        points, part = _scanned(random, *makers[label](random, int(count)))
        clouds.append(points)
        parts.append(part)
    return clouds, labels, parts
