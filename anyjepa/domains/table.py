"""Tables: rows of mixed columns, read from files, frames and arrays; measured, encoded and shown."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.errors import UserError
from anyjepa.domains import Domain, Frame, Samples
from anyjepa.domains.table_columns import Column
from anyjepa.domains.table_formats import SUFFIXES
from anyjepa.domains.table_pictures import row_figure, row_picture
from anyjepa.domains.table_samples import TableSamples, open_table

__all__ = ["Table"]

QUANTILES = 33


class Table(Domain):
    """Rows of mixed columns. A batch is {"row": (n, columns) float32 of encoded cells, NaN where missing}."""

    name = "table"
    reads_frames = True
    endings = SUFFIXES

    def open(
        self,
        source: str | np.ndarray | Frame,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a table; see :func:`anyjepa.domains.table_samples.open_table`."""
        return open_table(source, labels, split, reading)

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Names, types and categories of the columns, their statistics, and what was left out.

        A column has ``name``, ``kind``, ``categories``, ``offset``, ``missing`` (share of the rows) and,
        where it is number-like, of the encoded cells: ``mean``, ``std``, ``low``, ``range``, and 33 quantiles
        (``knots``, those that are equal made one) with the normal scores of their middle ranks (``heights``).
        A coded one has ``counts``, the rows of each code. ``rows`` is how many were measured.
        """
        assert isinstance(samples, TableSamples)
        if not len(samples):
            raise UserError(f"{samples.source} has no row that can be read: give a table with some.")
        columns = [
            _statistics(column, cells)
            for column, cells in zip(samples.layout.columns, samples.array.T, strict=True)
        ]
        return {"rows": len(samples), "columns": columns, **samples.layout.facts()}

    def likeness(self, samples: Samples) -> float:
        """Named columns nearly for sure; numbers without a heading may as well be something else."""
        assert isinstance(samples, TableSamples)
        numbered = sum(any(letter.isdigit() for letter in c.name) for c in samples.layout.columns)
        return 0.9 if 2 * numbered < len(samples.layout.columns) else 0.3

    def in_words(self, facts: dict) -> dict[str, str]:
        """Columns by type and name, missing cells, what was left out and why, the label."""
        words = {}
        for kind in dict.fromkeys(column["kind"] for column in facts["columns"]):
            names = [column["name"] for column in facts["columns"] if column["kind"] == kind]
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            words[f"{kind} columns"] = f"{len(names)}: {', '.join(names[:8])}{more}"
        gaps = {column["name"]: column["missing"] for column in facts["columns"] if column["missing"]}
        if gaps:
            worst = sorted(gaps, key=lambda name: -gaps[name])[:5]
            words["missing cells"] = ", ".join(f"{name} {gaps[name]:.1%}" for name in worst)
        if facts["left_out"]:
            words["left out"] = ", ".join(f"{name} {why}" for name, why in facts["left_out"].items())
        if facts["label"]:
            words["label"] = facts["label"]["name"]
        return words

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """A table of one column."""
        if len(facts["columns"]) < 2:
            return ["there is one column: nothing is left to predict it from."]
        return []

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """Numbers standardised (0 where missing), categories one-hot, and whether each cell is missing.

        A column without a missing cell in training has no indicator.
        """
        features = []
        for number, column in enumerate(facts["columns"]):
            cells = batch["row"][:, number].float()
            absent = cells.isnan()
            if "counts" in column:
                codes = cells.nan_to_num(0).long()
                one_hot = torch.nn.functional.one_hot(codes, len(column["counts"])).float()
                features.append(one_hot * ~absent.unsqueeze(1))
            else:
                features.append(
                    ((cells - column["mean"]) / (column["std"] or 1.0)).nan_to_num(0).unsqueeze(1)
                )
            if column["missing"]:
                features.append(absent.float().unsqueeze(1))
        return torch.cat(features, dim=1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Rows of independent cells: numbers between the quantiles, codes and gaps as in training."""
        random = np.random.default_rng(0)
        cells = []
        for column in facts["columns"]:
            if "counts" in column:
                share = np.array(column["counts"], dtype=np.float64)
                drawn = random.choice(len(share), count, p=share / share.sum()).astype(np.float64)
            else:
                drawn = np.interp(random.standard_normal(count), column["heights"], column["knots"])
                drawn = np.rint(drawn) if column["kind"] == "ordinal" else drawn
            cells.append(np.where(random.random(count) < column["missing"], np.nan, drawn))
        return list(np.stack(cells, axis=1).astype(np.float32))

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """(96, 96, 3) uint8, see `row_picture`; colours of [REG] tokens, which have no square, are left."""
        row, columns = batch["row"][index].detach().cpu().numpy(), facts["columns"]
        paint = None if colours is None else colours.detach().cpu().numpy()[-len(columns) :]
        return row_picture(row, columns, paint)

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """An HTML table of the columns with their values, see `row_figure`."""
        paint = None if colours is None else colours.detach().cpu().numpy()
        return row_figure(batch["row"][index].detach().cpu().numpy(), facts["columns"], paint)


def _statistics(column: Column, cells: np.ndarray) -> dict[str, Any]:
    known = cells[~np.isnan(cells)].astype(np.float64)
    facts: dict[str, Any] = {
        "name": column.name,
        "kind": column.kind,
        "categories": list(column.categories),
        "offset": column.offset,
        "missing": float(1 - len(known) / len(cells)),
    }
    if column.coded:
        counts = np.bincount(known.astype(np.int64), minlength=len(column.categories) + 1)
        return {**facts, "counts": counts.tolist()}
    if not len(known):
        known = np.zeros(1)
    knots, heights = _quantiles(known)
    low = float(known.min())
    figures = {"mean": known.mean(), "std": known.std(), "low": low, "range": known.max() - low}
    return {
        **facts,
        **{name: float(value) for name, value in figures.items()},
        "knots": knots,
        "heights": heights,
    }


def _quantiles(values: np.ndarray) -> tuple[list[float], list[float]]:
    """Quantiles, without repeats, and the normal score of the middle rank of each: rising both."""
    ordered = np.sort(values)
    knots = np.unique(np.quantile(ordered, np.linspace(0, 1, QUANTILES), method="inverted_cdf"))
    below = np.searchsorted(ordered, knots, "left")
    through = np.searchsorted(ordered, knots, "right")
    ranks = (below + through) / (2 * len(ordered))
    normal = NormalDist()
    edge = 0.5 / max(len(ordered), 2)
    heights = [normal.inv_cdf(float(np.clip(rank, edge, 1 - edge))) for rank in ranks]
    return knots.tolist(), heights
