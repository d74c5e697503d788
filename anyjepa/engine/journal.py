"""What a run tells while it trains: metrics.jsonl, TensorBoard, other trackers, progress for a person."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from anyjepa.core.errors import visible
from anyjepa.engine.files import append_line, explained, read_lines, write_whole
from anyjepa.engine.tracking import Tracker

PLAIN_SECONDS = 10.0
SHOWN = ("loss", "rankme", "samples_per_second")


class Journal:
    """Writes logged steps to the run's folder and shows them: a bar on a terminal, else a line now and then.

    Args:
        run: the run's folder.
        steps: of the whole training.
        start: steps already done; later rows of metrics.jsonl, written before a crash, are dropped.
        quiet: show nothing.
        writing: False in a process that leaves writing and speaking to another.
        tracker: is given each row too; when it fails, the run goes on without it.
    """

    def __init__(
        self,
        run: Path,
        steps: int,
        start: int = 0,
        quiet: bool = False,
        writing: bool = True,
        tracker: Tracker | None = None,
    ) -> None:
        self.path, self.writing, self.tracker = run / "metrics.jsonl", writing, tracker
        quiet = quiet or not writing
        if writing:
            kept = [row for row in read_lines(self.path) if row["step"] <= start]
            with explained(f"write {self.path}"):
                write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
                self.board = SummaryWriter(str(run), purge_step=start + 1 if start else None)
        self.console = Console(markup=False, emoji=False, stderr=True, quiet=quiet, soft_wrap=True)
        self.steps, self.last_line = steps, time.monotonic()
        self.bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} steps"),
            ]
            self.bar = Progress(
                *columns, TextColumn("{task.fields[figures]}"), TimeRemainingColumn(), console=self.console
            )
            self.task = self.bar.add_task("training", total=steps, completed=start, figures="")
            self.bar.start()

    def record(self, row: dict[str, Any]) -> None:
        """Log one row; `step` is required, what was not measured is absent."""
        if not self.writing:
            return
        append_line(self.path, row)
        # its writer is a thread of its own: what failed there is raised here, some rows later
        with explained(f"write TensorBoard's events beside {self.path}"):
            for name, value in row.items():
                if isinstance(value, int | float) and name != "step":
                    self.board.add_scalar(name, value, row["step"])
        self._track(row)
        figures = "  ".join(f"{name.replace('_', ' ')} {row[name]:.4g}" for name in SHOWN if name in row)
        if self.bar:
            self.bar.update(self.task, completed=row["step"], figures=figures)
        elif time.monotonic() - self.last_line > PLAIN_SECONDS or row["step"] == self.steps:
            self.last_line = time.monotonic()
            left = (self.steps - row["step"]) * row.get("seconds_per_step", 0.0)
            self.console.print(
                f"step {row['step']}/{self.steps}  {figures}  {left:.0f} s left", highlight=False
            )

    def _track(self, row: dict[str, Any]) -> None:
        if self.tracker is None:
            return
        figures = {n: float(v) for n, v in row.items() if isinstance(v, int | float) and n != "step"}
        try:
            self.tracker.record(row["step"], figures)
        except self.tracker.errors as problem:
            self._untracked(problem)

    def _untracked(self, problem: Exception) -> None:
        self.tracker = None
        self.say(f"the tracker failed, and the run goes on without it: {problem}", style="yellow")

    def say(self, message: str, style: str = "") -> None:
        """A sentence for the person, above the bar."""
        self.console.print(visible(message), style=style, highlight=False)

    def close(self) -> None:
        """Finish the bar and the event file."""
        if self.bar:
            self.bar.stop()
        if not self.writing:
            return
        with explained(f"write TensorBoard's events beside {self.path}"):
            self.board.close()
        if self.tracker is not None:
            try:
                self.tracker.close()
            except self.tracker.errors as problem:
                self._untracked(problem)
