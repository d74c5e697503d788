"""Brain-JEPA: predict the embeddings of hidden regions and hidden times of resting-state fMRI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.crossed_masks import CrossedMasks, CrossedSets
from anyjepa.core.errors import UserError
from anyjepa.core.masking import Masks, MaskSampler, RandomPatches
from anyjepa.core.method import Batch, Context, MaskedJepa, single_at_least
from anyjepa.core.objectives import OBJECTIVES
from anyjepa.core.processes import share_of_all
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.tracing import traced
from anyjepa.core.transformer import Encoder, Predictor, initialise
from anyjepa.domains import Samples
from anyjepa.domains.fmri import table_of
from anyjepa.domains.fmri_crops import random_crops, side_by_side
from anyjepa.domains.fmri_patches import BoldPatches, GradientPositions
from anyjepa.recipes import Recipe, flag

AT_ONCE = 256  # windows that go through the encoder together when a run is embedded
SEVERAL = 3  # sets of targets: across regions, across time, across both


class BrainJepaMethod(MaskedJepa):
    """A masked JEPA over crops of series of regions, which embeds runs of any length by windows.

    Args:
        points, every: of a crop: how many points, and how many stored ones later the next one lies.
        stretches: tokens of a region.
        by_region: average the loss over each set of targets first (the paper), not over all targets (the
        code). temporal_share: of the variance of the data, for the caution about robust scaling.
        parts: encoder, predictor, target, sampler, objective and normalise_targets of `MaskedJepa`.
    """

    def __init__(
        self, points: int, every: int, stretches: int, by_region: bool, temporal_share: float, *parts: Any
    ) -> None:
        super().__init__(*parts)
        self.points, self.every, self.stretches = points, every, stretches
        self.by_region, self.temporal_share = by_region, temporal_share

    @property
    def span(self) -> int:
        """Stored points from the first to the last of a crop."""
        return (self.points - 1) * self.every + 1

    def masks(self, batch: Batch, context: Context) -> Masks:
        """Masks to be shown: a block for each set of targets that is not empty, filled up by repetition."""
        drawn = self._drawn(batch, context)
        if not isinstance(drawn, CrossedMasks):
            return drawn
        sets = [part for part in drawn.sets() if part.shape[1]]
        width = max(part.shape[1] for part in sets)
        fill = torch.arange(width, device=drawn.context.device)
        return Masks(
            drawn.context, torch.stack([part[:, fill % part.shape[1]] for part in sets], 1), drawn.relaxed
        )

    def _drawn(self, batch: Batch, context: Context) -> Masks:
        return self.sampler(batch["bold"].shape[0], context.generator)

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss`` over targets in recorded regions; ``spread``, that of target tokens; ``embedding``."""
        batch = self._crop(batch)
        masks = self._drawn(batch, context)
        whole = self.target(self.encoder, batch)
        wanted = masks.targets.flatten(1)
        goal = single_at_least(take(whole.values, wanted))
        spread = goal.detach().std(dim=(0, 1)).mean()
        if self.normalise_targets:
            goal = functional.layer_norm(goal, goal.shape[-1:])
        seen = self.encoder(batch, keep=masks.context)
        predicted = single_at_least(self.predictor(seen, whole.coordinates, masks)).flatten(1, 2)
        there = batch["recorded"].gather(1, wanted // self.stretches)
        sets = masks.widths if self.by_region and isinstance(masks, CrossedMasks) else (wanted.shape[1],)
        pieces = zip(*(part.split(list(sets), dim=1) for part in (predicted, goal, there)), strict=True)
        found = [_distance(self.objective, *piece) for piece in pieces if piece[0].shape[1]]
        return {
            "loss": torch.stack(found).mean(),
            "spread": spread,
            "embedding": _mean(whole, batch["recorded"], self.stretches).detach(),
        }

    def tokens(self, batch: Batch) -> Tokens:
        """The backbone's tokens of the first crop of each run."""
        return self.backbone(self._crop(batch))

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """As of `MaskedJepa`, of the first crop."""
        return super().views(self._crop(batch), context, count)

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Average of the backbone's tokens over recorded regions and all windows within the run.

        Windows are as long as a crop, and begin half a crop apart.
        """
        bold = _long(batch["bold"], self.span)
        stride = max(1, self.span // 2)
        windows = bold.unfold(-1, self.span, stride)[..., :: self.every].transpose(1, 2)
        count = windows.shape[1]
        recorded = batch["recorded"]
        whole = windows.flatten(0, 1), recorded.repeat_interleave(count, 0)
        cut, present = ([part] if traced() else part.split(AT_ONCE) for part in whole)
        pooled = [
            _mean(self.backbone({"bold": part, "recorded": there}), there, self.stretches)
            for part, there in zip(cut, present, strict=True)
        ]
        ends = torch.arange(count, device=bold.device) * stride + self.span
        length = batch.get("length", torch.full_like(ends[:1], bold.shape[-1]))
        within = (ends <= length.clamp(min=self.span)[:, None]).to(pooled[0].dtype).unsqueeze(-1)
        return (torch.cat(pooled).unflatten(0, (-1, count)) * within).sum(1) / within.sum(1)

    def _crop(self, batch: Batch) -> Batch:
        bold = batch["bold"]
        if bold.shape[-1] > self.points:
            bold = bold[..., : self.span : self.every]
        return {**batch, "bold": _long(bold, self.points)}

    def cautions(self, steps: int) -> list[str]:
        """What speaks against scaling that keeps the offsets of runs."""
        tokenizer = getattr(self.encoder, "tokenizer", None)
        if not isinstance(tokenizer, BoldPatches) or tokenizer.normalise == "region":
            return []
        return [
            f"--normalise {tokenizer.normalise} keeps each run's offset, and only {self.temporal_share:.1%} "
            "of the variance of this data is over time: what is learned may be the scanner; --normalise "
            "region takes offsets off."
        ]


def _distance(
    objective: Callable[[Tensor, Tensor], Tensor],
    predicted: Tensor,
    goal: Tensor,
    there: Bool[Tensor, "batch _"],
) -> Tensor:
    """The objective over tokens of recorded regions, of all processes alike."""
    mask = there.unsqueeze(-1)
    # equal tokens are at no distance, so that the others alone count in a mean over everything
    found = objective(torch.where(mask, predicted, goal), goal)
    return found * there.numel() / share_of_all(there.sum().to(found.dtype)).clamp(min=1)


def _mean(tokens: Tokens, recorded: Bool[Tensor, "batch regions"], stretches: int) -> Tensor:
    """Mean of the tokens of recorded regions, (batch, width)."""
    regions = tokens.values.unflatten(1, (-1, stretches)).mean(2)
    weight = recorded.to(regions.dtype).unsqueeze(-1)
    return (regions * weight).sum(1) / weight.sum(1).clamp(min=1)


def _long(bold: Tensor, points: int) -> Tensor:
    """At least `points` long, zeros at the end."""
    return functional.pad(bold, (0, max(0, points - bold.shape[-1])))


@dataclass(frozen=True, kw_only=True)
class BrainJepa(Recipe):
    """Brain-JEPA (Dong et al. 2024, arXiv:2409.19407).

    A run of fMRI is one series a brain region; a token is 16 points, 35 seconds, of one region. Regions and
    stretches of time are hidden apart from one another and together: across regions (others are seen at the
    time), across time (the region is seen at other times), and across both. A narrow predictor must guess the
    tokens that a teacher, the encoder's exponential moving average, gives there. Where a region is, is said
    by its place in the space of brain gradients: a diffusion map of how alike regions are connected, computed
    here from the mean correlation matrix of your own training runs, or taken from ``--gradient-table``.

    The defaults are ViT-B as released, for 450 regions of UK Biobank at 0.735 s, every third volume; epochs
    are of its 32,000 training runs. ``vit-s`` and ``vit-l`` are its other sizes. What is released differs
    from the paper in the distance (smooth L1 over all targets against ``--objective l2 --average regions``)
    and in the momentum at the end (0.9965 by an error of its schedule, which is not repeated; 1.0 in the
    paper). Its scaling is not ours: in pre-training it takes medians and ranges over subjects (``--normalise
    robust``), in fine-tuning one mean and deviation a run (``--normalise matrix``); users report collapse and
    chance level with the first on other cohorts (its issue 14). Ours gives each region mean 0 and deviation 1
    over a crop, so that offsets of scanner and subject are gone, and `anyjepa look` says how much of the
    variance they are. The released masks are cut to the shortest of a batch, which mostly removes what lies
    across time, and never show the last stretch: ours are whole (core/crossed_masks.py).

    Runs come as NIfTI volumes (``--atlas`` label image), CIFTI, or tables of regional series, of any number
    of regions, repetition time and length; they are resampled to ``--step`` seconds, and long ones counted as
    several samples of one subject (``--run-seconds``). A region that was not recorded is 0, its mean, and
    left out of loss and embedding. Gradients and statistics travel with the weights; other data must have the
    same regions.

    The embedding of a run is the average of the teacher's tokens over all regions and over windows of a crop,
    half a crop apart. The baseline beside every score is the field's own: the connectivity matrix.

    ``tiny`` is for trying things on a CPU. Its 210 steps on ``synthetic-fmri`` are too few for probes to read
    it better than an untrained encoder on every seed (docs/experiments.md).

    ``anyjepa train brain-jepa --data runs/ --out runs/brain --preset vit-s --step 0.72 --batch-size 64``
    """

    name: ClassVar[str] = "brain-jepa"
    paper: ClassVar[str] = "arXiv:2409.19407"
    domain: ClassVar[str] = "fmri"
    example_data: ClassVar[str] = "synthetic-fmri"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "vit-s": {"width": 384, "heads": 6, "predictor_width": 192, "predictor_heads": 6},
        "vit-l": {"width": 1024, "depth": 24, "heads": 16, "predictor_depth": 12, "predictor_heads": 16},
        "tiny": {
            "step": 2.0, "every": 1, "points": 48, "patch_size": 8, "sparsity": 0.5,
            "width": 48, "depth": 2, "heads": 4, "initial_std": 0.0,
            "predictor_width": 32, "predictor_depth": 2, "predictor_heads": 4,
            "epochs": 7.0, "warmup_epochs": 0.7, "batch_size": 32, "momentum": (0.99, 1.0),
            "start_learning_rate": 1e-4, "learning_rate": 1e-3, "final_weight_decay": 0.04,
        },
    }  # fmt: skip
    presets["vit-l"] |= {"predictor_width": 384}

    batch_size: int = 512  # samples a step, over all processes
    start_learning_rate: float = 5e-5  # at the first step
    repetition_time: float = 0.0  # seconds between volumes of runs that do not say it; 0 for --step
    step: float = 0.735  # seconds between points that runs are resampled to; 0 for the commonest as they come
    points: int = 160  # of a crop
    every: int = 3  # stored points from one of a crop to the next
    run_seconds: float = 600.0  # a longer run counts as several samples of at least this length
    atlas: str = ""  # label image (.nii, .nii.gz, .dlabel.nii) that volumes are parcellated by
    layout: Literal["auto", "regions-first", "time-first"] = "auto"  # of tables that do not say it by names
    gradient_table: str = ""  # file of gradients, or of connectivity; from the data where empty
    components: int = 30  # gradients of a region
    sparsity: float = 0.9  # share of a row of connectivity that is dropped, the weakest first
    alpha: float = 0.5  # of the diffusion map: how far crowded regions count less
    normalise: Literal["region", "robust", "matrix"] = "region"  # over time, over subjects, or all as one
    patch_size: int = 16  # points of a token
    width: int = 768  # of the encoder's tokens
    depth: int = 12  # blocks of the encoder
    heads: int = 12  # attention heads of the encoder
    positions: Literal["gradient", "shuffled", "learned"] = "gradient"  # of regions; the others are controls
    initial_std: float = 0.02  # of the weights; 0 for one over the square root of a layer's inputs
    predictor_width: int = 384  # of the predictor's tokens
    predictor_depth: int = 6  # blocks of the predictor
    predictor_heads: int = 12  # attention heads of the predictor
    mask: Literal["crossed", "random"] = "crossed"  # sets of regions and times, or tokens one by one
    observed: tuple[float, float] = (0.84, 1.0)  # share of regions, and of the time, that is observed
    hidden_regions: tuple[float, float] = (0.45, 0.6)  # share of regions predicted from others
    hidden_time: tuple[float, float] = (0.2, 0.6)  # share of the time in which they are
    side_regions: tuple[float, float] = (0.15, 0.3)  # share of regions predicted from other times
    side_time: tuple[float, float] = (
        0.0,
        0.4,
    )  # share of the time taken away at an end, three tenths at most
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.996, 1.0)  # of the teacher at the first and the last step
    objective: Literal["smooth-l1", "l1", "l2", "cosine"] = "smooth-l1"  # distance to the target tokens
    average: Literal["targets", "regions"] = "targets"  # over all targets, or over each set first
    normalise_targets: bool = True  # layer-normalise the target tokens

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        for name in ("points", "every", "patch_size", "components", "run_seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} must be above 0, not {getattr(self, name)}.")
        for name in ("step", "repetition_time"):
            if not 0 <= getattr(self, name) < 100:
                raise UserError(
                    f"{flag(name)} is in seconds, from 0 to below 100, not {getattr(self, name)}."
                )
        for name, high in (("sparsity", 1.0), ("alpha", 1.0)):
            if not 0 <= getattr(self, name) <= high:
                raise UserError(f"{flag(name)} must lie in 0 to {high:g}, not {getattr(self, name)}.")
        if self.points < 3 * self.patch_size:
            raise UserError(
                f"--points {self.points} make fewer than three tokens of {self.patch_size}: make "
                "--patch-size smaller."
            )
        self.check_heads("", "predictor_")
        for width, part in [
            (self.width, ""),
            (self.predictor_width, "predictor-"),
        ]:
            if width % 4:
                raise UserError(f"--{part}width {width} must be a multiple of 4: half of it says when.")

    def reading(self) -> dict[str, Any]:
        """Step, crop, atlas and layout, and how gradients are made."""
        names = (
            "step", "repetition_time", "points", "every", "patch_size", "run_seconds", "atlas", "layout",
            "gradient_table", "components", "sparsity", "alpha",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """Short runs are cut into shorter tokens; runs at another repetition time are kept as they come."""
        wanted: dict[str, Any] = {}
        steps = {getattr(samples, "step_of", lambda _: 0.0)(index) for index in range(min(16, len(samples)))}
        told = bool(getattr(samples, "told", False))
        if told and len(steps) == 1 and (step := steps.pop()) and abs(step / facts["step"] - 1) > 0.01:
            wanted["step"] = float(f"{step:.6g}")
        if facts["points"] < 6 * cls.presets["tiny"]["patch_size"]:
            wanted["patch_size"] = max(2, facts["points"] // 12)
        return wanted

    def method(self, facts: dict[str, Any]) -> BrainJepaMethod:
        """Tokenizer, positions, encoder, predictor, teacher and mask sampler."""
        stretches, table = facts["points"] // self.patch_size, table_of(facts)
        if stretches < 3:
            raise UserError(
                f"runs of {facts['points']} points make {stretches} tokens of {self.patch_size} a region, "
                "and three are the least: make --patch-size smaller."
            )
        sampler = self._sampler(len(table), stretches)
        patches = BoldPatches(self.patch_size, self.width, facts["median"], facts["spread"], self.normalise)
        encoder = Encoder(
            patches, GradientPositions(self.width, table, self.positions), self.width, self.depth, self.heads
        )
        predictor = Predictor(
            self.width, GradientPositions(self.predictor_width, table, self.positions), self.predictor_width,
            self.predictor_depth, self.predictor_heads,
        )  # fmt: skip
        for part in (encoder, predictor):
            initialise(part, self.initial_std or None)
        return BrainJepaMethod(
            facts["points"],
            self.every,
            stretches,
            self.average == "regions",
            facts["temporal_share"],
            encoder,
            predictor,
            self._target(encoder),
            sampler,
            OBJECTIVES[self.objective],
            self.normalise_targets,
        )

    def _target(self, encoder: nn.Module) -> nn.Module:
        if self.teacher == "ema":
            return EmaTeacher(encoder, *self.momentum)
        return SameEncoder(gradient=self.teacher == "collapse")

    def _sampler(self, regions: int, stretches: int) -> MaskSampler:
        try:
            crossed = CrossedSets(
                regions, stretches, self.observed, self.observed, self.hidden_regions, self.hidden_time,
                self.side_regions, self.side_time,
            )  # fmt: skip
        except ValueError as problem:
            raise UserError(
                f"these masks cannot be drawn: {problem}; change --patch-size or the shares that are hidden."
            ) from problem
        if self.mask == "crossed":
            return crossed
        seen, hidden = crossed.usual_widths()
        return RandomPatches(regions * stretches, 1, hidden, seen)

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """A random crop of each run; no other augmentation."""
        return random_crops(samples, uniforms[:, 0], self.points, self.every, self.patch_size)

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Whole runs, shorter ones filled up."""
        return side_by_side(samples)
