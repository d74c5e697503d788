"""The contrastive twin of TI-JEPA: the same frozen encoders and as many learned parameters, CLIP's loss."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.contrastive import batch_softmax
from anyjepa.core.method import Batch, Context, Method
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.transformer import Block, Encoder, norm_of

SHARPEST = math.log(100.0)


class Tower(nn.Module):
    """Tokens to one vector of unit length: blocks of self-attention, their mean, a linear layer.

    Args:
        width_in: of the tokens.
        width, depth, heads: of the blocks.
    """

    def __init__(self, width_in: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(width_in, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.out = norm_of(width), nn.Linear(width, width, bias=False)

    def forward(
        self, x: Float[Tensor, "batch tokens width_in"], present: Tensor | None = None
    ) -> Float[Tensor, "batch width"]:
        """The vector of the tokens that are there; the first counts where none is."""
        if present is not None:
            present = torch.cat([present[:, :1] | ~present.any(1, keepdim=True), present[:, 1:]], dim=1)
        x = self.project(x)
        for block in self.blocks:
            x = block(x, present=present)
        x = self.norm(x)
        if present is None:
            return functional.normalize(self.out(x.mean(1)), dim=1)
        share = present.to(x.dtype) / present.sum(1, keepdim=True)
        return functional.normalize(self.out((x * share.unsqueeze(-1)).sum(1)), dim=1)


class TwoTowers(nn.Module):
    """Frozen encoders of image and text, each with a tower on top.

    Args:
        image, text: frozen.
        towers: of the image's tokens, and of the words.
    """

    def __init__(self, image: Encoder, text: nn.Module, towers: tuple[Tower, Tower]) -> None:
        super().__init__()
        self.image, self.text = EmaTeacher(image, 1.0, 1.0), EmaTeacher(text, 1.0, 1.0)
        self.of_image, self.of_text = towers
        self.width = 2 * towers[0].out.out_features

    def train(self, mode: bool = True) -> TwoTowers:
        """What is frozen stays in evaluation mode."""
        super().train(mode)
        self.image.eval()
        self.text.eval()
        return self

    def see(self, batch: Batch) -> Float[Tensor, "batch width"]:
        """Vectors of the images."""
        with torch.no_grad():
            tokens = self.image.encoder(batch).values
        return self.of_image(tokens)

    def read(self, batch: Batch) -> Float[Tensor, "batch width"]:
        """Vectors of the captions."""
        with torch.no_grad():
            words = self.text.encoder(batch["ids"], batch["said"])
        return self.of_text(words.to(self.of_text.project.weight.dtype), batch["said"])

    def forward(self, batch: Batch) -> Float[Tensor, "batch both"]:
        """Both vectors, one after the other."""
        return torch.cat([self.see(batch), self.read(batch)], dim=1)


class ContrastiveTwin(Method):
    """Each image is to be told from the batch's others by its caption, and each caption by its image.

    Args:
        encoder: both towers.
    """

    draws = False

    def __init__(self, encoder: TwoTowers) -> None:
        super().__init__()
        self.encoder = encoder
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def backbone(self) -> nn.Module:
        """Both towers with what they stand on."""
        return self.encoder

    @property
    def foundation(self) -> nn.Module:
        """The frozen image encoder, which takes the weights of a run of I-JEPA."""
        return self.encoder.image.encoder

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``: CLIP's symmetric InfoNCE (Radford et al. 2021, figure 3) over all processes' pairs."""
        images, texts = self.encoder.see(batch), self.encoder.read(batch)
        temperature = 1 / self.sharpness.clamp(max=SHARPEST).exp()
        loss = (batch_softmax(images, texts, temperature) + batch_softmax(texts, images, temperature)) / 2
        return {"loss": loss, "embedding": torch.cat([images, texts], dim=1).detach()}

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Both vectors of a pair."""
        return self.encoder(batch)

    @torch.no_grad()
    def energies(self, images: Batch, texts: Batch) -> Float[Tensor, "images texts"]:
        """Minus the cosine of every image and every caption."""
        return -self.encoder.see(images) @ self.encoder.read(texts).T
