"""The runs of a folder as rows of a table: settings, state, figures, health and scores of each."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anyjepa.board.growing import Glance, Growing, History, number, own_file, row_of, smoothed
from anyjepa.core.errors import UserError
from anyjepa.engine.folder import RECOVERED, read_config, state
from anyjepa.reports.charts import thin

Curve = dict[str, Any]
KEPT = 256  # curves of a run that are kept until it goes on
DEPTH = 4  # folders below the given one that are looked into: runs/sweep/trial-000 is two
LONGEST = 300  # characters of a text, and
MOST = 64  # items of a list, that are shown of settings
TOLD = ("data", "labels_fraction", "shots", "ways", "episode_shots")  # what makes two results comparable
SCORE = (
    "probe", "metric", "value", "low", "high", "untrained", "untrained_low", "untrained_high", "raw",
    "raw_low", "raw_high", "train", "test", *TOLD,
)  # fmt: skip


def found(root: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of each run below `root`, which may be one; links to folders are not followed."""
    if own_file(root / "config.yaml"):
        yield root.name or ".", root
        return
    level = [("", root)]
    for _ in range(DEPTH):
        below = []
        for name, folder in level:
            for entry in _folders(folder):
                inner = (f"{name}/{entry.name}" if name else entry.name, Path(entry.path))
                if own_file(inner[1] / "config.yaml"):
                    yield inner
                else:
                    below.append(inner)
        level = below


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (one for one in entries if one.name[0] != "." and one.is_dir(follow_symlinks=False)),
                key=lambda one: one.name,
            )
    except OSError:
        return []  # removed meanwhile, or not ours to read


class Watched:
    """One run, read again only where its files have changed.

    Args:
        name: its path below the folder of runs, or the name of the run's own folder.
        folder: of the run.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.glance, self.history = Glance(folder / "metrics.jsonl"), History(folder / "metrics.jsonl")
        self.evaluated, self.skips = Growing(folder / "evaluations.jsonl"), Growing(folder / "skipped.jsonl")
        self.results: list[dict[str, Any]] = []
        self.skipped: list[dict[str, Any]] = []
        self.config: dict[str, Any] = {}
        self.problem, self.seen = "", (0, 0)
        self.drawn: dict[tuple[str, str, int], Curve] = {}
        self.drawn_at = (0, 0)

    def update(self) -> None:
        """Read what is new; what cannot be read is said in `problem`."""
        try:
            changed = (self.folder / "config.yaml").stat()
            if self.seen != (stamp := (changed.st_mtime_ns, changed.st_size)):
                self.config, self.seen, self.problem = read_config(self.folder), stamp, ""
            self.glance.update()
            _collect(self.evaluated, self.results)
            _collect(self.skips, self.skipped)
        except (UserError, OSError) as problem:
            self.config, self.seen, self.problem = {}, (0, 0), text(problem)

    def row(self) -> dict[str, Any]:
        """What the table shows of it, in values that JSON knows."""
        if not self.config:
            return {
                "run": self.name,
                "path": str(self.folder),
                "state": "unreadable",
                "problem": self.problem,
            }
        config, last = self.config, self.glance.last
        data = config["data"] if isinstance(config["data"], dict) else {}
        tone, words = health(self.glance.first, last, [said for _, said in self.glance.warnings])
        return {
            "run": self.name,
            "path": str(self.folder),
            "state": self._state(),
            "recipe": text(config["recipe"]),
            "domain": text(data.get("kind", "")),
            "data": text(data.get("description", "")),
            "step": int(number(last.get("step")) or 0),
            "steps": int(number(config["steps"]) or 0),
            "figures": {text(k): value for k in last if (value := number(last[k])) is not None},
            "health": {"tone": tone, "words": words},
            "scores": [score for one in newest(self.results) if (score := _score(one))],
            "fields": _fields(config, data),
            "skipped": len(self.skipped),
            "written": self._written("metrics.jsonl") or self._written("config.yaml"),
            "report": self._written("report.html"),
            "version": f"{self.glance.lines.inode}-{self.glance.lines.offset}",
        }

    def _state(self) -> str:
        try:
            return text(state(self.folder, self.config))
        except OSError:
            return "unreadable"

    def _written(self, name: str) -> float | None:
        """When a file was last written, in seconds since 1970."""
        found = own_file(self.folder / name)
        return found and found.st_mtime

    def curves(self, fields: Sequence[str], along: str, smooth: int) -> dict[str, Curve]:
        """Thinned points of figures: {figure: {"x", "y"}}, and "smooth_x", "smooth_y" where asked for."""
        self.history.update()
        stamp = (self.history.lines.inode, self.history.lines.offset)
        if self.drawn_at != stamp or len(self.drawn) > KEPT:
            self.drawn, self.drawn_at = {}, stamp
        for name in fields:
            if (name, along, smooth) not in self.drawn:
                self.drawn[name, along, smooth] = self._curve(name, along, smooth)
        found = {name: self.drawn[name, along, smooth] for name in fields}
        return {name: curve for name, curve in found.items() if curve}

    def _curve(self, name: str, along: str, smooth: int) -> Curve:
        x, y = self.history.series(name, along, number(self.config.get("batch_size")) or 1.0)
        if not len(x):
            return {}
        curve: Curve = dict(zip(("x", "y"), _points(x, y), strict=True))
        if smooth > 1:
            curve |= dict(zip(("smooth_x", "smooth_y"), _points(x, smoothed(y, smooth)), strict=True))
        return curve

    def details(self) -> dict[str, Any]:
        """What is shown of one run alone, beside its row."""
        skipped = [(text(row.get("sample")), text(row.get("reason"))) for row in self.skipped[:20]]
        warnings = [(number(step), text(said)) for step, said in self.glance.warnings[-20:]]
        return {**self.row(), "skipped_first": skipped, "warnings": warnings}


def _points(x: Any, y: Any) -> tuple[list[float], list[float | None]]:
    kept, values = thin(x, y)
    return [float(f"{one:.7g}") for one in kept], [number(float(f"{one:.6g}")) for one in values]


def _collect(lines: Growing, rows: list[dict[str, Any]]) -> None:
    restarted, new = lines.new()
    if restarted:
        rows.clear()
    rows.extend(row for line in new if (row := row_of(line)) is not None)


def health(first: Mapping[str, Any], last: Mapping[str, Any], warnings: Sequence[str]) -> tuple[str, str]:
    """Tone ("good", "care", "bad", "unknown") and words for what was measured while it trained.

    Args:
        first: the first logged row.
        last: the newest.
        warnings: of the training, in their order.
    """
    if warnings and warnings[-1] != RECOVERED:
        return "bad", text(warnings[-1])
    rank, was = number(last.get("rankme_centred")), number(first.get("rankme_centred"))
    if rank is None or was is None:
        return "unknown", "not measured yet"
    evidence = f"effective rank {rank:.1f}, at first {was:.1f}"
    if rank < was / 2:
        return "care", f"shrinking: {evidence}"
    if rank <= was:
        return "care", f"no gain in rank: {evidence}"
    return "good", f"{'recovered' if warnings else 'healthy'}: {evidence}"


def newest(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest result of each probe, metric, data and number of labels."""
    told = {tuple(str(row.get(key)) for key in ("probe", "metric", *TOLD)): row for row in results}
    return list(told.values())


def _score(row: dict[str, Any]) -> dict[str, Any] | None:
    if number(row.get("value")) is None:
        return None
    kept = {key: plain(row[key]) for key in SCORE if row.get(key) is not None}
    return {**kept, "probe": text(row.get("probe", "")), "metric": text(row.get("metric", ""))}


def _fields(config: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """All that two runs may differ in, by name."""
    top = {name: config[name] for name in ("preset", "seed", "steps", "init") if name in config}
    inner = config["fields"] if isinstance(config["fields"], dict) else {}
    versions = config.get("versions")
    named = (
        {f"{name} version": value for name, value in versions.items()} if isinstance(versions, dict) else {}
    )
    about = {f"data {key}": data.get(key) for key in ("source", "samples", "fingerprint") if key in data}
    return {text(name): plain(value) for name, value in {**top, **inner, **about, **named}.items()}


def plain(value: Any) -> Any:
    """A number, a truth value, a text, or a list of these, that JSON holds; all else as short text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        finite = number(value)
        return text(value) if finite is None else value
    if isinstance(value, list):
        return ["…" if isinstance(item, list) else plain(item) for item in value[:MOST]]
    return "…" if isinstance(value, dict) else text(value)


def text(value: Any) -> str:
    """At most 300 characters, of valid Unicode: a file name need not be."""
    said = str(value)
    said = said if len(said) <= LONGEST else said[:LONGEST] + "…"
    return said.encode("utf-8", errors="backslashreplace").decode()


class Runs:
    """All runs below a folder, as they are now. Several threads may ask.

    Args:
        root: the folder.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"there is no folder {root}: name the folder that holds the runs' folders.")
        self.root = root.resolve()
        self.known: dict[str, Watched] = {}
        self.lock = threading.Lock()

    def rows(self) -> list[dict[str, Any]]:
        """A row for each run."""
        with self.lock:
            self._look()
            for run in self.known.values():
                run.update()
            return [run.row() for run in self.known.values()]

    def _look(self) -> None:
        there = {text(name): folder for name, folder in found(self.root)}
        self.known = {name: self.known.get(name) or Watched(name, folder) for name, folder in there.items()}

    def get(self, name: str) -> Watched | None:
        """The run of that name, found by looking through the folder: no path is ever made of a name."""
        with self.lock:
            if name not in self.known:
                self._look()
            run = self.known.get(name)
            if run:
                run.update()
            return run

    def curves(
        self, names: Sequence[str], fields: Sequence[str], along: str, smooth: int
    ) -> dict[str, dict[str, Any]]:
        """Of each run that is there, its `Watched.curves`."""
        runs = [run for name in names if (run := self.get(name))]
        with self.lock:
            return {run.name: run.curves(fields, along, smooth) for run in runs}
