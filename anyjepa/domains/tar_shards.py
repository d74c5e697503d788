"""WebDataset tar shards, read at random: an index made once on opening says where each member's bytes are."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.names import Names
from anyjepa.domains.sources import (
    NoSplit,
    as_labels,
    existing,
    index_classes,
    is_split,
    named_split,
    split_order,
)

__all__ = ["TarShards", "expand_braces", "find_shards", "shard_labels"]

OPEN_SHARDS = 64


def expand_braces(pattern: str) -> list[str]:
    """``a-{00..02}.tar`` as three names and ``{a,b}`` as two, nested or side by side."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    run = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if run:
        first, last = int(run[1]), int(run[2])
        width = len(run[1]) if run[1].startswith("0") or len(run[1]) == len(run[2]) else 0
        step = 1 if last >= first else -1
        inner = [str(number).zfill(width) for number in range(first, last + step, step)]
    else:
        inner = match[1].split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return list(dict.fromkeys(name for word in inner for name in expand_braces(head + word + tail)))


def find_shards(pattern: str, split: str | None) -> list[str]:
    """Paths of the shards that a pattern with braces and wildcards names, or of all in a folder.

    Where shards (or the folders they are in) begin with the names of splits, those of ``split`` are taken, of
    train where it is None. Raises UserError where a shard is missing or there is none, NoSplit.
    """
    paths: list[str] = []
    for name in expand_braces(os.path.expanduser(pattern)):
        if glob.has_magic(name) and not os.path.exists(name):
            paths += sorted(glob.glob(name, recursive=True))
        else:
            found = existing(name)
            paths += sorted(glob.glob(os.path.join(glob.escape(name), "*.tar"))) if found.is_dir() else [name]
    paths = list(dict.fromkeys(paths))
    if not paths:
        raise UserError(f"wds:{pattern} names no tar shard: give the path of one, braces and * as in a shell")
    return _of_split(paths, split)


def _of_split(paths: list[str], split: str | None) -> list[str]:
    splits = [
        named_split(os.path.basename(path)) or named_split(os.path.basename(os.path.dirname(path)))
        for path in paths
    ]
    if split is None and len(set(splits)) == 1:
        return paths
    if not any(splits) and split_order(split)[0].lower() in split_order("train"):
        return paths
    for word in split_order(split):
        chosen = [
            path for path, named in zip(paths, splits, strict=True) if named and named_split(word) == named
        ]
        if chosen:
            return chosen
    known = ", ".join(sorted({named for named in splits if named})) or "none that is named"
    raise NoSplit(
        f"the shards hold no split {split!r}, but {known}: name shards after their split, as in test.tar"
    )


@dataclass
class TarShards:
    """The members of several uncompressed tar files, grouped by key. Can be pickled.

    A key is a member's path up to the first dot of its base name; what follows the dot (in lower case) is
    its extension. Where two shards hold the same key, keys are preceded by the shard's name and a colon.

    Attributes: keys: of the n samples. members: extension to (n, 3) int64 shard, offset and size in bytes, -1
    where a sample has no such member. problems: what is missing of shards that are cut off or damaged.
    """

    paths: Sequence[str]
    keys: Names = field(init=False)
    members: dict[str, np.ndarray] = field(init=False)
    problems: list[BadSample] = field(init=False)

    def __post_init__(self) -> None:
        self._files: dict[int, int] = {}
        self.problems = []
        rows: dict[tuple[int, str], int] = {}
        found: dict[str, list[tuple[int, int, int, int]]] = {}
        for shard, path in enumerate(self.paths):
            for name, offset, size in self._walk(path):
                folder, slash, base = name.rpartition("/")
                stem, dot, extension = base.partition(".")
                if not stem or not dot:
                    continue
                row = rows.setdefault((shard, folder + slash + stem), len(rows))
                found.setdefault(extension.lower(), []).append((row, shard, offset, size))
        self.keys = Names(_unique_keys(list(rows), self.paths))
        self.members = {extension: _table(places, len(rows)) for extension, places in found.items()}

    def read(self, extension: str, index: int) -> bytes:
        """The bytes of one member. Raises OSError where the shard has become unreadable or shorter."""
        shard, offset, size = (int(value) for value in self.members[extension][index])
        file = self._files.get(shard)
        kept = file is not None
        if file is None:
            file = os.open(self.paths[shard], os.O_RDONLY)
            if len(self._files) < OPEN_SHARDS:
                kept = self._files.setdefault(shard, file) == file
        try:
            content = os.pread(file, size, offset)
        finally:
            if not kept:
                os.close(file)
        if len(content) < size:
            raise OSError(f"{self.paths[shard]} has become shorter")
        return content

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": {}}

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # its own name for it, since at the very end of a program the module has none left
        for file in self.__dict__.get("_files", {}).values():
            close(file)

    def _walk(self, path: str) -> Iterator[tuple[str, int, int]]:
        """Name, offset and size of every regular file of one shard; damage is added to ``problems``."""
        length, end, last = os.path.getsize(path), 0, "its beginning"
        try:
            with open(path, "rb") as raw:
                if raw.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5"):
                    raise UserError(
                        f"{path} is compressed, which rules out random access: unpack it to a plain .tar"
                    )
            with tarfile.open(path, "r:") as archive, open(path, "rb") as raw:
                for name, offset, size, regular in _headers(archive, raw.fileno()):
                    end, last = offset + -(-size // 512) * 512, name
                    if offset + size > length:
                        break
                    if regular and not os.path.basename(name).startswith("."):
                        yield name.removeprefix("./"), offset, size
        except tarfile.TarError as error:
            self.problems.append(BadSample(path, f"damaged after {last} ({error}); the rest is left out"))
            return
        except PermissionError:
            raise UserError(f"{path} may not be read: give yourself permission to it (chmod u+r)") from None
        if not _ends_well(path, end, length):
            self.problems.append(BadSample(path, f"cut off or damaged after {last}; the rest is left out"))


def _headers(archive: tarfile.TarFile, file: int) -> Iterator[tuple[str, int, int, bool]]:
    """Name, offset, size and whether it is a regular file, of every member.

    Plain headers, as nearly all are, are read here: `tarfile` takes ten times as long for a million of them.
    It reads all others: long names, extended attributes, links, damage.
    """
    position = 0
    while True:
        header = os.pread(file, 512, position)
        plain = _plain_header(header)
        if plain is not None:
            name, size = plain
            yield name, position + 512, size, True
            position += 512 + -(-size // 512) * 512
            continue
        archive.firstmember, archive.offset = None, position  # type: ignore[attr-defined]
        archive.fileobj.seek(position)  # type: ignore[union-attr]
        member = archive.next()
        if member is None:
            return
        archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  (it would keep them all)
        yield member.name, member.offset_data, member.size, member.isreg()
        position = archive.offset


def _plain_header(header: bytes) -> tuple[str, int] | None:
    """Name and size of a regular file whose header needs no more than itself; None for any other."""
    if len(header) < 512 or header[156] not in b"0\0" or header[257:262] != b"ustar" or header[345]:
        return None
    try:
        size, checksum = int(header[124:135], 8), int(header[148:154], 8)
        name = header[: header.index(0, 0, 101)].decode("utf-8")
    except ValueError:
        return None
    # the checksum counts its own eight bytes as spaces
    if sum(header) - sum(header[148:156]) + 256 != checksum or not name:
        return None
    return name, size


def _ends_well(path: str, end: int, length: int) -> bool:
    """Whether a block of zeros, with which a whole tar ends, follows its last member."""
    if end + 512 > length:
        return False
    with open(path, "rb") as file:
        file.seek(end)
        return not any(file.read(512))


def _unique_keys(keys: list[tuple[int, str]], paths: Sequence[str]) -> list[str]:
    if len({key for _, key in keys}) == len(keys):
        return [key for _, key in keys]
    bases = [os.path.basename(path) for path in paths]
    shards = bases if len(set(bases)) == len(bases) else list(paths)
    return [f"{shards[shard]}:{key}" for shard, key in keys]


def _table(places: list[tuple[int, int, int, int]], count: int) -> np.ndarray:
    table = np.full((count, 3), -1, np.int64)
    values = np.array(places, np.int64)
    table[values[:, 0]] = values[:, 1:]
    return table


def shard_labels(shards: TarShards, rows: np.ndarray) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels and classes of the samples in `rows`, as `sources.as_labels`.

    From .cls members, or else from .json members, or else from the folders in the keys.
    """
    if "cls" in shards.members:
        return as_labels([_member(shards, "cls", row) for row in rows.tolist()])
    if "json" in shards.members:
        values = [_json_label(_member(shards, "json", row)) for row in rows.tolist()]
        if any(value is not None for value in values):
            return as_labels(values)
    folders = [shards.keys[row].rpartition(":")[2].split("/")[:-1] for row in rows]
    shared = _shared_depth(folders)
    if all(is_split(name) for folder in folders for name in folder[shared : shared + 1]):
        shared += 1
    labels, classes = index_classes([folder[shared] if len(folder) > shared else None for folder in folders])
    return (labels, classes) if len(classes) > 1 else (None, None)


def _shared_depth(folders: list[list[str]]) -> int:
    """How many leading folders all paths have in common."""
    distinct, depth = {tuple(folder) for folder in folders}, 0
    while len(heads := {folder[depth : depth + 1] for folder in distinct}) == 1 and heads != {()}:
        depth += 1
    return depth


def _member(shards: TarShards, extension: str, row: int) -> str | None:
    if shards.members[extension][row, 0] < 0:
        return None
    return shards.read(extension, row).decode("utf-8", "replace").strip()


def _json_label(text: str | None) -> str | None:
    try:
        value = json.loads(text or "null")
    except ValueError:
        return None
    label = value.get("label") if isinstance(value, dict) else None
    return str(label) if isinstance(label, str | int | float) else None
