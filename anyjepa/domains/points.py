"""Clouds of points: read from scans, meshes, arrays and voxels; measured, described and shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.points import normalised
from anyjepa.core.tokens import Tokens
from anyjepa.core.upsampling import interpolated
from anyjepa.domains import Domain, Samples
from anyjepa.domains.point_drawing import drawn_cloud, turnable_cloud
from anyjepa.domains.point_files import SUFFIXES, TEXT_SUFFIXES
from anyjepa.domains.point_samples import ArrayClouds, FileClouds, PointSamples
from anyjepa.domains.point_sources import HDF5, SURFACE_POINTS, open_points
from anyjepa.domains.sources import choose

__all__ = ["Points", "resampled"]

MEASURED = 500
PAIRS = 4096  # of points whose distances make the histogram
BINS = 64
FEW_POINTS = 64
MOST_COLUMNS = 10  # of a point: place, normal, colour, intensity
CELLS = 8  # a side of the grid of the raw description


class Points(Domain):
    """Clouds of points in space. A batch is {"points": (n, points, 3 + channels) float32}."""

    name = "points"
    reads_shards = True
    endings = frozenset({*SUFFIXES, *HDF5, ".npz"})

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source of clouds; see :func:`anyjepa.domains.point_sources.open_points`.

        Of ``reading``, ``channels`` is how many numbers of a point beyond x, y, z are kept, and
        ``surface_points`` how many points are drawn from a mesh. ``up`` (x, y or z) and ``patches`` say how
        a report draws them; ``dense`` names labels of points.
        """
        asked = reading or {}
        on_surface = asked.get("surface_points", SURFACE_POINTS)
        drawing = {name: asked[name] for name in ("up", "patches") if name in asked}
        channels = asked.get("channels", 0)
        return open_points(source, labels, split, channels, on_surface, drawing, asked.get("dense"))

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Channels with their mean and deviation, points a cloud, and how many points were left out.

        Over at most 500 clouds drawn with ``seed``. ``radius`` is the median distance of a cloud's outermost
        point from its mean place, in the data's unit. Raises UserError where no cloud can be read.
        """
        chosen = choose(len(samples), MEASURED, seed)
        counts, radii, sums = [], [], []
        for index in chosen:
            try:
                cloud = samples.read(int(index)).astype(np.float64)
            except BadSample:
                continue
            counts.append(len(cloud))
            radii.append(np.linalg.norm(cloud[:, :3], axis=1).max())
            sums.append((cloud[:, 3:].sum(axis=0), (cloud[:, 3:] ** 2).sum(axis=0)))
        if not counts:
            raise UserError(f"{samples.source} holds no readable cloud: give clouds that open")
        mean, square = (np.sum(part, axis=0) / sum(counts) for part in zip(*sums, strict=True))
        facts = {
            "channels": len(mean),
            "channel_mean": mean.tolist(),
            "channel_std": np.sqrt(np.maximum(square - mean**2, 0)).tolist(),
            "points": int(np.median(counts)),
            "least_points": int(min(counts)),
            "most_points": int(max(counts)),
            "radius": float(np.median(radii)),
        }
        if isinstance(samples, PointSamples):
            facts["dropped_not_finite"] = samples.dropped["not_finite"]
            facts["dropped_duplicates"] = samples.dropped["duplicates"]
            facts["dropped_counted_in_clouds"] = samples.looked_at
            facts.update(samples.drawing)
        return facts

    def likeness(self, samples: Samples) -> float:
        """Scans, meshes and voxels for sure, lines of numbers hardly; arrays by their number of columns."""
        assert isinstance(samples, PointSamples)
        if isinstance(samples.store, FileClouds):
            names = samples.store.names
            doubtful = sum(name.lower().endswith((*TEXT_SUFFIXES, ".npy")) for name in names)
            return 1.0 if 2 * doubtful < len(names) else 0.3
        if isinstance(samples.store, ArrayClouds):
            points, columns = samples.store.decode(0).shape
            return 0.9 if columns <= MOST_COLUMNS and points > 2 * columns else 0.05
        return 1.0

    def in_words(self, facts: dict) -> dict[str, str]:
        """Points a cloud, radius in the data's unit, numbers of a point, points left out."""
        few, most = facts["least_points"], facts["most_points"]
        words = {
            "points": f"{facts['points']:,} a cloud" + (f" ({few:,} to {most:,})" if few != most else ""),
            "radius": f"{facts['radius']:.4g} in the data's own unit",
            "numbers of a point": f"x, y, z and {facts['channels']} more" if facts["channels"] else "x, y, z",
        }
        lost = facts.get("dropped_not_finite", 0), facts.get("dropped_duplicates", 0)
        if any(lost):
            words["left out"] = f"{lost[0]:,} points that are not finite, {lost[1]:,} that repeat another"
        return words

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """Clouds of a few points or of no extent, and channels that never change."""
        found = super().doubts(samples, {"std": facts["channel_std"]})
        if facts["least_points"] < FEW_POINTS:
            found.append(
                f"the smallest cloud has {facts['least_points']} points, fewer than {FEW_POINTS}: its "
                "patches overlap almost wholly, and there is little to predict."
            )
        if facts["radius"] == 0:
            found.append("all points of a cloud lie in one place: there is no shape to learn.")
        return found

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """What a cloud's shape says without learning, after centring it and scaling it to the unit ball.

        The histogram of distances of 4,096 random pairs of points in 64 bins (D2 of Osada et al. 2002), the
        spread along its three principal axes, and the share of its points in each cell of an 8 x 8 x 8 grid;
        then mean and deviation of each channel. Shares are in units of an even spread.
        """
        points = batch["points"].float()
        places = normalised(points[..., :3])
        pairs = torch.from_numpy(np.random.default_rng(0).integers(places.shape[1], size=(2, PAIRS)))
        apart = (places[:, pairs[0]] - places[:, pairs[1]]).norm(dim=2)
        histogram = _shares((apart / 2 * BINS).long().clamp(0, BINS - 1), BINS)
        variances = torch.linalg.eigvalsh(places.mT @ places / places.shape[1]).flip(1)
        cells = ((places + 1) / 2 * CELLS).long().clamp(0, CELLS - 1)
        grid = _shares((cells * torch.tensor([CELLS**2, CELLS, 1], device=cells.device)).sum(2), CELLS**3)
        extra = points[..., 3:]
        mean = extra.mean(dim=1)
        deviation = (extra - mean.unsqueeze(1)).square().mean(dim=1).sqrt()
        return torch.cat([histogram, variances.clamp(min=0).sqrt(), grid, mean, deviation], dim=1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Clouds (points, 3 + channels) float32 of independent normal numbers."""
        random, places = np.random.default_rng(0), (facts["points"], 3)
        return [
            np.concatenate(
                [
                    random.normal(0, facts["radius"] / 3 or 1.0, places),
                    random.normal(
                        facts["channel_mean"], facts["channel_std"], (places[0], facts["channels"])
                    ),
                ],
                axis=1,
            ).astype(np.float32)
            for _ in range(count)
        ]

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """(120, 120, 3) uint8: the cloud from a little above and the side, nearer points brighter.

        ``colours`` (patches, 3) in 0..1 paint each point by the patch whose centre is nearest, NaN leaves it.
        """
        return drawn_cloud(batch["points"][index].detach().cpu(), colours, facts.get("up", "y"))

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """The same as a canvas that is turned by dragging or by the arrow keys, as HTML with its script.

        Without ``colours``, every patch has a colour of its own.
        """
        cloud = batch["points"][index].detach().cpu()
        return turnable_cloud(cloud, colours, facts.get("up", "y"), facts.get("patches"))

    def elements(
        self,
        batch: dict[str, Tensor],
        tokens: Sequence[Tokens],
        dense: Sequence[np.ndarray],
        classes: int,
        present: Callable[[list[np.ndarray]], dict[str, Tensor]],
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """The points of the batch: what the three nearest tokens say of each, and all tokens of its cloud.

        Features are tokens at the point (`interpolated`), their maximum and their mean over the cloud, as in
        Point-JEPA's part segmentation. Raw are the place in the unit ball, the spread of the 16 nearest
        points along their principal axes, and the largest and mean of these spreads.
        """
        points = batch["points"].float()
        labels = present([np.asarray(part, dtype=np.float32)[:, None] for part in dense])["points"][..., 0]
        features = []
        for one in tokens:
            values = one.values.float()
            there = interpolated(values, one.coordinates.float(), points[..., :3])
            whole = torch.cat([values.amax(1), values.mean(1)], dim=1).unsqueeze(1)
            features.append(torch.cat([there, whole.expand(-1, there.shape[1], -1)], dim=2))
        return features, _surroundings(points), labels.long().clamp(min=-1).to(points.device)


def _surroundings(points: Float[Tensor, "n points columns"], near: int = 16) -> Tensor:
    """(n, points, 9 and the channels): what is said of a point without learning."""
    places, found = normalised(points[..., :3]), []
    for cloud in places:
        apart = torch.cdist(cloud, cloud)
        patch = cloud[apart.topk(min(near, len(cloud)), largest=False).indices]
        patch = patch - patch.mean(1, keepdim=True)
        found.append(torch.linalg.eigvalsh(patch.mT @ patch / patch.shape[1]).clamp(min=0).sqrt())
    spread = torch.stack(found)
    whole = torch.cat([spread.amax(1), spread.mean(1)], dim=1).unsqueeze(1).expand(-1, points.shape[1], -1)
    return torch.cat([places, points[..., 3:], spread, whole], dim=2)


def _shares(bins: Tensor, count: int) -> Tensor:
    """(n, count): how much of each row (n, values) lies in each bin, in units of an even spread."""
    ones = torch.ones_like(bins, dtype=torch.float32)
    total = torch.zeros(len(bins), count, device=bins.device).scatter_add_(1, bins, ones)
    return total * (count / bins.shape[1])


def resampled(
    samples: Sequence[np.ndarray] | np.ndarray, count: int, chance: Sequence[np.random.Generator]
) -> np.ndarray:
    """(n, count, columns) float32: as many points of each cloud, drawn without putting back.

    A cloud that has fewer keeps all of them, each as often as the others give or take one.
    """
    found = []
    for cloud, random in zip(samples, chance, strict=True):
        whole, rest = divmod(count, len(cloud))
        chosen = np.tile(np.arange(len(cloud)), whole)
        if rest:
            chosen = np.concatenate([chosen, random.choice(len(cloud), rest, replace=False)])
        found.append(np.asarray(cloud, dtype=np.float32)[chosen])
    return np.stack(found)
