"""Checkpoints: a folder a step, written whole or not at all, checked by digest, in safetensors and JSON."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from anyjepa.core.errors import UserError
from anyjepa.core.method import Method
from anyjepa.engine.files import explained, sync_folder, write_whole

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had not stopped.

    Args:
        step: updates done.
        tensors: the method's and the optimiser's, by name.
        facts: what is not a tensor.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


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
    final = folder / f"step-{step:09d}"
    partial = folder / f".step-{step:09d}.partial"
    with explained(f"write the checkpoint of step {step} (earlier ones are intact)"):
        try:
            for abandoned in folder.glob(".step-*.partial"):  # of a run that was killed while it wrote
                shutil.rmtree(abandoned, ignore_errors=True)
            partial.mkdir(parents=True)
            _write(partial, step, _tensors(method, optimiser), facts)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
            sync_folder(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    present = checkpoints(folder)
    kept = [path for path in present if path.name <= final.name][: keep or None]
    for other in present:
        if other not in kept:
            shutil.rmtree(other, ignore_errors=True)
    return final


def _write(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    state = folder / "state.safetensors"
    try:
        save_file(tensors, state)
    except SafetensorError as problem:
        # the library reports a failed write in its own words; the system's are in the free space
        full = shutil.disk_usage(folder).free < sum(t.nbytes for t in tensors.values())
        raise OSError(28 if full else 5, str(problem), str(state)) from problem
    record = {"step": step, "sha256": _digest(state), **facts}
    (folder / "progress.json").write_text(json.dumps(record))
    for path in (state, folder / "progress.json"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def _tensors(method: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    tensors = {f"method.{name}": tensor for name, tensor in method.state_dict().items()}
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    for parameter, state in optimiser.state.items():
        for key, value in state.items():
            tensors[f"optimiser.{names[id(parameter)]}.{key}"] = torch.as_tensor(value)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


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
        if _digest(path / "state.safetensors") != record.pop("sha256"):
            raise ValueError("its content does not match its digest")
        if path.name != f"step-{record['step']:09d}":
            raise ValueError("its step is not that of its name")
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
    load_strictly(method, {k[7:]: v for k, v in checkpoint.tensors.items() if k.startswith("method.")})
    if optimiser is None:
        return
    for name, parameter in method.named_parameters():
        prefix = f"optimiser.{name}."
        state = {k[len(prefix) :]: v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
        if state:
            optimiser.state[parameter] = {
                # the count of steps keeps its dtype, but a fused optimiser wants it on its own device
                key: value.to(parameter.device) if key == "step" else value.to(parameter)
                for key, value in state.items()
            }


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
    module.load_state_dict(tensors)


def save_encoder(method: Method, path: Path) -> None:
    """Write the weights a user takes away, whole."""
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in method.backbone.state_dict().items()
    }
    write_whole(path, save(tensors))
