"""Masks of balls: places near a centre hidden for a stretch of time, whatever the places are (S-JEPA)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from anyjepa.core.chance import uniform
from anyjepa.core.masking import Masks

SCALP = 4 * math.pi * 0.1**2 * 3 / 4  # square metres: three quarters of a sphere of 10 cm
HALVINGS = 24  # of the number of blocks that is looked for

Places = Float[Tensor, "batch places axes"]
There = Bool[Tensor, "batch places"]


@dataclass(frozen=True)
class BallMasks(Masks):
    """`Masks` of one target block whose entries may pad too, each repeating the sample's first.

    Args:
        asked: (batch, T) False where an entry of the targets only pads.
    """

    asked: Bool[Tensor, "batch hidden"] | None = None


def near(places: Places, there: There, radius: float) -> Bool[Tensor, "batch places places"]:
    """Which places a ball around each holds: those less than `radius` away, and always its centre."""
    far = torch.cdist(places.float(), places.float(), compute_mode="donot_use_mm_for_euclid_dist")
    itself = torch.eye(places.shape[1], dtype=torch.bool, device=places.device)
    return ((far < radius) | itself) & there.unsqueeze(1) & there.unsqueeze(2)


def covered(
    places: Places, there: There, radius: float, length: int, times: int, blocks: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Expected share of a sample's tokens that so many blocks hide, on these very places.

    The mean over tokens of 1 - (1 - p)^blocks, where p is the chance that one block holds the token: centres
    are drawn evenly among the places, starts among those at which a block ends in time.
    """
    count = there.sum(1).clamp(min=1).double()
    in_space = near(places, there, radius).sum(1).double() / count[:, None]
    starts = times - length + 1
    moment = torch.arange(times, device=places.device, dtype=torch.float64)
    first, last = (moment - length + 1).clamp(min=0), moment.clamp(max=starts - 1)
    in_time = (last - first + 1) / starts
    chance = in_space.unsqueeze(2) * in_time
    hidden = 1 - (1 - chance) ** blocks.double()[:, None, None]
    return (hidden * there.unsqueeze(2)).sum((1, 2)) / (count * times)


def blocks_needed(
    places: Places, there: There, radius: float, length: int, times: int, share: float
) -> Float[Tensor, " batch"]:
    """How many blocks hide a share of the tokens on average, on these very places; not rounded."""
    low = torch.zeros(len(places), dtype=torch.float64, device=places.device)
    high = torch.full_like(low, 4.0 * math.log(1 / (1 - share)) * places.shape[1] * times + 1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = covered(places, there, radius, length, times, middle) >= share
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


def published_blocks(radius: float, length: int, times: int, channels: int, share: float) -> int:
    """The released follow-up's number: it takes electrodes to lie evenly over three quarters of a sphere."""
    if radius <= 0:
        part = length / (channels * times)
    elif math.isinf(radius):
        part = length / times
    else:
        part = math.pi * radius**2 * length / (SCALP * times)
    return 1 if part >= 1 else max(1, math.ceil(math.log(1 - share) / math.log(1 - part) - 1e-9))


class Balls:
    """Hide balls of places for stretches of time until a share of the tokens is hidden, on any montage.

    Blocks are drawn one after the other, each around a place that is there; tokens count as hidden in the
    order in which a block first reaches them, the last block from its middle outwards, until exactly `share`
    of the sample's own tokens are. So every sample hides and shows the same share, however its electrodes
    lie, where a number of blocks worked out for a whole head hides 80 % on a strip of electrodes (note of
    S-JEPA, check 7). With `blocks` so many are drawn, and what they hide is hidden.

    Tokens are numbered place by place, the times of each in order.

    Args:
        radius: of a ball in the unit of the places; 0 for single places, infinite for all.
        length: times of a block.
        times: tokens of a place.
        share: of the tokens that is hidden; in (0, 1).
        blocks: draw so many and hide what they hold; 0 to hide `share` exactly.
        typical: places of some samples, (n, 3) each: by these it is settled how many blocks are drawn.
        hidden: least and largest share that `blocks` can hide, for the width of the masks.

    Raises:
        ValueError: a block is longer than the sample, or a share is not between 0 and 1.
    """

    def __init__(
        self,
        radius: float,
        length: int,
        times: int,
        share: float = 0.55,
        blocks: int = 0,
        typical: Sequence[Sequence[Sequence[float]]] = (),
        hidden: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not 1 <= length <= times:
            raise ValueError(f"a block of {length} tokens does not fit into {times}")
        if not 0 < share < 1 or radius < 0:
            raise ValueError(
                f"{share:g} of the tokens in balls of {radius:g} leave nothing to hide or to see"
            )
        self.radius, self.length, self.times, self.share = radius, length, times, share
        self.blocks, self.hidden = blocks, hidden
        wanted = [
            float(
                blocks_needed(place, torch.ones(1, len(one), dtype=torch.bool), radius, length, times, share)
            )
            for one in typical
            for place in [torch.tensor(one, dtype=torch.float32).reshape(1, -1, 3)]
        ]
        # half as many again, for draws that overlap more than most; what still lacks is hidden all the same
        self.drawn = blocks or math.ceil(1.5 * max(wanted, default=32.0)) + 4

    def __call__(self, places: Places, there: There, generator: Generator) -> BallMasks:
        """Masks for a batch: places (batch, places, 3), and which of them are there."""
        batch, channels = there.shape
        total, device = channels * self.times, places.device
        order, found = self._order(places, there, generator)
        mine = there.sum(1) * self.times
        if self.blocks:
            hidden, width = found, min(total - 1, math.ceil(self.hidden[1] * total))
            seen_width = total - math.floor(self.hidden[0] * total)
        else:
            hidden, width = (self.share * mine).round().long(), min(total - 1, round(self.share * total))
            seen_width = total - width
        # something to hide and something to see, even of a single electrode
        hidden = torch.minimum(hidden.clamp(min=1), mine - 1)
        width, seen_width = max(1, width), max(1, min(seen_width, total - 1))
        asked = torch.arange(width, device=device) < hidden[:, None]
        targets = torch.where(asked, order[:, :width], order[:, :1])
        slot = torch.arange(seen_width, device=device)
        present = slot < (mine - hidden)[:, None]
        context = order.gather(1, torch.where(present, hidden[:, None] + slot, hidden[:, None]))
        relaxed = torch.zeros(batch, dtype=torch.bool, device=device)
        return BallMasks(context, targets.unsqueeze(1), relaxed, present, asked)

    def _order(self, places: Tensor, there: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Tokens (batch, tokens) in the order in which they are hidden, absent ones last; how many are."""
        batch, channels = there.shape
        chance = uniform((2, batch, self.drawn), generator, axis=1).to(places.device)
        number = (chance[0] * there.sum(1, keepdim=True)).long()
        present_first = (~there).int().argsort(dim=1, stable=True)
        centre = present_first.gather(1, number)
        start = (chance[1] * (self.times - self.length + 1)).long()
        far = torch.cdist(places.float(), places.float(), compute_mode="donot_use_mm_for_euclid_dist")
        held = near(places, there, self.radius)
        in_space = held.gather(1, centre.unsqueeze(2).expand(-1, -1, channels))
        moment = torch.arange(self.times, device=places.device)
        in_time = (moment >= start.unsqueeze(2)) & (moment < start.unsqueeze(2) + self.length)
        turn = torch.arange(self.drawn, device=places.device, dtype=torch.int16).view(1, -1, 1, 1)
        inside = in_space.unsqueeze(3) & in_time.unsqueeze(2)
        first = torch.where(inside, turn, self.drawn).amin(1).long()
        block = first.clamp(max=self.drawn - 1)
        away = far.gather(1, centre.gather(1, block.flatten(1)).view_as(block).mT).mT
        late = start.gather(1, block.flatten(1)).view_as(block) + (self.length - 1) / 2
        away = away / far.flatten(1).amax(1).clamp(min=1e-9)[:, None, None]
        late = (moment - late).abs() / self.times
        key = first + 0.45 * away + 0.45 * late
        key = key.masked_fill(~there.unsqueeze(2), torch.inf).flatten(1)
        found = ((first < self.drawn) & there.unsqueeze(2)).flatten(1).sum(1)
        return key.argsort(dim=1, stable=True), found
