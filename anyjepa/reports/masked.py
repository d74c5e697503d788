"""What a method hides of samples, by blocks or in order, or the views that it makes, drawn over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator

from anyjepa.core.method import Batch, Context, Method
from anyjepa.core.tokens import Tokens
from anyjepa.engine.run import Run
from anyjepa.reports import sections
from anyjepa.reports.page import Imagined, Masks, Ranked, SampleViews
from anyjepa.reports.ranked import ranked


@torch.inference_mode()
def drawn(
    run: Run, batch: Batch, names: Sequence[str], gain: float, seed: int
) -> Masks | Ranked | SampleViews | Imagined | str:
    """Masks or regions over the samples of a batch, their views, what is expected, or why there is nothing.

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
        return sections.views(run.domain, run.facts, batch, made, names, gain, run.method.views_agree)
    if type(run.method).imagined is not Method.imagined:
        return _expected(run, batch, run.method.imagined(batch), names, gain)
    if type(run.method).ranked is not Method.ranked:
        places = run.method.tokens(batch).coordinates
        return ranked(run.domain, run.facts, batch, *run.method.ranked(batch), places, names, gain)
    draw, tokens = getattr(run.method, "masks", None), tokens_of(run, batch)
    if draw is None or tokens is None:
        return f"{run.recipe.name} hides no tokens, so there are no masks to show."
    masks = draw(batch, context)
    return sections.masks(
        run.domain, run.facts, batch, masks.context, masks.targets, tokens.values.shape[1], names, gain
    )


def _expected(
    run: Run, batch: Batch, expected: Mapping[str, Batch], names: Sequence[str], gain: float
) -> Imagined:
    """Each sample as it came and as it was expected, by name."""
    rows = []
    for index, name in enumerate(names):
        row = []
        for kind, one in expected.items():
            words = f"{kind} frames of sample {name}"
            row.append(sections.shown(run.domain, run.facts, one, index, words, f"{name}: {kind}", gain))
        rows.append(row)
    return Imagined(rows, gain, run.method.imagining)


@torch.inference_mode()
def tokens_of(run: Run, batch: Batch) -> Tokens | None:
    """The method's tokens; None for a method that has none."""
    return None if type(run.method).tokens is Method.tokens else run.method.tokens(batch)
