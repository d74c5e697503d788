"""T-JEPA: predict the embeddings of some columns of a table from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anyjepa.core.errors import UserError
from anyjepa.core.masking import Masks
from anyjepa.core.method import Batch, Context, MaskedJepa
from anyjepa.core.objectives import l2
from anyjepa.core.positions import SinCos
from anyjepa.core.processes import share_of_all
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.transformer import Encoder, Predictor, initialise
from anyjepa.domains.table_masks import ColumnSubsets
from anyjepa.domains.table_samples import stated_types
from anyjepa.domains.table_tokens import ColumnTokens
from anyjepa.recipes import Recipe, flag

MOVES_ENOUGH = 5.0  # steps times (1 - momentum): below, the teacher is still its random beginning


@dataclass(frozen=True, kw_only=True)
class TJepa(Recipe):
    """T-JEPA (Thimonier et al., ICLR 2025, arXiv:2410.05016).

    A row of a table is one token a column. The encoder sees a random subset of the columns; the predictor
    must guess, for four other subsets, the tokens that a teacher gives them, where the teacher is the
    encoder's moving average and sees the whole row. No augmentation, no labels, no cell to reconstruct.

    The defaults are the script that the authors ship, tuned for Jannis (54 numbers, 4 classes); each of their
    data sets has numbers of its own, found with labels, so on other tables they are a start and no more.
    Where their code does what the paper does not say:

    * their masks count columns from 0 while [REG] stands at 0, so that [REG] is hidden like a column and the
      last column never takes part. ``--reg maskable`` hides [REG] too, without losing a column; the default
      ``always`` keeps it in every context and never makes it a target; ``none`` has no [REG]
    * numbers are scaled to 0..1 (``--scaling min-max``) over all rows, test rows too. Here it is over the
      training rows only; ``standard`` and ``quantile`` suit heavy tails better
    * missing cells stop the training. Here they are never targets; the context sees them as a learned token
      of their column (``--missing token``) or not at all (``absent``)
    * the teacher keeps its dropout on (``--teacher-dropout true``), and every element of the encoder's
      gradient is clamped to -1..1 (``--clamp-gradients``)
    * a column's kind and number may be embedded as well; theirs label the wrong columns or crash, ours do
      what was meant (``--type-embedding true``, ``--index-embedding true``)

    Types of columns are inferred; ``--columns zip=categorical,size=ordinal:S/M/L,note=left-out`` states them.
    ``--target price`` keeps a column out of the features and makes it the labels; a column called class,
    target or label is kept out by itself (``--target none`` takes it as a feature).

    The loss says little, for it is mostly about which column a token is. ``position_only_ratio`` is logged:
    the share by which the loss lies below that of predicting each column's mean target, 0 for an encoder
    that only knows the column, 1 for a perfect one.

    ``anyjepa train t-jepa --data housing.csv --target median_house_value --out runs/housing``
    """

    name: ClassVar[str] = "t-jepa"
    paper: ClassVar[str] = "arXiv:2410.05016"
    domain: ClassVar[str] = "table"
    example_data: ClassVar[str] = "synthetic-table"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {
            "width": 32, "depth": 2, "heads": 4, "feedforward": 64, "dropout": 0.0,
            "predictor_width": 32, "predictor_depth": 2, "predictor_heads": 4, "predictor_feedforward": 64,
            "predictor_dropout": 0.0, "context_share": (0.3, 0.7), "target_share": (0.3, 0.5),
            "scaling": "quantile", "momentum": (0.99, 1.0), "initial_token": 1.0, "batch_size": 128,
            "epochs": 60.0, "warmup_epochs": 4.0, "learning_rate": 2e-3,
        },
    }  # fmt: skip

    epochs: float = 300.0  # passes over the data
    batch_size: int = 512  # samples a step, over all processes
    start_learning_rate: float = 0.0  # at the first step
    learning_rate: float = 3.66e-4  # at the end of the warm-up
    final_learning_rate: float = 0.0  # at the last step
    warmup_epochs: float = 10.0  # epochs in which the learning rate rises
    weight_decay: float = 0.0  # of AdamW at the first step
    final_weight_decay: float = 0.0  # of AdamW at the last step
    columns: str = ""  # types that are stated: age=numeric,zip=categorical,size=ordinal:S/M/L,note=left-out
    target: str = ""  # column that is the label and no feature; none to have no label
    scaling: Literal["min-max", "standard", "quantile"] = "min-max"  # of numbers, fitted on training rows
    missing: Literal["token", "absent"] = "token"  # a missing cell is a learned token, or is not there
    width: int = 64  # of the encoder's tokens
    depth: int = 16  # blocks of the encoder
    heads: int = 2  # attention heads of the encoder
    feedforward: int = 64  # hidden width of the encoder's perceptrons
    dropout: float = 0.00185  # of the encoder
    predictor_width: int = 16  # of the predictor's tokens
    predictor_depth: int = 16  # blocks of the predictor
    predictor_heads: int = 4  # attention heads of the predictor
    predictor_feedforward: int = 256  # hidden width of the predictor's perceptrons
    predictor_dropout: float = 0.00193  # of the predictor
    initial_std: float = 0.02  # of the weights; 0 for one over the square root of a layer's inputs
    initial_token: float = 0.0  # tokens start uniform in +- this; 0 for one over the root of the width
    reg: Literal["none", "always", "maskable"] = "always"  # [REG]: absent, in every context, or maskable
    reg_tokens: int = 1  # number of [REG] tokens, where there are any
    type_embedding: bool = False  # add a learned vector for numbers and one for categories
    index_embedding: bool = False  # add a learned vector for each column
    context_share: tuple[float, float] = (0.136, 0.368)  # share of the columns the context has
    target_share: tuple[float, float] = (0.156, 0.622)  # share of the columns a target set has
    target_sets: int = 4  # target sets a row; they may overlap one another
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.996, 1.0)  # of the teacher at the first and the last step
    teacher_dropout: bool = False  # leave dropout on in the teacher, as the released code does
    clamp_gradients: float = 1.0  # clamp each element of the encoder's gradient to this; 0 for no clamp
    embedding: Literal["reg", "mean", "flat"] = "flat"  # [REG], the mean of all tokens, or all in a row

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        stated_types(self.columns)
        for width, heads, part in [
            (self.width, self.heads, ""),
            (self.predictor_width, self.predictor_heads, "predictor-"),
        ]:
            if width % heads or width % 2:
                raise UserError(f"--{part}width {width} must be even and divide into --{part}heads {heads}.")
        if self.reg_tokens < 1:
            raise UserError(
                f"--reg-tokens must be 1 or more, not {self.reg_tokens}: use --reg none for none."
            )
        if self.reg == "none" and self.embedding == "reg":
            raise UserError("--embedding reg needs a [REG] token: choose another --reg or --embedding.")
        for name in ("context_share", "target_share"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise UserError(f"{flag(name)} is a range within 0 and 1, not {low} {high}.")

    def reading(self) -> dict[str, Any]:
        """The types and the label that were stated."""
        return {"stated": self.columns, "target": self.target}

    def method(self, facts: dict[str, Any]) -> TableJepa:
        """Tokenizer, encoder, predictor, teacher and sampler, initialised as published."""
        registers = 0 if self.reg == "none" else self.reg_tokens
        columns = facts["columns"]
        try:
            sampler = ColumnSubsets(
                len(columns), self.context_share, self.target_share, self.target_sets, registers,
                maskable=self.reg == "maskable",
            )  # fmt: skip
        except ValueError as problem:
            raise UserError(f"these masks cannot be drawn: {problem}.") from problem
        tokenizer = ColumnTokens(
            columns, self.width, registers, self.scaling, self.missing, self.type_embedding,
            self.index_embedding, self.initial_token or None,
        )  # fmt: skip
        options: dict[str, Any] = {"post_norm": True, "activation": nn.ReLU}
        encoder = Encoder(
            tokenizer, SinCos(self.width, 1, temperature=100.0), self.width, self.depth, self.heads,
            _expansion(self.feedforward, self.width), dropout=self.dropout,
            attention_dropout=self.dropout, **options,
        )  # fmt: skip
        predictor = Predictor(
            self.width, SinCos(self.predictor_width, 1), self.predictor_width, self.predictor_depth,
            self.predictor_heads, _expansion(self.predictor_feedforward, self.predictor_width),
            dropout=self.predictor_dropout, attention_dropout=self.predictor_dropout, **options,
        )  # fmt: skip
        # both end in a small head instead of a norm
        encoder.add_module("norm", _ending(self.width, self.dropout))
        predictor.add_module(
            "norm",
            nn.Sequential(
                *_ending(self.predictor_width, self.predictor_dropout), nn.LayerNorm(self.predictor_width)
            ),
        )
        for part in (encoder, predictor):
            initialise(part, self.initial_std or None)
        target = EmaTeacher(encoder, *self.momentum) if self.teacher == "ema" else None
        return TableJepa(
            encoder, predictor, target or SameEncoder(gradient=self.teacher == "collapse"), sampler,
            self.embedding, self.teacher_dropout, self.clamp_gradients,
        )  # fmt: skip

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """The rows themselves: the only chance is that of the masks."""
        return self.present(samples)

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """The rows, encoded; scaling is the tokenizer's."""
        return {"row": torch.from_numpy(np.ascontiguousarray(np.stack(list(samples)), dtype=np.float32))}


def _expansion(hidden: int, width: int) -> float:
    # the half keeps the product with the width from being rounded down below `hidden`
    return (hidden + 0.5) / width


def _ending(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout), nn.LayerNorm(width), nn.Linear(width, width), nn.Dropout(dropout),
        nn.LayerNorm(width),
    )  # fmt: skip


class TableJepa(MaskedJepa):
    """A masked JEPA over columns: squared distance, missing cells passed over, three ways to embed.

    Args:
        encoder: with `ColumnTokens`.
        predictor: of the targets.
        target: `EmaTeacher` or `SameEncoder`.
        sampler: of the masks.
        embedding: ``reg``, ``mean`` or ``flat``.
        teacher_dropout: leave dropout on in the teacher while training.
        clamp_gradients: largest element of the encoder's gradient; 0 for no clamp.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: Predictor,
        target: nn.Module,
        sampler: ColumnSubsets,
        embedding: str = "flat",
        teacher_dropout: bool = False,
        clamp_gradients: float = 0.0,
    ) -> None:
        super().__init__(encoder, predictor, target, sampler, l2, normalise_targets=False)
        self.subsets, self.embedding, self.teacher_dropout = sampler, embedding, teacher_dropout
        self.clamp_gradients = clamp_gradients

    def before_step(self, context: Context) -> None:
        """Clamp each element of the encoder's gradient."""
        if self.clamp_gradients:
            nn.utils.clip_grad_value_(self.encoder.parameters(), self.clamp_gradients)

    def train(self, mode: bool = True) -> TableJepa:
        """Training mode; the teacher's dropout stays off unless it was asked for."""
        super().train(mode)
        if not self.teacher_dropout and isinstance(self.target, EmaTeacher):
            self.target.eval()
        return self

    def masks(self, batch: Batch, context: Context) -> Masks:
        """The masks this step draws for the rows, which hide no missing cell."""
        return self.subsets(len(batch["row"]), context.generator, self._observed(batch))

    def _observed(self, batch: Batch) -> Bool[Tensor, "batch tokens"]:
        tokenizer = self.encoder.tokenizer
        assert isinstance(tokenizer, ColumnTokens)
        return tokenizer.observed(batch)

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``, ``position_only_ratio`` (see the recipe) and ``embedding``, the mean of the tokens."""
        masks, observed = self.masks(batch, context), self._observed(batch)
        whole: Tokens = self.target(self.encoder, batch)
        goal = _sets(whole.values, masks)
        seen = self.encoder(batch, keep=masks.context)
        predicted = self.predictor(seen, whole.coordinates, masks)
        counted = _sets(observed.unsqueeze(-1), masks).squeeze(-1)
        loss = _mean((predicted.float() - goal.float()).square().mean(-1) if goal.dtype != torch.float64
                     else (predicted - goal).square().mean(-1), counted)  # fmt: skip
        with torch.no_grad():
            means = _column_means(whole.values, observed)
            usual = _mean((_sets(means.expand_as(whole.values), masks) - goal).square().mean(-1), counted)
        return {
            "loss": loss,
            "position_only_ratio": 1 - loss.detach() / usual.clamp(min=1e-12),
            "embedding": _pooled(whole).detach(),
        }

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """[REG], the mean of the tokens that are present, or all tokens, 0 where one is absent."""
        tokens = self.tokens(batch)
        if self.embedding == "mean":
            return _pooled(tokens)
        if self.embedding == "reg":
            return tokens.values[:, : self.subsets.registers].flatten(1)
        values = tokens.values
        return (values if tokens.present is None else values * tokens.present.unsqueeze(-1)).flatten(1)

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """The context encoder's mean token under `count` different contexts."""
        seen = [self.encoder(batch, keep=self.masks(batch, context).context) for _ in range(count)]
        return torch.stack([_pooled(tokens) for tokens in seen], dim=1)

    def cautions(self, steps: int) -> list[str]:
        """Says when a teacher cannot leave its random beginning in so few steps."""
        if not isinstance(self.target, EmaTeacher) or not self.target.moves:
            return []
        start, moved = self.target.start, steps * (1 - self.target.start)
        if moved >= MOVES_ENOUGH:
            return []
        return [
            f"in {steps} steps a momentum from {start:g} leaves the teacher close to its random beginning: "
            f"train longer or start lower, such as --momentum {max(0.0, 1 - 10 / steps):.2g} 1."
        ]


def _sets(values: Tensor, masks: Masks) -> Tensor:
    """(batch, tokens, width) to (batch, M, T, width) at the targets."""
    return take(values, masks.targets.flatten(1)).unflatten(1, masks.targets.shape[1:])


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of `values` where `counted`; 0 where nothing is."""
    return (values * counted).sum() / share_of_all(counted.sum()).clamp(min=1)


def _column_means(values: Tensor, observed: Tensor) -> Tensor:
    """(1, tokens, width): each column's mean token over the rows in which it is not missing."""
    counted = observed.unsqueeze(-1).to(values.dtype)
    return ((values * counted).sum(0) / counted.sum(0).clamp(min=1)).unsqueeze(0)


def _pooled(tokens: Tokens) -> Tensor:
    if tokens.present is None:
        return tokens.values.mean(1)
    present = tokens.present.unsqueeze(-1).to(tokens.values.dtype)
    return (tokens.values * present).sum(1) / present.sum(1)
