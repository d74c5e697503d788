"""I-JEPA: predict the embeddings of image blocks from the rest of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from torch import nn

from anyjepa.core.errors import UserError
from anyjepa.core.masking import MaskSampler, MultiBlock, RandomPatches
from anyjepa.core.method import Batch, MaskedJepa
from anyjepa.core.objectives import OBJECTIVES
from anyjepa.core.positions import Learned, SinCos
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.transformer import Encoder, Predictor, initialise
from anyjepa.domains import Samples
from anyjepa.domains.image_crops import random_resized_crop, resize
from anyjepa.domains.image_patches import ImagePatches
from anyjepa.recipes import Recipe

PredictorKind = TypeVar("PredictorKind", bound=Predictor)

SMALL_GREY = 40  # pixels a side of drawn digits and such


@dataclass(frozen=True, kw_only=True)
class IJepa(Recipe):
    """I-JEPA (Assran et al., CVPR 2023, arXiv:2301.08243).

    An image is cut into patches. A context encoder sees one large block of them, less four smaller target
    blocks; a narrow predictor must guess, for each target block, the tokens that a teacher gives it, where
    the teacher is the encoder's exponential moving average and sees the whole image. No view augmentation,
    no labels, no pixels to reconstruct.

    The defaults are ViT-H/14 on 224 pixels as released; ``vit-b``, ``vit-l`` are the paper's smaller ones.
    ``tiny`` is for trying things on a CPU with small photographs, ``tiny-grey`` for drawn digits and such,
    of which most patches are empty.
    The released code and the paper differ, and where they do the released behaviour is what gave the
    published numbers: smooth-L1 on layer-normalised targets (the paper writes squared distance,
    ``--objective l2 --normalise-targets false``), 300 epochs with 40 of warm-up and a cosine weight decay.
    Three behaviours of the released mask collator are defects that we do not repeat by default:
    blocks that never reach the last row and column, contexts cut to the smallest of the batch from the
    bottom of the image up, and one draw for both scale and aspect ratio of all targets of a batch.
    ``--published true`` brings them back.

    The embedding of an image is the average of the teacher's tokens. Pixels are normalised by statistics of
    your own data, which are measured when training starts and stored with the weights.

    ``anyjepa train i-jepa --data photos/ --out runs/photos --preset tiny``
    """

    name: ClassVar[str] = "i-jepa"
    paper: ClassVar[str] = "arXiv:2301.08243"
    domain: ClassVar[str] = "image"
    example_data: ClassVar[str] = "digits"
    proposed: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "vit-l": {
            "patch_size": 16, "width": 1024, "depth": 24, "epochs": 600.0,
        },
        "vit-b": {
            "patch_size": 16, "width": 768, "depth": 12, "heads": 12, "predictor_depth": 6, "epochs": 600.0,
        },
        "tiny": {
            "image_size": (32, 32), "patch_size": 4, "width": 96, "depth": 4, "heads": 3,
            "predictor_width": 48, "predictor_depth": 2, "predictor_heads": 3, "initial_std": 0.0,
            "epochs": 50.0, "warmup_epochs": 5.0, "batch_size": 64, "momentum": (0.98, 1.0),
            "start_learning_rate": 1e-4, "learning_rate": 1.5e-3,
            "weight_decay": 0.05, "final_weight_decay": 0.05,
        },
    }  # fmt: skip
    # images that are mostly empty need few tokens and many steps (docs/experiments.md)
    presets["tiny-grey"] = presets["tiny"] | {
        "image_size": (28, 28), "patch_size": 7, "crop_area": (0.6, 1.0), "momentum": (0.99, 1.0),
    }  # fmt: skip

    image_size: tuple[int, int] = (224, 224)  # height and width in pixels that images are cropped to
    patch_size: int = 14  # side of a patch in pixels
    width: int = 1280  # of the encoder's tokens
    depth: int = 32  # blocks of the encoder
    heads: int = 16  # attention heads of the encoder
    expansion: float = 4.0  # hidden width of the encoder's perceptrons, in widths
    registers: int = 0  # learned tokens without a place, such as the class token of an imported ViT
    positions: Literal["sin-cos", "learned"] = "sin-cos"  # of the encoder: fixed, or a table that is learned
    position_size: tuple[int, int] = (0, 0)  # image size whose positions are stretched; 0 0 for --image-size
    predictor_width: int = 384  # of the predictor's tokens
    predictor_depth: int = 12  # blocks of the predictor
    predictor_heads: int = 16  # attention heads of the predictor
    initial_std: float = 0.02  # of the weights; 0 for one over the square root of a layer's inputs
    crop_area: tuple[float, float] = (0.3, 1.0)  # share of the image a training crop covers
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)  # width over height of a training crop
    mask: Literal["multi-block", "random"] = "multi-block"  # blocks, or single patches at random
    targets: int = 4  # target blocks an image
    target_scale: tuple[float, float] = (0.15, 0.2)  # share of the image a target block covers
    target_aspect: tuple[float, float] = (0.75, 1.5)  # height over width of a target block
    context_scale: tuple[float, float] = (0.85, 1.0)  # share of the image the context block covers
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.996, 1.0)  # of the teacher at the first and the last step
    objective: Literal["smooth-l1", "l1", "l2", "cosine"] = "smooth-l1"  # distance to the target tokens
    normalise_targets: bool = True  # layer-normalise the target tokens
    published: bool = False  # masks with the released collator's defects

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        for name, side in zip(("height", "width"), self.image_size, strict=True):
            if side < self.patch_size:
                raise UserError(
                    f"an image {name} of {side} pixels is smaller than a patch of {self.patch_size}: "
                    "make --patch-size smaller or --image-size larger."
                )
            if side % self.patch_size:
                raise UserError(
                    f"--image-size {self.image_size[0]} {self.image_size[1]} does not divide into patches of "
                    f"{self.patch_size} pixels: choose multiples of it, or another --patch-size."
                )
        for side in self.position_size:
            if side % self.patch_size or (side and self.positions == "learned"):
                raise UserError(
                    "--position-size is 0 0, or for sin-cos positions two multiples of --patch-size "
                    f"{self.patch_size}, not {self.position_size[0]} {self.position_size[1]}."
                )
        self.check_heads("", "predictor_")

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """Small grey images have a preset; larger ones as many patches as ``tiny``, of more pixels each."""
        smallest = min(facts["height"], facts["width"])
        if facts["channels"] == 1 and smallest <= SMALL_GREY:
            return {"preset": "tiny-grey"}
        return {"image_size": (64, 64), "patch_size": 8} if smallest >= 64 else {}

    def method(self, facts: dict[str, Any]) -> MaskedJepa:
        """Tokenizer, encoder, predictor, teacher and mask sampler, initialised as published."""
        encoder, predictor = self.parts(facts)
        return MaskedJepa(
            encoder,
            predictor,
            self._target(encoder),
            self._sampler(self.grid),
            OBJECTIVES[self.objective],
            self.normalise_targets,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    def parts(
        self, facts: dict[str, Any], kind: type[PredictorKind] = Predictor
    ) -> tuple[Encoder, PredictorKind]:
        """Encoder and predictor, of the given kind, initialised."""
        spanned = self.position_size if all(self.position_size) else self.image_size
        patches = ImagePatches(
            spanned, self.patch_size, facts["channels"], self.width, facts["mean"], facts["std"]
        )
        # the released tables give the first half of the vector to the column
        fixed, learned = SinCos(self.width, 2, order=(1, 0)), self.positions == "learned"
        encoder = Encoder(
            patches, Learned(self.grid, self.width) if learned else fixed, self.width, self.depth,
            self.heads, self.expansion, registers=self.registers,
        )  # fmt: skip
        predictor = kind(
            self.width,
            SinCos(self.predictor_width, 2, order=(1, 0)),
            self.predictor_width,
            self.predictor_depth,
            self.predictor_heads,
        )
        for part in (encoder, predictor):
            initialise(part, self.initial_std or None)
        return encoder, predictor

    def _target(self, encoder: nn.Module) -> nn.Module:
        if self.teacher == "ema":
            return EmaTeacher(encoder, *self.momentum)
        return SameEncoder(gradient=self.teacher == "collapse")

    def _sampler(self, grid: tuple[int, int]) -> MaskSampler:
        try:
            blocks = MultiBlock(
                grid, self.targets, self.target_scale, self.target_aspect, self.context_scale,
                published=self.published,
            )  # fmt: skip
        except ValueError as problem:
            raise UserError(f"these masks cannot be drawn: {problem}.") from problem
        if self.mask == "multi-block":
            return blocks
        patches = grid[0] * grid[1]
        context = min(blocks.context_width, patches - self.targets * blocks.target_width)
        return RandomPatches(patches, self.targets, blocks.target_width, context)

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """A random resized crop of each image; no other augmentation."""
        return {
            "image": random_resized_crop(samples, uniforms, self.image_size, self.crop_area, self.crop_aspect)
        }

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Each image resized to cover the input, and its centre."""
        return {"image": resize(samples, self.image_size)}
