"""What the methods on point clouds share: augmentation, patches, a teacher of the transformer, embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from anyjepa.core.chance import uniform
from anyjepa.core.masking import Masks
from anyjepa.core.method import Batch, Context, Method
from anyjepa.core.points import normalised
from anyjepa.core.sequence_masks import host_generator
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.tokens import Tokens, take
from anyjepa.domains.point_encoder import PointEncoder, Trunk

__all__ = ["PointPrediction", "Varied", "pooled"]

Cloud = Float[Tensor, "batch points channels"]


@dataclass(frozen=True)
class Varied:
    """Clouds stretched along each axis, centred, scaled to the unit ball, turned about the up axis.

    Args:
        scale: least and greatest factor along an axis.
        rotation: degrees that a cloud is turned by, at most, either way.
        up: x, y or z.
        shared: one stretch and one angle for the whole batch.
    """

    scale: tuple[float, float]
    rotation: float
    up: str
    shared: bool = False

    def __call__(self, points: Cloud, generator: Generator) -> Cloud:
        """Points (B, N, 3 and more), changed by chance; values beyond x, y, z stay."""
        if self.shared:
            chance = torch.rand((1, 4), generator=generator, device=generator.device, dtype=points.dtype)
        else:
            chance = uniform((len(points), 4), generator, dtype=points.dtype)
        low, high = self.scale
        places = normalised(points[..., :3] * (low + (high - low) * chance[:, None, :3]))
        angle = torch.deg2rad(self.rotation * (2 * chance[:, 3:] - 1))
        turned = list(places.unbind(dim=2))
        one, other = ((axis + "xyz".index(self.up)) % 3 for axis in (1, 2))
        sine, cosine = angle.sin(), angle.cos()
        first, second = turned[one], turned[other]
        turned[one], turned[other] = cosine * first - sine * second, sine * first + cosine * second
        return torch.cat([torch.stack(turned, dim=2), points[..., 3:]], dim=2)


class PointPrediction(Method):
    """A method that predicts tokens of hidden patches of a cloud from those of seen ones.

    Args:
        encoder: the context encoder: what the papers evaluate.
        target: the teacher of its transformer, or None; PointNet and positions are shared.
        varied: the augmentation.
        copied_updates: first updates in which the teacher is a plain copy.
    """

    def __init__(
        self, encoder: PointEncoder, target: EmaTeacher | None, varied: Varied, copied_updates: int = 0
    ) -> None:
        super().__init__()
        self.encoder, self.target = encoder, target
        self.varied, self.copied_updates = varied, copied_updates

    def hidden(self, centres: Tensor, generator: Generator, host: Generator | None = None) -> Masks:
        """Masks over the tokens of patches with these centres (B, G, 3)."""
        raise NotImplementedError

    @property
    def backbone(self) -> nn.Module:
        """The context encoder."""
        return self.encoder

    def train(self, mode: bool = True) -> PointPrediction:
        """As of any module, but the teacher drops nothing out."""
        super().train(mode)
        if self.target is not None:
            self.target.eval()
        return self

    def masks(self, batch: Batch, context: Context) -> Masks:
        """Masks over the tokens of `tokens`, as a step would draw them."""
        return self.hidden(self.encoder.patched(batch).coordinates, context.generator)

    def cut(self, batch: Batch, context: Context) -> tuple[Cloud, Tensor]:
        """The kept points of each cloud, augmented, and the indices of its patches' centres."""
        kept = self.encoder.sampled(batch["points"], context.generator)
        points = self.varied(kept, context.generator)
        return points, self.encoder.centres(points, context.generator)

    def prepared(self, batch: Batch, context: Context) -> tuple[Tokens, Masks]:
        """A training step's tokens before the transformer, and its masks."""
        tokens = self.encoder.tokenizer(*self.cut(batch, context))
        return tokens, self.hidden(tokens.coordinates, context.generator)

    def taught(self, values: Tensor, added: Tensor, wanted: tuple[int, ...]) -> Tensor:
        """(B, G, D) the teacher's tokens of the whole cloud (`Trunk.targets`), without a gradient."""
        trunk = self.encoder.trunk if self.target is None else self.target.encoder
        assert isinstance(trunk, Trunk)
        with torch.no_grad():
            return trunk.targets(values, added, wanted)

    def seen(self, tokens: Tokens, added: Tensor, masks: Masks) -> Tokens:
        """The context encoder's tokens at the context, padded where `masks.present` says so."""
        context = take(tokens.values, masks.context), take(added, masks.context)
        values = self.encoder.trunk(*context, present=masks.present)
        return Tokens(values, take(tokens.coordinates, masks.context), masks.present)

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """(B, 2 D): the maximum and the mean of the tokens."""
        return pooled(self.encoder(batch).values)

    def tokens(self, batch: Batch) -> Tokens:
        """The context encoder's tokens of the whole cloud; coordinates are the centres, in the unit ball."""
        return self.encoder(batch)

    def deep_tokens(self, batch: Batch) -> Tokens:
        """As of `tokens`: the mean of the layer-normalised outputs of the blocks at a third, two and the end.

        Of twelve blocks these are the 4th, 8th and 12th, as in Point-JEPA's part segmentation. Coordinates
        are in the unit of the batch's points.
        """
        tokens, depth = self.encoder.patched(batch), len(self.encoder.trunk.blocks)
        wanted = tuple(sorted({max(1, round(depth * third / 3)) - 1 for third in (1, 2, 3)}))
        values = self.encoder.trunk.targets(tokens.values, self.encoder.positions(tokens.coordinates), wanted)
        kept = self.encoder.sampled(batch["points"])[..., :3]
        middle = kept.mean(1, keepdim=True)
        radius = (kept - middle).norm(dim=2, keepdim=True).amax(1, keepdim=True)
        return Tokens(values, tokens.coordinates * radius + middle)

    def as_trained(self, batch: Batch, context: Context) -> Batch:
        """The points that are kept of each cloud, stretched and turned by chance."""
        kept = self.encoder.sampled(batch["points"], context.generator)
        return {**batch, "points": self.varied(kept, context.generator)}

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """The context encoder's pooled tokens under `count` different context masks (LiDAR, section 4)."""
        tokens, host = self.encoder.patched(batch), host_generator(context.generator)
        added, views = self.encoder.positions(tokens.coordinates), []
        for _ in range(count):
            masks = self.hidden(tokens.coordinates, context.generator, host)
            views.append(pooled(self.seen(tokens, added, masks).values, masks.present))
        return torch.stack(views, dim=1)

    def after_step(self, context: Context) -> None:
        """The teacher follows the transformer; its momentum is a function of the step."""
        if self.target is not None:
            self.target.follow(self.encoder.trunk, self._momentum(context))

    def scheduled(self, context: Context) -> dict[str, float]:
        """The teacher's momentum, where there is a teacher."""
        return {} if self.target is None else {"momentum": self._momentum(context)}

    def _momentum(self, context: Context) -> float:
        assert self.target is not None
        return 0.0 if context.step <= self.copied_updates else self.target.momentum(context.progress)


def pooled(
    values: Float[Tensor, "batch tokens width"], present: Tensor | None = None
) -> Float[Tensor, "batch dim"]:
    """(B, 2 D) maximum and mean over tokens (B, N, D), over those that are present."""
    if present is None:
        return torch.cat([values.amax(dim=1), values.mean(dim=1)], dim=1)
    kept = present.unsqueeze(2)
    largest = values.masked_fill(~kept, -torch.inf).amax(dim=1)
    return torch.cat([largest, (values * kept).sum(dim=1) / kept.sum(dim=1)], dim=1)
