"""What `anyjepa pack` writes, read at random: WebDataset shards with an index of every sample beside them.

A pack is a folder of ``shard-00000.tar ...``, ``index.parquet`` (a row a sample: id, shard, offset, size,
extension, shape, label, group) and ``pack.json``. Other tools read the shards as they read any WebDataset.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.names import Names
from anyjepa.domains.remote import fetched, is_remote, local_copy
from anyjepa.domains.sources import NoSplit, is_split, list_folders, natural_split, split_order

__all__ = [
    "INDEX",
    "MANIFEST",
    "Pack",
    "PackedSamples",
    "kept_blocks",
    "open_pack",
    "packed_domain",
    "required_pack",
]

MANIFEST, INDEX = "pack.json", "index.parquet"
FORMAT = 1
OPEN_SHARDS = 64
TRIES = 10


@dataclass
class Pack:
    """The samples of a pack: where each lies, its id, label and group. Can be pickled.

    Args:
        place: folder, or address of one.
        manifest: of ``pack.json``: domain, kind, classes, labels, facts, shards (name, samples, bytes).
        ids: of the n samples.
        shards: (n,) int32 which shard each is in. offsets, sizes: (n,) int64 of its bytes there.
        extensions: (n,) int16 into `kinds`.
        kinds: extensions without the dot.
        shapes: (n, 4) int32 of the arrays, 0 where there are fewer axes or the sample is a file.
        labels, groups: as of Samples.
        problems: shards that are shorter than they were.
    """

    place: str
    manifest: dict[str, Any]
    ids: Names
    shards: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    extensions: np.ndarray
    kinds: list[str]
    shapes: np.ndarray
    labels: np.ndarray | None
    groups: np.ndarray | None
    problems: list[BadSample]

    def __post_init__(self) -> None:
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes."""
        return self.manifest["classes"]

    @property
    def blocks(self) -> np.ndarray | None:
        """Where each shard's samples end, for shards that are fetched as a whole; None for those on disk."""
        if not is_remote(self.place):
            return None
        return np.flatnonzero(np.diff(self.shards, append=-1)) + 1

    def extension(self, index: int) -> str:
        """Of one sample, without the dot."""
        return self.kinds[self.extensions[index]]

    def content(self, index: int) -> bytes:
        """One sample's bytes. Raises BadSample where its shard is gone or has become shorter."""
        shard, offset, size = int(self.shards[index]), int(self.offsets[index]), int(self.sizes[index])
        file = self._files.get(shard)
        kept = file is not None
        try:
            if file is None:
                file = self._opened(shard)
                # what other threads may be reading is never closed
                kept = len(self._files) < OPEN_SHARDS and self._files.setdefault(shard, file) == file
            try:
                found = os.pread(file, size, offset)
            finally:
                if not kept:
                    os.close(file)
        except OSError as error:
            raise BadSample(self.ids[index], error.strerror or str(error)) from None
        if len(found) < size:
            raise BadSample(self.ids[index], f"{self._name(shard)} has become shorter")
        return found

    def array(self, index: int) -> np.ndarray:
        """One sample that is an array. Raises BadSample where it is damaged."""
        try:
            return np.load(io.BytesIO(self.content(index)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BadSample(self.ids[index], str(error).splitlines()[0]) from None

    def _name(self, shard: int) -> str:
        return self.manifest["shards"][shard]["name"]

    def _opened(self, shard: int) -> int:
        path = os.path.join(self.place, self._name(shard))
        if not is_remote(self.place):
            return os.open(path, os.O_RDONLY)
        for _ in range(TRIES):
            # whoever makes room in the cache may remove the copy before it is open
            with contextlib.suppress(FileNotFoundError):
                return os.open(local_copy(path, self.manifest["shards"][shard]["bytes"]), os.O_RDONLY)
        raise OSError(f"the cache cannot keep {path}")

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": {}}

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # its own name for it, since at the very end of a program the module has none left
        for file in self.__dict__.get("_files", {}).values():
            close(file)


def open_pack(pattern: str, split: str | None, domain: str) -> Pack | None:
    """The pack in a folder or at an address; None where there is none, but other shards, say.

    Raises:
        UserError: it is of another kind of data, or its files do not belong together. NoSplit.
    """
    place = pattern.rstrip("/") if is_remote(pattern) else str(Path(pattern).expanduser())
    if not is_remote(place):
        if not os.path.isdir(place):
            return None
        if not os.path.exists(os.path.join(place, MANIFEST)):
            packed = [f for f in list_folders(place) if os.path.exists(os.path.join(place, f, MANIFEST))]
            chosen = natural_split(packed, split) if packed else None
            if chosen is None:
                return None
            place = os.path.join(place, chosen)
        elif split is not None and not _answers(Path(place).name, split):
            raise NoSplit(f"{place} has no split {split!r}: pack it with --split {split} beside this one.")
    manifest = _manifest(place)
    if manifest["domain"] != domain:
        raise UserError(f"{pattern} is a pack of {manifest['domain']} data, not of {domain} data.")
    return _indexed(place, manifest)


def packed_domain(place: str) -> str:
    """The kind of data in the folder of a pack. Raises UserError where its manifest is damaged."""
    return _manifest(place)["domain"]


def required_pack(source: str, split: str | None, domain: str) -> Pack:
    """The pack that ``wds:PLACE`` is, for kinds of data of which other shards are not read.

    Raises:
        UserError: it is none.
    """
    pack = open_pack(source.removeprefix("wds:"), split, domain)
    if pack is None:
        raise UserError(
            f"{source} is no pack: shards of {domain} data are read as `anyjepa pack` makes them."
        )
    return pack


def _answers(folder: str, split: str) -> bool:
    """Whether a pack in `folder` may stand for a split."""
    wanted = split_order(split)[0].lower()
    return folder.lower() in split_order(split) if is_split(folder) else wanted in split_order("train")


def _manifest(place: str) -> dict[str, Any]:
    try:
        manifest = json.loads(fetched(place, MANIFEST))
    except ValueError as error:
        raise UserError(f"{place}/{MANIFEST} is damaged ({error}): make the pack again.") from None
    if not isinstance(manifest, dict) or manifest.get("anyjepa_pack") != FORMAT:
        raise UserError(f"{place}/{MANIFEST} is of no pack that this version knows: make the pack again.")
    return manifest


def _indexed(place: str, manifest: dict[str, Any]) -> Pack:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(arrow.BufferReader(fetched(place, INDEX)))
        shards = table["shard"].to_numpy().astype(np.int32)
        extension = table["extension"].combine_chunks().dictionary_encode()
        if isinstance(extension, arrow.ChunkedArray):
            extension = extension.combine_chunks()
        pack = Pack(
            place, manifest, Names(_texts(table["id"])), shards,
            table["offset"].to_numpy(), table["size"].to_numpy(),
            extension.indices.to_numpy().astype(np.int16), extension.dictionary.to_pylist(),
            np.stack([table[f"axis_{axis}"].to_numpy() for axis in range(4)], axis=1),
            _labels(table["label"], manifest) if manifest["labels"] else None,
            np.array(table["group"].to_pylist()) if "group" in table.column_names else None, [],
        )  # fmt: skip
    except (arrow.ArrowInvalid, OSError, KeyError) as error:
        raise UserError(f"{place}/{INDEX} is damaged ({error}): make the pack again.") from None
    if len(pack) != sum(shard["samples"] for shard in manifest["shards"]):
        raise UserError(f"{place} holds an index of other shards: make the pack again.")
    if not is_remote(place):
        _check_shards(pack)
    return pack


def _check_shards(pack: Pack) -> None:
    for shard in pack.manifest["shards"]:
        path = os.path.join(pack.place, shard["name"])
        if not os.path.exists(path):
            raise UserError(f"{path} is missing: run the same `anyjepa pack` again, which makes what lacks.")
        if os.path.getsize(path) != shard["bytes"]:
            pack.problems.append(
                BadSample(path, f"has {os.path.getsize(path):,} bytes, not {shard['bytes']:,}")
            )


def _texts(column: Any) -> Any:
    for chunk in column.chunks:
        for start in range(0, len(chunk), 4096):
            yield from chunk.slice(start, 4096).to_pylist()


def _labels(column: Any, manifest: dict[str, Any]) -> np.ndarray:
    classes = {name: number for number, name in enumerate(manifest["classes"] or ())}
    if manifest["labels"] == "targets":
        return column.to_numpy().astype(np.float32)
    values = column.to_pylist()
    if manifest["labels"] == "classes":
        return np.array([-1 if value is None else classes[value] for value in values], np.int64)
    table = np.zeros((len(values), len(classes)), np.int8)
    for row, names in enumerate(values):
        if names is None:
            table[row] = -1
        else:
            table[row, [classes[name] for name in names]] = 1
    return table


class PackedSamples:
    """Packed arrays of a kind of data that has no other way to read shards; satisfies the Samples protocol.

    A sample is what was read when it was packed.
    """

    def __init__(self, source: str, pack: Pack) -> None:
        self.source, self.pack = source, pack
        self.labels, self.classes, self.groups = pack.labels, pack.classes, pack.groups
        self.problems, self.blocks = list(pack.problems), pack.blocks
        self.description = f"{len(pack):,} {pack.manifest['kind']} in {len(pack.manifest['shards']):,} shards"

    def __len__(self) -> int:
        return len(self.pack)

    def __getattr__(self, name: str) -> Any:
        # what a kind of data states of its samples beyond the protocol
        facts = {} if name == "pack" else self.pack.manifest["facts"]
        if name not in facts:
            raise AttributeError(name)
        return facts[name]

    def read(self, index: int) -> np.ndarray:
        """The array, in its native dtype. Raises BadSample where it is damaged."""
        return self.pack.array(int(index))

    def identity(self, index: int) -> str:
        """As in the source that was packed."""
        return self.pack.ids[int(index)]

    def fingerprint(self) -> str:
        """Of what was packed, and of how much of it."""
        return fingerprint(self.pack)


def fingerprint(pack: Pack) -> str:
    """Hexadecimal digest of a pack's index."""
    import hashlib

    digest = hashlib.sha256(json.dumps(pack.manifest, sort_keys=True).encode())
    for column in (pack.shards, pack.offsets, pack.sizes):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def kept_blocks(ends: np.ndarray | None, rows: Sequence[int] | np.ndarray | None) -> np.ndarray | None:
    """Where blocks end among the samples that stay: `rows` of all, in order; None for all."""
    if ends is None or rows is None:
        return ends
    found = np.unique(np.searchsorted(np.asarray(rows), ends))
    return found[found > 0]
