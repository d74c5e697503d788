"""What a method must know of the other processes that share a batch with it (`torch.distributed`).

Gradients are averaged over processes. A loss that is a mean over the samples of each, all having as many,
then has the gradient of the whole batch; what else is computed over a batch asks the others by what is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

_ALONE = ContextVar("drawn by one process alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within, every process draws the same numbers for itself."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def process() -> tuple[int, int]:
    """Rank of this process and their number: 0 and 1 where there is but one, or within `alone`."""
    if not _ALONE.get() and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def share_of_all(total: Tensor) -> Tensor:
    """Mean over processes of a total, without a gradient: divide a sum by it instead of by the process's own.

    The mean over processes of sum / `share_of_all` is then the mean over everything, however unevenly what is
    counted lies.
    """
    total = total.detach()
    _, processes = process()
    if processes == 1:
        return total
    shared = total.to(torch.float64)
    distributed.all_reduce(shared)
    return shared.to(total.dtype if total.is_floating_point() else torch.float32) / processes


def of_all(x: Float[Tensor, "samples ..."]) -> Float[Tensor, "all ..."]:
    """The rows of every process, all having as many, in the order of the batch; without a gradient."""
    _, processes = process()
    if processes == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(processes)]
    distributed.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation by the statistics of all processes' samples; torch's own wants a GPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(
        self, input: Float[Tensor, "batch channels *places"]
    ) -> Float[Tensor, "batch channels *places"]:
        """As `nn.BatchNorm1d`, 2d and 3d."""
        _, processes = process()
        if processes == 1 or not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        single = input.dtype in (torch.float16, torch.bfloat16)
        x = input.float() if single else input
        count = all_reduce(x.new_tensor(x.numel() / x.shape[1]))
        mean = all_reduce(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / count
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum  # type: ignore[arg-type]
                self.running_mean.lerp_(mean.to(self.running_mean), share)
                unbiased = variance * (count / (count - 1).clamp(min=1))
                self.running_var.lerp_(unbiased.to(self.running_var), share)
        x = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(input.dtype)


def share_statistics(module: nn.Module) -> nn.Module:
    """Replace batch normalisations by `SharedBatchNorm`, with the same parameters, buffers and names."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            shared = SharedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            shared.weight, shared.bias = child.weight, child.bias
            for kept in ("running_mean", "running_var", "num_batches_tracked"):
                shared.register_buffer(kept, getattr(child, kept))
            shared.train(child.training)
            setattr(module, name, shared)
        else:
            share_statistics(child)
    return module
