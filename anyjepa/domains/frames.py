"""Pairs of frames: read from data sets of optical flow, folders, videos and arrays; measured and shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyjepa.domains.frames_drawing import captioned, flow_colours, heat, wheel
from anyjepa.domains.frames_files import FLOWS, PICTURES, PairFiles
from anyjepa.domains.frames_samples import FramePairs
from anyjepa.domains.frames_sources import open_frames
from anyjepa.domains.images import PICTURE_SIDE, RAW_SIDE, _painted, _visible
from anyjepa.domains.video import Video
from anyjepa.domains.video_files import VIDEOS

__all__ = ["Frames"]

DRAWN = 128  # pixels that a picture of a figure is wide


class Frames(Video):
    """Pairs of neighbouring frames. A batch is {"frames": (n, 2, channels, height, width)}, in raw units.

    With {"flow": (n, 2, height, width)} in pixels, {"warped": (n, channels, height, width)}, {"before"} and
    {"after"} (n, height, width) in 0..1 it is drawn with them.
    """

    name = "frames"
    endings = VIDEOS | PICTURES | FLOWS | {".npz", ".h5", ".hdf5"}

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> FramePairs:
        """Open a source of pairs; see :func:`anyjepa.domains.frames_sources.open_frames`."""
        return open_frames(source, labels, split, reading)

    @property
    def packs(self) -> bool:
        """No: the videos are packed, from which pairs are read."""
        return False

    def measure(self, samples: FramePairs, seed: int = 0) -> dict:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As of videos, of pairs; and ``known_flow``, whether that of some pair is known."""
        return {**super().measure(samples, seed), "known_flow": samples.has_flow}

    def likeness(self, samples: FramePairs) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Pairs with known flow for sure; frames in order may as well be videos or images."""
        if samples.has_flow or samples.source == "synthetic-frames":
            return 1.0
        return 0.2 if isinstance(samples.store, PairFiles) else 0.1

    def in_words(self, facts: dict) -> dict[str, str]:
        """Size in pixels, channels and values, and whether flow is known."""
        words = super().in_words(facts)
        del words["clips"]
        return words | {"flow": "known of some pairs" if facts["known_flow"] else "unknown"}

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """The first frame's pixels, averaged down to at most 32 x 32."""
        image = batch["frames"][:, 0].to(torch.float32)
        size = (min(image.shape[2], RAW_SIDE), min(image.shape[3], RAW_SIDE))
        return functional.interpolate(image, size=size, mode="area").flatten(1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Pairs (2, height, width, channels) float32 of independent normal pixels."""
        return super().noise({**facts, "clip_frames": 2}, count)

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """The first frame, at least 96 pixels on its longer side, its places painted by ``colours``."""
        shown = _enlarged(_visible(batch["frames"][index, 0].detach().cpu().numpy()))
        return shown if colours is None else _painted(shown, colours.detach().cpu().numpy(), None)

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """A pair with its flow: both frames, the flow and the wheel, the second frame warped, differences.

        None for a batch without flow, where the picture does.
        """
        if "flow" not in batch:
            return None
        flow = batch["flow"][index].detach().float().cpu().numpy().transpose(1, 2, 0)
        longest = float(np.nanmax(np.hypot(flow[..., 0], flow[..., 1]), initial=0.0))
        frames, warped = batch["frames"][index].detach().cpu().numpy(), batch["warped"][index].cpu().numpy()
        apart = [heat(batch[name][index].detach().float().cpu().numpy()) for name in ("before", "after")]
        return captioned(
            [
                (_enlarged(_visible(frames[0])), "first frame"),
                (_enlarged(_visible(frames[1])), "second frame"),
                (_enlarged(flow_colours(flow)), "flow"),
                (wheel(), f"rim: {longest:.1f} pixels"),
                (_enlarged(_visible(warped)), "second, warped back"),
                (_enlarged(apart[0]), "difference before"),
                (_enlarged(apart[1]), "difference after"),
            ],
            DRAWN,
        )


def _enlarged(picture: np.ndarray) -> np.ndarray:
    scale = max(1, -(-PICTURE_SIDE // max(picture.shape[:2])))
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)
