"""Embeddings are computed once: kept in the run's folder under a digest of all that they depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import anyjepa
from anyjepa.core.errors import BadSample
from anyjepa.core.method import Batch
from anyjepa.domains import Samples
from anyjepa.engine.crew import crew
from anyjepa.engine.files import write_whole
from anyjepa.engine.run import Run

BOUND = 2**30  # bytes of a run's cache; what was not used for longest goes first
FILES_LOOKED_AT = 4096
KINDS = ("trained", "untrained", "raw")


@dataclass(frozen=True)
class Embedded:
    """Embeddings of the samples that could be read.

    rows: (n,) int64 places in the source, in the order asked for. features: (n, dim) float32 on the CPU by
    kind. computed: how many vectors were not in the cache.
    """

    rows: np.ndarray
    features: dict[str, Float[Tensor, "samples dim"]]
    computed: int


def embedded(
    run: Run,
    samples: Samples,
    indices: np.ndarray | None = None,
    kinds: Sequence[str] = ("trained",),
    *,
    keep: bool = True,
    batch_size: int = 256,
    bound: int = BOUND,
) -> Embedded:
    """Vectors of samples, from the run's cache where they are in it.

    A file of the cache belongs to a digest of the weights (or of what the untrained ones are drawn from), the
    recipe, the reading, the version and the kind of device, and to one of the data: its fingerprint, and the
    bytes of what is in memory, or else the sizes and times of its files (of at most 4,096, spread evenly). It
    is written whole or not at all, is safetensors, and holds every sample that was asked for so far. A
    damaged file of it, a full disk or a folder without permission cost time and change no result.

    Args:
        run: whose encoder.
        samples: of one source.
        indices: (n,) of the samples; all where None.
        kinds: of `KINDS`: ``trained``; ``untrained``, by the weights training began from; ``raw``, the input
            as `Domain.raw` describes it.
        keep: read and write the cache.
        batch_size: samples that are embedded together.
        bound: bytes that the run's cache may take.

    Within `crew.joined` the processes share what is to be computed, and the first has the vectors; the others
    have none.
    """
    indices = np.arange(len(samples)) if indices is None else np.asarray(indices, dtype=np.int64)
    keep = keep and run.path.is_dir()
    data = _digest_of_data(samples) if keep else ""
    shelves = {kind: _Shelf(_place(run, kind, data) if keep else None) for kind in kinds}
    team = crew()
    # a cache that the first process has just written to may look otherwise to another
    wanted = team.told({kind: np.setdiff1d(indices, shelf.known) for kind, shelf in shelves.items()})
    computed = sum(len(rows) for rows in wanted.values())
    if computed:
        _compute(run, samples, shelves, wanted, batch_size)
    if not team.first:
        return Embedded(indices, {}, computed)
    if computed and keep:
        for kind, shelf in shelves.items():
            if len(wanted[kind]):
                shelf.save(bound)
        _trim(run.path / "cache", bound)
    named = {damage.identity for damage in run.problems}
    for shelf in shelves.values():
        for damage in shelf.damaged.values():
            if damage.identity not in named:
                run.problems.append(damage)
                named.add(damage.identity)
    damaged = np.array(sorted({row for shelf in shelves.values() for row in shelf.damaged}), dtype=np.int64)
    rows = indices[~np.isin(indices, damaged)]
    return Embedded(rows, {kind: shelf.take(rows) for kind, shelf in shelves.items()}, computed)


def _compute(
    run: Run, samples: Samples, shelves: dict[str, _Shelf], wanted: dict[str, np.ndarray], batch_size: int
) -> None:
    describe = _describers(run, [kind for kind in shelves if len(wanted[kind])])
    team = crew()
    all_rows = np.unique(np.concatenate(list(wanted.values())))
    rows = team.part(all_rows, batch_size)
    before, seen = len(run.problems), []
    found: dict[str, list[tuple[np.ndarray, Tensor]]] = {kind: [] for kind in describe}
    with torch.inference_mode():
        for kept, batch in run.batches(samples, rows, batch_size):
            seen.append(kept)
            for kind, of in describe.items():
                new = np.isin(kept, wanted[kind])
                if new.any():
                    found[kind].append((kept[new], of(batch).float().cpu()[torch.from_numpy(new)]))
    lost = np.setdiff1d(rows, np.concatenate(seen) if seen else rows[:0])
    # problems come in the order of the rows that could not be read
    damaged = list(zip(lost.tolist(), run.problems[before:], strict=True))
    parts = team.collected((found, [(row, one.identity, one.reason) for row, one in damaged]))
    for number, (vectors, named) in enumerate(parts):
        problems = [(row, BadSample(identity, reason)) for row, identity, reason in named]
        # those of this process are counted already
        run.problems += [problem for _, problem in problems] if number else []
        for kind, shelf in shelves.items():
            for kept, values in vectors.get(kind, ()):
                shelf.add(kept, values)
            shelf.damaged |= {row: problem for row, problem in problems if row in wanted[kind]}


def _describers(run: Run, kinds: Sequence[str]) -> dict[str, Callable[[Batch], Tensor]]:
    found: dict[str, Callable[[Batch], Tensor]] = {}
    for kind in kinds:
        if kind == "raw":
            found[kind] = lambda batch: run.domain.raw(batch, run.facts)
        else:
            found[kind] = (run if kind == "trained" else run.untrained()).method.embed
    return found


class _Shelf:
    """The vectors of one kind and source: those in the file, and those added since.

    Args:
        path: of the file; None where there is no cache.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows, self.parts = np.zeros(0, dtype=np.int64), list[Tensor]()
        self.damaged: dict[int, BadSample] = {}
        if path is not None and path.is_file():
            self._read(path)

    @property
    def known(self) -> np.ndarray:
        """Rows that need not be computed."""
        return np.concatenate([self.rows, np.array(list(self.damaged), dtype=np.int64)])

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                rows, values = file.get_tensor("rows").numpy(), file.get_tensor("vectors")
                named = json.loads((file.metadata() or {}).get("damaged", "[]"))
            os.utime(path)
        except (SafetensorError, OSError, ValueError):
            return
        if len(rows) == len(values):
            self.rows, self.parts = rows, [values]
            self.damaged = {row: BadSample(identity, reason) for row, identity, reason in named}

    def add(self, rows: np.ndarray, vectors: Tensor) -> None:
        """More vectors, (rows, dim)."""
        self.rows = np.concatenate([self.rows, rows])
        self.parts.append(vectors.clone())

    def take(self, rows: np.ndarray) -> Tensor:
        """(rows, dim) of rows that are known."""
        if not self.parts:
            return torch.zeros(0, 0)
        values = torch.cat(self.parts)
        order = np.argsort(self.rows, kind="stable")
        return values[torch.from_numpy(order[np.searchsorted(self.rows, rows, sorter=order)])]

    def save(self, bound: int) -> None:
        """Write what is known, unless it would take more than half of the cache."""
        values = torch.cat(self.parts) if self.parts else torch.zeros(0, 0)
        if self.path is None or 2 * values.nbytes > bound:
            return
        named = [[row, damage.identity, damage.reason] for row, damage in self.damaged.items()]
        content = save(
            {"rows": torch.from_numpy(self.rows), "vectors": values}, metadata={"damaged": json.dumps(named)}
        )
        try:
            self.path.parent.mkdir(exist_ok=True)
            write_whole(self.path, content)
        except OSError:
            return


def _trim(folder: Path, bound: int) -> None:
    """Remove what was not used for longest until the rest is within the bound."""
    try:
        files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
        total = 0
        for file in files:
            total += file.stat().st_size
            if total > bound:
                file.unlink(missing_ok=True)
    except OSError:
        return


def _place(run: Run, kind: str, data: str) -> Path:
    digest = hashlib.blake2b(digest_size=16)
    made = {
        "kind": kind, "reading": run.reading(), "anyjepa": anyjepa.__version__, "data": data,
        "recipe": run.recipe.name, "fields": dataclasses.asdict(run.recipe), "device": run.device.type,
    }  # fmt: skip
    if kind == "untrained":
        made |= {"seed": run.config["seed"], "torch": str(torch.__version__)}
    digest.update(json.dumps(made, sort_keys=True, default=str).encode())
    if kind == "trained":
        for name, value in run.method.backbone.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return run.path / "cache" / f"{kind}-{digest.hexdigest()}.safetensors"


def _digest_of_data(samples: Samples) -> str:
    digest = hashlib.blake2b(samples.fingerprint().encode(), digest_size=16)
    path = Path(samples.source).expanduser() if len(samples.source) < 4096 else None
    if path is not None and os.path.exists(path):
        digest.update(_state_of_files(path))
    elif (array := getattr(samples, "array", None)) is not None:
        for part in array if array.dtype == object else [array]:
            digest.update(f"{part.dtype} {part.shape}\n".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _state_of_files(path: Path) -> bytes:
    """Sizes and times of a file, or of a folder's folders and of at most 4,096 of its files."""
    if path.is_file():
        return _state_of(path)
    states, files = [], list[str]()
    for folder, folders, names in os.walk(path):
        folders.sort()
        states.append(_state_of(Path(folder)))
        files += [os.path.join(folder, name) for name in sorted(names)]
    looked_at = np.linspace(0, max(0, len(files) - 1), min(len(files), FILES_LOOKED_AT)).astype(int)
    return b"".join([*states, *(_state_of(Path(files[index])) for index in looked_at)])


def _state_of(path: Path) -> bytes:
    try:
        state: Any = path.stat()
    except OSError:
        return b"gone"
    return f"{state.st_size if path.is_file() else 0} {state.st_mtime_ns}\n".encode()
