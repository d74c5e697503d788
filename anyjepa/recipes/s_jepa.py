"""S-JEPA: predict the embeddings of hidden balls of the scalp from the rest of the electrodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.ball_masks import BallMasks, Balls, near, published_blocks
from anyjepa.core.decoder import Decoder
from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch, Context, Method, single_at_least
from anyjepa.core.processes import share_of_all
from anyjepa.core.targets import EmaTeacher, SameEncoder, TransformerTeacher
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.transformer import Encoder, initialise
from anyjepa.domains import Samples
from anyjepa.domains.eeg_batches import beside, some_channels
from anyjepa.domains.eeg_heads import HEADS, downstream_head
from anyjepa.domains.eeg_pooling import average, over_regions
from anyjepa.domains.eeg_tokens import ElectrodeCode, LocalEncoder, Stretches
from anyjepa.recipes import Recipe, flag

DISTANCES = {"l1": functional.l1_loss, "l2": functional.mse_loss, "smooth-l1": functional.smooth_l1_loss}


@dataclass(frozen=True, kw_only=True)
class SJepa(Recipe):
    """S-JEPA (Guetschel, Moreau, Tangermann 2024, arXiv:2403.11772; follow-up of 2026, arXiv:2609.33487).

    Each electrode's signal is cut into stretches of a second, a token each, which knows where on the head its
    electrode lies, in metres, and when it was. Balls of neighbouring electrodes are hidden for some seconds.
    A context encoder sees the rest; a predictor that attends to it must guess the tokens that a teacher, the
    encoder's exponential moving average, which sees every electrode, gives the hidden ones. Position codes
    are functions of places, not of channel numbers, so that one encoder reads any montage, and recordings of
    different ones are trained on side by side.

    The defaults are the follow-up's: 200 Hz, windows of 30 s, balls of 9 cm for two stretches until 55 % of
    the tokens are hidden, squared distance to the teacher's last layer, 4 layers of 512. Its 30,800 steps of
    1,200 windows are 10 epochs of its 3.7 million. It draws a number of blocks worked out for electrodes all
    over the head, which hides 80 % of a strip of them: here blocks are drawn until the share is reached on
    each sample's own electrodes (``--blocks published`` brings the formula back). ``s-jepa-2024`` is the
    first paper's model, of which the mask, the encoder and the target are known: 128 Hz, 0.5 to 40 Hz,
    microvolts, five convolutions for each channel, eight post-norm layers of 64 whose wide perceptrons and
    dropout are torch's defaults, a learned vector for each electrode, one ball over the whole window, L1. Its
    optimiser, rates, batch and momentum are not known; those of the preset are ours. The paper says its ball
    is 60 % of the head's size; taken as a diameter of 20.7 cm that is a radius of 6.2 cm (``--radius``).

    What makes a token of a stretch, and the vectors of electrodes, are shared by both encoders: the teacher
    has the student's, and a moving average of the transformer only. The teacher moves after the optimiser's
    step (in the follow-up before it). The follow-up's filter is not known; here it lets through 0.5 to 99.5
    Hz. Windows of more than 32 electrodes are trained on 32 of them at a time, drawn anew each time.

    EDF, BDF, GDF, BrainVision, EEGLAB and FIF are read through MNE, in volts; electrodes whose place the file
    does not know are placed by name (``--montage``), others are left out and named. A window is divided by
    its own deviation, so that a wrong unit does no harm. ``anyjepa evaluate --labels events`` cuts windows at
    a recording's own events, ``--labels TABLE`` at those of a table with the columns recording, onset and
    label. Beside its score stand band power, CSP with linear discriminants and the tangent space of
    covariances. ``--probe contextual``, ``post-local`` and ``pre-local`` are the paper's heads.

    The embedding of a window is the average of the teacher's tokens, over all electrodes, or over the
    electrodes near each of eight places of the head (``--pool regions``), or that with the standard deviation
    about it (``--pool spread``), in which the strength of a rhythm shows. ``--use student`` embeds with the
    context encoder instead, as ``tiny`` does: its 300 steps are too few for a teacher. A linear probe of it
    gains a few points over an untrained encoder, and less than band power has (docs/experiments.md).

    ``anyjepa train s-jepa --data recordings/ --out runs/eeg --preset tiny --seconds 4``
    """

    name: ClassVar[str] = "s-jepa"
    paper: ClassVar[str] = "arXiv:2403.11772"
    domain: ClassVar[str] = "eeg"
    example_data: ClassVar[str] = "synthetic-eeg"
    proposed: ClassVar[bool] = True
    downstream: ClassVar[tuple[str, ...]] = HEADS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "s-jepa-2024": {
            "rate": 128.0, "band": (0.5, 40.0), "seconds": 16.1875, "scaling": "microvolts",
            "tokenizer": "convolutions", "places": "learned", "place_width": 30,
            "width": 64, "depth": 8, "heads": 8, "expansion": 32.0, "block": "post-norm", "dropout": 0.1,
            "predictor_depth": 4, "predictor_heads": 8, "project": False,
            "radius": 0.062, "length": 0, "blocks": "one", "objective": "l1", "most_channels": 0,
            "batch_size": 64, "learning_rate": 5e-4, "epochs": 50.0, "warmup_epochs": 5.0,
        },
        "tiny": {
            "rate": 64.0, "band": (0.5, 30.0), "seconds": 3.0, "patch": 32, "step": 32,
            "width": 64, "depth": 2, "heads": 4, "place_width": 48,
            "predictor_depth": 1, "predictor_heads": 4, "radius": 0.08, "length": 3,
            "epochs": 25.0, "warmup_epochs": 2.5, "batch_size": 32, "learning_rate": 3e-3,
            "use": "student", "pool": "spread",
        },
    }  # fmt: skip

    epochs: float = 10.0  # passes over the data
    batch_size: int = 1200  # samples a step, over all processes
    start_learning_rate: float = 0.0  # at the first step
    learning_rate: float = 2.4e-4  # at the end of the warm-up
    warmup_epochs: float = 1.0  # epochs in which the learning rate rises
    weight_decay: float = 0.01  # of AdamW at the first step
    final_weight_decay: float = 0.01  # of AdamW at the last step
    decay: Literal["matrices", "layers", "all"] = "all"  # what decays; norms and biases too, as released
    gradient_clip: float = 3.0  # largest gradient norm
    channels: str = "auto"  # names set apart by commas; auto: all whose place on the head is known
    montage: str = "standard_1005"  # of MNE: where electrodes lie that the file does not place
    unit: Literal["V", "mV", "uV", "nV"] = "V"  # that arrays, and files whose unit is wrong, are really in
    reference: Literal["as-recorded", "average"] = "as-recorded"  # or the average of a recording's channels
    group: Literal["subject", "recording"] = "subject"  # what must not be on both sides of a split
    rate: float = 200.0  # samples a second that recordings are resampled to
    band: tuple[float, float] = (0.5, 99.5)  # Hz that are let through; 0 for no limit at that end
    seconds: float = 30.0  # length of a window
    stride: float = 0.0  # seconds from one window to the next; 0 for a window's length
    delay: float = 0.0  # seconds from an event to the window that it labels
    most_channels: int = 32  # electrodes of a window that a step sees, drawn anew each time; 0 for all
    scaling: Literal["median", "microvolts"] = "median"  # by a window's own deviation, or as it is in uV
    tokenizer: Literal["linear", "convolutions"] = "linear"  # of a stretch, or five layers as of 2024
    patch: int = 200  # samples of a stretch
    step: int = 180  # samples from the start of one to that of the next
    places: Literal["fixed", "learned"] = "fixed"  # one function for every montage, or learned from it
    place_width: int = 384  # numbers of the position code that say where; the rest say when
    width: int = 512  # of the tokens
    depth: int = 4  # blocks of the encoder
    heads: int = 8  # attention heads of the encoder
    expansion: float = 8 / 3  # hidden width of the perceptrons, in widths
    block: Literal["gated", "post-norm"] = "gated"  # GEGLU with RMSNorm before, or ReLU with LayerNorm after
    dropout: float = 0.0  # share of activations and attention weights dropped in training
    predictor_depth: int = 2  # blocks of the predictor
    predictor_heads: int = 8  # attention heads of the predictor
    project: bool = True  # whether a linear layer ends the predictor
    radius: float = 0.09  # of a ball in metres; 0 for single electrodes, inf for all
    length: int = 2  # stretches that a ball is hidden for; 0 for all
    share: float = 0.55  # of the tokens that is hidden
    blocks: Literal["measured", "published", "one"] = "measured"  # until the share, by a formula, or one ball
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.999, 1.0)  # of the teacher at the first and the last step
    objective: Literal["l2", "l1", "smooth-l1"] = "l2"  # distance to the target tokens
    normalise_targets: bool = False  # layer-normalise the target tokens
    variance: float = 0.0  # weight of the missing spread of predicted tokens
    use: Literal["teacher", "student"] = "teacher"  # which of the two encoders embeds
    pool: Literal["mean", "regions", "spread"] = "mean"  # average, near eight places, or with deviations

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        for name in ("rate", "seconds", "patch", "step"):
            if getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} must be above 0, not {getattr(self, name):g}.")
        for name in ("heads", "predictor_heads"):
            if self.width % getattr(self, name):
                raise UserError(
                    f"--width {self.width} does not divide into {flag(name)} {getattr(self, name)}."
                )
        if (
            self.place_width % 6
            or not 0 < self.place_width < self.width
            or (self.width - self.place_width) % 2
        ):
            raise UserError(
                f"--place-width {self.place_width} must be a multiple of 6 below --width {self.width}, and "
                "the rest even."
            )
        if self.tokenizer == "convolutions" and self.width != LocalEncoder.LAYERS[-1][0]:
            raise UserError(f"--tokenizer convolutions makes tokens of width {LocalEncoder.LAYERS[-1][0]}.")
        if self.times < 2:
            raise UserError(
                f"--seconds {self.seconds:g} at {self.rate:g} Hz make fewer than two tokens a channel: make "
                "windows longer, or --patch smaller."
            )
        if not 0 < self.share < 1 or self.radius < 0 or not 0 <= self.length <= self.times:
            raise UserError(
                f"--share lies between 0 and 1, --radius is not below 0, and --length is at most "
                f"{self.times}."
            )

    @property
    def times(self) -> int:
        """Tokens of a channel."""
        return self._tokenizer().times(round(self.seconds * self.rate))

    def _tokenizer(self) -> Stretches | LocalEncoder:
        if self.tokenizer == "convolutions":
            return LocalEncoder(scaling=self.scaling)
        return Stretches(self.patch, self.step, self.width, self.scaling)

    def reading(self) -> dict[str, Any]:
        """How recordings are filtered, resampled, placed and cut into windows."""
        names = [name.strip() for name in self.channels.split(",") if name.strip()]
        convolved = self.tokenizer == "convolutions"
        return {
            "channels": None if names in ([], ["auto"]) else names,
            "montage": self.montage,
            "unit": self.unit,
            "reference": self.reference,
            "group": self.group,
            "rate": self.rate,
            "band": list(self.band),
            "seconds": self.seconds,
            "stride": self.stride,
            "delay": self.delay,
            "patch": 152 if convolved else self.patch,
            "step": 128 if convolved else self.step,
        }

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """A few electrodes close together are hidden by smaller balls."""
        places = torch.tensor(facts["montages"][0])
        across = float(torch.cdist(places, places).max())
        return {"radius": round(0.4 * across, 3)} if across < 0.15 else {}

    def method(self, facts: dict[str, Any]) -> ElectrodePrediction:
        """Tokenizer, encoder, predictor, teacher and mask sampler."""
        options: dict[str, Any] = {"bias": False, "gated": True, "root_mean_square": True}
        if self.block == "post-norm":
            options = {"post_norm": True, "activation": nn.ReLU}
        options |= {"dropout": self.dropout, "attention_dropout": self.dropout}
        tokenizer = self._tokenizer()
        seconds_apart = (128 if self.tokenizer == "convolutions" else self.step) / self.rate
        code = ElectrodeCode(
            self.width, self.place_width, 1 / seconds_apart,
            facts["places"] if self.places == "learned" else None,
        )  # fmt: skip
        encoder = Encoder(tokenizer, code, self.width, self.depth, self.heads, self.expansion, **options)
        predictor = Decoder(
            self.width, self.predictor_depth, self.predictor_heads, self.expansion, self.project, **options
        )
        if self.tokenizer == "linear":
            for part in (encoder, predictor):
                initialise(part, None)
        return ElectrodePrediction(encoder, predictor, self._sampler(facts), self)

    def _sampler(self, facts: dict[str, Any]) -> Balls:
        montages, times = facts["montages"], self.times
        length = self.length or times
        blocks, hidden = 0, (0.0, 1.0)
        if self.blocks == "published":
            blocks = published_blocks(self.radius, length, times, facts["most"], self.share)
        elif self.blocks == "one":
            blocks, parts = 1, []
            for places in (torch.tensor(montage).reshape(1, -1, 3) for montage in montages):
                there = torch.ones(places.shape[:2], dtype=torch.bool)
                parts.append(near(places, there, self.radius).double().mean(2))
            every = torch.cat([part.flatten() for part in parts]) * length / times
            hidden = (float(every.min()), float(every.max()))
        return Balls(self.radius, length, times, self.share, blocks, montages, hidden)

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """Windows as they are, of at most so many electrodes."""
        return beside(some_channels(samples, uniforms[:, 0], self.most_channels))

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Windows as they are, with all their electrodes."""
        return beside(samples)


class ElectrodePrediction(Method):
    """Predict the teacher's tokens of hidden balls of electrodes from the tokens that are seen.

    Args:
        encoder: the context encoder.
        predictor: from context tokens and codes of hidden places to target tokens.
        sampler: draws balls on each sample's own electrodes.
        recipe: the numbers of the loss, the teacher and the embedding.
    """

    def __init__(self, encoder: Encoder, predictor: Decoder, sampler: Balls, recipe: SJepa) -> None:
        super().__init__()
        self.encoder, self.predictor, self.sampler, self.recipe = encoder, predictor, sampler, recipe
        if recipe.teacher == "ema":
            self.target: nn.Module = TransformerTeacher(encoder, *recipe.momentum)
        else:
            self.target = SameEncoder(gradient=recipe.teacher == "collapse")

    @property
    def backbone(self) -> nn.Module:
        """The teacher where it is asked for and learns, else the encoder."""
        asked = self.recipe.use == "teacher"
        if asked and isinstance(self.target, EmaTeacher) and self.target.moves:
            return self.target.encoder
        return self.encoder

    def train(self, mode: bool = True) -> ElectrodePrediction:
        """As of any module, but the teacher drops nothing out."""
        super().train(mode)
        self.target.eval()
        return self

    def masks(self, batch: Batch, context: Context) -> BallMasks:
        """The masks this step draws on the batch's electrodes."""
        return self.sampler(batch["positions"], batch["present"], context.generator)

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``, a mean over the hidden tokens of all samples; ``embedding``."""
        return self.losses_of(batch, self.masks(batch, context))

    def losses_of(self, batch: Batch, masks: BallMasks) -> dict[str, Tensor]:
        """The same for masks that are given."""
        whole: Tokens = self.target(self.encoder, batch)
        wanted = masks.targets[:, 0]
        goal = single_at_least(take(whole.values, wanted))
        if self.recipe.normalise_targets:
            goal = functional.layer_norm(goal, goal.shape[-1:])
        predicted = single_at_least(self.predict(self.seen(batch, masks), whole.coordinates, masks))
        assert masks.asked is not None
        asked = masks.asked.to(predicted.dtype)
        apart = DISTANCES[self.recipe.objective](predicted, goal, reduction="none").mean(-1)
        terms = {"loss": (apart * asked).sum() / share_of_all(asked.sum())}
        if self.recipe.variance:
            terms["missing_spread"] = _missing_spread(predicted, asked)
            terms["loss"] = terms["loss"] + self.recipe.variance * terms["missing_spread"]
        return terms | {"embedding": average(whole).detach()}

    def seen(self, batch: Batch, masks: BallMasks) -> Tokens:
        """The context encoder's tokens; entries that only pad are not present, and no other sees them."""
        tokens = self.encoder.tokenizer(batch, masks.context)
        return self.encoder.encode(replace(tokens, present=masks.present))[0]

    def predict(
        self, seen: Tokens, coordinates: Float[Tensor, "batch tokens 4"], masks: BallMasks
    ) -> Float[Tensor, "batch hidden width"]:
        """What the predictor says of the targets."""
        assert self.encoder.positions is not None
        places = self.encoder.positions(take(coordinates, masks.targets[:, 0]))
        return self.predictor(seen.values, places, seen.present, masks.asked)

    def tokens(self, batch: Batch) -> Tokens:
        """The backbone's tokens of the whole window, electrode by electrode."""
        return self.backbone(batch)

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Average of the backbone's tokens over all electrodes, or over those near each of eight places."""
        return self._pooled(self.tokens(batch))

    def _pooled(self, tokens: Tokens) -> Tensor:
        if self.recipe.pool == "mean":
            return average(tokens)
        return over_regions(tokens, spread=self.recipe.pool == "spread")

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """The context encoder's pooled tokens under `count` different masks."""
        seen = [self.seen(batch, self.masks(batch, context)) for _ in range(count)]
        return torch.stack([self._pooled(one) for one in seen], dim=1)

    @torch.no_grad()
    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """What the tokens say of a collapse that pooled embeddings can hide.

        ``token_spread``: standard deviation of tokens about their mean, over the mean's own size: what all
        tokens share may grow while what tells them apart does not.
        """
        count, total, square = 0.0, 0.0, 0.0
        for batch in batches:
            tokens = self.tokens(batch)
            values = tokens.values[tokens.present].double()
            count, total, square = count + len(values), total + values.sum(0), square + values.square().sum()
        if not count:
            return {}
        mean = torch.as_tensor(total) / count
        spread = (square / count - mean.square().sum()).clamp(min=0).sqrt()
        return {"token_spread": float(spread / mean.norm().clamp(min=1e-12))}

    def head(self, kind: str, batch: Batch, width: int) -> nn.Module:
        """One of the paper's three heads for windows such as these, over the backbone."""
        return downstream_head(kind, self.backbone, batch, width)

    def after_step(self, context: Context) -> None:
        """The teacher follows the encoder."""
        if isinstance(self.target, EmaTeacher):
            self.target.follow(self.encoder, self.target.momentum(context.progress))

    def scheduled(self, context: Context) -> dict[str, float]:
        """The teacher's momentum, where there is a teacher."""
        if not isinstance(self.target, EmaTeacher):
            return {}
        return {"momentum": self.target.momentum(context.progress)}


def _missing_spread(predicted: Tensor, asked: Tensor) -> Tensor:
    """Mean of ReLU(1 - standard deviation) of each feature over the predicted tokens of a sample."""
    there, count = asked.unsqueeze(2), asked.sum(1, keepdim=True)
    mean = (predicted * there).sum(1) / count
    variance = ((predicted - mean.unsqueeze(1)).square() * there).sum(1) / count
    return functional.relu(1 - (variance + 1e-4).sqrt()).mean()
