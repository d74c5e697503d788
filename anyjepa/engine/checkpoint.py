"""Checkpoints: a folder a step, written whole or not at all, checked by digest, in safetensors and JSON."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from anyjepa.core.errors import UserError
from anyjepa.core.method import Method
from anyjepa.engine.files import explained, sync_folder, write_whole
from anyjepa.engine.shards import empty_state, names_in, placed_like, read_parts, whole, write_parts

if TYPE_CHECKING:
    from anyjepa.engine.team import Team

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had not stopped.

    Args:
        step: updates done.
        tensors: the method's and the optimiser's, by name.
        facts: what is not a tensor.
        parts: folder of the tensors, where several processes wrote each its part; `tensors` is empty then.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    parts: Path | None = None


def save_checkpoint(
    folder: Path,
    step: int,
    method: nn.Module,
    optimiser: Optimizer,
    facts: dict[str, Any],
    keep: int = KEEP,
) -> Path:
    """Write ``folder/step-…`` and delete all but the newest `keep` checkpoints (0 keeps all).

    A checkpoint of a later step goes too: the run went on from an earlier one because it was damaged.

    Raises:
        UserError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    partial = folder / f".step-{step:09d}.partial"
    with _explained(step):
        try:
            _clear(folder, partial)
            tensors = {n: t.cpu().contiguous() for n, t in _tensors(method, optimiser).items()}
            _write(partial, tensors)
            return _complete(folder, partial, step, facts, keep)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def save_parts(
    folder: Path,
    step: int,
    method: nn.Module,
    optimiser: Optimizer,
    facts: dict[str, Any],
    keep: int,
    team: Team,
) -> None:
    """The same where weights are cut over processes: each writes its part, the first the rest.

    Raises:
        UserError: see `save_checkpoint`.
    """
    partial = folder / f".step-{step:09d}.partial"
    with _explained(step):
        if team.first:
            _clear(folder, partial)
        team.wait()
        write_parts(partial, _tensors(method, optimiser))
        team.wait()
        if team.first:
            _complete(folder, partial, step, facts, keep)
    team.wait()


def _explained(step: int) -> AbstractContextManager[None]:
    return explained(f"write the checkpoint of step {step} (earlier ones are intact)")


def _clear(folder: Path, partial: Path) -> None:
    for abandoned in folder.glob(".step-*.partial"):  # of a run that was killed while it wrote
        shutil.rmtree(abandoned, ignore_errors=True)
    partial.mkdir(parents=True)


def _complete(folder: Path, partial: Path, step: int, facts: dict[str, Any], keep: int) -> Path:
    """Sign what was written, put it in its place, and delete what is too old."""
    written = sorted(partial.glob("*.safetensors"))
    record = {"step": step, "sha256": {file.name: _digest(file) for file in written}, **facts}
    (partial / "progress.json").write_text(json.dumps(record))
    for path in (*written, partial / "progress.json"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(partial)
    final = folder / f"step-{step:09d}"
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    sync_folder(folder)
    present = checkpoints(folder)
    kept = [path for path in present if path.name <= final.name][: keep or None]
    for other in present:
        if other not in kept:
            shutil.rmtree(other, ignore_errors=True)
    return final


def _write(folder: Path, tensors: dict[str, Tensor]) -> None:
    state = folder / "state.safetensors"
    try:
        save_file(tensors, state)
    except SafetensorError as problem:
        # the library reports a failed write in its own words; the system's are in the free space
        full = shutil.disk_usage(folder).free < sum(t.nbytes for t in tensors.values())
        raise OSError(28 if full else 5, str(problem), str(state)) from problem


def _tensors(method: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    tensors = {f"method.{name}": tensor for name, tensor in method.state_dict().items()}
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    for parameter, state in optimiser.state.items():
        for key, value in state.items():
            tensors[f"optimiser.{names[id(parameter)]}.{key}"] = torch.as_tensor(value)
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def read_checkpoint(path: Path) -> Checkpoint | str:
    """The checkpoint in a folder, or what is wrong with it."""
    try:
        record = json.loads((path / "progress.json").read_text())
        digests = record.pop("sha256")
        if isinstance(digests, str):  # of a run of 2026-11
            digests = {"state.safetensors": digests}
        if not digests or any(_digest(path / Path(name).name) != digest for name, digest in digests.items()):
            raise ValueError("its content does not match its digest")
        if path.name != f"step-{record['step']:09d}":
            raise ValueError("its step is not that of its name")
        if "state.safetensors" not in digests:
            return Checkpoint(record.pop("step"), {}, record, path)
        return Checkpoint(record.pop("step"), load_file(path / "state.safetensors"), record)
    except (OSError, ValueError, KeyError, SafetensorError) as problem:
        return str(problem)


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for each newer one that is not."""
    complaints = []
    present = checkpoints(folder)
    for path in present:
        found = read_checkpoint(path)
        if isinstance(found, Checkpoint):
            return found, complaints
        last = path == present[-1]
        instead = "there is none before it" if last else "the one before it is used"
        complaints.append(f"checkpoint {path.name} is damaged ({found}); {instead}.")
    return None, complaints


def restore(checkpoint: Checkpoint, method: nn.Module, optimiser: Optimizer | None = None) -> None:
    """Put a checkpoint's tensors back.

    Raises:
        UserError: the checkpoint belongs to a method of another shape.
    """
    if checkpoint.parts is not None:
        _restore_parts(checkpoint.parts, method, optimiser)
        return
    load_strictly(method, {k[7:]: v for k, v in checkpoint.tensors.items() if k.startswith("method.")})
    if optimiser is None:
        return
    for name, parameter in method.named_parameters():
        prefix = f"optimiser.{name}."
        state = {k[len(prefix) :]: v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
        if state:
            optimiser.state[parameter] = {
                # the count of steps keeps its dtype, but a fused optimiser wants it on its own device
                key: value.to(parameter.device) if key == "step" else placed_like(value, parameter.detach())
                for key, value in state.items()
            }


def _restore_parts(folder: Path, method: nn.Module, optimiser: Optimizer | None) -> None:
    parameters = dict(method.named_parameters())
    state = empty_state(names_in(folder), parameters) if optimiser is not None else {}
    tensors = {f"method.{name}": value.detach() for name, value in method.state_dict(keep_vars=True).items()}
    tensors |= {
        f"optimiser.{name}.{key}": value for name, values in state.items() for key, value in values.items()
    }
    read_parts(folder, tensors)
    if optimiser is not None:
        for name, values in state.items():
            optimiser.state[parameters[name]] = values


def load_strictly(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load weights whose names and shapes all match.

    Raises:
        UserError: names what is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    reshaped = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    for problem, names in (
        ("lack", missing),
        ("have an unexpected", unexpected),
        ("have another shape of", reshaped),
    ):
        if names:
            raise UserError(
                f"these weights do not fit the recipe: they {problem} '{names[0]}' ({len(names)} such); "
                "use the recipe and fields they were trained with."
            )
    module.load_state_dict({name: placed_like(value, own[name]) for name, value in tensors.items()})


def save_encoder(method: Method, path: Path, writing: bool = True) -> None:
    """Write the weights a user takes away, whole; every process of a run calls it, one is `writing`."""
    tensors = {
        name: whole(tensor.detach()).cpu().contiguous()
        for name, tensor in method.backbone.state_dict().items()
    }
    if writing:
        write_whole(path, save(tensors))
