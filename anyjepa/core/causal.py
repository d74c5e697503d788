"""A predictor that looks back only: actions, states and patches, step by step (V-JEPA 2-AC, section 3).

Shapes: B samples, T steps, P patches a step, D width of the encoder's tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anyjepa.core.transformer import Block

CONDITIONS = 2  # tokens of a step before its patches: the action and the state


def block_causal(
    steps: int, tokens: int, device: torch.device | str | None = None
) -> Bool[Tensor, "all all"]:
    """Which tokens (second axis) each token (first) may look at: all of its own step and of those before.

    steps: how many. tokens: of one step.
    """
    step = torch.arange(steps, device=device).repeat_interleave(tokens)
    return step.unsqueeze(0) <= step.unsqueeze(1)


class CausalPredictor(nn.Module):
    """From what was seen, done and measured at each step to the tokens of the step after it.

    A step is one token of the action that is taken, one of the state in which it is, and the tokens of its
    frame. Attention goes both ways within a step and backwards between steps. What comes out at the place
    of a patch is a prediction of that patch one step later.

    Args:
        width: of the encoder's tokens, D.
        actions, states: numbers of an action and of a state.
        predictor_width, depth, heads, expansion: of the blocks.
        rotary: angles of coordinates (step, row, column); action and state turn with the step alone.
        state_token: whether the state has a token, or is left out.
        options: of `Block`.
    """

    def __init__(
        self,
        width: int,
        actions: int,
        states: int,
        predictor_width: int,
        depth: int,
        heads: int,
        expansion: float = 4.0,
        rotary: nn.Module | None = None,
        state_token: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(width, predictor_width)
        self.embed_action = nn.Linear(actions, predictor_width)
        self.embed_state = nn.Linear(states, predictor_width) if state_token else None
        self.rotary = rotary
        self.blocks = nn.ModuleList(Block(predictor_width, heads, expansion, **options) for _ in range(depth))
        self.norm = nn.LayerNorm(predictor_width, eps=1e-6)
        self.out = nn.Linear(predictor_width, width)

    def hidden(
        self,
        frames: Float[Tensor, "batch steps patches width"],
        actions: Float[Tensor, "batch steps action"],
        states: Float[Tensor, "batch steps state"],
        places: Float[Tensor, "patches 2"],
    ) -> Float[Tensor, "batch steps patches hidden"]:
        """The predictor's own tokens at the patches of each step, before they become predictions.

        places: row and column of each patch.
        """
        steps, patches = frames.shape[1:3]
        conditions = [self.embed_action(actions).unsqueeze(2)]
        if self.embed_state is not None:
            conditions.append(self.embed_state(states).unsqueeze(2))
        front = len(conditions)
        x = torch.cat([*conditions, self.embed(frames)], dim=2).flatten(1, 2)
        angles = None
        if self.rotary is not None:
            angles = self.rotary(_coordinates(steps, front, places))
        allowed = block_causal(steps, front + patches, x.device)
        for block in self.blocks:
            x = block(x, angles=angles, allowed=allowed)
        return self.norm(x).unflatten(1, (steps, -1))[:, :, front:]

    def forward(
        self,
        frames: Float[Tensor, "batch steps patches width"],
        actions: Float[Tensor, "batch steps action"],
        states: Float[Tensor, "batch steps state"],
        places: Float[Tensor, "patches 2"],
    ) -> Float[Tensor, "batch steps patches width"]:
        """Predicted tokens of the frame after each step; arguments as of `hidden`."""
        return self.out(self.hidden(frames, actions, states, places))


def _coordinates(steps: int, front: int, places: Tensor) -> Tensor:
    """(1, steps * (front + patches), 3): step, row and column; conditions lie at row and column 0."""
    rows = torch.cat([places.new_zeros(front, 2), places]).repeat(steps, 1)
    step = torch.arange(steps, device=places.device, dtype=places.dtype)
    step = step.repeat_interleave(front + len(places)).unsqueeze(1)
    return torch.cat([step, rows], dim=1).unsqueeze(0)
