"""Making reports for the page: each in a process of its own, one at a time, in the order asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

Command = Sequence[str]
REPORT: Command = (sys.executable, "-m", "anyjepa", "report")


class Reporter:
    """A queue of reports to make.

    A report needs torch and all the memory of a run's network, which the board itself does without.

    Args:
        command: that makes a report of the folder put behind it.
    """

    def __init__(self, command: Command = REPORT) -> None:
        self.command = list(command)
        self.states: dict[str, tuple[str, str]] = {}
        self.waiting: list[tuple[str, Path]] = []
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()
        self.closed = False

    def ask(self, name: str, folder: Path) -> None:
        """Have the report of run `name` made, unless it is waited for already."""
        with self.lock:
            if self.closed or self.states.get(name, ("", ""))[0] in ("waiting", "making"):
                return
            idle = not any(state in ("waiting", "making") for state, _ in self.states.values())
            self.states[name] = ("waiting", "")
            self.waiting.append((name, folder))
            if idle:
                threading.Thread(target=self._work, name="reports", daemon=True).start()

    def state(self, name: str) -> Mapping[str, str]:
        """``state``: "", "waiting", "making", "made" or "failed"; ``words``: why it failed."""
        state, words = self.states.get(name, ("", ""))
        return {"state": state, "words": words}

    def _work(self) -> None:
        while True:
            with self.lock:
                if self.closed or not self.waiting:
                    return
                name, folder = self.waiting.pop(0)
                self.states[name] = ("making", "")
                self.process = subprocess.Popen(
                    [*self.command, str(folder), "--json"],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                    errors="replace", env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )  # fmt: skip
            out, complaint = self.process.communicate()
            with self.lock:
                self.states[name] = self._outcome(self.process.returncode, out, complaint)
                self.process = None

    def _outcome(self, code: int, out: str, complaint: str) -> tuple[str, str]:
        try:
            if code == 0 and "report" in json.loads(out.splitlines()[-1]):
                return "made", ""
        except (IndexError, ValueError, TypeError):
            pass
        lines = [line for line in complaint.splitlines() if line.strip()]
        return "failed", lines[-1].removeprefix("error: ")[:500] if lines else f"it ended with code {code}"

    def close(self) -> None:
        """End the report that is being made, and make no more."""
        with self.lock:
            self.closed = True
            if self.process:
                self.process.terminate()
