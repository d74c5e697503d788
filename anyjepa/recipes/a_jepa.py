"""A-JEPA: predict the embeddings of hidden parts of a spectrogram from the rest of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch
from anyjepa.core.positions import SinCos
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.transformer import Encoder, Predictor, initialise
from anyjepa.domains import Samples
from anyjepa.domains.audio_masks import RandomTokens, SpectrogramBlocks
from anyjepa.domains.audio_mel import LogMel
from anyjepa.domains.audio_patches import MelPatches
from anyjepa.recipes import Recipe, flag
from anyjepa.recipes.a_jepa_method import AudioJepa, Sampler, hard_share, inverse_share

LONG = 192  # frames of a window where clips are long


@dataclass(frozen=True, kw_only=True)
class AJepa(Recipe):
    """A-JEPA (Fei, Fan and Huang 2023, arXiv:2311.15830).

    A log-mel spectrogram is cut into patches. A context encoder sees some of them; a predictor must guess
    the tokens that a teacher, the encoder's exponential moving average, gives to hidden ones, having heard
    the whole. The distance is squared. The loudness of every sound is changed by up to 6 dB.

    The defaults are the paper's ViT-B: sound of 16 kHz, 128 mel bands, 1,024 frames of 10 ms, patches of
    16 x 16. No code was released and the text is silent on much: momentum, warm-up and weight decay here are
    I-JEPA's, targets are layer-normalised as there, standardised log-mel has a deviation of one half as in
    AST and Audio-MAE (by statistics of your own data). The front end is Kaldi's, as theirs.

    ``--mask curriculum`` is the paper's: more and more of the steps, by the square root of the training done,
    have hard masks (three small blocks) instead of easy ones (four large blocks); ``inverse`` goes the other
    way. What "time-frequency aware" hides beside the blocks could not be established; ``--geometry`` of hard
    masks has three readings: ``rect`` (nothing more), ``cross`` (the context also loses all patches of the
    same time, and those of the same frequencies nearby) and ``strip`` (blocks are whole stretches of time and
    whole bands). Taken literally, over the whole spectrogram, a cross leaves no context in most draws. Sizes
    are shares of the grid, for square blocks do not fit a long thin one.

    Which masks are best on sound is open: later work found random ones (``--mask random``, also of ``tiny``)
    better than blocks. Here, on spoken digits of speakers that were not heard, 400 steps, means of three
    seeds, the curriculum with crosses reads 0.421, ``inverse`` 0.433, easy blocks 0.399, random masks 0.390
    and the untrained network 0.425 (docs/experiments.md). That decides nothing, so the default is the paper's
    curriculum, with crosses. The 640 steps of ``tiny`` are too few for it to beat its untrained encoder on
    every seed.

    The embedding averages the teacher's tokens over time, each row of frequencies by itself, and sets the
    rows side by side, since their mean (``--pooling mean``, as the paper fine-tunes) forgets which frequency
    was which. A clip longer than a window is covered by several. A shorter one is repeated from its beginning
    (the paper), or with ``--fill silence`` what lies behind it is neither seen, predicted nor pooled.

    Regularised masking, the paper's way of fine-tuning, is ``anyjepa evaluate --probe finetune --unread
    0.1``. Who speaks, so that no speaker is on both sides of a split, is read from names by ``--labels
    'name:(?P<label>[0-9])_(?P<group>[a-z]+)_'`` (of ``7_jackson_3.wav``), or from a table.

    ``anyjepa train a-jepa --data sounds/ --out runs/sound --preset tiny``
    """

    name: ClassVar[str] = "a-jepa"
    paper: ClassVar[str] = "arXiv:2311.15830"
    domain: ClassVar[str] = "audio"
    example_data: ClassVar[str] = "synthetic-audio"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {
            "rate": 8000.0, "mels": 32, "frames": 64, "patch": (8, 8), "width": 64, "depth": 3, "heads": 4,
            "predictor_width": 48, "predictor_depth": 2, "predictor_heads": 4, "initial_std": 0.0,
            "mask": "random", "epochs": 40.0, "warmup_epochs": 4.0, "batch_size": 32,
            "momentum": (0.99, 1.0), "start_learning_rate": 1e-4, "learning_rate": 1.5e-3,
            "weight_decay": 0.05, "final_weight_decay": 0.05,
        },
    }  # fmt: skip

    epochs: float = 24.0  # passes over the data
    batch_size: int = 512  # samples a step, over all processes
    start_learning_rate: float = 1e-6  # at the first step
    learning_rate: float = 2e-4  # at the end of the warm-up
    warmup_epochs: float = 3.2  # epochs in which the learning rate rises
    rate: float = 16000.0  # samples a second that sounds are resampled to; 0 for the commonest of the data
    window: float = 0.025  # seconds of a frame of the spectrogram
    hop: float = 0.01  # seconds from one frame to the next
    mels: int = 128  # mel bands
    low: float = 20.0  # Hz where the lowest band begins
    high: float = 0.0  # Hz where the highest band ends; 0 for half the rate
    fft: int = 0  # points of the Fourier transform; 0 for the power of two that a frame fills
    frames: int = 1024  # of a window: what a step sees of a clip
    fill: Literal["repeat", "silence"] = "repeat"  # clips shorter than a window: again, or nothing is added
    clip_seconds: float = 60.0  # a longer recording counts as several samples of at least this length
    array_rate: float = 0.0  # samples a second of arrays that do not say theirs; 0 for --rate
    deviation: float = 0.5  # of the standardised log-mel
    gain: float = 6.0  # decibels by which a sound is made louder or softer at most, in training
    patch: tuple[int, int] = (16, 16)  # frames and mel bands of a token
    width: int = 768  # of the encoder's tokens
    depth: int = 12  # blocks of the encoder
    heads: int = 12  # attention heads of the encoder
    predictor_width: int = 512  # of the predictor's tokens
    predictor_depth: int = 16  # blocks of the predictor
    predictor_heads: int = 16  # attention heads of the predictor
    initial_std: float = 0.02  # of the weights; 0 for one over the square root of a layer's inputs
    mask: Literal["curriculum", "inverse", "easy", "hard", "random"] = "curriculum"  # of what is hidden
    targets: int = 4  # easy masks: blocks to predict
    target_scale: tuple[float, float] = (
        0.15,
        0.2,
    )  # easy masks: share of the spectrogram that a block covers
    hard_targets: int = 3  # hard masks: blocks to predict
    hard_scale: tuple[float, float] = (0.05, 0.075)  # hard masks: share that a block covers
    geometry: Literal["rect", "cross", "strip", "time", "frequency"] = "cross"  # of hard masks
    block_aspect: tuple[float, float] = (0.75, 1.5)  # of a block's share of frequencies over that of time
    context_scale: tuple[float, float] = (0.85, 1.0)  # share of the spectrogram the context block covers
    least_context: float = 0.15  # share of the tokens that the context never falls below
    hidden: float = 0.5  # random masks: share of the tokens that is predicted
    pooling: Literal["mean", "bands"] = "bands"  # all tokens, or each row of frequencies by itself
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.996, 1.0)  # of the teacher at the first and the last step
    objective: Literal["l2", "l1", "smooth-l1", "cosine"] = "l2"  # distance to the target tokens
    normalise_targets: bool = True  # layer-normalise the target tokens

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        for name in ("window", "hop", "mels", "frames", "deviation", "clip_seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} must be above 0, not {getattr(self, name):g}.")
        for name, size, part in zip(("frames", "mels"), (self.frames, self.mels), self.patch, strict=True):
            if part < 1 or size < part or size % part:
                raise UserError(
                    f"--{name} {size} does not divide into patches of {part}: choose a multiple of it, or "
                    "another --patch."
                )
        if self.high and self.high <= self.low:
            raise UserError(f"--high {self.high:g} Hz is not above --low {self.low:g} Hz.")
        self.check_heads("", "predictor_")

    def reading(self) -> dict[str, Any]:
        """The rate, how long a crop and a sample are, and the front end by which data is measured."""
        crop = (self.frames - 1) * self.hop + self.window
        return {
            "rate": self.rate, "crop": crop, "clip_seconds": self.clip_seconds, "shortest": self.window,
            "array_rate": self.array_rate, "window": self.window, "hop": self.hop, "mels": self.mels,
            "low": self.low, "high": self.high, "fft": self.fft, "frames": self.frames,
            "patch": list(self.patch), "fill": self.fill,
        }  # fmt: skip

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """Long clips are seen by windows of two seconds; behind short ones there is nothing to copy."""
        if facts["seconds"] < facts["crop"]:
            return {"fill": "silence"}
        return {"frames": LONG} if facts["seconds"] >= LONG * facts["hop"] else {}

    @property
    def grid(self) -> tuple[int, int]:
        """Columns of time and rows of frequency of a window."""
        return self.frames // self.patch[0], self.mels // self.patch[1]

    def method(self, facts: dict[str, Any]) -> AudioJepa:
        """Front end, tokenizer, encoder, predictor, teacher and mask samplers."""
        high = self.high or facts["rate"] / 2
        if high > facts["rate"] / 2 + 1e-6 or self.low >= high:
            raise UserError(
                f"mel bands from {self.low:g} to {high:g} Hz are not within sound of {facts['rate']:g} Hz: "
                "change --low, --high or --rate."
            )
        log_mel = LogMel(facts["rate"], self.window, self.hop, self.mels, self.low, self.high, self.fft)
        patches = MelPatches(log_mel, self.patch, self.width, facts["mean"], facts["std"], self.deviation)
        encoder = Encoder(patches, SinCos(self.width, 2), self.width, self.depth, self.heads)
        predictor = Predictor(
            self.width, SinCos(self.predictor_width, 2), self.predictor_width, self.predictor_depth,
            self.predictor_heads,
        )  # fmt: skip
        for part in (encoder, predictor):
            initialise(part, self.initial_std or None)
        easy, hard = self.samplers()
        target = (
            EmaTeacher(encoder, *self.momentum)
            if self.teacher == "ema"
            else SameEncoder(gradient=self.teacher == "collapse")
        )
        falling = self.mask == "inverse"
        return AudioJepa(
            encoder, predictor, target, easy, hard, inverse_share if falling else hard_share,
            log_mel.samples(self.frames), self.fill, self.gain, self.objective, self.normalise_targets,
            self.pooling, (facts["seconds"], facts["crop"]),
        )  # fmt: skip

    def samplers(self) -> tuple[Sampler | None, Sampler | None]:
        """Of easy and of hard masks; None for one that `mask` has no use for."""
        try:
            if self.mask == "random":
                return RandomTokens(math.prod(self.grid), self.grid[1], self.hidden), None
            easy = SpectrogramBlocks(
                self.grid, self.targets, self.target_scale, self.block_aspect, self.context_scale, "rect",
                self.least_context,
            )  # fmt: skip
            hard = SpectrogramBlocks(
                self.grid, self.hard_targets, self.hard_scale, self.block_aspect, self.context_scale,
                self.geometry, self.least_context,
            )  # fmt: skip
        except ValueError as problem:
            raise UserError(f"these masks cannot be drawn: {problem}.") from problem
        return (None if self.mask == "hard" else easy), (None if self.mask == "easy" else hard)

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """A random crop of each sound that is longer than a window; no other augmentation here."""
        size = round((self.frames - 1) * self.hop * self.rate) + round(self.window * self.rate)
        cut = []
        for sound, chance in zip(samples, uniforms[:, 0], strict=True):
            start = int(chance * (len(sound) - size + 1)) if len(sound) > size else 0
            cut.append(sound[start : start + size])
        return side_by_side(cut)

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Whole sounds, side by side."""
        return side_by_side(samples)


def side_by_side(samples: list[np.ndarray] | np.ndarray) -> Batch:
    """Sounds (time,) as "audio" (n, longest) float32, zeros behind shorter ones, and "length" (n,) int64."""
    length = np.array([len(sound) for sound in samples], np.int64)
    audio = np.zeros((len(samples), int(length.max())), np.float32)
    for row, sound in enumerate(samples):
        audio[row, : len(sound)] = sound
    return {"audio": torch.from_numpy(audio), "length": torch.from_numpy(length)}
