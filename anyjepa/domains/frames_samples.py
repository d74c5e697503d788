"""Pairs of frames as samples, with the flow between them where it is known, and still images beside them."""

from __future__ import annotations

import numpy as np

from anyjepa.core.errors import BadSample
from anyjepa.domains import Samples
from anyjepa.domains.frames_files import PairFiles
from anyjepa.domains.image_crops import resize
from anyjepa.domains.image_files import conform
from anyjepa.domains.video_samples import VideoSamples

__all__ = ["FramePairs"]

STILL = 15  # of a sample's uniforms: which still image stands beside it


class FramePairs(VideoSamples):
    """Two frames a sample, (2, height, width, channels); made by `of` from videos of two frames."""

    flows: np.ndarray | None
    stills: Samples | None

    @classmethod
    def of(
        cls, videos: VideoSamples, flows: np.ndarray | None = None, stills: Samples | None = None
    ) -> FramePairs:
        """The same samples.

        Args:
            videos: opened with clips of two frames.
            flows: (n, height, width, 2) float32 of samples in memory.
            stills: images of which one, drawn by chance, comes with each sample that is trained on.
        """
        made = cls.__new__(cls)
        made.__dict__.update(videos.__dict__)
        made.flows, made.stills = flows, stills
        if stills is not None:
            made.array = None  # what is in memory is not read sample by sample
        return made

    @property
    def has_flow(self) -> bool:
        """Whether the flow of some sample is known."""
        store = self.store
        return self.flows is not None or (
            isinstance(store, PairFiles) and any(flow is not None for _, _, flow in store.pairs)
        )

    def flow(self, index: int | np.integer) -> np.ndarray | None:
        """(height, width, 2) float32 pixels from the first frame to the second, u right and v down.

        NaN where unknown; None of a sample without. Raises BadSample where damaged or of another size.
        """
        if self.flows is not None:
            return self.flows[int(index)]
        if not isinstance(self.store, PairFiles):
            return None
        found = self.store.flow(self.pieces[int(index)][0])
        shape = None if found is None else self.read(index).shape[1:3]
        if found is not None and found.shape[:2] != shape:
            raise BadSample(self.identity(index), f"is of {shape} pixels and its flow of {found.shape[:2]}")
        return found

    def read_part(self, index: int | np.integer, uniforms: np.ndarray) -> np.ndarray:
        """A pair at a random time of its video, and behind it a still image of that size, if any."""
        pair = super().read_part(index, uniforms)
        if self.stills is None:
            return pair
        height, width, channels = pair.shape[1:]
        place = min(int(uniforms[STILL] * len(self.stills)), len(self.stills) - 1)
        name = self.stills.identity(place)
        still = resize([self.stills.read(place)], (height, width))[0].permute(1, 2, 0).numpy()
        if still.dtype == np.int32:
            still = still.astype(np.uint16)
        return np.concatenate([pair, conform(still, channels, pair.dtype, name)[None]])
