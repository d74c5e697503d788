"""Planning with a world model: actions that bring what is seen to a goal that was seen (V-JEPA 2-AC, 3.3)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor

from anyjepa.core.errors import UserError, nearest
from anyjepa.core.planning import CrossEntropy
from anyjepa.core.world_model import ActionConditioned, WorldModel
from anyjepa.domains.control_samples import clip_of
from anyjepa.domains.control_world import ReachWorld
from anyjepa.engine.run import Run, build_method, load
from anyjepa.evaluation.confidence import accuracy_interval, paired_difference_interval

WORLDS = {"synthetic-reach": ReachWorld}
TOGETHER = 2**17  # tokens that the predictor reads at once
SEARCH = CrossEntropy(horizon=1, candidates=48, elite=6, rounds=3)  # of one action, seen anew at each step
FARTHER = 0.3  # metres that a goal lies from the hand at least

Policy = Callable[[np.ndarray, np.ndarray, Tensor], np.ndarray]


@dataclass
class Planner:
    """Finds actions whose imagined end looks like a goal.

    The energy of a sequence of actions is the mean absolute difference between the tokens that the model
    imagines after the last of them and those of the goal; the cross-entropy method looks for the lowest.

    Args:
        run: of ``v-jepa-2-ac``.
        search: how actions are searched for.
        low, high: least and largest value of each number of an action; those in the training data where None.
        seed: of what is drawn.
    """

    run: Run
    search: CrossEntropy = dataclasses.field(default_factory=CrossEntropy)
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.run.method, ActionConditioned):
            raise UserError(f"{self.run.recipe.name} knows no actions to plan with: train v-jepa-2-ac.")
        self.model: WorldModel = self.run.method.encoder
        facts, device = self.run.facts, self.run.device
        bounds = (facts["action_low"] if self.low is None else self.low,
                  facts["action_high"] if self.high is None else self.high)  # fmt: skip
        self._low, self._high = (
            torch.as_tensor(np.asarray(bound, np.float32), device=device) for bound in bounds
        )
        if self._low.shape != self._high.shape or len(self._low) != len(facts["action_mean"]):
            raise UserError(f"an action has {len(facts['action_mean'])} numbers, and each needs a range.")
        self._generator = Generator(device=device).manual_seed(self.seed)

    @torch.inference_mode()
    def tokens(self, pictures: Shaped[np.ndarray, "n height width channels"]) -> Tensor:
        """Tokens (n, patches, width) of single frames in the data's own units."""
        return self._seen(pictures)[0]

    def _seen(self, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
        count, recipe, facts = len(pictures), self.run.recipe, self.run.facts
        frames = recipe.reading()["frames"]
        # a clip of one picture that stays, for the recipe to crop and resize as it does with others
        video = np.repeat(pictures[:, None], frames, axis=1)
        states, actions = (
            np.zeros((count, long, len(facts[f"{name}_mean"])), np.float32)
            for name, long in (("state", frames), ("action", frames - 1))
        )
        batch = recipe.present(list(_rows(clip_of(video, states, actions))))
        tokens, places = self.model.encode(batch["video"][:, :, :1].to(self.run.device))
        return tokens[:, 0], places

    @torch.inference_mode()
    def plan(
        self,
        pictures: Shaped[np.ndarray, "n height width channels"],
        states: Float[np.ndarray, "n state"],
        goals: Shaped[np.ndarray, "n height width channels"] | Float[Tensor, "n patches features"],
    ) -> Float[np.ndarray, "n horizon action"]:
        """Actions from what is seen now, in which state, towards pictures of goals or their tokens.

        Take the first action, look again, and plan anew: the model errs the more the farther it imagines.
        """
        now, places = self._seen(pictures)
        goal = goals if isinstance(goals, Tensor) else self.tokens(goals)
        start = torch.as_tensor(np.asarray(states, np.float32), device=now.device)

        def energy(actions: Tensor) -> Tensor:
            return self._energy(now, start, goal, actions, places)

        found = self.search.search(energy, len(now), self._low, self._high, self._generator)
        return found.cpu().numpy()

    def _energy(self, now: Tensor, state: Tensor, goal: Tensor, actions: Tensor, places: Tensor) -> Tensor:
        """(problems, candidates) of actions (problems, candidates, horizon, numbers), in pieces."""
        problems, candidates, horizon = actions.shape[:3]
        flat = actions.flatten(0, 1)
        rows = torch.arange(problems, device=now.device).repeat_interleave(candidates)
        size = max(1, TOGETHER // (horizon * (now.shape[1] + 2)))
        found = []
        for piece, row in zip(flat.split(size), rows.split(size), strict=True):
            ahead = self.model.rolled_out(
                now[row].unsqueeze(1), piece, state[row].unsqueeze(1), places, horizon
            )
            found.append((ahead[:, -1] - goal[row]).abs().mean((1, 2)))
        return torch.cat(found).unflatten(0, (problems, candidates))


def _rows(clips: np.ndarray) -> list[np.ndarray]:
    return [clips[index, ...] for index in range(len(clips))]


def plan(
    run: Run | str | Path,
    world: str = "synthetic-reach",
    *,
    episodes: int = 50,
    steps: int = 14,
    search: CrossEntropy | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """How often a world model reaches goals in a simulated world, beside random actions and no training.

    All begin from the same places with the same goals. At each step the model plans anew and the first action
    is taken. The untrained predictor has the same encoder.

    Args:
        run: of ``v-jepa-2-ac``, trained on that world, or its folder.
        world: its name.
        episodes: how many goals.
        steps: that may be taken; a goal counts as reached if it ever was.
        search: how actions are searched for; `SEARCH` where None.
        seed: of places, goals and what is drawn.

    Returns:
        ``success``, ``success_untrained`` and ``success_random`` with ``_low`` and ``_high`` of their 95 %
        intervals, ``distance`` (metres to the goal at the end) likewise without intervals, ``gain_untrained``
        and ``gain_random`` (differences of success, paired by episode) with theirs.

    Raises:
        UserError: there is no such world, or the run is none of it.
    """
    if world not in WORLDS:
        known = ", ".join(WORLDS)
        raise UserError(f"there is no world '{world}' (there is {known}).{nearest(world, WORLDS)}")
    if episodes < 2 or steps < 1:
        raise UserError("planning needs 2 episodes or more, and a step.")
    opened = run if isinstance(run, Run) else load(run)
    search = search or SEARCH
    kind = WORLDS[world]
    planner = Planner(opened, search, kind.low, kind.high, seed)
    if len(opened.facts["state_mean"]) != len(kind.low) or opened.facts["channels"] != 3:
        raise UserError(f"{opened.path} was not trained on {world}: its states are of another kind.")
    draw = np.random.default_rng([seed, 7])

    def wander(pictures: np.ndarray, states: np.ndarray, goal: Tensor) -> np.ndarray:
        return draw.uniform(kind.low, kind.high, states.shape).astype(np.float32)

    def planned(by: Planner) -> Policy:
        return lambda pictures, states, goal: by.plan(pictures, states, goal)[:, 0]

    policies = {
        "": planned(planner),
        "_untrained": planned(Planner(unlearned(opened), search, kind.low, kind.high, seed)),
        "_random": wander,
    }
    result: dict[str, Any] = {"world": world, "episodes": episodes, "steps": steps}
    reached: dict[str, Tensor] = {}
    for name, policy in policies.items():
        reached[name], distance = _episodes(kind, planner, policy, episodes, steps, seed)
        value, low, high = accuracy_interval(reached[name])
        result |= {f"success{name}": value, f"success{name}_low": low, f"success{name}_high": high}
        result[f"distance{name}"] = distance
    for other in ("_untrained", "_random"):
        value, low, high = paired_difference_interval(reached[""], reached[other])
        result |= {f"gain{other}": value, f"gain{other}_low": low, f"gain{other}_high": high}
    return result


def unlearned(run: Run) -> Run:
    """The run with the predictor that training began from; the frozen encoder stays."""
    fresh = build_method(run.recipe, run.facts, run.config["seed"])
    method = copy.deepcopy(run.method)
    assert isinstance(fresh, ActionConditioned) and isinstance(method, ActionConditioned)
    method.encoder.predictor.load_state_dict(fresh.encoder.predictor.state_dict())
    return dataclasses.replace(run, method=method.eval(), problems=[])


def _episodes(
    kind: type[ReachWorld], planner: Planner, policy: Policy, episodes: int, steps: int, seed: int
) -> tuple[Tensor, float]:
    """Which goals (episodes,) were reached, 1 or 0, and the mean distance that was left, in metres."""
    random = np.random.default_rng([seed, 11])
    world = kind(episodes, random)
    goal = kind.somewhere(random, episodes)
    while (near := world.distance(goal) < FARTHER).any():
        goal[near] = kind.somewhere(random, int(near.sum()))
    wanted = planner.tokens(world.seen(goal))
    reached = np.zeros(episodes, bool)
    for _ in range(steps):
        world.act(policy(world.seen(), world.state, wanted))
        reached |= world.distance(goal) < kind.tolerance
    return torch.from_numpy(reached.astype(np.float32)), float(world.distance(goal).mean())
