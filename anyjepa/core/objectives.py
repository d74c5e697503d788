"""Distances between predicted and target embeddings, each a mean over everything.

Target blocks have one width, so the mean over everything is the mean over blocks of per-block means.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def smooth_l1(
    predicted: Float[Tensor, "*any width"], target: Float[Tensor, "*any width"], beta: float = 1.0
) -> Float[Tensor, ""]:
    """0.5 d^2 / beta below `beta`, |d| - 0.5 beta above (the released I-JEPA code, beta 1)."""
    return functional.smooth_l1_loss(predicted, target, beta=beta)


def l1(predicted: Float[Tensor, "*any width"], target: Float[Tensor, "*any width"]) -> Float[Tensor, ""]:
    """Mean absolute difference (V-JEPA, equation 1)."""
    return functional.l1_loss(predicted, target)


def l2(predicted: Float[Tensor, "*any width"], target: Float[Tensor, "*any width"]) -> Float[Tensor, ""]:
    """Mean squared difference: the paper's I-JEPA loss (section 3) divided by tokens and width."""
    return functional.mse_loss(predicted, target)


def cosine(predicted: Float[Tensor, "*any width"], target: Float[Tensor, "*any width"]) -> Float[Tensor, ""]:
    """One minus the mean cosine similarity, in [0, 2]."""
    return 1 - functional.cosine_similarity(predicted, target, dim=-1).mean()


OBJECTIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smooth-l1": smooth_l1,
    "l1": l1,
    "l2": l2,
    "cosine": cosine,
}

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smooth-l1": lambda p, g: functional.smooth_l1_loss(p, g, reduction="none").mean(-1),
    "l1": lambda p, g: (p - g).abs().mean(-1),
    "l2": lambda p, g: (p - g).square().mean(-1),
    "cosine": lambda p, g: 1 - functional.cosine_similarity(p, g, dim=-1),
}
"""The same of each token, (..., width) to (...), for means that weigh tokens differently."""
