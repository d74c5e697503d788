"""A world model in latent space: what an action makes of what is seen (V-JEPA 2-AC).

Shapes: B samples, T frames, P patches a frame, D width of the encoder's tokens, H actions that are imagined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.causal import CausalPredictor
from anyjepa.core.method import Batch, Context, Method, single_at_least
from anyjepa.core.objectives import l1
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.tokens import Tokens
from anyjepa.core.transformer import Encoder

Move = Callable[[Tensor, Tensor], Tensor]


class WorldModel(nn.Module):
    """A frozen encoder of single frames, and a predictor of the next frame's tokens from actions.

    Args:
        encoder: never learns.
        predictor: as of `CausalPredictor`.
        move: the state after a state and an action.
        action_scale, state_scale: mean and standard deviation of each number, which are taken off and divided
            by before the predictor sees it; None for as they come.
        normalise: layer-normalise the encoder's tokens and the predicted ones.
    """

    action_mean: Tensor
    action_deviation: Tensor
    state_mean: Tensor
    state_deviation: Tensor

    def __init__(
        self,
        encoder: Encoder,
        predictor: CausalPredictor,
        move: Move,
        action_scale: tuple[list[float], list[float]] | None = None,
        state_scale: tuple[list[float], list[float]] | None = None,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        # a teacher with a momentum of one: nothing moves it, and no gradient reaches it
        self.frozen = EmaTeacher(encoder, 1.0, 1.0)
        self.predictor, self.move, self.normalise = predictor, move, normalise
        for name, scale in (("action", action_scale), ("state", state_scale)):
            numbers = getattr(predictor, f"embed_{name}")
            count = 0 if numbers is None else numbers.in_features
            mean, deviation = scale or ([0.0] * count, [1.0] * count)
            self.register_buffer(f"{name}_mean", torch.tensor(mean, dtype=torch.float32))
            # a number that never varies carries nothing
            kept = [value if value > 0 else 1.0 for value in deviation]
            self.register_buffer(f"{name}_deviation", torch.tensor(kept, dtype=torch.float32))

    @torch.no_grad()
    def encode(
        self, video: Tensor
    ) -> tuple[Float[Tensor, "batch frames patches width"], Float[Tensor, "patches 2"]]:
        """Tokens of each frame by itself of clips (B, channels, T, height, width); the patches' places."""
        frames = video.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        tokens = self.frozen.encoder({"video": frames})
        values = self.normal(tokens.values).unflatten(0, (-1, video.shape[2]))
        return values, tokens.coordinates[0, :, 1:]

    def normal(self, values: Tensor) -> Tensor:
        """Tokens with mean 0 and variance 1 each, where this is asked for."""
        if not self.normalise:
            return values
        return functional.layer_norm(single_at_least(values), values.shape[-1:]).to(values.dtype)

    def predicted(
        self,
        frames: Float[Tensor, "batch steps patches width"],
        actions: Float[Tensor, "batch steps action"],
        states: Float[Tensor, "batch steps state"],
        places: Float[Tensor, "patches 2"],
    ) -> Float[Tensor, "batch steps patches width"]:
        """Tokens of the frame after each step, from those up to it."""
        conditions = self.conditions(actions, states)
        return self.normal(self.predictor(frames, *conditions, places))

    def conditions(self, actions: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and states as the predictor takes them."""
        actions = (actions - self.action_mean) / self.action_deviation
        if self.predictor.embed_state is not None:
            states = (states - self.state_mean) / self.state_deviation
        return actions, states

    def rolled_out(
        self,
        frames: Float[Tensor, "batch steps patches width"],
        actions: Float[Tensor, "batch ahead action"],
        states: Float[Tensor, "batch known state"],
        places: Float[Tensor, "patches 2"],
        ahead: int,
    ) -> Float[Tensor, "batch imagined patches width"]:
        """What follows `frames`, each predicted from those before it, of which predictions are a part.

        Args:
            frames: (B, K, P, D) that were seen.
            actions: from the first seen frame on, K - 1 + `ahead` of them.
            states: of the first frames; where they end, they are moved by the actions.
            places: row and column of each patch.
            ahead: frames to predict.
        """
        found = []
        for _ in range(ahead):
            known = frames.shape[1]
            while states.shape[1] < known:
                last = states.shape[1] - 1
                states = torch.cat([states, self.move(states[:, last], actions[:, last]).unsqueeze(1)], 1)
            following = self.predicted(frames, actions[:, :known], states[:, :known], places)[:, -1:]
            found.append(following)
            frames = torch.cat([frames, following], dim=1)
        return torch.cat(found, dim=1)

    def forward(self, batch: Batch) -> Tokens:
        """The predictor's tokens at every frame that an action follows, with (step, row, column)."""
        frames, places = self.encode(batch["video"])
        actions = batch["actions"].to(frames.dtype)
        states = batch["states"].to(frames.dtype)[:, : actions.shape[1]]
        conditions = self.conditions(actions, states)
        hidden = self.predictor.hidden(frames[:, : actions.shape[1]], *conditions, places)
        steps, patches = hidden.shape[1:3]
        step = torch.arange(steps, device=places.device, dtype=places.dtype)
        coordinates = torch.cat(
            [step.repeat_interleave(patches).unsqueeze(1), places.repeat(steps, 1)], dim=1
        )
        return Tokens(hidden.flatten(1, 2), coordinates.unsqueeze(0))


class ActionConditioned(Method):
    """Learn what actions do: predict the frozen tokens of the next frame, from true ones and from one's own.

    Args:
        model: the encoder and the predictor.
        rollout: steps that the roll-out loss predicts one after the other from the first frame.
        rollout_weight: of that loss beside the teacher-forced one.
        measured_states: give the roll-out the states as measured, not as moved by the actions.
    """

    draws = False

    def __init__(
        self, model: WorldModel, rollout: int = 2, rollout_weight: float = 1.0, measured_states: bool = True
    ) -> None:
        super().__init__()
        self.encoder, self.rollout = model, rollout
        self.rollout_weight, self.measured_states = rollout_weight, measured_states

    @property
    def backbone(self) -> WorldModel:
        """The whole world model: the encoder alone was taken from elsewhere."""
        return self.encoder

    @property
    def foundation(self) -> nn.Module:
        """The frozen encoder."""
        return self.encoder.frozen.encoder

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``, of which ``teacher_forced`` and ``rolled_out``; ``copied``: that of copying the frame."""
        model = self.encoder
        goal, places = model.encode(batch["video"])
        actions, states = batch["actions"].to(goal.dtype), batch["states"].to(goal.dtype)
        forced = model.predicted(goal[:, :-1], actions, states[:, :-1], places)
        teacher_forced = l1(single_at_least(forced), single_at_least(goal[:, 1:]))
        terms = {"loss": teacher_forced, "teacher_forced": teacher_forced}
        if self.rollout_weight:
            known = states if self.measured_states else states[:, :1]
            ahead = model.rolled_out(goal[:, :1], actions, known, places, self.rollout)
            rolled = l1(single_at_least(ahead), single_at_least(goal[:, 1 : 1 + self.rollout]))
            terms |= {"loss": teacher_forced + self.rollout_weight * rolled, "rolled_out": rolled}
        return terms | {
            "copied": l1(goal[:, :-1], goal[:, 1:]),
            "embedding": forced.detach()[:, -1].mean(1),
        }

    @torch.no_grad()
    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """Errors (mean absolute, of tokens) that say whether actions are understood.

        ``one_step_error`` from true frames and actions; ``one_step_error_shuffled`` with the actions of
        other samples; ``one_step_error_copying`` of the frame before; ``two_step_error`` from the first
        frame.
        """
        sums: dict[str, float] = {}
        count = 0
        for batch in batches:
            model, size = self.encoder, len(batch["video"])
            goal, places = model.encode(batch["video"])
            actions, states = batch["actions"].to(goal.dtype), batch["states"].to(goal.dtype)
            before, after = goal[:, :-1], goal[:, 1:]
            ahead = min(2, actions.shape[1])
            forced, shuffled = (
                model.predicted(before, given, states[:, :-1], places)
                for given in (actions, actions.roll(1, dims=0))
            )
            rolled = model.rolled_out(goal[:, :1], actions, states[:, :1], places, ahead)
            found = {
                "one_step_error": l1(forced, after),
                "one_step_error_shuffled": l1(shuffled, after),
                "one_step_error_copying": l1(before, after),
                "two_step_error": l1(rolled[:, -1], goal[:, ahead]),
            }
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + size * float(value)
            count += size
        return {name: value / count for name, value in sums.items()}

    @torch.no_grad()
    def imagined(self, batch: Batch) -> dict[str, Batch]:
        """Each clip as it came, and what is expected of it from its first frame and the actions alone.

        Tokens are made visible by the linear map from tokens to pixels that fits the true frames of the
        batch best.
        """
        model, video = self.encoder, batch["video"]
        frames, places = model.encode(video)
        actions, states = batch["actions"].to(frames.dtype), batch["states"].to(frames.dtype)
        ahead = model.rolled_out(frames[:, :1], actions, states[:, :1], places, actions.shape[1])
        patch = _side(video, frames.shape[2])
        pixels = _patches(video.to(frames.dtype), patch)
        weights = _least_squares(frames.flatten(0, 2), pixels.flatten(0, 2))
        seen = (_with_one(torch.cat([frames[:, :1], ahead], dim=1)) @ weights).clamp(
            pixels.min(), pixels.max()
        )
        rows, columns = video.shape[3] // patch, video.shape[4] // patch
        drawn = seen.unflatten(2, (rows, columns)).unflatten(4, (-1, patch, patch))
        drawn = drawn.permute(0, 4, 1, 2, 5, 3, 6).flatten(5).flatten(3, 4)
        if not video.is_floating_point():
            drawn = drawn.round()
        return {"true": batch, "predicted": {**batch, "video": drawn.to(video.dtype)}}

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Average of the predictor's tokens: of what was seen, was done, and is expected."""
        return self.tokens(batch).values.mean(1)

    def tokens(self, batch: Batch) -> Tokens:
        """The predictor's tokens, before they become predictions."""
        return self.encoder(batch)


def _side(video: Tensor, patches: int) -> int:
    """Pixels of a square patch's side, where so many fill a frame."""
    return math.isqrt(video.shape[3] * video.shape[4] // patches)


def _patches(video: Tensor, patch: int) -> Tensor:
    """Pixels (B, T, patches, channels * patch * patch) of clips (B, channels, T, height, width)."""
    cut = video.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))
    return cut.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3)


def _with_one(values: Tensor) -> Tensor:
    return torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)


def _least_squares(given: Tensor, wanted: Tensor) -> Tensor:
    """Weights of the linear map, and its constant, with a little ridge."""
    rows = _with_one(given).double()
    gram = rows.mT @ rows
    gram.diagonal().add_(1e-3 * len(rows))
    return torch.linalg.solve(gram, rows.mT @ wanted.double()).to(given.dtype)
