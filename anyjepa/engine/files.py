"""Writing so that nothing is lost: whole or not at all. Imports no torch."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyjepa.core.errors import UserError


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn a failure of the disk while `doing` something into one sentence with the fix."""
    try:
        yield
    except OSError as problem:
        raise UserError(f"cannot {doing}: {reason(problem)}.") from problem


def reason(problem: OSError) -> str:
    """What a failed read or write means for the person."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and go on with --resume"
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to use {problem.filename or 'that place'}; choose another --out"
    return problem.strerror or str(problem)


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, sync, rename: `path` holds the old content or the new, never a part."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, none if there is no file; a last line cut off is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Add one object to a JSON-lines file."""
    with explained(f"write {path}"), open(path, "a") as file:
        file.write(json.dumps(row) + "\n")
