"""What keeps embeddings of views from collapsing without a teacher: the objectives beside SIGReg.

Each takes two views of N samples, or (where it says so) any number of them, and is to be minimised.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

View = Float[Tensor, "samples dim"]
Views = Float[Tensor, "views samples dim"]
Scalar = Float[Tensor, ""]


def variance_hinge(z: View, target: float = 1.0, eps: float = 1e-4) -> Scalar:
    """Mean over dimensions of max(0, target - sqrt(var + eps)), var unbiased (VICReg, equation 1)."""
    return functional.relu(target - torch.sqrt(z.var(0) + eps)).mean()


def covariance(z: View) -> Scalar:
    """Sum of the squared off-diagonal covariances over the dimension (VICReg, equations 3 and 4)."""
    centred = z - z.mean(0)
    square = (centred.T @ centred / (z.shape[0] - 1)) ** 2
    return (square.sum() - square.diagonal().sum()) / z.shape[1]


def variance_covariance(z: View, variance: float = 25.0, covariances: float = 1.0) -> Scalar:
    """VICReg without its invariance, for one matrix of features of any layer (VCReg, arXiv:2306.13292)."""
    return variance * variance_hinge(z) + covariances * covariance(z)


def vicreg(
    first: View, second: View, invariance: float = 25.0, variance: float = 25.0, covariances: float = 1.0
) -> Scalar:
    """VICReg (Bardes et al. 2022, arXiv:2105.04906, equation 6) with the released code's conventions.

    invariance * MSE + variance * (mean hinge of the views) + covariances * (sum of their covariances).
    The covariance is divided by D; where others divide by D (D - 1), their weight is D - 1 times ours.
    """
    together = functional.mse_loss(first, second)
    spread = (variance_hinge(first) + variance_hinge(second)) / 2
    return invariance * together + variance * spread + covariances * (covariance(first) + covariance(second))


def barlow_twins(first: View, second: View, off_diagonal: float = 5e-3) -> Scalar:
    """Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230, equation 1).

    C is the cross-correlation of the views over the batch, each dimension standardised with the biased
    deviation; sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j} C_ij^2.
    """
    a, b = ((z - z.mean(0)) / z.std(0, correction=0).clamp(min=1e-6) for z in (first, second))
    square = (a.T @ b / a.shape[0] - torch.eye(a.shape[1], dtype=a.dtype, device=a.device)) ** 2
    on = square.diagonal().sum()
    return on + off_diagonal * (square.sum() - on)


def whiten(z: View, eps: float = 1e-6) -> View:
    """Centred z times the inverse transposed Cholesky factor of its covariance: covariance I.

    Needs more samples than dimensions.
    """
    centred = z - z.mean(0)
    matrix = centred.T @ centred / (z.shape[0] - 1)
    factor = torch.linalg.cholesky(matrix + eps * torch.eye(z.shape[1], dtype=z.dtype, device=z.device))
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


def whitened_mse(first: View, second: View) -> Scalar:
    """W-MSE (Ermolov et al. 2021, arXiv:2007.06346): both views whitened together, then 2 - 2 cosine."""
    a, b = whiten(torch.cat([first, second])).chunk(2)
    return 2 - 2 * functional.cosine_similarity(a, b, dim=1).mean()


def coding_rate(z: View, eps: float = 0.2) -> Scalar:
    """log det(I + D / (N eps) Z^T Z) / 2, of rows of unit length: how much room the batch takes up.

    To be made large: the total coding rate of EMP-SSL (arXiv:2304.03977).
    """
    rows = functional.normalize(z, dim=1)
    scale = z.shape[1] / (z.shape[0] * eps)
    return torch.logdet(torch.eye(z.shape[1], dtype=z.dtype, device=z.device) + scale * rows.T @ rows) / 2


def emp_ssl(views: Views, invariance: float = 200.0, eps: float = 0.2) -> Scalar:
    """EMP-SSL (Tong et al. 2023): -(views' mean `coding_rate`) - `invariance` * (cosine to their mean)."""
    centre = views.mean(0)
    alike = torch.stack([functional.cosine_similarity(view, centre, dim=1).mean() for view in views]).mean()
    return -torch.stack([coding_rate(view, eps) for view in views]).mean() - invariance * alike
