"""What a training will cost: a few real steps of it, timed in a process of their own.

The process opens the source, measures it, and trains as `anyjepa train` would, loader and all; what it needed
is what a training needs. ``python -m anyjepa.engine.budget`` is that process: settings as JSON on its stdin,
figures as JSON in the last line of its stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from anyjepa.core.errors import UserError

SECONDS = 4.0  # of training that is timed, after the warm-up
LONGEST = 20.0  # seconds after which no further steps are timed, were they ever so slow
TIMED_OUT = 300.0
BETWEEN = 5  # steps between two readings of the clock
ROWS = 3  # readings at least, the first of which is warm-up
KIBIBYTE = 1024


@dataclass(frozen=True)
class Budget:
    """What training costs on this machine.

    Args:
        seconds_per_step: what a step takes where other work leaves the processors alone: the quickest of the
            readings; their median where a loader or an accelerator may be what is waited for.
        median_seconds_per_step: over the readings, whatever else the machine did.
        processor_seconds_per_step: that the training process itself computed, in all its threads; where this
            is much less, it waited for its loader or for other work on the machine.
        memory_bytes: largest resident memory of the training process, Python and torch included; the
            processes that load samples share most of it and are not counted.
        device_memory_bytes: largest memory that was taken on an accelerator; None on the CPU.
        steps: that were timed.
        device: cpu, cuda or mps.
    """

    seconds_per_step: float
    median_seconds_per_step: float
    processor_seconds_per_step: float
    memory_bytes: int
    device_memory_bytes: int | None
    steps: int
    device: str


def rehearse(
    recipe: str,
    source: str,
    preset: str,
    fields: Mapping[str, Any],
    *,
    steps: int,
    device: str = "auto",
    max_bad_fraction: float = 0.01,
    resident: bool = False,
    seconds: float = SECONDS,
) -> Budget:
    """Train for some seconds in a process of its own and say what it cost.

    Args:
        recipe: its name.
        source: as typed.
        preset: of the recipe.
        fields: over the preset's.
        steps: of the whole training, of which only the first are done.
        device: auto, cpu, cuda or mps.
        max_bad_fraction: as of `Settings`.
        resident: the data is held in memory, so that no loader is waited for.
        seconds: of training that is timed.

    Raises:
        UserError: such a training cannot begin; the message is the one it gave.
    """
    asked = {
        "recipe": recipe, "source": source, "preset": preset, "fields": dict(fields), "steps": steps,
        "device": device, "max_bad_fraction": max_bad_fraction, "resident": resident, "seconds": seconds,
    }  # fmt: skip
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    answer = subprocess.run(
        [sys.executable, "-m", "anyjepa.engine.budget"],
        input=json.dumps(asked), capture_output=True, text=True, timeout=TIMED_OUT, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    lines = answer.stdout.splitlines()
    if answer.returncode or not lines:
        raise UserError(_last(answer.stderr) or f"the trial ended with exit code {answer.returncode}.")
    figures = json.loads(lines[-1])
    if "mistake" in figures:
        raise UserError(figures["mistake"])
    return Budget(**figures)


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return f"the trial broke off: {lines[-1]}" if lines else ""


def _train(asked: Mapping[str, Any]) -> Budget:
    import torch

    from anyjepa.engine.run import choose_device
    from anyjepa.engine.train import Settings, train

    rows: list[float] = []
    clocks: list[tuple[float, float]] = []

    def observe(row: dict[str, Any]) -> str | None:
        clocks.append((time.monotonic(), time.process_time()))
        rows.append(row["seconds_per_step"])
        timed = clocks[-1][0] - clocks[0][0]
        enough = len(rows) >= ROWS and timed >= asked["seconds"]
        return "timed" if enough or timed >= LONGEST else None

    settings = Settings(
        steps=asked["steps"], log_every=BETWEEN, quiet=True, device=asked["device"],
        max_bad_fraction=asked["max_bad_fraction"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="anyjepa-look-") as folder:
        train(
            asked["recipe"], asked["source"], Path(folder, "run"), preset=asked["preset"], settings=settings,
            observe=observe, **{name: _tuple(value) for name, value in asked["fields"].items()},
        )  # fmt: skip
    device = choose_device(asked["device"])
    taken = int(torch.cuda.max_memory_allocated()) if device.type == "cuda" else None
    timed = rows[1:] or rows
    steps = len(timed) * BETWEEN
    computed = (clocks[-1][1] - clocks[0][1]) / max(1, steps) if len(rows) > 1 else timed[0]
    # steps are alike: what makes one slower, where nothing is loaded, is other work
    usual = median(timed)
    step = min(timed) if asked["resident"] and device.type == "cpu" else usual
    return Budget(step, usual, computed, peak_memory(), taken, steps, device.type)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes.

    The kernel's own count where there is one: what `getrusage` tells is also the parent's, at the moment
    that it started this process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIBIBYTE
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * KIBIBYTE


def main() -> int:
    """The process: train as stdin says and print the figures."""
    try:
        figures = vars(_train(json.load(sys.stdin)))
    except UserError as mistake:
        figures = {"mistake": str(mistake)}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
