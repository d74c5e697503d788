"""Point-JEPA: predict the embeddings of runs of point patches from another run of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from anyjepa.core.errors import UserError
from anyjepa.core.masking import Masks
from anyjepa.core.method import Batch, Context
from anyjepa.core.objectives import smooth_l1
from anyjepa.core.points import greedy_order, morton_order
from anyjepa.core.positions import Mlp
from anyjepa.core.sequence_masks import Runs
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.tokens import take
from anyjepa.core.transformer import Predictor, initialise
from anyjepa.domains.point_encoder import PointEncoder, build_point_encoder
from anyjepa.domains.point_prediction import PointPrediction, Varied, pooled
from anyjepa.domains.points import resampled
from anyjepa.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class PointRecipe(Recipe):
    """What recipes on point clouds share: how a cloud is read, cut into patches, encoded and varied."""

    domain: ClassVar[str] = "points"
    example_data: ClassVar[str] = "synthetic-shapes"

    points: int = 1024  # of a cloud that the encoder sees
    candidates: int = 8192  # points that those are chosen from by farthest point sampling; drawn by chance
    channels: int = 0  # values of a point beyond x, y, z that are used: colour, normal, intensity
    up: Literal["x", "y", "z"] = "y"  # axis that points up
    groups: int = 64  # patches of a cloud
    neighbours: int = 32  # points of a patch
    radius: float = 0.0  # of the ball a patch is taken from, in radii of the cloud; 0 for the nearest points
    patch_widths: tuple[int, int] = (128, 256)  # of the PointNet's first two layers
    position_width: int = 128  # hidden width of the embeddings of positions
    width: int = 384  # of the encoder's tokens
    depth: int = 12  # blocks of the encoder
    heads: int = 6  # attention heads of the encoder
    initial_std: float = 0.02  # of the weights; 0 for one over the square root of a layer's inputs
    scale: tuple[float, float] = (0.8, 1.2)  # factors along each axis that training stretches clouds by
    rotation: float = 180.0  # degrees that training turns clouds about the up axis by, at most, either way

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        self.check_heads("")
        if self.candidates < self.points:
            raise UserError(
                f"--points {self.points} cannot be chosen from --candidates {self.candidates}: raise those."
            )
        for name in ("groups", "neighbours"):
            if not 1 < getattr(self, name) <= self.points:
                raise UserError(f"--{name} must lie between 2 and --points {self.points}.")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"--scale {self.scale[0]:g} {self.scale[1]:g} must be above 0 and rise.")
        if self.channels < 0 or self.radius < 0:
            raise UserError("--channels and --radius cannot be below 0.")

    def reading(self) -> dict[str, Any]:
        """Values beyond x, y, z a point must have, points a mesh is sampled by, and how a cloud is drawn."""
        return {
            "channels": self.channels,
            "surface_points": self.candidates,
            "up": self.up,
            "patches": self.groups,
        }

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """As many points of each cloud as there are candidates, drawn by chance; the rest is the device's."""
        chance = [np.random.default_rng(int(row[0] * 2**53)) for row in uniforms]
        return {"points": torch.from_numpy(resampled(samples, self.candidates, chance))}

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """The same without chance: a cloud of n points always gives the same ones."""
        chance = [np.random.default_rng(0) for _ in samples]
        return {"points": torch.from_numpy(resampled(samples, self.candidates, chance))}


@dataclass(frozen=True, kw_only=True)
class PointJepa(PointRecipe):
    """Point-JEPA (Saito, Kudeshia, Poovvancheri, WACV 2025, arXiv:2404.16432).

    A cloud is cut into patches of near points around centres chosen by farthest point sampling, and a small
    PointNet makes a token of each. A greedy walk puts the centres into a sequence in which neighbours are
    mostly near in space, so that a run of the sequence is a piece of the object. The context encoder sees one
    run; a predictor must guess the tokens that the encoder's exponential moving average, which sees the whole
    object, has in four other runs. No points are reconstructed.

    The defaults are the released configuration, which gave the published numbers. Where the paper's
    supplement differs from it, it is an option: momentum 0.995 to 1 (``--momentum 0.995 1.0``). The loss is
    the mean over tokens, as released; the paper sums over the tokens of a block, which is the same up to a
    factor of 9 to 12. As released, weight decay acts on norms and biases too (else ``--decay matrices``).
    The released code draws one scale, one angle and one set of masks a batch; here every sample draws its
    own, and ``--published true`` brings the batch's back. The learning rate moves each step instead of each
    epoch. The teacher is the encoder's transformer only: the PointNet and the embedding of positions are
    shared by both, and are saved with the encoder, the batch norm's running statistics included.

    The embedding of a cloud is the maximum and the mean of its tokens, side by side. Clouds are centred and
    scaled to the unit ball, so position and size are not seen. ``--up`` says which axis points up: training
    turns clouds about it. Values beyond x, y, z (colour, intensity) are read where ``--channels`` asks for
    them, and standardised by statistics of your own data; they do not turn with the cloud.

    ``anyjepa train point-jepa --data scans/ --out runs/scans --preset tiny``
    """

    name: ClassVar[str] = "point-jepa"
    paper: ClassVar[str] = "arXiv:2404.16432"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {
            "points": 512, "candidates": 512, "groups": 24, "neighbours": 16, "patch_widths": (16, 32),
            "width": 96, "depth": 3, "heads": 3, "predictor_width": 48, "predictor_depth": 2,
            "predictor_heads": 3, "position_width": 8, "dropout": 0.0, "attention_dropout": 0.0,
            "drop_path": 0.0, "predictor_drop_path": 0.0, "initial_std": 0.05, "momentum": (0.99, 1.0),
            "epochs": 100.0, "warmup_epochs": 10.0, "batch_size": 32,
            "start_learning_rate": 1e-5, "learning_rate": 1e-3,
        },
    }  # fmt: skip

    epochs: float = 500.0  # passes over the data
    batch_size: int = 512  # samples a step, over all processes
    start_learning_rate: float = 1e-5  # at the first step
    learning_rate: float = 1e-3  # at the end of the warm-up
    warmup_epochs: float = 30.0  # epochs in which the learning rate rises
    weight_decay: float = 0.05  # of AdamW at the first step
    final_weight_decay: float = 0.05  # of AdamW at the last step
    decay: Literal["matrices", "layers", "all"] = "all"  # what decays; norms and biases too, as released
    predictor_width: int = 192  # of the predictor's tokens
    predictor_depth: int = 6  # blocks of the predictor
    predictor_heads: int = 6  # attention heads of the predictor
    dropout: float = 0.1  # share of activations dropped in training
    attention_dropout: float = 0.05  # share of attention weights dropped in training
    drop_path: float = 0.25  # chance that a branch of the encoder's last block is dropped; rises with depth
    predictor_drop_path: float = 0.25  # the same of every block of the predictor
    sequence: Literal["greedy", "from-first", "morton"] = "greedy"  # order of patches that runs follow
    targets: int = 4  # target runs a sample
    target_ratio: tuple[float, float] = (0.15, 0.2)  # share of the patches that a target run has
    context_ratio: tuple[float, float] = (0.4, 0.75)  # share of the other patches that are seen
    published: bool = False  # one scale, angle and set of masks for the whole batch, as released
    target_blocks: str = "last"  # encoder blocks whose outputs are the targets: last, or 4,8,12 averaged
    beta: float = 2.0  # distance below which the loss is squared instead of absolute
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.9995, 0.99999)  # of the teacher at the first and the last step
    copied_updates: int = 2  # first updates in which the teacher is a plain copy

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        self.check_heads("predictor_")
        if self.beta < 0:
            raise UserError("--beta cannot be below 0.")
        self._sampler()
        self._target_blocks()

    def _sampler(self) -> Runs:
        try:
            return Runs(
                self.groups, self.targets, self.target_ratio, self.context_ratio, shared=self.published
            )
        except ValueError as problem:
            raise UserError(f"these masks cannot be drawn: {problem}.") from problem

    def _target_blocks(self) -> tuple[int, ...]:
        """Indices, from 0, of the blocks whose outputs are targets."""
        words = [str(self.depth)] if self.target_blocks == "last" else self.target_blocks.split(",")
        numbers = [int(word) for word in words if word.strip().isdecimal()]
        if len(numbers) != len(words) or not all(1 <= number <= self.depth for number in numbers):
            raise UserError(
                f"--target-blocks is 'last' or numbers from 1 to {self.depth} such as 4,8, "
                f"not '{self.target_blocks}'."
            )
        return tuple(number - 1 for number in numbers)

    def method(self, facts: dict[str, Any]) -> RunPrediction:
        """Tokenizer, transformer, predictor, teacher and sampler; the mask token starts at zero."""
        options: dict[str, Any] = {"dropout": self.dropout, "attention_dropout": self.attention_dropout}
        encoder = build_point_encoder(
            facts, points=self.points, groups=self.groups, neighbours=self.neighbours, radius=self.radius,
            patch_widths=self.patch_widths, position_width=self.position_width, width=self.width,
            depth=self.depth, heads=self.heads, drop_path=self.drop_path, **options,
        )  # fmt: skip
        predictor = Predictor(
            self.width,
            Mlp(3, self.predictor_width, self.position_width),
            self.predictor_width,
            self.predictor_depth,
            self.predictor_heads,
            drop_path=self.predictor_drop_path,
            **options,
        )
        for part in (encoder, predictor):
            initialise(part, self.initial_std or None)
        nn.init.zeros_(predictor.mask_token)
        return RunPrediction(encoder, predictor, self._sampler(), self._target_blocks(), self)


class RunPrediction(PointPrediction):
    """Predict the teacher's tokens in runs of the sequence of patches from a run of the rest.

    Masks index tokens in the order of farthest point sampling; the sequence is only where the sampler's
    positions lie, for the transformer knows no order.

    Args:
        encoder: the context encoder.
        predictor: from context tokens and target places to target tokens.
        sampler: draws runs of the sequence.
        wanted: blocks whose outputs are the targets.
        recipe: the numbers of the augmentation, the sequence, the loss and the teacher.
    """

    def __init__(
        self,
        encoder: PointEncoder,
        predictor: Predictor,
        sampler: Runs,
        wanted: tuple[int, ...],
        recipe: PointJepa,
    ) -> None:
        varied = Varied(recipe.scale, recipe.rotation, recipe.up, recipe.published)
        target = EmaTeacher(encoder.trunk, *recipe.momentum) if recipe.teacher == "ema" else None
        super().__init__(encoder, target, varied, recipe.copied_updates)
        self.predictor = predictor
        self.sampler, self.wanted, self.recipe = sampler, wanted, recipe

    def order(self, centres: Float[Tensor, "batch patches axes"]) -> Tensor:
        """(B, G) the sequence: index of the token at each position."""
        if self.recipe.sequence == "morton":
            return morton_order(centres)
        first = torch.zeros_like(centres[:, 0, 0], dtype=torch.long)
        return greedy_order(centres, first if self.recipe.sequence == "from-first" else None)

    def hidden(self, centres: Tensor, generator: Generator, host: Generator | None = None) -> Masks:
        """Masks over the tokens of patches with these centres."""
        drawn, order = self.sampler(len(centres), generator, host), self.order(centres)
        targets = order.gather(1, drawn.targets.flatten(1)).view_as(drawn.targets)
        return Masks(order.gather(1, drawn.context), targets, drawn.relaxed, drawn.present)

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``, ``relaxed`` and ``embedding``; and what tells a collapse from learning (paper's code).

        ``mean_target_loss`` is the loss of always predicting the mean target; ``target_spread`` and
        ``predicted_spread`` are standard deviations over tokens, averaged over channels: healthy runs keep
        them above 0.1 and 0.01.
        """
        tokens, masks = self.prepared(batch, context)
        added = self.encoder.positions(tokens.coordinates)
        whole = self._targets(tokens.values, added)
        goal = take(whole, masks.targets.flatten(1)).unflatten(1, masks.targets.shape[1:])
        seen = self.seen(tokens, added, masks)
        predicted = self.predictor(seen, tokens.coordinates, masks).to(goal.dtype)
        mean = whole.detach().mean(dim=(0, 1)).expand_as(goal)
        return {
            "loss": smooth_l1(predicted, goal, self.recipe.beta),
            "mean_target_loss": smooth_l1(mean, goal.detach(), self.recipe.beta),
            "target_spread": whole.detach().flatten(0, 1).std(dim=0).mean(),
            "predicted_spread": predicted.detach().flatten(0, 2).std(dim=0).mean(),
            "relaxed": masks.relaxed.float().mean(),
            "embedding": pooled(whole.detach()),
        }

    def _targets(self, values: Tensor, added: Tensor) -> Tensor:
        """(B, G, D) targets of all patches; the teacher sees the whole cloud."""
        if self.recipe.teacher == "collapse":
            return self.encoder.trunk.targets(values, added, self.wanted)
        return self.taught(values, added, self.wanted)
