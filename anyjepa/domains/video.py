"""Videos: read from files by time, from image sequences and arrays; measured, described and shown."""

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
from anyjepa.domains.label_files import labels_from_file
from anyjepa.domains.packs import PackedSamples, open_pack
from anyjepa.domains.sources import choose
from anyjepa.domains.video_files import IMAGES, VIDEOS
from anyjepa.domains.video_samples import FileVideos, Reading, VideoSamples
from anyjepa.domains.video_sources import open_videos
from anyjepa.domains.video_stores import EncodedVideos
from anyjepa.domains.video_strips import contact_sheet, film_strip, painted

__all__ = ["Video"]

MEASURED = 200
RAW_FRAMES, RAW_SIDE = 8, 16


class Video(Domain):
    """Videos of any length, rate and size. A batch is {"video": (n, channels, frames, height, width)}."""

    name = "video"
    reads_shards = True
    endings = VIDEOS | IMAGES | {".npy", ".npz", ".h5", ".hdf5"}

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source of videos; see :func:`anyjepa.domains.video_sources.open_videos`.

        ``wds:`` is also what `anyjepa pack` has made of them.
        """
        if isinstance(source, str) and source.startswith("wds:"):
            pack = open_pack(source.removeprefix("wds:"), split, self.name)
            if pack is not None:
                packed = PackedSamples(source, pack)
                if labels is not None:
                    names = [packed.identity(index) for index in range(len(packed))]
                    packed.labels, packed.classes = labels_from_file(labels, names)
                return packed
        return open_videos(source, labels, split, reading)

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Channels, mean and standard deviation a channel, dtype, and the size and rate of clips.

        Over at most 200 clips drawn with ``seed``, in raw units. Damaged ones are passed over. Raises
        UserError if all are.
        """
        # packed samples state what they were read with
        reading = samples.reading if isinstance(samples, VideoSamples) else Reading(**samples.read_with)  # pyright: ignore[reportAttributeAccessIssue]
        chosen = choose(len(samples), MEASURED, seed)
        shapes, counts, sums, squares, dtype = [], 0, np.zeros(1), np.zeros(1), np.dtype(np.uint8)
        for index in chosen:
            try:
                clip = samples.read(int(index))
            except BadSample:
                continue
            pixels = clip.reshape(-1, clip.shape[3]).astype(np.float64)
            if shapes and clip.shape[3] != shapes[0][3]:
                continue
            shapes.append(clip.shape)
            counts, dtype = counts + len(pixels), clip.dtype
            sums, squares = sums + pixels.sum(axis=0), squares + (pixels**2).sum(axis=0)
        if not shapes:
            raise UserError(f"{samples.source} holds no readable video: give videos that open.")
        mean = sums / counts
        return {
            "channels": int(shapes[0][3]),
            "mean": mean.tolist(),
            "std": np.sqrt(np.maximum(squares / counts - mean**2, 0)).tolist(),
            "dtype": str(dtype),
            "height": int(np.median([shape[1] for shape in shapes])),
            "width": int(np.median([shape[2] for shape in shapes])),
            "clip_frames": reading.frames,
            "clip_rate": reading.rate,
            "tubelet": reading.tubelet,
        }

    def likeness(self, samples: Samples) -> float:
        """Files of video for sure; folders of pictures and arrays are rather images."""
        store = samples.store if isinstance(samples, VideoSamples) else None
        return 1.0 if store is None or isinstance(store, FileVideos | EncodedVideos) else 0.25

    def in_words(self, facts: dict) -> dict[str, str]:
        """Size in pixels, channels, and the clip that a step sees."""
        seconds = f", {facts['clip_frames'] / facts['clip_rate']:.3g} s" if facts["clip_rate"] else ""
        rate = f" at {facts['clip_rate']:g} a second{seconds}" if seconds else ""
        mean, deviation = (", ".join(f"{value:.3g}" for value in facts[name]) for name in ("mean", "std"))
        return {
            "size": f"{facts['width']} x {facts['height']} pixels",
            "channels": {1: "1, grey", 3: "3, colour"}.get(facts["channels"], str(facts["channels"])),
            "values": f"{facts['dtype']}, mean {mean}, deviation {deviation}",
            "clips": f"{facts['clip_frames']} frames{rate}, tubelets of {facts['tubelet']} frames",
        }

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """The pixels, averaged down to at most 8 frames of 16 x 16, and their change from frame to frame."""
        video = batch["video"].to(torch.float32)
        frames, height, width = video.shape[2:]
        size = min(frames, RAW_FRAMES), min(height, RAW_SIDE), min(width, RAW_SIDE)
        small = functional.adaptive_avg_pool3d(video, size)
        return torch.cat([small.flatten(1), small.diff(dim=2).flatten(1)], dim=1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Clips (frames, height, width, channels) float32 of independent normal pixels."""
        shape = (count, facts["clip_frames"], facts["height"], facts["width"], facts["channels"])
        return list(np.random.default_rng(0).normal(facts["mean"], facts["std"], shape).astype(np.float32))

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """Four frames of a clip as one picture (h, w, 3) uint8; ``colours`` paint its tubelets."""
        return contact_sheet(painted(_clip(batch, index), _plain(colours), facts.get("tubelet", 2)))

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """A film strip of up to eight frames with their times; ``colours`` (tokens, 3) shade tubelets."""
        return film_strip(
            _clip(batch, index), facts.get("clip_rate", 0.0), _plain(colours), facts.get("tubelet", 2)
        )


def _clip(batch: dict[str, Tensor], index: int) -> np.ndarray:
    return batch["video"][index].detach().cpu().numpy()


def _plain(colours: Tensor | None) -> np.ndarray | None:
    return None if colours is None else colours.detach().float().cpu().numpy()
