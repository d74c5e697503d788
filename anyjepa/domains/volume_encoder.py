"""One encoder of slices and of volumes: a network of pictures, and a transformer over its embeddings."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.deformable_attention import DeformableBlock
from anyjepa.core.positions import SinCos
from anyjepa.core.tokens import Tokens
from anyjepa.core.transformer import Block

__all__ = ["SliceTrunk", "VolumeEncoder", "mean_of_present"]

CENTIMETRE = 10.0  # millimetres: the unit that positions are coded in
MIDDLE, SPREAD = 0.5, 0.25  # of values of 0 to 1, as the network sees them


def _joined(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class _Residual(nn.Module):
    """Two convolutions of 3 x 3, or one between two of 1 x 1, added to what comes in (He et al. 2016)."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            parts = [_joined(inputs, width, 1), nn.ReLU(), _joined(width, width, 3, stride), nn.ReLU(),
                     _joined(width, outputs, 1)]  # fmt: skip
        else:
            parts = [_joined(inputs, width, 3, stride), nn.ReLU(), _joined(width, width, 3)]
        self.branch = nn.Sequential(*parts)
        same = inputs == outputs and stride == 1
        self.across = nn.Identity() if same else _joined(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.across(x) + self.branch(x))


class SliceTrunk(nn.Module):
    """A ResNet whose four stages all speak: the average of each, of unit length, side by side, made `width`.

    Args:
        channels: of the slices.
        stem: width of the first stage; each other one has twice that of the one before.
        blocks: of each stage.
        bottleneck: blocks of three convolutions, four times as wide at their end.
        shrinking: times that slices shrink before the first stage: 4 by a convolution of 7 x 7 and pooling,
            2 without the pooling, 1 by a convolution of 3 x 3.
        width: of the embedding.
    """

    def __init__(
        self,
        channels: int,
        stem: int,
        blocks: tuple[int, int, int, int],
        bottleneck: bool,
        shrinking: int,
        width: int,
    ) -> None:
        super().__init__()
        kernel, stride = (3, 1) if shrinking == 1 else (7, 2)
        pooling = [nn.MaxPool2d(3, 2, 1)] if shrinking == 4 else []
        self.stem = nn.Sequential(_joined(channels, stem, kernel, stride), nn.ReLU(), *pooling)
        stages, inputs, total = [], stem, 0
        for number, count in enumerate(blocks):
            own = stem * 2**number
            parts = []
            for place in range(count):
                stride = 2 if number and not place else 1
                parts.append(_Residual(inputs, own, stride, bottleneck))
                inputs = 4 * own if bottleneck else own
            stages.append(nn.Sequential(*parts))
            total += inputs
        self.stages = nn.ModuleList(stages)
        self.out = nn.Linear(total, width)
        # what comes in has length 2, so that an embedding begins with values of about 1
        nn.init.normal_(self.out.weight, std=0.5)
        nn.init.zeros_(self.out.bias)

    def forward(self, slices: Float[Tensor, "n channels rows columns"]) -> Float[Tensor, "n width"]:
        """Embeddings of slices of 0 to 1."""
        x = self.stem((slices.to(self.out.weight.dtype) - MIDDLE) / SPREAD)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(functional.normalize(x.mean((2, 3)), dim=1))
        return self.out(torch.cat(found, dim=1))


class VolumeEncoder(nn.Module):
    """Slices to embeddings, and these to what each says within its volume.

    A volume of one slice goes through the network of pictures alone.

    Args:
        trunk: of slices.
        width, hidden, depth, dropout: of the transformer.
        attention: ``deformable``; ``plain``, to every slice; ``none``, without a transformer.
        heads, head_width, stride, reach, kernel: of `DeformableAttention`; of a plain one only the heads.
        positions: tell where slices lie, in millimetres from the middle.
        slice_spacing: millimetres from one slice to the next.
    """

    def __init__(
        self,
        trunk: SliceTrunk,
        width: int,
        hidden: int,
        depth: int,
        dropout: float,
        attention: Literal["deformable", "plain", "none"],
        heads: int,
        head_width: int,
        stride: int,
        reach: float,
        kernel: int,
        positions: bool,
        slice_spacing: float,
    ) -> None:
        super().__init__()
        self.trunk, self.width, self.slice_spacing = trunk, width, slice_spacing
        self.positions = SinCos(width, 1) if positions and attention != "none" else None
        layers: list[nn.Module] = []
        for _ in range(0 if attention == "none" else depth):
            if attention == "deformable":
                layers.append(
                    DeformableBlock(
                        width, hidden, dropout, heads=heads, head_width=head_width, stride=stride,
                        reach=reach, kernel=kernel,
                    )
                )  # fmt: skip
            else:
                layers.append(Block(width, heads, hidden / width, post_norm=True, dropout=dropout))
        self.layers = nn.ModuleList(layers)

    def slices(
        self, volume: Float[Tensor, "n channels slices rows columns"]
    ) -> Float[Tensor, "n slices width"]:
        """An embedding of each slice by itself."""
        flat = volume.transpose(1, 2).flatten(0, 1)
        return self.trunk(flat).unflatten(0, (-1, volume.shape[2]))

    def coordinates(self, slices: int, like: Tensor) -> Float[Tensor, "1 slices 1"]:
        """Millimetres from the middle."""
        place = torch.arange(slices, device=like.device, dtype=like.dtype)
        return ((place - (slices - 1) / 2) * self.slice_spacing)[None, :, None]

    def context(
        self, slices: Float[Tensor, "n slices width"], present: Bool[Tensor, "n slices"]
    ) -> Float[Tensor, "n slices width"]:
        """What each slice says within its volume."""
        if slices.shape[1] == 1:
            return slices
        at = self.coordinates(slices.shape[1], slices)
        x = slices if self.positions is None else slices + self.positions(at / CENTIMETRE).to(slices.dtype)
        for layer in self.layers:
            x = layer(x, at, present) if isinstance(layer, DeformableBlock) else layer(x, present=present)
        return x

    def forward(self, batch: dict[str, Tensor]) -> Tokens:
        """Slices within their volumes, with their millimetres from the middle."""
        present = batch["present"]
        x = self.context(self.slices(batch["volume"]), present)
        return Tokens(x, self.coordinates(x.shape[1], x), None if x.shape[1] == 1 else present)


def mean_of_present(
    x: Float[Tensor, "n slices width"], present: Bool[Tensor, "n slices"]
) -> Float[Tensor, "n width"]:
    """The mean over the slices that do not pad, of unit length."""
    weight = present.unsqueeze(2).to(x.dtype)
    return functional.normalize((x * weight).sum(1) / weight.sum(1), dim=1)
