"""A-JEPA: predict the embeddings of hidden parts of a spectrogram from the rest of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.chance import uniform
from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch, Context, MaskedJepa, single_at_least
from anyjepa.core.positions import SinCos
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.tracing import traced
from anyjepa.core.transformer import Encoder, Predictor, initialise
from anyjepa.domains import Samples
from anyjepa.domains.audio_masks import AudioMasks, RandomTokens, SpectrogramBlocks
from anyjepa.domains.audio_mel import LogMel
from anyjepa.domains.audio_patches import MelPatches, cut_windows, window_starts
from anyjepa.recipes import Recipe, flag

AT_ONCE = 512  # windows that go through the encoder together when clips are embedded
CHOICE = 0x1F83D9ABFB41BD6B  # keeps the choice of easy or hard masks apart from the other chance of a step
COMPETENCE = 0.01  # c0: the share of hard masks at the first step
DECIBEL = math.log(10) / 20

Sampler = SpectrogramBlocks | RandomTokens
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of each token, (..., width) to (...)
    "l2": lambda p, g: (p - g).square().mean(-1),
    "l1": lambda p, g: (p - g).abs().mean(-1),
    "smooth-l1": lambda p, g: functional.smooth_l1_loss(p, g, reduction="none").mean(-1),
    "cosine": lambda p, g: 1 - functional.cosine_similarity(p, g, dim=-1),
}


def hard_share(progress: float, start: float = COMPETENCE) -> float:
    """f(s) = min(1, sqrt(s (1 - c0^2) / S + c0^2)): how many of the masks are hard at s of S steps.

    Args:
        progress: s / S.
        start: c0.
    """
    return min(1.0, math.sqrt(progress * (1 - start**2) + start**2))


class AudioJepa(MaskedJepa):
    """A masked JEPA over windows of sound: easy masks, hard masks, or more and more of the hard ones.

    Args:
        encoder, predictor, target: as of `MaskedJepa`; the encoder's tokenizer is `MelPatches`.
        easy, hard: samplers; None for a sampler that is never drawn from.
        share: of hard masks at a progress from 0 to 1.
        samples: of a window.
        fill: of clips that are shorter, as of `cut_windows`.
        gain: largest change of loudness in training, in decibels.
        distance: of predicted and target tokens, a key of `DISTANCES`.
        normalise_targets: layer-normalise the target tokens.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: Predictor,
        target: nn.Module,
        easy: Sampler | None,
        hard: Sampler | None,
        share: Callable[[float], float],
        samples: int,
        fill: Literal["repeat", "silence"],
        gain: float,
        distance: str,
        normalise_targets: bool,
    ) -> None:
        first = easy or hard
        assert first is not None
        super().__init__(encoder, predictor, target, first, self._distance, normalise_targets)
        self.easy, self.hard, self.share = easy, hard, share
        self.samples, self.fill, self.gain, self.distance = samples, fill, gain, distance

    def _distance(self, predicted: Tensor, goal: Tensor) -> Tensor:
        return DISTANCES[self.distance](predicted, goal).mean()

    @property
    def _patches(self) -> MelPatches:
        # the backbone's own: in use nothing but the backbone is at hand
        tokenizer = self.backbone.tokenizer
        assert isinstance(tokenizer, MelPatches)
        return tokenizer

    def is_hard(self, context: Context) -> bool:
        """Whether this step's masks are hard: by chance of seed and step, on every process alike."""
        if self.easy is None or self.hard is None:
            return self.easy is None
        chance = Generator().manual_seed(context.generator.initial_seed() ^ CHOICE)
        return torch.rand((), generator=chance).item() < self.share(context.progress)

    def masks(self, batch: Batch, context: Context) -> AudioMasks:
        """The masks this step draws for the batch, as of `Recipe.present` or `prepared`."""
        sampler = self.hard if self.is_hard(context) else self.easy
        assert sampler is not None
        batch = batch if "mel" in batch else self.prepared(batch)
        return sampler(len(batch["mel"]), context.generator, batch.get("columns"))

    def as_trained(self, batch: Batch, context: Context) -> Batch:
        """Each sound made louder or softer by a chance amount of decibels."""
        sound = batch["audio"]
        if not self.gain:
            return batch
        level = (2 * uniform((len(sound),), context.generator) - 1).to(sound) * self.gain
        return {**batch, "audio": sound * (DECIBEL * level).exp()[:, None]}

    def prepared(self, batch: Batch) -> Batch:
        """The standardised log-mel of the first window of each clip, and how many columns are its own."""
        sound = batch["audio"]
        length = batch.get("length", torch.full((len(sound),), sound.shape[1], device=sound.device))
        window = cut_windows(sound, length, torch.zeros_like(length), self.samples, self.fill)
        return self._mel(*window)

    def _mel(self, sound: Tensor, recorded: Tensor) -> Batch:
        found = {"mel": self._patches.spectrogram(sound)}
        if self.fill == "silence":
            found["columns"] = self._patches.columns(recorded)
        return found

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``: mean over samples and blocks of a block's mean distance; ``hard``; ``embedding``."""
        with torch.no_grad():
            batch = self.prepared(self.as_trained(batch, context))
        masks = self.masks(batch, context)
        whole: Tokens = self.target(self.encoder, batch)
        goal = take(whole.values, masks.targets.flatten(1)).unflatten(1, masks.targets.shape[1:])
        goal = single_at_least(goal)
        if self.normalise_targets:
            goal = functional.layer_norm(goal, goal.shape[-1:])
        predicted = single_at_least(self.predictor(self._seen(batch, masks), whole.coordinates, masks))
        distance = DISTANCES[self.distance](predicted, goal)
        if masks.weights is not None:
            weights = masks.weights.to(distance)
            distance = (distance * weights).sum(-1) / weights.sum(-1)
        return {
            "loss": distance.mean(),
            "hard": distance.new_tensor(float(self.is_hard(context))),
            "embedding": pooled(whole).detach(),
        }

    def _seen(self, batch: Batch, masks: AudioMasks) -> Tokens:
        """The context encoder's tokens; what only pads is no key for others."""
        tokens = self.encoder.tokenizer(batch, masks.context)
        return self.encoder.encode(Tokens(tokens.values, tokens.coordinates, masks.present))[0]

    def tokens(self, batch: Batch) -> Tokens:
        """The backbone's tokens of the first window of each clip; those beyond its end are not present."""
        return self.backbone(self.prepared(batch))

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Mean of the backbone's tokens that are present, then of the windows that cover the clip."""
        sound, length = batch["audio"], batch.get("length")
        if length is None:
            length = torch.full((sound.shape[0],), int(sound.shape[1]), device=sound.device)
        most = max(1, -(-int(sound.shape[1]) // self.samples))
        if most == 1:
            return torch.cat([self._embedded(sound[part], length[part], 0 * length[part])
                              for part in _parts(sound)])  # fmt: skip
        start, has = window_starts(length, self.samples, most)
        if traced():
            each = [self._embedded(sound, length, start[:, n]) for n in range(most)]
            return (torch.stack(each, 1) * has.unsqueeze(-1)).sum(1) / has.sum(1, keepdim=True)
        clip, number = has.nonzero(as_tuple=True)
        each = [self._embedded(sound[clip[part]], length[clip[part]], start[clip[part], number[part]])
                for part in _parts(clip)]  # fmt: skip
        found = torch.cat(each)
        total = found.new_zeros(len(sound), found.shape[1]).index_add(0, clip, found)
        return total / has.sum(1, keepdim=True)

    def _embedded(self, sound: Tensor, length: Tensor, start: Tensor) -> Tensor:
        return pooled(self.backbone(self._mel(*cut_windows(sound, length, start, self.samples, self.fill))))

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """The context encoder's pooled tokens under `count` different context masks."""
        batch = self.prepared(batch)
        found = [pooled(self._seen(batch, self.masks(batch, context))) for _ in range(count)]
        return torch.stack(found, dim=1)

    def scheduled(self, context: Context) -> dict[str, float]:
        """The teacher's momentum, and the share of hard masks where it changes."""
        changing = self.easy is not None and self.hard is not None
        return super().scheduled(context) | ({"hard_share": self.share(context.progress)} if changing else {})


def pooled(tokens: Tokens) -> Float[Tensor, "batch width"]:
    """Mean of the tokens that are present."""
    if tokens.present is None:
        return tokens.values.mean(1)
    there = tokens.present.unsqueeze(-1).to(tokens.values.dtype)
    return (tokens.values * there).sum(1) / there.sum(1)


def _parts(rows: Tensor) -> list[slice]:
    """Slices of a batch; the whole of it where it becomes a graph for any size of batch."""
    if traced():
        return [slice(None)]
    return [slice(start, start + AT_ONCE) for start in range(0, len(rows), AT_ONCE)]


@dataclass(frozen=True, kw_only=True)
class AJepa(Recipe):
    """A-JEPA (Fei, Fan and Huang 2023, arXiv:2311.15830).

    ``anyjepa train a-jepa --data sounds/ --out runs/sound --preset tiny``
    """

    name: ClassVar[str] = "a-jepa"
    paper: ClassVar[str] = "arXiv:2311.15830"
    domain: ClassVar[str] = "audio"
    example_data: ClassVar[str] = "synthetic-audio"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {
            "rate": 8000.0, "mels": 64, "fft": 512, "frames": 64, "patch": (8, 8),
            "width": 64, "depth": 4, "heads": 4,
            "predictor_width": 48, "predictor_depth": 2, "predictor_heads": 4, "initial_std": 0.0,
            "epochs": 60.0, "warmup_epochs": 6.0, "batch_size": 64, "momentum": (0.99, 1.0),
            "start_learning_rate": 1e-4, "learning_rate": 1.5e-3,
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
    target_scale: tuple[float, float] = (0.15, 0.2)  # easy masks: share of the spectrogram that a block covers
    hard_targets: int = 3  # hard masks: blocks to predict
    hard_scale: tuple[float, float] = (0.05, 0.075)  # hard masks: share that a block covers
    geometry: Literal["rect", "cross", "strip", "time", "frequency"] = "cross"  # of hard masks
    block_aspect: tuple[float, float] = (0.75, 1.5)  # of a block's share of frequencies over that of time
    context_scale: tuple[float, float] = (0.85, 1.0)  # share of the spectrogram the context block covers
    least_context: float = 0.15  # share of the tokens that the context never falls below
    hidden: float = 0.5  # random masks: share of the tokens that is predicted
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
        for name, size, part in zip(
            ("frames", "mels"), (self.frames, self.mels), self.patch, strict=True
        ):
            if part < 1 or size < part or size % part:
                raise UserError(
                    f"--{name} {size} does not divide into patches of {part}: choose a multiple of it, or "
                    "another --patch."
                )
        if self.high and self.high <= self.low:
            raise UserError(f"--high {self.high:g} Hz is not above --low {self.low:g} Hz.")
        for width, heads, part in [
            (self.width, self.heads, ""),
            (self.predictor_width, self.predictor_heads, "predictor-"),
        ]:
            if width % heads:
                raise UserError(f"--{part}width {width} does not divide into --{part}heads {heads}.")

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
        """Longer clips are seen by longer windows, as far as a small machine goes, and richer sound finer."""
        return {}

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
        patches = MelPatches(
            log_mel, self.patch, self.width, facts["mean"], facts["std"], self.deviation
        )
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


def inverse_share(progress: float) -> float:
    """The curriculum backwards: from hard masks to easy ones."""
    return hard_share(1 - progress)


def side_by_side(samples: list[np.ndarray] | np.ndarray) -> Batch:
    """Sounds (time,) as "audio" (n, longest) float32, zeros behind shorter ones, and "length" (n,) int64."""
    length = np.array([len(sound) for sound in samples], np.int64)
    audio = np.zeros((len(samples), int(length.max())), np.float32)
    for row, sound in enumerate(samples):
        audio[row, : len(sound)] = sound
    return {"audio": torch.from_numpy(audio), "length": torch.from_numpy(length)}
