"""3D-JEPA: predict the embeddings of blocks of near point patches with a decoder that keeps reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.context_decoder import ContextDecoder, all_present, beside
from anyjepa.core.errors import UserError
from anyjepa.core.masking import Masks
from anyjepa.core.method import Batch, Context
from anyjepa.core.near_masks import NearBlocks
from anyjepa.core.objectives import cosine
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.transformer import initialise
from anyjepa.domains.point_encoder import PointEncoder, build_point_encoder
from anyjepa.domains.point_prediction import PointPrediction, Varied, pooled
from anyjepa.recipes import Recipe
from anyjepa.recipes.point_jepa import PointRecipe


@dataclass(frozen=True, kw_only=True)
class ThreeDJepa(PointRecipe):
    """3D-JEPA (Hu, Cheng, Xie, Li, Zhu 2024, arXiv:2409.15803); not Locate 3D's encoder of the same name.

    A cloud is cut into patches around centres chosen by farthest point sampling, and a small PointNet makes a
    token of each. Farthest point sampling among those centres gives the middles of four target blocks, so
    that blocks spread over the object; a block is its middle and the patches nearest to it. The context is
    a large block without any patch of a target. The decoder sees the context in every layer: its tokens (the
    context's and a mask token for each hidden patch) attend to one another, then to what the encoder gave,
    so that the encoder need not carry what only a first layer would read. The loss is one minus the cosine
    between what is predicted and the teacher's token.

    There is no official code, and the paper leaves much out. From the paper: 2,048 points, depth 12 and 2,
    four targets of 0.15 to 0.2 of the patches, a context of 0.85 to 1 of them, AdamW at 0.001, 300 epochs.
    From the code of ACT, whose teacher the paper takes: 64 patches of 32 points, width 384 with 6 heads,
    batch 128, weight decay 0.05, 10 epochs of warm-up, stochastic depth 0.1, stretching by 2/3 to 3/2. Ours:
    the context's shape (a random patch and those nearest to it), shares drawn once a step, turns about the
    up axis (the experiments name scale and rotation, another section no augmentation: then ``--scale 1 1
    --rotation 0``). The printed loss has its sign the wrong way round, and a projection that acts on the
    target too could make it zero by forgetting everything: here it acts on the prediction only.

    The published numbers come from a frozen teacher with a ViT of ImageNet inside, so they are not those of
    a self-contained method. The default is a moving average of the encoder's transformer, with PointNet and
    positions shared as in Point-JEPA. A frozen teacher is the encoder of a run of point-jepa on the same kind
    of clouds: ``anyjepa train 3d-jepa --init RUN``, which sets ``--teacher frozen`` and its sizes. It sees
    the same points cut into the same patches.

    The embedding of a cloud is the maximum and the mean of its tokens, side by side; the paper only
    fine-tunes. ``--decoder plain`` leaves out the reading of the encoder's tokens in every layer, and
    ``--decoder-depth 0`` the decoder (mask tokens then go through the encoder): the paper's ablations.

    ``anyjepa train 3d-jepa --data scans/ --out runs/scans --preset tiny``
    """

    name: ClassVar[str] = "3d-jepa"
    paper: ClassVar[str] = "arXiv:2409.15803"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {
            "points": 512, "candidates": 512, "groups": 24, "neighbours": 16, "patch_widths": (16, 32),
            "width": 96, "depth": 3, "heads": 3, "decoder_width": 48, "decoder_heads": 3,
            "position_width": 8, "drop_path": 0.0, "initial_std": 0.05, "momentum": (0.99, 1.0),
            "epochs": 100.0, "warmup_epochs": 10.0, "batch_size": 32,
        },
    }  # fmt: skip

    epochs: float = 300.0  # passes over the data
    batch_size: int = 128  # samples a step, over all processes
    start_learning_rate: float = 1e-6  # at the first step
    learning_rate: float = 1e-3  # at the end of the warm-up
    warmup_epochs: float = 10.0  # epochs in which the learning rate rises
    weight_decay: float = 0.05  # of AdamW at the first step
    final_weight_decay: float = 0.05  # of AdamW at the last step
    points: int = 2048  # of a cloud that the encoder sees
    positions: Literal["first", "every"] = "first"  # blocks of the encoder to whose input positions are added
    decoder: Literal["context-aware", "plain"] = "context-aware"  # reads the context in every layer, or not
    decoder_width: int = 384  # of the decoder's tokens
    decoder_depth: int = 2  # blocks of the decoder; 0 to send mask tokens through the encoder
    decoder_heads: int = 6  # attention heads of the decoder
    drop_path: float = 0.1  # chance that a branch of the encoder's last block is dropped; rises with depth
    scale: tuple[float, float] = (0.6667, 1.5)  # factors along each axis that training stretches clouds by
    targets: int = 4  # target blocks a sample
    target_ratio: tuple[float, float] = (0.15, 0.2)  # share of the patches that a target block has
    context_ratio: tuple[float, float] = (0.85, 1.0)  # share that is seen before targets are taken out
    middles: Literal["farthest", "random"] = "farthest"  # how middles of target blocks are chosen
    teacher: Literal["ema", "frozen"] = "ema"  # moving average, or what --init brings (random without it)
    momentum: tuple[float, float] = (0.996, 1.0)  # of the moving average at the first and the last step
    teacher_patch_widths: tuple[int, int] = (128, 256)  # of a frozen teacher's PointNet
    teacher_position_width: int = 128  # hidden width of a frozen teacher's embeddings of positions
    teacher_width: int = 384  # of a frozen teacher's tokens
    teacher_depth: int = 12  # blocks of a frozen teacher
    teacher_heads: int = 6  # attention heads of a frozen teacher

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        self.check_heads("decoder_", "teacher_")
        if self.decoder_depth < 0:
            raise UserError("--decoder-depth cannot be below 0.")
        self._sampler()

    def _sampler(self) -> NearBlocks:
        try:
            return NearBlocks(
                self.groups, self.targets, self.target_ratio, self.context_ratio, self.middles == "farthest"
            )
        except ValueError as problem:
            raise UserError(f"these masks cannot be drawn: {problem}.") from problem

    @classmethod
    def inherited(cls, other: Recipe) -> dict[str, Any] | None:
        """Fields for a run whose frozen teacher is the encoder of a run of point-jepa."""
        if other.name != "point-jepa":
            return None
        shape = ("patch_widths", "position_width", "width", "depth", "heads")
        same = ("points", "candidates", "channels", "up", "groups", "neighbours", "radius")
        taken = {name: getattr(other, name) for name in same}
        return {"teacher": "frozen", **taken, **{f"teacher_{name}": getattr(other, name) for name in shape}}

    def method(self, facts: dict[str, Any]) -> BlockPrediction:
        """Tokenizer, transformer, decoder, teacher and sampler."""
        shared = ("points", "groups", "neighbours", "radius")
        sizes = {name: getattr(self, name) for name in shared}
        encoder = build_point_encoder(
            facts, patch_widths=self.patch_widths, position_width=self.position_width, width=self.width,
            depth=self.depth, heads=self.heads, drop_path=self.drop_path,
            everywhere=self.positions == "every", **sizes,
        )  # fmt: skip
        frozen = self.teacher == "frozen"
        decoder = ContextDecoder(
            self.width, self.decoder_width, self.decoder_depth, self.decoder_heads, self.position_width,
            self.teacher_width if frozen else self.width, self.decoder == "context-aware",
        )  # fmt: skip
        for part in (encoder, decoder):
            initialise(part, self.initial_std or None)
        nn.init.trunc_normal_(decoder.mask_token, std=0.02)
        teacher = None
        if frozen:
            teacher = build_point_encoder(
                facts, patch_widths=self.teacher_patch_widths, position_width=self.teacher_position_width,
                width=self.teacher_width, depth=self.teacher_depth, heads=self.teacher_heads, **sizes,
            )  # fmt: skip
            initialise(teacher, None)
        return BlockPrediction(encoder, decoder, teacher, self._sampler(), self)


class BlockPrediction(PointPrediction):
    """Predict the teacher's tokens of blocks of near patches from the rest.

    Args:
        encoder: the context encoder.
        decoder: from context tokens and target places to the teacher's tokens.
        teacher: frozen, of its own width; None for a moving average of the encoder's transformer.
        sampler: draws the blocks.
        recipe: the numbers of the augmentation and of the teacher.
    """

    def __init__(
        self,
        encoder: PointEncoder,
        decoder: ContextDecoder,
        teacher: PointEncoder | None,
        sampler: NearBlocks,
        recipe: ThreeDJepa,
    ) -> None:
        target = EmaTeacher(encoder.trunk, *recipe.momentum) if teacher is None else None
        super().__init__(encoder, target, Varied(recipe.scale, recipe.rotation, recipe.up))
        self.decoder, self.sampler = decoder, sampler
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self.last = (recipe.depth - 1 if teacher is None else recipe.teacher_depth - 1,)

    @property
    def foundation(self) -> nn.Module:
        """The frozen teacher, where there is one: what ``--init`` fills."""
        return self.backbone if self.teacher is None else self.teacher

    def train(self, mode: bool = True) -> BlockPrediction:
        """As of any module, but no teacher drops anything out or counts statistics."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def hidden(self, centres: Tensor, generator: Generator, host: Generator | None = None) -> Masks:
        """Blocks of near patches, and the rest of a large one."""
        return self.sampler(centres, generator, host)

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``, ``relaxed`` and ``embedding``; and what tells learning from collapse.

        ``mean_target_loss`` is the loss of always predicting the mean direction of the targets;
        ``target_spread`` the standard deviation of the targets' directions in units of one over the square
        root of their width: 1 where they fill the sphere, 0 where they are one point. ``seen`` is the
        share of the patches in the context.
        """
        points, centres = self.cut(batch, context)
        tokens = self.encoder.tokenizer(points, centres)
        masks = self.hidden(tokens.coordinates, context.generator)
        added = self.encoder.positions(tokens.coordinates)
        whole = self._targets(points, centres, tokens, added)
        goal = take(whole, masks.targets.flatten(1)).unflatten(1, masks.targets.shape[1:])
        predicted = self._predicted(tokens, added, masks).to(goal.dtype)
        directions = functional.normalize(whole, dim=2).flatten(0, 1)
        seen = torch.ones_like(masks.context) if masks.present is None else masks.present
        return {
            "loss": cosine(predicted, goal),
            "mean_target_loss": cosine(directions.mean(dim=0).expand_as(goal), goal),
            "target_spread": directions.std(dim=0).mean() * directions.shape[1] ** 0.5,
            "seen": seen.sum(dim=1).to(goal.dtype).mean() / tokens.values.shape[1],
            "relaxed": masks.relaxed.float().mean(),
            "embedding": pooled(whole),
        }

    def _targets(self, points: Tensor, centres: Tensor, tokens: Tokens, added: Tensor) -> Tensor:
        """(B, G, D) the teacher's tokens of all patches, cut from the same points around the same centres."""
        if self.teacher is None:
            return self.taught(tokens.values, added, self.last)
        with torch.no_grad():
            told = self.teacher.tokenizer(points, centres)
            placed = self.teacher.positions(told.coordinates)
            return self.teacher.trunk.targets(told.values, placed, self.last)

    def _predicted(self, tokens: Tokens, added: Tensor, masks: Masks) -> Tensor:
        """(B, A, T, D) what the decoder says, or without one the encoder of context and mask tokens."""
        if self.decoder.blocks:
            return self.decoder(self.seen(tokens, added, masks), tokens.coordinates, masks)
        blocks, targets = masks.targets.shape[1:]
        wanted = masks.targets.flatten(1)
        asked = self.decoder.mask_token.expand(*wanted.shape, -1)
        x = beside(take(tokens.values, masks.context), asked, blocks)
        places = beside(take(added, masks.context), take(added, wanted), blocks)
        x = self.encoder.trunk(x, places, present=all_present(masks))[:, -targets:]
        return self.decoder.out(x).unflatten(0, (-1, blocks))
