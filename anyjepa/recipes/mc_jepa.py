"""MC-JEPA: one convolutional encoder learns the motion between frames and the content of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from anyjepa.core.errors import UserError
from anyjepa.core.flow_estimator import FlowEstimator
from anyjepa.core.method import Batch
from anyjepa.core.pyramid import Pyramid
from anyjepa.domains.image_crops import resize_boxes
from anyjepa.domains.image_views import Views
from anyjepa.domains.video_clips import cover, random_crops
from anyjepa.recipes import Recipe, flag
from anyjepa.recipes.mc_jepa_method import FlowTerms, MotionContent

LARGEST = {"uint8": 255.0, "uint16": 65535.0}
REACH = 3.0  # standard deviations around the mean that floating-point values are shown over


@dataclass(frozen=True, kw_only=True)
class McJepa(Recipe):
    """MC-JEPA (Bardes, Ponce, LeCun 2023, arXiv:2307.12698); M-JEPA is its motion part alone.

    One encoder, a ConvNeXt whose stem is split so that finer maps exist, gives a pyramid of features.
    *Motion*: from the pyramids of two neighbouring frames an estimator tells the optical flow, coarse to
    fine: the flow so far is upsampled, the second frame's features are warped by it and correlated with the
    first's, and convolutions correct it. No true flow is needed. The loss asks warped features (regression)
    and warped pixels (reconstruction) of one frame to equal the other's, the flow to be smooth, and features
    to come back unchanged from a way there and back (cycle); variance and covariance of every level keep
    features from collapsing. *Content*: two views of a still image agree, by VICReg with an expander. Every
    batch has both; content alone is learned in the first tenth of the training (``--flow-start``), and flow
    has a tenth of its weight.

    There is no official code, and coefficients are known from a re-implementation that agrees with what is
    recalled of the appendix: 1 for regression and reconstruction, 75 for (second-order) smoothness, 0.2 for
    the cycle, and those of each level. The reconstruction is the sum of L1, L2 and SSIM; the last
    number of ``--photometric`` weighs the census transform, which does not mind changes of light. From
    memory: AdamW at 3e-4 with a weight decay of 1e-6, 100 epochs, 384 images and 8 pairs a step
    (``--flow-every 48``). Ours: one rate for encoder and estimator (recalled: a third for the latter),
    PWC-Net's widths for the estimator's convolutions, means instead of sums, frames of 256 pixels, pixels
    that are occluded (a way there and back does not lead home) or leave the image do not count, and gradients
    are clipped. Regression compares features at the first frame's places: the second's are warped back to
    them; both directions are learned. ConvNeXt-T's stages make 27.9 million parameters; the paper says 21.

    Still images are the first frames themselves; ``--stills FOLDER`` takes others (the paper: ImageNet beside
    video). ``--content 0 --flow-every 1`` is M-JEPA, and ``--flow 0`` is VICReg alone. ``tiny`` learns from
    ``synthetic-frames`` with a four-level pyramid of 16 to 64 channels (docs/experiments.md).

    Pairs are neighbouring frames of a folder, of videos (``--fps`` frames a second, a pair every
    ``--video-seconds``), or of a data set of flow, whose true flow is never trained on: ``anyjepa flow RUN
    --data PAIRS`` measures the end-point error. The embedding of a pair is that of its first frame: the mean
    of the coarsest level, layer-normalised. Tokens are the places of ``--dense-level``.

    ``anyjepa train mc-jepa --data frames/ --out runs/frames --preset tiny``
    """

    name: ClassVar[str] = "mc-jepa"
    paper: ClassVar[str] = "arXiv:2307.12698"
    domain: ClassVar[str] = "frames"
    example_data: ClassVar[str] = "synthetic-frames"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {
            "image_size": (64, 64), "view_size": (64, 64), "loaded_size": 64, "width": 16, "depths": (1, 1),
            "drop_path": 0.0, "layer_scale": 1.0, "dense_level": 3, "estimator_widths": (32, 16),
            "context": 8, "radius": 2, "photometric": (1.0, 0.0, 1.0, 0.0), "smooth": 1.0,
            "smooth_order": "first",
            "level_variance": (0.01, 0.01, 0.01, 0.01), "level_covariance": (0.04, 0.04, 0.001, 0.0),
            "expander": (128, 128, 64), "view_area": (0.5, 1.0), "grey": 0.0, "solarise": 0.0, "blur": 0.0,
            "jitter_chance": 0.0,
            "crop_area": (0.8, 1.0), "flow_every": 8, "flow_start": 0.0,
            "epochs": 40.0, "warmup_epochs": 2.0, "batch_size": 64, "start_learning_rate": 1e-4,
            "learning_rate": 3e-3,
        },
    }  # fmt: skip

    epochs: float = 100.0  # passes over the data
    batch_size: int = 384  # samples a step, over all processes
    start_learning_rate: float = 0.0  # at the first step
    learning_rate: float = 3e-4  # at the end of the warm-up
    final_learning_rate: float = 0.0  # at the last step
    warmup_epochs: float = 10.0  # epochs in which the learning rate rises
    weight_decay: float = 1e-6  # of AdamW at the first step
    final_weight_decay: float = 1e-6  # of AdamW at the last step
    gradient_clip: float = 1.0  # largest gradient norm; 0 for no clipping
    fps: float = 12.0  # frames a second that pairs of videos are sampled at; 0 for as they come
    video_seconds: float = 1.0  # of a video, so many seconds are one pair
    apart: int = 1  # images of a folder from the first frame of a pair to the second
    decode_side: int = 0  # shorter side that videos are scaled down to as decoded; 0 for 1.5 --image-size
    stills: str = ""  # source of still images for content; none for the first frames of the pairs
    image_size: tuple[int, int] = (256, 256)  # height and width in pixels that pairs are cropped to
    crop_area: tuple[float, float] = (0.5, 1.0)  # share of the frame that a training crop covers
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)  # width over height of a training crop
    mirror: float = 0.5  # chance that a pair is mirrored, left to right
    width: int = 48  # channels of the first two levels; each further one has twice those before
    depths: tuple[int, ...] = (3, 3, 9, 3)  # blocks of the levels behind the first two
    drop_path: float = 0.1  # stochastic depth of the last block; rises from 0 at the first
    layer_scale: float = 1e-6  # what blocks add at first, times what they compute
    dense_level: int = 4  # level whose places are the tokens, counted from 1, the finest
    estimator_widths: tuple[int, ...] = (128, 128, 96, 64, 32)  # channels of the estimator's convolutions
    context: int = 32  # channels that a level's features have beside the correlations
    radius: int = 4  # pixels of a level around which features are correlated
    shared_estimator: bool = False  # one flow estimator for all levels instead of one each
    finest_level: int = 1  # first level at which flow is estimated; the rest is upsampling
    flow_limit: float = 128.0  # largest flow along an axis, in pixels
    flow: float = 0.1  # weight of the flow task; 0 for VICReg alone
    flow_start: float = 0.1  # share of the training before flow is learned
    flow_every: int = 48  # of so many samples, one is a pair whose flow is learned: 8 of 384
    photometric: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.0)  # L1, L2, SSIM, census of pixels
    regression: float = 1.0  # weight of warped features being those of the other frame
    smooth: float = 75.0  # weight of the flow's smoothness
    smooth_order: Literal["second", "first"] = "second"  # what is smooth: the flow's slope, or the flow
    edge: float = 10.0  # by how much an edge of the image allows one of the flow
    cycle: float = 0.2  # weight of features coming back from a way there and back
    occlusion: bool = True  # leave out pixels from which a way there and back does not lead home
    level_variance: tuple[float, ...] = (0.01, 0.01, 0.01, 0.01, 0.001, 0.0001)  # of each level, finest first
    level_covariance: tuple[float, ...] = (0.04, 0.04, 0.001, 0.0, 0.0, 0.0)  # of each level, finest first
    content: float = 1.0  # weight of the content task; 0 for flow alone (M-JEPA)
    expander: tuple[int, int, int] = (8192, 8192, 8192)  # widths of the layers behind the embedding
    invariance: float = 25.0  # of content: weight of views being alike
    variance: float = 25.0  # of content: weight of the spread of each dimension
    covariance: float = 1.0  # of content: weight of dimensions telling different things
    loaded_size: int = 256  # side in pixels that still images are resized to, before views are cut
    view_size: tuple[int, int] = (224, 224)  # height and width in pixels of views
    view_area: tuple[float, float] = (0.08, 1.0)  # share of the image that a view shows
    flip: float = 0.5  # chance of mirroring a view
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
    jitter_chance: float = 0.8  # chance that a view's colours are jittered
    grey: float = 0.2  # chance that a view loses its colours
    blur: float = 0.5  # chance that a view is blurred
    solarise: float = 0.1  # chance that a view's bright pixels are inverted

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        levels = len(self.depths) + 2
        if self.flow <= 0 and self.content <= 0:
            raise UserError("--flow and --content are both 0: there is nothing to learn.")
        if any(side < 2**levels or side % 2**levels for side in self.image_size):
            raise UserError(
                f"--image-size {self.image_size[0]} {self.image_size[1]} does not divide by {2**levels}, "
                f"the stride of the coarsest of {levels} levels: choose multiples of it, or fewer --depths."
            )
        if min(self.view_size) < 2**levels:
            raise UserError(f"--view-size must be {2**levels} or more, the stride of the coarsest level.")
        for name in ("level_variance", "level_covariance"):
            if len(getattr(self, name)) != levels:
                raise UserError(
                    f"{flag(name)} needs {levels} numbers, one for each level (two and those of --depths), "
                    f"not {len(getattr(self, name))}."
                )
        for name in ("dense_level", "finest_level"):
            if not 1 <= getattr(self, name) <= levels:
                raise UserError(f"{flag(name)} is a level from 1 to {levels}, not {getattr(self, name)}.")
        if not 0 <= self.flow_start < 1:
            raise UserError(f"--flow-start is a share of the training below 1, not {self.flow_start:g}.")
        for name in ("flow_every", "radius", "apart", "loaded_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{flag(name)} must be 1 or more, not {getattr(self, name)}.")

    def reading(self) -> dict[str, Any]:
        """How pairs are read from videos and folders, and which images stand beside them."""
        asked = {"frames": 2, "fps": self.fps, "video_seconds": self.video_seconds, "apart": self.apart}
        side = self.decode_side or round(1.5 * min(self.image_size))
        return asked | {"decode_side": side, "tubelet": 1} | ({"stills": self.stills} if self.stills else {})

    def method(self, facts: dict[str, Any]) -> MotionContent:
        """Encoder, and what each of the two tasks has beside it."""
        encoder = Pyramid(
            facts["channels"], self.width, self.depths, facts["mean"], facts["std"], self.drop_path,
            self.layer_scale, self.dense_level,
        )  # fmt: skip
        estimator = FlowEstimator(
            encoder.widths, self.estimator_widths, self.radius, self.context, self.shared_estimator,
            self.finest_level, self.flow_limit,
        ) if self.flow > 0 else None  # fmt: skip
        augment = Views(
            2, self.view_size, self.view_area, flip=self.flip, jitter=self.jitter,
            jitter_chance=self.jitter_chance, grey=self.grey, blur=self.blur, solarise=self.solarise,
        )  # fmt: skip
        terms = FlowTerms(
            photometric=self.photometric, regression=self.regression, smooth=self.smooth, cycle=self.cycle,
            variance=self.level_variance, covariance=self.level_covariance, edge=self.edge,
            second_order=self.smooth_order == "second", occlusion=self.occlusion,
        )  # fmt: skip
        return MotionContent(
            encoder, estimator, self._expander(encoder.width) if self.content > 0 else None, augment, terms,
            (self.invariance, self.variance, self.covariance), (self.flow, self.content),
            self.flow_every, self.flow_start, _scale(facts),
        )  # fmt: skip

    def _expander(self, width: int) -> nn.Sequential:
        parts: list[nn.Module] = []
        for wide in self.expander[:-1]:
            # batch normalisation takes the mean off, and with it any bias
            parts += [nn.Linear(width, wide, bias=False), nn.BatchNorm1d(wide), nn.ReLU()]
            width = wide
        parts.append(nn.Linear(width, self.expander[-1], bias=False))
        for part in parts:
            if isinstance(part, nn.Linear):
                # so that dimensions begin with about the spread that they are asked to have
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        return nn.Sequential(*parts)

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """The same random crop of both frames of each pair, and the still image, squeezed into a square."""
        pairs = [sample[:2] for sample in samples]
        frames = random_crops(
            pairs, uniforms, 2, self.image_size, self.crop_area, self.crop_aspect, self.mirror
        )
        found = {"frames": frames.transpose(1, 2)}
        if self.content > 0:
            stills = [sample[2] if len(sample) > 2 else sample[0] for sample in samples]
            sides = np.array([still.shape[:2] for still in stills], np.float64)
            boxes = np.concatenate([np.zeros_like(sides), sides], axis=1)
            found["still"] = resize_boxes(stills, boxes, (self.loaded_size, self.loaded_size))
            found["aspect"] = torch.tensor(sides[:, 1] / sides[:, 0], dtype=torch.float32)
        return found

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Each pair resized to cover the input, and its centre."""
        return {"frames": cover([sample[:2] for sample in samples], 2, self.image_size).transpose(1, 2)}


def _scale(facts: dict[str, Any]) -> tuple[float, float]:
    """What raw values are less, and divided by, to lie in 0..1."""
    if facts["dtype"] in LARGEST:
        return 0.0, LARGEST[facts["dtype"]]
    low, high = (
        end(np.array(facts["mean"]) + sign * REACH * np.array(facts["std"]))
        for end, sign in ((np.min, -1), (np.max, 1))
    )
    return float(low), float(max(high - low, 1e-12))
