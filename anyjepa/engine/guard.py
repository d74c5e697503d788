"""A step whose loss or gradients are not numbers is left out, without waiting for the device to say so.

Parameters, the optimiser's state and buffers stay as they were; the teacher still takes its step towards the
encoder, which did not move.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from anyjepa.core.errors import UserError
from anyjepa.engine.shards import whole

IN_A_ROW = 3  # such steps end the training


class Guard:
    """Judges every step and counts those left out; counts stay on the device until they are asked for.

    Args:
        method: whose buffers (running statistics, queues) a bad step must not change either.
        optimiser: fused, so that it can be told on the device to change nothing.
    """

    def __init__(self, method: nn.Module, optimiser: Optimizer, device: torch.device) -> None:
        saved = set(method.state_dict(keep_vars=True))
        self.buffers = [
            buffer.detach() for name, buffer in method.named_buffers() if name in saved and buffer.numel()
        ]
        # once: to walk through all modules in every step costs as much as to look at the gradients
        self.parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self.before = [buffer.clone() for buffer in self.buffers]
        self.optimiser = optimiser
        self.left_out, self.in_a_row, self.longest = torch.zeros(3, device=device).unbind()

    def remember(self) -> None:
        """Keep the buffers as they are before the step."""
        if self.buffers:
            torch._foreach_copy_(self.before, self.buffers)  # pyright: ignore[reportPrivateImportUsage]

    def judge(self, loss: Tensor, norm: Tensor | None) -> Tensor:
        """Tell the optimiser whether to apply the step; 0-dimensional, 1.0 where it is left out.

        Args:
            loss: of this process.
            norm: of all gradients, where clipping has measured it; measured here otherwise.
        """
        if norm is None:
            norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        norm = whole(norm)
        bad = (~(loss.detach().isfinite() & norm.isfinite())).to(self.left_out)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(bad, distributed.ReduceOp.MAX)
        self.optimiser.found_inf = bad  # type: ignore[attr-defined]
        for buffer, kept in zip(self.buffers, self.before, strict=True):
            buffer.copy_(torch.where(bad > 0, kept, buffer))
        self.left_out += bad
        self.in_a_row.copy_((self.in_a_row + 1) * bad)
        torch.maximum(self.longest, self.in_a_row, out=self.longest)
        return bad

    def in_doubt(self, step: int) -> bool:
        """Whether the last step was left out, so that a checkpoint had better wait.

        Raises:
            UserError: too many were, one after the other, by update `step`.
        """
        if self.longest >= IN_A_ROW:
            raise diverged(f"the loss or its gradients gave no numbers {IN_A_ROW} times in a row", step)
        return bool(self.in_a_row)

    def count(self) -> int:
        """Steps left out since last asked."""
        left_out = int(self.left_out)
        self.left_out.zero_()
        return left_out


def diverged(what: str, step: int) -> UserError:
    """What ends a training that cannot go on."""
    return UserError(
        f"{what}, by step {step}; the last checkpoint is intact: try a lower --learning-rate or "
        "--gradient-clip 1 in a new run, or go on with --resume."
    )
