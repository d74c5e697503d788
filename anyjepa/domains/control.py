"""Trajectories: videos with the states and actions of what is seen to move; measured, described, shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Domain, Samples
from anyjepa.domains.control_samples import ControlSamples, clip_of
from anyjepa.domains.control_sources import open_trajectories
from anyjepa.domains.sources import choose
from anyjepa.domains.video_files import VIDEOS
from anyjepa.domains.video_strips import contact_sheet, film_strip, painted

__all__ = ["Control"]

MEASURED = 200
RAW_SIDE = 16
PARTS = {
    "video": "",
    "states": "state_",
    "actions": "action_",
}  # of a clip, and what facts of them begin with


class Control(Domain):
    """Videos of something that is acted upon.

    A batch is {"video": (n, channels, frames, height, width), "states": (n, frames, numbers), "actions": (n,
    frames - 1, numbers)}, the last two float32 in the data's own units; a raw sample as of `clip_of`.
    """

    name = "control"
    endings = VIDEOS | {".npz", ".parquet", ".json", ".jsonl"}

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source of trajectories; see :func:`anyjepa.domains.control_sources.open_trajectories`."""
        return open_trajectories(source, labels, split, reading)

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Statistics of pixels a channel, and of each number of a state and of an action; sizes and rate.

        Over at most 200 clips drawn with ``seed``, in raw units. Damaged ones are passed over. Raises
        UserError if all are.
        """
        assert isinstance(samples, ControlSamples)
        chosen = choose(len(samples), MEASURED, seed)
        sums: dict[str, list[np.ndarray]] = {}
        counts, shapes, lows, highs, reason, dtype = dict.fromkeys(PARTS, 0), [], [], [], "", ""
        for index in chosen:
            try:
                clip = samples.read(int(index))
            except BadSample as problem:
                reason = f" ({problem})"
                continue
            rows = {name: clip[name].reshape(-1, clip[name].shape[-1]).astype(np.float64) for name in PARTS}
            if sums and any(rows[name].shape[1] != len(sums[name][0]) for name in PARTS):
                continue
            for name, values in rows.items():
                first, second = sums.get(name, [np.zeros(values.shape[1])] * 2)
                sums[name] = [first + values.sum(0), second + (values**2).sum(0)]
                counts[name] += len(values)
            shapes.append(clip["video"].shape)
            lows.append(rows["actions"].min(0))
            highs.append(rows["actions"].max(0))
            dtype = dtype or str(clip["video"].dtype)
        if not sums:
            raise UserError(f"{samples.source} holds no trajectory that can be read{reason}.")
        facts: dict[str, Any] = {"channels": shapes[0][-1], "dtype": dtype}
        for name, ours in PARTS.items():
            mean, square = (total / counts[name] for total in sums[name])
            deviation = np.sqrt(np.maximum(square - mean**2, 0))
            facts |= {f"{ours}mean": mean.tolist(), f"{ours}std": deviation.tolist()}
        return facts | {
            "height": int(np.median([shape[1] for shape in shapes])),
            "width": int(np.median([shape[2] for shape in shapes])),
            "clip_frames": samples.reading.frames,
            "clip_rate": samples.reading.rate,
            "action_low": np.min(lows, axis=0).tolist(),
            "action_high": np.max(highs, axis=0).tolist(),
        }

    @property
    def packs(self) -> bool:
        """No: a pack holds one array a sample, and here are three."""
        return False

    def likeness(self, samples: Samples) -> float:
        """Surely, where there are states and pictures."""
        return 0.9

    def in_words(self, facts: dict) -> dict[str, str]:
        """Size in pixels, channels, the clip that a step sees, and how many numbers tell of it."""
        rate = f" at {facts['clip_rate']:g} a second" if facts["clip_rate"] else ""
        return {
            "size": f"{facts['width']} x {facts['height']} pixels",
            "channels": {1: "1, grey", 3: "3, colour"}.get(facts["channels"], str(facts["channels"])),
            "states": f"{len(facts['state_mean'])} numbers",
            "actions": f"{len(facts['action_mean'])} numbers",
            "clips": f"{facts['clip_frames']} frames{rate}",
        }

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """The pixels, averaged down to at most 16 x 16, the states and the actions."""
        video = batch["video"].to(torch.float32)
        frames, height, width = video.shape[2:]
        small = functional.adaptive_avg_pool3d(video, (frames, min(height, RAW_SIDE), min(width, RAW_SIDE)))
        return torch.cat([part.flatten(1) for part in (small, batch["states"], batch["actions"])], dim=1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Clips of independent normal pixels, states and actions with the statistics of the data."""
        random, frames = np.random.default_rng(0), facts["clip_frames"]
        size = (count, frames, facts["height"], facts["width"], facts["channels"])
        video = random.normal(facts["mean"], facts["std"], size).astype(np.float32)
        states, actions = (
            random.normal(
                facts[f"{name}_mean"], facts[f"{name}_std"], (count, long, len(facts[f"{name}_mean"]))
            )
            for name, long in (("state", frames), ("action", frames - 1))
        )
        return [clip_of(*one) for one in zip(video, states, actions, strict=True)]

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """Four frames of a clip as one picture (h, w, 3) uint8; ``colours`` paint its patches."""
        return contact_sheet(painted(self._clip(batch, index, colours), _plain(colours), 1))

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """A film strip of up to eight frames with their times; ``colours`` (tokens, 3) shade patches."""
        clip = self._clip(batch, index, colours)
        return film_strip(clip, facts.get("clip_rate", 0.0), _plain(colours), 1)

    def _clip(self, batch: dict[str, Tensor], index: int, colours: Tensor | None) -> np.ndarray:
        clip = batch["video"][index].detach().cpu().numpy()
        # tokens are of the frames that an action follows
        return clip if colours is None else clip[:, : batch["actions"].shape[1]]


def _plain(colours: Tensor | None) -> np.ndarray | None:
    return None if colours is None else colours.detach().float().cpu().numpy()
