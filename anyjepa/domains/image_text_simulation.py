"""Simulated scenes with sentences about them: two coloured shapes on a ground, and what one says of them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from anyjepa.core.errors import nearest
from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["COLOURS", "FEELINGS", "PALETTES", "PLACES", "SHAPES", "Scenes", "scenes"]

SIDE = 32  # pixels
COUNTS = {"train": 2000, "test": 400}
COLOURS = {
    "red": (215, 45, 40), "green": (50, 165, 60), "blue": (45, 75, 215), "yellow": (235, 210, 50),
    "purple": (150, 50, 175), "white": (245, 245, 245),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
PAIRS = [(one, other) for one in range(len(COLOURS)) for other in range(one, len(COLOURS))]
PALETTES = [f"{list(COLOURS)[one]} and {list(COLOURS)[other]}" for one, other in PAIRS]
FEELINGS = ["negative", "neutral", "positive"]
TONES = (
    ("gloomy", "sad", "dull", "dreary"),
    ("plain", "usual", "simple", "common"),
    ("lovely", "bright", "happy", "cheerful"),
)
GROUNDS = (45, 115, 185)  # grey levels: dark, middle, light


class Scenes(NamedTuple):
    """Simulated scenes.

    Args:
        images: (n, 32, 32, 3) uint8.
        captions: three of each.
        palettes: (n,) int64, which of `PALETTES` the colours of the two shapes are.
        feelings: (n,) int64, which of `FEELINGS` picture and words together express.
    """

    images: np.ndarray
    captions: list[tuple[str, ...]]
    palettes: np.ndarray
    feelings: np.ndarray


@functools.cache
def scenes(split: str | None) -> Scenes:
    """The scenes of a split, always the same ones.

    A caption names both shapes, in either order, with colour and place, and the tone of the picture. The
    feeling of a pair is as data sets of posts define it: that of the picture (a dark, middle or light
    ground) and of the words (`TONES`), the stronger one where one of them is neutral; the two never
    contradict each other.

    Args:
        split: train (also None) or test, for which validation may be said.
    """
    names = [word for word in split_order(split) if word in COUNTS]
    if not names:
        raise NoSplit(
            f"synthetic-captions has no split {split!r}, only train and test.{nearest(str(split), COUNTS)}"
        )
    part = names[0]
    random = np.random.default_rng([8, list(COUNTS).index(part)])
    count = COUNTS[part]
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    captions, palettes, feelings = [], np.empty(count, np.int64), np.empty(count, np.int64)
    places = list(PLACES)
    for row in range(count):
        seen, said = _feelings(random)
        feelings[row] = seen if said == 1 else said
        chosen = random.permutation(4)[:2]
        shapes, colours = random.integers(0, len(SHAPES), 2), random.integers(0, len(COLOURS), 2)
        one, other = sorted(colours.tolist())
        palettes[row] = PAIRS.index((one, other))
        images[row] = _drawn(seen, chosen, shapes, colours, random)
        things = [
            (list(COLOURS)[colour], SHAPES[shape], places[place])
            for colour, shape, place in zip(colours, shapes, chosen, strict=True)
        ]
        captions.append(_said(things, said, random))
    for table in (images, palettes, feelings):
        table.flags.writeable = False
    return Scenes(images, captions, palettes, feelings)


def _feelings(random: np.random.Generator) -> tuple[int, int]:
    """Feelings of picture and words, 0 to 2, that do not contradict each other."""
    pairs = [(seen, said) for seen in range(3) for said in range(3) if abs(seen - said) < 2]
    pairs += [(1, 1)] * 2  # so that the three labels are equally frequent
    return pairs[random.integers(len(pairs))]


def _said(things: list[tuple[str, str, str]], said: int, random: np.random.Generator) -> tuple[str, ...]:
    tone = TONES[said][random.integers(len(TONES[said]))]
    (colour, shape, place), (other_colour, other_shape, other_place) = (
        things if random.random() < 0.5 else things[::-1]
    )
    return (
        f"a {tone} picture with a {colour} {shape} at the {place} "
        f"and a {other_colour} {other_shape} at the {other_place}",
        f"{other_place}: {other_colour} {other_shape}, {place}: {colour} {shape}, {tone}",
        f"how {tone}, a {colour} {shape} {place} with a {other_colour} {other_shape} {other_place}",
    )


def _drawn(
    seen: int, places: np.ndarray, shapes: np.ndarray, colours: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), GROUNDS[seen] + random.normal(0, 12), np.float64)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    for place, shape, colour in zip(places, shapes, colours, strict=True):
        row, column = PLACES[list(PLACES)[place]]
        middle = np.array([row, column]) * 16 + 8 + random.uniform(-2, 2, 2)
        inside = _inside(SHAPES[shape], rows - middle[0], columns - middle[1], random.uniform(4.5, 6.5))
        image[inside] = np.array(list(COLOURS.values())[colour]) * random.uniform(0.8, 1.0)
    return np.clip(image + random.normal(0, 10, image.shape), 0, 255).astype(np.uint8)


def _inside(shape: str, down: np.ndarray, across: np.ndarray, radius: float) -> np.ndarray:
    """(height, width) bool: the pixels of a shape around its middle."""
    if shape == "circle":
        return down**2 + across**2 <= radius**2
    if shape == "square":
        return np.maximum(abs(down), abs(across)) <= 0.85 * radius
    if shape == "triangle":
        return (down <= 0.8 * radius) & (abs(across) <= 0.6 * (down + radius))
    return (np.minimum(abs(down), abs(across)) <= 0.35 * radius) & (
        np.maximum(abs(down), abs(across)) <= radius
    )
