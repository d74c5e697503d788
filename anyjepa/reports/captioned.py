"""Images with the captions that fit them best and worst, for methods that say how badly they fit."""

from __future__ import annotations

import numpy as np
import torch

from anyjepa.core.errors import BadSample
from anyjepa.core.method import Batch
from anyjepa.domains import Samples
from anyjepa.domains.image_text_samples import ImageTextSamples
from anyjepa.engine.run import Run
from anyjepa.evaluation.captions import best_and_worst
from anyjepa.recipes.ti_jepa_method import Matching
from anyjepa.reports.page import Captioned, CaptionedImage, RankedCaption
from anyjepa.reports.pictures import picture
from anyjepa.reports.sections import brighter

SHOWN, EACH = 6, 3  # images, and captions of each end
GALLERY = 64  # images whose captions are held against each


@torch.inference_mode()
def captioned(run: Run, samples: Samples, indices: np.ndarray, gain: float) -> Captioned | None:
    """Some images, each with the best and the worst of the captions of all that are looked at.

    None for a method that says nothing of captions, and where fewer than two images have one.

    Args:
        run: the run.
        samples: of one source.
        indices: of those that may be looked at; the first are shown.
        gain: pictures are drawn so many times as bright.
    """
    if not isinstance(run.method, Matching) or not isinstance(samples, ImageTextSamples):
        return None
    raw, texts = [], []
    for index in indices.tolist():
        if len(raw) == GALLERY or not samples.captions(index):
            continue
        try:
            raw.append(samples.read(index))
        except BadSample:
            continue
        texts.append(samples.captions(index)[0])
    if len(raw) < 2:
        return None
    batch: Batch = {name: value.to(run.device) for name, value in run.recipe.present(raw).items()}
    images = {name: value[:SHOWN] for name, value in batch.items()}
    energies, best, worst = best_and_worst(run.method, images, batch, EACH)
    rows = []
    for row in range(len(energies)):
        pixels = brighter(run.domain.picture(images, row, run.facts), gain)
        ends = [
            [
                RankedCaption(texts[one], f"{float(energies[row, one]):+.4f}", texts[one] == texts[row])
                for one in found
            ]
            for found in (best[row], worst[row])
        ]
        place = int((energies[row] < energies[row, row]).sum()) + 1
        rows.append(CaptionedImage(picture(pixels, texts[row], texts[row]), ends[0], ends[1], place))
    return Captioned(rows, len(texts))
