"""What a method hides of samples, or the views that it makes of them, drawn over the samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from anyjepa.core.method import Batch, Context, Method
from anyjepa.core.tokens import Tokens
from anyjepa.engine.run import Run
from anyjepa.reports import sections
from anyjepa.reports.page import Masks, SampleViews


@torch.inference_mode()
def drawn(run: Run, batch: Batch, names: Sequence[str], gain: float, seed: int) -> Masks | SampleViews | str:
    """The masks over the samples of a batch, or their views, or why there are neither.

    Args:
        run: trained or not.
        batch: of `Recipe.present`.
        names: of its samples.
        gain: pictures are drawn so many times as bright.
        seed: of masks and views.
    """
    context = Context(1, int(run.config["steps"]), Generator(device=run.device).manual_seed(seed))
    if type(run.method).augmented is not Method.augmented:
        made = run.method.augmented(batch, context)
        return sections.views(run.domain, run.facts, batch, made, names, gain)
    draw, tokens = getattr(run.method, "masks", None), tokens_of(run, batch)
    if draw is None or tokens is None:
        return f"{run.recipe.name} hides no tokens, so there are no masks to show."
    masks = draw(batch, context)
    return sections.masks(
        run.domain, run.facts, batch, masks.context, masks.targets, tokens.values.shape[1], names, gain
    )


@torch.inference_mode()
def tokens_of(run: Run, batch: Batch) -> Tokens | None:
    """The method's tokens; None for a method that has none."""
    return None if type(run.method).tokens is Method.tokens else run.method.tokens(batch)
