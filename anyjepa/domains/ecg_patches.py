"""ECGs to tokens: short stretches of time, all leads of a stretch in one token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anyjepa.core.positions import grid
from anyjepa.core.tokens import Tokens, take

__all__ = ["EcgPatches"]


class EcgPatches(nn.Module):
    """Standardise each lead, clip it, and project each stretch of `patch` samples of all leads to a vector.

    This is a convolution over time whose stride is its width, without a bias (note of ECG-JEPA, "Tokenizer").
    Statistics of the data travel with the weights. A lead that was not recorded is zero, its mean.
    Coordinates are the number of the stretch.

    Args:
        patch: samples of a stretch.
        width: of the tokens.
        mean, std: of each lead in millivolts.
        clip: largest distance from the mean in standard deviations.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, patch: int, width: int, mean: Sequence[float], std: Sequence[float], clip: float = 5.0
    ) -> None:
        super().__init__()
        self.patch, self.clip = patch, clip
        self.project = nn.Linear(len(mean) * patch, width, bias=False)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1))
        # a lead that never varies carries nothing; dividing by its zero would make it everything
        scale = torch.tensor([value if value > 0 else 1.0 for value in std], dtype=torch.float32)
        self.register_buffer("std", scale.view(-1, 1))

    def standardised(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch leads time"]:
        """What the network sees of ``ecg`` (batch, leads, time) and ``recorded`` (batch, leads)."""
        values = (batch["ecg"].to(self.mean.dtype) - self.mean) / self.std
        return values.clamp(-self.clip, self.clip) * batch["recorded"].unsqueeze(-1)

    def patches(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch tokens samples"]:
        """Standardised samples of each stretch, lead by lead; what does not fill the last one is left out."""
        values = self.standardised(batch)
        whole = values[..., : values.shape[-1] // self.patch * self.patch]
        return whole.unflatten(-1, (-1, self.patch)).transpose(1, 2).flatten(2)

    def forward(self, batch: dict[str, Tensor], keep: Int[Tensor, "batch kept"] | None = None) -> Tokens:
        """Tokens of the batch: all, or those kept, which are chosen before anything is projected.

        Where the batch has ``length`` (batch,) in samples, tokens that reach beyond it are not present.
        """
        patches = self.patches(batch)
        coordinates = grid(patches.shape[1], device=patches.device)
        present = None
        if "length" in batch:
            present = (coordinates[..., 0] + 1) * self.patch <= batch["length"].unsqueeze(-1)
        if keep is not None:
            patches, coordinates = take(patches, keep), take(coordinates, keep)
            present = None if present is None else present.gather(1, keep)
        return Tokens(self.project(patches), coordinates, present)
