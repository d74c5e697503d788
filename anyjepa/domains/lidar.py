"""LiDAR frames: measured, described by numbers that are not learned, and drawn from above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Domain, Samples
from anyjepa.domains.lidar_drawing import drawn_frame, figure_of_frame, framed
from anyjepa.domains.lidar_frames import BoxedSamples, FileFrames, LidarSamples
from anyjepa.domains.lidar_simulation import Simulated
from anyjepa.domains.lidar_sources import open_lidar
from anyjepa.domains.sources import choose

__all__ = ["Lidar"]

MEASURED = 32
CELLS = 16  # a side of the grid of the raw description
LEVELS = 32  # of its histogram of heights
MOST_MARKED = 60


class Lidar(Domain):
    """LiDAR frames. A batch is {"points": (n, points, 4) float32, "present": (n, points) bool}.

    Points are x forward, y left and z up from the sensor in metres, and how much came back; rows that are not
    present only fill up.
    """

    name = "lidar"
    reads_shards = True
    endings = frozenset({".bin", ".pcd"})

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open LiDAR frames; see :func:`anyjepa.domains.lidar_sources.open_lidar`."""
        return open_lidar(source, labels, split, reading)

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Points a frame, where nearly all of them lie, and what comes back, over at most 32 frames.

        ``least`` and ``most`` are the quantiles 0.01 and 0.99 of x, y and z in metres, ``intensity`` that
        of what comes back. Raises UserError where no frame can be read.
        """
        chosen = choose(len(samples), MEASURED, seed)
        frames = []
        for index in chosen:
            try:
                frames.append(samples.read(int(index)))
            except BadSample:
                continue
        if not frames:
            raise UserError(f"{samples.source} holds no readable frame: give LiDAR frames that open")
        counts = [len(frame) for frame in frames]
        # as many of each, for quantiles of a few million numbers take seconds
        some = np.concatenate([frame[:: max(1, len(frame) // 4096)] for frame in frames])
        least, most = np.quantile(some, [0.01, 0.99], axis=0)
        drawing = samples.drawing if isinstance(samples, LidarSamples) else {}
        return {
            **drawing,
            "points": int(np.median(counts)),
            "least_points": int(min(counts)),
            "most_points": int(max(counts)),
            "least": [float(value) for value in least[:3]],
            "most": [float(value) for value in most[:3]],
            "intensity": float(most[3]),
        }

    def likeness(self, samples: Samples) -> float:
        """Simulated frames for sure; scans can be clouds of any kind."""
        assert isinstance(samples, LidarSamples)
        if isinstance(samples.store, Simulated):
            return 1.0
        return 0.8 if isinstance(samples.store, FileFrames) else 0.05

    def in_words(self, facts: dict) -> dict[str, str]:
        """Points a frame, and the range in metres along each axis."""
        few, most = facts["least_points"], facts["most_points"]
        ends = zip(("forward", "left", "up"), facts["least"], facts["most"], strict=True)
        return {
            "points": f"{facts['points']:,} a frame" + (f" ({few:,} to {most:,})" if few != most else ""),
            "range": ", ".join(f"{low:.1f} to {high:.1f} m {axis}" for axis, low, high in ends),
            "what comes back": f"up to {facts['intensity']:.4g}",
        }

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """Frames without height or with hardly a point, and returns that all say the same."""
        found = []
        if facts["most"][2] - facts["least"][2] < 0.1:
            found.append("all points lie at one height: z seems to be another axis.")
        if facts["least_points"] < 100:
            found.append(f"the smallest frame has {facts['least_points']} points: little to predict.")
        if facts["intensity"] == 0:
            found.append("nothing says how much came back: only places are learned from.")
        return found

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """What a frame says without learning: a grid seen from above, and heights.

        In each of 16 x 16 cells over the data's range the logarithm of the number of points and the highest
        point; then the shares of 32 levels of height, and mean and deviation of what comes back.
        """
        points, present = batch["points"].float(), batch["present"]
        low, high = (points.new_tensor(facts[name]) for name in ("least", "most"))
        share = (points[..., :3] - low) / (high - low).clamp(min=1e-6)
        place = (share * points.new_tensor([CELLS, CELLS, LEVELS])).long()
        bound = torch.tensor([CELLS, CELLS, LEVELS], device=points.device) - 1
        place = place.clamp(min=torch.zeros_like(bound), max=bound)
        cell, weight = place[..., 1] * CELLS + place[..., 0], present.float()
        count = weight.new_zeros(len(points), CELLS**2).scatter_add(1, cell, weight)
        height = torch.where(present, share[..., 2].clamp(0, 1), torch.zeros_like(weight))
        top = weight.new_zeros(len(points), CELLS**2).scatter_reduce(1, cell, height, "amax")
        levels = weight.new_zeros(len(points), LEVELS).scatter_add(1, place[..., 2], weight)
        total = weight.sum(dim=1, keepdim=True).clamp(min=1)
        back = points[..., 3]
        mean = (back * weight).sum(dim=1, keepdim=True) / total
        deviation = (((back - mean).square() * weight).sum(dim=1, keepdim=True) / total).sqrt()
        return torch.cat([count.log1p(), top, levels / total, mean, deviation], dim=1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Frames of points spread evenly over the range."""
        random = np.random.default_rng(0)
        low, high = [*facts["least"], 0.0], [*facts["most"], max(facts["intensity"], 1e-6)]
        return [random.uniform(low, high, (facts["points"], 4)).astype(np.float32) for _ in range(count)]

    def annotated(self, batch: dict[str, Tensor], samples: Samples, places: np.ndarray) -> dict[str, Tensor]:
        """The batch with ``boxes`` (n, 60, 7), NaN beyond those marked, for pictures alone."""
        if not isinstance(samples, BoxedSamples) or not samples.marked:
            return batch
        boxes = torch.full((len(places), MOST_MARKED, 7), torch.nan)
        for row, place in enumerate(places):
            try:
                marked = samples.objects(int(place)).boxes[:MOST_MARKED]
            except BadSample:
                continue
            boxes[row, : len(marked)] = torch.from_numpy(np.asarray(marked, np.float32))
        return {**batch, "boxes": boxes}

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """The frame from above, forward up: higher points brighter; see `drawn_frame`."""
        return drawn_frame(*framed(batch, index), facts, colours)

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """The same as SVG with metres, and the outlines of boxes where objects are marked."""
        return figure_of_frame(*framed(batch, index), facts, colours)
