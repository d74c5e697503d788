"""Policies in closed loop: how often they succeed in a gymnasium environment, and what they do there."""

from __future__ import annotations

import datetime
import html
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.action_chunks import ActionChunks
from anyjepa.core.errors import UserError, nearest, require
from anyjepa.core.method import Batch
from anyjepa.domains.control_drawing import film, lines_figure
from anyjepa.domains.control_pendulum import expert
from anyjepa.engine.checkpoint import checkpoints
from anyjepa.engine.files import append_line, explained, write_whole
from anyjepa.engine.run import Run, load
from anyjepa.evaluation.confidence import accuracy_interval, paired_difference_interval

__all__ = ["Controller", "Task", "rollout"]

Policy = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Task:
    """What counts as success in an environment.

    succeeded: from the states (steps, numbers) of an episode and whether the environment ended it itself.
    words: the same as a person reads it. expert: from states (n, numbers) to actions, None where unknown.
    rate: steps a second. states, actions: names of their numbers, with units.
    """

    succeeded: Callable[[np.ndarray, bool], bool]
    words: str
    expert: Policy | None = None
    rate: float = 0.0
    states: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()


def _held_up(states: np.ndarray, ended: bool) -> bool:
    return bool((states[-50:, 0] > 0.95).all())


TASKS = {
    "Pendulum-v1": Task(_held_up, "within 18 degrees of upright in all of the last 50 steps", expert, 20.0,
        ("cos angle", "sin angle", "rad/s"), ("torque, Nm",)),
    "MountainCarContinuous-v0": Task(
        lambda states, ended: ended, "the car reaches the flag",
        lambda states: np.where(states[:, 1:] >= 0, 1.0, -1.0).astype(np.float32), 0.0,
        ("position", "speed"), ("force",),
    ),
}  # fmt: skip


@dataclass
class Controller:
    """A policy that is asked for a chunk of actions, and carries some of them out before it is asked again.

    Args:
        run: of ``act-jepa``, whose checkpoint holds the action decoder.
        execute: actions of a chunk that are carried out; 0 for all.
        ensemble: temporal ensembling: at every step a new chunk is asked for, and what all chunks say of
            the step is averaged with weights exp(-ensemble * i), i = 0 for the oldest; None for none.
        task: number of the task.
    """

    run: Run
    execute: int = 0
    ensemble: float | None = None
    task: int = 0
    asked: int = field(default=0, init=False)
    """How often the network was asked since the last reset."""

    def __post_init__(self) -> None:
        method = self.run.method
        if not isinstance(method, ActionChunks):
            raise UserError(f"{self.run.recipe.name} gives no actions: train act-jepa.")
        if not checkpoints(Path(self.run.path) / "checkpoints"):
            raise UserError(f"{self.run.path} holds the encoder alone, without its actions: name the run.")
        if not method.action_weight:
            raise UserError(f"{self.run.path} never learned to act (--action-weight 0): train that upon it.")
        if method.encoder.trunk is not None:
            raise UserError(f"{self.run.path} wants pictures, and this environment gives states alone.")
        chunk = method.policy.decoder.queries.shape[1]
        self.execute = self.execute or chunk
        if not 1 <= self.execute <= chunk:
            raise UserError(f"{self.execute} of a chunk of {chunk} actions cannot be carried out.")
        if self.ensemble is not None and not (math.isfinite(self.ensemble) and self.ensemble >= 0):
            raise UserError(f"weights exp(-m i) need an m of 0 or more, not {self.ensemble}.")
        self._act = method.act
        self.reset()

    def reset(self) -> None:
        """Forget what was planned."""
        self._chunks: list[tuple[int, np.ndarray]] = []
        self._step, self.asked = 0, 0

    @torch.inference_mode()
    def chunk(self, states: Float[np.ndarray, "n state"]) -> Float[np.ndarray, "n steps action"]:
        """Actions in the data's own units, for what is seen now."""
        batch: Batch = {
            "state": torch.as_tensor(np.asarray(states, np.float32), device=self.run.device),
            "task": torch.full((len(states),), self.task, device=self.run.device),
        }
        return self._act(batch).float().cpu().numpy()

    def __call__(self, states: Float[np.ndarray, "n state"]) -> Float[np.ndarray, "n action"]:
        """The next action of several episodes that go on side by side."""
        last = self._chunks[-1][0] if self._chunks else None
        if last is None or self.ensemble is not None or self._step - last >= self.execute:
            self._chunks.append((self._step, self.chunk(states)))
            self.asked += 1
        alive = [(begun, plan) for begun, plan in self._chunks if self._step - begun < plan.shape[1]]
        self._chunks = alive if self.ensemble is not None else alive[-1:]
        said = np.stack([plan[:, self._step - begun] for begun, plan in self._chunks])
        self._step += 1
        return said[-1] if self.ensemble is None else ensembled(said, self.ensemble)

    @property
    def planned(self) -> np.ndarray:
        """What the newest chunk says from now on, (n, steps, action)."""
        begun, plan = self._chunks[-1]
        return plan[:, self._step - begun :]


def ensembled(said: Float[np.ndarray, "chunks n action"], m: float) -> Float[np.ndarray, "n action"]:
    """Average of what chunks, the oldest first, say of one step, weighted by exp(-m i) (ACT, section 4)."""
    weights = np.exp(-m * np.arange(len(said)))
    return np.tensordot(weights / weights.sum(), said, 1)


def rollout(
    run: Run | str | Path,
    environment: str = "Pendulum-v1",
    *,
    episodes: int = 100,
    steps: int | None = None,
    execute: int = 0,
    ensemble: float | None = None,
    seed: int = 1000,
) -> dict[str, Any]:
    """How often a policy succeeds in an environment, beside the untrained one, none, chance and the expert.

    All begin with the same seeds, ``seed`` and those after it, which no training saw. Writes
    ``rollout.html`` into the run's folder: the first episode and the first that failed, what was planned and
    what was carried out, beside what the expert would have done. Added to the run's ``evaluations.jsonl``.

    Args:
        run: of ``act-jepa``, trained on states and actions of that environment, or its folder.
        environment: of gymnasium, one of `TASKS`.
        episodes: how many.
        steps: of an episode at most; the environment's own limit where None.
        execute, ensemble: as of `Controller`.
        seed: of the first episode.

    Returns:
        ``success``, ``success_untrained``, ``success_still`` (actions of zero), ``success_random`` and, where
        one is known, ``success_expert`` with ``_low`` and ``_high`` of their 95 % intervals, ``reward`` (mean
        sum of rewards) likewise without intervals, ``gain_untrained`` and ``gain_random`` (paired by episode)
        with theirs, ``criterion`` in words, ``page``.

    Raises:
        UserError: gymnasium is missing, the environment is unknown, or the run is none of its kind.
    """
    if environment not in TASKS:
        known = ", ".join(TASKS)
        raise UserError(
            f"what success is in '{environment}' is not known (of {known}).{nearest(environment, TASKS)}"
        )
    if episodes < 2:
        raise UserError("an interval needs 2 episodes or more.")
    opened = run if isinstance(run, Run) else load(run)
    task = TASKS[environment]
    trained = Controller(opened, execute, ensemble)
    draw = np.random.default_rng([seed, 7])
    space = _made(environment).action_space
    wide = tuple(len(opened.facts[f"{name}_mean"]) for name in ("state", "action"))
    seen = _made(environment).observation_space.shape
    if (seen, space.shape) != ((wide[0],), (wide[1],)):
        raise UserError(
            f"{opened.path} was trained on {wide[0]} numbers of a state and {wide[1]} of an action, and "
            f"{environment} has other ones."
        )

    def by_chance(states: np.ndarray) -> np.ndarray:
        return draw.uniform(space.low, space.high, (len(states), *space.shape)).astype(np.float32)

    def still(states: np.ndarray) -> np.ndarray:
        return np.zeros((len(states), *space.shape), np.float32)

    fresh = Controller(opened.untrained(), execute, ensemble)
    policies: dict[str, Policy] = {"": trained, "_untrained": fresh, "_still": still, "_random": by_chance}
    if task.expert is not None:
        policies["_expert"] = task.expert
    result: dict[str, Any] = {
        "environment": environment, "episodes": episodes, "criterion": task.words,
        "execute": trained.execute, "ensemble": ensemble,
    }  # fmt: skip
    reached: dict[str, Tensor] = {}
    shown: dict[str, list[_Shown]] = {}
    for name, policy in policies.items():
        done = _episodes(environment, task, policy, episodes, steps, seed)
        reached[name] = torch.tensor(done.succeeded, dtype=torch.float32)
        value, low, high = accuracy_interval(reached[name])
        result |= {f"success{name}": value, f"success{name}_low": low, f"success{name}_high": high}
        result[f"reward{name}"] = float(np.mean(done.rewards))
        shown.setdefault(name, done.shown)
    for other in ("_untrained", "_random"):
        value, low, high = paired_difference_interval(reached[""], reached[other])
        result |= {f"gain{other}": value, f"gain{other}_low": low, f"gain{other}_high": high}
    drawn = {"The first episode": shown[""][0]}
    missed = [n for n, done in enumerate(reached[""].tolist()) if not done]
    if missed and missed[0]:
        drawn[f"The first that failed, episode {missed[0] + 1}"] = shown[""][missed[0]]
    page = Path(opened.path) / "rollout.html"
    with explained(f"write {page}"):
        write_whole(page, _page(drawn, task, result).encode("utf-8", "replace"))
    append_line(Path(opened.path) / "evaluations.jsonl", _row(result))
    return result | {"page": str(page)}


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """As a line of ``evaluations.jsonl``; taking no action stands for the input without any encoder."""
    kinds = {"trained": "", "untrained": "_untrained", "raw": "_still"}
    how = f"{result['execute']} actions" if result["ensemble"] is None else f"ensemble {result['ensemble']:g}"
    return {
        "probe": f"rollout, {how}", "metric": "success", "value": result["success"],
        "low": result["success_low"], "high": result["success_high"],
        "untrained": result["success_untrained"], "raw": result["success_still"],
        "gain_over_untrained": [result[f"gain_untrained{end}"] for end in ("", "_low", "_high")],
        "metrics": {"reward": {kind: result[f"reward{name}"] for kind, name in kinds.items()}},
        "test": result["episodes"], "data": result["environment"],
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
    }  # fmt: skip


@dataclass
class _Shown:
    """One episode. states: (steps, numbers). executed: (steps, numbers). planned: chunks by first step."""

    states: np.ndarray
    executed: np.ndarray
    planned: list[tuple[int, np.ndarray]]


@dataclass
class _Done:
    succeeded: list[bool]
    rewards: list[float]
    shown: list[_Shown]


def _made(environment: str) -> Any:
    gymnasium = require("gymnasium", "control")
    return gymnasium.make(environment)


def _episodes(
    environment: str, task: Task, policy: Policy, episodes: int, steps: int | None, seed: int
) -> _Done:
    """All episodes side by side, so that the network is asked once for all; what has ended stays as it is."""
    worlds = [_made(environment) for _ in range(episodes)]
    if isinstance(policy, Controller):
        policy.reset()
    now = np.stack([world.reset(seed=seed + n)[0] for n, world in enumerate(worlds)]).astype(np.float32)
    seen: list[list[np.ndarray]] = [[] for _ in worlds]
    done: list[list[np.ndarray]] = [[] for _ in worlds]
    rewards, over, ended = np.zeros(episodes), np.zeros(episodes, bool), np.zeros(episodes, bool)
    planned: list[list[tuple[int, np.ndarray]]] = [[] for _ in worlds]
    step = 0
    while not over.all() and (steps is None or step < steps):
        before = policy.asked if isinstance(policy, Controller) else 0
        actions = policy(now)
        if isinstance(policy, Controller) and policy.asked > before:
            ahead = np.concatenate([actions[:, None], policy.planned], axis=1)
            for n in np.flatnonzero(~over):
                planned[n].append((step, ahead[n]))
        space = worlds[0].action_space
        actions = np.clip(actions, space.low, space.high).astype(space.dtype)
        for n in np.flatnonzero(~over):
            done[n].append(actions[n])
            seen[n].append(now[n].copy())
            now[n], reward, stopped, late, _ = worlds[n].step(actions[n])
            rewards[n] += float(reward)
            ended[n], over[n] = stopped, stopped or late
        step += 1
    for world in worlds:
        world.close()
    succeeded = [task.succeeded(np.stack(one), bool(end)) for one, end in zip(seen, ended, strict=True)]
    parts = [(np.stack(states), np.stack(acts)) for states, acts in zip(seen, done, strict=True)]
    shown = [_Shown(*part, plan) for part, plan in zip(parts, planned, strict=True)]
    return _Done(succeeded, rewards.tolist(), shown)


def _drawn(shown: _Shown, task: Task, result: dict[str, Any]) -> str:
    """An episode: a film strip, states, and actions as planned, carried out, and as the expert would act."""
    steps, numbers = shown.executed.shape
    named = (*task.states, *(f"state {n + 1}" for n in range(len(task.states), shown.states.shape[1])))
    panels = [(name, {"states": shown.states[:, n]}) for n, name in enumerate(named[:4])]
    taught = None if task.expert is None else task.expert(shown.states)
    for n in range(min(4, numbers)):
        plan = np.full(steps, np.nan)
        for begun, chunk in shown.planned[
            :: max(1, result["execute"] if result["ensemble"] is not None else 1)
        ]:
            end = min(steps, begun + len(chunk))
            plan[begun:end] = chunk[: end - begun, n]
        lines = {"executed": shown.executed[:, n], "predicted": plan}
        if taught is not None:
            lines = {"expert": taught[:, n]} | lines
        panels.append((task.actions[n] if n < len(task.actions) else f"action {n + 1}", lines))
    strip = ""
    if result["environment"] == "Pendulum-v1":
        strip = film(shown.states, shown.executed[:, 0], task.rate)
    marks = [begun for begun, _ in shown.planned] if result["ensemble"] is None else []
    return strip + lines_figure(panels, task.rate, marks if result["execute"] > 1 else [])


def _page(drawn: dict[str, _Shown], task: Task, result: dict[str, Any]) -> str:
    """A table of successes, and episodes by their headings."""
    rows = "".join(
        f"<tr><td>{words}</td><td>{result[f'success{name}']:.2f}</td>"
        f"<td>{result[f'success{name}_low']:.2f} to {result[f'success{name}_high']:.2f}</td>"
        f"<td>{result[f'reward{name}']:.0f}</td></tr>"
        for name, words in (("", "this run"), ("_untrained", "untrained"),
                            ("_still", "no action"), ("_random", "random actions"), ("_expert", "expert"))
        if f"success{name}" in result
    )  # fmt: skip
    episodes = "".join(
        f"<h2>{html.escape(title)}</h2>{_drawn(shown, task, result)}" for title, shown in drawn.items()
    )
    title = html.escape(f"Rollouts in {result['environment']}")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>body{{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;"
        "padding:0 1rem;color:#1f2430}td,th{padding:.2rem 1rem .2rem 0;text-align:left}svg{width:100%;"
        f"height:auto;margin:1rem 0}}</style><h1>{title}</h1><p>Success: {html.escape(task.words)}. "
        f"{result['episodes']} episodes, {result['execute']} actions of a chunk carried out before the next "
        "is asked for.</p><table><tr><th>by</th><th>success</th><th>95 %</th><th>reward</th></tr>"
        f"{rows}</table><p>Predicted is what the newest chunk said; executed is that within what the "
        "actuator can do; expert is what the scripted expert would do in the very state. A thin line marks "
        "where the network was asked for a new chunk. A bar below a picture is the torque.</p>"
        f"{episodes}</html>"
    )
