"""What the predictor must hit: tokens of a slowly moving teacher, or of the encoder itself."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from anyjepa.core.schedules import linear
from anyjepa.core.tokens import Tokens


class EmaTeacher(nn.Module):
    """A copy of the encoder that follows it as an exponential moving average (I-JEPA, section 3).

    Args:
        encoder: copied; the copy receives no gradient.
        start, end: momentum at progress 0 and 1 of training, linear between. (1, 1) never moves: the frozen
            random teacher of the ablation.
    """

    def __init__(self, encoder: nn.Module, start: float = 0.996, end: float = 1.0) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.start, self.end = start, end

    @property
    def moves(self) -> bool:
        """Whether the teacher ever differs from what it began as."""
        return min(self.start, self.end) < 1.0

    def momentum(self, progress: float) -> float:
        """Momentum at `progress` in [0, 1]."""
        return linear(self.start, self.end, progress)

    @torch.no_grad()
    def forward(self, encoder: nn.Module, batch: dict[str, Tensor]) -> Tokens:
        """The teacher's tokens of the whole sample."""
        return self.encoder(batch)

    @torch.no_grad()
    def follow(self, encoder: nn.Module, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * encoder, for all parameters in one call."""
        # private by name only: it is what torch's own optimisers and averaging call
        torch._foreach_lerp_(list(self.encoder.parameters()), list(encoder.parameters()), 1.0 - momentum)  # pyright: ignore[reportPrivateImportUsage]


class TransformerTeacher(EmaTeacher):
    """A teacher whose tokenizer and position codes are the student's: only its transformer is an average."""

    @torch.no_grad()
    def follow(self, encoder: nn.Module, momentum: float) -> None:
        """The transformer follows at `momentum`; what makes its tokens is copied."""
        super().follow(encoder, momentum)
        for part in ("tokenizer", "positions"):
            mine, theirs = (getattr(one, part) for one in (self.encoder, encoder))
            for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
                one.copy_(other)


class SameEncoder(nn.Module):
    """The online encoder gives its own targets.

    Args:
        gradient: let gradients through the targets. With a predictor and no other regulariser that
            collapses: it is the control that shows what the teacher is for.
    """

    def __init__(self, gradient: bool = False) -> None:
        super().__init__()
        self.gradient = gradient

    def forward(self, encoder: nn.Module, batch: dict[str, Tensor]) -> Tokens:
        """The encoder's tokens of the whole sample."""
        with torch.set_grad_enabled(self.gradient and torch.is_grad_enabled()):
            return encoder(batch)
