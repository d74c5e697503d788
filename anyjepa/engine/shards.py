"""Weights cut over processes (FSDP2), and checkpoints in safetensors that each process writes its part of."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from anyjepa.core.errors import UserError
from anyjepa.core.transformer import Block


def shard(method: nn.Module, mesh: Any) -> nn.Module:
    """Cut each block, and then the rest, over the processes: gathered when used, let go of afterwards."""
    from torch.distributed.fsdp import fully_shard

    for part in method.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh["data_parallel"])
    fully_shard(method, mesh=mesh["data_parallel"])  # pyright: ignore[reportArgumentType]
    return method


def is_cut(method: nn.Module) -> bool:
    """Whether this process has but a part of the weights."""
    return any(isinstance(parameter, DTensor) for parameter in method.parameters())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; where it is cut, every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """`value` in the dtype and on the device of `like`, and cut as it is."""
    if isinstance(like, DTensor):
        local = value.to(device=like.device, dtype=like.dtype)
        return distribute_tensor(local, like.device_mesh, like.placements)
    return value.to(like)


def write_parts(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Every process writes what it has; no pickle is involved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(tensors, storage_writer=_format().HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_parts(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors, cut in whatever way, from what any number of processes has written.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(tensors, storage_reader=_format().HuggingFaceStorageReader(str(folder)))
    except (CheckpointException, RuntimeError, ValueError) as problem:
        raise UserError(
            f"the checkpoint {folder} does not fit the recipe: use the recipe and fields it was trained with "
            f"({str(problem).splitlines()[0]})."
        ) from problem


def _format() -> Any:
    try:
        from torch.distributed.checkpoint import hf_storage
    except ImportError as problem:
        raise UserError("--sharded needs torch 2.8 or newer: pip install --upgrade torch.") from problem
    return hf_storage


def names_in(folder: Path) -> list[str]:
    """Of the tensors that were written."""
    return list(_format().HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def empty_state(names: list[str], parameters: dict[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
    """Zeros for an optimiser's state, by parameter and key, cut as the parameters are.

    Args:
        names: ``optimiser.PARAMETER.KEY`` of what was saved; others are passed over.
        parameters: by name.
    """
    state: dict[str, dict[str, Tensor]] = {}
    for name in names:
        parameter, _, key = name.removeprefix("optimiser.").rpartition(".")
        if name.startswith("optimiser.") and parameter in parameters:
            like = parameters[parameter].detach()
            zeros = torch.zeros((), device=like.device) if key == "step" else torch.zeros_like(like)
            state.setdefault(parameter, {})[key] = zeros
    return state
