"""A run's folder read without torch: its settings, and whether it is still being trained."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import yaml

from anyjepa.core.errors import UserError, nearest

RECOVERED = "no longer collapsed"  # the warning that ends another
NEEDED = {"recipe", "fields", "seed", "steps", "data"}
LARGEST = 4_000_000  # bytes of a config.yaml; a real one has thousands
SILENT = 600.0  # seconds: a run saves each minute, so one of another machine that is silent longer has died
_Loader: Any = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # ten times as fast, where yaml was built with it


def read_config(path: Path | str) -> dict[str, Any]:
    """``config.yaml`` of a run's folder.

    Raises:
        UserError: the folder is not a run.
    """
    path = Path(path)
    file = path / "config.yaml"
    if not file.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = "" if path.exists() else nearest(path.name, siblings)
        raise UserError(f"{path} is not a run: it has no config.yaml.{hint}")
    try:
        too_large = file.stat().st_size > LARGEST
        config = None if too_large else yaml.load(file.read_text(), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
        raise UserError(f"{file} is not readable YAML ({problem}); restore it from a copy.") from problem
    if not isinstance(config, dict) or not config.keys() >= NEEDED:
        raise UserError(f"{file} does not describe a run; restore it from a copy.")
    return config


def state(folder: Path, config: dict[str, Any]) -> str:
    """What has become of a run: ``finished``, ``stopped``, ``imported``, ``training`` or ``died``.

    The settings say ``training`` until the end, so a process that was killed leaves that word behind, and the
    name of process and machine that `sole_owner` wrote. On this machine the process is looked for; a run of
    another machine is taken for dead when it has been silent for ten minutes.
    """
    said = str(config.get("status", "finished"))
    if said != "training":
        return said
    return "training" if _alive(folder) else "died"


def _alive(folder: Path) -> bool:
    holder = folder / ".holder"
    try:
        said, seen = holder.read_text(errors="replace"), holder.stat().st_mtime
    except OSError:
        return False  # a training that ended of itself, be it by an error, takes its name away
    number, _, machine = said.partition(" on ")
    if machine == socket.gethostname() and number.isascii() and number.isdigit():
        return _process(int(number), seen)
    told = [holder, folder / "metrics.jsonl", folder / "checkpoints"]
    return time.time() - max(path.stat().st_mtime for path in told if path.exists()) < SILENT


def _process(number: int, seen: float) -> bool:
    """Process `number` of this machine lives, and is no later one that was given the same number.

    Args:
        number: of the process.
        seen: when it certainly ran, in seconds since 1970.
    """
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it lives and is somebody else's
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        booted = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    except OSError:
        return True  # a system without /proc, which cannot say more
    started = float(booted[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK") if booted else 0.0
    return fields[0] != "Z" and started <= seen + 2
