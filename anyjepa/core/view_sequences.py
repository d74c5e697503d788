"""What aggregates views and the actions between them, and tells the next view (seq-JEPA, section 3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.schedules import cosine
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.transformer import Block


class ActionCode(nn.Module):
    """Actions as vectors: a linear layer without bias, then batch normalisation without affine.

    Args:
        numbers: of an action.
        width: of the vectors.
    """

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(numbers, width, bias=False)
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(
        self, actions: Float[Tensor, "batch actions numbers"]
    ) -> Float[Tensor, "batch actions width"]:
        """One vector an action."""
        return self.norm(self.linear(actions).flatten(0, 1)).unflatten(0, actions.shape[:2])


class Aggregator(nn.Module):
    """A transformer over view-action pairs; the output of a learned token is the aggregate.

    There are no positions: order is in the actions alone. Blocks normalise after they add, and a norm ends
    them. The token begins at zero.

    Args:
        width: of a view's vector and its action's together.
        depth, heads: of the blocks.
        dropout: in training, of activations and attention.
    """

    def __init__(self, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            Block(
                width, heads, post_norm=True, activation=nn.ReLU, dropout=dropout, attention_dropout=dropout
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def tokens(
        self,
        views: Float[Tensor, "batch views dim"],
        actions: Float[Tensor, "batch actions coded"] | None,
    ) -> Float[Tensor, "batch tokens width"]:
        """The pairs (z_1; e_1) ... (z_M; 0) and, last, the aggregating token.

        Args:
            views: M vectors.
            actions: M - 1 coded actions between them; None where the aggregate is told none.
        """
        pairs = views
        if actions is not None:
            # the last view is followed by an action that only the predictor is told
            slots = functional.pad(actions, (0, 0, 0, 1))
            pairs = torch.cat([views, slots], dim=2)
        return torch.cat([pairs, self.token.expand(views.shape[0], -1, -1)], dim=1)

    def forward(
        self,
        views: Float[Tensor, "batch views dim"],
        actions: Float[Tensor, "batch actions coded"] | None,
    ) -> Float[Tensor, "batch width"]:
        """z_AGG of any number of views."""
        x = self.tokens(views, actions)
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, last=1)
        return self.norm(x[:, 0])


def predictor(width: int, coded: int, hidden: int, out: int) -> nn.Sequential:
    """From the aggregate (`width`) and a coded action (`coded`) to the next view's vector (`out`)."""
    return nn.Sequential(
        nn.Linear(width + coded, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    )


class CosineTeacher(EmaTeacher):
    """A teacher whose momentum rises along half a cosine, tau = 1 - (1 - start)(cos(pi p) + 1) / 2.

    It normalises by the statistics of its own batches in training; only parameters follow.
    """

    @torch.no_grad()
    def forward(self, encoder: nn.Module, batch: dict[str, Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The teacher's vectors of single views."""
        return self.encoder(batch)

    def momentum(self, progress: float) -> float:
        """Momentum at `progress` in [0, 1]."""
        return cosine(self.start, self.end, progress)


class SameNetwork(SameEncoder):
    """The encoder of single views gives its own targets, with or without a gradient."""

    def forward(self, encoder: nn.Module, batch: dict[str, Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Its vectors of single views."""
        with torch.set_grad_enabled(self.gradient and torch.is_grad_enabled()):
            return encoder(batch)
