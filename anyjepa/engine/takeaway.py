"""Using a run elsewhere: embeddings in a table, the encoder in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from anyjepa.core.errors import UserError, nearest
from anyjepa.domains import Samples
from anyjepa.engine.files import explained, write_whole
from anyjepa.engine.run import Run, load, load_encoder_file

FORMATS = ("safetensors",)


def embed(
    run: Run | str | Path, data: str | np.ndarray | None = None, out: str | Path = "embeddings.parquet"
) -> dict[str, Any]:
    """Embed every sample of a source and write the table, a batch at a time, whole or not at all.

    Args:
        run: a run or its folder.
        data: source; the data it was trained on where not given.
        out: ``.parquet`` (columns ``id``, ``embedding``, and ``label`` where known) or ``.npy`` (rows in the
            source's order, ids in a ``.ids.txt`` beside it).

    Returns:
        ``rows``, ``dim``, ``out``, ``skipped``.

    Raises:
        UserError: another ending, an unreadable source or a full disk.
    """
    run, out = run if isinstance(run, Run) else load(run), Path(out)
    if out.suffix not in (".parquet", ".npy"):
        raise UserError(f"embeddings are written as .parquet or .npy, not '{out.suffix or out.name}'.")
    samples = run.open(data)
    with explained(f"write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out.with_name(f".{out.name}.partial")
        try:
            write = _write_parquet if out.suffix == ".parquet" else _write_npy
            rows, dim = write(run, samples, beside, out)
            os.replace(beside, out)
        finally:
            beside.unlink(missing_ok=True)
    return {"rows": rows, "dim": dim, "out": str(out), "skipped": len(samples.problems) + len(run.problems)}


@torch.inference_mode()
def _embedded(run: Run, samples: Samples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for indices, batch in run.batches(samples):
        yield indices, run.method.embed(batch).float().cpu().numpy()


def _write_parquet(run: Run, samples: Samples, beside: Path, _out: Path) -> tuple[int, int]:
    import pyarrow as arrow
    from pyarrow import parquet

    rows, dim, writer = 0, 0, None
    try:
        for indices, vectors in _embedded(run, samples):
            dim = vectors.shape[1]
            columns: dict[str, Any] = {
                "id": [samples.identity(int(i)) for i in indices],
                "embedding": arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.reshape(-1)), dim),
            }
            if samples.labels is not None:
                columns["label"] = _label_names(samples, indices)
            table = arrow.table(columns)
            writer = writer or parquet.ParquetWriter(beside, table.schema)
            writer.write_table(table)
            rows += len(indices)
    finally:
        if writer:
            writer.close()
    _some(rows, samples)
    return rows, dim


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


def _write_npy(run: Run, samples: Samples, beside: Path, out: Path) -> tuple[int, int]:
    names, parts = [], []
    for indices, vectors in _embedded(run, samples):
        parts.append(vectors)
        names += [samples.identity(int(i)) for i in indices]
    _some(len(names), samples)
    table = np.concatenate(parts)
    with open(beside, "wb") as file:
        np.save(file, table)
    write_whole(out.with_suffix(".ids.txt"), ("\n".join(names) + "\n").encode())
    return table.shape


def _some(rows: int, samples: Samples) -> None:
    if not rows:
        raise UserError(f"none of the samples of {samples.source} can be read, so there is nothing to embed.")


def export(
    run: Run | str | Path, format: str = "safetensors", out: str | Path | None = None
) -> dict[str, Any]:
    """Write the encoder for other tools and check that it gives the same embeddings when read back.

    ``safetensors`` is one file: the weights under plain names, the pixel statistics among them, and in its
    metadata the recipe with every field, so that ``anyjepa.load(file)`` needs nothing else.

    Args:
        run: a run or its folder.
        format: one of `FORMATS`.
        out: file; ``encoder.safetensors`` of the recipe's name beside the run where not given.

    Returns:
        ``out``, ``format``, ``max_difference`` (largest absolute difference of embeddings on one batch).
    """
    run = run if isinstance(run, Run) else load(run)
    if format not in FORMATS:
        raise UserError(
            f"there is no export format '{format}' (there is: {', '.join(FORMATS)})."
            f"{nearest(format, FORMATS)}"
        )
    out = Path(out or run.path / f"{run.recipe.name}.safetensors")
    tensors = {name: value.cpu().contiguous() for name, value in run.method.backbone.state_dict().items()}
    card = {key: run.config[key] for key in ("recipe", "preset", "fields", "seed", "steps", "versions")}
    card["data"] = {key: value for key, value in run.config["data"].items() if key != "source"}
    with explained(f"write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, save(tensors, metadata={"format": "pt", "anyjepa": json.dumps(card)}))
    return {
        "out": str(out),
        "format": format,
        "max_difference": _difference(run, load_encoder_file(out, "cpu")),
    }


@torch.inference_mode()
def _difference(run: Run, other: Run) -> float:
    # noise of the data's own statistics serves where the data is no longer at hand
    batch = run.recipe.present(run.domain.noise(run.config["data"]["facts"], 8))
    mine = run.method.embed({name: value.to(run.device) for name, value in batch.items()}).float().cpu()
    return float((mine - other.method.embed(batch).float()).abs().max())
