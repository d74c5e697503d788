"""What a recipe builds: the Method protocol, and the masked JEPA that most recipes are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.masking import Masks, MaskSampler
from anyjepa.core.processes import process
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.transformer import Encoder, Predictor

Batch = dict[str, Tensor]
DROPOUT = 0x5DEECE66D  # keeps dropout's stream of chance apart from that of the masks


class Context(NamedTuple):
    """Where training stands, and the only source of randomness of a step.

    A tuple, since parallel and mixed-precision wrappers rebuild what passes through them.

    Args:
        step: of this update, counted from 1.
        steps: of the whole training.
        generator: seeded from (seed, step), on the device where masks are drawn.
    """

    step: int
    steps: int
    generator: Generator

    @property
    def progress(self) -> float:
        """Share of the training behind this step: 0 at the first."""
        return (self.step - 1) / self.steps


class Method(nn.Module):
    """One self-supervised method: the parts of a recipe joined."""

    draws: bool = True
    """Whether a step draws anything at random, beside its batch."""

    imagining: str = ""
    """What the report says of what `imagined` shows; empty for what it says of clips that are foretold."""

    views_agree: bool = True
    """Whether the views of `augmented` are asked to agree, not one to be predicted from those before it."""

    @property
    def backbone(self) -> nn.Module:
        """The module that `embed` uses: what a user takes away."""
        raise NotImplementedError

    @property
    def foundation(self) -> nn.Module:
        """The part that takes the weights of another recipe's encoder, where one is trained upon it."""
        return self.backbone

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Terms of one step: ``loss`` is minimised, other scalars are logged.

        An optional ``embedding`` (batch, dim), detached, is what the run watches for collapse at no cost.
        """
        raise NotImplementedError

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """One vector a sample: what a user gets."""
        raise NotImplementedError

    def tokens(self, batch: Batch) -> Tokens:
        """Dense features, for the methods that have any."""
        raise NotImplementedError

    @property
    def policy(self) -> nn.Module:
        """All that `act` uses, for methods that control something; others have no such attribute."""
        raise AttributeError(f"{type(self).__name__} controls nothing")

    def act(self, batch: Batch) -> Tensor:
        """What to do next, (batch, steps, numbers) in the data's own units; for methods that control."""
        raise NotImplementedError

    def observed(self, batch: Batch) -> Batch:
        """The part of a batch that `act` looks at, as it is known at use."""
        return batch

    def deep_tokens(self, batch: Batch) -> Tokens:
        """Dense features for labels of parts: `tokens`, unless a paper reads several depths."""
        return self.tokens(batch)

    def as_trained(self, batch: Batch, context: Context) -> Batch:
        """A batch of `Recipe.draw` with the method's own augmentation: what fine-tuning sees."""
        return batch

    def head(self, kind: str, batch: Batch, width: int) -> nn.Module:
        """One of the paper's own heads (`Recipe.downstream`) over the backbone, to (batch, width).

        ``batch`` holds samples like those to come.
        """
        raise NotImplementedError

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """Embeddings of `count` partial views of each sample, for measures that need views (LiDAR)."""
        raise NotImplementedError

    def augmented(self, batch: Batch, context: Context) -> dict[str, Batch]:
        """The views of one step by name, each a batch that its domain can draw; for methods without masks."""
        raise NotImplementedError

    def imagined(self, batch: Batch) -> dict[str, Batch]:
        """What came and what was expected to come, by name, each a batch that its domain can draw.

        For methods that predict samples ahead.
        """
        raise NotImplementedError

    def ranked(self, batch: Batch) -> tuple[Int[Tensor, "batch tokens"], Float[Tensor, "batch tokens"]]:
        """The order in which tokens of whole samples are predicted, 0 first, and their saliency in 0..1.

        For methods that predict regions one after the other; reports number them.
        """
        raise NotImplementedError

    def exemplars(self, batch: Batch) -> tuple[Tensor, Batch, Tensor] | None:
        """Scores (parts, clusters) of parts of the samples, these as a batch that its domain can draw, and
        the sample that each is of; None where there is no clustering. For methods that cluster.
        """
        raise NotImplementedError

    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """Measures of this method alone, by name, over batches of samples; shown by ``anyjepa inspect``."""
        return {}

    def before_step(self, context: Context) -> None:
        """What happens to the gradients, of all processes together, before they are clipped and applied."""

    def after_step(self, context: Context) -> None:
        """What happens after the optimiser's step: the teacher moves here."""

    def scheduled(self, context: Context) -> dict[str, float]:
        """What the method itself changes as training goes, to be logged."""
        return {}

    def cautions(self, steps: int) -> list[str]:
        """What speaks against training this for `steps` steps, in words, said before it begins."""
        return []

    def forward(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """`losses`, called as a module: parallel wrappers synchronise gradients of what goes through here.

        Dropout takes no generator of its own, so torch's global one is set from the step's first.
        """
        rank, _ = process()
        torch.manual_seed((context.generator.initial_seed() + rank) ^ DROPOUT)
        return self.losses(batch, context)


class MaskedJepa(Method):
    """Predict the target tokens of hidden blocks from the visible ones, in embedding space.

    Args:
        encoder: the context encoder; computes visible tokens only.
        predictor: from context tokens and target places to target tokens.
        target: `EmaTeacher` or `SameEncoder`: gives the tokens of the whole sample.
        sampler: draws the masks.
        objective: distance of predicted and target tokens.
        normalise_targets: layer-normalise target tokens over their features, in fp32, before they are
            compared (the released I-JEPA code).
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: Predictor,
        target: nn.Module,
        sampler: MaskSampler,
        objective: Callable[[Tensor, Tensor], Tensor],
        normalise_targets: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, self.predictor, self.target = encoder, predictor, target
        self.sampler, self.objective, self.normalise_targets = sampler, objective, normalise_targets

    @property
    def backbone(self) -> nn.Module:
        """The teacher where there is one that learns, else the encoder."""
        if isinstance(self.target, EmaTeacher) and self.target.moves:
            return self.target.encoder
        return self.encoder

    def masks(self, batch: Batch, context: Context) -> Masks:
        """The masks this step draws for the batch."""
        size = next(iter(batch.values())).shape[0]
        return self.sampler(size, context.generator)

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``; ``relaxed``: share of samples whose context overlaps a target; ``embedding``."""
        return self.compared(self.target(self.encoder, batch), batch, context)

    def compared(self, whole: Tokens, batch: Batch, context: Context) -> dict[str, Tensor]:
        """What `losses` gives, where the target's tokens of the whole samples are known already."""
        masks = self.masks(batch, context)
        goal = take(whole.values, masks.targets.flatten(1)).unflatten(1, masks.targets.shape[1:])
        goal = single_at_least(goal)
        if self.normalise_targets:
            goal = functional.layer_norm(goal, goal.shape[-1:])
        seen = self.encoder(batch, keep=masks.context)
        predicted = self.predictor(seen, whole.coordinates, masks)
        return {
            "loss": self.objective(single_at_least(predicted), goal),
            "relaxed": masks.relaxed.float().mean(),
            "embedding": whole.values.detach().mean(1),
        }

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Average of the backbone's tokens over the whole sample."""
        return self.tokens(batch).values.mean(1)

    def tokens(self, batch: Batch) -> Tokens:
        """The backbone's tokens of the whole sample."""
        return self.backbone(batch)

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """The context encoder's pooled tokens under `count` different context masks (LiDAR, section 4)."""
        pooled = [
            self.encoder(batch, keep=self.masks(batch, context).context).values.mean(1) for _ in range(count)
        ]
        return torch.stack(pooled, dim=1)

    def after_step(self, context: Context) -> None:
        """The teacher follows the encoder; its momentum is a function of the step."""
        if isinstance(self.target, EmaTeacher):
            self.target.follow(self.encoder, self.target.momentum(context.progress))

    def scheduled(self, context: Context) -> dict[str, float]:
        """The teacher's momentum, where there is a teacher."""
        return (
            {"momentum": self.target.momentum(context.progress)}
            if isinstance(self.target, EmaTeacher)
            else {}
        )


def single_at_least(x: Tensor) -> Tensor:
    """Half precision to fp32: norms and distances of targets are not to be trusted to it."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
