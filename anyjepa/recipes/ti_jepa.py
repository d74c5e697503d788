"""TI-JEPA: predict hidden regions of an image with the help of its caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from anyjepa.core.errors import UserError
from anyjepa.core.masking import MultiBlock
from anyjepa.core.method import Batch, Method
from anyjepa.core.objectives import DISTANCES, OBJECTIVES
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.transformer import Encoder, initialise
from anyjepa.domains import Samples
from anyjepa.domains.image_crops import random_resized_crop, resize
from anyjepa.domains.text_encoders import text_encoder, text_reader
from anyjepa.recipes import Recipe
from anyjepa.recipes.i_jepa import IJepa
from anyjepa.recipes.ti_jepa_method import PairEncoder, TextImage, TextStack
from anyjepa.recipes.ti_jepa_twin import ContrastiveTwin, Tower, TwoTowers

ENCODER = (
    "image_size", "patch_size", "width", "depth", "heads", "expansion", "registers", "positions",
    "position_size",
)  # fmt: skip
CAPTION = 15  # of a sample's uniforms: which of its captions is drawn


@dataclass(frozen=True, kw_only=True)
class TiJepa(Recipe):
    """TI-JEPA (Vo et al. 2025, arXiv:2503.06380).

    A frozen image encoder gives tokens of patches, a frozen text encoder vectors of words. A stack of
    cross-attention writes the text into the image's tokens; a predictor must guess, from the visible patches
    that have read the text, the tokens of four hidden blocks, where the target is the same stack's moving
    average over the whole image and the text. Hidden patches are dropped as pixels, before the image encoder.
    How badly it guesses is the pair's energy: ``anyjepa evaluate RUN --probe captions`` asks which caption
    fits an image, and which image a caption, by the lowest; the energy without any text is taken off, for
    some images are harder than others.

    Only the structure is known from the paper; masks, loss and rates are I-JEPA's, depths of the stack
    (small, medium, large as 2, 4, 8) are guesses, and there is no official code. With the text in both
    branches (``--text-in both``, the paper) the target can be told from the text by itself, and a wrong
    caption is wrong on both sides: ``--text-in context`` leaves targets to the frozen image encoder, and so
    does ``--text-in predictor``, where only what is predicted reads the text. ``tiny`` uses the former, for
    which energies of captions that nobody has confirmed mean something.

    ``--init RUN`` takes the image encoder of a run of i-jepa, as the paper takes a trained one; without it
    the encoder is a random network, which sees colours and edges but knows nothing. ``--text NAME`` takes a
    text encoder of transformers or sentence-transformers, by name or folder; ``hashed``, which needs no
    download, knows words by their letters alone. ``--learn contrastive`` trains the twin that the method is
    measured against: the same frozen encoders, as many learned parameters, two towers and CLIP's loss.

    The embedding of a pair is the mean of the fused tokens; where labels come with it, ``--probe linear`` is
    the head for sentiment that the paper scores, beside which stand words alone and pixels alone. What does
    not help to tell hidden patches is not kept: after ``tiny``, the tone of the words in the simulated scenes
    (``--labels feeling``) is harder to read than before. Of several captions one is drawn a step, and the
    first is embedded.

    ``anyjepa train ti-jepa --data photos/captions.csv --init runs/photos --out runs/pairs --preset tiny``
    """

    name: ClassVar[str] = "ti-jepa"
    paper: ClassVar[str] = "arXiv:2503.06380"
    domain: ClassVar[str] = "image-text"
    example_data: ClassVar[str] = "synthetic-captions"
    proposed: ClassVar[bool] = True
    downstream: ClassVar[tuple[str, ...]] = ("captions",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "medium": {"stack_depth": 4},
        "large": {"stack_depth": 8},
        "tiny": {
            "image_size": (32, 32), "patch_size": 8, "width": 96, "depth": 2, "heads": 3, "text_length": 24,
            "text_width": 128, "stack_heads": 3, "text_in": "context", "drop_text": 0.15,
            "predictor_width": 64, "predictor_depth": 2, "predictor_heads": 2, "initial_std": 0.0,
            "targets": 2, "target_scale": (0.25, 0.25), "target_aspect": (1.0, 1.0),
            "context_scale": (1.0, 1.0),
            "epochs": 40.0, "warmup_epochs": 4.0, "batch_size": 64, "start_learning_rate": 1e-4,
            "learning_rate": 2e-3, "weight_decay": 0.05, "final_weight_decay": 0.05,
        },
    }  # fmt: skip

    image_size: tuple[int, int] = (224, 224)  # height and width in pixels that images are cropped to
    patch_size: int = 14  # side of a patch in pixels
    width: int = 1280  # of the image encoder's tokens
    depth: int = 32  # blocks of the image encoder
    heads: int = 16  # attention heads of the image encoder
    expansion: float = 4.0  # hidden width of the perceptrons, in widths
    registers: int = 0  # learned tokens of the image encoder without a place
    positions: Literal["sin-cos", "learned"] = "sin-cos"  # of the image encoder
    position_size: tuple[int, int] = (0, 0)  # image size whose positions are stretched; 0 0 for --image-size
    text: str = "hashed"  # text encoder: hashed, or a name or folder of transformers
    text_width: int = 256  # of the vectors of hashed
    text_length: int = 77  # words, or pieces of words, that are read of a caption
    caption_column: str = ""  # of the data, or several with commas; empty for the usual names
    stack_depth: int = 2  # blocks of the cross-attention stack: 2 small, 4 medium, 8 large
    stack_heads: int = 20  # attention heads of the stack
    identity_start: bool = False  # the stack begins by changing nothing
    text_in: Literal["both", "context", "predictor"] = "both"  # what reads text: both branches, or one part
    drop_text: float = 0.0  # chance that a pair is seen without its text
    predictor_width: int = 384  # of the predictor's tokens
    predictor_depth: int = 12  # blocks of the predictor
    predictor_heads: int = 12  # attention heads of the predictor
    initial_std: float = 0.02  # of the weights; 0 for one over the square root of a layer's inputs
    crop_area: tuple[float, float] = (1.0, 1.0)  # share of the image that a crop covers: captions tell all
    targets: int = 4  # target blocks an image
    target_scale: tuple[float, float] = (0.15, 0.2)  # share of the image a target block covers
    target_aspect: tuple[float, float] = (0.75, 1.5)  # height over width of a target block
    context_scale: tuple[float, float] = (0.85, 1.0)  # share of the image the context block covers
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same stack stopped, or not even stopped
    momentum: tuple[float, float] = (0.996, 1.0)  # of the target stack at the first and the last step
    objective: Literal["smooth-l1", "l1", "l2", "cosine"] = "smooth-l1"  # distance to the target tokens
    normalise_targets: bool = True  # layer-normalise the target tokens
    energy_masks: int = 4  # sets of masks that an energy is averaged over
    learn: Literal["prediction", "contrastive"] = "prediction"  # the paper's task, or CLIP's, as a control

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        self._images().check()
        if self.width % self.stack_heads:
            raise UserError(f"--width {self.width} does not divide into --stack-heads {self.stack_heads}.")
        if not 0 <= self.drop_text < 1:
            raise UserError(f"--drop-text is a chance from 0 to below 1, not {self.drop_text:g}.")
        for name in ("text_length", "text_width", "stack_depth", "energy_masks"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(self, name)}.")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise UserError("--crop-area is a range of shares, above 0 and at most 1.")

    @classmethod
    def inherited(cls, other: Recipe) -> dict[str, Any] | None:
        """What a run of I-JEPA says of its encoder."""
        return {name: getattr(other, name) for name in ENCODER} if isinstance(other, IJepa) else None

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """Larger images have more patches, of which blocks cover the published shares."""
        if min(facts["height"], facts["width"]) < 64:
            return {}
        return {
            "image_size": (64, 64), "targets": 4, "target_scale": (0.15, 0.2), "target_aspect": (0.75, 1.5),
            "context_scale": (0.85, 1.0),
        }  # fmt: skip

    def reading(self) -> dict[str, Any]:
        """Which column holds the captions."""
        return {"caption_column": self.caption_column} if self.caption_column else {}

    def _images(self) -> IJepa:
        """I-JEPA with this image encoder."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in ENCODER}
        return IJepa(
            **fields, predictor_width=self.predictor_width, predictor_depth=self.predictor_depth,
            predictor_heads=self.predictor_heads, initial_std=self.initial_std,
        )  # fmt: skip

    def method(self, facts: dict[str, Any]) -> Method:
        """Frozen encoders, stack, predictor, target stack and mask sampler; or the contrastive twin."""
        kind = self._images()
        image, predictor = kind.parts(facts)
        text = text_encoder(self.text, self.text_width)
        stack = TextStack(self.width, text.width, self.stack_depth, self.stack_heads, self.expansion)
        initialise(stack, self.initial_std or None)
        if self.identity_start:
            stack.begin_as_identity()
        if self.learn == "contrastive":
            return self._twin(image, text, learned(stack) + learned(predictor))
        return TextImage(
            PairEncoder(image, text, stack), predictor, self._target(stack), self._sampler(kind.grid),
            OBJECTIVES[self.objective], DISTANCES[self.objective], normalise_targets=self.normalise_targets,
            place=self.text_in, drop_text=self.drop_text, energy_masks=self.energy_masks,
        )  # fmt: skip

    def _sampler(self, grid: tuple[int, int]) -> MultiBlock:
        try:
            return MultiBlock(grid, self.targets, self.target_scale, self.target_aspect, self.context_scale)
        except ValueError as problem:
            raise UserError(f"these masks cannot be drawn: {problem}.") from problem

    def _target(self, stack: nn.Module) -> nn.Module:
        if self.text_in != "both":
            return nn.Identity()
        if self.teacher == "ema":
            return EmaTeacher(stack, *self.momentum)
        return SameEncoder(gradient=self.teacher == "collapse")

    def _twin(self, image: Encoder, text: Any, parameters: int) -> ContrastiveTwin:
        """Two towers with about as many learned parameters as stack and predictor have."""

        def towers(depth: int) -> tuple[Tower, Tower]:
            made = [Tower(width, self.width, depth, self.stack_heads) for width in (self.width, text.width)]
            return made[0], made[1]

        one, two = (sum(map(learned, towers(depth))) for depth in (1, 2))
        found = towers(max(1, 1 + round((parameters - one) / (two - one))))
        for tower in found:
            initialise(tower, self.initial_std or None)
        return ContrastiveTwin(TwoTowers(image, text, found))

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """Each image with one of its captions; a random crop of it where --crop-area is below 1."""
        said = [
            str(one["captions"][int(chance * len(one["captions"]))]) if len(one["captions"]) else ""
            for one, chance in zip(samples, uniforms[:, CAPTION], strict=True)
        ]
        if min(self.crop_area) >= 1:
            return self._batch(samples, said)
        pictures = [one["image"] for one in samples]
        image = random_resized_crop(pictures, uniforms, self.image_size, self.crop_area, (0.75, 4 / 3))
        return {"image": image, **self.read(said)}

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Each image resized to cover the input, and its centre, with its first caption."""
        return self._batch(
            samples, [str(one["captions"][0]) if len(one["captions"]) else "" for one in samples]
        )

    def read(self, captions: Sequence[str]) -> Batch:
        """The part of a batch that is text: ``ids`` and ``said``."""
        ids, said = text_reader(self.text, self.text_length)(captions)
        return {"ids": ids, "said": said}

    def _batch(self, samples: list[np.ndarray] | np.ndarray, captions: Sequence[str]) -> Batch:
        return {"image": resize([one["image"] for one in samples], self.image_size), **self.read(captions)}


def learned(module: nn.Module) -> int:
    """Parameters that are trained."""
    return sum(one.numel() for one in module.parameters() if one.requires_grad)
