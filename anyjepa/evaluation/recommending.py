"""Lists of items for queries: the best of the catalogue that a query has not taken, written as a table."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from pyarrow import csv, parquet

from anyjepa.core.errors import UserError, nearest
from anyjepa.domains.interaction_samples import InteractionSamples
from anyjepa.engine.files import explained, write_whole
from anyjepa.engine.run import Run, load
from anyjepa.evaluation.catalogue_search import ApproximateCatalogue, exact_best
from anyjepa.evaluation.recommendation import catalogue_of, queries_of
from anyjepa.recipes.item_ssl import ItemViews

__all__ = ["recommend"]

WRITERS = {".csv": csv.write_csv, ".parquet": parquet.write_table}
TOGETHER = 256  # queries that are answered at once
SHOWN = 5  # queries whose lists are part of the result


def recommend(
    run: Run | str | Path,
    data: str | np.ndarray | None = None,
    *,
    queries: Sequence[str] = (),
    most: int = 10,
    taken: bool = False,
    approximate: bool = False,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Recommend items to queries: those of the catalogue whose vectors fit the query's best.

    Args:
        run: of item-ssl, or its folder.
        data: a log with its catalogue; that of the training where None. Interactions that were held out count
            as taken too.
        queries: their ids; all where empty.
        most: items a query.
        taken: whether what a query took already may be recommended again.
        approximate: search through FAISS (extra ``ann``), for catalogues of millions; else compare all items.
        out: a .csv or .parquet file with the columns query, rank (from 1), item, title, score.

    Returns:
        ``queries`` and ``items`` as counts, ``lists`` of the first 5: query, and items with title and score.

    Raises:
        UserError: the run is of another kind, a query is not known, or the file is of another format.
    """
    run = run if isinstance(run, Run) else load(run)
    if not isinstance(run.method, ItemViews):
        raise UserError(f"{run.recipe.name} has no query tower: recommend with a run of item-ssl.")
    if most < 1:
        raise UserError(f"--most must be 1 or more, not {most}.")
    ending = None if out is None else Path(out).suffix.lower()
    if ending is not None and ending not in WRITERS:
        raise UserError(f"{out} is no table: name a file that ends in {' or '.join(WRITERS)}.")
    samples = run.open(data)
    assert isinstance(samples, InteractionSamples)
    places = _places(samples, queries)
    ranked, scores = _ranked(run, samples, places, most, taken, approximate)
    if out is not None:
        _write(Path(out), ending, samples, places, ranked, scores)
    lists = [
        {
            "query": samples.query_ids[int(query)].as_py(),
            "items": [
                {"item": samples.identity(place), "title": samples.title(place), "score": score}
                for place, score in zip(row.tolist(), values.tolist(), strict=True) if place >= 0
            ],
        }
        for query, row, values in zip(places[:SHOWN], ranked[:SHOWN], scores[:SHOWN], strict=True)
    ]  # fmt: skip
    found = {"queries": len(places), "items": len(samples), "most": most, "lists": lists}
    return found if out is None else {**found, "out": str(out)}


def _places(samples: InteractionSamples, queries: Sequence[str]) -> np.ndarray:
    if not queries:
        return np.arange(len(samples.query_ids))
    place = {name: number for number, name in enumerate(samples.query_ids.to_pylist())}
    for name in queries:
        if name not in place:
            raise UserError(f"no query '{name}' is known.{nearest(name, [str(known) for known in place])}")
    return np.array([place[name] for name in queries])


def _ranked(
    run: Run, samples: InteractionSamples, places: np.ndarray, most: int, taken: bool, approximate: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(queries, most) places of items, -1 where there are no more, and their scores."""
    catalogue = catalogue_of(run, samples)
    index = None
    if approximate:
        index = ApproximateCatalogue(catalogue, len(catalogue))
        index.add(catalogue)
    owner = np.concatenate([samples.log.queries, samples.held_out.queries])
    item = np.concatenate([samples.log.items, samples.held_out.items])
    order = np.argsort(owner, kind="stable")
    owner, item = owner[order], item[order]
    ranked, scores = [], []
    for start in range(0, len(places), TOGETHER):
        block = places[start : start + TOGETHER]
        low, high = np.searchsorted(owner, block, "left"), np.searchsorted(owner, block, "right")
        more = 0 if taken else int((high - low).max())
        vectors = queries_of(run, samples, block)
        if index is None:
            values, best = exact_best(vectors, [catalogue], most + more)
        else:
            values, best = index.best(vectors, most + more)
        best, values = best.cpu().numpy(), values.cpu().numpy()
        for row in range(len(block)):
            keep = best[row] >= 0
            if not taken:
                keep &= ~np.isin(best[row], item[low[row] : high[row]])
            chosen = np.flatnonzero(keep)[:most]
            short = most - len(chosen)
            ranked.append(np.pad(best[row, chosen], (0, short), constant_values=-1))
            scores.append(np.pad(values[row, chosen], (0, short), constant_values=np.nan))
    return np.stack(ranked), np.stack(scores)


def _write(
    path: Path,
    ending: str | None,
    samples: InteractionSamples,
    places: np.ndarray,
    ranked: np.ndarray,
    scores: np.ndarray,
) -> None:
    row, rank = np.nonzero(ranked >= 0)
    items = arrow.array(ranked[row, rank])
    ids = samples.item_ids.take(items)
    titles = (
        ids if samples.titles is None else arrow.array([samples.title(int(i)) for i in ranked[row, rank]])
    )
    table = arrow.table({
        "query": samples.query_ids.take(arrow.array(places[row])),
        "rank": arrow.array(rank + 1),
        "item": ids,
        "title": titles,
        "score": arrow.array(scores[row, rank].astype(np.float32)),
    })  # fmt: skip
    content = io.BytesIO()
    WRITERS[str(ending)](table, content)
    with explained(f"write the recommendations to {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue())
