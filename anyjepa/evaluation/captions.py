"""Which caption fits: images and captions found by each other, by the lowest energy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.method import Batch
from anyjepa.domains.image_text_samples import ImageTextSamples
from anyjepa.domains.sources import choose
from anyjepa.domains.text_encoders import BAG
from anyjepa.engine.run import Run
from anyjepa.evaluation.confidence import sample_mean_interval
from anyjepa.evaluation.sides import Side
from anyjepa.recipes.ti_jepa import TiJepa
from anyjepa.recipes.ti_jepa_method import Matching, TextImage

RANKS = (1, 5, 10)
MOST = 100  # pairs of the test side: every image is held against every caption
LEARNED = 2000  # pairs that the linear baseline is fitted on
SHRINK = 0.1  # penalty of the linear baseline, in mean squares of the pixels


def captions_probe(run: Run, train: Side, test: Side, seed: int = 0, most: int = MOST) -> dict[str, Any]:
    """Recall of images by captions and of captions by images, beside the untrained and a linear one.

    Every image of the test side is held against the first caption of every other. An image's energy without
    any text is taken off first, for some images are harder than others. ``raw`` ranks by the cosine of a
    caption's words and those that a ridge regression of the training side expects from the pixels.

    Args:
        run: of a method that says how badly images and captions go together.
        train, test: samples with captions; of the test side at most `most`, drawn with `seed`.

    Returns:
        ``value``: recall at 1, the mean of both directions, with ``low`` and ``high``, ``untrained``,
        ``raw``, gains, and ``metrics`` of each direction at 1, 5 and 10; ``auc`` there is the share of pairs
        of own and other captions of an image in the right order. ``chance``: recall by chance, by rank.

    Raises:
        UserError: the method does not, the data has no captions, or fewer than two pairs can be read.
    """
    method, samples = run.method, test.samples
    if not isinstance(method, Matching) or not isinstance(samples, ImageTextSamples):
        raise UserError(f"{run.recipe.name} knows no captions: --probe captions is for ti-jepa.")
    chosen, texts, batch = _pairs(run, samples, test.rows, most, seed)
    fresh = run.untrained().method
    assert isinstance(fresh, Matching)
    energies = {
        "trained": calibrated(method, batch, batch),
        "untrained": calibrated(fresh, batch, batch),
        "raw": _linear(run, train, batch, seed),
    }
    relevant = torch.tensor([[one == other for other in texts] for one in texts])
    found = {kind: _scored(one.cpu(), relevant) for kind, one in energies.items()}
    hits, metrics = (
        {kind: one[0] for kind, one in found.items()},
        {kind: one[1] for kind, one in found.items()},
    )
    value, low, high = sample_mean_interval(hits["trained"])
    result: dict[str, Any] = {
        "probe": "captions", "metric": "recall_at_1", "value": value, "low": low, "high": high,
    }  # fmt: skip
    for kind in ("untrained", "raw"):
        result[kind], result[f"{kind}_low"], result[f"{kind}_high"] = sample_mean_interval(hits[kind])
        result[f"gain_over_{kind}"] = list(sample_mean_interval(hits["trained"] - hits[kind]))
    names = metrics["trained"]
    result["metrics"] = {name: {kind: metrics[kind][name] for kind in metrics} for name in names}
    count = len(chosen)
    result |= {"train": len(train), "test": count, "classes": None, "chosen": {}}
    return result | {"chance": {str(rank): min(1.0, rank / count) for rank in RANKS}}


def calibrated(method: Matching, images: Batch, texts: Batch) -> Float[Tensor, "images texts"]:
    """Energies; those of prediction less the energy that each image has without any text."""
    found = method.energies(images, texts)
    if not isinstance(method, TextImage):
        return found
    silent = {name: value[:1] for name, value in texts.items()}
    silent["said"] = torch.zeros_like(silent["said"])
    return found - method.energies(images, silent)


def ranks(
    energies: Float[Tensor, "asked gallery"], relevant: Bool[Tensor, "asked gallery"]
) -> Float[Tensor, " asked"]:
    """How many others come before the best relevant one; those that are equal to it count half."""
    best = energies.masked_fill(~relevant, torch.inf).amin(1, keepdim=True)
    others = energies.masked_fill(relevant, torch.inf)
    return (others < best).float().sum(1) + 0.5 * (others == best).float().sum(1)


def recalls(found: Float[Tensor, " asked"]) -> dict[int, float]:
    """Share of what was asked whose rank is below 1, 5 and 10."""
    return {rank: float((found < rank).double().mean()) for rank in RANKS}


def _scored(energies: Tensor, relevant: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Hits at 1 of each pair, the mean of both directions; and all figures by name."""
    directions = {"caption_of_image": (energies, relevant), "image_of_caption": (energies.T, relevant.T)}
    figures, hits = {}, []
    for name, (one, right) in directions.items():
        found = ranks(one, right)
        hits.append((found < 1).double())
        figures |= {f"{name}_r{rank}": value for rank, value in recalls(found).items()}
    own = energies.diagonal().unsqueeze(1)
    ordered = (own < energies).double() + 0.5 * (own == energies).double()
    figures["auc"] = float(ordered[~relevant].mean()) if bool((~relevant).any()) else float("nan")
    return torch.stack(hits).mean(0), figures


def _pairs(
    run: Run, samples: ImageTextSamples, rows: np.ndarray, most: int, seed: int
) -> tuple[list[int], list[str], Batch]:
    """Places of samples with text that can be read, their first captions, and their batch."""
    raw, kept, texts = [], [], []
    said = np.array([row for row in rows.tolist() if samples.captions(row)])
    for place in choose(len(said), most, seed):
        row = int(said[place])
        try:
            raw.append(samples.read(row))
        except BadSample as problem:
            run.problems.append(problem)
            continue
        kept.append(row)
        texts.append(samples.captions(row)[0])
    if len(kept) < 2:
        raise UserError(f"fewer than two images with captions of {samples.source} can be read.")
    assert isinstance(run.recipe, TiJepa)
    batch = run.recipe.present(raw)
    return kept, texts, {name: value.to(run.device) for name, value in batch.items()}


def _linear(run: Run, train: Side, batch: Batch, seed: int) -> Tensor:
    """Minus the cosine of each caption's words and those that the pixels let expect, (images, captions)."""
    rows = train.rows[choose(len(train.rows), LEARNED, seed)]
    parts = [run.domain.raw(one, run.facts).double().cpu() for _, one in run.batches(train.samples, rows)]
    if not parts:
        raise UserError(f"none of the samples of {train.samples.source} can be read.")
    learned, asked = torch.cat(parts), run.domain.raw(batch, run.facts).double().cpu()
    mean = learned.mean(0)
    x, words = (learned - mean).split([learned.shape[1] - BAG, BAG], dim=1)
    own_x, own_words = (asked - mean).split([learned.shape[1] - BAG, BAG], dim=1)
    kernel = x @ x.T
    penalty = SHRINK * kernel.diagonal().mean().clamp(min=1e-12)
    weights = torch.linalg.solve(kernel + penalty * torch.eye(len(x), dtype=x.dtype), words)
    expected = own_x @ x.T @ weights
    return -(normalize(expected, dim=1) @ normalize(own_words, dim=1).T).float()


def best_and_worst(
    method: Matching, images: Batch, texts: Batch, count: int
) -> tuple[Float[Tensor, "images texts"], list[list[int]], list[list[int]]]:
    """Calibrated energies of images with captions, and of each image the `count` best and worst captions.

    Both lists are in the order of energy, the lowest first.
    """
    energies = calibrated(method, images, texts).cpu()
    order = energies.argsort(dim=1, stable=True)
    count = min(count, order.shape[1] // 2)
    return energies, order[:, :count].tolist(), order[:, order.shape[1] - count :].tolist()
