"""AdamW with the exclusions and schedules that JEPA papers share."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Optimizer

from anyjepa.core.schedules import cosine
from anyjepa.recipes import Recipe


def build_optimiser(method: nn.Module, recipe: Recipe | None = None) -> Optimizer:
    """AdamW over what has gradients, with the recipe's betas, epsilon and choice of what is decayed.

    Without a recipe: betas 0.9 and 0.999, eps 1e-8, biases and norms spared.
    """
    parameters = [p for p in method.parameters() if p.requires_grad]
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    decayed = {
        "all": {id(p) for p in parameters},
        "matrices": {id(p) for p in parameters if p.ndim > 1},
        "layers": {id(part.weight) for part in method.modules() if isinstance(part, layers)},
    }["matrices" if recipe is None else recipe.decay]
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "decayed": True},
        {"params": [p for p in parameters if id(p) not in decayed], "decayed": False, "weight_decay": 0.0},
    ]
    options = {} if recipe is None else {"betas": recipe.betas, "eps": recipe.epsilon}
    return AdamW(groups, lr=0.0, fused=True, **options)


def schedule(recipe: Recipe, step: int, steps: int) -> dict[str, float]:
    """Learning rate and weight decay of update `step` (from 1) of `steps`.

    Schedules may be planned for more steps than there are (`Recipe.planned`).
    """
    planned = recipe.planned(steps)
    return {
        "learning_rate": recipe.learning_rate_at(step, steps),
        "weight_decay": cosine(recipe.weight_decay, recipe.final_weight_decay, step / planned),
    }


def apply(optimiser: Optimizer, values: dict[str, float]) -> None:
    """Set what `schedule` gave."""
    for group in optimiser.param_groups:
        group["lr"] = values["learning_rate"]
        if group["decayed"]:
            group["weight_decay"] = values["weight_decay"]
