"""What A-JEPA does with windows of sound: easy and hard masks by a curriculum, and clips of any length."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.chance import uniform
from anyjepa.core.method import Batch, Context, MaskedJepa, single_at_least
from anyjepa.core.objectives import DISTANCES
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.tracing import traced
from anyjepa.core.transformer import Encoder, Predictor
from anyjepa.domains.audio_masks import AudioMasks, RandomTokens, SpectrogramBlocks
from anyjepa.domains.audio_patches import Fill, MelPatches, cut_windows, window_starts

__all__ = ["AudioJepa", "hard_share", "inverse_share"]

AT_ONCE = 512  # windows that go through the encoder together when clips are embedded
CHOICE = 0x1F83D9ABFB41BD6B  # keeps the choice of easy or hard masks apart from the other chance of a step
COMPETENCE = 0.01  # c0: the share of hard masks at the first step
DECIBEL = math.log(10) / 20

Sampler = SpectrogramBlocks | RandomTokens


def hard_share(progress: float, start: float = COMPETENCE) -> float:
    """f(s) = min(1, sqrt(s (1 - c0^2) / S + c0^2)): how many of the masks are hard at s of S steps.

    Args:
        progress: s / S.
        start: c0.
    """
    return min(1.0, math.sqrt(progress * (1 - start**2) + start**2))


def inverse_share(progress: float) -> float:
    """The curriculum backwards: from hard masks to easy ones."""
    return hard_share(1 - progress)


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
        pooling: "mean" of all tokens, or "bands": the mean over time of each row of frequencies.
        normalise_targets: layer-normalise the target tokens.
        lengths: seconds of the median clip, and of a window.
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
        fill: Fill,
        gain: float,
        distance: str,
        normalise_targets: bool,
        pooling: Literal["mean", "bands"] = "mean",
        lengths: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        first = easy or hard
        assert first is not None
        super().__init__(encoder, predictor, target, first, self._distance, normalise_targets)
        self.easy, self.hard, self.share = easy, hard, share
        self.samples, self.gain, self.distance = samples, gain, distance
        self.fill: Fill = fill
        self.pooling, self.lengths = pooling, lengths

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

    def cautions(self, steps: int) -> list[str]:
        """What speaks against repeating clips that do not fill a window."""
        clip, window = self.lengths
        if self.fill == "silence" or clip >= window:
            return []
        return [
            f"half of the clips last {clip:.3g} s or less, a window {window:.3g} s: --fill repeat shows "
            "their beginning again, which is copied rather than predicted; --fill silence does not."
        ]

    def _seen(self, batch: Batch, masks: AudioMasks) -> Tokens:
        """The context encoder's tokens; what only pads is no key for others."""
        tokens = self.encoder.tokenizer(batch, masks.context)
        return self.encoder.encode(Tokens(tokens.values, tokens.coordinates, masks.present))[0]

    def tokens(self, batch: Batch) -> Tokens:
        """The backbone's tokens of the first window of each clip; those beyond its end are not present."""
        return self.backbone(self.prepared(batch))

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """The backbone's tokens pooled over the columns that are present, then over the clip's windows."""
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
        tokens = self.backbone(self._mel(*cut_windows(sound, length, start, self.samples, self.fill)))
        return pooled(tokens) if self.pooling == "mean" else pooled(self._by_time(tokens))

    def _by_time(self, tokens: Tokens) -> Tokens:
        """The tokens of one time side by side, as one wide token."""
        rows = self._patches.rows
        return Tokens(
            tokens.values.unflatten(1, (-1, rows)).flatten(2),
            tokens.coordinates[:, ::rows],
            None if tokens.present is None else tokens.present[:, ::rows],
        )

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
