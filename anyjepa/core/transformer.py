"""The transformer every recipe uses: pre-norm blocks on `scaled_dot_product_attention`.

Shapes: B samples, N tokens, K context tokens, M target blocks, T tokens a target block, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.attention import Attention
from anyjepa.core.masking import Masks
from anyjepa.core.relative import RelativeBuckets
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.tracing import traced

CACHED = 2**18  # activations of a piece that goes through the blocks of an encoder together on a CPU


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): a whole branch of a sample is dropped in training.

    Args:
        rate: chance of it. What is kept is divided by 1 - rate.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Tensor:
        """The branch, or zeros, sample by sample."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x * (kept / (1 - self.rate))


class Gated(nn.Module):
    """Linear layer to twice the width, of which one half gates the other (GEGLU; Shazeer 2020, equation 5).

    Args:
        width, hidden: of input and output.
        bias: of the layer.
        activation: of the gate.
    """

    def __init__(self, width: int, hidden: int, bias: bool, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.rise, self.activation = nn.Linear(width, 2 * hidden, bias=bias), activation()

    def forward(self, x: Float[Tensor, "*any width"]) -> Float[Tensor, "*any hidden"]:
        """value * activation(gate)."""
        value, gate = self.rise(x).chunk(2, dim=-1)
        return value * self.activation(gate)


def norm_of(width: int, bias: bool = True, root_mean_square: bool = False) -> nn.Module:
    """The norm of a block: LayerNorm, or RMSNorm, which leaves the mean as it is."""
    return nn.RMSNorm(width, eps=1e-6) if root_mean_square else nn.LayerNorm(width, eps=1e-6, bias=bias)


def perceptron(
    width: int, hidden: int, bias: bool, activation: Callable[[], nn.Module], dropout: float, gated: bool
) -> nn.Sequential:
    """The two-layer perceptron of a block, or a gated one."""
    first = (
        [Gated(width, hidden, bias, activation)]
        if gated
        else [nn.Linear(width, hidden, bias=bias), activation()]
    )
    dropped = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*first, *dropped, nn.Linear(hidden, width, bias=bias))


class Block(nn.Module):
    """Transformer block: attention, then a two-layer perceptron, each added back.

    Args:
        width: of the tokens.
        heads: attention heads; must divide the width.
        expansion: hidden width of the perceptron, in widths.
        bias: of linear layers and norms.
        post_norm: normalise after each addition (Vaswani et al. 2017) instead of inside each branch.
        activation: of the perceptron.
        dropout: share of activations dropped in training, after attention, in the perceptron and after it.
        attention_dropout: share of attention weights dropped in training.
        drop_path: chance that a branch of a sample is dropped in training.
        gated: half of the perceptron's first layer gates the other half.
        root_mean_square: norms are RMSNorm.
        buckets: of `Attention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        expansion: float = 4.0,
        *,
        bias: bool = True,
        post_norm: bool = False,
        activation: Callable[[], nn.Module] = nn.GELU,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        gated: bool = False,
        root_mean_square: bool = False,
        buckets: int = 0,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = norm_of(width, bias, root_mean_square)
        self.attention = Attention(width, heads, bias, attention_dropout, buckets)
        self.norm2 = norm_of(width, bias, root_mean_square)
        self.mlp = perceptron(width, int(width * expansion), bias, activation, dropout, gated)
        self.drop = nn.Sequential(nn.Dropout(dropout), DropPath(drop_path)) if dropout or drop_path else None

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        last: int | None = None,
        angles: Float[Tensor, "shared tokens angles"] | None = None,
        present: Bool[Tensor, "batch tokens"] | None = None,
        allowed: Bool[Tensor, "*each tokens tokens"] | None = None,
        relation: Int[Tensor, "shared tokens tokens"] | None = None,
    ) -> Tensor:
        """(batch, tokens or `last`, width). What earlier tokens would become is not computed with `last`."""
        read = x if self.post_norm else self.norm1(x)
        attended = self.attention(read, last, angles, present, allowed, relation)
        x = self._add(x if last is None else x[:, -last:], attended)
        if self.post_norm:
            x = self.norm1(x)
            return self.norm2(self._add(x, self.mlp(x)))
        return self._add(x, self.mlp(self.norm2(x)))

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        return x + (branch if self.drop is None else self.drop(branch))


def _blocks(
    width: int, heads: int, depth: int, expansion: float, drop_path: float | Sequence[float], options: Any
) -> nn.ModuleList:
    rates = [drop_path] * depth if isinstance(drop_path, int | float) else list(drop_path)
    if len(rates) != depth:
        raise ValueError(f"{depth} blocks need as many rates of stochastic depth, not {len(rates)}")
    return nn.ModuleList(Block(width, heads, expansion, drop_path=rate, **options) for rate in rates)


class Encoder(nn.Module):
    """Tokenizer, positions and blocks: a batch in, tokens out; only the kept tokens are computed.

    Args:
        tokenizer: ``tokenizer(batch, keep)`` maps a batch (dict of tensors) to `Tokens` of this width, all
            of them or those at the indices `keep` (B, K), so that dropped ones cost nothing.
        positions: additive position embedding of coordinates, or None.
        width, depth, heads, expansion: of the blocks.
        rotary: angles of coordinates for attention, or None.
        relative: buckets of offsets for attention, or None.
        registers: learned tokens without a place, which every sample has in front of its own.
        positions_at_every_block: add the positions to the input of each block, not of the first only.
        drop_path: of every block, or one rate a block.
        options: of `Block`.
    """

    def __init__(
        self,
        tokenizer: nn.Module,
        positions: nn.Module | None,
        width: int,
        depth: int,
        heads: int,
        expansion: float = 4.0,
        rotary: nn.Module | None = None,
        registers: int = 0,
        positions_at_every_block: bool = False,
        drop_path: float | Sequence[float] = 0.0,
        relative: RelativeBuckets | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.tokenizer, self.positions, self.rotary = tokenizer, positions, rotary
        self.relative = relative
        if relative is not None:
            options = {**options, "buckets": relative.count}
        self.width, self.positions_at_every_block = width, positions_at_every_block
        self.registers = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.blocks = _blocks(width, heads, depth, expansion, drop_path, options)
        self.norm = norm_of(width, options.get("bias", True), options.get("root_mean_square", False))

    def forward(
        self,
        batch: dict[str, Tensor],
        keep: Tensor | None = None,
        allowed: Bool[Tensor, "*each all all"] | None = None,
    ) -> Tokens:
        """Tokens of the batch after the last norm, without the registers.

        Args:
            batch: what the tokenizer reads.
            keep: (B, K) int64 indices of the tokens to compute; all where None. A kept token has the
                position that it has in the whole sample.
            allowed: which of the registers and tokens (last axis) each of them may look at, as of
                `Attention`; all where None.
        """
        return self.read(batch, keep, allowed)[0]

    def read(
        self,
        batch: dict[str, Tensor],
        keep: Tensor | None = None,
        allowed: Bool[Tensor, "*each all all"] | None = None,
    ) -> tuple[Tokens, Tensor]:
        """The tokens as of `forward`, and the registers (B, R, D) after the last norm."""
        return self.encode(self.tokenizer(batch, keep), allowed)

    def encode(
        self, tokens: Tokens, allowed: Bool[Tensor, "*each all all"] | None = None
    ) -> tuple[Tokens, Tensor]:
        """The same of tokens that were made already.

        On a CPU that need not keep them for a gradient, samples go through in pieces, so that what is between
        two layers is small: in use, though not inside a training step, that is up to 1.25 times as fast.
        """
        values, registers, _ = self._through(tokens, allowed)
        return Tokens(values, tokens.coordinates, tokens.present), registers

    def halfway(
        self, batch: dict[str, Tensor], depth: int
    ) -> tuple[Tokens, Float[Tensor, "batch all width"]]:
        """The tokens as of `forward`, and what the first `depth` blocks make, after the same norm.

        The latter are the registers and then the tokens, (B, R + N, D).
        """
        tokens = self.tokenizer(batch, None)
        values, _, noted = self._through(tokens, None, depth)
        return Tokens(values, tokens.coordinates, tokens.present), noted

    def _through(
        self, tokens: Tokens, allowed: Tensor | None, depth: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        in_pieces = tokens.values.device.type == "cpu" and not torch.is_grad_enabled() and not traced()
        rows = max(1, CACHED // tokens.values[0].numel())
        if in_pieces and allowed is None and rows < len(tokens.values):
            pieces = [self._encoded(piece, None, depth) for piece in tokens.split(rows)]
            values, registers, noted = (torch.cat(parts) for parts in zip(*pieces, strict=True))
            return values, registers, noted
        return self._encoded(tokens, allowed, depth)

    def _encoded(
        self, tokens: Tokens, allowed: Tensor | None, depth: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, coordinates, present = tokens.values, tokens.coordinates, tokens.present
        front = 0 if self.registers is None else self.registers.shape[1]
        added = (
            None if self.positions is None else self._ahead(self.positions(coordinates).to(x.dtype), front)
        )
        angles = None if self.rotary is None else self._ahead(self.rotary(coordinates), front)
        relation = None if self.relative is None else self.relative(coordinates, front)
        if self.registers is not None:
            x = torch.cat([self.registers.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
            if present is not None:
                present = functional.pad(present, (front, 0), value=True)
        noted = x[:, :0]
        for number, block in enumerate(self.blocks):
            if added is not None and (number == 0 or self.positions_at_every_block):
                x = x + added
            x = block(x, angles=angles, present=present, allowed=allowed, relation=relation)
            if number + 1 == depth:
                noted = self.norm(x)
        x = self.norm(x)
        return x[:, front:], x[:, :front], noted

    @staticmethod
    def _ahead(table: Tensor, front: int) -> Tensor:
        """The table with `front` rows of zeros before it: registers have no place."""
        return functional.pad(table, (0, 0, front, 0)) if front else table


class Predictor(nn.Module):
    """A narrow transformer from context tokens and target places to the targets' embeddings.

    Every target block of a sample is a sequence of its own: the context tokens followed by one mask token
    for each target place (I-JEPA, section 3). All blocks of all samples go through as one batch, and the
    last block computes the mask tokens only.

    Args:
        width: of the encoder's tokens.
        positions: additive position embedding of `predictor_width`, or None.
        predictor_width, depth, heads, expansion: of the blocks.
        rotary: angles of coordinates for attention, or None.
        drop_path: of every block, or one rate a block.
        mask_tokens: how many there are, for mask families of their own (V-JEPA).
        options: of `Block`.
    """

    def __init__(
        self,
        width: int,
        positions: nn.Module | None,
        predictor_width: int,
        depth: int,
        heads: int,
        expansion: float = 4.0,
        rotary: nn.Module | None = None,
        drop_path: float | Sequence[float] = 0.0,
        mask_tokens: int = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        bias = options.get("bias", True)
        self.embed = nn.Linear(width, predictor_width, bias=bias)
        self.positions, self.rotary = positions, rotary
        self.mask_token = nn.Parameter(torch.zeros(mask_tokens, 1, predictor_width))
        self.blocks = _blocks(predictor_width, heads, depth, expansion, drop_path, options)
        self.norm = nn.LayerNorm(predictor_width, eps=1e-6, bias=bias)
        self.out = nn.Linear(predictor_width, width, bias=bias)

    def forward(
        self,
        context: Tokens,
        coordinates: Float[Tensor, "shared tokens axes"],
        masks: Masks,
        family: int = 0,
    ) -> Float[Tensor, "batch blocks targets width"]:
        """Predicted embeddings (B, M, T, D).

        Args:
            context: the encoder's tokens at `masks.context`, (B, K, D).
            coordinates: of all tokens of the sample, which the masks point into.
            masks: the context and the target blocks.
            family: which mask token asks for them.
        """
        blocks, targets = masks.targets.shape[1:]
        wanted = masks.targets.flatten(1)
        seen = self.embed(context.values)
        asked = self.mask_token[family].to(seen.dtype).expand(seen.shape[0], wanted.shape[1], -1)
        if self.positions is not None:
            table = self.positions(coordinates).to(seen.dtype)
            seen, asked = seen + take(table, masks.context), asked + take(table, wanted)
        x = _each_block(seen, asked, blocks)
        angles = None
        if self.rotary is not None:
            table = self.rotary(coordinates)
            angles = _each_block(take(table, masks.context), take(table, wanted), blocks)
        present = None
        if context.present is not None:
            everywhere = torch.ones_like(wanted, dtype=torch.bool)
            present = _each_block(context.present.unsqueeze(-1), everywhere.unsqueeze(-1), blocks).squeeze(-1)
        for block in self.blocks[:-1]:
            x = block(x, angles=angles, present=present)
        x = self.blocks[-1](x, last=targets, angles=angles, present=present)
        return self.out(self.norm(x)).unflatten(0, (-1, blocks))


def _each_block(seen: Tensor, asked: Tensor, blocks: int) -> Tensor:
    """(B, K, P) and (B, M*T, P) to (B*M, K+T, P): the context before each of M target blocks."""
    repeated = seen.unsqueeze(1).expand(-1, blocks, -1, -1)
    return torch.cat([repeated, asked.unflatten(1, (blocks, -1))], dim=2).flatten(0, 1)


def initialise(module: nn.Module, std: float | None = 0.02) -> None:
    """Truncated normal weights and zero biases for every linear and convolutional layer, and mask tokens.

    The published I-JEPA and V-JEPA 1 rescale the output layers by depth but then draw them again, so the
    rescaling never acts; a constant of 0.02 is what they end up with. At their width of 1,280 that is about
    one over the square root of a layer's inputs; a narrow encoder with small patches needs this rule itself,
    or its tokens are nearly all position and hardly any content.

    Args:
        module: changed in place.
        std: of the weights; one over the square root of the layer's inputs where None.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            scale = std or part.weight[0].numel() ** -0.5
            nn.init.trunc_normal_(part.weight, std=scale)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, Predictor):
            nn.init.trunc_normal_(part.mask_token, std=0.02)
        elif isinstance(part, Encoder) and part.registers is not None:
            nn.init.trunc_normal_(part.registers, std=0.02)
