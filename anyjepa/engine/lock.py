"""One process group at a time trains into a folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from anyjepa.core.errors import UserError
from anyjepa.engine.files import explained


@contextmanager
def sole_owner(run: Path) -> Iterator[None]:
    """Hold the run's lock, which the system lets go of when the process ends, however it ends.

    Raises:
        UserError: another process holds it; names the process.
    """
    lock, holder = FileLock(run / ".lock"), run / ".holder"
    with explained(f"use {run} for the run"):
        try:
            lock.acquire(timeout=0)
        except Timeout:  # an OSError too
            raise UserError(
                f"another process{_named(holder)} is training into {run}: wait for it, stop it, or choose "
                "another --out."
            ) from None
    try:
        with explained(f"use {run} for the run"):
            holder.write_text(f"{os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _named(holder: Path) -> str:
    try:
        return f" ({holder.read_text()})"
    except OSError:
        return ""
