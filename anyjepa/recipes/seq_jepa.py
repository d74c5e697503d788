"""seq-JEPA: predict the next view of a thing from earlier ones and what was done between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyjepa.core import processes
from anyjepa.core.chance import uniform
from anyjepa.core.equivariance import Pairs, r_squared, told_linearly
from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch, Context, Method, single_at_least
from anyjepa.core.objectives import cosine
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.view_sequences import ActionCode, Aggregator, CosineTeacher, SameNetwork, predictor
from anyjepa.domains import Samples
from anyjepa.domains.image_backbones import (
    CONVOLUTIONAL,
    Backbone,
    Convolutional,
    Timm,
    VisionTransformer,
    check_backbone,
)
from anyjepa.domains.image_crops import resize, resize_boxes
from anyjepa.domains.image_views import Views
from anyjepa.domains.view_making import Affine, Augmented, Maker, Posed, Saccades, Sequence
from anyjepa.domains.views_network import Strided
from anyjepa.recipes import Recipe

USUAL = 2505_03176  # seed of the views that are made of an image in use, the same for every image


@dataclass(frozen=True, kw_only=True)
class SeqJepa(Recipe):
    """seq-JEPA (Ghaemi, Muller, Bakhtiari 2025, arXiv:2505.03176).

    A sample is a short sequence of views of one thing, and the action that leads from each to the next: how
    it was turned, cropped and recoloured, or where the eye went. An encoder makes a vector of each view. A
    transformer reads the first ones, each beside the code of the action that follows it, and its learned
    token becomes the aggregate; from that and the last action a predictor must give the vector that a moving
    average of the encoder makes of the last view. The loss is one minus their cosine. Vectors of views come
    to tell actions (equivariant), the aggregate what does not change (invariant), without a loss for either.

    ``--transformation`` says where views come from. ``poses``: the data has several views of each thing with
    known poses (a table poses.csv, .npz with quaternion, euler or angle, 3DIEBench, turntables such as
    COIL-20, or ``synthetic-turntable``); actions are relative rotations as quaternions with w >= 0, or cosine
    and sine of a turn, with ``--beside-rotation true`` also differences of the other numbers, over their
    standard deviation. Of single images are made: ``affine`` (turned, scaled, shifted), ``augmentations``
    (crops, colours, blur) and ``saccades`` (patches where a map of saliency draws the eye).

    The defaults are those of 3DIEBench: ResNet-18 at 128 pixels, three views seen and the fourth predicted,
    five in use, AdamW at 4e-4, 1000 epochs of batches of 512. ``cifar`` and ``stl-saccades`` are the other
    published settings. The released scripts use Adam at 1e-3 without decay for transformed images, and a
    cosine decay that never acts; here both are as published. Released code divides each parameter of an
    augmentation by its norm over the sequence, so that an earlier action depends on a later view; here it is
    divided by the range that it is drawn from. Mirroring, grey and solarising are not in the published
    actions; ``--everything true`` tells them. The paper's place not to be looked at again is a circle, that
    of the code a square (the default). The momentum moves every step, not every epoch. Blur has no
    kernel's edge. Where data brings no map of saliency (an array ``saliency`` in .npz), one is made of
    blurred gradients with a bias to the centre, where the paper has a trained network's: it is no
    substitute for that, only what can be had without labels.

    The embedding is the aggregate of the views seen in use (``--use views`` for the mean of the views'
    vectors, ``both``); of an image these are the same views each time. ``anyjepa inspect`` also gives, by
    regression on other samples: ``action_r2`` of the action between two views from their vectors,
    ``action_r2_of_aggregate`` from the aggregate, ``path_r2`` of the way from the first view to the last from
    the aggregate and the last action, the prediction's loss with true and with other samples' actions, and
    the reciprocal rank of the true view among those of the thing (``mrr``).

    ``anyjepa train seq-jepa --data photos/ --out runs/photos --transformation affine --preset tiny``
    """

    name: ClassVar[str] = "seq-jepa"
    paper: ClassVar[str] = "arXiv:2505.03176"
    domain: ClassVar[str] = "views"
    example_data: ClassVar[str] = "synthetic-turntable"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "cifar": {
            "transformation": "augmentations", "image_size": (32, 32), "loaded_size": (32, 32),
            "small_images": True, "predicted_from": 2, "seen": 2, "epochs": 2000.0,
        },
        "stl-saccades": {
            "transformation": "saccades", "image_size": (32, 32), "loaded_size": (96, 96),
            "small_images": True, "predicted_from": 4, "seen": 4, "epochs": 2000.0,
        },
        "tiny": {
            "backbone": "strided", "image_size": (24, 24), "loaded_size": (24, 24), "width": 96, "depth": 3,
            "action_width": 32, "aggregator_depth": 1, "predictor_width": 256,
            "momentum": (0.99, 1.0), "epochs": 160.0, "warmup_epochs": 8.0, "batch_size": 48,
            "learning_rate": 2e-3,
        },
    }  # fmt: skip

    epochs: float = 1000.0  # passes over the data
    batch_size: int = 512  # samples a step, over all processes
    start_learning_rate: float = 1e-5  # at the first step
    learning_rate: float = 4e-4  # at the end of the warm-up
    final_learning_rate: float = 1e-5  # at the last step
    warmup_epochs: float = 20.0  # epochs in which the learning rate rises
    weight_decay: float = 1e-3  # of AdamW at the first step
    final_weight_decay: float = 1e-3  # of AdamW at the last step
    transformation: Literal["poses", "affine", "augmentations", "saccades"] = "poses"  # where views come from
    predicted_from: int = 3  # views M of a training sequence that the one after them is predicted from
    seen: int = 5  # views whose aggregate is the embedding in use
    use: Literal["aggregate", "views", "both"] = "aggregate"  # embedding: aggregate, mean of views, or both
    image_size: tuple[int, int] = (128, 128)  # height and width in pixels of a view; saccades: of the patch
    loaded_size: tuple[int, int] = (128, 128)  # height and width of whole images that views are made of
    backbone: str = "resnet-18"  # strided, vit, resnet-18, resnet-50, convnext-tiny, timm:NAME
    small_images: bool = False  # a ResNet that does not shrink images of some 32 pixels at its start
    patch_size: int = 8  # of vit: side of a patch in pixels
    width: int = 384  # of the vectors of strided and vit
    depth: int = 12  # blocks of vit, or layers of strided
    heads: int = 6  # attention heads of vit
    action_width: int = 128  # of the code of an action
    aggregator_depth: int = 3  # blocks of the aggregator
    aggregator_heads: int = 4  # attention heads of the aggregator
    dropout: float = 0.1  # share of the aggregator's activations and attention dropped in training
    predictor_width: int = 1024  # hidden width of the predictor
    told: Literal["both", "aggregator", "predictor", "none"] = "both"  # which of the two is told actions
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.996, 1.0)  # of the teacher at the first and the last step
    beside_rotation: bool = False  # poses: actions tell differences of the other numbers too
    turn: float = 180.0  # affine: greatest angle either way in degrees
    scale: tuple[float, float] = (0.8, 1.25)  # affine: factors of size
    shift: float = 0.15  # affine: greatest shift either way, in shares of a side
    crop_area: tuple[float, float] = (0.2, 1.0)  # augmentations: share of the image that a view shows
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)  # augmentations: width over height of a view
    flip: float = 0.5  # augmentations: chance of mirroring
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
    jitter_chance: float = 0.8  # augmentations: chance that colours are jittered
    grey: float = 0.2  # augmentations: chance of losing the colours
    blur: tuple[float, float] = (1.0, 0.1)  # chance of a blur, of what is seen and of what is predicted
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # of the blur, in pixels of the view
    solarise: tuple[float, float] = (0.0, 0.2)  # chance of solarising what is seen, and what is predicted
    everything: bool = False  # augmentations: actions tell mirroring, grey and solarising too
    saliency: Literal["gradient", "centre", "uniform"] = "gradient"  # saccades: where the data has no map
    inhibition: Literal["square", "circle", "none"] = "square"  # saccades: what is not looked at again

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        if self.backbone != "strided":
            check_backbone(self.backbone)
        if self.predicted_from < 1 or self.seen < 1:
            raise UserError("--predicted-from and --seen must be 1 or more.")
        if self.backbone == "vit":
            self.check_heads("")
            if any(side < self.patch_size or side % self.patch_size for side in self.image_size):
                raise UserError(
                    f"--image-size {self.image_size[0]} {self.image_size[1]} does not divide into patches of "
                    f"{self.patch_size} pixels: choose multiples of it, or another --patch-size."
                )
        if self.transformation == "saccades":
            if self.image_size[0] != self.image_size[1]:
                raise UserError("--image-size must be a square for saccades: it is the patch that is seen.")
            if min(self.loaded_size) <= self.image_size[0]:
                raise UserError(
                    f"--loaded-size {self.loaded_size[0]} {self.loaded_size[1]} leaves the eye nowhere to go "
                    f"with patches of {self.image_size[0]} pixels: make it larger."
                )
        if min(self.scale) <= 0 or not 0 <= self.shift < 1 or not 0 < self.turn <= 180:
            raise UserError("--scale must be above 0, --shift from 0 to 1, and --turn above 0, at most 180.")

    def reading(self) -> dict[str, Any]:
        """How many views a step and use see."""
        return {"views_drawn": self.predicted_from + 1, "views_seen": self.seen}

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """Views of single images have to be made."""
        return {"transformation": "affine"} if facts["views"] == 1 else {}

    def method(self, facts: dict[str, Any]) -> NextView:
        """Encoder, aggregator, predictor, teacher and what makes views."""
        network = self._network(facts)
        maker = self._maker(facts)
        coded = self.action_width if self.told != "none" else 0
        width = network.width + (self.action_width if self.told in ("both", "aggregator") else 0)
        if width % self.aggregator_heads:
            raise UserError(
                f"the aggregator is {width} wide, which does not divide into --aggregator-heads "
                f"{self.aggregator_heads}: choose another number, or another --action-width."
            )
        encoder = SequenceEncoder(
            network,
            ActionCode(len(maker.names), self.action_width) if coded else None,
            Aggregator(width, self.aggregator_depth, self.aggregator_heads, self.dropout),
            self,
        )
        told = self.action_width if self.told in ("both", "predictor") else 0
        head = predictor(width, told, self.predictor_width, network.width)
        return NextView(encoder, head, maker, self)

    def _network(self, facts: dict[str, Any]) -> Backbone:
        if self.backbone in CONVOLUTIONAL:
            return Convolutional(self.backbone, facts["mean"], facts["std"], self.small_images)
        if self.backbone == "strided":
            return Strided(self.image_size, self.width, self.depth, facts["mean"], facts["std"])
        if self.backbone.startswith("timm:"):
            return Timm(self.backbone.removeprefix("timm:"), facts["mean"], facts["std"])
        return VisionTransformer(
            self.image_size, self.patch_size, facts["channels"], self.width, self.depth, self.heads,
            facts["mean"], facts["std"],
        )  # fmt: skip

    def _maker(self, facts: dict[str, Any]) -> Maker:
        several = facts["views"] > 1
        if several != (self.transformation == "poses"):
            raise UserError(
                "this data has several views of each thing: leave --transformation at poses."
                if several
                else "this data has single images without poses: say --transformation affine, augmentations "
                "or saccades."
            )
        if self.transformation == "affine":
            return Affine(self.image_size, self.turn, self.scale, self.shift)
        if self.transformation == "saccades":
            return Saccades(self.image_size[0], self.saliency, self.inhibition)
        if self.transformation == "augmentations":
            seen = Views(
                1, self.image_size, self.crop_area, self.crop_aspect, self.flip, self.jitter,
                self.jitter_chance, self.grey, self.blur[0], self.blur_sigma, self.solarise[0],
            )  # fmt: skip
            predicted = dataclasses.replace(seen, blur=self.blur[1], solarise=self.solarise[1])
            return Augmented(seen, predicted, self.everything)
        alone = facts["rotation"] == "none"
        if self.beside_rotation or alone:
            return Posed(facts["rotation"], tuple(facts["others"]), tuple(facts["others_std"]))
        return Posed(facts["rotation"])

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """Views as they were drawn when they were read; whole images, of which views are made later."""
        return self.present(samples)

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Views of each thing resized to cover a view's size, with their poses; or whole images."""
        names = samples[0].dtype.names
        if names is None:
            return self._images(samples)
        if "saliency" in names:
            maps = resize([one["saliency"][..., None] for one in samples], self.loaded_size)[:, 0]
            return {**self._images([one["image"] for one in samples]), "saliency": maps.clamp(min=0)}
        views = [view for one in samples for view in one["image"]]
        image = resize(views, self.image_size).unflatten(0, (len(samples), -1))
        return {"image": image, "pose": torch.from_numpy(np.stack([one["pose"] for one in samples]))}

    def _images(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        if self.transformation != "augmentations":
            size = self.loaded_size if self.transformation == "saccades" else self.image_size
            return {"image": resize(samples, size)}
        sides = np.array([sample.shape[:2] for sample in samples], np.float64)
        boxes = np.concatenate([np.zeros_like(sides), sides], axis=1)
        return {
            "image": resize_boxes(samples, boxes, self.loaded_size),
            "aspect": torch.tensor(sides[:, 1] / sides[:, 0], dtype=torch.float32),
        }


class SequenceEncoder(nn.Module):
    """What a user takes away: a network for single views, a code of actions and an aggregator.

    Args:
        network: images to vectors.
        code: of actions; None where nothing is told any.
        aggregator: of views and actions.
        recipe: says what is told.
    """

    def __init__(
        self, network: Backbone, code: ActionCode | None, aggregator: Aggregator, recipe: SeqJepa
    ) -> None:
        super().__init__()
        self.network, self.code, self.aggregator = network, code, aggregator
        self.told, self.width = recipe.told, network.width

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
        recipe: the numbers.
    """

    views_agree = False

    def __init__(self, encoder: SequenceEncoder, head: nn.Sequential, maker: Maker, recipe: SeqJepa) -> None:
        super().__init__()
        self.encoder, self.predictor = encoder, head
        self.maker, self.recipe = maker, recipe
        self.target = SameNetwork(recipe.teacher == "collapse")
        if recipe.teacher == "ema":
            self.target = CosineTeacher(encoder.network, *recipe.momentum)
        with processes.alone():
            chance = uniform(
                (1, recipe.seen, maker.drawn), torch.Generator().manual_seed(USUAL), dtype=torch.float32
            )
        if isinstance(maker, Posed):
            chance = (torch.arange(recipe.seen) / recipe.seen).view(1, -1, 1)
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
        sequence = self.sequence(batch, context, self.recipe.predicted_from + 1, predicted=True)
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
        if coded is not None and self.recipe.told in ("both", "predictor"):
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
        if self.recipe.use == "aggregate":
            return aggregate
        return z.mean(1) if self.recipe.use == "views" else torch.cat([aggregate, z.mean(1)], dim=1)

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """Embeddings of `count` sequences of each sample, of half as many views as are seen in use."""
        half = max(1, self.recipe.seen // 2)
        drawn = [self._few(self.sequence(batch, context, self.recipe.seen), half) for _ in range(count)]
        return torch.stack([self._used(*self.read(one)) for one in drawn], dim=1)

    @staticmethod
    def _few(sequence: Sequence, count: int) -> Sequence:
        return Sequence(sequence.views[:, :count], sequence.parameters[:, :count])

    def augmented(self, batch: Batch, context: Context) -> dict[str, Batch]:
        """The sequence of one step with its actions, and where the eye rests."""
        sequence = self.sequence(batch, context, self.recipe.predicted_from + 1, predicted=True)
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
            sequence = self.sequence(batch, context, max(3, self.recipe.seen))
            if sequence.views.shape[1] < 3:
                return {}
            z = self.encoder.views(sequence.views)
            views.append(z.float().cpu())
            kept.append((sequence.parameters.float().cpu(), *self._asked(sequence, z)))
        if not views or (count := len(torch.cat(views))) < 8:
            return {}
        z = torch.cat(views)
        parameters, aggregate, coded, scores = (torch.cat(part) for part in zip(*kept, strict=True))
        half, found = count // 2, {}
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
        return found | dict(zip(names, scores.mean(0).tolist(), strict=True))

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
