"""Interactions: catalogues of items with the logs of who took them, measured, encoded and shown."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.domains import Domain, Samples
from anyjepa.domains.interaction_fields import Field, bins
from anyjepa.domains.interaction_relations import relations
from anyjepa.domains.interaction_samples import InteractionSamples, open_interactions
from anyjepa.domains.interaction_tables import ENDINGS

__all__ = ["Interactions", "as_rows"]

RAW_ROWS = 256  # of a field in the raw description: its most frequent values
SIDE = 96
ABSENT = (225, 225, 225)
CELL = "padding:1px 6px 1px 0;border:0;font-size:12px;text-align:left"


class Interactions(Domain):
    """Items of a catalogue. A batch is {"codes": (n, slots) int64, "numbers": (n, numbers) float32}."""

    name = "interactions"
    endings = ENDINGS

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a log with its catalogue; see `open_interactions`."""
        return open_interactions(source, labels, split, reading)

    @property
    def packs(self) -> bool:
        """Never: tables lie in memory, and a row means nothing without the others."""
        return False

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Fields of items and queries, how fields of items are related, and how uneven the log is.

        ``relations`` (fields, fields) is the mutual information of fields over the ITEM table, where every
        item counts alike, corrected for chance (`anyjepa.domains.interaction_relations`). ``head`` is the
        share of the log that the most popular tenth of the items has.
        """
        assert isinstance(samples, InteractionSamples)
        if len(samples) < 2:
            raise UserError(f"{samples.source} has {len(samples)} item: give a catalogue with more.")
        table = bins(samples.item_table, samples.item_fields)
        counts = np.sort(samples.counts)[::-1]
        return {
            "item_fields": [field.facts() for field in samples.item_fields],
            "query_fields": [field.facts() for field in samples.query_fields],
            "relations": relations(table, seed).round(6).tolist(),
            "items": len(samples),
            "queries": len(samples.query_ids),
            "interactions": len(samples.log),
            "unseen": int((counts == 0).sum()),
            "head": float(counts[: max(1, len(counts) // 10)].sum() / max(1, counts.sum())),
        }

    def likeness(self, samples: Samples) -> float:
        """A log in several tables for sure; one table with a column of each is likely one."""
        assert isinstance(samples, InteractionSamples)
        return 0.95 if samples.source.startswith("synthetic-") or " and " in samples.description else 0.6

    def in_words(self, facts: dict) -> dict[str, str]:
        """Sizes, fields by name and kind, and how uneven the log is."""
        words = {
            "catalogue": f"{facts['items']:,} items, {facts['unseen']:,} of them never taken",
            "log": f"{facts['interactions']:,} times by {facts['queries']:,} queries; the most popular tenth "
            f"of the items has {facts['head']:.0%}",
        }
        for side in ("item", "query"):
            named = [f"{field['name']} ({field['kind']})" for field in facts[f"{side}_fields"]]
            words[f"{side} fields"] = f"{len(named)}: {', '.join(named[:10])}"
        return words

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """Too few fields to hide some, and items that were never taken."""
        found = []
        if len(facts["item_fields"]) < 3:
            found.append("items have fewer than 3 fields: hiding correlated ones leaves little to compare.")
        if facts["unseen"] > 0.5 * facts["items"]:
            found.append(f"{facts['unseen']:,} of {facts['items']:,} items were never taken.")
        return found

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """The 256 most frequent values of each field as ones (an item's id left out), then the numbers.

        Numbers are standardised, 0 where missing, each followed by whether it is missing.
        """
        parts, slot = [], 0
        for place, field in enumerate(facts["item_fields"]):
            if field["kind"] == "number":
                continue
            codes = batch["codes"][:, slot : slot + field["slots"]]
            slot += field["slots"]
            if place == 0 and field["rows"] > facts["items"]:
                continue
            width = min(field["rows"], RAW_ROWS)
            known = (codes > 0) & (codes < width)
            ones = functional.one_hot(codes.clamp(0, width - 1), width).float() * known.unsqueeze(-1)
            parts.append(ones.amax(dim=1))
        numbers = batch["numbers"].float()
        parts += [numbers.nan_to_num(0), numbers.isnan().float()]
        found = torch.cat(parts, dim=1)
        return found if found.shape[1] else torch.zeros(len(found), 1, device=found.device)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Items of independent values, drawn evenly."""
        random = np.random.default_rng(0)
        fields = [Field.of(field) for field in facts["item_fields"]]
        codes = [random.integers(0, f.rows, (count, f.slots)) for f in fields if f.kind != "number"]
        numbers = sum(field.kind == "number" for field in fields)
        slots = sum(field.slots for field in fields)
        rows = np.empty(count, [("place", np.int64), ("codes", np.int32, (slots,)),
                                ("numbers", np.float32, (numbers,))])  # fmt: skip
        rows["place"] = np.arange(count)
        rows["codes"] = np.concatenate(codes, axis=1) if codes else 0
        rows["numbers"] = random.standard_normal((count, numbers))
        return [np.array(row) for row in rows]

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """(96, 96, 3) uint8: a bar a field, its colour told by its value; grey where nothing is known."""
        cells = _cells(batch, index, facts)
        edges = np.linspace(0, SIDE, len(cells) + 1).astype(int)
        picture = np.empty((SIDE, SIDE, 3), np.uint8)
        for number, (_, text, hidden) in enumerate(cells):
            colour = ABSENT if hidden or not text else _colour(text)
            picture[edges[number] : edges[number + 1]] = colour
        return picture

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """An HTML table of the fields; those that a view hides say so."""
        lines = []
        for name, text, hidden in _cells(batch, index, facts):
            said = "hidden" if hidden else text or "unknown"
            style = ";opacity:.35;font-style:italic" if hidden or not text else ""
            shown = html.escape(said if len(said) < 40 else said[:39] + "…")
            lines.append(f'<tr><th style="{CELL}">{html.escape(name)}</th>'
                         f'<td style="{CELL}{style}">{shown}</td></tr>')  # fmt: skip
        return f'<table style="border-collapse:collapse">{"".join(lines)}</table>'


def as_rows(rows: np.ndarray) -> dict[str, Tensor]:
    """Structured rows of items as tensors: ``codes`` int64, ``numbers`` float32, ``place`` int64."""
    return {
        "codes": _tensor(rows["codes"], np.int64),
        "numbers": _tensor(rows["numbers"], np.float32),
        "place": _tensor(rows["place"], np.int64),
    }


def _tensor(values: np.ndarray, kind: type) -> Tensor:
    # a copy: values of a structured row need not lie where torch can read them
    return torch.from_numpy(np.array(values, kind, order="C"))


def _cells(batch: dict[str, Tensor], index: int, facts: dict) -> list[tuple[str, str, bool]]:
    """Name, text and whether it is hidden, of each field of one item."""
    found, slot, number = [], 0, 0
    hidden = batch.get("hidden")
    for place, facts_of_field in enumerate(facts["item_fields"]):
        field = Field.of(facts_of_field)
        if field.kind == "number":
            text = field.text(float(batch["numbers"][index, number]))
            number += 1
        else:
            text = field.text(batch["codes"][index, slot : slot + field.slots].cpu().numpy())
            slot += field.slots
        found.append((field.name, text, hidden is not None and bool(hidden[index, place])))
    return found


def _colour(text: str) -> tuple[int, int, int]:
    number = sum(ord(letter) * 31**place for place, letter in enumerate(text[:12])) * 0.381966 % 1
    waves = [0.5 + 0.5 * np.cos(2 * np.pi * (number + shift / 3)) for shift in range(3)]
    red, green, blue = (round(70 + 160 * wave) for wave in waves)
    return red, green, blue
