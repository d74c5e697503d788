"""Masked prediction with several families of masks at once, as V-JEPA trains: one target pass serves all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.masking import Masks, MaskSampler
from anyjepa.core.method import Batch, Context, MaskedJepa, single_at_least
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.transformer import Encoder, Predictor


class FamilyJepa(MaskedJepa):
    """A masked JEPA that sees and predicts each sample under several masks, each with its own mask token.

    The target encoder runs once; the context encoder and the predictor once a family (V-JEPA, section 3).

    Args:
        encoder, predictor, target: as of `MaskedJepa`; the predictor has a mask token for each family.
        samplers: one a family.
        objective: distance of predicted and target tokens; the loss is its mean over the families.
        normalise_targets: as of `MaskedJepa`.
        variance: weight of what is missing to a standard deviation of 1 of each feature over a sample's
            predicted tokens (an option of the released V-JEPA, 0 in its settings).
        stretch: the teacher's momentum is planned for so many times the training.
        clip_frames: frames of ``video`` beyond which a sample is several clips, each seen by itself, whose
            tokens come one after the other; 0 for one clip of any length.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: Predictor,
        target: nn.Module,
        samplers: Sequence[MaskSampler],
        objective: Callable[[Tensor, Tensor], Tensor],
        normalise_targets: bool = True,
        variance: float = 0.0,
        stretch: float = 1.0,
        clip_frames: int = 0,
    ) -> None:
        super().__init__(encoder, predictor, target, samplers[0], objective, normalise_targets)
        self.samplers, self.variance, self.stretch = list(samplers), variance, stretch
        self.clip_frames = clip_frames

    def families(self, batch: Batch, context: Context) -> list[Masks]:
        """The masks of each family that this step draws for the batch."""
        size = next(iter(batch.values())).shape[0]
        return [sampler(size, context.generator) for sampler in self.samplers]

    def masks(self, batch: Batch, context: Context) -> Masks:
        """Masks to be shown: samples in turn those of each family, narrower ones filled by repetition."""
        drawn = self.families(batch, context)
        size = len(drawn[0].context)
        turn = torch.arange(size, device=drawn[0].context.device) % len(drawn)

        def chosen(parts: list[Tensor]) -> Tensor:
            width = max(part.shape[-1] for part in parts)
            parts = [part[..., torch.arange(width, device=part.device) % part.shape[-1]] for part in parts]
            return torch.stack(parts)[turn, torch.arange(size, device=turn.device)]

        return Masks(
            chosen([one.context for one in drawn]),
            chosen([one.targets for one in drawn]),
            torch.stack([one.relaxed for one in drawn])[turn, torch.arange(size, device=turn.device)],
        )

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``; ``loss_1``, ``loss_2`` ... of the families; ``relaxed``; ``embedding``."""
        return self.losses_of(batch, self.families(batch, context))

    def losses_of(self, batch: Batch, families: Sequence[Masks]) -> dict[str, Tensor]:
        """The same for masks that are given, family by family."""
        whole = self.target(self.encoder, batch)
        found, spread = [], []
        for number, masks in enumerate(families):
            goal = take(whole.values, masks.targets.flatten(1)).unflatten(1, masks.targets.shape[1:])
            goal = single_at_least(goal)
            if self.normalise_targets:
                goal = functional.layer_norm(goal, goal.shape[-1:])
            seen = self.encoder(batch, keep=masks.context)
            predicted = single_at_least(self.predictor(seen, whole.coordinates, masks, number))
            found.append(self.objective(predicted, goal))
            if self.variance:
                spread.append(_missing_spread(predicted))
        loss = torch.stack(found).mean()
        terms: dict[str, Tensor] = {"loss": loss}
        if spread:
            terms["missing_spread"] = torch.stack(spread).mean()
            terms["loss"] = loss + self.variance * terms["missing_spread"]
        if len(found) > 1:
            terms |= {f"loss_{number}": value for number, value in enumerate(found, 1)}
        relaxed = torch.cat([masks.relaxed for masks in families]).float().mean()
        return terms | {"relaxed": relaxed, "embedding": whole.values.detach().mean(1)}

    def tokens(self, batch: Batch) -> Tokens:
        """The backbone's tokens of the whole sample; of several clips, those of each, later in time."""
        length = self.clip_frames
        if not length or batch["video"].shape[2] <= length:
            return super().tokens(batch)
        clips = batch["video"].unflatten(2, (-1, length)).transpose(1, 2)
        count = clips.shape[1]
        found = self.backbone({**batch, "video": clips.flatten(0, 1)})
        later = torch.zeros_like(found.coordinates)
        later[..., 0] = found.coordinates[..., 0].max() + 1
        places = [found.coordinates + number * later for number in range(count)]
        return Tokens(found.values.unflatten(0, (-1, count)).flatten(1, 2), torch.cat(places, dim=1))

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """The context encoder's pooled tokens under `count` contexts, of the families in turn."""
        pooled = []
        if self.clip_frames:
            batch = {**batch, "video": batch["video"][:, :, : self.clip_frames]}
        for view in range(count):
            masks = self.families(batch, context)[view % len(self.samplers)]
            pooled.append(self.encoder(batch, keep=masks.context).values.mean(1))
        return torch.stack(pooled, dim=1)

    def after_step(self, context: Context) -> None:
        """The teacher follows the encoder."""
        if isinstance(self.target, EmaTeacher):
            self.target.follow(self.encoder, self._momentum(context))

    def scheduled(self, context: Context) -> dict[str, Any]:
        """The teacher's momentum, where there is a teacher."""
        return {"momentum": self._momentum(context)} if isinstance(self.target, EmaTeacher) else {}

    def _momentum(self, context: Context) -> float:
        assert isinstance(self.target, EmaTeacher)
        return self.target.momentum(context.progress / self.stretch)


def _missing_spread(predicted: Tensor) -> Tensor:
    """Mean of ReLU(1 - standard deviation) of each feature over the predicted tokens of a sample."""
    deviation = (predicted.flatten(1, 2).var(1) + 1e-4).sqrt()
    return functional.relu(1 - deviation).mean()
