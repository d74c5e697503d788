"""EEG to tokens: each electrode's signal alone, a second or so at a time, at its place on the head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anyjepa.core.tokens import Tokens, take

__all__ = ["ElectrodeCode", "LocalEncoder", "Stretches", "scaled"]

MICROVOLTS = 1e6
HORIZON = 600.0  # seconds; the slowest wave of the time code
HALF_RANGE = 0.15  # metres from the origin that the fixed code of places reaches to


def scaled(
    batch: dict[str, Tensor], scaling: str, clip: float = 15.0
) -> Float[Tensor, "batch channels time"]:
    """What a network sees of volts: ``microvolts``, or ``median``, free of any unit.

    Of the latter, each window is divided by the median over its channels of their standard deviations, and
    clipped (the released S-JEPA follow-up).
    """
    volts = batch["eeg"]
    if scaling == "microvolts":
        return volts * MICROVOLTS
    # volts squared would vanish in half precision
    spread = (volts * MICROVOLTS).float().std(-1, correction=0)
    spread = spread.masked_fill(~batch["present"], torch.nan).nanmedian(1).values
    spread = (spread / MICROVOLTS).clamp(min=1e-15).to(volts.dtype)
    return (volts / spread[:, None, None]).clamp(-clip, clip)


def _places(
    batch: dict[str, Tensor], times: int, keep: Tensor | None
) -> tuple[Float[Tensor, "batch tokens 4"], Tensor]:
    """Coordinates (x, y, z in metres, number of the stretch) of tokens, and which are present.

    Channel by channel, the stretches of each in order of time.
    """
    positions = batch["positions"]
    count, channels = positions.shape[:2]
    clock = torch.arange(times, device=positions.device, dtype=positions.dtype)
    where = positions.unsqueeze(2).expand(-1, -1, times, -1)
    when = clock.view(1, 1, times, 1).expand(count, channels, -1, -1)
    coordinates = torch.cat([where, when], dim=-1).flatten(1, 2)
    present = batch["present"].repeat_interleave(times, dim=1)
    if keep is not None:
        coordinates, present = take(coordinates, keep), present.gather(1, keep)
    return coordinates, present


class Stretches(nn.Module):
    """Each stretch of a channel projected to a vector by one linear layer, overlapping its neighbours.

    Args:
        patch: samples of a stretch.
        step: samples from the start of one to that of the next.
        width: of the tokens.
        scaling: as of `scaled`.
    """

    def __init__(self, patch: int, step: int, width: int, scaling: str = "median") -> None:
        super().__init__()
        self.patch, self.step, self.scaling = patch, step, scaling
        self.project = nn.Linear(patch, width)

    def times(self, points: int) -> int:
        """Tokens of a channel of so many samples."""
        return (points - self.patch) // self.step + 1

    def forward(self, batch: dict[str, Tensor], keep: Int[Tensor, "batch kept"] | None = None) -> Tokens:
        """Tokens (batch, channels * stretches), or those kept, which are chosen before they are projected."""
        pieces = scaled(batch, self.scaling).unfold(-1, self.patch, self.step)
        coordinates, present = _places(batch, pieces.shape[2], keep)
        pieces = pieces.flatten(1, 2)
        return Tokens(self.project(pieces if keep is None else take(pieces, keep)), coordinates, present)


class LocalEncoder(nn.Module):
    """S-JEPA's tokenizer of 2024: each channel alone through five convolutions, a token a second at 128 Hz.

    No bias; GELU after each; the first is followed by a group norm with one group a feature. Weights are
    drawn by Kaiming's normal rule. In all 128 samples from one token to the next, 152 that it sees (note).

    Args:
        layers: (features, samples of the kernel, stride) of each convolution.
        scaling: as of `scaled`.
    """

    LAYERS = ((8, 32, 8), (16, 2, 2), (32, 2, 2), (64, 2, 2), (64, 2, 2))

    def __init__(self, layers: Sequence[tuple[int, int, int]] = LAYERS, scaling: str = "microvolts") -> None:
        super().__init__()
        self.layers, self.scaling = [tuple(layer) for layer in layers], scaling
        parts, before = [], 1
        for number, (features, kernel, stride) in enumerate(layers):
            convolution = nn.Conv1d(before, features, kernel, stride, bias=False)
            nn.init.kaiming_normal_(convolution.weight)
            parts += [convolution, *([nn.GroupNorm(features, features)] if number == 0 else []), nn.GELU()]
            before = features
        self.convolutions = nn.Sequential(*parts)

    def times(self, points: int) -> int:
        """Tokens of a channel of so many samples."""
        for _, kernel, stride in self.layers:
            points = (points - kernel) // stride + 1
        return points

    def local(
        self, signals: Float[Tensor, "batch channels time"]
    ) -> Float[Tensor, "batch channels times width"]:
        """Tokens of signals that are scaled already."""
        found = self.convolutions(signals.flatten(0, 1).unsqueeze(1))
        return found.mT.unflatten(0, signals.shape[:2])

    def forward(self, batch: dict[str, Tensor], keep: Int[Tensor, "batch kept"] | None = None) -> Tokens:
        """Tokens (batch, channels * times), or those kept."""
        values = self.local(scaled(batch, self.scaling))
        coordinates, present = _places(batch, values.shape[2], keep)
        values = values.flatten(1, 2)
        return Tokens(values if keep is None else take(values, keep), coordinates, present)


class ElectrodeCode(nn.Module):
    """Where on the head and when, as sines and cosines: [x | y | z | time], each with waves of its own.

    Of an axis with n numbers, number 2j is the sine and 2j + 1 the cosine of u * exp((1 - 2j / n) 2 pi). With
    ``montage`` u is the coordinate over ten times the montage's largest, and the vectors of the montage's own
    electrodes are learned from there (S-JEPA of 2024); an electrode that it does not have gets the formula's.
    Without, u runs from 0 to 1 over 15 cm either side of the origin, the same for every montage (follow-up).
    Time is a number of tokens, its slowest wave 600 s long. Width beyond is zero, as is the place of an
    electrode that has none (NaN).

    Args:
        width: of the vectors.
        space: numbers for the three axes together; time has the rest.
        rate: tokens a second.
        montage: (electrodes, 3) metres, whose vectors are to be learned.
    """

    places: Tensor
    table: nn.Parameter | None

    def __init__(
        self, width: int, space: int, rate: float, montage: Sequence[Sequence[float]] | None = None
    ) -> None:
        super().__init__()
        self.width, self.space, self.rate = width, space, rate
        if space % 6 or (width - space) % 2 or not 0 < space < width:
            raise ValueError(f"{space} of {width} numbers are no even share of three axes and time")
        self.table, self.reach = None, 0.0
        if montage is not None:
            places = torch.tensor(montage, dtype=torch.float32).reshape(-1, 3)
            self.reach = float(places.abs().max())
            self.register_buffer("places", places)
            self.table = nn.Parameter(self.of_places(places))

    def of_places(self, places: Float[Tensor, "*any 3"]) -> Float[Tensor, "*any space"]:
        """The formula for places in metres."""
        unit = (places + HALF_RANGE) / (2 * HALF_RANGE) if not self.reach else places / (10 * self.reach)
        numbers = self.space // 3
        steps = torch.arange(0, numbers, 2, device=places.device, dtype=torch.float64)
        angles = unit.double().unsqueeze(-1) * torch.exp((1 - steps / numbers) * 2 * math.pi)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)
        return waves.nan_to_num(0.0).float()

    def of_times(self, times: Float[Tensor, "*any"]) -> Float[Tensor, "*any rest"]:
        """The formula for numbers of tokens."""
        rest = self.width - self.space
        steps = torch.arange(0, rest, 2, device=times.device, dtype=torch.float64)
        angles = times.double().unsqueeze(-1) * (HORIZON * self.rate) ** (-steps / rest)
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).float()

    def forward(self, coordinates: Float[Tensor, "shared tokens 4"]) -> Float[Tensor, "shared tokens width"]:
        """Vectors, float32."""
        places = coordinates[..., :3]
        space = self.of_places(places)
        if self.table is not None:
            far = torch.cdist(
                places.float().nan_to_num(1e3), self.places.nan_to_num(-1e3).expand(len(places), -1, -1)
            )
            nearest, row = far.min(-1)
            # a thousandth of a metre apart is the same electrode
            space = torch.where((nearest < 1e-3).unsqueeze(-1), self.table[row].to(space.dtype), space)
        return torch.cat([space, self.of_times(coordinates[..., 3])], dim=-1)
