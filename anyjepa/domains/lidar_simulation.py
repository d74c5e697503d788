"""A simulated LiDAR: rays cast from a car into scenes of ground, walls, cars, people and trucks.

Each scene is a function of its number alone and is cast when it is first asked for, in some ten milliseconds.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from anyjepa.domains.lidar_labels import Objects
from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["SCENES", "Simulated"]

SCENES = ["car park", "crossing", "field", "highway", "street"]
EACH = {"train": 48, "test": 20}  # scenes of every kind
HEIGHT = 1.73  # metres of the sensor above the ground
BEAMS = np.deg2rad(np.concatenate([np.linspace(-24, -8, 14), np.linspace(-7.2, 3, 20)]))
TURNS = np.deg2rad(np.arange(-52, 52, 0.5))
REACH = 60.0  # metres
NOISE, LOST = 0.02, 0.05  # metres of each range, share of the returns that never come
FEWEST = 5  # returns from an object that is marked
# length, width, height, and how much light comes back
SIZES = {
    "Car": (4.1, 1.75, 1.5, 0.55), "Cyclist": (1.8, 0.6, 1.75, 0.4), "Pedestrian": (0.7, 0.65, 1.75, 0.35),
    "Truck": (8.5, 2.5, 3.2, 0.5),
}  # fmt: skip


@dataclass
class _Scene:
    """Boxes that rays can meet: (x, y, bottom, length, width, height, angle, reflectance, object or -1)."""

    random: np.random.Generator
    solids: list[tuple[float, ...]]
    boxes: list[tuple[float, ...]]
    names: list[str]

    def wall(
        self, x: float, y: float, length: float, width: float, height: float, angle: float = 0.0
    ) -> None:
        shine = self.random.uniform(0.2, 0.5)
        self.solids.append((x, y, 0.0, length, width, height, angle, shine, -1))

    def thing(self, name: str, x: float, y: float, angle: float) -> None:
        """An object; of a car a cabin stands on the body, and a truck's is set off from its load."""
        if x < 3 and abs(y) < 3:
            return  # where the sensor is
        length, width, height, shine = (part * self.random.uniform(0.9, 1.1) for part in SIZES[name])
        number = len(self.names)
        self.names.append(name)
        angle += self.random.normal(0, 0.04)
        self.boxes.append((x, y, height / 2, length, width, height, angle))
        ahead = np.cos(angle), np.sin(angle)
        parts = {
            "Car": [(0.0, 0.0, 1.0, 1.0, 0.55), (-0.05, 0.55, 0.55, 0.9, 0.45)],
            "Truck": [(-0.12, 0.1, 0.76, 1.0, 0.9), (0.4, 0.0, 0.2, 0.95, 0.8)],
            "Cyclist": [(0.0, 0.0, 1.0, 0.35, 0.6), (-0.05, 0.5, 0.35, 1.0, 0.5)],
            "Pedestrian": [(0.0, 0.0, 1.0, 1.0, 0.8), (0.0, 0.8, 0.5, 0.5, 0.2)],
        }[name]
        for shift, bottom, long, wide, high in parts:
            place = x + shift * length * ahead[0], y + shift * length * ahead[1]
            self.solids.append(
                (*place, bottom * height, long * length, wide * width, high * height, angle, shine, number)
            )


def _street(scene: _Scene, random: np.random.Generator) -> None:
    for side in (-1, 1):
        kerb = side * random.uniform(5, 6.5)
        x = random.uniform(-4, 0)
        while x < 45:
            long = random.uniform(6, 14)
            scene.wall(
                x + long / 2, kerb + side * (3.5 + random.uniform(0, 1.5)), long, 3.0, random.uniform(4, 9)
            )
            x += long + random.uniform(0, 2)
        for x in np.arange(4 + random.uniform(0, 4), 42, 6.0):
            if random.random() < 0.6:
                scene.thing("Car", x, kerb - side * 1.2, 0.0 if side < 0 else np.pi)
        for _ in range(random.integers(0, 4)):
            scene.thing("Pedestrian", random.uniform(4, 35), kerb + side, random.uniform(-3, 3))
    _some(scene, random, "Cyclist", 0.6, (6, 34), (-3.2, -2.4), 0.0)
    _some(scene, random, "Car", 0.7, (10, 38), (1.2, 2.2), np.pi)


def _crossing(scene: _Scene, random: np.random.Generator) -> None:
    middle, half = random.uniform(16, 24), random.uniform(6, 8)
    for side in (-1, 1):
        far = side * (random.uniform(7, 9) + 8)
        scene.wall((middle - half) / 2 - 2, far, middle - half, 14.0, random.uniform(4, 9))
        scene.wall(middle + half + 10, far, 20.0, 14.0, random.uniform(4, 9))
        for _ in range(random.integers(0, 3)):
            scene.thing("Pedestrian", middle - half + random.uniform(-1, 1), side * random.uniform(4, 7), 0.0)
    for y in np.arange(-18 + random.uniform(0, 4), 18, 7.0):
        if random.random() < 0.6:
            scene.thing("Car", middle + random.choice([-2.0, 2.0]), y, random.choice([-1, 1]) * np.pi / 2)
    _some(scene, random, "Truck", 0.4, (middle - 2, middle + 2), (-14, 14), np.pi / 2)
    _some(scene, random, "Cyclist", 0.6, (middle - 4, middle + 4), (-8, 8), np.pi / 2)
    _some(scene, random, "Car", 0.6, (28, 38), (1.2, 2.2), np.pi)


def _car_park(scene: _Scene, random: np.random.Generator) -> None:
    for x in np.arange(7 + random.uniform(0, 2), 40, random.uniform(8.5, 10)):
        for y in np.arange(-17.5, 18, 2.8):
            if random.random() < 0.55:
                scene.thing("Car", x, y, random.choice([0.0, np.pi]))
    for _ in range(random.integers(0, 4)):
        scene.thing("Pedestrian", random.uniform(5, 30), random.uniform(-12, 12), random.uniform(-3, 3))
    if random.random() < 0.5:
        scene.wall(42.0, 0.0, 1.0, 40.0, random.uniform(2, 6))


def _highway(scene: _Scene, random: np.random.Generator) -> None:
    lanes = (-5.2, -1.7, 1.7, 5.2)
    for side in (-1, 1):
        scene.wall(20.0, side * random.uniform(8, 9), 52.0, 0.3, random.uniform(0.8, 1.1))
        if random.random() < 0.5:
            scene.wall(20.0, side * random.uniform(13, 18), 52.0, 0.5, random.uniform(3, 5))
    for lane in lanes:
        for x in np.arange(6 + random.uniform(0, 10), 42, 14.0):
            draw = random.random()
            if draw < 0.7:
                scene.thing("Truck" if draw < 0.25 else "Car", x, lane, 0.0 if lane < 0 else np.pi)


def _field(scene: _Scene, random: np.random.Generator) -> None:
    for _ in range(random.integers(12, 28)):
        place = random.uniform(4, 42), random.uniform(-20, 20)
        if abs(place[1]) > 3:
            thick = random.uniform(0.2, 0.6)
            scene.wall(*place, thick, thick, random.uniform(3, 6))
    for _ in range(random.integers(3, 9)):
        place = random.uniform(6, 42), random.choice([-1, 1]) * random.uniform(5, 19)
        scene.wall(
            *place, random.uniform(1, 3), random.uniform(1, 3), random.uniform(0.5, 1.8), random.uniform(0, 3)
        )
    _some(scene, random, "Car", 0.6, (8, 38), (1.2, 2.5), np.pi)
    _some(scene, random, "Cyclist", 0.6, (6, 34), (-3.2, -2.4), 0.0)
    _some(scene, random, "Pedestrian", 0.5, (5, 25), (-8, 8), 0.0)


def _some(
    scene: _Scene, random: np.random.Generator, name: str, chance: float, x: tuple, y: tuple, angle: float
) -> None:
    if random.random() < chance:
        scene.thing(name, random.uniform(*x), random.uniform(*y), angle)


PLANS = {
    "car park": _car_park, "crossing": _crossing, "field": _field, "highway": _highway, "street": _street
}  # fmt: skip


@functools.cache
def _rays() -> np.ndarray:
    """(rays, 3) unit directions, beam by beam."""
    beam, turn = (part.ravel() for part in np.meshgrid(BEAMS, TURNS, indexing="ij"))
    return np.stack([np.cos(beam) * np.cos(turn), np.cos(beam) * np.sin(turn), np.sin(beam)], axis=1)


def cast(solids: np.ndarray, beams: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far rays go until they meet the nearest solid, inf where none, and which that is (-1: none).

    What a ray meets seen from above depends on its turn alone, and on its beam only how high it then is.

    Args:
        solids: (n, 7) middle, size and angle about the vertical, as of `anyjepa.core.boxes`.
        beams: angles above the horizon in radians.
        turns: angles about the vertical.

    Returns:
        distances and indices, (beams, turns) each.
    """
    shape = len(beams), len(turns)
    if not len(solids):
        return np.full(shape, np.inf), np.full(shape, -1)
    solids = solids.astype(np.float32)
    cosine, sine = np.cos(solids[:, 6:]), np.sin(solids[:, 6:])
    middle = np.stack([cosine[:, 0] * solids[:, 0] + sine[:, 0] * solids[:, 1],
                       cosine[:, 0] * solids[:, 1] - sine[:, 0] * solids[:, 0]], axis=1)  # fmt: skip
    away = turns.astype(np.float32) - solids[:, 6:]
    ways = np.stack([np.cos(away), np.sin(away)], axis=2)
    ways = np.where(np.abs(ways) < 1e-9, np.float32(1e-9), ways)
    enter, leave = _slab(middle[:, None], solids[:, None, 3:5], ways)
    # distances along the ground to where a beam is as high as the bottom and the top
    rise = np.tan(beams).astype(np.float32)[:, None, None]
    rise = np.where(np.abs(rise) < 1e-9, np.float32(1e-9), rise)
    low, high = _slab(solids[:, 2:3], solids[:, 5:6], rise)
    near = np.maximum(enter.max(axis=2).T, low.max(axis=2)[:, None])
    far = np.minimum(leave.min(axis=2).T, high.min(axis=2)[:, None])
    ground = np.where((far > near) & (near > 0), near, np.float32(np.inf))
    nearest = ground.argmin(axis=2)
    found = np.take_along_axis(ground, nearest[..., None], axis=2)[..., 0]
    return found / np.cos(beams)[:, None], np.where(np.isfinite(found), nearest, -1)


def _slab(middle: np.ndarray, size: np.ndarray, ways: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where lines along `ways` from the origin enter and leave what lies between two planes an axis."""
    one, other = (middle - size / 2) / ways, (middle + size / 2) / ways
    return np.minimum(one, other), np.maximum(one, other)


def simulate(kind: str, seed: tuple[int, ...]) -> tuple[np.ndarray, Objects]:
    """One frame: points (n, 4) float32 of x, y, z in metres and what comes back, and its objects."""
    random = np.random.default_rng(seed)
    scene = _Scene(random, [], [], [])
    PLANS[kind](scene, random)
    table = np.array(scene.solids, np.float64).reshape(-1, 9)
    # the road bends a little to the side of where the car is heading
    bend = random.normal(0, 0.06)
    solids = table[:, :7].copy()
    solids[:, 2] += solids[:, 5] / 2 - HEIGHT
    boxes = np.array(scene.boxes, np.float64).reshape(-1, 7)
    boxes[:, 2] -= HEIGHT
    for part in (solids, boxes):
        part[:, :2] = part[:, :2] @ np.array([[np.cos(bend), np.sin(bend)], [-np.sin(bend), np.cos(bend)]])
        part[:, 6] = (part[:, 6] + bend + np.pi) % (2 * np.pi) - np.pi
    rays = _rays()
    distance, which = (part.ravel() for part in cast(solids, BEAMS, TURNS))
    with np.errstate(divide="ignore"):
        ground = np.where(rays[:, 2] < 0, -HEIGHT / rays[:, 2], np.inf)
    which = np.where(ground < distance, -2, which)
    distance = np.minimum(distance, ground)
    kept = (distance < REACH) & (random.random(len(rays)) > LOST)
    distance = distance[kept] + random.normal(0, NOISE, kept.sum())
    shine = np.concatenate([table[:, 7], [random.uniform(0.15, 0.35), 0.0]])[which[kept]]
    # index -2 is the one before the last: the ground
    shine = np.clip(shine * np.exp(-distance / 80) + random.normal(0, 0.03, len(shine)), 0, 1)
    points = np.concatenate([rays[kept] * distance[:, None], shine[:, None]], axis=1).astype(np.float32)
    owner = np.concatenate([table[:, 8], [-1, -1]]).astype(int)[which[kept]]
    returns = np.bincount(owner[owner >= 0], minlength=len(boxes))
    marked = np.flatnonzero(returns >= FEWEST)
    return points, Objects.plain(boxes[marked], [scene.names[place] for place in marked])


class Simulated:
    """Frames of one split, cast when they are asked for and then kept. Can be pickled.

    48 scenes of each of five kinds for ``train`` (also None), 20 others for ``test`` and ``val``. Raises
    NoSplit for another name.
    """

    def __init__(self, split: str | None) -> None:
        words = [word.lower() for word in split_order(split)]
        part = next((name for name in EACH if name in words), None)
        if part is None:
            raise NoSplit(f"synthetic-lidar has no split {split!r}, only train and test")
        self.part, self.kept = part, dict[int, tuple[np.ndarray, Objects]]()

    def __len__(self) -> int:
        return EACH[self.part] * len(SCENES)

    @property
    def kinds(self) -> np.ndarray:
        """(n,) int64 which of `SCENES` each frame is of."""
        return np.arange(len(self)) % len(SCENES)

    def _frame(self, index: int) -> tuple[np.ndarray, Objects]:
        if index not in self.kept:
            seed = (2501, 4969, list(EACH).index(self.part), index)
            self.kept[index] = simulate(SCENES[index % len(SCENES)], seed)
        return self.kept[index]

    def decode(self, index: int) -> np.ndarray:
        """(points, 4) float32."""
        return self._frame(int(index))[0]

    def objects(self, index: int) -> Objects:
        """What is marked in the frame."""
        return self._frame(int(index))[1]

    def identity(self, index: int) -> str:
        """Kind of scene and number."""
        return f"{SCENES[index % len(SCENES)].replace(' ', '-')}-{index:04d}"

    def size(self, index: int) -> int:
        """Of no file."""
        return 0
