"""The transformer every recipe uses: pre-norm blocks on `scaled_dot_product_attention`.

Shapes: B samples, N tokens, K context tokens, M target blocks, T tokens a target block, D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.masking import Masks
from anyjepa.core.positions import rotate
from anyjepa.core.tokens import Tokens, take


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared out over {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        last: int | None = None,
        angles: Float[Tensor, "shared tokens half"] | None = None,
        present: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Tensor:
        """Attend over all tokens; answer for the `last` ones only, where given."""
        if last is None:
            queries, keys, values = map(self._split, self.qkv(x).chunk(3, dim=-1))
        else:
            width = x.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            queries = self._split(functional.linear(x[:, -last:], weight[:width], bias[:width]))
            keys, values = map(
                self._split, functional.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
            )
        if angles is not None:
            queries = rotate(queries, angles[:, -queries.shape[2] :])
            keys = rotate(keys, angles)
        mask = None if present is None else present[:, None, None, :]
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron with GELU, each added back.

    Args:
        width: of the tokens.
        heads: attention heads; must divide the width.
        expansion: hidden width of the perceptron, in widths.
    """

    def __init__(self, width: int, heads: int, expansion: float = 4.0) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        last: int | None = None,
        angles: Float[Tensor, "shared tokens half"] | None = None,
        present: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Tensor:
        """(batch, tokens or `last`, width). What earlier tokens would become is not computed with `last`."""
        attended = self.attention(self.norm1(x), last, angles, present)
        x = (x if last is None else x[:, -last:]) + attended
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Tokenizer, positions and blocks: a batch in, tokens out; only the kept tokens are computed.

    Args:
        tokenizer: ``tokenizer(batch, keep)`` maps a batch (dict of tensors) to `Tokens` of this width, all
            of them or those at the indices `keep` (B, K), so that dropped ones cost nothing.
        positions: additive position embedding of coordinates, or None.
        width, depth, heads, expansion: of the blocks.
        rotary: angles of coordinates for attention, or None.
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
    ) -> None:
        super().__init__()
        self.tokenizer, self.positions, self.rotary = tokenizer, positions, rotary
        self.width = width
        self.blocks = nn.ModuleList(Block(width, heads, expansion) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, batch: dict[str, Tensor], keep: Tensor | None = None) -> Tokens:
        """Tokens of the batch after the last norm.

        Args:
            batch: what the tokenizer reads.
            keep: (B, K) int64 indices of the tokens to compute; all where None. A kept token has the
                position that it has in the whole sample.
        """
        tokens: Tokens = self.tokenizer(batch, keep)
        x, coordinates = tokens.values, tokens.coordinates
        if self.positions is not None:
            x = x + self.positions(coordinates).to(x.dtype)
        angles = None if self.rotary is None else self.rotary(coordinates)
        for block in self.blocks:
            x = block(x, angles=angles, present=tokens.present)
        return Tokens(self.norm(x), coordinates, tokens.present)


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
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(width, predictor_width)
        self.positions, self.rotary = positions, rotary
        self.mask_token = nn.Parameter(torch.zeros(1, 1, predictor_width))
        self.blocks = nn.ModuleList(Block(predictor_width, heads, expansion) for _ in range(depth))
        self.norm = nn.LayerNorm(predictor_width, eps=1e-6)
        self.out = nn.Linear(predictor_width, width)

    def forward(
        self, context: Tokens, coordinates: Float[Tensor, "shared tokens axes"], masks: Masks
    ) -> Float[Tensor, "batch blocks targets width"]:
        """Predicted embeddings (B, M, T, D).

        Args:
            context: the encoder's tokens at `masks.context`, (B, K, D).
            coordinates: of all tokens of the sample, which the masks point into.
            masks: the context and the target blocks.
        """
        blocks, targets = masks.targets.shape[1:]
        wanted = masks.targets.flatten(1)
        seen = self.embed(context.values)
        asked = self.mask_token.to(seen.dtype).expand(seen.shape[0], wanted.shape[1], -1)
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
