"""Images to tokens: square patches on a grid of rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from anyjepa.core.positions import grid
from anyjepa.core.tokens import Tokens, take


class ImagePatches(nn.Module):
    """Cut images into patches and project each to a vector.

    Pixels are normalised here, on the device, by the statistics of the data, so that they travel with the
    weights. Token coordinates are (row, column) of the patch, in patches; order is raster. An image of
    another size, such as a small view, spans the same coordinates with fewer or more patches.

    Args:
        shape: height and width of the images in pixels.
        patch: side of a patch in pixels; must divide both.
        channels: of the images.
        width: of the tokens.
        mean, std: of each channel, in the units of the raw values.
    """

    mean: Tensor
    std: Tensor
    coordinates: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        patch: int,
        channels: int,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.shape, self.patch = shape, patch
        self.project = nn.Linear(channels * patch * patch, width)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        # a channel that never varies carries nothing; dividing by its zero would make it everything
        scale = torch.tensor([value if value > 0 else 1.0 for value in std], dtype=torch.float32)
        self.register_buffer("std", scale.view(-1, 1, 1))
        self.register_buffer("coordinates", grid(shape[0] // patch, shape[1] // patch), persistent=False)

    def patches(
        self, images: Shaped[Tensor, "batch channels height width"]
    ) -> Shaped[Tensor, "batch tokens pixels"]:
        """Pixels of each patch, channel by channel: (batch, tokens, channels * patch * patch)."""
        cut = images.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def forward(self, batch: dict[str, Tensor], keep: Int[Tensor, "batch kept"] | None = None) -> Tokens:
        """Tokens of ``batch["image"]`` (batch, channels, height, width), any real dtype: all, or those kept.

        Patches are cut and dropped as raw pixels, before anything is computed on them.
        """
        patches = self.patches(batch["image"])
        coordinates = self._places(batch["image"].shape[-2:])
        if keep is not None:
            patches, coordinates = take(patches, keep), take(coordinates, keep)
        mean, std = (value.flatten().repeat_interleave(self.patch**2) for value in (self.mean, self.std))
        return Tokens(self.project((patches.to(mean.dtype) - mean) / std), coordinates)

    def _places(self, shape: torch.Size) -> Tensor:
        """Coordinates (1, tokens, 2) of the patches of images of this height and width."""
        if tuple(shape) == tuple(self.shape):
            return self.coordinates
        own = grid(shape[0] // self.patch, shape[1] // self.patch, device=self.coordinates.device)
        ratio = own.new_tensor([full / side for full, side in zip(self.shape, shape, strict=True)])
        return (own + 0.5) * ratio - 0.5
