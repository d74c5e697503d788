"""VICReg's variance and covariance over the features of all processes, as one process would have them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from anyjepa.core.processes import process


def shared_covariance(z: Float[Tensor, "samples dim"]) -> Float[Tensor, "dim dim"]:
    """Unbiased covariance of the rows of all processes, with a gradient to each process's own."""
    _, processes = process()
    total, count = z.sum(0), z.new_tensor(float(len(z)))
    if processes > 1:
        total, count = all_reduce(total), all_reduce(count)
    centred = z - total / count
    products = centred.T @ centred
    return (all_reduce(products) if processes > 1 else products) / (count - 1).clamp(min=1)


def spread_hinge(matrix: Float[Tensor, "dim dim"], eps: float = 1e-4) -> Float[Tensor, ""]:
    """Mean over dimensions of max(0, 1 - sqrt(var + eps)), of a covariance matrix (VICReg, equation 1)."""
    return functional.relu(1 - torch.sqrt(matrix.diagonal() + eps)).mean()


def off_diagonal(matrix: Float[Tensor, "dim dim"]) -> Float[Tensor, ""]:
    """Sum of the squared covariances off the diagonal over the dimension (VICReg, equations 3 and 4)."""
    square = matrix.square()
    return (square.sum() - square.diagonal().sum()) / len(matrix)
