"""The processes that train one run: who is first, what they agree on, how many samples each has."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.precision import DoublePrecision
from torch import distributed

from anyjepa.core.errors import UserError
from anyjepa.engine.crew import Crew
from anyjepa.engine.run import choose_device
from anyjepa.engine.settings import Settings
from anyjepa.engine.shards import shard


def _processes(devices: int) -> tuple[int, int]:
    """On this machine and in all, as torchrun or srun says it, or else as many as `devices`."""
    names = ("LOCAL_WORLD_SIZE", "WORLD_SIZE")
    if names[1] not in os.environ and SLURMEnvironment.detect():  # not in a shell of an allocation
        names = ("SLURM_NTASKS_PER_NODE", "SLURM_NTASKS")
    local = int(os.environ.get(names[0], devices))
    return local, int(os.environ.get(names[1], local))


def _strategy(processes: int, sharded: bool) -> Any:
    if processes == 1:
        return "auto"
    if not sharded:
        return "ddp"
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(shard, data_parallel_size=processes, tensor_parallel_size=1)


class Team(Crew):
    """Joins the other processes, started by ``--devices``, torchrun or SLURM; or is alone.

    Every process runs the same program. Files are written by the first alone.

    Args:
        settings: device, precision, devices.
    """

    def __init__(self, settings: Settings) -> None:
        device = choose_device(settings.device)
        precision: Any = settings.precision
        if precision == "auto":
            precision = "bf16-mixed" if device.type == "cuda" else "32-true"
        local, world = _processes(settings.devices)
        self.fabric = Fabric(
            accelerator=device.type, devices=local, num_nodes=max(1, world // local),
            strategy=_strategy(world, settings.sharded),
            # as a plug-in, for Fabric has no name for it where weights are cut
            plugins=DoublePrecision() if precision == "64-true" else None,
            precision=None if precision == "64-true" else precision,
        )  # fmt: skip
        self.fabric.launch()
        # word of a signal must not wait for the devices' own queue
        group: Any = distributed.new_group(backend="gloo") if self.fabric.world_size > 1 else None
        super().__init__(self.fabric.global_rank, self.fabric.world_size, group)

    def share(self, batch_size: int) -> int:
        """Samples of a batch that each process has.

        Raises:
            UserError: the batch cannot be cut into equal parts.
        """
        if batch_size % self.size:
            raise UserError(
                f"a batch of {batch_size} cannot be shared by {self.size} processes: choose a --batch-size "
                f"that {self.size} divides."
            )
        return batch_size // self.size

    def say(self, *numbers: int) -> Callable[[], list[int]]:
        """Send numbers to all; what is returned gives the largest of each that any process sent.

        They travel while something else is done, so that nobody waits: what is sent before a step is heard by
        all after that step.
        """
        word = torch.tensor(numbers)
        if self.size == 1:
            return word.tolist
        sent: Any = distributed.all_reduce(word, distributed.ReduceOp.MAX, group=self.group, async_op=True)

        def heard() -> list[int]:
            sent.wait()
            return word.tolist()

        return heard

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Means over the processes of what each has measured, the same names in all."""
        if self.size == 1 or not values:
            return values
        together = torch.tensor(list(values.values()), dtype=torch.float64)
        distributed.all_reduce(together, group=self.group)
        return dict(zip(values, (together / self.size).tolist(), strict=True))

    def gathered(self, mine: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other."""
        return [item for part in self.all_told(mine) for item in part]
