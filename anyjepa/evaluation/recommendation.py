"""Recommendation: the whole catalogue ranked for each query, beside what a field would try first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.domains.interaction_samples import InteractionSamples
from anyjepa.engine.run import Run
from anyjepa.evaluation.confidence import sample_mean_interval
from anyjepa.evaluation.ranking_baselines import ranking_baselines
from anyjepa.evaluation.ranking_of_items import Standing, by_popularity, deciles, ndcg, ranks, recall
from anyjepa.recipes.item_ssl import ItemViews

__all__ = ["catalogue_of", "recommendation_probe", "scores_of"]

Scores = Callable[[np.ndarray], np.ndarray]
LENGTHS = (10, 50)
LISTS, SHOWN = 6, 8


def recommendation_probe(
    run: Run, data: str | np.ndarray | None = None, *, seed: int = 0, most: int = 50, baselines: bool = True
) -> dict[str, Any]:
    """Recall and NDCG of the pairs that were held out, over the whole catalogue.

    Beside the run: the untrained towers; ``raw``, the cosine of an item's fields with the mean of those that
    the query took; and as baselines popularity and, where ``implicit`` is installed, item-kNN (cosine of who
    took two items) and ALS, their settings chosen on a part of the log (`ranking_baselines`).

    Args:
        run: of item-ssl.
        data: a log; that of the training where None.
        seed: of the baselines and of the lists that are shown.
        most: length of lists for ``value`` and for the tenths.
        baselines: whether these are fitted too.

    Returns:
        a result as `evaluate` gives; ``metrics`` at 10 and 50 over all, over the most popular tenth of the
        items (``head``) and the rest (``tail``); ``deciles``: of each kind and baseline the rows of
        `by_popularity`; ``baselines``: recall of each; ``lists``: a few queries with what they took, what is
        recommended and what of it was held out; ``never_listed``: share of the items in nobody's first 50.

    Raises:
        UserError: the run is of another kind, or nothing is held out.
    """
    if not isinstance(run.method, ItemViews):
        raise UserError(f"{run.recipe.name} has no query tower: --probe recommendation is for item-ssl.")
    samples = run.open(data)
    assert isinstance(samples, InteractionSamples)
    if not len(samples.held_out):
        raise UserError(f"{samples.source} holds no pair out: give queries with two interactions or more.")
    scores: dict[str, Scores] = {
        "trained": scores_of(run, samples),
        "untrained": scores_of(run.untrained(), samples),
        "raw": _profile(run, samples),
    }
    others, notes = ranking_baselines(samples, most, seed) if baselines else ({}, [])
    scores |= {name: baseline.scores for name, baseline in others.items()}
    found = {
        name: ranks(score, samples.held_out, samples.log, len(samples), max(LENGTHS))
        for name, score in scores.items()
    }
    values = {name: torch.from_numpy(recall(standing, most)) for name, standing in found.items()}
    result: dict[str, Any] = {"probe": "recommendation", "metric": f"recall_at_{most}"}
    for kind, name in (("trained", "value"), ("untrained", "untrained"), ("raw", "raw")):
        prefix = "" if kind == "trained" else f"{kind}_"
        mean, low, high = sample_mean_interval(values[kind])
        result |= {name: mean, f"{prefix}low": low, f"{prefix}high": high}
    for other in ("untrained", "raw"):
        result[f"gain_over_{other}"] = list(sample_mean_interval(values["trained"] - values[other]))
    kinds = ("trained", "untrained", "raw")
    figures = {name: _figures(standing, samples.counts) for name, standing in found.items()}
    first = found["trained"]
    return {
        **result,
        "metrics": {name: {kind: figures[kind][name] for kind in kinds} for name in figures["trained"]},
        "baselines": {name: float(values[name].mean()) for name in found if name not in kinds},
        "baseline_metrics": {name: figures[name] for name in found if name not in kinds},
        "deciles": {name: by_popularity(standing, samples.counts, most) for name, standing in found.items()},
        "never_listed": 1 - len(np.unique(first.lists)) / len(samples),
        "lists": _lists(samples, first, seed),
        "left_out": notes,
        "train": len(samples.log), "test": len(samples.held_out), "classes": None,
        "chosen": {"queries": len(first.asked), "items": len(samples)}
        | {name: dict(baseline.settings) for name, baseline in others.items() if baseline.settings},
    }  # fmt: skip


def _figures(standing: Standing, counts: np.ndarray) -> dict[str, float]:
    """Recall and NDCG at 10 and 50; recall of pairs of the head and of the tail."""
    found = {}
    head = deciles(counts)[standing.items] == 0
    for most in LENGTHS:
        found[f"recall_at_{most}"] = float(recall(standing, most).mean())
        found[f"ndcg_at_{most}"] = float(ndcg(standing, most).mean())
        for name, part in (("head", head), ("tail", ~head)):
            if part.any():
                found[f"{name}_recall_at_{most}"] = float((standing.ranks[part] <= most).mean())
    return found


@torch.inference_mode()
def catalogue_of(run: Run, samples: InteractionSamples, batch_size: int = 4096) -> Tensor:
    """(items, dim) float32 vectors of unit length, on the run's device."""
    assert isinstance(run.method, ItemViews)
    found = []
    for start in range(0, len(samples), batch_size):
        places = np.arange(start, min(start + batch_size, len(samples)))
        batch = {name: v.to(run.device) for name, v in run.recipe.present(samples.items(places)).items()}
        found.append(run.method.embed(batch).float())
    return torch.cat(found)


@torch.inference_mode()
def queries_of(run: Run, samples: InteractionSamples, places: np.ndarray) -> Tensor:
    """(n, dim) float32 vectors of unit length of queries, on the run's device."""
    assert isinstance(run.method, ItemViews)
    codes = torch.from_numpy(samples.query_table.codes[places].astype(np.int64)).to(run.device)
    numbers = torch.from_numpy(samples.query_table.numbers[places]).to(run.device)
    return run.method.embed_queries(codes, numbers).float()


def scores_of(run: Run, samples: InteractionSamples) -> Scores:
    """What a run's towers say: of queries (n,) with all items."""
    items = catalogue_of(run, samples)
    return lambda queries: (queries_of(run, samples, queries) @ items.T).cpu().numpy()


def _profile(run: Run, samples: InteractionSamples) -> Scores:
    """Cosine of an item's raw description with the mean of what the query took."""
    parts = []
    for start in range(0, len(samples), 4096):
        places = np.arange(start, min(start + 4096, len(samples)))
        parts.append(run.domain.raw(run.recipe.present(samples.items(places)), run.facts))
    items = functional.normalize(torch.cat(parts).float(), dim=1)
    profiles = torch.zeros(len(samples.query_ids), items.shape[1])
    log = samples.log
    for start in range(0, len(log), 2**16):
        part = slice(start, start + 2**16)
        profiles.index_add_(0, torch.from_numpy(log.queries[part]), items[torch.from_numpy(log.items[part])])
    return lambda queries: (
        functional.normalize(profiles[torch.from_numpy(queries)], dim=1) @ items.T
    ).numpy()


def _lists(samples: InteractionSamples, standing: Standing, seed: int) -> list[dict[str, Any]]:
    """A few queries: the last they took, what is recommended, and what of it was held out."""
    count = min(LISTS, len(standing.asked))
    chosen = np.sort(np.random.default_rng(seed).choice(len(standing.asked), count, replace=False))
    found = []
    for row in chosen.tolist():
        query = int(standing.asked[row])
        taken = samples.log.items[samples.log.queries == query][-SHOWN:]
        wanted = standing.items[standing.queries == query]
        found.append({
            "query": samples.query_ids[query].as_py(),
            "took": [samples.title(int(item)) for item in taken],
            "wanted": [samples.title(int(item)) for item in wanted[:SHOWN]],
            "rank": int(standing.ranks[standing.queries == query].min()),
            "recommended": [
                {"title": samples.title(int(item)), "hit": bool(item in wanted),
                 "taken": int(samples.counts[item])}
                for item in standing.lists[row, :SHOWN]
            ],
        })  # fmt: skip
    return found
