"""AdamW with the exclusions and schedules that JEPA papers share."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Optimizer

from anyjepa.core.schedules import cosine, warmup_cosine
from anyjepa.recipes import Recipe


def build_optimiser(method: nn.Module) -> Optimizer:
    """AdamW (betas 0.9 and 0.999, eps 1e-8) over what has gradients.

    Biases and norms are not decayed, unless the method says that everything is (`Method.decay_all`).
    """
    parameters = [p for p in method.parameters() if p.requires_grad]
    spared = [] if getattr(method, "decay_all", False) else [p for p in parameters if p.ndim <= 1]
    kept = {id(p) for p in spared}
    groups = [
        {"params": [p for p in parameters if id(p) not in kept], "decayed": True},
        {"params": spared, "decayed": False, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=0.0, fused=True)


def schedule(recipe: Recipe, step: int, steps: int) -> dict[str, float]:
    """Learning rate and weight decay of update `step` (from 1) of `steps`.

    The warm-up keeps its share of the training when the number of steps is not what the epochs give.
    """
    warmup = round(steps * recipe.warmup_epochs / recipe.epochs)
    return {
        "learning_rate": warmup_cosine(
            step, steps, warmup, recipe.start_learning_rate, recipe.learning_rate, recipe.final_learning_rate
        ),
        "weight_decay": cosine(recipe.weight_decay, recipe.final_weight_decay, step / steps),
    }


def apply(optimiser: Optimizer, values: dict[str, float]) -> None:
    """Set what `schedule` gave."""
    for group in optimiser.param_groups:
        group["lr"] = values["learning_rate"]
        if group["decayed"]:
            group["weight_decay"] = values["weight_decay"]
