"""Two towers: fields of an item or a query as one vector, to be compared by their product.

Shapes: B rows, S slots of codes, C fields of codes, M numbers, F = C + M fields, W width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.processes import SharedBatchNorm
from anyjepa.domains.interaction_fields import Field

__all__ = ["FieldEmbeddings", "Tower", "TwoTowers"]


class FieldEmbeddings(nn.Module):
    """One vector a field: a category's own, the mean of a list's, a number times a vector.

    What is missing, unknown or hidden is the field's default vector, and so is a list whose values were all
    dropped. It is learned, from zero, wherever fields are hidden in training: an item that is new is then no
    stranger than a view was.

    Args:
        fields: of the table; codes lie in their order, numbers in theirs.
        width: W.
    """

    first: Tensor
    field_of_slot: Tensor
    order: Tensor

    def __init__(self, fields: Sequence[Field], width: int) -> None:
        super().__init__()
        coded = [place for place, field in enumerate(fields) if field.kind != "number"]
        numbers = [place for place, field in enumerate(fields) if field.kind == "number"]
        self.count, self.coded, self.width = len(fields), len(coded), width
        first, slots, rows = [], [], 0
        for number, place in enumerate(coded):
            first += [rows] * fields[place].slots
            slots += [number] * fields[place].slots
            rows += fields[place].rows
        self.values = nn.Embedding(rows, width) if rows else None
        if self.values is not None:
            nn.init.normal_(self.values.weight, std=width**-0.5)
        self.slope = nn.Parameter(torch.randn(len(numbers), width) * width**-0.5) if numbers else None
        self.shift = nn.Parameter(torch.zeros(len(numbers), width)) if numbers else None
        self.default = nn.Parameter(torch.zeros(len(fields), width))
        for name, values in (
            ("first", first),
            ("field_of_slot", slots),
            # codes come first in what is joined: this puts fields back into the table's order
            ("order", [[*coded, *numbers].index(place) for place in range(len(fields))]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)

    def forward(
        self,
        codes: Int[Tensor, "batch slots"],
        numbers: Float[Tensor, "batch numbers"],
        hidden: Bool[Tensor, "batch fields"] | None = None,
        dropped: Bool[Tensor, "batch slots"] | None = None,
    ) -> Float[Tensor, "batch fields width"]:
        """Vectors of the fields.

        Args:
            codes: row of each value among its field's; 0 unknown, -1 none.
            numbers: standardised; NaN where missing.
            hidden: fields that are not to be seen.
            dropped: values that are left out.
        """
        parts, known = [], []
        if self.values is not None:
            there = codes > 0 if dropped is None else (codes > 0) & ~dropped
            wanted = codes.clamp(min=0) + self.first
            # not by calling the module: its name in a graph would be that of the graph's output
            rows = self.values.weight.index_select(0, wanted.flatten()).view(*codes.shape, self.width)
            weight = there.to(rows.dtype)
            shape = (codes.shape[0], self.coded)
            total = rows.new_zeros(*shape, self.width)
            total = total.index_add(1, self.field_of_slot, rows * weight.unsqueeze(-1))
            count = rows.new_zeros(shape).index_add(1, self.field_of_slot, weight)
            parts.append(total / count.clamp(min=1).unsqueeze(-1))
            known.append(count > 0)
        if self.slope is not None and self.shift is not None:
            parts.append(numbers.nan_to_num(0).unsqueeze(-1) * self.slope + self.shift)
            known.append(~numbers.isnan())
        vectors, seen = torch.cat(parts, dim=1)[:, self.order], torch.cat(known, dim=1)[:, self.order]
        if hidden is not None:
            seen = seen & ~hidden
        return torch.where(seen.unsqueeze(-1), vectors, self.default.to(vectors.dtype))


class Tower(nn.Module):
    """Field vectors side by side through a perceptron, to a vector of unit length.

    Args:
        fields: of the table.
        width: of a field's vector.
        layers: widths of the perceptron's layers, the last that of the output.
        batch_norm: normalise hidden layers over the batch.
    """

    def __init__(
        self, fields: Sequence[Field], width: int, layers: Sequence[int], batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.fields = FieldEmbeddings(fields, width)
        parts: list[nn.Module] = []
        for place, (inputs, outputs) in enumerate(pairwise([len(fields) * width, *layers])):
            parts.append(nn.Linear(inputs, outputs))
            if place < len(layers) - 1:
                parts += [SharedBatchNorm(outputs)] if batch_norm else []
                parts.append(nn.ReLU())
        self.perceptron = nn.Sequential(*parts)

    def hidden_layers(
        self,
        codes: Int[Tensor, "batch slots"],
        numbers: Float[Tensor, "batch numbers"],
        hidden: Bool[Tensor, "batch fields"] | None = None,
        dropped: Bool[Tensor, "batch slots"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """What the perceptron gives, of any length."""
        return self.perceptron(self.fields(codes, numbers, hidden, dropped).flatten(1))

    def forward(
        self,
        codes: Int[Tensor, "batch slots"],
        numbers: Float[Tensor, "batch numbers"],
        hidden: Bool[Tensor, "batch fields"] | None = None,
        dropped: Bool[Tensor, "batch slots"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Vectors of unit length; arguments as of `FieldEmbeddings`."""
        return functional.normalize(self.hidden_layers(codes, numbers, hidden, dropped), dim=1)


class TwoTowers(nn.Module):
    """A tower of items and one of queries."""

    def __init__(self, items: Tower, queries: Tower) -> None:
        super().__init__()
        self.items, self.queries = items, queries

    def forward(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch dim"]:
        """The items of a batch."""
        return self.items(batch["codes"], batch["numbers"])
