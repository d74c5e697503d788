"""Processes that share out what needs no training: each embeds a part, the first writes and scores."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import distributed

from anyjepa.core.errors import UserError

__all__ = ["Crew", "crew", "joined"]

PATIENCE = datetime.timedelta(days=7)  # one may have much less to read than another


class Crew:
    """The processes that torchrun started for one command, or one alone.

    Args:
        rank: of this process.
        size: how many there are.
        group: of `torch.distributed`, which they talk over; that of all where None.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self.group = rank, size, group

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def part(self, rows: np.ndarray, batch_size: int) -> np.ndarray:
        """This process's rows: whole batches in a run, so that batches are those of one process alone."""
        batches = -(-len(rows) // batch_size)
        first, last = (batches * rank // self.size * batch_size for rank in (self.rank, self.rank + 1))
        return rows[first:last]

    def told(self, value: Any) -> Any:
        """What the first process gives, in all of them."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def all_told(self, value: Any) -> list[Any]:
        """What each process gives, in all of them."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value, group=self.group)
        return found

    def collected(self, value: Any) -> list[Any]:
        """What each process gives, in the first; nothing in the others."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.gather_object(value, found if self.first else None, dst=0, group=self.group)
        return found if self.first else []

    def wait(self) -> None:
        """For all processes."""
        if self.size > 1:
            distributed.barrier(group=self.group)

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """Within, what all processes find wrong is said by the first alone."""
        try:
            yield
        except UserError:
            if self.first:
                raise
            raise SystemExit(2) from None


_CREW: ContextVar[Crew | None] = ContextVar("the processes that share the work", default=None)


def crew() -> Crew:
    """Those that share what is done now; one alone unless within `joined`."""
    return _CREW.get() or Crew()


@contextmanager
def joined() -> Iterator[Crew]:
    """Join the other processes that torchrun started; within, work is shared by all.

    What all find wrong is said by the first alone. Within another `joined`, or in a training, nothing is
    joined anew.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    ready = "MASTER_ADDR" in os.environ and not distributed.is_initialized()
    if size == 1 or _CREW.get() is not None or not ready:
        yield crew()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("gloo", timeout=PATIENCE)
    team = Crew(distributed.get_rank(), distributed.get_world_size())
    token = _CREW.set(team)
    try:
        with team.one_voice():
            yield team
    finally:
        _CREW.reset(token)
        distributed.destroy_process_group()
