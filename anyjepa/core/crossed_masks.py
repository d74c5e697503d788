"""Masks of a grid whose rows are a set: rows and columns are hidden apart from one another, and together.

Rows have no order (regions of a brain, sensors, stations); columns are stretches of time. What is hidden lies
across rows, across columns, or across both (Brain-JEPA's spatiotemporal masking).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from anyjepa.core.chance import uniform
from anyjepa.core.masking import Masks
from anyjepa.core.processes import alone

__all__ = ["CrossedMasks", "CrossedSets", "Plan"]

PLAN = 0x1CE4E5B9BF58476D  # keeps the sizes of a step apart from its other chance
DRAWS = 9  # numbers that decide a plan
EDGE = 0.3  # share of the columns that are the left, and the right, end


@dataclass(frozen=True)
class CrossedMasks(Masks):
    """Masks whose only target block is made of three sets, one after the other.

    Args:
        widths: targets across rows, across columns and across both; together the block's width.
    """

    widths: tuple[int, int, int] = (0, 0, 0)

    def sets(self) -> list[Int[Tensor, "batch _"]]:
        """The three sets of targets, empty ones among them."""
        return list(self.targets[:, 0].split(list(self.widths), dim=1))


@dataclass(frozen=True)
class Plan:
    """What all samples of a step share: how many rows of each sort there are, and which columns.

    Args:
        visible, hidden: rows that are seen, and rows of the set that is predicted across rows; what is left
            is neither.
        window: columns that are observed.
        block: columns in which hidden rows are predicted.
        sides: columns taken away at the left and the right end, and the share of the rows that is predicted
            there.
    """

    visible: int
    hidden: int
    window: range
    block: range
    sides: tuple[tuple[tuple[int, ...], float], ...]

    @property
    def removed(self) -> set[int]:
        """Columns that no row shows."""
        return {column for columns, _ in self.sides for column in columns}

    @property
    def seen(self) -> list[int]:
        """Columns that visible rows show."""
        return [column for column in self.window if column not in self.removed]


class CrossedSets:
    """One block of rows x columns is observed; targets are drawn across rows, across columns, across both.

    A random set of rows is *hidden*: none of its tokens is seen, and those in a window of columns are targets
    (across rows: the columns are seen in other rows). At the left and the right end a few columns are taken
    away from all rows; there, targets are drawn of the rows that are visible elsewhere (across columns) and
    of those that are not (across both). What is seen are the visible rows in the observed columns that are
    left. Rows are drawn for each sample; how many there are, and which columns, for each step, so that all
    samples are equally wide and nothing is cut: every set that is drawn is whole, rows and columns are seen
    equally often whatever their number, and no token is a target twice.

    The released Brain-JEPA draws columns for each sample and then cuts all lists to the shortest of the batch
    from the end, which takes all targets across columns away in two steps of three (paper note, "released
    sampler"); its observed block never reaches the last column.

    Args:
        rows, columns: of the grid; a token's index is row * columns + column.
        observed_rows, observed_columns: shares of the grid that the observed block spans, (low, high).
        hidden_rows, hidden_columns: the same of the set that is predicted across rows.
        side_rows: share of the rows that are predicted at an end.
        side_columns: share of the columns that are taken away at an end.

    Raises:
        ValueError: a range is empty or no share, or the grid is too small to hide and to see a part of it.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        observed_rows: tuple[float, float] = (0.84, 1.0),
        observed_columns: tuple[float, float] = (0.84, 1.0),
        hidden_rows: tuple[float, float] = (0.45, 0.6),
        hidden_columns: tuple[float, float] = (0.2, 0.6),
        side_rows: tuple[float, float] = (0.15, 0.3),
        side_columns: tuple[float, float] = (0.0, 0.4),
    ) -> None:
        ranges = {
            "observed rows": observed_rows, "observed columns": observed_columns,
            "hidden rows": hidden_rows, "hidden columns": hidden_columns,
            "rows at the ends": side_rows, "columns at the ends": side_columns,
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            if not 0 <= low <= high <= 1:
                raise ValueError(
                    f"the share of {name} ({low:g}, {high:g}) must lie in 0 to 1 and not be empty"
                )
        self.rows, self.columns, self.ranges = rows, columns, list(ranges.values())
        self.edge = max(1, int(EDGE * columns + 1e-6))
        least = int(observed_columns[0] * columns + 1e-6)
        if columns <= 2 * self.edge or least <= self.edge:
            raise ValueError(f"{columns} stretches of time are too few to hide some at both ends")
        # the fewest that are left: the smallest observed set, less the largest share of it that is hidden
        if (
            int(observed_rows[0] * rows)
            - -(-int(hidden_rows[1] * rows) * int(observed_rows[0] * rows) // rows)
            < 1
        ):
            raise ValueError(f"{rows} rows are too few to hide some and see others")
        if int(hidden_rows[0] * rows) < 1:
            raise ValueError(f"a share of {hidden_rows[0]:g} of {rows} rows hides none")

    def plan(self, generator: Generator) -> Plan:
        """The sizes of a step, a function of the generator's seed: known here without asking the device."""
        chance = Generator().manual_seed(generator.initial_seed() ^ PLAN)
        draw = torch.rand(DRAWS + 4, generator=chance, dtype=torch.float64).tolist()
        shares = [low + (high - low) * u for (low, high), u in zip(self.ranges[:4], draw, strict=False)]
        observed, hidden = (max(1, int(self.rows * share)) for share in (shares[0], shares[2]))
        width = max(1, int(self.columns * shares[1]))
        block = min(width, max(1, int(self.columns * shares[3])))
        start = int(draw[4] * (self.columns - width + 1))
        first = start + int(draw[5] * (width - block + 1))
        inside = min(observed - 1, round(hidden * observed / self.rows))
        hidden = min(hidden, inside + self.rows - observed)
        sides, (low, high), (narrow, wide) = [], self.ranges[4], self.ranges[5]
        for number, begin in enumerate((0, self.columns - self.edge)):
            share, part = draw[6 + 2 * number : 8 + 2 * number]
            count = min(self.edge, int(self.columns * (narrow + (wide - narrow) * share)))
            chosen = torch.randperm(self.edge, generator=chance)[:count].sort().values
            sides.append((tuple((begin + chosen).tolist()), low + (high - low) * part))
        return Plan(
            observed - inside, hidden, range(start, start + width), range(first, first + block), tuple(sides)
        )

    def usual_widths(self) -> tuple[int, int]:
        """Tokens of a context and of the targets, the means over many steps: for masks to compare with."""
        with alone():
            drawn = [self(1, Generator().manual_seed(seed)) for seed in range(64)]
        return tuple(
            round(sum(part.shape[-1] for part in parts) / len(drawn))
            for parts in ([one.context for one in drawn], [one.targets for one in drawn])
        )  # pyright: ignore[reportReturnType]

    def __call__(self, batch: int, generator: Generator) -> CrossedMasks:
        """Masks for `batch` samples: context, and one target block of the three sets."""
        plan, device = self.plan(generator), generator.device
        # one order of the rows parts them: first the visible, then the hidden, then those that are neither
        order = uniform((batch, self.rows), generator).argsort(1)
        parts = order.split([plan.visible, plan.hidden, self.rows - plan.visible - plan.hidden], dim=1)
        visible, hidden, _ = parts
        context = self._tokens(visible, plan.seen, device)
        across_rows = self._tokens(hidden, plan.block, device)
        across_columns, across_both = [], []
        for columns, share in plan.sides:
            some = [self._some(part, share, generator) for part in parts]
            across_columns.append(self._tokens(some[0], columns, device))
            # a hidden row's tokens within its block are targets already
            outside = [column for column in columns if column not in plan.block]
            across_both.append(self._tokens(some[1], outside, device))
            across_both.append(self._tokens(some[2], columns, device))
        sets = [across_rows, torch.cat(across_columns, dim=1), torch.cat(across_both, dim=1)]
        widths = (sets[0].shape[1], sets[1].shape[1], sets[2].shape[1])
        relaxed = torch.zeros(batch, dtype=torch.bool, device=device)
        return CrossedMasks(context, torch.cat(sets, dim=1).unsqueeze(1), relaxed, None, widths)

    def _some(self, rows: Int[Tensor, "batch part"], share: float, generator: Generator) -> Tensor:
        """A random share of the rows of each sample, at least one where there are any."""
        order = uniform(tuple(rows.shape), generator).argsort(1)
        count = max(1, int(share * rows.shape[1])) if rows.shape[1] else 0
        return rows.gather(1, order[:, :count])

    def _tokens(self, rows: Int[Tensor, "batch part"], columns: object, device: torch.device) -> Tensor:
        """Every pair of a row and one of the columns, (batch, part * columns)."""
        chosen = torch.tensor(list(columns), dtype=torch.long, device=device)  # type: ignore[call-overload]
        return (rows.unsqueeze(2) * self.columns + chosen).flatten(1)
