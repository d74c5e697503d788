"""Label-free health of a run: measures, the same of the untrained encoder, and a verdict in words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core import health
from anyjepa.core.errors import UserError
from anyjepa.core.method import Context
from anyjepa.domains import Samples
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import Run, load

VIEWS = 10
OWN = 512  # samples that a method measures by itself


def measures(embeddings: Float[Tensor, "samples dim"]) -> dict[str, float]:
    """Every measure that one matrix of embeddings allows; one that cannot be had is absent."""
    gram = health.Gram(embeddings.shape[1]).add(embeddings)
    alpha, fit = health.alpha_req(gram)
    figures = {
        "rankme": health.rankme(embeddings),
        "rankme_centred": health.rankme(gram, centred=True),
        "alpha_req": alpha,
        "alpha_req_fit": fit,
        "stable_rank": health.stable_rank(gram),
        "participation_ratio": health.participation_ratio(gram),
        "uniformity": health.uniformity(embeddings[:2000]),
        "spread": gram.spread(),
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def inspect(
    run: Run | str | Path, data: str | np.ndarray | None = None, *, samples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Is the encoder healthy? No labels are used.

    Args:
        run: a run or its folder.
        data: source; the data it was trained on where not given.
        samples: how many to embed, drawn with `seed`.
        seed: of the draw and of the masks that LiDAR's views are made with.

    Returns:
        ``rankme``, ``lidar``, ``alpha_req``, ``stable_rank``, ``uniformity`` and more, what the method
        measures by itself (`Method.health`), ``collapsed``, ``verdict`` and ``advice`` in words, ``dim``,
        ``samples``, and ``untrained``: the same measures for the weights training began from.
    """
    run = run if isinstance(run, Run) else load(run)
    opened = run.open(data)
    chosen = np.arange(len(opened))
    if len(opened) > samples:
        chosen = np.sort(np.random.default_rng(seed).choice(len(opened), samples, replace=False))
    embeddings = run.embed(opened, indices=chosen)
    if len(embeddings) < 2:
        raise UserError("health needs two samples or more: give more data.")
    fresh = run.untrained().embed(opened, indices=chosen)
    before = measures(fresh)
    figures: dict[str, Any] = measures(embeddings)
    views = _views(run, opened, chosen[: samples // 2], seed)
    if views is not None and len(views) > 1:
        figures["lidar"] = health.lidar(views)
    figures |= _own(run, opened, chosen[:OWN], seed)
    rows, dim = embeddings.shape
    shape = health.Shape.of(health.Gram(dim).add(fresh))
    fault = health.collapse(health.Gram(dim).add(embeddings), shape)
    verdict, advice = judge(figures, before, fault, rows, dim)
    return {
        **figures,
        "collapsed": bool(fault),
        "verdict": verdict,
        "advice": advice,
        "dim": dim,
        "samples": rows,
        "untrained": before,
    }


@torch.inference_mode()
def _views(run: Run, samples: Samples, chosen: np.ndarray, seed: int) -> Tensor | None:
    """(samples, views, dim) embeddings of masked views, or None for a method without views."""
    context = Context(1, 1, step_generator(seed, 1, run.device))
    parts = []
    for _, batch in run.batches(samples, chosen):
        try:
            parts.append(run.method.views(batch, context, VIEWS).float().cpu())
        except NotImplementedError:
            return None
    return torch.cat(parts) if parts else None


@torch.inference_mode()
def _own(run: Run, samples: Samples, chosen: np.ndarray, seed: int) -> dict[str, float]:
    """What the method itself measures."""
    context = Context(1, 1, step_generator(seed, 1, run.device))
    return run.method.health((batch for _, batch in run.batches(samples, chosen)), context)


def judge(
    figures: dict[str, Any], before: dict[str, float], fault: str | None, rows: int, dim: int
) -> tuple[str, str]:
    """A verdict with its evidence, and what to try.

    Args:
        figures: of the run, from `measures`.
        before: of the untrained encoder.
        fault: what `health.collapse` says.
        rows, dim: of the matrix that was measured.
    """
    rank, was = figures["rankme_centred"], before["rankme_centred"]
    if rows < dim:
        return (
            f"unknown: {rows} samples cannot show how many of {dim} directions are used",
            f"inspect at least {5 * dim} samples.",
        )
    if fault:
        return (
            fault,
            "train with a teacher (--teacher ema), a lower --learning-rate, or more and larger targets.",
        )
    alpha = figures.get("alpha_req", math.nan)
    evidence = f"effective rank {rank:.1f} of {dim} (untrained {was:.1f}), alpha {alpha:.2f}"
    if rank < was / 2:
        return (
            f"shrinking: {evidence}",
            "fewer directions are used than before training: lower --learning-rate or raise --momentum.",
        )
    if rank <= was:
        return (
            f"not collapsed, but no more directions are used than before training: {evidence}",
            "longer training usually raises it; see what labels say with `anyjepa evaluate`.",
        )
    hint = "" if rows >= 5 * dim else f" Only {rows} samples were measured; {5 * dim} would make this surer."
    return f"healthy: {evidence}", f"see what labels say with `anyjepa evaluate`.{hint}"
