"""Does predicting the states to come help a policy? ACT-JEPA beside actions alone, two stages, and controls.

    python benchmarks/imitation.py --seeds 0 1 2

A scripted expert swings up a simulated pendulum; encoders and decoders of one size (preset `tiny`) copy it:

    joint       ACT-JEPA: actions and the embeddings of states to come, together
    actions     actions alone (ACT without its variational part)
    two stages  states to come alone, then a new action decoder upon the frozen encoder
    shuffled    as joint, but the states to come are those of another sample
    one step    as joint, but one action at a time is predicted and carried out
    untrained   random weights

Of each: success and reward over the episodes of `Pendulum-v1` in closed loop, the whole chunk carried out
(or as many actions as --execute says); the mean absolute error of actions on held-out episodes, in their
deviations; RMSE and ATE of the states to come that a new predictor reads out of the frozen encoder on
held-out episodes. Then what the paper's note expects, each with its margin over seeds (Student t): checks 10
to 14. Four minutes a seed on one thread; runs that are there already are not trained again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from behaviours_runs import Bench, Claim, summary
from rich.console import Console
from rich.table import Table

from anyjepa.core.action_chunks import ActionChunks
from anyjepa.engine.run import Run
from anyjepa.evaluation.confidence import mean_interval
from anyjepa.evaluation.future import Probing, future_states
from anyjepa.evaluation.rollouts import rollout

RECIPE = "act-jepa"
COLUMNS = ("success", "reward", "action_error", "rmse", "ate")
KINDS: dict[str, dict[str, Any]] = {
    "joint": {},
    "actions": {"state_weight": 0.0},
    "shuffled": {"shuffle_targets": True},
    "one step": {"chunk": 1},
}


def method_of(run: Run) -> ActionChunks:
    """The run's method."""
    assert isinstance(run.method, ActionChunks)
    return run.method


@torch.inference_mode()
def spread(run: Run) -> float:
    """Deviation of the target's tokens over held-out samples, of each step and channel, averaged."""
    method, samples = method_of(run), run.open(split="test")
    batches = run.batches(samples, np.arange(0, len(samples), 4), 512)
    tokens = torch.cat([method.target(method.encoder.steps, batch).values for _, batch in batches])
    return float(tokens.std(0).mean())


def action_error(bench: Bench, run: Run) -> float:
    """Mean absolute error of actions of held-out episodes, in units of their deviations."""
    samples = run.open(split="test")
    batches = (batch for _, batch in run.batches(samples, np.arange(len(samples)), 512))
    return method_of(run).health(batches, bench.context())["action_error"]


def one_seed(options: argparse.Namespace, seed: int) -> tuple[dict[str, dict[str, float]], list[Claim]]:
    """Figures by kind of run and by column, and what is expected of them."""
    bench = Bench(seed, Path(options.out), options)
    steps = options.steps
    runs = {name: bench.trained(RECIPE, steps=steps, **fields) for name, fields in KINDS.items()}
    alone = bench.trained(RECIPE, steps=steps, action_weight=0.0)
    runs["two stages"] = bench.trained(
        RECIPE, steps=steps, init=str(alone.path), freeze=True, action_weight=1.0
    )
    rows: dict[str, dict[str, float]] = {}
    shared: dict[str, Any] = {}
    for name, run in runs.items():
        shared = rollout(run, episodes=options.episodes, execute=0 if name == "one step" else options.execute)
        rows[name] = {one: shared[one] for one in ("success", "success_low", "success_high", "reward")}
        rows[name]["action_error"] = action_error(bench, run)
        if name == "joint":
            for other in ("untrained", "still", "random", "expert"):
                rows[other] = {one: shared[f"{one}_{other}"] for one in ("success", "reward")}
            rows["untrained"]["action_error"] = action_error(bench, run.untrained())
    probed = {"actions": runs["actions"], "shuffled": runs["shuffled"], "two stages": alone}
    found = future_states(
        runs["joint"], others=probed, probing=replace(Probing(), depth=2, batch_size=128), seed=seed
    )
    for name in ("joint", "untrained", *probed):
        ending = "" if name == "joint" else f"_{name}"
        rows[name] |= {one: found[f"{one}{ending}"] for one in ("rmse", "ate")}
    rows["hold"] = {one: found[f"{one}_hold"] for one in ("rmse", "ate")}
    fresh = spread(alone.untrained())
    spreads = {
        name: spread(bench.trained(RECIPE, steps=steps, action_weight=0.0, teacher=name)) / fresh
        for name in ("none", "collapse")
    }
    joint, actions, random = (rows[name] for name in ("joint", "actions", "untrained"))
    claims = [
        Claim("success: joint above actions alone", joint["success"], actions["success"]),
        Claim("held-out action error: joint below actions alone", joint["action_error"],
              actions["action_error"], above=False),
    ]  # fmt: skip
    for one in ("rmse", "ate"):
        claims += [
            Claim(f"10: {one} of the probe, joint below actions alone", joint[one], actions[one], False),
            Claim(f"10: {one} of the probe, joint below untrained", joint[one], random[one], False),
            Claim(f"10: {one} of the probe, actions alone below untrained", actions[one], random[one], False),
            Claim(f"11: {one} of the probe, joint below shuffled", joint[one], rows["shuffled"][one], False),
        ]
    held = spread(alone) / fresh
    two, single = rows["two stages"], rows["one step"]
    claims += [
        Claim("12: spread of targets, EMA above the same encoder stopped", held, spreads["none"]),
        Claim("12: spread of targets, EMA above the same encoder not stopped", held, spreads["collapse"]),
        Claim("13: held-out action error, joint below two stages", joint["action_error"],
              two["action_error"], above=False),
        Claim("13: success, joint above two stages", joint["success"], two["success"]),
        Claim("14: reward, a chunk above one step at a time", joint["reward"], single["reward"]),
        Claim("14: reward, a chunk above no action", joint["reward"], rows["still"]["reward"]),
    ]  # fmt: skip
    return rows, claims


def show(found: list[dict[str, dict[str, float]]]) -> None:
    """A table of means over seeds, with what lies on each side of them where there are several."""
    table = Table("", *(name.replace("_", " ") for name in COLUMNS))
    for kind in found[0]:
        cells = []
        for column in COLUMNS:
            values = [rows[kind][column] for rows in found if column in rows[kind]]
            if not values:
                cells.append("")
            elif len(values) == 1:
                cells.append(f"{values[0]:.3f}")
            else:
                mean, low, _ = mean_interval(values)
                cells.append(f"{mean:.3f} +- {mean - low:.3f}")
        table.add_row(kind, *cells)
    Console(width=120, markup=False).print(table)


def main() -> None:
    """Train, measure and print; one JSON object a seed and one an expectation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=1000, help="of each training (default 1000)")
    parser.add_argument("--episodes", type=int, default=100, help="in closed loop (default 100)")
    parser.add_argument("--execute", type=int, default=0, help="actions of a chunk (default: all of them)")
    parser.add_argument("--out", default="runs/imitation", help="folder of the runs")
    options = parser.parse_args()
    found, claims = [], []
    for seed in options.seeds:
        rows, said = one_seed(options, seed)
        found.append(rows)
        claims.append(said)
        print(json.dumps({"seed": seed, **rows}), flush=True)
    show(found)
    for same in zip(*claims, strict=True):
        print(json.dumps(summary(list(same))))


if __name__ == "__main__":
    main()
