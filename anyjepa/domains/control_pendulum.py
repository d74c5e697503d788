"""A pendulum that a scripted hand swings up: gymnasium's ``Pendulum-v1`` for many at once, and its expert."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["CLASSES", "LENGTH", "TORQUE", "Pendulums", "expert", "swinging"]

GRAVITY, STEP, TORQUE, FASTEST = 10.0, 0.05, 2.0, 8.0  # m/s2, s, Nm, rad/s; mass and length are 1
LENGTH = 60  # steps of an episode, three seconds
WAIT = 6  # steps, 0.3 s, that a class lasts
CLASSES = [f"up in {0.3 * n:.1f} s" for n in range(7)] + ["up later"]
UPRIGHT = 0.8  # cosine of the angle above which it counts as up
CATCH = 0.6  # rad from upright, within which the expert stops swinging and holds
EPISODES = {"train": 200, "test": 60}


class Pendulums:
    """Several pendulums (n,) of mass 1 kg and length 1 m, by the equations of ``Pendulum-v1``.

    Attributes: ``angle`` is in radians from upright, ``speed`` in radians a second; both (n,) float64.
    """

    def __init__(self, count: int, random: np.random.Generator) -> None:
        self.angle = random.uniform(-np.pi, np.pi, count)
        self.speed = random.uniform(-1, 1, count)

    @property
    def state(self) -> np.ndarray:
        """Cosine and sine of the angle, and the speed: (n, 3) float32."""
        return np.stack([np.cos(self.angle), np.sin(self.angle), self.speed], 1).astype(np.float32)

    def act(self, torque: np.ndarray) -> None:
        """One step of 0.05 s under torques (n,), of which 2 Nm count at most."""
        pushed = 3.0 * np.clip(torque, -TORQUE, TORQUE)
        self.speed = np.clip(
            self.speed + (1.5 * GRAVITY * np.sin(self.angle) + pushed) * STEP, -FASTEST, FASTEST
        )
        self.angle = self.angle + self.speed * STEP


def expert(state: np.ndarray) -> np.ndarray:
    """Torques (n, 1) float32 for states (n, 3): pump energy in until it suffices, then hold upright."""
    angle, speed = np.arctan2(state[:, 1], state[:, 0]), state[:, 2]
    # kinetic energy of a rod and its height: upright and at rest it is what is wanted
    missing = GRAVITY / 2 * (1 - np.cos(angle)) - speed**2 / 6
    pump = TORQUE * np.clip(2.0 * missing, -1, 1) * np.where(speed >= 0, 1, -1)
    hold = -(9.0 * angle + 2.2 * speed)
    near = np.abs(angle) < CATCH
    return np.clip(np.where(near, hold, pump), -TORQUE, TORQUE)[:, None].astype(np.float32)


def swinging(split: str | None, length: int = LENGTH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Episodes in which the expert swings pendulums up, with a little noise, always the same ones.

    Returns states (n, length, 3), actions (n, length, 1) float32, and for each frame (n, length) int64 into
    `CLASSES`: after how many steps of the expert's the pendulum comes up. 200 episodes
    of ``train`` (also None), 60 of ``test``. Raises NoSplit for another split.
    """
    words = [word.lower() for word in split_order(split)]
    name = next((word for word in words if word in EPISODES), None)
    if name is None:
        raise NoSplit(f"synthetic-pendulum has no split {split!r}, only train and test")
    random, count = np.random.default_rng(0 if name == "train" else 1), EPISODES[name]
    world, states, actions = Pendulums(count, random), [], []
    for _ in range(length + WAIT * len(CLASSES)):
        states.append(world.state)
        actions.append(expert(states[-1]))
        # what is done is not quite what was meant, so that demonstrations show how to recover
        world.act(actions[-1][:, 0] + random.normal(0, 0.3, count))
    seen, done = np.stack(states, 1), np.stack(actions, 1)
    up = seen[:, :, 0] > UPRIGHT
    wait = np.full(up.shape, WAIT * len(CLASSES))
    for step in range(up.shape[1] - 1, -1, -1):
        wait[:, step] = np.where(up[:, step], 0, 1 + wait[:, min(step + 1, up.shape[1] - 1)])
    labels = np.minimum(-(-wait[:, :length] // WAIT), len(CLASSES) - 1)
    return seen[:, :length], done[:, :length], labels.astype(np.int64)
