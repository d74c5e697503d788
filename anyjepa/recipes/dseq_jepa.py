"""DSeq-JEPA: predict the regions of an image one after the other, from what stands out most to the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.chance import uniform
from anyjepa.core.errors import UserError
from anyjepa.core.masking import MaskSampler, MultiBlock
from anyjepa.core.method import Batch, Context, MaskedJepa, single_at_least
from anyjepa.core.objectives import DISTANCES, OBJECTIVES
from anyjepa.core.processes import share_of_all
from anyjepa.core.regions import Regions, grey_levels, salient_regions
from anyjepa.core.schedules import linear
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.tokens import Tokens
from anyjepa.core.transformer import Encoder, Predictor
from anyjepa.domains import Samples
from anyjepa.recipes.i_jepa import SMALL_GREY, IJepa

COIN = 0x510E527FADE682D1  # keeps the choice of a step's kind apart from the other chance of a step


@dataclass(frozen=True, kw_only=True)
class DSeqJepa(IJepa):
    """DSeq-JEPA (He et al., ECCV 2026, arXiv:2511.17354).

    I-JEPA with another answer to where and in which order to predict. The teacher's class token, compared
    with its patches, says which patches stand out; Otsu's threshold parts them from the background, connected
    regions of enough patches are ranked by their mean saliency, and the background comes last. The most
    salient region is only ever context; each further one is predicted from all before it. A curriculum begins
    with I-JEPA's random blocks and ends with regions alone.

    The defaults are the paper's ViT-B/16: 5 regions of at least 15 % of the patches, saliency behind the
    11th of 12 blocks, 600 epochs; the predictor's width is the released code's. ``released`` has the learning
    rates of the code. Where paper and code differ otherwise, the default is what was released: a coin decides
    whether a whole step is in order or I-JEPA's (the paper replaces single regions by rectangles:
    ``--curriculum-of regions``), and saliency compares patches with the class token as it enters the encoder
    (``--saliency contextual`` compares them where they are). The paper's attention is block-causal: one pass
    in which no patch looks at less salient ones. The code encodes each context by itself, in which the more
    salient patches of it look at the less salient ones too: ``--encoding prefixes``, at 4 times the cost.

    Of the released code's defects none is here: contexts that lag one region behind, a predictor that sees
    all but its context, masks of I-JEPA steps that are scrambled over the batch, a predictor that only fits
    encoders of width 768. Ours: an image without a region (logged as ``with_0_regions``) is given
    random rectangles instead, where the code leaves it out. When most images have none, the training is
    I-JEPA's in disguise: ``--least-region`` is then too large.

    ``--order random``, ``inverse``, ``spatial`` and ``flat`` (all from the most salient region at once) are
    the paper's ablations; ``--curriculum 0 0`` is I-JEPA with a class token, and with ``--curriculum-of
    regions`` random rectangles in order.

    ``tiny`` is for drawn digits and such, ``tiny-photos`` for small photographs on a CPU.

    ``anyjepa train dseq-jepa --data photos/ --out runs/photos --preset tiny-photos``
    """

    name: ClassVar[str] = "dseq-jepa"
    paper: ClassVar[str] = "arXiv:2511.17354"
    proposed: ClassVar[bool] = False
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "released": {
            "start_learning_rate": 2e-4, "learning_rate": 8e-4, "final_learning_rate": 1e-4,
        },
        # of digits 8 pixels wide a patch is one of 2 pixels, which is what carries them (docs/experiments.md)
        "tiny": IJepa.presets["tiny"] | {
            "image_size": (16, 16), "crop_area": (0.6, 1.0), "width": 64, "depth": 3, "heads": 2,
            "predictor_width": 32, "predictor_heads": 2, "regions": 3, "least_region": 0.05,
            "epochs": 68.0, "warmup_epochs": 7.0,
        },
        "tiny-photos": IJepa.presets["tiny"] | {"regions": 4, "least_region": 0.03},
    }  # fmt: skip

    epochs: float = 600.0  # passes over the data
    start_learning_rate: float = 1e-4  # at the first step
    warmup_epochs: float = 15.0  # epochs in which the learning rate rises
    patch_size: int = 16  # side of a patch in pixels
    width: int = 768  # of the encoder's tokens
    depth: int = 12  # blocks of the encoder
    heads: int = 12  # attention heads of the encoder
    registers: int = 1  # learned tokens without a place; the first one is the class token
    predictor_width: int = 192  # of the predictor's tokens
    predictor_depth: int = 6  # blocks of the predictor
    predictor_heads: int = 12  # attention heads of the predictor
    regions: int = 5  # of an image at most, the background among them
    least_region: float = 0.15  # share of the patches; what is smaller belongs to the background
    saliency: Literal["initial", "contextual"] = "initial"  # class token as it enters, or of the same block
    saliency_depth: float = 0.9167  # share of the teacher's blocks behind which saliency is measured
    order: Literal["saliency", "flat", "random", "spatial", "inverse"] = "saliency"  # of prediction
    encoding: Literal["causal", "prefixes"] = "causal"  # one pass for all contexts, or one for each
    curriculum: tuple[float, float] = (0.0, 1.0)  # share of what is not random, at the first and last step
    curriculum_of: Literal["steps", "regions"] = "steps"  # random are whole I-JEPA steps, or single regions
    loss_over: Literal["patches", "regions"] = "patches"  # what counts the same: each patch, or each region

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        if self.regions < 2:
            raise UserError("--regions must be 2 or more: one that is seen and one that is predicted.")
        if self.registers < 1:
            raise UserError("--registers must be 1 or more: the first one is the class token.")
        for name, value in (("least-region", self.least_region), ("saliency-depth", self.saliency_depth)):
            if not 0 < value <= 1:
                raise UserError(f"--{name} must be above 0 and at most 1, not {value:g}.")
        if not all(0 <= share <= 1 for share in self.curriculum):
            raise UserError("--curriculum is two shares of 0 to 1.")

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """Drawn digits and such ask for few patches; photographs for a grid that regions show on."""
        smallest = min(facts["height"], facts["width"])
        if facts["channels"] == 1 and smallest <= SMALL_GREY:
            grid = {"image_size": (28, 28), "patch_size": 7, "momentum": (0.99, 1.0)}
            return {} if smallest <= 16 else grid
        return {"preset": "tiny-photos"} | super().advice(samples, facts)

    def method(self, facts: dict[str, Any]) -> SequentialJepa:
        """I-JEPA's parts, and what finds regions and predicts them in order."""
        encoder, predictor = self.parts(facts, RankedPredictor)
        return SequentialJepa(encoder, predictor, self._target(encoder), self._sampler(self.grid), self)


def visible(
    ranks: Int[Tensor, "batch patches"], regions: int, flat: bool = False
) -> Bool[Tensor, "batch steps patches"]:
    """The context that each region but the first is predicted from: all before it (equation 5).

    Args:
        ranks: place of each patch's region in the order.
        regions: places there are; region r is predicted in step r - 1.
        flat: the first region alone is the context of all.
    """
    last = torch.arange(regions - 1, device=ranks.device)
    return ranks.unsqueeze(1) <= (last * 0 if flat else last).unsqueeze(1)


class RankedPredictor(Predictor):
    """A predictor that can also be asked for regions in order."""

    def in_order(
        self,
        context: Float[Tensor, "batch copies patches width"],
        coordinates: Float[Tensor, "shared patches axes"],
        ranks: Int[Tensor, "batch patches"],
        seen: Bool[Tensor, "batch steps patches"],
    ) -> Float[Tensor, "batch patches width"]:
        """What is predicted of each patch in the step that asks for its region; of the first region nothing.

        Each step of each sample is a sequence of its own: the tokens of its context, a mask token at each
        patch of its region, and nothing else that could be read.

        Args:
            context: encoded patches, in one copy for all steps or in one for each.
            coordinates: of the patches.
            ranks: place of each patch's region in the order; step s asks for s + 1.
            seen: the context of each step.
        """
        assert self.positions is not None
        table = self.positions(coordinates)
        known = self.embed(context)
        known = known + table.to(known.dtype)
        asked = (self.mask_token + table).to(known.dtype)
        wanted = ranks.unsqueeze(1) == torch.arange(1, seen.shape[1] + 1, device=ranks.device).unsqueeze(1)
        x = torch.where(wanted.unsqueeze(-1), asked, known).flatten(0, 1)
        present = (wanted | seen).flatten(0, 1)
        for block in self.blocks:
            x = block(x, present=present)
        x = x.unflatten(0, wanted.shape[:2])
        step = (ranks - 1).clamp(min=0)[:, None, :, None].expand(-1, 1, -1, x.shape[-1])
        return self.out(self.norm(x.gather(1, step).squeeze(1)))


class SequentialJepa(MaskedJepa):
    """Predict the teacher's tokens of one salient region after the other.

    Args:
        encoder: the context encoder, with a class token.
        predictor: from context tokens and target places to target tokens.
        target: `EmaTeacher` or `SameEncoder`.
        sampler: draws the masks of I-JEPA's steps.
        recipe: the numbers of the regions and of the curriculum.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: RankedPredictor,
        target: nn.Module,
        sampler: MaskSampler,
        recipe: DSeqJepa,
    ) -> None:
        super().__init__(
            encoder, predictor, target, sampler, OBJECTIVES[recipe.objective], recipe.normalise_targets
        )
        self.recipe = recipe
        self.distance: Callable[[Tensor, Tensor], Tensor] = DISTANCES[recipe.objective]
        self.measured_at = max(1, round(recipe.saliency_depth * recipe.depth))
        self.rectangles = MultiBlock(
            recipe.grid, recipe.regions - 1, recipe.target_scale, recipe.target_aspect
        )

    def share(self, context: Context) -> float:
        """Share of the steps, or of the regions, that follow saliency."""
        return linear(*self.recipe.curriculum, context.progress)

    def scheduled(self, context: Context) -> dict[str, float]:
        """The teacher's momentum, and the curriculum."""
        return {**super().scheduled(context), "curriculum": self.share(context)}

    def goes_in_order(self, context: Context) -> bool:
        """Whether this step predicts regions in order; else it is I-JEPA's.

        Known without asking the device, from the seed of the step alone.
        """
        if self.recipe.curriculum_of == "regions":
            return True
        coin = Generator().manual_seed(context.generator.initial_seed() ^ COIN)
        return torch.rand((), generator=coin).item() < self.share(context)

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """As of `MaskedJepa`; ``in_order``: 1 or 0; ``with_0_regions`` and so on: shares of the samples."""
        whole, saliency = self._taught(batch)
        found = self.regions(saliency)
        counts = torch.arange(self.recipe.regions, device=saliency.device)
        shares = (found.found.unsqueeze(1) == counts).to(saliency.dtype).mean(0)
        logged = {f"with_{count}_regions": share for count, share in enumerate(shares.unbind())}
        if not self.goes_in_order(context):
            return {**self.compared(whole, batch, context), "in_order": shares.new_zeros(()), **logged}
        ranks = self.ranks(found, context)
        return {
            "loss": self._loss(self.predicted(batch, ranks), whole.values, ranks),
            "relaxed": shares.new_zeros(()),
            "embedding": whole.values.detach().mean(1),
            "in_order": shares.new_ones(()),
            **logged,
        }

    def _taught(self, batch: Batch) -> tuple[Tokens, Float[Tensor, "batch patches"]]:
        """The targets of whole samples, and how much each patch stands out in the eyes of what gives them."""
        taught = self.target.encoder if isinstance(self.target, EmaTeacher) else self.encoder
        assert isinstance(taught, Encoder)
        through = isinstance(self.target, SameEncoder) and self.target.gradient
        with torch.set_grad_enabled(through and torch.is_grad_enabled()):
            whole, inner = taught.halfway(batch, self.measured_at)
        return whole, self._saliency(taught, inner.detach())

    @torch.no_grad()
    def _saliency(self, encoder: Encoder, inner: Tensor) -> Float[Tensor, "batch patches"]:
        """Likeness of each patch to the class token: their scalar product over the root of the width."""
        assert encoder.registers is not None
        inner, front = single_at_least(inner), encoder.registers.shape[1]
        token = inner[:, :1] if self.recipe.saliency == "contextual" else encoder.registers[:, :1]
        return (inner[:, front:] * token).sum(-1) / inner.shape[-1] ** 0.5

    def regions(self, saliency: Float[Tensor, "batch patches"]) -> Regions:
        """The regions that stand out, by order of it."""
        return salient_regions(saliency, self.recipe.grid, self.recipe.regions, self.recipe.least_region)

    @torch.no_grad()
    def ranks(self, found: Regions, context: Context) -> Int[Tensor, "batch patches"]:
        """The place of each patch's region in the order of this step, 0 first; no place is left out.

        A sample in which no region was found, and each region that the curriculum replaces, is given
        rectangles instead. Where these overlap, what comes first has the patch.
        """
        generator, count = context.generator, self.recipe.regions
        places = torch.arange(count, device=found.slots.device)
        members = found.slots.unsqueeze(1) == places[:-1, None]
        blocks = self.rectangles.target_blocks(len(members), generator).members(self.recipe.grid)
        replaced = (found.found == 0).unsqueeze(1).expand(members.shape[:2])
        if self.recipe.curriculum_of == "regions":
            replaced = replaced | (uniform(replaced.shape, generator) >= self.share(context))
        members = torch.where(replaced.unsqueeze(-1), blocks, members)
        slots = torch.where(members, places[:-1, None], count - 1).amin(1)
        belongs = slots.unsqueeze(1) == places[:, None]
        key = self._key(belongs, generator).masked_fill(~belongs.any(2), torch.inf)
        return key.argsort(dim=1, stable=True).argsort(dim=1).gather(1, slots)

    def _key(self, belongs: Bool[Tensor, "batch regions patches"], generator: Generator) -> Tensor:
        """(B, regions) what regions are ordered by, the background among them."""
        place = torch.arange(belongs.shape[1], device=belongs.device).float().expand(belongs.shape[:2])
        if self.recipe.order == "random":
            return uniform(place.shape, generator)
        if self.recipe.order == "inverse":
            return -place
        if self.recipe.order == "spatial":  # by their middles, as one reads
            raster = torch.arange(belongs.shape[2], device=belongs.device)
            return (belongs * raster).sum(2) / belongs.sum(2).clamp(min=1)
        return place

    def predicted(self, batch: Batch, ranks: Int[Tensor, "batch patches"]) -> Float[Tensor, "b n d"]:
        """What is predicted of each patch, (B, N, D), from the regions before its own."""
        flat, encoder = self.recipe.order == "flat", self.encoder
        seen = visible(ranks, self.recipe.regions, flat)
        tokens: Tokens = encoder.tokenizer(batch)
        if self.recipe.encoding == "prefixes" and not flat:
            steps = seen.shape[1]
            alone = Tokens(tokens.values.repeat_interleave(steps, 0), tokens.coordinates, seen.flatten(0, 1))
            context = encoder.encode(alone)[0].values.unflatten(0, (-1, steps))
        else:
            assert encoder.registers is not None
            rank = functional.pad(ranks, (encoder.registers.shape[1], 0))
            allowed = rank.unsqueeze(1) <= rank.unsqueeze(2)
            context = encoder.encode(tokens, allowed)[0].values.unsqueeze(1)
        assert isinstance(self.predictor, RankedPredictor)
        return self.predictor.in_order(context, tokens.coordinates, ranks, seen)

    def _loss(self, predicted: Tensor, goal: Tensor, ranks: Int[Tensor, "batch patches"]) -> Tensor:
        """Mean distance over all patches but those of first regions (equation 7)."""
        goal = single_at_least(goal)
        if self.normalise_targets:
            goal = functional.layer_norm(goal, goal.shape[-1:])
        distance = self.distance(single_at_least(predicted), goal)
        weight = (ranks > 0).to(distance.dtype)
        if self.recipe.loss_over == "regions":
            weight = weight / (ranks.unsqueeze(1) == ranks.unsqueeze(2)).sum(2)
        return (distance * weight).sum() / share_of_all(weight.sum()).clamp(min=1)

    @torch.no_grad()
    def ranked(self, batch: Batch) -> tuple[Int[Tensor, "batch patches"], Float[Tensor, "batch patches"]]:
        """The regions of whole samples by how much they stand out, the background last, and saliency."""
        saliency = self._taught(batch)[1]
        found = self.regions(saliency)
        return torch.minimum(found.slots, found.found.unsqueeze(1)), grey_levels(saliency)[0]

    @torch.no_grad()
    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """Share of the samples with 0, 1, ... regions beside the background."""
        found = torch.cat([self.regions(self._taught(batch)[1]).found for batch in batches]).cpu()
        counts = torch.bincount(found, minlength=self.recipe.regions) / len(found)
        return {f"with_{count}_regions": float(share) for count, share in enumerate(counts)}
