"""EEG as video: frames of a few seconds, electrodes as rows, samples as columns, cut into tubelets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.positions import grid
from anyjepa.core.tokens import Tokens, take

__all__ = ["Film", "FrameTubelets", "rows_of", "stretched_centre"]

Row = tuple[str, list[float]]
NEAR = 0.012  # metres within which an electrode is the one of a row
SHORTEST_SIDE = 0.3, 1.35  # of the released crop: least share of the area, and most columns over rows


def rows_of(facts: Mapping[str, Any], names: Sequence[str] | None) -> tuple[list[Row], list[str]]:
    """Names and places of the rows: of the named electrodes in that order, else all; and which names lack."""
    found = {
        str(name).lower(): (str(name), list(place))
        for name, place in zip(facts["electrodes"], facts["places"], strict=True)
    }
    if names is None:
        return list(found.values()), []
    rows = [found[name.lower()] for name in names if name.lower() in found]
    return rows, [name for name in names if name.lower() not in found]


def stretched_centre(video: Float[Tensor, "batch frames rows columns"]) -> Tensor:
    """The defect of the released training: the middle of each frame, as wide as it is high, stretched.

    A random resized crop of 30 to 100 % of 19 rows by 500 samples, no more than 1.35 times as high or wide
    as the other way, does not exist, so that the crop's fallback always acts: all rows, and the middle
    round(19 * 1.35) = 26 samples, interpolated to 500 (note of EEG-VJEPA).
    """
    rows, columns = video.shape[2:]
    width = min(columns, round(rows * SHORTEST_SIDE[1]))
    first = (columns - width) // 2
    middle = video[..., first : first + width].flatten(0, 1)
    stretched = functional.interpolate(middle, columns, mode="linear", align_corners=False)
    return stretched.unflatten(0, video.shape[:2])


class Film:
    """How a continuous recording is seen as frames, and frames as a grid of tokens.

    Args:
        frames: of a clip.
        size: samples of a frame. hop: samples from the start of one to that of the next.
        rows: electrodes.
        token: frames, rows and samples of a token.
        fill: fill the last token of rows and samples with zeros, where they do not divide; else leave out
            what does not fill one.
    """

    def __init__(
        self, frames: int, size: int, hop: int, rows: int, token: tuple[int, int, int], fill: bool = False
    ) -> None:
        self.frames, self.size, self.hop, self.rows, self.token, self.fill = (
            frames,
            size,
            hop,
            rows,
            token,
            fill,
        )

    @classmethod
    def of(cls, said: Mapping[str, Any], rows: int) -> Film:
        """From what a recipe says of it for drawing."""
        part, high, wide = said["token"]
        return cls(said["frames"], said["size"], said["hop"], rows, (part, high, wide), said["fill"])

    @property
    def points(self) -> int:
        """Samples of a clip."""
        return (self.frames - 1) * self.hop + self.size

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along frames, rows and samples."""
        sizes = zip((self.frames, self.rows, self.size), self.token, strict=True)
        depth, rows, columns = (
            -(-size // part) if self.fill and n else size // part for n, (size, part) in enumerate(sizes)
        )
        return depth, rows, columns

    @property
    def uncovered(self) -> tuple[int, int]:
        """Rows, and samples of each frame, that are in no token."""
        _, rows, columns = self.grid
        return max(0, self.rows - rows * self.token[1]), max(0, self.size - columns * self.token[2])

    @property
    def leaks(self) -> bool:
        """Whether a moment is in two frames: what a tube hides in one column is then seen in another."""
        return self.frames > 1 and self.hop < self.size

    def video(self, signals: Float[Tensor, "batch rows time"]) -> Float[Tensor, "batch frames rows columns"]:
        """The frames of continuous signals."""
        return signals[..., : self.points].unfold(-1, self.size, self.hop).transpose(1, 2)

    def patches(
        self, video: Float[Tensor, "batch frames rows columns"]
    ) -> Float[Tensor, "batch tokens samples"]:
        """The values of each token, frame by frame, row by row, tokens in raster order."""
        depth, rows, columns = self.grid
        part, high, wide = self.token
        short = max(0, rows * high - self.rows), max(0, columns * wide - self.size)
        video = functional.pad(video, (0, short[1], 0, short[0]))
        video = video[:, : depth * part, : rows * high, : columns * wide]
        cut = video.unflatten(3, (columns, wide)).unflatten(2, (rows, high)).unflatten(1, (depth, part))
        return cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)


class FrameTubelets(nn.Module):
    """Rows by place, each electrode standardised over its clip, frames, and each tubelet to a vector.

    Electrodes of a batch may come in any order: each row takes the nearest one that is there within 12 mm,
    and is zero where there is none. Coordinates are the token's place along frames, rows and samples.

    Args:
        film: frames and tokens.
        width: of the tokens.
        places: (rows, 3) metres of each row's electrode.
        defect: train on the middle of each frame, stretched (`stretched_centre`).
    """

    places: Tensor

    def __init__(
        self, film: Film, width: int, places: Sequence[Sequence[float]], defect: bool = False
    ) -> None:
        super().__init__()
        self.film, self.defect = film, defect
        self.register_buffer("places", torch.tensor(places, dtype=torch.float32).reshape(-1, 3))
        part, high, wide = film.token
        self.project = nn.Linear(part * high * wide, width)

    def rows(
        self, batch: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "batch rows time"], Bool[Tensor, "batch rows"]]:
        """Standardised signals of each row, and whether there is an electrode for it."""
        far = torch.cdist(
            self.places.float().expand(len(batch["positions"]), -1, -1), batch["positions"].float()
        )
        gap, nearest = far.masked_fill(~batch["present"].unsqueeze(1), torch.inf).min(-1)
        there = gap < NEAR
        signals = batch["eeg"].gather(1, nearest.unsqueeze(-1).expand(-1, -1, batch["eeg"].shape[2]))
        signals = signals - signals.mean(-1, keepdim=True)
        # volts squared would vanish in single precision
        scale = (signals * 1e6).std(-1, keepdim=True, correction=0) / 1e6
        return signals / scale.clamp(min=1e-12) * there.unsqueeze(-1), there

    def forward(self, batch: dict[str, Tensor], keep: Int[Tensor, "batch kept"] | None = None) -> Tokens:
        """All tokens, or those kept, which are chosen before they are projected."""
        signals, _ = self.rows(batch)
        video = self.film.video(signals)
        if self.defect and self.training:
            video = stretched_centre(video)
        patches, coordinates = self.film.patches(video), grid(*self.film.grid, device=signals.device)
        if keep is not None:
            patches, coordinates = take(patches, keep), take(coordinates, keep)
        return Tokens(self.project(patches), coordinates)
