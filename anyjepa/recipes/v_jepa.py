"""V-JEPA and V-JEPA 2: predict the embeddings of hidden tubes of a video from the rest of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from anyjepa.core.errors import UserError
from anyjepa.core.families import FamilyJepa
from anyjepa.core.masking import MaskSampler, RandomPatches
from anyjepa.core.method import Batch
from anyjepa.core.objectives import OBJECTIVES
from anyjepa.core.positions import AxisSinCos, Rotary
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.transformer import Encoder, Predictor, initialise
from anyjepa.core.tube_masks import RandomTubes, TubeBlocks
from anyjepa.domains.video_clips import cover, random_crops
from anyjepa.domains.video_tubelets import Tubelets
from anyjepa.recipes import Recipe, flag


@dataclass(frozen=True, kw_only=True)
class VJepa(Recipe):
    """V-JEPA (Bardes et al. 2024, arXiv:2404.08471) and V-JEPA 2 (Assran et al. 2025, arXiv:2506.09985).

    A clip is cut into tubelets, patches that last two frames. Whole tubes are hidden: blocks of the frame,
    the same in every frame, so that nothing can be copied from the moment before. A context encoder sees the
    rest; a narrow predictor must guess the tokens that a teacher, the encoder's exponential moving average,
    gives the hidden tubes of the whole clip. Each clip is masked twice, by eight small blocks and by two
    large ones, each with a mask token of its own, and the teacher runs once for both. The distance is L1 to
    layer-normalised targets (the paper's formula shows them raw: ``--normalise-targets false``).

    The defaults are V-JEPA's ViT-L/16 as released: 16 frames, every fourth of 30 a second. Epochs are 90,000
    steps of 3,072 clips over the 2 million videos of VideoMix2M, and the schedules are planned for 1.25 times
    as many and stopped. ``vit-h`` is its larger size. ``v-jepa-2`` is the first phase of V-JEPA 2 with ViT-g
    (240,000 steps over 22 million samples, constant rates, rotary positions, 4 frames a second); its second
    phase is ``--init RUN --frames 64 --image-size 384 384`` with a falling learning rate; ``v-jepa-2-l`` is
    its ViT-L. The action-conditioned model is ``v-jepa-2-ac``.

    Where the released code and the paper's intent differ, ours is the intent: contexts and predictions are
    thinned to one width at random, where the released collator cuts all to the smallest of the batch from the
    end, so that the last frames are lost (``--published true`` brings that back); one aspect ratio a block
    and not a batch; rotary pairs turn together (``--published-rotary true`` is the released V-JEPA 2, needed
    for its weights and for transformers). The gradient is clipped over encoder and predictor together, and
    from the first step.

    ``tiny`` is for trying things on a CPU: 200 steps on ``synthetic-video``, half a minute. Beside the loss
    it asks predictions to vary (``--variance``, which the released settings leave at 0), and its learning
    rate is low: without them so short a training loses what a random encoder knows of motion
    (docs/experiments.md).

    Videos are sampled by time, ``--fps`` frames a second whatever their own rate, and decoded only from the
    key frame before a clip. A video longer than ``--video-seconds`` counts as several samples of one group.
    One that is shorter than a clip ends on its last frame; one shorter than half a clip is named and left
    out. An image is a video of one frame. Pixels are normalised by statistics of your own data.

    The embedding of a video is the average of the teacher's tokens over its middle clip, or over ``--clips``
    of them, evenly spaced (the paper: 8 of Kinetics, 2 of Something-Something), each seen by itself; its own
    probe is ``anyjepa evaluate --probe attentive``.

    ``anyjepa train v-jepa --data videos/ --out runs/video --preset tiny --fps 8``
    """

    name: ClassVar[str] = "v-jepa"
    paper: ClassVar[str] = "arXiv:2404.08471"
    domain: ClassVar[str] = "video"
    example_data: ClassVar[str] = "synthetic-video"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "vit-h": {"width": 1280, "depth": 32},
        "v-jepa-2": {
            "fps": 4.0, "image_size": (256, 256), "width": 1408, "depth": 40, "heads": 22,
            "expansion": 48 / 11, "predictor_heads": 12, "positions": "rotary",
            "epochs": 33.51, "warmup_epochs": 1.676, "start_learning_rate": 1e-4, "learning_rate": 5.25e-4,
            "final_learning_rate": 5.25e-4, "final_weight_decay": 0.04, "momentum": (0.99925, 0.99925),
            "gradient_clip": 0.0,
        },
        "tiny": {
            "frames": 8, "fps": 8.0, "image_size": (32, 32), "patch_size": 8,
            "width": 64, "depth": 3, "heads": 4,
            "predictor_width": 32, "predictor_depth": 2, "predictor_heads": 4, "initial_std": 0.0,
            "positions": "rotary", "crop_area": (0.8, 1.0), "flip": 0.0,
            "epochs": 16.7, "warmup_epochs": 1.67, "batch_size": 64, "momentum": (0.99, 1.0),
            "start_learning_rate": 1e-4, "learning_rate": 5e-4, "final_weight_decay": 0.04, "variance": 1.0,
        },
    }  # fmt: skip
    presets["v-jepa-2-l"] = presets["v-jepa-2"] | {"width": 1024, "depth": 24, "heads": 16, "expansion": 4.0}

    epochs: float = 138.24  # passes over the data
    batch_size: int = 3072  # samples a step, over all processes
    learning_rate: float = 6.25e-4  # at the end of the warm-up
    warmup_epochs: float = 18.432  # epochs in which the learning rate rises
    gradient_clip: float = 10.0  # largest gradient norm; 0 for no clipping
    stretch: float = 1.25  # schedules are planned for so many times the training, whose end they never reach
    frames: int = 16  # of a clip
    fps: float = 7.5  # frames a second that videos are sampled at; 0 for as they come
    video_seconds: float = 10.0  # a longer video counts as several samples of at least this length
    shortest: float = 0.5  # share of a clip that a video must last; its last frame is held
    frame_rate: float = 0.0  # of image sequences and arrays, which do not say it; 0 for --fps
    clips: int = 1  # of a video that its embedding is the average over, evenly spaced
    decode_side: int = 0  # shorter side that frames are scaled down to as decoded; 0 for 1.5 --image-size
    image_size: tuple[int, int] = (224, 224)  # height and width in pixels that clips are cropped to
    tubelet: int = 2  # frames of a token
    patch_size: int = 16  # side of a token in pixels
    width: int = 1024  # of the encoder's tokens
    depth: int = 24  # blocks of the encoder
    heads: int = 16  # attention heads of the encoder
    expansion: float = 4.0  # hidden width of the perceptrons, in widths
    positions: Literal["sin-cos", "rotary"] = "sin-cos"  # fixed and added, or turning queries and keys
    uniform_power: bool = True  # sin-cos: as much width for time as for rows and columns; else half of it
    position_size: tuple[int, int] = (0, 0)  # sin-cos: image size whose positions are stretched; 0 0 for own
    position_frames: int = 0  # sin-cos: frames whose positions are stretched; 0 for --frames
    published_rotary: bool = False  # rotary: with the released frequencies, which do not go with the pairs
    predictor_width: int = 384  # of the predictor's tokens
    predictor_depth: int = 12  # blocks of the predictor
    predictor_heads: int = 16  # attention heads of the predictor
    mask_tokens: int = 0  # learned mask tokens of the predictor; 0 for one a mask family
    initial_std: float = 0.02  # of the weights; 0 for one over the square root of a layer's inputs
    crop_area: tuple[float, float] = (0.3, 1.0)  # share of the frame a training crop covers
    crop_aspect: tuple[float, float] = (0.75, 1.35)  # width over height of a training crop
    flip: float = 0.5  # chance that a clip is mirrored, left to right
    mask: Literal["multi-block", "tube", "random"] = "multi-block"  # blocks, patches, or tokens one by one
    families: str = "8x0.15,2x0.7"  # mask families: blocks x share of the frame that each covers
    temporal_scale: float = 1.0  # share of the clip that a block lasts
    block_aspect: tuple[float, float] = (0.75, 1.5)  # height over width of a block
    tube_ratio: float = 0.9  # share of the patches that --mask tube hides
    context_frames: int = 0  # the context keeps to the first so many frames (causal); 0 for all
    predict: Literal["blocks", "unseen", "outside"] = "blocks"  # the blocks, all unseen, or around the blocks
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.998, 1.0)  # of the teacher at the first step and the planned last one
    objective: Literal["l1", "smooth-l1", "l2", "cosine"] = "l1"  # distance to the target tokens
    normalise_targets: bool = True  # layer-normalise the target tokens
    variance: float = 0.0  # weight of the missing spread of predicted tokens
    published: bool = False  # masks cut as the released collator does

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        for name, size, part, fix in zip(
            ("frames", "height", "width"), self._shape, self._token, ("tubelet", "patch_size", "patch_size"),
            strict=True,
        ):  # fmt: skip
            if size < part or size % part:
                raise UserError(
                    f"clips of {size} {'frames' if name == 'frames' else f'pixels in {name}'} do not divide "
                    f"into tokens of {part}: choose a multiple of it, or another {flag(fix)}."
                )
        if self.clips < 1:
            raise UserError(f"--clips must be 1 or more, not {self.clips}.")
        for name in ("stretch", "video_seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} must be above 0, not {getattr(self, name):g}.")
        self.check_heads("", "predictor_")
        for width, heads, part in [
            (self.width, self.heads, ""),
            (self.predictor_width, self.predictor_heads, "predictor-"),
        ]:
            if self.positions == "rotary" and (width // heads < 6 or width // heads % 2):
                raise UserError(
                    f"rotary positions need heads of an even width of at least 6, and --{part}width {width} "
                    f"over --{part}heads {heads} gives {width // heads}."
                )
        spanned = (self.position_frames, *self.position_size)
        if any(size % part for size, part in zip(spanned, self._token, strict=True)):
            raise UserError(
                "--position-size and --position-frames must be multiples of --patch-size and --tubelet."
            )
        if 0 < self.mask_tokens < len(self._families()):
            raise UserError(f"--mask-tokens {self.mask_tokens} is less than one a family of --families.")

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (self.frames, *self.image_size)

    @property
    def _token(self) -> tuple[int, int, int]:
        return (self.tubelet, self.patch_size, self.patch_size)

    @property
    def _grid(self) -> tuple[int, int, int]:
        time, rows, columns = (size // part for size, part in zip(self._shape, self._token, strict=True))
        return time, rows, columns

    def _families(self) -> list[tuple[int, float]]:
        """Blocks and the share of the frame that each covers, of each family."""
        found = [re.fullmatch(r"\s*(\d+)\s*x\s*(\d*\.?\d+)\s*", part) for part in self.families.split(",")]
        if not all(found):
            raise UserError(
                f"--families '{self.families}' is not of the form 8x0.15,2x0.7 (blocks x share of the frame)."
            )
        return [(int(match[1]), float(match[2])) for match in found if match]

    def reading(self) -> dict[str, Any]:
        """How clips are sampled from videos."""
        return {
            "frames": self.frames,
            "fps": self.fps,
            "video_seconds": self.video_seconds,
            "shortest": self.shortest,
            "frame_rate": self.frame_rate,
            "decode_side": self.decode_side or round(1.5 * min(self.image_size)),
            "tubelet": self.tubelet,
            "clips": self.clips,
        }

    def planned(self, steps: int) -> int:
        """1.25 times the training as published."""
        return max(1, round(steps * self.stretch))

    def parts(self, facts: dict[str, Any]) -> tuple[Encoder, Predictor]:
        """Encoder and predictor, initialised as published."""
        fixed = self.positions == "sin-cos"
        height, width = (
            spanned or own for spanned, own in zip(self.position_size, self.image_size, strict=True)
        )
        spanned = (self.position_frames or self.frames, height, width) if fixed else None
        tubelets = Tubelets(
            spanned, self.tubelet, self.patch_size, facts["channels"], self.width, facts["mean"], facts["std"]
        )
        encoder = Encoder(
            tubelets, self._table(self.width) if fixed else None, self.width, self.depth, self.heads,
            self.expansion, rotary=None if fixed else self._rotary(self.width // self.heads),
        )  # fmt: skip
        predictor = Predictor(
            self.width, self._table(self.predictor_width) if fixed else None, self.predictor_width,
            self.predictor_depth, self.predictor_heads,
            rotary=None if fixed else self._rotary(self.predictor_width // self.predictor_heads),
            mask_tokens=self.mask_tokens or len(self._families() if self.mask != "tube" else [0]),
        )  # fmt: skip
        for part in (encoder, predictor):
            initialise(part, self.initial_std or None)
        # as released; what the families ask for differs from the first step on
        nn.init.zeros_(predictor.mask_token)
        return encoder, predictor

    def method(self, facts: dict[str, Any]) -> FamilyJepa:
        """Tokenizer, encoder, predictor, teacher and mask samplers."""
        samplers = self._samplers()
        encoder, predictor = self.parts(facts)
        target = (
            EmaTeacher(encoder, *self.momentum)
            if self.teacher == "ema"
            else SameEncoder(gradient=self.teacher == "collapse")
        )
        return FamilyJepa(
            encoder, predictor, target, samplers, OBJECTIVES[self.objective], self.normalise_targets,
            self.variance, self.stretch, self.frames if self.clips > 1 else 0,
        )  # fmt: skip

    def _table(self, width: int) -> AxisSinCos:
        even = 2 * math.ceil(width / 6)
        return AxisSinCos(width, (even,) * 3 if self.uniform_power else (width // 2, width // 4, width // 4))

    def _rotary(self, head: int) -> Rotary:
        return Rotary(head, 3, pairs="published" if self.published_rotary else "adjacent")

    def _samplers(self) -> list[MaskSampler]:
        """One a family; the controls hide as many tokens as the families' blocks."""
        grid = self._grid
        try:
            if self.mask == "tube":
                return [RandomTubes(grid, self.tube_ratio)]
            blocks = [
                TubeBlocks(
                    grid, count, scale, self.temporal_scale, self.block_aspect,
                    inverted=self.predict == "outside", everything=self.predict == "unseen",
                    context_slices=self.context_frames // self.tubelet, published=self.published,
                )
                for count, scale in self._families()
            ]  # fmt: skip
        except ValueError as problem:
            raise UserError(
                f"these masks cannot be drawn: {problem}; change --families or --patch-size."
            ) from problem
        if self.mask == "multi-block":
            return list(blocks)
        return [RandomPatches(math.prod(grid), 1, one.target_width, one.context_width) for one in blocks]

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """A random resized crop of each clip, the same in all its frames, mirrored or not."""
        return {
            "video": random_crops(
                samples, uniforms, self.frames, self.image_size, self.crop_area, self.crop_aspect, self.flip
            )
        }

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Each clip resized to cover the input, and its centre."""
        several = self.clips > 1 and max(len(sample) for sample in samples) > self.frames
        return {"video": cover(samples, self.frames * (self.clips if several else 1), self.image_size)}
