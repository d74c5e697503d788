"""AD-L-JEPA's training step: masks over cells, tokens, prediction and hinge."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.chance import uniform
from anyjepa.core.masking import Masks
from anyjepa.core.method import Batch, Context, Method
from anyjepa.core.processes import of_all, process, share_of_all
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.tokens import Tokens
from anyjepa.domains.lidar_encoder import MapEncoder
from anyjepa.domains.lidar_head import CentreDetector

if TYPE_CHECKING:
    from anyjepa.recipes.ad_l_jepa import AdLJepa

__all__ = ["Hidden", "MapPrediction", "draw_cells", "missing_deviation"]

Cells = Bool[Tensor, "frames cells"]


class Hidden(NamedTuple):
    """Which cells are what: four sets that share no cell and hold them all.

    Args:
        seen: cells with points that the encoder sees.
        told: empty cells of which that is told.
        wanted: cells with points that are hidden.
        void: empty cells that are hidden.
    """

    seen: Cells
    told: Cells
    wanted: Cells
    void: Cells


def draw_cells(
    occupied: Cells, share: float, generator: Generator, together: bool = False, hide_empty: bool = True
) -> Hidden:
    """Hide exactly so many of the cells with points, and each empty one by chance.

    Args:
        occupied: which cells hold points.
        share: that is hidden; of n cells with points, int(n (1 - share)) stay.
        generator: of the chance.
        together: the share holds over the whole batch, of all processes, rather than in each frame.
        hide_empty: else no empty cell is.
    """
    chance = uniform(occupied.shape, generator).to(occupied.device)
    lottery = chance.masked_fill(~occupied, 2.0)
    if together:
        rank, _ = process()
        own = slice(rank * len(lottery), (rank + 1) * len(lottery))
        lottery = of_all(lottery)
        order = lottery.flatten().argsort(stable=True).argsort().view_as(lottery)[own]
        count = (lottery < 2).sum()
    else:
        order, count = lottery.argsort(dim=1, stable=True).argsort(dim=1), occupied.sum(dim=1, keepdim=True)
    # the margin keeps a product such as 0.7 * 10 from falling one cell short
    kept = (count * (1 - share) + 1e-6).floor()
    seen = occupied & (order < kept)
    hidden = uniform(occupied.shape, generator).to(occupied.device) < (share if hide_empty else 0.0)
    return Hidden(seen, ~occupied & ~hidden, occupied & ~seen, ~occupied & hidden)


def missing_deviation(vectors: Float[Tensor, "frames cells width"], counted: Cells) -> Float[Tensor, ""]:
    """Mean over frames and channels of max(0, 1/sqrt(width) - deviation over a frame's counted cells).

    The deviation is sqrt(unbiased variance + 1e-4). 1/sqrt(width) is that of directions all over the sphere.
    A frame of fewer than two such cells has no deviation, and counts as none missing.
    """
    weight = counted.to(vectors.dtype).unsqueeze(2)
    count = weight.sum(dim=1)
    mean = (vectors * weight).sum(dim=1) / count.clamp(min=1)
    square = ((vectors - mean.unsqueeze(1)).square() * weight).sum(dim=1)
    deviation = (square / (count - 1).clamp(min=1) + 1e-4).sqrt()
    short = functional.relu(vectors.shape[2] ** -0.5 - deviation)
    return (short * (count > 1)).mean()


class Predictor(nn.Sequential):
    """Convolutions of 3 x 3 cells, each with batch normalisation and ReLU.

    Args:
        width: of the map.
        depth: convolutions.
        rectified: else the last one is neither normalised nor rectified.
    """

    def __init__(self, width: int, depth: int, rectified: bool) -> None:
        layers: list[nn.Module] = []
        for number in range(depth):
            layers.append(nn.Conv2d(width, width, 3, padding=1))
            if rectified or number < depth - 1:
                layers += [nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers)


class MapPrediction(Method):
    """Predict what a teacher makes of hidden cells, and which of them are empty.

    Args:
        encoder: from points to a map.
        recipe: the numbers of masks, losses and teacher.
    """

    def __init__(self, encoder: MapEncoder, recipe: AdLJepa) -> None:
        super().__init__()
        self.encoder, self.recipe, self.grid = encoder, recipe, encoder.grid
        self.predictor = Predictor(encoder.width, recipe.predictor_depth, recipe.rectified)
        learned = recipe.tokens == "learned"
        self.mask_token = nn.Parameter(torch.randn(encoder.width), learned)
        self.empty_token = nn.Parameter(torch.randn(encoder.width), learned)
        self.target = EmaTeacher(encoder, *recipe.momentum)
        self.register_buffer("centres", self.grid.centres(), persistent=False)

    @property
    def backbone(self) -> nn.Module:
        """The encoder: what the paper's detectors begin with."""
        return self.encoder

    def hidden(self, occupied: Cells, generator: Generator) -> Hidden:
        """Which cells a step hides."""
        recipe = self.recipe
        return draw_cells(occupied, recipe.hidden, generator, recipe.masks == "batch", recipe.hide_empty)

    def context(self, batch: Batch, cells: Hidden) -> Float[Tensor, "frames cells width"]:
        """Directions that the predictor begins with: encoded cells, empty tokens, elsewhere mask tokens."""
        found = _rows(self.encoder(batch, cells.seen))
        mask, empty = (token.to(found.dtype) for token in (self.mask_token, self.empty_token))
        found = torch.where(cells.seen.unsqueeze(2), found, mask)
        return functional.normalize(torch.where(cells.told.unsqueeze(2), empty, found), dim=2)

    def predicted(self, context: Float[Tensor, "frames cells width"]) -> Float[Tensor, "frames cells width"]:
        """Directions that are guessed for all cells."""
        found = self.predictor(context.transpose(1, 2).unflatten(2, self.grid.shape))
        return functional.normalize(_rows(found).float() if found.dtype.itemsize < 4 else _rows(found), dim=2)

    @torch.no_grad()
    def goals(self, batch: Batch, cells: Hidden) -> Float[Tensor, "frames cells width"]:
        """Directions to be guessed: the teacher's, and the empty token where hidden cells are empty."""
        shown = cells.wanted if self.recipe.target == "hidden" else cells.wanted | cells.seen
        found = _rows(self.target.encoder(batch, shown))
        empty = self.empty_token.to(found.dtype)
        return functional.normalize(torch.where(cells.void.unsqueeze(2), empty, found), dim=2)

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss`` and its parts, and what tells learning from collapse.

        ``occupied`` and ``empty`` are one minus the cosine over hidden cells with and without points;
        ``mean_target`` is what ``occupied`` would be if the mean direction of the targets were always said;
        ``hinge`` is the missing deviation of context and prediction.
        """
        cells = self.hidden(self.encoder.occupied(batch), context.generator)
        begun = self.context(batch, cells)
        told, goal = self.predicted(begun), self.goals(batch, cells)
        apart = 1 - (told * goal).sum(dim=2)
        occupied, empty = _mean(apart, cells.wanted), _mean(apart, cells.void)
        hinge = missing_deviation(begun, cells.seen) + missing_deviation(told, cells.wanted)
        weight = self.recipe.empty_weight
        middle = functional.normalize((goal * cells.wanted.unsqueeze(2)).flatten(0, 1).sum(dim=0), dim=0)
        return {
            "loss": (1 - weight) * occupied + weight * empty + self.recipe.hinge * hinge,
            "occupied": occupied.detach(),
            "empty": empty.detach(),
            "hinge": hinge.detach(),
            "mean_target": _mean(1 - goal @ middle, cells.wanted),
            "embedding": _pooled(goal, cells.wanted).detach(),
        }

    def embed(self, batch: Batch) -> Float[Tensor, "frames dim"]:
        """Mean and largest of the cells that hold points, side by side."""
        return _pooled(_rows(self.encoder(batch)), self.encoder.occupied(batch))

    def tokens(self, batch: Batch) -> Tokens:
        """The map's cells; those without a point are not present. Coordinates are y and x in metres."""
        found = _rows(self.encoder(batch))
        return Tokens(found, self.centres.to(found.dtype).unsqueeze(0), self.encoder.occupied(batch))  # type: ignore[union-attr]

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """Embeddings of what `count` masks leave to be seen."""
        occupied = self.encoder.occupied(batch)
        found = []
        for _ in range(count):
            seen = self.hidden(occupied, context.generator).seen
            found.append(_pooled(_rows(self.encoder(batch, seen)), seen))
        return torch.stack(found, dim=1)

    def masks(self, batch: Batch, context: Context) -> Masks:
        """What is seen or told, and as two targets the hidden cells with and without points."""
        cells = self.hidden(self.encoder.occupied(batch), context.generator)
        hidden = torch.stack([cells.wanted, cells.void], dim=1)
        return Masks(
            _listed(cells.seen | cells.told),
            _listed(hidden.flatten(0, 1)).unflatten(0, (-1, 2)),
            torch.zeros_like(cells.seen[:, 0]),
        )

    def head(self, kind: str, batch: Batch, width: int) -> nn.Module:
        """A centre-based detector of `width` classes over the encoder."""
        return CentreDetector(self.encoder, width)

    @torch.no_grad()
    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """What the predictor knows of hidden cells.

        ``occupancy``: chance that a hidden cell with points is guessed less like the empty token than one
        without (0.5: nothing is known). ``gain``: how much nearer, as a cosine, what is guessed comes to
        hidden cells than their own mean direction does.
        """
        likeness, truth, gains, counts = [], [], 0.0, 0.0
        for batch in batches:
            cells = self.hidden(self.encoder.occupied(batch), context.generator)
            told, goal = self.predicted(self.context(batch, cells)), self.goals(batch, cells)
            hidden = cells.wanted | cells.void
            likeness.append((told @ functional.normalize(self.empty_token, dim=0).to(told.dtype))[hidden])
            truth.append(cells.wanted[hidden])
            middle = functional.normalize((goal * cells.wanted.unsqueeze(2)).flatten(0, 1).sum(dim=0), dim=0)
            gain = (told * goal).sum(dim=2) - goal @ middle
            gains += float((gain * cells.wanted).sum())
            counts += float(cells.wanted.sum())
        if not counts:
            return {}
        return {"occupancy": _area(-torch.cat(likeness), torch.cat(truth)), "gain": gains / counts}

    def after_step(self, context: Context) -> None:
        """The teacher follows the encoder."""
        self.target.follow(self.encoder, self.target.momentum(context.progress))

    def scheduled(self, context: Context) -> dict[str, float]:
        """The teacher's momentum."""
        return {"momentum": self.target.momentum(context.progress)}


def _rows(found: Float[Tensor, "frames width rows columns"]) -> Float[Tensor, "frames cells width"]:
    return found.flatten(2).transpose(1, 2)


def _mean(values: Float[Tensor, "frames cells"], counted: Cells) -> Float[Tensor, ""]:
    """Over the counted cells of all processes; 0 where there are none."""
    weight = counted.to(values.dtype)
    return (values * weight).sum() / share_of_all(weight.sum()).clamp(min=1e-6)


def _pooled(values: Float[Tensor, "frames cells width"], counted: Cells) -> Float[Tensor, "frames dim"]:
    """Mean and largest of the counted cells, zeros where a frame has none."""
    weight = counted.unsqueeze(2).to(values.dtype)
    count = weight.sum(dim=1)
    largest = values.masked_fill(~counted.unsqueeze(2), -torch.inf).amax(dim=1)
    largest = torch.where(count > 0, largest, torch.zeros_like(largest))
    return torch.cat([(values * weight).sum(dim=1) / count.clamp(min=1), largest], dim=1)


def _listed(chosen: Bool[Tensor, "sets cells"]) -> Tensor:
    """(sets, most) numbers of the chosen cells, the last one repeated; of an empty set the first of all."""
    most = max(1, int(chosen.sum(dim=1).max()))
    order = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    last = (chosen.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    place = torch.arange(most, device=chosen.device).expand(len(chosen), -1).minimum(last)
    return order.gather(1, place)


def _area(scores: Tensor, truth: Tensor) -> float:
    """Area under the curve of hits against false alarms; 0.5 where there is but one kind."""
    hits, misses = int(truth.sum()), int((~truth).sum())
    if not hits or not misses:
        return 0.5
    _, number, counts = scores.double().unique(return_inverse=True, return_counts=True)
    # of equal scores each has the mean of their ranks
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[number]
    return float((ranks[truth].sum() - hits * (hits + 1) / 2) / (hits * misses))
