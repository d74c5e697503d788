"""A simulated table that an arm of two links reaches over: what is seen of it, and what actions do to it."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "RATE", "REACH", "SIDE", "ReachWorld", "reaching"]

SIDE = 32  # pixels
RATE = 4.0  # frames a second
REACH = 0.1  # metres that an action moves the hand along each axis at most
EDGE = 0.08  # metres that the hand keeps from the edge of the table, which is 1 by 1
LINK = 0.62  # metres of each of the arm's two links
BASE = np.array([0.5, -0.05])
WIDTH, HAND, CLUTTER = 0.08, 0.2, (0.05, 0.15)  # radii of the links, the hand and what lies about
BLUR = 0.3  # metres over which an edge fades: the camera is out of focus, and ways lead downhill to a goal
CLASSES = ["free", "at the edge"]
EPISODES = {"train": 512, "test": 128}


class ReachWorld:
    """Several tables at once, each of a colour of its own and with two things lying about that do not matter.

    The state is the hand's place (n, 2): metres from the left and from the near edge, where the arm is
    mounted in the middle. An action (n, 2) moves the hand, by at most `REACH` along each axis, and not over
    the edge.

    Args:
        count: of tables.
        random: draws the tables and where their hands begin.
        side: pixels of a frame.
    """

    low, high = np.full(2, -REACH, np.float32), np.full(2, REACH, np.float32)
    tolerance = 0.1  # metres from the goal that count as there
    frame_rate = RATE

    def __init__(self, count: int, random: np.random.Generator, side: int = SIDE) -> None:
        self.side = side
        centre = (np.arange(side) + 0.5) / side
        # rows go down in a picture, away from the arm on the table
        self.across = centre[None, None, :].astype(np.float32)
        self.up = 1 - centre[None, :, None].astype(np.float32)
        table = random.uniform(90, 170, (count, 1, 1, 3))
        frames = np.broadcast_to(table, (count, side, side, 3)).astype(np.float32)
        for _ in range(2):
            place, radius = random.uniform(0, 1, (count, 2)), random.uniform(*CLUTTER, count)
            frames = _painted(frames, self._near(place, radius), random.uniform(30, 230, (count, 1, 1, 3)))
        self.tables = frames
        self.state = self.somewhere(random, count)

    @staticmethod
    def somewhere(random: np.random.Generator, count: int) -> np.ndarray:
        """Places (count, 2) float32 that a hand can be at."""
        return random.uniform(EDGE, 1 - EDGE, (count, 2)).astype(np.float32)

    def act(self, action: np.ndarray) -> np.ndarray:
        """Move the hands; where they are then."""
        self.state = _held(self.state + np.clip(action, -REACH, REACH))
        return self.state

    def seen(self, state: np.ndarray | None = None) -> np.ndarray:
        """Frames (n, side, side, 3) uint8 of the tables as they are, or with the hands at `state`."""
        hand = self.state if state is None else state
        elbow = _elbow(hand)
        frames = self.tables
        for start, end in ((np.broadcast_to(BASE, hand.shape), elbow), (elbow, hand)):
            frames = _painted(frames, self._along(start, end), np.array([60.0, 60.0, 70.0]))
        frames = _painted(frames, self._near(hand, np.full(len(hand), HAND)), np.array([220.0, 60.0, 40.0]))
        return (frames + 0.5).astype(np.uint8)

    def distance(self, goal: np.ndarray) -> np.ndarray:
        """Metres (n,) from the hands to goals (n, 2)."""
        return np.linalg.norm(self.state - goal, axis=1)

    def _near(self, place: np.ndarray, radius: np.ndarray) -> np.ndarray:
        """How far each pixel is covered by a disc, 0 to 1: (n, side, side)."""
        x, y = (place.astype(np.float32)[:, axis, None, None] for axis in (0, 1))
        away = np.sqrt((self.across - x) ** 2 + (self.up - y) ** 2)
        return self._covered(away, radius.astype(np.float32)[:, None, None])

    def _along(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """The same by a link between two places."""
        x, y = (start.astype(np.float32)[:, axis, None, None] for axis in (0, 1))
        along = (end - start).astype(np.float32)
        dx, dy = along[:, 0, None, None], along[:, 1, None, None]
        right, above = self.across - x, self.up - y
        share = np.clip((right * dx + above * dy) / (dx**2 + dy**2), 0, 1)
        away = np.sqrt((right - share * dx) ** 2 + (above - share * dy) ** 2)
        return self._covered(away, np.float32(WIDTH))

    def _covered(self, away: np.ndarray, radius: np.ndarray | np.float32) -> np.ndarray:
        return np.clip(0.5 + (radius - away) / BLUR, 0, 1)


def _painted(frames: np.ndarray, covered: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return frames + covered[..., None] * (colour.astype(np.float32) - frames)


def _held(place: np.ndarray) -> np.ndarray:
    return np.clip(place, EDGE, 1 - EDGE).astype(np.float32)


def _elbow(hand: np.ndarray) -> np.ndarray:
    """Where two links of one length meet, the elbow out to the right of the arm."""
    middle, span = (BASE + hand) / 2, hand - BASE
    length = np.linalg.norm(span, axis=1, keepdims=True)
    aside = np.stack([span[:, 1], -span[:, 0]], axis=1) / length
    return middle + aside * np.sqrt(np.maximum(LINK**2 - (length / 2) ** 2, 0))


def reaching(
    split: str | None, frames: int, side: int = SIDE
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Episodes in which the hand wanders about, always the same ones.

    Returns video (n, frames, side, side, 3) uint8, states (n, frames, 2) and actions (n, frames - 1, 2)
    float32, and labels (n,) int64 into `CLASSES`: whether the edge has stopped the hand's last motion. 512
    episodes of ``train`` (also None), 128 of ``test``. Raises NoSplit for another split.
    """
    words = [word.lower() for word in split_order(split)]
    name = next((word for word in words if word in EPISODES), None)
    if name is None:
        raise NoSplit(f"synthetic-reach has no split {split!r}, only train and test")
    random, count = np.random.default_rng(0 if name == "train" else 1), EPISODES[name]
    world = ReachWorld(count, random, side)
    action = random.uniform(-REACH, REACH, (count, 2)).astype(np.float32)
    seen, states, actions = [world.seen()], [world.state], []
    for _ in range(frames - 1):
        # a hand goes on as it went, for a while
        drawn = 0.6 * action + random.normal(0, 0.06, (count, 2))
        action = np.clip(drawn, -REACH, REACH).astype(np.float32)
        actions.append(action)
        states.append(world.act(action))
        seen.append(world.seen())
    states_of = np.stack(states, 1)
    stopped = np.abs(states_of[:, -1] - states_of[:, -2] - action).max(1) > 1e-4
    return np.stack(seen, 1), states_of, np.stack(actions, 1), stopped.astype(np.int64)
