"""Networks from images of any size to one vector each: our transformer, and those of transformers and timm.

All take the raw pixels of ``batch["image"]`` and hold the statistics that these are normalised by. None is
downloaded: weights are random, from a configuration written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyjepa.core.errors import UserError, nearest, require
from anyjepa.core.positions import SinCos, grid
from anyjepa.core.tokens import Tokens
from anyjepa.core.transformer import Encoder, initialise
from anyjepa.domains.image_patches import ImagePatches

CONVOLUTIONAL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "resnet-18": (
        "ResNetConfig", "ResNetModel",
        {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
    ),
    "resnet-50": (
        "ResNetConfig", "ResNetModel",
        {"hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3], "layer_type": "bottleneck"},
    ),
    "convnext-tiny": (
        "ConvNextConfig", "ConvNextModel",
        {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]},
    ),
}  # fmt: skip


class Backbone(nn.Module):
    """Images to vectors of `width`, and to tokens."""

    width: int

    def tokens(self, batch: dict[str, Tensor]) -> Tokens:
        """Dense features."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch width"]:
        """One vector an image."""
        raise NotImplementedError


class VisionTransformer(Backbone):
    """Our encoder; the vector is the mean of its tokens, after a linear layer where `head` is above 0.

    Args:
        shape: height and width of the images whose patches have whole coordinates; other sizes span the same.
        patch: side of a patch; divides the sides of every image.
        channels: of the images.
        width, depth, heads: of the encoder.
        mean, std: of each channel, in the units of the raw values.
        head: width of the linear layer; 0 for none.
        drop_path: stochastic depth of the last block; linear from 0 at the first.
        initial_std: of the weights; one over the square root of a layer's inputs where None.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        patch: int,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        mean: Sequence[float],
        std: Sequence[float],
        head: int = 0,
        drop_path: float = 0.0,
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        tokenizer = ImagePatches(shape, patch, channels, width, mean, std)
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.encoder = Encoder(tokenizer, SinCos(width, 2), width, depth, heads, drop_path=rates)
        # what follows normalises each dimension, so that a bias would learn nothing
        self.head = nn.Linear(width, head, bias=False) if head else nn.Identity()
        self.width = head or width
        initialise(self, initial_std)

    def tokens(self, batch: dict[str, Tensor]) -> Tokens:
        """The encoder's tokens, one a patch."""
        return self.encoder(batch)

    def forward(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch width"]:
        """The mean token through the head."""
        return self.head(self.tokens(batch).values.mean(1))


class _Normalised(Backbone):
    """Pixels less the mean, over the deviation, for networks that do not do it themselves."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        scale = torch.tensor([value if value > 0 else 1.0 for value in std], dtype=torch.float32)
        self.register_buffer("std", scale.view(-1, 1, 1))

    def _pixels(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["image"].to(self.mean.dtype) - self.mean) / self.std


class Convolutional(_Normalised):
    """A convolutional network of the transformers library.

    Args:
        name: one of `CONVOLUTIONAL`.
        mean, std: of each channel, in the units of the raw values.
        small: a ResNet begins with one 3 x 3 convolution that halves nothing, as is usual for images of 32
            pixels, instead of a 7 x 7 one and pooling that leave a quarter of each side.

    Raises:
        UserError: transformers is not installed, or `small` is asked of another network than a ResNet.
    """

    def __init__(self, name: str, mean: Sequence[float], std: Sequence[float], small: bool = False) -> None:
        super().__init__(mean, std)
        library = require("transformers", "backbones")
        configuration, model, sizes = CONVOLUTIONAL[name]
        self.network = getattr(library, model)(
            getattr(library, configuration)(num_channels=len(mean), **sizes)
        )
        self.width = sizes["hidden_sizes"][-1]
        if small:
            if not name.startswith("resnet"):
                raise UserError(f"--small-images true is for ResNets; {name} has no such form.")
            first = nn.Conv2d(len(mean), 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
            self.network.embedder = nn.Sequential(first, nn.BatchNorm2d(64), nn.ReLU())

    def _features(self, batch: dict[str, Tensor]) -> Any:
        return self.network(pixel_values=self._pixels(batch))

    def tokens(self, batch: dict[str, Tensor]) -> Tokens:
        """The last feature map, one token a place."""
        return _places(self._features(batch).last_hidden_state)

    def forward(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch width"]:
        """The average over places (ConvNeXt: then normalised)."""
        return self._features(batch).pooler_output.flatten(1)


class Timm(_Normalised):
    """Any network of timm, without its classifier.

    Args:
        name: of timm, such as ``resnet18`` or ``vit_small_patch8_224``.
        mean, std: of each channel, in the units of the raw values.
        drop_path: stochastic depth.

    Raises:
        UserError: timm is not installed, or has no such network.
    """

    def __init__(
        self, name: str, mean: Sequence[float], std: Sequence[float], drop_path: float = 0.0
    ) -> None:
        super().__init__(mean, std)
        timm = require("timm", "timm")
        if name not in (known := timm.list_models()):
            raise UserError(f"timm has no network '{name}'.{nearest(name, known)}")
        options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "in_chans": len(mean)}
        if drop_path:
            options["drop_path_rate"] = drop_path
        try:
            # transformers with positions take other sizes than their own only when told
            self.network = timm.create_model(name, dynamic_img_size=True, **options)
        except TypeError:
            self.network = timm.create_model(name, **options)
        self.width = self.network.num_features

    def tokens(self, batch: dict[str, Tensor]) -> Tokens:
        """The last feature map where the network has one, or its tokens without those in front."""
        features = self.network.forward_features(self._pixels(batch))
        if features.ndim == 4:
            return _places(features)
        patches = features[:, getattr(self.network, "num_prefix_tokens", 0) :]
        return Tokens(patches, grid(patches.shape[1], device=patches.device))

    def forward(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch width"]:
        """The network's own pooled features."""
        return self.network(self._pixels(batch))


def _places(features: Float[Tensor, "batch width rows columns"]) -> Tokens:
    """A feature map as tokens in raster order, with their (row, column)."""
    return Tokens(features.flatten(2).mT, grid(*features.shape[2:], device=features.device))


def check_backbone(name: str) -> None:
    """Raise UserError where no network is called so; whether timm has it is seen when it is built."""
    known = ["vit", *CONVOLUTIONAL]
    if name not in known and not name.startswith("timm:"):
        raise UserError(
            f"there is no backbone '{name}' (there are: {', '.join(known)} and timm:NAME)."
            f"{nearest(name, known)}"
        )
