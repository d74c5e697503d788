"""ECG-JEPA: predict the embeddings of long stretches of an ECG from short ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from anyjepa.core.chance import uniform
from anyjepa.core.errors import UserError
from anyjepa.core.masking import Masks, RandomPatches
from anyjepa.core.method import Batch, Context, MaskedJepa
from anyjepa.core.objectives import OBJECTIVES
from anyjepa.core.positions import SinCos
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.tokens import Tokens
from anyjepa.core.tracing import traced
from anyjepa.core.transformer import Encoder, Predictor, initialise
from anyjepa.domains import Samples
from anyjepa.domains.ecg_crops import random_crops, side_by_side
from anyjepa.domains.ecg_patches import EcgPatches
from anyjepa.recipes import Recipe, flag

AT_ONCE = 1024  # windows that go through the encoder together when a record is embedded
KEEP = 0x2545F4914F6CDD1D  # keeps the draw of how much is seen apart from the other chance of a step


class Intervals:
    """Hide long stretches of a sequence until a share is left (ECG-JEPA's mask algorithm, steps 1 to 4).

    How much is seen is drawn once a step, so that all samples are equally wide. What is seen is kept as a
    list of intervals. As long as too much is seen, one of them is chosen with a probability in proportion to
    its length, and a block of random length is cut out of it at a random place; the last few tokens, too few
    for a block of their own, are added to a hidden stretch. Seen and hidden tokens together are the sequence.

    The released loop draws for one sample after the other; here every round draws for the whole batch, and
    the rounds are as many as any sample can need. Where the whole sequence must hide less than the shortest
    block the released code fails; here it is hidden at one of the ends.

    Args:
        tokens: length of the sequence N.
        keep: lowest and highest share of it that is seen.
        least: tokens of the shortest block.

    Raises:
        ValueError: nothing or everything would be seen.
    """

    def __init__(self, tokens: int, keep: tuple[float, float] = (0.15, 0.25), least: int = 10) -> None:
        if not 0 < keep[0] <= keep[1] < 1 or math.ceil(keep[1] * tokens - 1e-9) >= tokens:
            raise ValueError(
                f"a share from {keep[0]:g} to {keep[1]:g} of {tokens} tokens leaves none to hide"
            )
        self.tokens, self.keep, self.least = tokens, keep, max(1, least)

    def seen(self, ratio: float) -> int:
        """Number of tokens seen at a keep ratio: its share of the sequence, rounded up."""
        # the margin keeps a product such as 0.15 * 200 from passing 30
        return max(1, math.ceil(ratio * self.tokens - 1e-9))

    def __call__(self, batch: int, generator: Generator) -> Masks:
        """Masks for `batch` samples: one target block of all that is hidden, both in order of time."""
        # from the seed and on the CPU: the width of a tensor must be known here without asking the device
        chance = Generator().manual_seed(generator.initial_seed() ^ KEEP)
        ratio = self.keep[0] + (self.keep[1] - self.keep[0]) * torch.rand((), generator=chance).item()
        seen = self.seen(ratio)
        visible = self.visible(batch, seen, generator)
        # a stable sort leaves each part in order of time
        order = visible.int().argsort(dim=1, descending=True, stable=True)
        relaxed = torch.zeros(batch, dtype=torch.bool, device=generator.device)
        return Masks(order[:, :seen], order[:, seen:].unsqueeze(1), relaxed)

    def visible(self, batch: int, seen: int, generator: Generator) -> Bool[Tensor, "batch tokens"]:
        """Which tokens are seen, exactly `seen` of each sample."""
        device, hide = generator.device, self.tokens - seen
        # a block that splits an interval hides `least` tokens or more, so there are never more pieces than
        # this
        splits = hide // self.least
        start = torch.zeros(batch, splits + 1, dtype=torch.long, device=device)
        length = torch.zeros_like(start)
        length[:, 0] = self.tokens
        left = torch.full((batch,), hide, device=device)
        pieces = torch.ones_like(left)
        # each round splits, or removes a piece, or ends: so many rounds are always enough
        for _ in range(2 * splits + 2):
            if device.type == "cpu" and not left.any():
                break
            draw = uniform((4, batch), generator, axis=1)
            start, length, left, pieces = self._cut(start, length, left, pieces, draw)
        place = torch.arange(self.tokens, device=device)
        inside = (place >= start[..., None]) & (place < (start + length)[..., None])
        return inside.any(1)

    def _cut(
        self,
        start: Int[Tensor, "batch pieces"],
        length: Int[Tensor, "batch pieces"],
        left: Int[Tensor, " batch"],
        pieces: Int[Tensor, " batch"],
        draw: Float[Tensor, "4 batch"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One round: a block is cut out of one piece of every sample that still shows too much."""
        # a token drawn evenly among those that are seen lies in a piece as often as this is long
        reach = length.cumsum(1)
        token = (draw[0] * reach[:, -1]).long().clamp(max=reach[:, -1] - 1)
        chosen = (reach <= token[:, None]).sum(1, keepdim=True)
        begin, size = start.gather(1, chosen)[:, 0], length.gather(1, chosen)[:, 0]
        roomy = left >= self.least
        block = torch.where(roomy, self.least + (draw[1] * (left - self.least + 1)).long(), left)
        block = torch.minimum(block, size)  # a piece that is not longer than its block goes as a whole
        space = size - block
        inner = (draw[2] * (space + 1)).long().clamp(max=space)
        # too few for a block of their own: they join what is hidden before or after the piece
        before, after = begin > 0, begin + size < self.tokens
        at_start = torch.where(before == after, draw[3] < 0.5, before)
        offset = torch.where(roomy, inner, torch.where(at_start, 0, space))
        after_block, rest = begin + offset + block, space - offset
        # what is left of a piece stays in its slot; a second part needs a new one
        split = (offset > 0) & (rest > 0)
        new = pieces[:, None].clamp(max=start.shape[1] - 1)
        new_start = torch.where(split, after_block, start.gather(1, new)[:, 0])[:, None]
        new_length = torch.where(split, rest, length.gather(1, new)[:, 0])[:, None]
        start, length = start.scatter(1, new, new_start), length.scatter(1, new, new_length)
        start = start.scatter(1, chosen, torch.where(offset > 0, begin, after_block)[:, None])
        length = length.scatter(1, chosen, torch.where(offset > 0, offset, rest)[:, None])
        return start, length, left - block, pieces + split.long()


class EcgJepaMethod(MaskedJepa):
    """A masked JEPA over crops of one length, which embeds records of any length by windows.

    Args:
        points: samples of a training crop.
        window, stride: samples of a window in use, and from the start of one to that of the next.
        parts: encoder, predictor, target, sampler, objective and normalise_targets of `MaskedJepa`.
    """

    def __init__(self, points: int, window: int, stride: int, *parts: Any) -> None:
        super().__init__(*parts)
        self.points, self.window, self.stride = points, window, stride

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """As of `MaskedJepa`."""
        return super().losses(self._crop(batch), context)

    def tokens(self, batch: Batch) -> Tokens:
        """The backbone's tokens of the first crop of each record; those beyond its end are not present."""
        return self.backbone(self._crop(batch))

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """As of `MaskedJepa`, of the first crop."""
        return super().views(self._crop(batch), context, count)

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Average over time of the backbone's tokens, and over all windows that lie within the record."""
        ecg = _long(batch["ecg"], self.window)
        windows = ecg.unfold(-1, self.window, self.stride).transpose(1, 2)
        count = windows.shape[1]
        whole = windows.flatten(0, 1), batch["recorded"].repeat_interleave(count, 0)
        cut, recorded = ([part] if traced() else part.split(AT_ONCE) for part in whole)
        pooled = [
            self.backbone({"ecg": part, "recorded": there}).values.mean(1)
            for part, there in zip(cut, recorded, strict=True)
        ]
        ends = torch.arange(count, device=ecg.device) * self.stride + self.window
        length = batch.get("length", torch.full_like(ends[:1], ecg.shape[-1]))
        within = (ends <= length.clamp(min=self.window)[:, None]).to(pooled[0].dtype).unsqueeze(-1)
        return (torch.cat(pooled).unflatten(0, (-1, count)) * within).sum(1) / within.sum(1)

    def _crop(self, batch: Batch) -> Batch:
        return {**batch, "ecg": _long(batch["ecg"], self.points)[..., : self.points]}


def _long(ecg: Tensor, points: int) -> Tensor:
    """At least `points` samples long, zeros at the end."""
    return nn.functional.pad(ecg, (0, max(0, points - ecg.shape[-1])))


@dataclass(frozen=True, kw_only=True)
class EcgJepa(Recipe):
    """ECG-JEPA (Weimann and Conrad 2024, arXiv:2410.13867; Kim's paper of that name is another method).

    A ten-second ECG is cut into 200 stretches of 50 ms, all leads of a stretch in one token. A context
    encoder sees 15 to 25 % of them, in a few short runs; a narrow predictor must guess the tokens that a
    teacher gives the long runs between them, half a second to eight seconds of the heart's work. The teacher
    is the encoder's exponential moving average and sees everything. No augmentation but a random crop, no
    labels, no signal to reconstruct; the distance is L1, to the teacher's tokens as they are.

    The defaults are the ViT-S of the released code (October 2025); ``vit-xs`` and ``vit-b`` are its other
    sizes. Epochs are 100,000 steps of 2,048 crops over the paper's 1,011,849 records. The code before October
    2025, whose place in the published numbers is not known, drew all weights by Xavier's rule:
    ``--initialisation xavier``. ViT-B was trained with two accumulated batches of 512: here a batch is 1,024.
    Two things of the released code are not repeated: its teacher moves on every forward call, evaluation
    included, and its mask collator fails where few tokens are to be hidden.

    Records come in any rate, lead order and unit; leads are found by name, limb leads that are missing are
    worked out of two others, and a lead that was not recorded, is flat or lacks over a tenth of its samples
    is zero after standardising, and named. ``--leads auto`` takes what at least half of the records have.
    Standardisation is by statistics of your own data, which are measured when training starts and stored
    with the weights. Other data of a run is read with its leads and at its rate.

    The embedding of a record is the average of the teacher's tokens over windows of 2.5 s every 1.25 s, seven
    of ten seconds, which is how the paper uses its encoder; ``--use-seconds 10`` embeds whole crops.
    A record longer than a minute counts as several samples, which share its label and its patient.

    ``anyjepa train ecg-jepa --data records/ --out runs/ecg --preset vit-xs --batch-size 256``
    """

    name: ClassVar[str] = "ecg-jepa"
    paper: ClassVar[str] = "arXiv:2410.13867"
    domain: ClassVar[str] = "ecg"
    example_data: ClassVar[str] = "synthetic-ecg"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "vit-xs": {
            "width": 192, "heads": 4, "predictor_width": 96, "predictor_heads": 4,
        },
        "vit-b": {
            "width": 768, "depth": 12, "heads": 12,
            "predictor_width": 384, "predictor_depth": 12, "predictor_heads": 12, "batch_size": 1024,
        },
        "tiny": {
            "rate": 100.0, "patch_size": 20, "width": 64, "depth": 4, "heads": 4,
            "predictor_width": 48, "predictor_depth": 2, "predictor_heads": 4, "initialisation": "fan-in",
            "epochs": 150.0, "warmup_epochs": 15.0, "batch_size": 64, "momentum": (0.99, 1.0),
            "learning_rate": 2e-3,
        },
    }  # fmt: skip

    epochs: float = 202.4  # passes over the data
    warmup_epochs: float = 20.24  # epochs in which the learning rate rises
    start_learning_rate: float = 1e-6  # at the first step
    weight_decay: float = 0.01  # of AdamW at the first step
    final_weight_decay: float = 0.1  # of AdamW at the last step
    decay: Literal["matrices", "layers", "all"] = "layers"  # what decays: weights of layers only, as released
    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW: how slowly its two averages of gradients forget
    epsilon: float = 1e-6  # of AdamW, added to the denominator
    leads: str = "auto"  # names set apart by commas, in the order wanted; auto: those that most records have
    rate: float = 500.0  # samples a second that records are resampled to
    seconds: float = 10.0  # length of a training crop
    record_seconds: float = 60.0  # a longer record counts as several samples of at least this length
    use_seconds: float = 2.5  # length of the windows whose embeddings are averaged in use
    use_stride: float = 1.25  # seconds from the start of one window to that of the next
    clip: float = 5.0  # largest standardised value
    patch_size: int = 25  # samples of a token
    width: int = 384  # of the encoder's tokens
    depth: int = 8  # blocks of the encoder
    heads: int = 6  # attention heads of the encoder
    registers: int = 1  # learned tokens in front of a record's own
    predictor_width: int = 192  # of the predictor's tokens
    predictor_depth: int = 8  # blocks of the predictor
    predictor_heads: int = 6  # attention heads of the predictor
    initialisation: Literal["scaled", "xavier", "fan-in"] = "scaled"  # 0.02 and less for outputs, or by width
    mask: Literal["intervals", "random"] = "intervals"  # hide long stretches, or single tokens at random
    keep: tuple[float, float] = (0.15, 0.25)  # share of the tokens that is seen, drawn once a step
    least_block: float = 0.05  # share of the tokens that the shortest hidden stretch covers
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.998, 0.9995)  # of the teacher at the first and the last step
    objective: Literal["l1", "smooth-l1", "l2", "cosine"] = "l1"  # distance to the target tokens
    normalise_targets: bool = False  # layer-normalise the target tokens

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        for name in ("rate", "seconds", "use_seconds", "use_stride", "patch_size", "clip"):
            if getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} must be above 0, not {getattr(self, name)}.")
        for name in ("seconds", "use_seconds"):
            if getattr(self, name) * self.rate < self.patch_size:
                raise UserError(
                    f"{flag(name)} {getattr(self, name):g} at {self.rate:g} Hz is shorter than a token of "
                    f"{self.patch_size} samples: make --patch-size smaller."
                )
        if self.record_seconds < self.seconds:
            raise UserError(
                f"--record-seconds {self.record_seconds:g} is shorter than --seconds {self.seconds:g}."
            )
        self.check_heads("", "predictor_")

    def reading(self) -> dict[str, Any]:
        """Leads by name, the rate, and how long a crop and a sample are."""
        names = [name.strip() for name in self.leads.split(",") if name.strip()]
        return {
            "leads": None if names in ([], ["auto"]) else names,
            "rate": self.rate,
            "seconds": self.seconds,
            "record_seconds": self.record_seconds,
            "use_seconds": self.use_seconds,
            "patch_size": self.patch_size,
        }

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """Short records are cut into shorter tokens, so that there are enough of them to hide some."""
        tokens = 16
        return {"patch_size": max(2, facts["points"] // tokens)} if facts["points"] < 20 * tokens else {}

    def method(self, facts: dict[str, Any]) -> EcgJepaMethod:
        """Tokenizer, encoder, predictor, teacher and mask sampler, initialised as asked."""
        if facts["points"] < 2 * self.patch_size:
            raise UserError(
                f"ECGs of {facts['points']} samples make fewer than two tokens of {self.patch_size}: make "
                "--patch-size smaller."
            )
        patches = EcgPatches(self.patch_size, self.width, facts["mean"], facts["std"], self.clip)
        encoder = Encoder(
            patches, SinCos(self.width, 1, interleaved=True), self.width, self.depth, self.heads,
            registers=self.registers, bias=False,
        )  # fmt: skip
        predictor = Predictor(
            self.width, SinCos(self.predictor_width, 1, interleaved=True), self.predictor_width,
            self.predictor_depth, self.predictor_heads, bias=False,
        )  # fmt: skip
        for part in (encoder, predictor):
            self._initialise(part)
        window = (
            min(round(self.use_seconds * self.rate), facts["points"]) // self.patch_size * self.patch_size
        )
        return EcgJepaMethod(
            facts["points"],
            window,
            max(1, round(self.use_stride * self.rate)),
            encoder,
            predictor,
            self._target(encoder),
            self._sampler(facts["points"] // self.patch_size),
            OBJECTIVES[self.objective],
            self.normalise_targets,
        )

    def _initialise(self, part: Encoder | Predictor) -> None:
        initialise(part, None if self.initialisation == "fan-in" else 0.02)
        if self.initialisation == "xavier":
            for layer in part.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
        if self.initialisation == "scaled":
            # what a block adds shrinks with their number, so that their sum does not grow
            std = 0.02 / math.sqrt(2 * len(part.blocks))
            for name, layer in part.blocks.named_modules():
                if isinstance(layer, nn.Linear) and name.endswith(("attention.out", "mlp.2")):
                    nn.init.trunc_normal_(layer.weight, std=std)

    def _target(self, encoder: nn.Module) -> nn.Module:
        if self.teacher == "ema":
            return EmaTeacher(encoder, *self.momentum)
        return SameEncoder(gradient=self.teacher == "collapse")

    def _sampler(self, tokens: int) -> Intervals | RandomPatches:
        try:
            intervals = Intervals(tokens, self.keep, round(self.least_block * tokens))
        except ValueError as problem:
            raise UserError(
                f"these masks cannot be drawn: {problem}; change --keep or --patch-size."
            ) from problem
        if self.mask == "intervals":
            return intervals
        seen = intervals.seen(sum(self.keep) / 2)
        return RandomPatches(tokens, 1, tokens - seen, seen)

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """A random crop of each record; no other augmentation."""
        return random_crops(samples, uniforms[:, 0], round(self.seconds * self.rate), self.patch_size)

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Whole records, shorter ones filled up."""
        return side_by_side(samples)
