"""Files at an address (https:, s3: ...): small ones are read, large ones fetched into a bounded cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyjepa.core.errors import UserError, require

__all__ = ["cache_folder", "fetched", "is_remote", "kept", "local_copy"]

ADDRESS = re.compile(r"[a-z][a-z0-9+]+://")
BOUND = 50 * 2**30  # bytes of fetched shards; ANYJEPA_CACHE_GB says another
TRIES = 3
PATIENCE = 60.0  # seconds without an answer


def is_remote(place: str) -> bool:
    """Whether it is an address rather than a path."""
    return ADDRESS.match(place) is not None


def cache_folder() -> Path:
    """Where shards are kept: ANYJEPA_CACHE, or anyjepa in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("ANYJEPA_CACHE") or os.path.join(home, "anyjepa")) / "shards"


def fetched(place: str, name: str) -> bytes:
    """The content of a small file in a folder or at an address.

    Raises:
        UserError: it is not there.
    """
    path = f"{place}/{name}" if is_remote(place) else os.path.join(place, name)
    try:
        if not is_remote(place):
            return Path(path).read_bytes()
        with _opened(path) as file:
            return file.read()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error}): shards need the {name} that `anyjepa pack` makes."
        ) from None


def local_copy(address: str, size: int) -> str:
    """Path of a shard's copy on this machine, fetched whole where it is not here; raises OSError."""
    name = address.rpartition("/")[2]
    return kept(f"{address} {size}", name, size, lambda path: _fetch(address, path, size), size)


def kept(what: str, name: str, room: int, make: Callable[[Path], None], size: int | None = None) -> str:
    """Path of a file in the bounded cache, made where it is not there.

    Processes of one machine make a file once: the first does, the others wait. What was used longest ago goes
    when all would take more than the bound.

    Args:
        what: tells it from all other files.
        name: that a person can tell it by.
        room: bytes that it takes, about.
        make: writes it, whole or not at all; what it raises comes through.
        size: bytes that it must have, where they are known.
    """
    from filelock import FileLock

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.blake2b(what.encode(), digest_size=12).hexdigest()
    path = folder / f"{digest}-{name}"
    if _there(path, size):
        return str(path)
    with FileLock(folder / f".{digest}.lock"):
        if _there(path, size):
            return str(path)
        _make_room(folder, room)
        make(path)
    return str(path)


def _there(path: Path, size: int | None) -> bool:
    try:
        if size is None or path.stat().st_size == size:
            os.utime(path)
            return True
    except FileNotFoundError:
        pass
    return False


def _fetch(address: str, path: Path, size: int) -> None:
    beside = path.with_name(f".{path.name}.partial")
    problem: Exception | None = None
    for _ in range(TRIES):
        try:
            with _opened(address) as source, open(beside, "wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            if beside.stat().st_size == size:
                os.replace(beside, path)
                return
            problem = OSError(f"{address} gave {beside.stat().st_size:,} bytes, not {size:,}")
        except (OSError, ValueError) as error:
            problem = error
        finally:
            beside.unlink(missing_ok=True)
    raise OSError(f"{address} cannot be fetched ({problem})")


def _opened(address: str) -> Any:
    """A stream of bytes. Addresses of the web need no library, and fail with an OSError whatever happens."""
    if address.startswith(("http://", "https://")):
        return urllib.request.urlopen(address, timeout=PATIENCE)
    return require("fsspec", "hub").open(address, "rb").open()


def _make_room(folder: Path, size: int) -> None:
    """Remove what was used longest ago; who has a file open goes on reading it."""
    bound = float(os.environ.get("ANYJEPA_CACHE_GB") or BOUND / 2**30) * 2**30
    found: list[tuple[float, int, Path]] = []
    for file in folder.iterdir():
        # another thread or process may make room at the same moment
        with contextlib.suppress(FileNotFoundError):
            if file.name[0] != ".":
                facts = file.stat()
                found.append((facts.st_mtime, facts.st_size, file))
    total = size
    for _, taken, file in sorted(found, reverse=True):
        total += taken
        if total > bound:
            file.unlink(missing_ok=True)
