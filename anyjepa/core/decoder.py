"""A transformer decoder: queries that attend to one another and to what is seen.

Shapes: B samples, K context tokens, T queries, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anyjepa.core.attention import Attention, CrossAttention
from anyjepa.core.transformer import norm_of, perceptron


class DecoderBlock(nn.Module):
    """Attention among the queries, attention to the memory, a perceptron; each added back.

    Args: as of `core.transformer.Block`.
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
        gated: bool = False,
        root_mean_square: bool = False,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norms = nn.ModuleList(norm_of(width, bias, root_mean_square) for _ in range(3))
        self.attention = Attention(width, heads, bias, attention_dropout)
        self.cross = CrossAttention(width, heads, bias=bias, dropout=attention_dropout)
        self.mlp = perceptron(width, int(width * expansion), bias, activation, dropout, gated)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch queries width"],
        memory: Float[Tensor, "batch context width"],
        asked: Bool[Tensor, "batch queries"] | None = None,
        present: Bool[Tensor, "batch context"] | None = None,
    ) -> Tensor:
        """(batch, queries, width)."""
        branches: list[Callable[[Tensor], Tensor]] = [
            lambda y: self.attention(y, present=asked),
            lambda y: self.cross(y, memory, present),
            self.mlp,
        ]
        for norm, branch in zip(self.norms, branches, strict=True):
            added = x + self.drop(branch(x if self.post_norm else norm(x)))
            x = norm(added) if self.post_norm else added
        return x


class Decoder(nn.Module):
    """From what is seen, and the places of what is not, to the embeddings of the latter (S-JEPA).

    Args:
        width: of tokens, queries and what is predicted.
        depth, heads, expansion: of the blocks.
        project: whether a linear layer follows the last norm.
        options: of `DecoderBlock`.
    """

    def __init__(
        self, width: int, depth: int, heads: int, expansion: float = 4.0, project: bool = True, **options
    ) -> None:
        super().__init__()
        bias = options.get("bias", True)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads, expansion, **options) for _ in range(depth))
        self.norm = norm_of(width, bias, options.get("root_mean_square", False))
        self.out = nn.Linear(width, width, bias=bias) if project else None

    def forward(
        self,
        memory: Float[Tensor, "batch context width"],
        places: Float[Tensor, "batch queries width"],
        present: Bool[Tensor, "batch context"] | None = None,
        asked: Bool[Tensor, "batch queries"] | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """Predicted embeddings.

        Args:
            memory: what is seen.
            places: position codes of what is asked for.
            present: False where the memory only pads.
            asked: False where a query only pads; others do not see it.
        """
        x = self.mask_token.to(memory.dtype) + places.to(memory.dtype)
        for block in self.blocks:
            x = block(x, memory, asked, present)
        x = self.norm(x)
        return x if self.out is None else self.out(x)
