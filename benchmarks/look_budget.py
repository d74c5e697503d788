"""What `anyjepa look` says a training will cost, against what it then costs.

    python benchmarks/look_budget.py --data /work/shared/data [--only mnist ecg200] [--out budget.json]

For every folder below --data that some kind of data reads, and every recipe's example data: `look` proposes
a training and estimates it; then the proposed command runs twice, for few and for more steps. The true time
of a step is, on the wall clock, the mean of what the longer run logged after its first row; in processor
seconds of the training process, the difference of the two runs over the difference of their steps. Memory is
the largest resident memory of the longer run. Where other work shares the processors, the wall clock tells
more of that than of the training: --clock processor then judges by what was computed. The exit code is 0
where every estimate is within a factor of two.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.engine.files import read_lines
from anyjepa.recipes import recipes

CLOCK = {"wall": "seconds_per_epoch", "processor": "processor_seconds_per_epoch"}
MEASURED = (*CLOCK.values(), "memory_megabytes")
TIMED = 8.0  # seconds that the additional steps of the longer run should take
RUN = (
    "import sys; from anyjepa.cli import main; from anyjepa.engine.budget import peak_memory; "
    "import time; code = main(sys.argv[1:]); print(peak_memory(), time.process_time()); sys.exit(code)"
)


def trained(command: str, steps: int) -> tuple[float, float, int]:
    """Of a command cut to so many steps: wall-clock seconds a step, processor seconds, memory in bytes."""
    words = shlex.split(command)[1:]
    words[words.index("--steps") + 1] = str(steps)
    with tempfile.TemporaryDirectory(prefix="look-budget-") as folder:
        words[words.index("--out") + 1] = str(Path(folder, "run"))
        answer = subprocess.run(
            [sys.executable, "-c", RUN, *words, "--quiet", "true"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        memory, processor = answer.stdout.splitlines()[-1].split()
        rows = read_lines(Path(folder, "run", "metrics.jsonl"))
    steps = [row["seconds_per_step"] for row in rows[1:] or rows]
    return sum(steps) / len(steps), float(processor), int(memory)


def compared(source: str) -> dict[str, float | str] | None:
    """Estimate and truth for one source; None where nothing can be trained on it."""
    begun = time.perf_counter()
    said = anyjepa.look(source)
    looked = time.perf_counter() - begun
    if "command" not in said:
        return None
    few = 5
    more = few + max(20, round(TIMED / said["seconds_per_step"]))
    _, short_processor, _ = trained(said["command"], few)
    step, long_processor, memory = trained(said["command"], more)
    steps_per_epoch = said["seconds_per_epoch"] / said["seconds_per_step"]
    scale = steps_per_epoch / (more - few)
    return {
        "source": source,
        "domain": said["domain"],
        "recipe": said["recipe"],
        "samples": said["samples"],
        "look_seconds": looked,
        "seconds_per_epoch": said["seconds_per_epoch"],
        "true_seconds_per_epoch": step * steps_per_epoch,
        "processor_seconds_per_epoch": said["processor_seconds_per_epoch"],
        "true_processor_seconds_per_epoch": (long_processor - short_processor) * scale,
        "memory_megabytes": said["memory_bytes"] / 1e6,
        "true_memory_megabytes": memory / 1e6,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder of folders, each a source")
    parser.add_argument("--only", nargs="*", help="names of the sources")
    parser.add_argument("--clock", choices=CLOCK, default="wall", help="that the factor of two is judged by")
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    sources = list(dict.fromkeys(kind.example_data for kind in recipes().values()))
    sources += (
        [str(folder) for folder in sorted(options.data.iterdir()) if folder.is_dir()] if options.data else []
    )
    rows, worst = [], 1.0
    print("estimate / truth of an epoch on the wall clock and in processor seconds, and of memory in MB")
    for source in sources:
        if options.only and Path(source).name not in options.only:
            continue
        try:
            row = compared(source)
        except UserError as mistake:
            print(f"{Path(source).name:20}{mistake}")
            continue
        if row is None:
            continue
        rows.append(row)
        ratios = {name: row[name] / row[f"true_{name}"] for name in MEASURED}
        judged = [ratios[CLOCK[options.clock]], ratios["memory_megabytes"]]
        worst = max(worst, *judged, *(1 / max(ratio, 1e-9) for ratio in judged))
        cells = [f"{row[name]:.3g} / {row[f'true_{name}']:.3g} = {ratios[name]:.2f}" for name in MEASURED]
        shown = " | ".join([Path(source).name, row["recipe"], f"{row['look_seconds']:.0f} s", *cells])
        print(f"| {shown} |", flush=True)
    print(
        f"{len(rows)} sources; the estimate furthest off is so by a factor of {worst:.2f} ({options.clock})"
    )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if worst <= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
