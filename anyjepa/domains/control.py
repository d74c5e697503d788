"""Trajectories: states and actions, and pictures, of what is acted upon; measured, described, shown.

Some recipes learn from clips of them (video, states, actions), others from windows that begin at every step.
"""

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
from anyjepa.domains.control_drawing import window_figure, window_sheet
from anyjepa.domains.control_episodes import PENDULUM, open_windows
from anyjepa.domains.control_samples import ControlSamples, clip_of
from anyjepa.domains.control_sources import open_trajectories
from anyjepa.domains.control_windows import WindowSamples, measured_windows, noisy_windows
from anyjepa.domains.sources import NoSplit, choose
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
    """Something that is acted upon, and what is seen of it.

    A batch of clips is {"video": (n, channels, frames, height, width), "states": (n, frames, numbers),
    "actions": (n, frames - 1, numbers)}, the last two float32 in the data's own units; a raw sample as of
    `clip_of`.

    A batch of windows is {"states": (n, steps, numbers), "actions": (n, steps, numbers), "padded":
    (n, steps), "acted": (n,), "task": (n,)}, with "image": (n, channels, height, width) where there are
    pictures; a raw sample as of `window_of`. Windows are what a recipe asks for by ``chunk``, and, where
    nothing is asked, what is opened if there is no video.
    """

    name = "control"
    endings = VIDEOS | {".npz", ".parquet", ".json", ".jsonl", ".hdf5", ".h5"}

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source of trajectories.

        See :func:`anyjepa.domains.control_sources.open_trajectories` of clips, and
        :func:`anyjepa.domains.control_episodes.open_windows` of windows.
        """
        asked = reading or {}
        if asked.get("chunk") or (isinstance(source, str) and source == PENDULUM):
            return open_windows(source, labels, split, reading)
        try:
            return open_trajectories(source, labels, split, reading)
        except NoSplit:
            raise
        except UserError as problem:
            if asked.get("frames"):
                raise
            try:
                return open_windows(source, labels, split, {**asked, "camera_name": "none"})
            except UserError:
                raise problem from None

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Statistics of pixels a channel, and of each number of a state and of an action; sizes and rate.

        Over at most 200 clips drawn with ``seed``, in raw units. Damaged ones are passed over. Raises
        UserError if all are.
        """
        if isinstance(samples, WindowSamples):
            return measured_windows(samples, seed)
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
        if "chunk" in facts:
            return _window_words(facts)
        rate = f" at {facts['clip_rate']:g} a second" if facts["clip_rate"] else ""
        return {
            "size": f"{facts['width']} x {facts['height']} pixels",
            "channels": {1: "1, grey", 3: "3, colour"}.get(facts["channels"], str(facts["channels"])),
            "states": f"{len(facts['state_mean'])} numbers",
            "actions": f"{len(facts['action_mean'])} numbers",
            "clips": f"{facts['clip_frames']} frames{rate}",
        }

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """The pixels, averaged down to at most 16 x 16, the states and the actions.

        Of windows what is known at their first step: its state, its task and its picture.
        """
        if "chunk" in facts:
            task = functional.one_hot(batch["task"].clamp(max=facts["tasks"] - 1), facts["tasks"])
            parts = [batch["states"][:, 0].float(), task.float()]
            if "image" in batch:
                image = batch["image"].float()
                height, width = (min(side, RAW_SIDE) for side in image.shape[2:])
                parts.append(functional.adaptive_avg_pool2d(image, (height, width)).flatten(1))
            return torch.cat(parts, dim=1)
        video = batch["video"].to(torch.float32)
        frames, height, width = video.shape[2:]
        small = functional.adaptive_avg_pool3d(video, (frames, min(height, RAW_SIDE), min(width, RAW_SIDE)))
        return torch.cat([part.flatten(1) for part in (small, batch["states"], batch["actions"])], dim=1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Clips of independent normal pixels, states and actions with the statistics of the data."""
        if "chunk" in facts:
            return noisy_windows(facts, count)
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
        if "chunk" in facts:
            return window_sheet(batch, index, facts)
        return contact_sheet(painted(self._clip(batch, index, colours), _plain(colours), 1))

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """A film strip of up to eight frames with their times; ``colours`` (tokens, 3) shade patches.

        Of a window its states and its actions as lines, those that are ``predicted`` beside them.
        """
        if "chunk" in facts:
            return window_figure(batch, index, facts)
        clip = self._clip(batch, index, colours)
        return film_strip(clip, facts.get("clip_rate", 0.0), _plain(colours), 1)

    def _clip(self, batch: dict[str, Tensor], index: int, colours: Tensor | None) -> np.ndarray:
        clip = batch["video"][index].detach().cpu().numpy()
        # tokens are of the frames that an action follows
        return clip if colours is None else clip[:, : batch["actions"].shape[1]]


def _window_words(facts: dict) -> dict[str, str]:
    rate, long = facts.get("rate", 0.0), facts["chunk"]
    words = {
        "states": f"{len(facts['state_mean'])} numbers",
        "actions": f"{len(facts['action_mean'])} numbers",
        "windows": f"{long} steps" + (f", {long / rate:.2g} s" if rate else ""),
        "tasks": str(facts["tasks"]),
    }
    if "channels" in facts:
        words["pictures"] = f"{facts['width']} x {facts['height']} pixels"
    return words


def _plain(colours: Tensor | None) -> np.ndarray | None:
    return None if colours is None else colours.detach().float().cpu().numpy()
