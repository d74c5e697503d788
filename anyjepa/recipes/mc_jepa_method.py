"""The parts of MC-JEPA joined: one encoder that learns flow from pairs of frames, and content from views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.flow import inside, upsampled, visible, warp
from anyjepa.core.flow_estimator import FlowEstimator
from anyjepa.core.flow_losses import census, dissimilarity, mean_where, smoothness
from anyjepa.core.method import Batch, Context, Method, single_at_least
from anyjepa.core.processes import process
from anyjepa.core.pyramid import Pyramid
from anyjepa.core.shared_covariance import off_diagonal, shared_covariance, spread_hinge
from anyjepa.core.tokens import Tokens
from anyjepa.domains.image_views import Views, in_dtype_of

MOSTLY = 0.5  # share of an image that must be seen for its occlusions to be believed
SHOWN_ERROR = 0.25  # difference of two images of 0..1 that is drawn brightest


@dataclass(frozen=True, kw_only=True)
class FlowTerms:
    """Weights of what flow is learned from.

    Args:
        photometric: of L1, L2, SSIM and census distances between a frame and the other one warped to it.
        regression: of the squared distance between features and those of the other frame warped to them.
        smooth: of the flow's smoothness.
        cycle: of the squared distance between features and themselves warped there and back.
        variance, covariance: of each level's, the finest first.
        edge: how much an edge of the image allows an edge of the flow.
        second_order: what is to be smooth is the flow's slope.
        occlusion: leave out what going there and back does not lead home from.
    """

    photometric: tuple[float, float, float, float]
    regression: float
    smooth: float
    cycle: float
    variance: tuple[float, ...]
    covariance: tuple[float, ...]
    edge: float
    second_order: bool
    occlusion: bool


class MotionContent(Method):
    """Flow between frames and agreement of views, learned by one encoder.

    Args:
        encoder: of both.
        estimator: of flow; None to learn content alone.
        expander: of embeddings, for content; None to learn flow alone.
        augment: two views of an image.
        terms: of flow.
        content: weights of invariance, variance and covariance of the views' expanded embeddings.
        weights: of the flow task and of the content task.
        every: of so many samples of a batch, one is a pair whose flow is learned.
        start: share of the training after which flow is learned.
        scale: what raw values are less, and divided by, to be 0..1.
    """

    def __init__(
        self,
        encoder: Pyramid,
        estimator: FlowEstimator | None,
        expander: nn.Sequential | None,
        augment: Views,
        terms: FlowTerms,
        content: tuple[float, float, float],
        weights: tuple[float, float],
        every: int,
        start: float,
        scale: tuple[float, float],
    ) -> None:
        super().__init__()
        self.encoder, self.estimator, self.expander, self.augment = encoder, estimator, expander, augment
        self.terms, self.content, self.weights = terms, content, weights
        self.every, self.start, self.scale = every, start if expander is not None else 0.0, scale
        self.draws = expander is not None

    imagining = (
        "Each pair of frames; the flow from the first to the second, in the colours of the wheel beside it "
        "(its rim is the longest flow of the pair); the second frame warped back by that flow, which should "
        "look like the first; and how the frames differ before and after warping, white for a quarter of the "
        "range of values or more."
    )

    @property
    def backbone(self) -> nn.Module:
        """The encoder, without the estimator of flow."""
        return self.encoder

    @property
    def _dtype(self) -> torch.dtype:
        return self.encoder.mean.dtype

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``, the parts of it that this step has, and ``embedding``; see `flow_losses`."""
        found: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.encoder.mean.device, dtype=self._dtype)
        if self.expander is not None:
            found |= self.content_losses(batch, context)
            total = total + self.weights[1] * found["content"]
        if self.estimator is not None:
            if context.progress >= self.start:
                size = len(batch["frames"])
                # the same pairs, however many processes share the batch
                first = -process()[0] * size % self.every
                found |= self.flow_losses(batch["frames"][first :: self.every])
                total = total + self.weights[0] * found["flow"]
            else:
                total = total + self._waiting()
        if "embedding" not in found:
            with torch.no_grad():
                found["embedding"] = self.encoder(batch["frames"][:, 0])
        return {"loss": total, **found}

    def _waiting(self) -> Tensor:
        """0, with a gradient of 0 to the estimator: processes share gradients of all parts in every step."""
        assert self.estimator is not None
        sides = [2**step for step in reversed(range(len(self.encoder.widths)))]
        like = self.encoder.mean
        maps = [
            like.new_zeros((1, width, side, side))
            for width, side in zip(self.encoder.widths, sides, strict=True)
        ]
        return 0 * sum((flow.sum() for flow in self.estimator(maps, maps)), start=like.new_zeros(()))

    def content_losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``content``: VICReg of two views of each image; ``invariance`` and ``content_spread`` of it."""
        assert self.expander is not None
        views = self.augment(batch["still"], context.generator, batch.get("aspect"), self._dtype)
        vectors = self.encoder(views.flatten(0, 1)).chunk(2)
        first, second = (single_at_least(self.expander(one)) for one in vectors)
        together = functional.mse_loss(first, second)
        matrices = [shared_covariance(one) for one in (first, second)]
        spread = sum(spread_hinge(one) for one in matrices) / 2
        apart = sum(off_diagonal(one) for one in matrices)
        weights = self.content
        deviation = sum(one.diagonal().clamp(min=0).sqrt().mean() for one in matrices) / 2
        return {
            "content": weights[0] * together + weights[1] * spread + weights[2] * apart,
            "invariance": together.detach(),
            "content_spread": torch.as_tensor(deviation).detach(),
            "embedding": vectors[0].detach(),
        }

    def flow_losses(self, frames: Num[Tensor, "pairs 2 channels height width"]) -> dict[str, Tensor]:
        """``flow`` and its parts; per level the features' ``spread_level_1`` ... (standard deviation).

        Both directions are learned: the batch is all first frames, then all second ones. ``flow_length`` is
        the mean length in pixels, ``in_sight`` the share of pixels that count.
        """
        assert self.estimator is not None
        both, terms = frames.transpose(0, 1).flatten(0, 1), self.terms
        half = len(frames)
        maps = self.encoder.maps(both)
        others = [turned(one, half) for one in maps]
        flows = self.estimator(maps, others)
        images = self.shown(both)
        full = upsampled(flows[0], (images.shape[2], images.shape[3]))
        seen = inside(full)
        if terms.occlusion:
            seen = believed(visible(full, turned(full, half)), seen)
        weights = seen.to(images.dtype)
        found = {
            "reconstruction": self.photometric(images, warp(turned(images, half), full), weights),
            "smoothness": smoothness(full, images, terms.edge, terms.second_order),
            **self._of_features(maps, others, flows, weights, half),
            **self._of_spread(maps),
        }
        found["flow"] = (
            found["reconstruction"]
            + terms.smooth * found["smoothness"]
            + terms.regression * found["regression"]
            + terms.cycle * found["cycle"]
            + found["variance"]
            + found["covariance"]
        )
        found = {name: value if name == "flow" else value.detach() for name, value in found.items()}
        length = full.detach().square().sum(1).sqrt().mean()
        return {**found, "flow_length": length, "in_sight": weights.mean()}

    def photometric(self, images: Tensor, warped: Tensor, weights: Tensor) -> Tensor:
        """Weighted distance of images in 0..1 where `weights`, a mean over pixels."""
        difference = warped - images
        distances = (
            lambda: difference.abs(),
            lambda: difference.square(),
            lambda: dissimilarity(images, warped),
            lambda: census(images, warped),
        )
        parts = [
            weight * mean_where(distance(), weights)
            for weight, distance in zip(self.terms.photometric, distances, strict=True)
            if weight
        ]
        return sum(parts, start=images.new_zeros(()))

    def _of_features(
        self,
        maps: Sequence[Tensor],
        others: Sequence[Tensor],
        flows: Sequence[Tensor],
        seen: Tensor,
        half: int,
    ) -> dict[str, Tensor]:
        """Regression and cycle, summed over the levels that have flow."""
        assert self.estimator is not None
        regression, cycle = seen.new_zeros(()), seen.new_zeros(())
        behind = self.estimator.finest - 1
        for one, other, flow in zip(maps[behind:], others[behind:], flows, strict=True):
            one, other = single_at_least(one), single_at_least(other)
            weights = functional.adaptive_avg_pool2d(seen, (flow.shape[2], flow.shape[3]))
            if self.terms.regression:
                regression = regression + mean_where((warp(other, flow) - one).square(), weights)
            if self.terms.cycle:
                there = warp(one, turned(flow, half))
                cycle = cycle + mean_where((warp(there, flow) - one).square(), weights)
        return {"regression": regression, "cycle": cycle}

    def _of_spread(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Variance and covariance of every level, over the places of all frames; and the deviations."""
        found = {"variance": maps[0].new_zeros(()), "covariance": maps[0].new_zeros(())}
        for level, (one, spread, apart) in enumerate(
            zip(maps, self.terms.variance, self.terms.covariance, strict=True), 1
        ):
            matrix = shared_covariance(single_at_least(one).permute(0, 2, 3, 1).flatten(0, 2))
            found["variance"] = found["variance"] + spread * spread_hinge(matrix)
            found["covariance"] = found["covariance"] + apart * off_diagonal(matrix)
            found[f"spread_level_{level}"] = matrix.diagonal().clamp(min=0).sqrt().mean()
        return found

    def shown(self, images: Num[Tensor, "batch channels height width"]) -> Tensor:
        """Raw values as 0..1."""
        return ((images.to(self._dtype) - self.scale[0]) / self.scale[1]).clamp(0, 1)

    @torch.no_grad()
    def flow(
        self, frames: Num[Tensor, "pairs 2 channels height width"]
    ) -> Float[Tensor, "pairs 2 height width"]:
        """From the first frame to the second, in pixels, of frames of any size.

        Frames whose sides the coarsest level does not divide are continued at the right and below. Raises
        ValueError where flow is not learned.
        """
        if self.estimator is None:
            raise ValueError("this method learns no flow")
        height, width = frames.shape[3:]
        more = [-side % self.encoder.stride for side in (width, height)]
        both = frames.transpose(0, 1).flatten(0, 1).to(self._dtype)
        both = functional.pad(both, (0, more[0], 0, more[1]), mode="replicate")
        maps = [one.chunk(2) for one in self.encoder.maps(both)]
        flows = self.estimator([one[0] for one in maps], [one[1] for one in maps])
        return upsampled(flows[0], (both.shape[2], both.shape[3]))[..., :height, :width]

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """The average of the coarsest level's places of the first frame, layer-normalised."""
        return self.encoder(batch["frames"][:, 0])

    def tokens(self, batch: Batch) -> Tokens:
        """The places of the dense level of the first frame."""
        return self.encoder.tokens(batch["frames"][:, 0])

    def as_trained(self, batch: Batch, context: Context) -> Batch:
        """One view of each still image."""
        if "still" not in batch:
            return batch
        view = self.augment.resized(1)(batch["still"], context.generator, batch.get("aspect"), self._dtype)
        return {"frames": view.transpose(0, 1)}

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """Embeddings of `count` augmented views of the first frame."""
        views = self.augment.resized(count)(batch["frames"][:, 0], context.generator, dtype=self._dtype)
        return self.encoder(views.flatten(0, 1)).unflatten(0, (count, -1)).transpose(0, 1)

    def imagined(self, batch: Batch) -> dict[str, Batch]:
        """The flow of each pair, the second frame warped back by it, and what differs before and after."""
        frames = batch["frames"]
        if self.estimator is None:
            return {"frames": {"frames": frames}}
        flow = self.flow(frames)
        back = warp(frames[:, 1].to(self._dtype), flow)
        first = self.shown(frames[:, 0])
        apart = [(self.shown(one) - first).abs().mean(1) / SHOWN_ERROR for one in (frames[:, 1], back)]
        warped = in_dtype_of(back, frames)
        return {
            "flow": {"frames": frames, "flow": flow, "warped": warped, "before": apart[0], "after": apart[1]}
        }

    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """Of flow without truth: what is left of the difference of frames, and of a way there and back.

        ``photometric_left``: mean absolute difference after warping over that before, within the image; below
        1 the flow explains something. ``forward_backward_error``: pixels that going there and back leads away
        from home, ``flow_length``: mean length in pixels.
        """
        if self.estimator is None:
            return {}
        sums = torch.zeros(5, dtype=torch.float64)
        for batch in batches:
            frames = batch["frames"]
            there, back = self.flow(frames), self.flow(frames.flip(1))
            within = inside(there)
            first, second = self.shown(frames[:, 0]), self.shown(frames[:, 1])
            before = ((second - first).abs() * within).sum()
            after = ((warp(second, there) - first).abs() * within).sum()
            home = (there + warp(back, there)).square().sum(1, keepdim=True).sqrt()
            length = there.square().sum(1, keepdim=True).sqrt()
            parts = (before, after, (home * within).sum(), (length * within).sum(), within.sum())
            sums += torch.stack([part.double().cpu() for part in parts])
        before, after, home, length, count = sums.tolist()
        return {
            "photometric_left": after / max(before, 1e-12),
            "forward_backward_error": home / max(count, 1),
            "flow_length": length / max(count, 1),
        }

    def scheduled(self, context: Context) -> dict[str, float]:
        """The weight of the flow task: 0 before its turn."""
        if self.estimator is None:
            return {}
        return {"flow_weight": self.weights[0] if context.progress >= self.start else 0.0}


def believed(seen: Tensor, within: Tensor) -> Tensor:
    """What is seen, of images that are mostly seen; of others all that lies `within`.

    Flow in which nothing leads home hides everything, and costs nothing: what is hidden must stay the
    exception.
    """
    mostly = seen.double().mean((1, 2, 3), keepdim=True) > MOSTLY
    return within & (seen | ~mostly)


def turned(values: Tensor, half: int) -> Tensor:
    """Second frames where first ones were, and the other way round."""
    return values.roll(half, 0)
