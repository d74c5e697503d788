"""What share of the training time do the online health measures cost?

Trains a recipe as a user would and counts the time inside the collapse watch (`engine.watch.Watch`: keeping
embeddings each step, and RankMe, its centred form and the spread at each logged row), as a share of the whole
training loop. Both are processor time of the one thread that trains, so a busy machine does not change the
share; wall-clock time is given beside it. Run it with OMP_NUM_THREADS=1.

    OMP_NUM_THREADS=1 python benchmarks/watch_cost.py --data digits --steps 200

Other flags are fields of the recipe.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyjepa.engine.train import Settings, train
from anyjepa.engine.watch import Watch
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words

CLOCKS = {"processor": time.thread_time, "wall": time.perf_counter}


class Clock:
    """Time spent in a function, by both clocks."""

    def __init__(self, name: str) -> None:
        self.name, self.calls = name, 0
        self.spent = dict.fromkeys(CLOCKS, 0.0)

    def around(self, function: Callable) -> Callable:
        """The same function, its time counted."""

        def timed(*given: Any) -> Any:
            begun = {name: clock() for name, clock in CLOCKS.items()}
            result = function(*given)
            for name, clock in CLOCKS.items():
                self.spent[name] += clock() - begun[name]
            self.calls += 1
            return result

        return timed


def measure(
    name: str, data: str, steps: int, log_every: int, preset: str, fields: dict[str, Any]
) -> dict[str, Any]:
    """Seconds in the watch and between the first and last logged row, and the share."""
    see, ask = Clock("see"), Clock("measure")
    kept, marks = (Watch.see, Watch.measure), []
    Watch.see, Watch.measure = see.around(Watch.see), ask.around(Watch.measure)

    def mark(_row: dict[str, Any]) -> None:
        marks.append(
            {clock: CLOCKS[clock]() for clock in CLOCKS}
            | {f"watch_{clock}": see.spent[clock] + ask.spent[clock] for clock in CLOCKS}
        )

    try:
        with tempfile.TemporaryDirectory() as scratch:
            settings = Settings(
                steps=steps, log_every=log_every, checkpoint_every=10**9, workers=0, device="cpu", quiet=True
            )
            train(name, data, Path(scratch) / "run", preset=preset, settings=settings, observe=mark, **fields)
    finally:
        Watch.see, Watch.measure = kept
    first, last = marks[0], marks[-1]  # what comes before the first row is warm-up
    found: dict[str, Any] = {"recipe": name, "preset": preset, "data": data, "steps": steps}
    for clock in CLOCKS:
        whole, inside = last[clock] - first[clock], last[f"watch_{clock}"] - first[f"watch_{clock}"]
        found |= {f"{clock}_seconds": whole, f"{clock}_in_watch": inside, f"{clock}_share": inside / whole}
    return found | {"milliseconds_a_measure": 1000 * ask.spent["processor"] / ask.calls}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe", nargs="?", default="i-jepa")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--log-every", type=int, default=Settings.log_every)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options, rest = parser.parse_known_args(arguments)
    fields = parse_words(recipe(options.recipe), rest)
    found = measure(options.recipe, options.data, options.steps, options.log_every, options.preset, fields)
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['recipe']} {found['preset']} on {found['data']}, {found['steps']} steps: the watch "
            f"takes {100 * found['processor_share']:.2f} % of the processor time "
            f"({100 * found['wall_share']:.2f} % of the wall clock), "
            f"{found['milliseconds_a_measure']:.1f} ms a measurement"
        )


if __name__ == "__main__":
    main()
