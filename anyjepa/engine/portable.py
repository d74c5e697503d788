"""A run's encoder as one graph that other programs run: ONNX, TorchScript and torch.export.

The graph takes what the recipe gives the encoder, in the data's own units and as float32, and gives the
embedding; standardising is part of it, cutting and resizing of images and resampling of signals are not.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anyjepa.core.errors import UserError, require
from anyjepa.core.method import Batch, Method
from anyjepa.engine.files import explained, sync_folder
from anyjepa.engine.run import Run

Output = Literal["embedding", "tokens", "actions"]
Compute = Callable[[Batch], Tensor]
EXAMPLES = 8  # samples of the batch that a graph is checked on
FEWER = 3  # samples of the one it is checked on as well, for no size of a batch may be part of a graph


class Portable(nn.Module):
    """From the tensors of a batch to embeddings or tokens.

    Args:
        method: of the run; copied, without the weights that its embeddings do not need.
        names: of the tensors, in the order in which they are given.
        output: ``embedding`` (batch, dim), ``tokens`` (batch, tokens, width) or ``actions`` (`Method.act`).
    """

    def __init__(self, method: Method, names: list[str], output: Output = "embedding") -> None:
        super().__init__()
        self.method = copy.deepcopy(method).cpu().eval().requires_grad_(False)
        self.names = names
        self.output: Output = output
        part = self.method.policy if output == "actions" else self.method.backbone
        needed = {id(parameter) for parameter in part.parameters()}
        for parameter in self.method.parameters():
            if id(parameter) not in needed:
                parameter.data = parameter.data.new_empty(0)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Embeddings, tokens or actions of the samples."""
        return given_by(self.method, dict(zip(self.names, tensors, strict=True)), self.output)


def given_by(method: Method, batch: Batch, output: Output) -> Tensor:
    """What a method makes of a batch."""
    if output == "actions":
        return method.act(batch)
    return method.embed(batch) if output == "embedding" else method.tokens(batch).values


def example(run: Run, output: Output = "embedding") -> Batch:
    """A batch as a graph takes it, of noise with the statistics of the data: the data may not be at hand."""
    batch = run.recipe.present(run.domain.noise(run.facts, EXAMPLES))
    if output == "actions":
        batch = run.method.observed(batch)
    # samples of one length need none stated, and a graph is for one length
    batch.pop("length", None)
    plain = (torch.bool, torch.int64)
    return {name: value if value.dtype in plain else value.float() for name, value in batch.items()}


def largest_difference(wanted: Compute, given: Compute, batch: Batch) -> float:
    """Largest absolute difference of what two functions make of a batch, and of a part of it."""
    found = 0.0
    for count in (EXAMPLES, FEWER):
        part = {name: value[:count] for name, value in batch.items()}
        found = max(found, float((wanted(part).cpu().float() - given(part).cpu().float()).abs().max()))
    return found


def embedded(run: Run, output: Output = "embedding") -> Compute:
    """What the run itself makes of a batch, on its own device."""

    @torch.inference_mode()
    def compute(batch: Batch) -> Tensor:
        there = {name: value.to(run.device) for name, value in batch.items()}
        return given_by(run.method, there, output)

    return compute


def write_onnx(run: Run, out: Path, output: Output = "embedding") -> float:
    """Write an ONNX model with a dynamic batch, and run it in onnxruntime.

    Returns:
        The largest difference to what the run itself gives.

    Raises:
        UserError: the libraries are missing, the file cannot be written, or the model has no ONNX form.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        require(library, "export")
    batch = example(run, output)
    with _quiet(), _possible(run, "onnx"):
        program = torch.onnx.export(
            _program(run, batch, output), dynamo=True, verbose=False, input_names=list(batch),
            output_names=[output], optimize=True,
        )  # fmt: skip
        assert program is not None
    with explained(f"write {out}"), _beside(out) as file:
        # weights above two gigabytes go into a file of their own, whose name the model holds
        program.save(file)
    return largest_difference(embedded(run, output), _onnx(out), batch)


def _onnx(path: Path) -> Compute:
    runtime = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = [place.name for place in session.get_inputs()]

    def compute(batch: Batch) -> Tensor:
        return torch.from_numpy(session.run(None, {name: batch[name].numpy() for name in taken})[0])

    return compute


def write_torch_export(run: Run, out: Path, output: Output = "embedding") -> float:
    """Write what ``torch.export.load`` reads; returns and errors as of `write_onnx`."""
    batch = example(run, output)
    with _quiet(), _possible(run, "torch-export"):
        program = _program(run, batch, output)
    with explained(f"write {out}"), _beside(out) as file:
        torch.export.save(program, file)
    with _quiet():
        graph = torch.export.load(out).module()
    return largest_difference(embedded(run, output), lambda part: graph(*part.values()), batch)


def write_torchscript(run: Run, out: Path, output: Output = "embedding") -> float:
    """Write what ``torch.jit.load`` and C++ read; returns and errors as of `write_onnx`."""
    batch = example(run, output)
    portable = Portable(run.method, list(batch), output)
    with _quiet(), _possible(run, "torchscript"), torch.no_grad():
        graph = torch.jit.trace(portable, tuple(batch.values()), check_trace=False)
        with explained(f"write {out}"), _beside(out) as file:
            torch.jit.save(graph, str(file))
        again = torch.jit.load(out)
    return largest_difference(embedded(run, output), lambda part: again(*part.values()), batch)


def _program(run: Run, batch: Batch, output: Output) -> torch.export.ExportedProgram:
    size = torch.export.Dim("batch", min=1)
    portable = Portable(run.method, list(batch), output)
    with torch.no_grad():
        return torch.export.export(
            portable, tuple(batch.values()), dynamic_shapes=(tuple({0: size} for _ in batch),)
        )


@contextmanager
def _possible(run: Run, format: str) -> Iterator[None]:
    """Turn an exporter's complaint, which runs over pages, into one sentence."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as problem:
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        raise UserError(
            f"{run.recipe.name} with these fields cannot be written as {format} "
            f"({lines[0] if lines else type(problem).__name__}): choose another --format."
        ) from problem


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes about themselves, which say nothing about the run."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A place to write a file of that name, and more that belong to it, before they replace older ones."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        yield folder / out.name
        # the named file last: it is what tells that all is there
        for file in sorted(folder.iterdir(), key=lambda file: file.name == out.name):
            os.replace(file, out.parent / file.name)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def describe(run: Run) -> list[dict[str, Any]]:
    """Name, shape and type of each input of a graph; ``batch`` where the size is free."""
    return [
        {"name": name, "shape": ["batch", *value.shape[1:]], "type": str(value.dtype).removeprefix("torch.")}
        for name, value in example(run).items()
    ]
