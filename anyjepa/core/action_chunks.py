"""Chunks of actions and what is expected to follow from what is seen now (ACT-JEPA).

Shapes: B samples, T steps of a chunk, C context tokens, D width, S numbers of a state, A of an action.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anyjepa.core.decoder import DecoderBlock
from anyjepa.core.method import Batch, Context, Method, single_at_least
from anyjepa.core.positions import SinCos
from anyjepa.core.processes import share_of_all
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.tokens import Tokens
from anyjepa.core.transformer import Block, norm_of

Reduction = Literal["mean", "sum"]


class Scaling(nn.Module):
    """Numbers less an offset over a scale, each its own; stored with the weights.

    Args:
        offset, scale: of each number, in the data's own units; a scale of next to 0 leaves the unit.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, offset: Iterable[float], scale: Iterable[float]) -> None:
        super().__init__()
        offset = list(offset)
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32))
        # a number that varies no more than single precision rounds it carries nothing
        least = [max(1e-7 * abs(value), 1e-30) for value in offset]
        kept = [value if value > low else 1.0 for value, low in zip(scale, least, strict=True)]
        self.register_buffer("scale", torch.tensor(kept, dtype=torch.float32))

    def forward(self, x: Float[Tensor, "*any numbers"]) -> Float[Tensor, "*any numbers"]:
        """From the data's own units."""
        return (x - self.offset) / self.scale

    def undone(self, x: Float[Tensor, "*any numbers"]) -> Float[Tensor, "*any numbers"]:
        """To the data's own units."""
        return x * self.scale + self.offset


class StepEncoder(nn.Module):
    """A transformer over the tokens of a task and of states; tokens of other things may stand behind them.

    Args:
        scaling: of the states.
        states: numbers of a state.
        tasks: how many tasks have an embedding.
        width, depth, heads, hidden: of post-norm blocks whose perceptron has no biases.
        dropout: share of activations dropped in training.
        post_norm: normalise after each addition, as published; else before each branch.
    """

    def __init__(
        self,
        scaling: Scaling,
        states: int,
        tasks: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        dropout: float = 0.1,
        post_norm: bool = True,
    ) -> None:
        super().__init__()
        self.scaling, self.width = scaling, width
        self.task, self.state = nn.Embedding(tasks, width), nn.Linear(states, width)
        self.positions = SinCos(width, 1)
        self.blocks = nn.ModuleList(
            _without_bias(
                Block(
                    width, heads, hidden / width, post_norm=post_norm, activation=nn.ReLU, dropout=dropout,
                    attention_dropout=dropout,
                )
            )
            for _ in range(depth)
        )  # fmt: skip
        self.norm = norm_of(width)

    def encode(
        self,
        task: Tensor,
        states: Float[Tensor, "batch steps state"],
        further: Tensor | None = None,
        present: Bool[Tensor, "batch tokens"] | None = None,
        positions: Tensor | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Tokens of the task, of the states, and of what stands behind them.

        Args:
            task: (B,) int64.
            states: in the data's own units.
            further: (B, any, D).
            present: False where a token only pads, and others do not see it.
            positions: added to the tokens of states.
        """
        numbers = self.state(self.scaling(states.to(self.state.weight.dtype)))
        if positions is not None:
            numbers = numbers + positions.to(numbers.dtype)
        parts = [self.task(task).unsqueeze(1), numbers]
        x = torch.cat(parts if further is None else [*parts, further], dim=1)
        for block in self.blocks:
            x = block(x, present=present)
        return self.norm(x)

    def forward(self, batch: Batch) -> Tokens:
        """Tokens (B, T, D) of all states of windows; those that pad are neither seen nor present.

        A batch holds ``states`` (B, T, S), ``padded`` (B, T) and ``task`` (B,).
        """
        padded = batch["padded"]
        states = batch["states"].masked_fill(padded.unsqueeze(-1), 0)
        steps = torch.arange(states.shape[1], device=states.device, dtype=torch.float32).view(1, -1, 1)
        present = torch.cat([torch.ones_like(padded[:, :1]), ~padded], dim=1)
        found = self.encode(batch["task"], states, present=present, positions=self.positions(steps))
        return Tokens(found[:, 1:], steps, ~padded)


class ContextEncoder(nn.Module):
    """What is seen now, as tokens: the task, the state, and a picture's places where there is one.

    Args:
        steps: the part that the teacher is a copy of.
        trunk: gives the tokens of a picture, ``trunk.width`` wide; None where there is none.
    """

    def __init__(self, steps: StepEncoder, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.steps, self.trunk, self.width = steps, trunk, steps.width
        self.picture = None if trunk is None else nn.Linear(trunk.width, steps.width)  # type: ignore[arg-type]
        self.places = None if trunk is None else SinCos(steps.width, 2)

    def forward(self, batch: Batch) -> Tokens:
        """Tokens (B, C, D) of ``task``, of the first of ``states`` (or ``state`` (B, S)), and of ``image``.

        A coordinate is (-1, -1) of the task, (-1, 0) of the state, the row and column of a picture's place.
        """
        now = batch["state"] if "state" in batch else batch["states"][:, 0]
        further, coordinates = None, now.new_tensor([[[-1.0, -1.0], [-1.0, 0.0]]], dtype=torch.float32)
        if self.trunk is not None and self.picture is not None and self.places is not None:
            seen = self.trunk.tokens(batch)  # type: ignore[operator]
            further = self.picture(seen.values) + self.places(seen.coordinates).to(seen.values.dtype)
            coordinates = torch.cat([coordinates, seen.coordinates.to(coordinates)], dim=1)
        return Tokens(self.steps.encode(batch["task"], now.unsqueeze(1), further), coordinates)


class Queries(nn.Module):
    """Learned queries, one a step, that attend to one another and to the context.

    Args:
        source_width: of the context's tokens.
        steps: how many queries.
        width, depth, heads, hidden: of post-norm blocks whose perceptron has no biases.
        out: numbers that come out of each.
        dropout, post_norm: as of `StepEncoder`.
    """

    def __init__(
        self,
        source_width: int,
        steps: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        out: int,
        dropout: float = 0.1,
        post_norm: bool = True,
    ) -> None:
        super().__init__()
        self.read = nn.Linear(source_width, width) if source_width != width else None
        self.queries = nn.Parameter(torch.randn(1, steps, width))
        self.blocks = nn.ModuleList(
            _without_bias(
                DecoderBlock(
                    width, heads, hidden / width, post_norm=post_norm, activation=nn.ReLU, dropout=dropout,
                    attention_dropout=dropout,
                )
            )
            for _ in range(depth)
        )  # fmt: skip
        self.norm, self.out = norm_of(width), nn.Linear(width, out)

    def forward(
        self,
        context: Float[Tensor, "batch context source_width"],
        asked: Bool[Tensor, "batch steps"] | None = None,
    ) -> Float[Tensor, "batch steps out"]:
        """What each query finds; where `asked` is False others do not see it."""
        memory = context if self.read is None else self.read(context)
        x = self.queries.to(memory.dtype).expand(memory.shape[0], -1, -1)
        for block in self.blocks:
            x = block(x, memory, asked)
        return self.out(self.norm(x))


class Policy(nn.Module):
    """From what is seen now to a chunk of actions: all that control needs.

    Args:
        encoder: of what is seen.
        decoder: from its tokens to scaled actions.
        scaling: of the actions.
    """

    def __init__(self, encoder: ContextEncoder, decoder: Queries, scaling: Scaling) -> None:
        super().__init__()
        self.encoder, self.decoder, self.scaling = encoder, decoder, scaling

    def forward(self, batch: Batch) -> Float[Tensor, "batch steps action"]:
        """Actions in the data's own units."""
        return self.scaling.undone(self.decoder(self.encoder(batch).values))


class ActionChunks(Method):
    """Joint training of a policy and of the prediction of the states' embeddings.

    Args:
        policy: what is kept for control.
        predictor: from context tokens to the teacher's tokens of all steps.
        target: gives the tokens to predict.
        action_weight, state_weight: of the two losses. A part whose loss has no weight does not learn.
        reduction: of differences over the numbers of a step: their mean (released) or sum (paper).
        mask_keys: queries of steps behind the episode's end are not seen by others in training.
        freeze: only the action decoder learns.
        shuffle: the control in which targets are those of another sample.
    """

    def __init__(
        self,
        policy: Policy,
        predictor: Queries,
        target: EmaTeacher | SameEncoder,
        action_weight: float = 1.0,
        state_weight: float = 1.0,
        reduction: Reduction = "mean",
        mask_keys: bool = False,
        freeze: bool = False,
        shuffle: bool = False,
    ) -> None:
        super().__init__()
        self.control, self.predictor, self.target = policy, predictor, target
        self.reduction: Reduction = reduction
        self.action_weight, self.mask_keys = action_weight, mask_keys
        self.freeze, self.shuffle = freeze, shuffle
        self.state_weight = 0.0 if freeze else state_weight
        if freeze:
            policy.encoder.requires_grad_(False)
        if not action_weight:
            policy.decoder.requires_grad_(False)
        if not self.state_weight:
            predictor.requires_grad_(False)

    imagining = (
        "Windows of demonstrations: the states that were passed, and the actions that were demonstrated "
        "beside those that the policy predicts from the first step alone. Predictions that follow at first "
        "and part later say how many actions of a chunk to carry out before the next is asked for."
    )

    @property
    def policy(self) -> Policy:
        """Context encoder and action decoder."""
        return self.control

    @property
    def encoder(self) -> ContextEncoder:
        """Of what is seen now."""
        return self.control.encoder

    @property
    def backbone(self) -> nn.Module:
        """The context encoder."""
        return self.control.encoder

    def train(self, mode: bool = True) -> ActionChunks:
        """The teacher never drops anything, nor does an encoder that is frozen."""
        super().train(mode)
        self.target.eval()
        if self.freeze:
            self.control.encoder.eval()
        return self

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``; ``actions`` and ``states``: its parts, unweighted; ``embedding``.

        A batch holds ``states`` (B, T, S), ``actions`` (B, T, A), ``padded`` (B, T): behind the episode's
        end, ``acted`` (B,): actions are known, ``task`` (B,), and ``image`` (B, channels, height, width).
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            seen = self.encoder(batch).values
        valid = ~batch["padded"]
        asked = valid if self.mask_keys else None
        found = {"embedding": seen.detach().mean(1)}
        loss = seen.new_zeros(())
        if self.action_weight:
            known = valid & batch["acted"].unsqueeze(1)
            wanted = self.control.scaling(
                batch["actions"].masked_fill(~known.unsqueeze(-1), 0).to(seen.dtype)
            )
            given = self.control.decoder(seen, asked)
            found["actions"] = absolute_difference(given, wanted, known, self.reduction)
            loss = loss + self.action_weight * found["actions"]
        if self.state_weight:
            goal = self.target(self.encoder.steps, self._others(batch) if self.shuffle else batch)
            given = self.predictor(seen, asked)
            found["states"] = absolute_difference(
                given, single_at_least(goal.values), valid & goal.present, self.reduction
            )
            loss = loss + self.state_weight * found["states"]
        return {"loss": loss, **found}

    @staticmethod
    def _others(batch: Batch) -> Batch:
        return {name: batch[name].roll(1, dims=0) for name in ("states", "padded", "task")}

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Average of the context tokens."""
        return self.encoder(batch).values.mean(1)

    def tokens(self, batch: Batch) -> Tokens:
        """The context tokens."""
        return self.encoder(batch)

    def act(self, batch: Batch) -> Float[Tensor, "batch steps action"]:
        """A chunk of actions in the data's own units."""
        return self.control(batch)

    def observed(self, batch: Batch) -> Batch:
        """The state (B, S) at the first step, the task, and the picture where there is one."""
        kept = {name: batch[name] for name in ("task", "image") if name in batch}
        return {"state": batch["states"][:, 0], **kept}

    @torch.no_grad()
    def imagined(self, batch: Batch) -> dict[str, Batch]:
        """Windows as demonstrated, with the actions that the policy would take from their first step on."""
        return {"demonstrated and predicted": {**batch, "predicted": self.act(batch)}}

    def after_step(self, context: Context) -> None:
        """The teacher follows; nothing is to be followed where the encoder is frozen."""
        if isinstance(self.target, EmaTeacher) and not self.freeze:
            self.target.follow(self.encoder.steps, self.target.momentum(context.progress))

    def scheduled(self, context: Context) -> dict[str, float]:
        """The teacher's momentum, where there is one."""
        if not isinstance(self.target, EmaTeacher):
            return {}
        return {"momentum": self.target.momentum(context.progress)}

    @torch.no_grad()
    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """Mean absolute error of held actions in scaled units, beside that of repeating their mean."""
        sums, count = torch.zeros(2, dtype=torch.float64), 0
        for batch in batches:
            known = ~batch["padded"] & batch["acted"].unsqueeze(1)
            wanted = self.control.scaling(batch["actions"].float())[known]
            given = self.control.scaling(self.act(batch).float())[known]
            sums += torch.stack([(given - wanted).abs().sum(), wanted.abs().sum()]).double().cpu()
            count += wanted.numel()
        if not count:
            return {}
        return {"action_error": float(sums[0]) / count, "action_error_of_the_mean": float(sums[1]) / count}


def absolute_difference(
    given: Float[Tensor, "batch steps numbers"],
    wanted: Float[Tensor, "batch steps numbers"],
    valid: Bool[Tensor, "batch steps"],
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Mean over valid steps of all processes of the mean, or the sum, of absolute differences of numbers."""
    steps = (single_at_least(given) - wanted).abs()
    steps = steps.mean(-1) if reduction == "mean" else steps.sum(-1)
    count = valid.sum().to(steps.dtype)
    return steps.masked_fill(~valid, 0).sum() / share_of_all(count).clamp(min=1)


def _without_bias(block: nn.Module) -> nn.Module:
    """The block, its perceptron without biases."""
    for part in block.mlp.modules():  # type: ignore[union-attr]
        if isinstance(part, nn.Linear):
            part.register_parameter("bias", None)
    return block
