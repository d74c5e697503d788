"""LeJEPA: views of a sample agree, and all embeddings together are an isotropic normal. Nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyjepa.core.epps_pulley import QUADRATURES, epps_pulley
from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch, Context, Method
from anyjepa.core.normality import STATISTICS
from anyjepa.core.processes import process
from anyjepa.core.sigreg import Design, Normality, directions, sigreg
from anyjepa.core.tokens import Tokens
from anyjepa.domains.image_backbones import (
    CONVOLUTIONAL,
    Backbone,
    Convolutional,
    Timm,
    VisionTransformer,
    check_backbone,
)
from anyjepa.domains.image_crops import resize, resize_boxes
from anyjepa.domains.image_views import Views, in_dtype_of
from anyjepa.recipes import Recipe, flag


class InvariantViews(Method):
    """Every view's embedding near the mean of its sample's global views, and each view's batch near N(0, I).

    Args:
        encoder: images of any size to vectors.
        projector: vectors to the embeddings (K) that the loss is made of; a user does not get it.
        augment: the global views first, then the local ones; views of one call have one size.
        regularise: (views, N, K) embeddings and (K, M) directions to a scalar.
        weights: of invariance and of the regulariser in the loss.
        slices: M directions a step.
        design: how they are drawn.
    """

    def __init__(
        self,
        encoder: Backbone,
        projector: nn.Sequential,
        augment: list[Views],
        regularise: Callable[[Tensor, Tensor], Tensor],
        weights: tuple[float, float],
        slices: int,
        design: Design = "gaussian",
    ) -> None:
        super().__init__()
        self.encoder, self.projector, self.augment = encoder, projector, augment
        self.regularise, self.weights, self.slices = regularise, weights, slices
        self.design: Design = design
        self.width = [part.out_features for part in projector if isinstance(part, nn.Linear)][-1]

    @property
    def backbone(self) -> nn.Module:
        """The encoder, without the projector."""
        return self.encoder

    @property
    def _dtype(self) -> torch.dtype:
        """Of the weights, which views and directions are made in."""
        return next(self.encoder.parameters()).dtype

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``, ``invariance``, ``sigreg``, ``embedding``; ``lambda_times_batch``, SIGReg's pull."""
        # first, so that processes with parts of other sizes draw the same ones
        slices = directions(self.width, self.slices, context.generator, self._dtype, self.design)
        size = batch["image"].shape[0]
        features = torch.cat([self.encoder({"image": views}) for views in self._made(batch, context)])
        z = self.projector(features).unflatten(0, (-1, size))
        invariance, gaussian = self.terms(z, slices)
        return {
            "loss": self.weights[0] * invariance + self.weights[1] * gaussian,
            "invariance": invariance,
            "sigreg": gaussian,
            "lambda_times_batch": z.new_full((), self.weights[1] * size * process()[1]),
            "embedding": features[:size].detach(),
        }

    def terms(
        self, z: Float[Tensor, "views samples dim"], slices: Float[Tensor, "dim slices"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean squared distance to the mean of the global views, which has a gradient too; and SIGReg."""
        z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
        centre = z[: self.augment[0].count].mean(0)
        return ((z - centre) ** 2).mean(), self.regularise(z, slices)

    def _made(self, batch: Batch, context: Context) -> list[Float[Tensor, "many channels height width"]]:
        """The views of each size, all samples of the first view, then of the second and so on."""
        return [
            augment(batch["image"], context.generator, batch.get("aspect"), self._dtype).flatten(0, 1)
            for augment in self.augment
        ]

    def augmented(self, batch: Batch, context: Context) -> dict[str, Batch]:
        """The views of one step by name, as pixels."""
        found = {}
        for kind, augment in zip(("global", "local"), self.augment, strict=False):
            views = in_dtype_of(augment(batch["image"], context.generator), batch["image"])
            found |= {f"{kind} {number}": {"image": view} for number, view in enumerate(views, 1)}
        return found

    def as_trained(self, batch: Batch, context: Context) -> Batch:
        """One global view of each image."""
        one = self.augment[0].resized(1)
        view = one(batch["image"], context.generator, batch.get("aspect"), self._dtype)[0]
        return {"image": view}

    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """`Normality` of one global view's embeddings: the mean over slices, its band, the worst slice."""
        found = []
        for batch in batches:
            view = self.augment[0].resized(1)(batch["image"], context.generator, dtype=self._dtype)[0]
            found.append(self.projector(self.encoder({"image": view})))
        figures = Normality.of(torch.cat(found), context.generator)
        return {f"sigreg_{name}": value for name, value in figures._asdict().items()}

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """The encoder's vector of the whole image, before the projector."""
        return self.encoder(batch)

    def tokens(self, batch: Batch) -> Tokens:
        """The encoder's tokens, or the places of its last feature map."""
        return self.encoder.tokens(batch)

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """The encoder's vectors of `count` global views of each sample."""
        views = self.augment[0].resized(count)(batch["image"], context.generator, dtype=self._dtype)
        vectors = self.encoder({"image": views.flatten(0, 1)})
        return vectors.unflatten(0, (count, -1)).transpose(0, 1)


@dataclass(frozen=True, kw_only=True)
class LeJepa(Recipe):
    """LeJEPA (Balestriero & LeCun 2025, arXiv:2511.08544).

    Each image becomes a few global and local views, randomly cut and recoloured. An encoder with a projector
    must give all views of an image the embedding that its global views have on average, while SIGReg holds
    the embeddings of a batch near an isotropic normal: their projections on random directions, new ones each
    step, are tested by the statistic of Epps and Pulley. There is no teacher, no predictor, no mask, no
    stop-gradient and no schedule on the weights; the one number to choose is lambda (``--regularisation``).

    loss = (1 - lambda) * invariance + lambda * sigreg; the invariance is a mean over views, samples and
    dimensions. SIGReg is 1.05 for ideal embeddings, not 0, and 0.4 times the batch size for collapsed ones.
    The statistic grows with the batch, so what it does to one sample grows with lambda * batch size, which is
    logged. ``--weights added`` (invariance + lambda * sigreg) takes the values of code that writes it so.

    Where paper and released code differ, the default is the code's, with which the results were made: 17
    points on [0, 3] counted twice (``--quadrature paper`` for 17 on [-5, 5]), an invariance divided by the
    number of dimensions, two global and six local views of 98 pixels for patches of 14 (the paper: 96). Of
    projections 16 to 512 wide, 64 is the paper's best (Table 1d); the launch scripts have 512. Pixel
    statistics are measured on your data instead of ImageNet's. Views are made on the device, recoloured in
    one order (brightness, contrast, saturation, hue), and blurred while they are cut, before that; colours of
    other than three channels, or of floating-point images, are left alone.

    ``minimal`` is the released example: Imagenette, four views of 128 pixels, with the learning rate that
    ends at half its peak there.

    The backbone is our transformer, a convolutional network of transformers (``--backbone resnet-18``,
    ``resnet-50``, ``convnext-tiny``) or any of timm (``--backbone timm:resnet18``). The embedding is what
    it gives before the projector.

    ``anyjepa train lejepa --data photos/ --out runs/photos --preset tiny``
    """

    name: ClassVar[str] = "lejepa"
    paper: ClassVar[str] = "arXiv:2511.08544"
    domain: ClassVar[str] = "image"
    example_data: ClassVar[str] = "digits"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "minimal": {
            "image_size": (128, 128), "loaded_size": 160, "patch_size": 8, "width": 384, "depth": 12,
            "heads": 6, "head": 512, "global_views": 4, "local_views": 0, "global_area": (0.08, 1.0),
            "jitter": (0.8, 0.8, 0.8, 0.2), "regularisation": 0.02, "slices": 256, "projection": 16,
            "epochs": 800.0, "batch_size": 256, "start_learning_rate": 2e-5, "learning_rate": 2e-3,
            "final_learning_rate": 1e-3,
        },
        "tiny": {
            "image_size": (16, 16), "local_size": (8, 8), "loaded_size": 16, "patch_size": 4, "width": 64,
            "depth": 2, "heads": 2, "drop_path": 0.0, "global_views": 2, "local_views": 2,
            "global_area": (0.5, 1.0), "local_area": (0.2, 0.5), "flip": 0.0, "blur": 0.0,
            "projector": (256, 256), "projection": 16, "slices": 256, "epochs": 60.0, "warmup_epochs": 3.0,
            "batch_size": 128, "start_learning_rate": 2e-5, "learning_rate": 3e-3,
            "final_learning_rate": 3e-6,
        },
    }  # fmt: skip

    image_size: tuple[int, int] = (224, 224)  # height and width in pixels of global views and of use
    local_size: tuple[int, int] = (98, 98)  # height and width in pixels of local views
    loaded_size: int = 256  # side in pixels that the loader resizes images to, before views are cut
    backbone: str = "vit"  # vit, resnet-18, resnet-50, convnext-tiny, or timm:NAME
    small_images: bool = False  # a ResNet that does not shrink images of some 32 pixels at its start
    patch_size: int = 14  # of the transformer: side of a patch in pixels
    width: int = 1024  # of the transformer's tokens
    depth: int = 24  # blocks of the transformer
    heads: int = 16  # attention heads of the transformer
    head: int = 0  # width of a linear layer on the transformer's mean token that is the embedding; 0 for none
    drop_path: float = 0.1  # stochastic depth of the last block
    global_views: int = 2  # that the mean is taken of
    local_views: int = 6  # smaller ones, which must land on that mean too
    global_area: tuple[float, float] = (0.3, 1.0)  # share of the image a global view shows
    local_area: tuple[float, float] = (0.05, 0.3)  # share of the image a local view shows
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)  # width over height of a view
    flip: float = 0.5  # chance of mirroring a view
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
    jitter_chance: float = 0.8  # chance that a view's colours are jittered
    grey: float = 0.2  # chance that a view loses its colours
    blur: float = 0.5  # chance that a view is blurred
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # of the blur, in pixels of the view
    solarise: float = 0.2  # chance that a view's bright pixels are inverted
    projector: tuple[int, int] = (2048, 2048)  # hidden widths of the projector
    projection: int = 64  # width K of the embeddings that the loss is made of
    regularisation: float = 0.05  # lambda, the weight of SIGReg; stable from 0.01 to 0.1
    weights: Literal["mixed", "added"] = "mixed"  # invariance has 1 - lambda, or 1
    slices: int = 1024  # random directions M a step
    design: Literal["gaussian", "orthogonal", "sobol"] = "gaussian"  # how directions are drawn
    statistic: Literal[
        "epps-pulley", "cramer-von-mises", "watson", "anderson-darling", "mean-variance",
        "jarque-bera", "extended-jarque-bera", "moments", "vasicek", "shapiro-wilk", "shapiro-francia",
        "order-likelihood",
    ] = "epps-pulley"  # of normality, of each slice  # fmt: skip
    quadrature: Literal["code", "paper"] = "code"  # 17 points on [0, 3] counted twice, or 17 on [-5, 5]
    debiased: bool = False  # Epps-Pulley with expectation 0, for batches below 64
    epochs: float = 100.0  # passes over the data
    batch_size: int = 512  # samples a step, over all processes
    start_learning_rate: float = 5e-6  # at the first step
    learning_rate: float = 5e-4  # at the end of the warm-up
    final_learning_rate: float = 5e-7  # at the last step
    warmup_epochs: float = 1.0  # epochs in which the learning rate rises
    weight_decay: float = 0.05  # of AdamW at the first step; the paper has 5e-4 for ResNets
    final_weight_decay: float = 0.05  # of AdamW at the last step

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        check_backbone(self.backbone)
        if self.global_views < 1 or self.local_views < 0 or self.global_views + self.local_views < 2:
            raise UserError("--global-views must be 1 or more, and --local-views make it two views in all.")
        if self.regularisation < 0 or (self.weights == "mixed" and self.regularisation > 1):
            raise UserError(
                f"--regularisation is lambda, between 0 and 1, not {self.regularisation:g}; for "
                "invariance + lambda * sigreg, add --weights added."
            )
        for name in ("slices", "projection", "loaded_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{flag(name)} must be 1 or more, not {getattr(self, name)}.")
        if self.backbone == "vit":
            self._check_transformer()

    def _check_transformer(self) -> None:
        sizes = {"image_size": self.image_size} | (
            {"local_size": self.local_size} if self.local_views else {}
        )
        for name, size in sizes.items():
            if any(side < self.patch_size or side % self.patch_size for side in size):
                raise UserError(
                    f"{flag(name)} {size[0]} {size[1]} does not divide into patches of {self.patch_size} "
                    "pixels: choose multiples of it, or another --patch-size."
                )
        self.check_heads("")

    def method(self, facts: dict[str, Any]) -> InvariantViews:
        """Encoder, projector, views and regulariser."""
        encoder = self._encoder(facts)
        first, second = self.projector
        projector = nn.Sequential(
            nn.Linear(encoder.width, first, bias=False), nn.BatchNorm1d(first), nn.ReLU(),
            nn.Linear(first, second, bias=False), nn.BatchNorm1d(second), nn.ReLU(),
            nn.Linear(second, self.projection),
        )  # fmt: skip
        statistic = STATISTICS[self.statistic]
        if self.statistic == "epps-pulley":
            statistic = partial(epps_pulley, quadrature=QUADRATURES[self.quadrature], debiased=self.debiased)
        together = 1.0 if self.weights == "added" else 1 - self.regularisation
        return InvariantViews(
            encoder,
            projector,
            self._augment(),
            partial(sigreg, statistic=statistic),
            (together, self.regularisation),
            self.slices,
            self.design,
        )

    def _encoder(self, facts: dict[str, Any]) -> Backbone:
        if self.backbone in CONVOLUTIONAL:
            return Convolutional(self.backbone, facts["mean"], facts["std"], self.small_images)
        if self.backbone.startswith("timm:"):
            return Timm(self.backbone.removeprefix("timm:"), facts["mean"], facts["std"], self.drop_path)
        return VisionTransformer(
            self.image_size, self.patch_size, facts["channels"], self.width, self.depth, self.heads,
            facts["mean"], facts["std"], self.head, self.drop_path,
        )  # fmt: skip

    def _augment(self) -> list[Views]:
        wide = Views(
            self.global_views, self.image_size, self.global_area, self.crop_aspect, self.flip, self.jitter,
            self.jitter_chance, self.grey, self.blur, self.blur_sigma, self.solarise,
        )  # fmt: skip
        if not self.local_views:
            return [wide]
        narrow = Views(
            self.local_views, self.local_size, self.local_area, self.crop_aspect, self.flip, self.jitter,
            self.jitter_chance, self.grey, self.blur, self.blur_sigma, self.solarise,
        )  # fmt: skip
        return [wide, narrow]

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """Whole images, squeezed into one square size, with the aspect ratio that their views get back."""
        sides = np.array([sample.shape[:2] for sample in samples], np.float64)
        boxes = np.concatenate([np.zeros_like(sides), sides], axis=1)
        return {
            "image": resize_boxes(samples, boxes, (self.loaded_size, self.loaded_size)),
            "aspect": torch.tensor(sides[:, 1] / sides[:, 0], dtype=torch.float32),
        }

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Each image resized to cover the input, and its centre."""
        return {"image": resize(samples, self.image_size)}
