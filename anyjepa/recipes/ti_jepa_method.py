"""The parts of TI-JEPA joined: frozen encoders, text injected by cross-attention, energy of a pair.

Shapes: B pairs, N image tokens, K visible ones, M target blocks, T tokens a block, L words, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core import chance
from anyjepa.core.attention import CrossAttention
from anyjepa.core.masking import Masks, MaskSampler
from anyjepa.core.method import Batch, Context, MaskedJepa, single_at_least
from anyjepa.core.processes import alone
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.transformer import Encoder, Predictor, norm_of, perceptron

Place = Literal["both", "context", "predictor"]
Words = tuple[Tensor, Tensor]
"""Vectors of words (B, L, text width), and (B, L) bool, False where they only pad."""

ENERGY_SEED = 8  # of the masks that energies are measured with
TOGETHER = 2**24  # activations of pairs that go through the networks at once


@runtime_checkable
class Matching(Protocol):
    """A method that says how badly images and captions go together."""

    def energies(self, images: Batch, texts: Batch) -> Float[Tensor, "images texts"]:
        """Of every image with every caption; lower fits better."""
        ...


class CrossBlock(nn.Module):
    """Image tokens ask the text, then a perceptron: each added back, so that the image side is the residual.

    Args:
        width: of the tokens.
        heads: attention heads; must divide the width.
        expansion: hidden width of the perceptron, in widths.
    """

    def __init__(self, width: int, heads: int, expansion: float = 4.0) -> None:
        super().__init__()
        self.norm1, self.norm_text = norm_of(width), norm_of(width)
        self.attention = CrossAttention(width, heads)
        self.norm2 = norm_of(width)
        self.mlp = perceptron(width, int(width * expansion), True, nn.GELU, 0.0, False)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        text: Float[Tensor, "batch words width"],
        present: Bool[Tensor, "batch words"],
    ) -> Float[Tensor, "batch tokens width"]:
        """x + Attn(LN(x), LN(text)), then + MLP(LN(x))."""
        x = x + self.attention(self.norm1(x), self.norm_text(text), present)
        return x + self.mlp(self.norm2(x))


class TextStack(nn.Module):
    """The cross-attention stack X: text into image tokens (the paper's text-to-image module).

    A learned null token stands before the words, so that a pair without text has something to be read.

    Args:
        width: of the image tokens.
        text_width: of the words' vectors.
        depth, heads, expansion: of the blocks.
    """

    def __init__(self, width: int, text_width: int, depth: int, heads: int, expansion: float = 4.0) -> None:
        super().__init__()
        self.project = nn.Linear(text_width, width)
        self.null = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(CrossBlock(width, heads, expansion) for _ in range(depth))

    def forward(
        self, x: Float[Tensor, "batch tokens width"], words: Words
    ) -> Float[Tensor, "batch tokens width"]:
        """Tokens that have read the words."""
        values, present = words
        text = torch.cat([self.null.expand(values.shape[0], -1, -1), self.project(values)], dim=1)
        present = functional.pad(present, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, text, present)
        return x

    def begin_as_identity(self) -> None:
        """Set the output projections to zero: the stack then changes nothing."""
        for block in self.blocks:
            assert isinstance(block, CrossBlock)
            for layer in (block.attention.out, block.mlp[-1]):
                assert isinstance(layer, nn.Linear)
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)


class PairEncoder(nn.Module):
    """Frozen encoders of image and text, and the stack that joins them: a pair in, fused tokens out.

    Args:
        image: to tokens; frozen.
        text: words' numbers and which are there to vectors; frozen.
        stack: learned.
    """

    def __init__(self, image: Encoder, text: nn.Module, stack: TextStack) -> None:
        super().__init__()
        # a teacher that never moves: no gradient, and none is expected
        self.image, self.text = EmaTeacher(image, 1.0, 1.0), EmaTeacher(text, 1.0, 1.0)
        self.stack, self.width = stack, image.width

    def train(self, mode: bool = True) -> PairEncoder:
        """What is frozen stays in evaluation mode: no dropout, no statistics."""
        super().train(mode)
        self.image.eval()
        self.text.eval()
        return self

    @torch.no_grad()
    def see(self, batch: Batch, keep: Int[Tensor, "batch kept"] | None = None) -> Tokens:
        """Image tokens, of whole images, or of the kept patches alone: the others are dropped as pixels."""
        return self.image.encoder(batch, keep)

    @torch.no_grad()
    def read(self, batch: Batch) -> Words:
        """The words of the batch's captions."""
        values = self.text.encoder(batch["ids"], batch["said"])
        return values.to(self.stack.null.dtype), batch["said"]

    def forward(self, batch: Batch, keep: Tensor | None = None) -> Tokens:
        """Fused tokens of the pairs, (B, N or K, D)."""
        seen = self.see(batch, keep)
        return Tokens(self.stack(seen.values, self.read(batch)), seen.coordinates)


class TextImage(MaskedJepa):
    """Predict the tokens of hidden regions from the visible ones and the text; the error is the energy.

    Args:
        encoder: of pairs.
        predictor: from context tokens and target places to target tokens.
        target: of the stack, with text in ``both``: `EmaTeacher` or `SameEncoder`; else unused.
        sampler: draws the masks.
        objective, distances: of predicted and target tokens, their mean and the same of each token.
        normalise_targets: layer-normalise target tokens.
        place: where text is read: by context and target, by the context, or by what the predictor predicts.
        drop_text: chance that a pair is seen without its text in training.
        energy_masks: sets of masks that energies are averaged over.
    """

    encoder: PairEncoder  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        encoder: PairEncoder,
        predictor: Predictor,
        target: nn.Module,
        sampler: MaskSampler,
        objective: Callable[[Tensor, Tensor], Tensor],
        distances: Callable[[Tensor, Tensor], Tensor],
        *,
        normalise_targets: bool = True,
        place: Place = "both",
        drop_text: float = 0.0,
        energy_masks: int = 4,
    ) -> None:
        nn.Module.__init__(self)
        self.encoder, self.predictor, self.target = encoder, predictor, target
        self.sampler, self.objective, self.distances = sampler, objective, distances
        self.normalise_targets, self.place = normalise_targets, place
        self.drop_text, self.energy_masks = drop_text, energy_masks

    @property
    def backbone(self) -> nn.Module:
        """Both frozen encoders and the stack."""
        return self.encoder

    @property
    def foundation(self) -> nn.Module:
        """The frozen image encoder, which takes the weights of a run of I-JEPA."""
        return self.encoder.image.encoder

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``; ``relaxed``: share of samples whose context overlaps a target; ``embedding``."""
        masks = self.masks(batch, context)
        values, present = self.encoder.read(batch)
        if self.drop_text:
            kept = chance.uniform((len(present),), context.generator) >= self.drop_text
            present = present & kept.unsqueeze(1)
        whole = self.encoder.see(batch)
        goal = self.goal(whole.values, (values, present), masks)
        seen = self.encoder.see(batch, masks.context)
        predicted = self.predicted(seen, whole.coordinates, (values, present), masks)
        with torch.no_grad():
            fused = self.encoder.stack(whole.values, (values, present))
        return {
            "loss": self.objective(single_at_least(predicted), goal),
            "relaxed": masks.relaxed.float().mean(),
            "embedding": fused.mean(1),
        }

    def goal(
        self, whole: Float[Tensor, "batch tokens width"], words: Words, masks: Masks
    ) -> Float[Tensor, "batch blocks targets width"]:
        """Target tokens of whole images: their own, or with text in both branches the target stack's."""
        if self.place == "both":
            whole = self._targets(whole, words)
        goal = take(whole, masks.targets.flatten(1)).unflatten(1, masks.targets.shape[1:])
        goal = single_at_least(goal)
        return functional.layer_norm(goal, goal.shape[-1:]) if self.normalise_targets else goal

    def _targets(self, whole: Tensor, words: Words) -> Tensor:
        if isinstance(self.target, EmaTeacher):
            with torch.no_grad():
                return self.target.encoder(whole, words)
        assert isinstance(self.target, SameEncoder)
        with torch.set_grad_enabled(self.target.gradient and torch.is_grad_enabled()):
            return self.encoder.stack(whole, words)

    def predicted(
        self, seen: Tokens, coordinates: Tensor, words: Words, masks: Masks
    ) -> Float[Tensor, "batch blocks targets width"]:
        """What visible tokens and words let expect of the target blocks."""
        if self.place != "predictor":
            fused = Tokens(self.encoder.stack(seen.values, words), seen.coordinates)
            return self.predictor(fused, coordinates, masks)
        expected = self.predictor(seen, coordinates, masks)
        return self.encoder.stack(expected.flatten(1, 2), words).unflatten(1, expected.shape[1:3])

    def after_step(self, context: Context) -> None:
        """The target stack follows the context stack."""
        if isinstance(self.target, EmaTeacher):
            self.target.follow(self.encoder.stack, self.target.momentum(context.progress))

    @torch.no_grad()
    def energies(
        self, images: Batch, texts: Batch, truth: Batch | None = None
    ) -> Float[Tensor, "images texts"]:
        """Prediction error of every image with every caption, averaged over fixed masks; lower fits better.

        Args:
            images: n samples, of which ``image`` counts.
            texts: m samples, of which the text counts.
            truth: n samples whose text the target branch reads; the same as the context where None. Of
                interest with text in both branches alone.
        """
        whole, words = self.encoder.see(images), self.encoder.read(texts)
        true = None if truth is None else self.encoder.read(truth)
        count, said = len(whole.values), len(words[0])
        total = whole.values.new_zeros(count, said, dtype=torch.float64)
        step = max(1, TOGETHER // (whole.values[0].numel() * (2 + self.energy_masks)))
        for masks in self._fixed_masks(count, whole.values.device):
            seen = self.encoder.see(images, masks.context)
            for start in range(0, count * said, step):
                pair = torch.arange(start, min(start + step, count * said), device=total.device)
                row, text = pair // said, pair % said
                own = Masks(masks.context[row], masks.targets[row], masks.relaxed[row])
                given = (words[0][text], words[1][text])
                held = given if true is None else (true[0][row], true[1][row])
                goal = self.goal(whole.values[row], held, own)
                context = Tokens(seen.values[row], _of_rows(seen.coordinates, row))
                found = self.predicted(context, whole.coordinates, given, own)
                error = self.distances(single_at_least(found), goal).flatten(1).mean(1)
                total.view(-1)[pair] += error.double()
        return (total / self.energy_masks).to(whole.values.dtype)

    def _fixed_masks(self, count: int, device: torch.device) -> list[Masks]:
        """The same masks for every image, in every call."""
        generator = torch.Generator().manual_seed(ENERGY_SEED)
        with alone():
            drawn = [self.sampler(1, generator) for _ in range(self.energy_masks)]
        return [
            Masks(
                one.context.to(device).expand(count, -1), one.targets.to(device).expand(count, -1, -1),
                one.relaxed.to(device).expand(count),
            )
            for one in drawn
        ]  # fmt: skip

    def health(self, batches: Any, context: Context) -> dict[str, float]:
        """``text_gain``: by what share the prediction error falls where the caption is told.

        ``told_by_text``: share of the targets' variance that a linear map of the mean word vector explains,
        within what it was fitted on; near 1 where the target stack wrote the caption into every token.
        """
        errors, targets, texts = [], [], []
        for batch in batches:
            row = torch.arange(len(batch["image"]), device=batch["image"].device)
            silent = {**batch, "said": torch.zeros_like(batch["said"])}
            errors.append(torch.stack([self._own_energy(batch, row), self._own_energy(silent, row)], 1))
            with torch.no_grad():
                values, present = self.encoder.read(batch)
                whole = self.encoder.see(batch).values
                fused = self._targets(whole, (values, present)) if self.place == "both" else whole
                count = present.sum(1, keepdim=True).clamp(min=1)
                texts.append(((values * present.unsqueeze(-1)).sum(1) / count).double().cpu())
                targets.append(fused.mean(1).double().cpu())
        if not errors:
            return {}
        told, silent_error = torch.cat(errors).double().mean(0).tolist()
        found = {"text_gain": 1 - told / max(silent_error, 1e-12)}
        share = explained(torch.cat(texts), torch.cat(targets))
        return found if share is None else found | {"told_by_text": share}

    @torch.no_grad()
    def _own_energy(self, batch: Batch, row: Tensor) -> Tensor:
        """Of each image with its own caption, (B,)."""
        whole, words = self.encoder.see(batch), self.encoder.read(batch)
        total = torch.zeros(len(row), dtype=torch.float64, device=row.device)
        for masks in self._fixed_masks(len(row), row.device):
            seen = self.encoder.see(batch, masks.context)
            found = self.predicted(seen, whole.coordinates, words, masks)
            goal = self.goal(whole.values, words, masks)
            total += self.distances(single_at_least(found), goal).flatten(1).mean(1).double()
        return total / self.energy_masks


def explained(
    inputs: Float[Tensor, "samples features"], outputs: Float[Tensor, "samples width"]
) -> float | None:
    """Share of the outputs' variance that a ridge-regularised linear map of the inputs explains.

    Half of the samples are fitted, the other half is asked. None where there are too few.
    """
    half = len(inputs) // 2
    if half < 8:
        return None
    x, y = inputs[:half] - inputs[:half].mean(0), outputs[:half] - outputs[:half].mean(0)
    penalty = 1e-2 * x.square().sum() / x.shape[1]
    weights = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    asked, true = inputs[half:] - inputs[:half].mean(0), outputs[half:] - outputs[:half].mean(0)
    left = (true - asked @ weights).square().sum() / true.square().sum().clamp(min=1e-300)
    return float(1 - left)


def _of_rows(coordinates: Tensor, row: Tensor) -> Tensor:
    return coordinates if coordinates.shape[0] == 1 else coordinates[row]
