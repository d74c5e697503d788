"""Writing so that nothing is lost: whole or not at all. Imports no torch."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
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
        return "the disk is full; free some space and try again, a training with --resume"
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
    """Add one object to a JSON-lines file; where there is no room for it the file stays as it was.

    A last line that a kill cut off is taken away first, for `read_lines` reads nothing behind it.
    """
    with explained(f"write {path}"):
        new = not path.exists()
        with open(path, "ab+", buffering=0) as file:
            whole = _whole_lines(file)
            file.truncate(whole)
            line = (json.dumps(row) + "\n").encode()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(whole)
                if new:
                    path.unlink(missing_ok=True)
                raise


def _whole_lines(file: FileIO) -> int:
    """Bytes up to the end of the last whole line."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return (file.read() or b"").rfind(b"\n") + 1
