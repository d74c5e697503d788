"""Simulated pairs of frames: a textured shape moves over a textured ground that moves too."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "moving_shapes"]

SIDE = 64  # pixels
PAIRS = {"train": 384, "test": 192}
# of each shape the pixels from crest to crest of its texture, and whether it is striped along the shape
TEXTURES = {
    "cross": (4.0, False),
    "disc": (7.0, False),
    "ring": (7.0, True),
    "square": (12.0, False),
    "star": (4.0, True),
    "triangle": (12.0, True),
}
CLASSES = list(TEXTURES)
BAND = 0.25  # standard deviation of a texture's frequencies, in octaves
STRIPED = 0.25  # of their directions, in radians
GROUND_SPEED, SHAPE_SPEED = 2.0, 4.0  # pixels from frame to frame, at most
CONTRASTS = ((8, 16), (25, 45))  # least and greatest deviation of the ground's texture, and the shape's
NOISE = 2.0  # standard deviation of the camera's, in grey levels


def moving_shapes(split: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (n, 2, 64, 64, 3) uint8, flow (n, 64, 64, 2) float32 in pixels, labels (n,) int64 into `CLASSES`.

    One of six shapes, of any size between 18 and 26 pixels of radius, turned, anywhere in the frame. A
    shape's texture is of its kind's grain, striped or not; the ground's is of any; colours say nothing. Each
    moves straight, the shape by up to 4 pixels and the ground by up to 2, so that some ground is hidden and
    some appears. The flow is that from the first frame to the second. 384 pairs of ``train`` (also None), 192
    of ``test``, always the same ones. Raises NoSplit for another split.
    """
    words = [word.lower() for word in split_order(split)]
    name = next((word for word in words if word in PAIRS), None)
    if name is None:
        raise NoSplit(f"synthetic-frames has no split {split!r}, only train and test")
    random, count = np.random.default_rng([2307, 12698, list(PAIRS).index(name)]), PAIRS[name]
    labels = random.permutation(np.arange(count) % len(CLASSES))
    motion = [_within(random, count, speed) for speed in (GROUND_SPEED, SHAPE_SPEED)]
    place = random.uniform(22, SIDE - 22, (count, 2)).astype(np.float32)
    size, turn = random.uniform(18, 26, count), random.uniform(0, 2 * np.pi, count)
    spectra = [_ground(random, count), _grain(labels, turn)]
    layers = [_painted(random, *each) for each in zip(spectra, motion, CONTRASTS, strict=True)]
    frames, covers = [], []
    for step in range(2):
        cover = _shapes(labels, place + step * motion[1], size, turn)
        covers.append(cover)
        mixed = layers[0][step] * (1 - cover[..., None]) + layers[1][step] * cover[..., None]
        frames.append(mixed + np.float32(NOISE) * random.standard_normal(mixed.shape, np.float32))
    pairs = np.clip(np.rint(np.stack(frames, axis=1)), 0, 255).astype(np.uint8)
    on_shape = (covers[0] >= 0.5)[..., None]
    flow = np.where(on_shape, motion[1][:, None, None], motion[0][:, None, None])
    return pairs, flow, labels.astype(np.int64)


def _within(random: np.random.Generator, count: int, most: float) -> np.ndarray:
    """(count, 2) steps to the right and down, even over a disc."""
    length, angle = most * np.sqrt(random.uniform(size=count)), random.uniform(0, 2 * np.pi, count)
    return (length * np.stack([np.cos(angle), np.sin(angle)])).T.astype(np.float32)


def _frequencies() -> tuple[np.ndarray, np.ndarray]:
    """(64, 1) and (1, 33) float32 cycles a pixel, down and across."""
    down, across = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :]
    return down.astype(np.float32), across.astype(np.float32)


def _ground(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, 64, 33) float32 amplitudes of noise that is blurred by about a pixel."""
    down, across = _frequencies()
    blur = random.uniform(1.0, 1.3, count)[:, None, None].astype(np.float32)
    return np.exp(-2 * (np.pi * blur) ** 2 * (down**2 + across**2))


def _grain(labels: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """(count, 64, 33) float32 amplitudes of each shape's texture."""
    down, across = _frequencies()
    kinds = list(TEXTURES.values())
    period = np.array([kinds[label][0] for label in labels], np.float32)[:, None, None]
    striped = np.array([kinds[label][1] for label in labels])[:, None, None]
    length = np.sqrt(down**2 + across**2)
    octaves = np.log2(np.maximum(length, 1e-6) * period)
    away = np.arctan2(down, across) - turn[:, None, None].astype(np.float32) - np.float32(np.pi / 2)
    away = np.mod(away + np.pi / 2, np.pi) - np.pi / 2  # a wave has no front and back
    lines = np.where(striped, np.exp(-((away / STRIPED) ** 2) / 2), 1)
    return (np.exp(-((octaves / BAND) ** 2) / 2) * lines).astype(np.float32)


def _painted(
    random: np.random.Generator, smooth: np.ndarray, motion: np.ndarray, contrast: tuple[int, int]
) -> list[np.ndarray]:
    """(count, 64, 64, 3) float32 of each frame: filtered noise in two colours, moved by parts of a pixel."""
    (down, across), count = _frequencies(), len(smooth)
    spectrum = np.fft.rfft2(random.standard_normal((count, SIDE, SIDE), np.float32)) * smooth
    # a step by parts of a pixel is a turn of each frequency, and turns along both axes are a product
    turns = [np.exp(np.complex64(-2j * np.pi) * steps[:, None] * axis.ravel()).astype(np.complex64)
             for steps, axis in ((motion[:, 1], down), (motion[:, 0], across))]  # fmt: skip
    second = spectrum * turns[0][:, :, None] * turns[1][:, None, :]
    found = [np.fft.irfft2(one, s=(SIDE, SIDE)).astype(np.float32) for one in (spectrum, second)]
    scale = 1 / found[0].std(axis=(1, 2), keepdims=True)
    base, tint, strength = (
        random.uniform(*ends, (count, 1, 1, channels)).astype(np.float32)
        for ends, channels in (((115, 140), 1), ((-4, 4), 3), (contrast, 1))
    )
    return [base + tint + strength * (one * scale)[..., None] for one in found]


def _shapes(labels: np.ndarray, place: np.ndarray, size: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """(n, 64, 64) float32 share of each pixel that lies within the shape of radius `size` around `place`."""
    at = np.arange(SIDE, dtype=np.float32)
    across, down = at - place[:, 0, None, None], (at - place[:, 1, None])[:, :, None]
    cosine, sine = (part(turn).astype(np.float32)[:, None, None] for part in (np.cos, np.sin))
    x, y = cosine * across + sine * down, cosine * down - sine * across
    outside = np.empty_like(x)
    for number, name in enumerate(CLASSES):
        rows = labels == number
        outside[rows] = _outside(name, x[rows], y[rows], size[rows, None, None].astype(np.float32))
    return np.clip(0.5 - outside, 0, 1)


def _outside(name: str, x: np.ndarray, y: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Pixels that a place lies outside the shape, about; below 0 within."""
    if name == "cross":
        long, narrow = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
        return np.maximum(long - size, narrow - 0.3 * size)
    if name == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.8 * size
    if name == "triangle":
        return np.maximum(0.866 * np.abs(x) + 0.5 * y, -y) - 0.55 * size
    far = np.hypot(x, y)
    if name == "ring":
        return np.abs(far - 0.75 * size) - 0.25 * size
    if name == "star":
        return far - size * (0.7 + 0.3 * np.cos(5 * np.arctan2(y, x)))
    return far - 0.9 * size
