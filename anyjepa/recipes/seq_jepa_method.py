"""What seq-JEPA does with sequences of views: predict the next one, measure what views and aggregates say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyjepa.core import processes
from anyjepa.core.chance import uniform
from anyjepa.core.equivariance import Pairs, r_squared, told_linearly
from anyjepa.core.method import Batch, Context, Method, single_at_least
from anyjepa.core.objectives import cosine
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.view_sequences import ActionCode, Aggregator, CosineTeacher, SameNetwork
from anyjepa.domains.image_backbones import Backbone
from anyjepa.domains.view_making import Maker, Posed, Saccades, Sequence

__all__ = ["NextView", "Numbers", "SequenceEncoder"]

USUAL = 2505_03176  # seed of the views that are made of an image in use, the same for every image

Told = Literal["both", "aggregator", "predictor", "none"]


@dataclass(frozen=True)
class Numbers:
    """Of the sequences and of the teacher.

    Args:
        predicted_from: views M of a training sequence that the one after them is predicted from.
        seen: views in use.
        use: what the embedding is: the aggregate, the mean of the views, or both.
        told: which of aggregator and predictor is told actions.
        teacher: a moving average, the same encoder without a gradient, or with one.
        momentum: of the teacher at the first and the last step.
    """

    predicted_from: int
    seen: int
    use: Literal["aggregate", "views", "both"]
    told: Told
    teacher: Literal["ema", "none", "collapse"]
    momentum: tuple[float, float]


class SequenceEncoder(nn.Module):
    """What a user takes away: a network for single views, a code of actions and an aggregator.

    Args:
        network: images to vectors.
        code: of actions; None where nothing is told any.
        aggregator: of views and actions.
        told: which of aggregator and predictor is told actions.
    """

    def __init__(
        self, network: Backbone, code: ActionCode | None, aggregator: Aggregator, told: Told
    ) -> None:
        super().__init__()
        self.network, self.code, self.aggregator = network, code, aggregator
        self.told, self.width = told, network.width

    def views(self, views: Tensor) -> Float[Tensor, "batch views dim"]:
        """z_i of each view (batch, views, channels, height, width)."""
        return self.network({"image": views.flatten(0, 1)}).unflatten(0, views.shape[:2])

    def aggregate(
        self, z: Float[Tensor, "batch views dim"], coded: Float[Tensor, "batch actions coded"] | None
    ) -> Float[Tensor, "batch width"]:
        """z_AGG of views and the coded actions between them."""
        return self.aggregator(z, coded if self.told in ("both", "aggregator") else None)

    def actions(
        self, actions: Float[Tensor, "batch actions numbers"]
    ) -> Float[Tensor, "batch actions width"] | None:
        """e_i of each action; None where nothing is told any."""
        return None if self.code is None else self.code(actions)


class NextView(Method):
    """Predict the teacher's vector of the next view from the aggregate of earlier ones and the action to it.

    Args:
        encoder: of views and sequences.
        head: from the aggregate and the last action to a vector.
        maker: of views.
        numbers: of the sequences and of the teacher.
    """

    views_agree = False

    def __init__(self, encoder: SequenceEncoder, head: nn.Sequential, maker: Maker, numbers: Numbers) -> None:
        super().__init__()
        self.encoder, self.predictor = encoder, head
        self.maker, self.numbers = maker, numbers
        self.target = SameNetwork(numbers.teacher == "collapse")
        if numbers.teacher == "ema":
            self.target = CosineTeacher(encoder.network, *numbers.momentum)
        with processes.alone():
            chance = uniform(
                (1, numbers.seen, maker.drawn), torch.Generator().manual_seed(USUAL), dtype=torch.float32
            )
        if isinstance(maker, Posed):
            chance = (torch.arange(numbers.seen) / numbers.seen).view(1, -1, 1)
        self.usual: Tensor
        self.register_buffer("usual", chance, persistent=False)

    @property
    def backbone(self) -> nn.Module:
        """The encoder with its aggregator."""
        return self.encoder

    def sequence(self, batch: Batch, context: Context, count: int, predicted: bool = False) -> Sequence:
        """`count` views of each sample, drawn from the step's generator."""
        shape = (len(batch["image"]), count, self.maker.drawn)
        chance = uniform(shape, context.generator, dtype=self.usual.dtype)
        return self.maker.made(batch, chance, predicted)

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``: one minus the mean cosine of prediction and target; ``embedding``: the aggregate."""
        sequence = self.sequence(batch, context, self.numbers.predicted_from + 1, predicted=True)
        z = self.encoder.views(sequence.views[:, :-1])
        coded = self.encoder.actions(self.maker.actions(sequence))
        aggregate = self.encoder.aggregate(z, None if coded is None else coded[:, :-1])
        predicted = self.predicted(aggregate, None if coded is None else coded[:, -1])
        goal = self.target(self.encoder.network, {"image": sequence.views[:, -1]})
        loss = cosine(single_at_least(predicted), single_at_least(goal))
        return {"loss": loss, "embedding": aggregate.detach()}

    def predicted(
        self, aggregate: Float[Tensor, "batch width"], coded: Float[Tensor, "batch coded"] | None
    ) -> Float[Tensor, "batch dim"]:
        """z_hat of the view that the action leads to."""
        if coded is not None and self.numbers.told in ("both", "predictor"):
            aggregate = torch.cat([aggregate, coded], dim=1)
        return self.predictor(aggregate)

    def read(self, sequence: Sequence) -> tuple[Tensor, Tensor]:
        """Vectors (batch, views, dim) of all views of a sequence, and the aggregate of them all."""
        z = self.encoder.views(sequence.views)
        return z, self.encoder.aggregate(z, self.encoder.actions(self.maker.actions(sequence)))

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """The aggregate of the views seen in use, the mean of their vectors, or both."""
        chance = self.usual.expand(batch["image"].shape[0], -1, -1)
        return self._used(*self.read(self.maker.made(batch, chance)))

    def _used(self, z: Tensor, aggregate: Tensor) -> Tensor:
        if self.numbers.use == "aggregate":
            return aggregate
        return z.mean(1) if self.numbers.use == "views" else torch.cat([aggregate, z.mean(1)], dim=1)

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """Embeddings of `count` sequences of each sample, of half as many views as are seen in use."""
        half = max(1, self.numbers.seen // 2)
        drawn = [self._few(self.sequence(batch, context, self.numbers.seen), half) for _ in range(count)]
        return torch.stack([self._used(*self.read(one)) for one in drawn], dim=1)

    @staticmethod
    def _few(sequence: Sequence, count: int) -> Sequence:
        return Sequence(sequence.views[:, :count], sequence.parameters[:, :count])

    def augmented(self, batch: Batch, context: Context) -> dict[str, Batch]:
        """The sequence of one step with its actions, and where the eye rests."""
        sequence = self.sequence(batch, context, self.numbers.predicted_from + 1, predicted=True)
        names = "\n".join(self.maker.names).encode()
        found = {
            "image": sequence.views,
            "action": self.maker.actions(sequence),
            "names": torch.tensor(list(names), dtype=torch.uint8),
        }
        if isinstance(self.maker, Saccades):
            found |= {"whole": batch["image"], "fixation": sequence.parameters}
        return {"in sequence": found}

    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """What vectors of views and aggregates tell of actions, and how much prediction uses them.

        The first half of the samples fits the regressions, the other half tests them.
        """
        views, kept = [], []
        for batch in batches:
            sequence = self.sequence(batch, context, max(3, self.numbers.seen))
            if sequence.views.shape[1] < 3:
                return {}
            z = self.encoder.views(sequence.views)
            views.append(z.float().cpu())
            kept.append((sequence.parameters.float().cpu(), *self._asked(sequence, z)))
        if not views or (count := len(torch.cat(views))) < 8:
            return {}
        z = torch.cat(views)
        parameters, aggregate, coded, scores = (torch.cat(part) for part in zip(*kept, strict=True))
        half = count // 2
        found: dict[str, float] = {}
        before, after = (part.flatten() for part in torch.where(~torch.eye(z.shape[1], dtype=torch.bool)))
        pairs, actions = (
            Pairs(z[:half].flatten(0, 1)),
            self.maker.relation(parameters[:, before], parameters[:, after]),
        )
        features = pairs(z[:, before].flatten(0, 1), z[:, after].flatten(0, 1)).unflatten(0, (count, -1))
        found["action_r2"] = _told(features, actions, half)
        first = self.maker.relation(parameters[:, :1], parameters[:, 1:2])
        found["action_r2_of_aggregate"] = _told(aggregate[:, None], first, half)
        path = self.maker.relation(parameters[:, :1], parameters[:, -1:])
        both = Pairs(aggregate[:half])(aggregate, aggregate)[:, : pairs.axes.shape[1]]
        joined = torch.cat([aggregate.double(), _crossed(both, coded)], dim=1)
        found["path_r2"] = _told(joined[:, None], path, half)
        names = ("prediction_loss", "prediction_loss_shuffled", "mrr")
        found.update(zip(names, scores.mean(0).tolist(), strict=True))
        return found

    def _asked(self, sequence: Sequence, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of all but the last view: the aggregate, the last action, and (batch, 3) scores of prediction."""
        actions = self.maker.actions(sequence)
        # the codes of a thing's own actions, then those with the last action of another thing
        shuffled = torch.cat([actions[:, :-1], actions[:, -1:].roll(1, 0)], dim=1)
        coded = self.encoder.actions(actions)
        aggregate = self.encoder.aggregate(z[:, :-1], None if coded is None else coded[:, :-1])
        other = self.encoder.actions(shuffled)
        network = self.target.encoder if isinstance(self.target, EmaTeacher) else self.encoder.network
        goals = network({"image": sequence.views.flatten(0, 1)}).unflatten(0, z.shape[:2])
        losses, near = [], None
        for last in (coded, other):
            told = self.predicted(aggregate, None if last is None else last[:, -1])
            alike = torch.cosine_similarity(told[:, None], goals, dim=2)
            near = alike if near is None else near
            losses.append(1 - alike[:, -1])
        assert near is not None
        rank = (near > near[:, -1:]).sum(1) + 1.0
        scores = torch.stack([*losses, 1 / rank.to(losses[0])], dim=1)
        return aggregate.float().cpu(), actions[:, -1].float().cpu(), scores.float().cpu()

    def after_step(self, context: Context) -> None:
        """The teacher follows the network of single views."""
        if isinstance(self.target, EmaTeacher):
            self.target.follow(self.encoder.network, self.target.momentum(context.progress))

    def scheduled(self, context: Context) -> dict[str, float]:
        """The teacher's momentum, where there is a teacher."""
        if not isinstance(self.target, EmaTeacher):
            return {}
        return {"momentum": self.target.momentum(context.progress)}


def _crossed(vectors: Tensor, actions: Tensor) -> Float[Tensor, "rows features"]:
    """Actions, and their products with vectors: turns that follow each other multiply."""
    return torch.cat(
        [actions.double(), (vectors[:, :, None] * actions.double()[:, None, :]).flatten(1)], dim=1
    )


def _told(features: Tensor, actions: Tensor, half: int) -> float:
    """R squared on the other half of the samples of features and actions (samples, pairs, numbers)."""
    fit, test = (
        (features[part].flatten(0, 1).double(), actions[part].flatten(0, 1).double())
        for part in (slice(half), slice(half, None))
    )
    return r_squared(told_linearly(*fit, test[0]), test[1])
