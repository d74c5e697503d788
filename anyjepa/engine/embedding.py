"""Embedding a source of any size: a batch in memory at a time, and shards that survive a kill."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from anyjepa.core.errors import UserError, visible
from anyjepa.domains import Frame, Samples
from anyjepa.engine.crew import Crew, crew, joined
from anyjepa.engine.files import explained, sync_folder, write_whole
from anyjepa.engine.run import Run, load

Vectors = Iterator[tuple[np.ndarray, np.ndarray]]
"""Places in the source (n,) int64, and the embeddings there (n, dim) float32."""

BATCH = 256
ROWS_TOGETHER = 8192  # of a Parquet row group: few enough for memory, enough to be read fast


def embed(
    run: Run | str | Path,
    data: str | np.ndarray | Frame | None = None,
    out: str | Path = "embeddings.parquet",
    *,
    labels: str | None = None,
    shard_rows: int | None = None,
) -> dict[str, Any]:
    """Embed every sample of a source, a batch at a time; each file is written whole or not at all.

    Processes that torchrun started share the samples, or the shards, and write the same as one alone; the
    folder of `out` must then be one that all of them see.

    Args:
        run: a run or its folder.
        data: source; the data it was trained on where not given.
        out: ``.parquet`` (columns ``id``, ``embedding``, and ``label`` and ``group`` where known) or ``.npy``
            (rows in the source's order, ids in a ``.ids.txt`` beside it), a folder of that name with
            `shard_rows`.
        labels: file or column of labels, where the source does not carry them.
        shard_rows: samples of a shard. Shards that are there are kept, so that the same command goes on
            where it was stopped. pandas, pyarrow, polars and DuckDB read such a folder as one table.

    Returns:
        ``rows``, ``dim``, ``out``, ``skipped``, and with shards ``shards`` and ``kept`` of them.

    Raises:
        UserError: another ending, an unreadable source, a full disk, or a folder of other shards.
    """
    with joined() as team:
        return team.told(_embed(run, data, Path(out), labels, shard_rows))


def _embed(
    run: Run | str | Path,
    data: str | np.ndarray | Frame | None,
    out: Path,
    labels: str | None,
    shard_rows: int | None,
) -> dict[str, Any]:
    run = run if isinstance(run, Run) else load(run)
    if out.suffix not in KINDS:
        raise UserError(f"embeddings are written as .parquet or .npy, not '{out.suffix or out.name}'.")
    if shard_rows is not None and shard_rows < 1:
        raise UserError(f"--shard-rows must be 1 or more, not {shard_rows}.")
    if shard_rows is None and out.is_dir():
        raise UserError(f"{out} is a folder: choose another --out, or go on with its shards by --shard-rows.")
    samples = run.open(data, labels)
    with explained(f"write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        if shard_rows is None:
            rows, dim = _write(run, samples, np.arange(len(samples)), out, crew())
            result: dict[str, Any] = {"rows": rows, "dim": dim, "out": str(out)}
        else:
            result = _write_shards(run, samples, out, shard_rows)
    if not crew().told(result["rows"]):
        raise UserError(f"none of the samples of {samples.source} can be read, so there is nothing to embed.")
    return {**result, "skipped": len(samples) + len(samples.problems) - result["rows"]}


def _write_shards(run: Run, samples: Samples, out: Path, shard_rows: int) -> dict[str, Any]:
    if out.is_file():
        raise UserError(f"{out} is a file: choose another --out for shards.")
    out.mkdir(exist_ok=True)
    belongs = {
        "encoder": _digest(run), "data": samples.fingerprint(), "samples": len(samples),
        "shard_rows": shard_rows, "labelled": samples.labels is not None,
    }  # fmt: skip
    team = crew()
    found = _manifest(out, belongs)
    if team.first and not found["shards"]:
        # before the first part, which could otherwise not be told from one of something else
        write_whole(_manifest_file(out), json.dumps({**belongs, **found}).encode())
    manifest = team.told(found)
    known: dict[str, int] = manifest["shards"]
    starts = range(0, len(samples), shard_rows)
    names = [f"part-{number:05d}{out.suffix}" for number in range(len(starts))]
    missing = [
        n for n, name in enumerate(names) if name not in known or (known[name] and not (out / name).exists())
    ]
    missing, dim = team.told(missing), manifest["dim"]
    for together in range(0, len(missing), team.size):
        mine: dict[str, tuple[int, int]] = {}
        for number in missing[together : together + team.size][team.rank : team.rank + 1]:
            indices = np.arange(starts[number], min(starts[number] + shard_rows, len(samples)))
            mine[names[number]] = _write(run, samples, indices, out / names[number], Crew())
        for done in team.all_told(mine):
            for name, (count, width) in done.items():
                known[name], dim = count, width or dim
        if team.first:
            known = {name: known[name] for name in names if name in known}
            write_whole(_manifest_file(out), json.dumps({**belongs, "dim": dim, "shards": known}).encode())
    rows, kept = sum(known.values()), len(names) - len(missing)
    return {"rows": rows, "dim": dim, "out": str(out), "shards": len(known), "kept": kept}


def _manifest_file(out: Path) -> Path:
    """Beside the folder: polars reads no folder that holds files of two kinds."""
    return out.with_name(out.name + ".shards.json")


def _manifest(out: Path, belongs: dict[str, Any]) -> dict[str, Any]:
    """What was finished before, if it is of the same encoder, data and shards."""
    file = _manifest_file(out)
    if not file.exists():
        if any(out.glob("part-*")):
            raise UserError(f"{out} holds parts of something else: choose another --out.")
        return {"dim": 0, "shards": {}}
    try:
        found = json.loads(file.read_text())
    except json.JSONDecodeError as problem:
        raise UserError(f"{file} is damaged ({problem}): delete {out}, or choose another --out.") from problem
    differing = [name for name, value in belongs.items() if found.get(name) != value]
    if differing:
        raise UserError(
            f"{out} holds shards of another embedding (other {', '.join(differing)}): choose another --out, "
            "or delete it."
        )
    return found


def _digest(run: Run) -> str:
    """Of the encoder's weights and names."""
    found = hashlib.sha256()
    for name, value in run.method.backbone.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class _Rows(Protocol):
    """A table that is being written."""

    def add(self, indices: np.ndarray, vectors: np.ndarray) -> None: ...

    def close(self) -> None: ...


def _write(run: Run, samples: Samples, indices: np.ndarray, out: Path, team: Crew) -> tuple[int, int]:
    """Rows and width of one file; no file where no sample can be read. The first process writes it."""
    handed = [out.with_name(f".{out.name}.of-{rank}") for rank in range(team.size)]
    found = _embedded(run, samples, team.part(indices, BATCH))
    if not team.first:
        _hand_over(handed[team.rank], found)
        team.wait()
        return 0, 0
    try:
        return _written(samples, out, found, handed, team)
    finally:
        for file in handed:
            file.unlink(missing_ok=True)


def _written(samples: Samples, out: Path, found: Vectors, handed: list[Path], team: Crew) -> tuple[int, int]:
    rows, dim = 0, 0
    with _partial(out) as beside, ExitStack() as stack:
        table: _Rows | None = None
        for chosen, vectors in _with_others(found, handed, team):
            if table is None:
                table = KINDS[out.suffix](beside, samples)
                stack.callback(table.close)
            table.add(chosen, vectors)
            rows, dim = rows + len(chosen), vectors.shape[1]
    return rows, dim


def _with_others(found: Vectors, handed: list[Path], team: Crew) -> Vectors:
    """This process's batches, then those that the others have handed over, in their order."""
    yield from found
    team.wait()
    for path in handed[1:]:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while file.tell() < size:
                yield np.load(file, allow_pickle=False), np.load(file, allow_pickle=False)


def _hand_over(path: Path, found: Vectors) -> None:
    with open(path, "wb") as file:
        for chosen, vectors in found:
            np.save(file, chosen, allow_pickle=False)
            np.save(file, vectors, allow_pickle=False)


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """A file beside `out` that takes its place when all went well, its ids with it."""
    beside = out.with_name(f".{out.name}.partial")
    try:
        yield beside
        if beside.exists():
            for file, final in ((_ids(beside), out.with_suffix(".ids.txt")), (beside, out)):
                if file.exists():
                    with open(file, "rb") as written:
                        os.fsync(written.fileno())
                    os.replace(file, final)
            sync_folder(out.parent)
    finally:
        beside.unlink(missing_ok=True)
        _ids(beside).unlink(missing_ok=True)


def _ids(beside: Path) -> Path:
    return beside.with_name(beside.name + ".ids")


@torch.inference_mode()
def _embedded(run: Run, samples: Samples, indices: np.ndarray) -> Vectors:
    for chosen, batch in run.batches(samples, indices, BATCH):
        # who reads a million samples needs their count, not every sentence
        run.problems.clear()
        yield chosen, run.method.embed(batch).float().cpu().numpy()


class _Parquet:
    """Rows with ids, labels and groups, written a row group at a time."""

    def __init__(self, path: Path, samples: Samples) -> None:
        self.path, self.samples, self.writer = path, samples, None
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, indices: np.ndarray, vectors: np.ndarray) -> None:
        self.waiting.append((indices, vectors))
        if sum(len(part) for part, _ in self.waiting) >= ROWS_TOGETHER:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as arrow
        from pyarrow import parquet

        indices = np.concatenate([part for part, _ in self.waiting])
        vectors = np.concatenate([part for _, part in self.waiting])
        self.waiting = []
        samples, dim = self.samples, vectors.shape[1]
        columns: dict[str, Any] = {
            "id": [visible(samples.identity(int(i))) for i in indices],
            "embedding": arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.reshape(-1)), dim),
        }
        if samples.labels is not None:
            columns["label"] = _label_names(samples, indices)
        if samples.groups is not None:
            columns["group"] = [str(group) for group in samples.groups[indices]]
        table = arrow.table(columns) if self.writer is None else arrow.table(columns, self.writer.schema)
        self.writer = self.writer or parquet.ParquetWriter(self.path, _stated(table.schema, samples))
        self.writer.write_table(table.cast(self.writer.schema), row_group_size=len(indices))

    def close(self) -> None:
        if self.waiting:
            self._flush()
        if self.writer is not None:
            self.writer.close()


def _stated(schema: Any, samples: Samples) -> Any:
    """The schema with the labels' own type: a first part without any label would have none."""
    import pyarrow as arrow

    if samples.labels is None or not arrow.types.is_null(schema.field("label").type):
        return schema
    numbers = samples.labels.dtype.kind == "f"
    one = arrow.float64() if numbers else arrow.string()
    kind = arrow.list_(one) if samples.labels.ndim == 2 else one
    return schema.set(schema.get_field_index("label"), arrow.field("label", kind))


def _label_names(samples: Samples, indices: np.ndarray) -> list[Any]:
    assert samples.labels is not None
    values = samples.labels[indices]
    if values.ndim == 2:
        names = samples.classes or [str(number) for number in range(values.shape[1])]
        return [[names[n] for n in np.flatnonzero(row == 1)] if (row >= 0).any() else None for row in values]
    if samples.classes is None:
        return (
            [None if np.isnan(v) else float(v) for v in values]
            if values.dtype.kind == "f"
            else values.tolist()
        )
    return [samples.classes[v] if v >= 0 else None for v in values]


class _Array:
    """Rows one after another under a header that is put right at the end, and their ids.

    Nothing is held but the batch, and nothing is mapped, so that pages that were written can leave memory;
    ``np.load(file, mmap_mode="r")`` maps what comes of it.
    """

    def __init__(self, path: Path, samples: Samples) -> None:
        self.samples, self.rows, self.dim = samples, 0, 0
        self.file = open(path, "wb")  # noqa: SIM115
        self.ids = open(_ids(path), "w", encoding="utf-8")  # noqa: SIM115

    def add(self, indices: np.ndarray, vectors: np.ndarray) -> None:
        if not self.rows:
            self.dim = vectors.shape[1]
            self._header()
        self.file.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
        self.ids.writelines(visible(self.samples.identity(int(i))) + "\n" for i in indices)
        self.rows += len(indices)

    def _header(self) -> None:
        # numpy pads the header for a first axis of any length, so that it can be rewritten in its place
        np.lib.format.write_array_header_1_0(
            self.file, {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.dim)}
        )

    def close(self) -> None:
        self.file.seek(0)
        self._header()
        self.file.close()
        self.ids.close()


KINDS: dict[str, type[_Parquet] | type[_Array]] = {".parquet": _Parquet, ".npy": _Array}
