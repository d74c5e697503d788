"""From an encoded row to tokens: one a column, and [REG] tokens that carry no input in front.

Shapes: B rows, D columns, R register tokens, N = R + D tokens, H width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anyjepa.core.tokens import Tokens
from anyjepa.core.tracing import traced

__all__ = ["ColumnTokens", "Scaling", "calendar", "places"]

PERIODS = (1.0, 7.0, 365.2425)  # days


class Scaling(nn.Module):
    """Numbers to the scale that the tokenizer reads, from statistics of the training rows only.

    Args:
        columns: facts of the number-like columns (`Domain.measure`).
        scaling: ``min-max`` to 0..1 (the published one), ``standard`` to mean 0 and deviation 1, or
            ``quantile`` to a normal distribution, along straight lines between 33 quantiles, which tames
            heavy tails. What lies beyond the training rows is clipped by ``quantile`` only.
    """

    knots: Tensor
    heights: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, columns: Sequence[dict[str, Any]], scaling: str) -> None:
        super().__init__()
        if scaling == "quantile":
            most = max((len(column["knots"]) for column in columns), default=2)
            knots = torch.tensor([_padded(column["knots"], most) for column in columns], dtype=torch.float32)
            heights = torch.tensor(
                [_padded(column["heights"], most) for column in columns], dtype=torch.float32
            )
            self.register_buffer("knots", knots)
            self.register_buffer("heights", heights)
        else:
            names = ("low", "range") if scaling == "min-max" else ("mean", "std")
            shift = torch.tensor([column[names[0]] for column in columns], dtype=torch.float32)
            scale = torch.tensor([column[names[1]] or 1.0 for column in columns], dtype=torch.float32)
            self.register_buffer("shift", shift)
            self.register_buffer("scale", scale)
        self.scaling = scaling

    def forward(self, values: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch numbers"]:
        """Each column on its scale."""
        if self.scaling != "quantile":
            return (values - self.shift) / self.scale
        columns = values.T.contiguous()
        right = _places_among(self.knots, columns).clamp(1, self.knots.shape[1] - 1)
        x0, x1 = self.knots.gather(1, right - 1), self.knots.gather(1, right)
        y0, y1 = self.heights.gather(1, right - 1), self.heights.gather(1, right)
        # padded knots are equal: their height is the last one
        share = ((columns - x0) / (x1 - x0).clamp(min=1e-30)).clamp(0, 1)
        return (y0 + share * (y1 - y0)).T


def _places_among(knots: Tensor, values: Tensor) -> Tensor:
    """How many of each row's sorted knots lie below each of its values."""
    if traced():  # ONNX has no operator for it
        return (knots.unsqueeze(2) < values.unsqueeze(1)).sum(1)
    return torch.searchsorted(knots, values)


def _padded(values: Sequence[float], count: int) -> list[float]:
    return [*values, *[values[-1]] * (count - len(values))]


def calendar(
    days: Float[Tensor, "batch dates"], offsets: Float[Tensor, "dates periods"]
) -> Float[Tensor, "batch dates waves"]:
    """Sines and cosines of the time of day, day of week and day of year of dates.

    Args:
        days: less an offset.
        offsets: that offset modulo each of `PERIODS`, for float32 would round the time of day away.
    """
    periods = torch.tensor(PERIODS, device=days.device, dtype=days.dtype)
    phases = (days.unsqueeze(-1) + offsets) / periods * (2 * math.pi)
    return torch.cat([phases.sin(), phases.cos()], dim=-1)


def places(columns: Sequence[dict[str, Any]], registers: int) -> list[int]:
    """Place of each token in the published order: [REG], then numbers, then categories."""
    coded = [column["kind"] in ("categorical", "boolean") for column in columns]
    order = sorted(range(len(columns)), key=lambda number: coded[number])
    place = {column: registers + position for position, column in enumerate(order)}
    return [*range(registers), *(place[number] for number in range(len(columns)))]


class ColumnTokens(nn.Module):
    """FT-Transformer's tokenizer (Gorishniy et al. 2021; T-JEPA code): one token a column.

    A number-like column gives ``w x + b``, a category ``E[code] + b``; code 0 is a category that was never
    seen. A date adds the calendar's waves. [REG] tokens are learned and alike for every row. A missing cell
    has a learned token of its column (``missing="token"``) or is not present (``"absent"``).

    Args:
        columns: facts of the columns, in the table's order.
        width: H.
        registers: R.
        scaling: see `Scaling`.
        missing: what a missing cell becomes.
        type_embedding: add a learned vector for numbers and one for categories; none to [REG].
        index_embedding: add a learned vector a column.
        bound: learned vectors start uniform in +-`bound`; one over the square root of the width (as
            published) where None.
    """

    numbers: Tensor
    codes: Tensor
    dates: Tensor
    first: Tensor
    sizes: Tensor
    kinds: Tensor
    order: Tensor
    offsets: Tensor
    coordinates: Tensor

    def __init__(
        self,
        columns: Sequence[dict[str, Any]],
        width: int,
        registers: int = 1,
        scaling: str = "min-max",
        missing: str = "token",
        type_embedding: bool = False,
        index_embedding: bool = False,
        bound: float | None = None,
    ) -> None:
        super().__init__()
        limit = bound or width**-0.5
        coded = [column["kind"] in ("categorical", "boolean") for column in columns]
        numbers = [number for number, is_code in enumerate(coded) if not is_code]
        codes = [number for number, is_code in enumerate(coded) if is_code]
        self.absent = missing == "absent"
        self.weight = _uniform(len(numbers), width, limit)
        self.bias = nn.Parameter(torch.empty(len(columns), width).uniform_(-limit, limit))
        sizes = [len(columns[number]["categories"]) + 1 for number in codes]
        self.categories = _uniform(sum(sizes), width, limit)
        dates = [place for place, number in enumerate(numbers) if columns[number]["kind"] == "datetime"]
        self.waves = _uniform(len(dates) * 2 * len(PERIODS), width, limit)
        self.registers = _uniform(registers, width, limit)
        self.missing = None if self.absent else _uniform(len(columns), width, limit)
        self.types = _uniform(2, width, limit) if type_embedding else None
        self.indices = _uniform(len(columns), width, limit) if index_embedding else None
        self.scaling = Scaling([columns[number] for number in numbers], scaling) if numbers else None
        offsets = [columns[numbers[place]]["offset"] for place in dates]
        first = [sum(sizes[:place]) for place in range(len(sizes))]
        for name, values, dtype in [
            ("numbers", numbers, torch.int64),
            ("codes", codes, torch.int64),
            ("dates", dates, torch.int64),
            ("first", first, torch.int64),
            ("sizes", sizes, torch.int64),
            ("kinds", coded, torch.int64),
            # numbers come first in what is concatenated: this puts tokens back into the table's order
            ("order", [[*numbers, *codes].index(number) for number in range(len(columns))], torch.int64),
            ("offsets", [[offset % period for period in PERIODS] for offset in offsets], torch.float32),
            ("coordinates", [[[place] for place in places(columns, registers)]], torch.float32),
        ]:
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    def observed(self, batch: dict[str, Tensor]) -> Bool[Tensor, "batch tokens"]:
        """Which tokens stand for something: [REG] and the cells that are not missing."""
        return nn.functional.pad(~batch["row"].isnan(), (self._count, 0), value=True)

    @property
    def _count(self) -> int:
        return 0 if self.registers is None else self.registers.shape[0]

    def forward(self, batch: dict[str, Tensor], keep: Tensor | None = None) -> Tokens:
        """Tokens of a batch {"row": (B, D) encoded cells}, all (B, N, H) or those at `keep` (B, K)."""
        observed = self.observed(batch)
        tokens = Tokens(
            self._values(batch["row"]),
            self.coordinates,
            observed if self.absent else None,
        )
        if keep is not None:
            tokens = tokens.take(keep)
        if tokens.present is not None:
            # attention over nothing at all is undefined
            nothing = ~tokens.present.any(1, keepdim=True)
            tokens = Tokens(tokens.values, tokens.coordinates, tokens.present | nothing)
        return tokens

    def _values(self, row: Tensor) -> Tensor:
        filled = row.nan_to_num(0.0)
        parts = []
        if self.weight is not None and self.scaling is not None:
            numbers = filled[:, self.numbers]
            parts.append(self.scaling(numbers).unsqueeze(-1) * self.weight + self._of_dates(numbers))
        if self.categories is not None:
            codes = filled[:, self.codes].long()
            codes = torch.where((codes < 0) | (codes >= self.sizes), 0, codes)
            parts.append(self.categories[codes + self.first])
        tokens = torch.cat(parts, dim=1)[:, self.order] + self.bias
        if self.missing is not None:
            tokens = torch.where(row.isnan().unsqueeze(-1), self.missing.to(tokens.dtype), tokens)
        if self.types is not None:
            tokens = tokens + self.types[self.kinds]
        if self.indices is not None:
            tokens = tokens + self.indices
        if self.registers is not None:
            front = self.registers.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([front, tokens], dim=1)
        return tokens

    def _of_dates(self, numbers: Tensor) -> Tensor | float:
        """What the calendar adds, at the places of dates; 0 where there are none."""
        if self.waves is None:
            return 0.0
        waves = calendar(numbers[:, self.dates], self.offsets)
        weights = self.waves.unflatten(0, (len(self.dates), -1))
        added = numbers.new_zeros(*numbers.shape, self.waves.shape[-1])
        return added.index_copy(1, self.dates, torch.einsum("bdw,dwh->bdh", waves, weights))


def _uniform(rows: int, width: int, bound: float) -> nn.Parameter | None:
    """(rows, width) uniform in +-bound; None for no rows."""
    return nn.Parameter(torch.empty(rows, width).uniform_(-bound, bound)) if rows else None
