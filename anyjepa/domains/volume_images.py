"""Images as volumes of one slice each, so that one encoder reads both."""

from __future__ import annotations

import numpy as np

from anyjepa.domains.image_samples import ImageSamples
from anyjepa.domains.volume_samples import Reading, scaled

__all__ = ["ImageVolumes"]


class ImageVolumes:
    """What `open_images` opened; satisfies the Samples protocol.

    Args:
        source: what the person typed.
        images: of any size.
        reading: how values are scaled; images have no millimetres, so a pixel counts as one.
    """

    def __init__(self, source: str, images: ImageSamples, reading: Reading) -> None:
        self.source, self.images = source, images
        spacing = reading.spacing if any(reading.spacing) else (1.0, 1.0, 1.0)
        self.reading = Reading(reading.plane, spacing, reading.window)
        self.spacing, self.plane, self.channels = spacing, reading.plane, images.channels
        self.labels, self.classes, self.groups = images.labels, images.classes, images.groups
        self.problems, self.blocks = images.problems, images.blocks
        self.description = images.description
        self.structures: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        """(1, rows, columns, channels) float32 of 0 to 1. Raises BadSample where it is damaged."""
        image = self.images.read(index)
        return scaled(image[None], self.reading.window, self.identity(index))

    def identity(self, index: int) -> str:
        """As of images."""
        return self.images.identity(index)

    def fingerprint(self) -> str:
        """As of images."""
        return self.images.fingerprint()
