"""The cross-entropy method: a sequence of actions of low energy, for many problems at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """How actions are searched for (V-JEPA 2, section 3.3; defaults as of the released example).

    In every round sequences are drawn from a normal distribution, cut to their range, and mean and standard
    deviation of the best ones become the next round's.
    """

    horizon: int = 2  # actions of a sequence
    candidates: int = 400  # sequences drawn in every round
    elite: int = 10  # of them that count
    rounds: int = 10  # of drawing
    momentum: float = 0.15  # share of the old mean and deviation in the new ones

    def __post_init__(self) -> None:
        if min(self.horizon, self.candidates, self.elite, self.rounds) < 1 or self.elite > self.candidates:
            raise ValueError("horizon, candidates, elite and rounds must be at least 1, and elite no more "
                             "than candidates")  # fmt: skip
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum:g}")

    def search(
        self,
        energy: Callable[[Tensor], Tensor],
        problems: int,
        low: Float[Tensor, " action"],
        high: Float[Tensor, " action"],
        generator: Generator,
        start: Float[Tensor, "problems horizon action"] | None = None,
    ) -> Float[Tensor, "problems horizon action"]:
        """The mean of the last round's best sequences.

        Args:
            energy: of sequences (problems, candidates, horizon, action): (problems, candidates), lower is
                better.
            problems: how many are solved side by side.
            low, high: range of each number of an action; one with no range (0 and 0) stays as it is.
            generator: on the device where sequences are drawn.
            start: mean of the first round; the middle of the range where None.
        """
        middle, reach = (low + high) / 2, (high - low) / 2
        mean = middle.expand(problems, self.horizon, -1) if start is None else start
        spread = reach.expand_as(mean)
        for _ in range(self.rounds):
            shape = (problems, self.candidates, *mean.shape[1:])
            noise = torch.randn(shape, generator=generator, device=generator.device, dtype=mean.dtype)
            drawn = mean.unsqueeze(1) + spread.unsqueeze(1) * noise
            drawn = torch.minimum(torch.maximum(drawn, low), high)
            best = energy(drawn).topk(self.elite, dim=1, largest=False).indices
            chosen = drawn.gather(1, best[..., None, None].expand(-1, -1, *mean.shape[1:]))
            mean = torch.lerp(chosen.mean(1), mean, self.momentum)
            spread = torch.lerp(chosen.std(1, correction=0), spread, self.momentum)
        return mean
