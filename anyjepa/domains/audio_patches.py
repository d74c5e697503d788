"""Waveforms to tokens: windows of a clip, their log-mel, and patches of it."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anyjepa.core.positions import grid
from anyjepa.core.tokens import Tokens, take
from anyjepa.domains.audio_mel import LogMel

__all__ = ["MelPatches", "cut_windows", "window_starts"]

Fill = Literal["repeat", "silence"]


def cut_windows(
    sound: Float[Tensor, "clips samples"],
    length: Int[Tensor, " clips"],
    start: Int[Tensor, " clips"],
    size: int,
    fill: Fill,
) -> tuple[Float[Tensor, "clips size"], Int[Tensor, " clips"]]:
    """One window of each clip, and how many of its samples count.

    Args:
        sound: clips, padded at their ends by anything.
        length: samples of each that are its own.
        start: where its window begins; 0 for a clip that is shorter.
        size: samples of a window.
        fill: a shorter clip is repeated from its beginning ("repeat", of which all samples count) or
            followed by zeros ("silence", of which only its own count).
    """
    place = start[:, None] + torch.arange(size, device=sound.device)
    own = length[:, None]
    if fill == "repeat":
        return sound.gather(1, place % own), torch.full_like(length, size)
    inside = place < own
    found = sound.gather(1, torch.minimum(place, own - 1))
    return found * inside.to(found.dtype), (length - start).clamp(max=size)


def window_starts(length: Int[Tensor, " clips"], size: int, most: int) -> tuple[Tensor, Tensor]:
    """Where the windows of each clip begin, evenly spread so that the last ends with the clip.

    length: samples of each clip. size: of a window. most: windows that the longest needs.
    Returns (clips, most) int64, and bool: which of them the clip has.
    """
    count = ((length + size - 1) // size).clamp(min=1, max=most)
    number = torch.arange(most, device=length.device)
    room = (length - size).clamp(min=0)
    start = number * room[:, None] // (count - 1).clamp(min=1)[:, None]
    has = number < count[:, None]
    return torch.where(has, start, torch.zeros_like(start)), has


class MelPatches(nn.Module):
    """Cut log-mel spectrograms into patches and project each to a vector.

    The log-mel is computed and standardised here, on the device, by statistics of the data, so that they
    travel with the weights. Token coordinates are (time, frequency) of the patch, counted in patches, low
    frequencies first; the order is time-major. A column of patches that no frame of the clip reaches is not
    present.

    Args:
        log_mel: the front end.
        patch: frames and bands of a patch; the bands must divide those of the front end.
        width: of the tokens.
        mean, std: of the log-mel of the data.
        deviation: what standardised values deviate by; AST and Audio-MAE halve it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, log_mel: LogMel, patch: tuple[int, int], width: int, mean: float, std: float,
        deviation: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.log_mel, self.patch = log_mel, patch
        self.project = nn.Linear(patch[0] * patch[1], width)
        self.register_buffer("mean", torch.tensor(float(mean)))
        # sound that never varies carries nothing; dividing by its zero would make it everything
        self.register_buffer("std", torch.tensor((float(std) if std > 0 else 1.0) / deviation))

    @property
    def rows(self) -> int:
        """Of patches: how many lie above one another."""
        return self.log_mel.bands // self.patch[1]

    def spectrogram(self, sound: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames bands"]:
        """The standardised log-mel."""
        return (self.log_mel(sound) - self.mean) / self.std

    def columns(self, recorded: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Columns of patches that hold a whole frame of so many samples; one at least."""
        frames = 1 + (recorded - self.log_mel.window) // self.log_mel.hop
        return ((frames + self.patch[0] - 1) // self.patch[0]).clamp(min=1)

    def patches(self, mel: Float[Tensor, "batch frames bands"]) -> Float[Tensor, "batch tokens values"]:
        """The values of each patch, frame by frame; frames after the last whole column are left out."""
        time, bands = self.patch
        whole = mel[:, : mel.shape[1] // time * time]
        return (
            whole.unflatten(2, (-1, bands)).unflatten(1, (-1, time)).transpose(2, 3).flatten(3).flatten(1, 2)
        )

    def forward(self, batch: dict[str, Tensor], keep: Int[Tensor, "batch kept"] | None = None) -> Tokens:
        """Tokens of ``batch["mel"]`` (batch, frames, bands), standardised: all, or those at `keep`.

        Where ``batch["columns"]`` (batch,) says how many columns of patches are the clip's own, the others
        are not present.
        """
        mel = batch["mel"]
        cut = self.patches(mel)
        places = grid(mel.shape[1] // self.patch[0], self.rows, device=mel.device).to(mel.dtype)
        present = None
        if "columns" in batch:
            present = places[0, :, 0] < batch["columns"][:, None]
        if keep is not None:
            cut, places = take(cut, keep), take(places, keep)
            present = None if present is None else present.gather(1, keep)
        return Tokens(self.project(cut), places, present)
