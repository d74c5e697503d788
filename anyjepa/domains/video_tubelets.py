"""Clips to tokens: tubelets, which are square patches that last a few frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from anyjepa.core.positions import grid
from anyjepa.core.tokens import Tokens, take


class Tubelets(nn.Module):
    """Cut clips into tubelets and project each to a vector.

    Pixels are normalised here, on the device, by the statistics of the data, so that they travel with the
    weights. Token coordinates are (time, row, column) of the tubelet, counted in tubelets; order is
    time-major, then raster. A clip of fewer frames than a tubelet is repeated to fill one: an image is a
    video of one frame.

    Args:
        shape: frames, height and width that the coordinates span; clips of other sizes are stretched over
            the same. None counts tubelets as they come, which rotary positions want.
        tubelet: frames of a tubelet.
        patch: side of a tubelet in pixels.
        channels: of the clips.
        width: of the tokens.
        mean, std: of each channel, in the units of the raw values.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int] | None,
        tubelet: int,
        patch: int,
        channels: int,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.shape, self.tubelet, self.patch = shape, tubelet, patch
        self.project = nn.Linear(channels * tubelet * patch * patch, width)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1, 1))
        # a channel that never varies carries nothing; dividing by its zero would make it everything
        scale = torch.tensor([value if value > 0 else 1.0 for value in std], dtype=torch.float32)
        self.register_buffer("std", scale.view(-1, 1, 1, 1))

    def tubelets(
        self, clips: Shaped[Tensor, "batch channels frames height width"]
    ) -> Shaped[Tensor, "batch tokens pixels"]:
        """Pixels of each tubelet, by channel, frame, row and column: (batch, tokens, pixels)."""
        cut = clips.unflatten(4, (-1, self.patch)).unflatten(3, (-1, self.patch))
        cut = cut.unflatten(2, (-1, self.tubelet))
        return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)

    def forward(self, batch: dict[str, Tensor], keep: Int[Tensor, "batch kept"] | None = None) -> Tokens:
        """Tokens of ``batch["video"]`` (batch, channels, frames, height, width): all, or those kept.

        Any real dtype. Tubelets are cut and dropped as raw pixels, before anything is computed on them.
        """
        clips = batch["video"]
        if clips.shape[2] < self.tubelet:
            clips = clips.repeat_interleave(-(-self.tubelet // clips.shape[2]), 2)[:, :, : self.tubelet]
        cut, coordinates = self.tubelets(clips), self._places(clips.shape[-3:])
        if keep is not None:
            cut, coordinates = take(cut, keep), take(coordinates, keep)
        pixels = self.tubelet * self.patch**2
        mean, std = (value.flatten().repeat_interleave(pixels) for value in (self.mean, self.std))
        return Tokens(self.project((cut.to(mean.dtype) - mean) / std), coordinates)

    def _places(self, shape: torch.Size) -> Tensor:
        """Coordinates (1, tokens, 3) of the tubelets of clips of so many frames, height and width."""
        sides = (self.tubelet, self.patch, self.patch)
        # TorchScript's tracing makes tensors of sizes, which are none of the batch's here
        counts = (int(size) // side for size, side in zip(shape, sides, strict=True))
        own = grid(*counts, device=self.mean.device)
        if self.shape is None or tuple(map(int, shape)) == tuple(self.shape):
            return own
        ratio = own.new_tensor([full / int(size) for full, size in zip(self.shape, shape, strict=True)])
        return (own + 0.5) * ratio - 0.5
