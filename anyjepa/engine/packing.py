"""`anyjepa pack`: the samples of any source as tar shards with an index, made by several processes."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import anyjepa
from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Domain, Samples, domains
from anyjepa.domains.packs import FORMAT, INDEX, MANIFEST
from anyjepa.engine.files import append_line, explained, sync_folder, write_whole
from anyjepa.engine.loop import limit_damage
from anyjepa.engine.patience import PATIENCE, time_limit
from anyjepa.engine.run import open_source
from anyjepa.engine.survey import identify
from anyjepa.recipes import Recipe, recipe

__all__ = ["pack"]

SHARD_BYTES = 256 * 10**6
LOOKED_AT = 64
LEAST_SHARDS = 2  # a process
WORTH_PROCESSES = 64 * 10**6  # bytes for which it pays to start more
BEGUN = ".pack.json"


def pack(
    source: str,
    out: str | Path,
    *,
    domain: str | None = None,
    recipe_name: str | None = None,
    labels: str | None = None,
    split: str | None = None,
    shard_samples: int | None = None,
    workers: int | None = None,
    max_bad_fraction: float = 0.01,
) -> dict[str, Any]:
    """Write every sample of a source into WebDataset shards, with an index of them.

    A file is packed as it is, anything else as the array that is read of it (``.npy``). Beside each lies a
    ``.json`` with its id, label and group. Samples come in the source's order, so that a run on the pack
    learns what one on the source learns. A shard is written whole or not at all; the same command goes on
    where it was stopped, and leaves a finished pack as it is.

    Args:
        source: as of `Domain.open`; not arrays in memory.
        out: the pack's folder.
        domain: the kind of data; found out where not given.
        recipe_name: read the source as this recipe does (rate, leads, points), and pack that.
        labels: file or column of labels.
        split: of the source.
        shard_samples: samples of a shard; as many as make 256 MB where not given.
        workers: processes; one a core where it pays and nothing is given. A program that calls this with
            more than one must be guarded by ``if __name__ == "__main__"``.
        max_bad_fraction: share of damaged samples at which nothing is packed.

    Returns:
        ``out``, ``source`` (to train on: ``wds:OUT``), ``domain``, ``samples``, ``shards``, ``kept`` of them
        from before, ``skipped``, ``bytes``, ``seconds``, ``samples_per_second``.

    Raises:
        UserError: the source cannot be read, too much is damaged, or `out` holds something else.
    """
    began, out = time.perf_counter(), Path(out)
    kind = None if recipe_name is None else recipe(recipe_name)
    found, samples = _opened(source, domain, kind, labels, split)
    if shard_samples is not None and shard_samples < 1:
        raise UserError(f"--shard-samples must be 1 or more, not {shard_samples}.")
    each = _size(samples)
    processes = workers or (_cores() if each * len(samples) > WORTH_PROCESSES else 1)
    with explained(f"write {out}"):
        out.mkdir(parents=True, exist_ok=True)
        belongs = {"anyjepa_pack": FORMAT, "domain": found.name, "source": samples.fingerprint()}
        # so few that all processes have work to the end
        even = -(-len(samples) // (LEAST_SHARDS * processes))
        rows = shard_samples or max(1, int(min(SHARD_BYTES // each, even)))
        rows, finished = _agreed(out, belongs, rows, shard_samples)
        starts = range(0, len(samples), rows)
        names = [f"shard-{number:05d}.tar" for number in range(len(starts))]
        if not finished:
            kept = sum((out / name).exists() for name in names)
            _write_all(
                samples, out, [(n, s, s + rows) for n, s in zip(names, starts, strict=True)], processes
            )
            damaged = _finish(samples, out, names, belongs, rows, max_bad_fraction)
        else:
            kept, damaged = len(names), finished["damaged"]
        size = sum((out / name).stat().st_size for name in names)
    seconds, total = time.perf_counter() - began, len(samples) + len(samples.problems) - damaged
    return {
        "out": str(out), "source": f"wds:{out}", "domain": found.name, "samples": total, "shards": len(names),
        "kept": kept, "skipped": damaged, "bytes": size, "seconds": seconds,
        "samples_per_second": total / seconds,
    }  # fmt: skip


def _opened(
    source: str, domain: str | None, kind: Recipe | type[Recipe] | None, labels: str | None, split: str | None
) -> tuple[Domain, Samples]:
    if kind is not None and domain is not None and kind.domain != domain:
        raise UserError(f"{kind.name} reads {kind.domain} data, not {domain} data: leave --domain out.")
    name = kind.domain if kind is not None else domain
    if name is None:
        candidates = identify(source, None, labels).candidates
        if not candidates:
            raise UserError(f"no kind of data fits {source}: `anyjepa look {source}` says why.")
        name = candidates[0].domain.name
    if name not in domains():
        raise UserError(f"there is no kind of data '{name}' (there are {', '.join(domains())}).")
    found = domains()[name]
    if not found.packs:
        raise UserError(
            f"{name} data is read whole into memory, so shards would gain nothing: keep it as Parquet."
        )
    reading = {} if kind is None else kind.preset("tiny").reading()
    samples = open_source(found, source, labels, split, reading)
    if not len(samples):
        raise UserError(f"there is nothing to pack in {source}.")
    return found, samples


def _size(samples: Samples) -> float:
    """Bytes that a sample takes in a shard, the mean of some."""
    sizes = []
    for index in np.linspace(0, len(samples) - 1, min(len(samples), LOOKED_AT)).astype(int):
        try:
            sizes.append(len(_member(samples, int(index))[1]))
        except BadSample:
            continue
    return 2048.0 + float(np.mean(sizes) if sizes else SHARD_BYTES)


def _agreed(
    out: Path, belongs: dict[str, Any], rows: int, asked: int | None
) -> tuple[int, dict[str, Any] | None]:
    """Samples of a shard as they were when the pack began, and its manifest where it is finished."""
    for name in (MANIFEST, BEGUN):
        if not (out / name).exists():
            continue
        try:
            before = json.loads((out / name).read_text())
        except ValueError:
            before = {}
        if {key: before.get(key) for key in belongs} != belongs or asked not in (
            None,
            before["shard_samples"],
        ):
            raise UserError(
                f"{out} holds a pack of other data or shards: choose another place, or delete it."
            )
        whole = name == MANIFEST and all(
            (out / s["name"]).exists() and (out / s["name"]).stat().st_size == s["bytes"]
            for s in before["shards"]
        )
        if name == MANIFEST and not whole:
            # the parts of the index went with the finished pack
            for shard in before["shards"]:
                (out / shard["name"]).unlink(missing_ok=True)
            (out / MANIFEST).unlink()
        return before["shard_samples"], before if whole else None
    if any(out.glob("*.tar")):
        raise UserError(f"{out} holds shards of something else: choose another place.")
    write_whole(out / BEGUN, json.dumps({**belongs, "shard_samples": rows}).encode())
    return rows, None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_all(samples: Samples, out: Path, jobs: list[tuple[str, int, int]], processes: int) -> None:
    jobs = [job for job in jobs if not (out / job[0]).exists()]
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            _write_shard(samples, out, *job)
        return
    with ProcessPoolExecutor(
        # a copy of a process that has threads may wait for a lock that no thread of its own will open
        min(processes, len(jobs)),
        get_context("spawn"),
        _begin,
        (samples, out),
    ) as executor:
        try:
            for _ in executor.map(_write_one, jobs):
                pass
        except BrokenProcessPool:
            raise UserError(
                "a packing process died, most often because memory is short: run the same command again, "
                "which goes on, with --workers 1."
            ) from None


_SHARED: tuple[Samples, Path] | None = None


def _begin(samples: Samples, out: Path) -> None:
    global _SHARED
    _SHARED = samples, out


def _write_one(job: tuple[str, int, int]) -> None:
    assert _SHARED is not None
    _write_shard(*_SHARED, *job)


def _member(samples: Samples, index: int) -> tuple[str, bytes]:
    """Extension and bytes of a sample. Raises BadSample."""
    packed = getattr(samples, "packed", None)
    with time_limit(PATIENCE, samples, index):
        if packed is not None:
            return packed(index)
        file = io.BytesIO()
        np.save(file, samples.read(index), allow_pickle=False)
        return "npy", file.getvalue()


def _write_shard(samples: Samples, out: Path, name: str, start: int, stop: int) -> None:
    """One shard and its part of the index, the part first: a shard that is there has one."""
    beside = out / f".{name}.partial"
    rows, damaged = [], []
    try:
        with open(beside, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for index in range(start, min(stop, len(samples))):
                    try:
                        extension, content = _member(samples, index)
                    except BadSample as problem:
                        damaged.append([problem.identity, problem.reason])
                        continue
                    about = _about(samples, index)
                    _add(archive, f"{index:09d}.json", json.dumps(about).encode())
                    offset = _add(archive, f"{index:09d}.{extension}", content)
                    rows.append({**about, "offset": offset, "size": len(content), "extension": extension,
                                 **_axes(extension, content)})  # fmt: skip
            file.flush()
            os.fsync(file.fileno())
        write_whole(out / f".{name}.rows", json.dumps({"rows": rows, "damaged": damaged}).encode())
        os.replace(beside, out / name)
        sync_folder(out)
    finally:
        beside.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> int:
    """Where the content begins. Times and owners are left out, so that the same data gives the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
    archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  (it would keep them all)
    return archive.offset - -(-len(content) // 512) * 512


def _about(samples: Samples, index: int) -> dict[str, Any]:
    found: dict[str, Any] = {"id": samples.identity(index)}
    if samples.labels is not None:
        value, classes = samples.labels[index], samples.classes or []
        if samples.labels.ndim == 2:
            named = [classes[number] for number in np.flatnonzero(value == 1)]
            found["label"] = named if (value >= 0).any() else None
        elif samples.labels.dtype.kind == "f":
            found["label"] = None if np.isnan(value) else float(value)
        else:
            found["label"] = classes[value] if value >= 0 else None
    if samples.groups is not None:
        found["group"] = str(samples.groups[index])
    return found


def _axes(extension: str, content: bytes) -> dict[str, int]:
    shape: tuple[int, ...] = ()
    if extension == "npy":
        file = io.BytesIO(content[:4096])
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape = read(file)[0]
    return {f"axis_{axis}": shape[axis] if axis < len(shape) else 0 for axis in range(4)}


def _parts(out: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        yield json.loads((out / f".{name}.rows").read_text())


def _finish(
    samples: Samples, out: Path, names: list[str], belongs: dict[str, Any], rows: int, limit: float
) -> int:
    """The index of all shards, and last what says that the pack is whole; how many samples are damaged."""
    import pyarrow as arrow
    from pyarrow import parquet

    schema, labels = _schema(samples)
    counts, damaged = [], [[problem.identity, problem.reason] for problem in samples.problems]
    beside = out / f".{INDEX}.partial"
    with parquet.ParquetWriter(beside, schema) as writer:
        for number, part in enumerate(_parts(out, names)):
            counts.append(len(part["rows"]))
            damaged += part["damaged"]
            table = arrow.Table.from_pylist([{**row, "shard": number} for row in part["rows"]], schema)
            writer.write_table(table)
    if not sum(counts):
        raise UserError(f"none of the samples of {samples.source} can be read, so there is nothing to pack.")
    problems = [BadSample(*pair) for pair in damaged]
    limit_damage(problems, len(samples) + len(samples.problems), limit)
    os.replace(beside, out / INDEX)
    (out / "skipped.jsonl").unlink(missing_ok=True)
    for identity, reason in damaged:
        append_line(out / "skipped.jsonl", {"sample": identity, "reason": reason})
    manifest = {
        **belongs, "shard_samples": rows, "version": anyjepa.__version__, "kind": _kind(samples),
        "labels": labels, "classes": samples.classes, "damaged": len(damaged),
        "facts": getattr(samples, "stated", {}),
        "shards": [
            {"name": name, "samples": count, "bytes": (out / name).stat().st_size}
            for name, count in zip(names, counts, strict=True)
        ],
    }  # fmt: skip
    write_whole(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    for name in names:
        (out / f".{name}.rows").unlink()
    (out / BEGUN).unlink(missing_ok=True)
    return len(damaged)


def _kind(samples: Samples) -> str:
    """What they are in words, without what is said anew of the pack: counts, points, leads."""
    words = samples.description.split(", ")[0]
    return re.sub(r"^[\d,]+ | of [\d,]+( to [\d,]+)? points$", "", words)


def _schema(samples: Samples) -> tuple[Any, str | None]:
    """Columns of the index, and what kind of labels there are."""
    import pyarrow as arrow

    columns = [("id", arrow.string()), ("shard", arrow.int32()), ("offset", arrow.int64()),
               ("size", arrow.int64()), ("extension", arrow.string()),
               *((f"axis_{axis}", arrow.int32()) for axis in range(4))]  # fmt: skip
    kind = None
    if samples.labels is not None:
        kind = (
            "several"
            if samples.labels.ndim == 2
            else "targets"
            if samples.labels.dtype.kind == "f"
            else "classes"
        )
        one = arrow.float64() if kind == "targets" else arrow.string()
        columns.append(("label", arrow.list_(one) if kind == "several" else one))
    if samples.groups is not None:
        columns.append(("group", arrow.string()))
    return arrow.schema(columns), kind
