"""The peer of the throughput benchmark: an I-JEPA as one assembles it from `transformers`' modules.

lightly 1.6.0 and stable-pretraining 0.1.8 have an I-JEPA of their own, but both require torchvision (their
wheels' `Requires-Dist`), which must be built for exactly the torch beside it and so cannot be asked of
everyone who runs this. `transformers` has the encoder only; predictor, teacher, masks and loop are written
here as a user of it would, from the paper: images decoded, cropped, made float and normalised one by one in
the data set; masks drawn image by image in the collate function; the teacher averaged parameter by parameter;
the loss read at every step.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler
from transformers import IJepaConfig, IJepaModel
from transformers.models.ijepa.modeling_ijepa import IJepaLayer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as most pipelines have them
Collated = tuple[Tensor, Tensor, Tensor]


class Images(Dataset):
    """Files of a folder, each randomly cropped, resized and normalised: (3, size, size) float32."""

    def __init__(
        self, folder: Path, size: int, area: tuple[float, float], aspect: tuple[float, float]
    ) -> None:
        self.files = sorted(folder.glob("*.jpg"))
        self.size, self.area, self.aspect = size, area, aspect
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as file:
            image = file.convert("RGB")
        image = image.crop(self._box(*image.size)).resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (pixels - self.mean) / self.std

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        area = random.uniform(*self.area) * width * height
        ratio = math.exp(random.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
        across = min(width, round(math.sqrt(area * ratio)))
        down = min(height, round(math.sqrt(area / ratio)))
        left, top = random.randint(0, width - across), random.randint(0, height - down)
        return left, top, left + across, top + down


class MultiBlockCollator:
    """Stacks images and draws their masks: block sizes once a batch, places for each image in turn.

    Contexts are cut to the smallest of the batch, so that they stack.

    Args:
        grid: patches on a side of the image.
        targets: blocks an image.
    """

    def __init__(self, grid: int, targets: int) -> None:
        self.grid, self.targets = grid, targets

    def _size(self, scale: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
        area = random.uniform(*scale) * self.grid**2
        ratio = random.uniform(*aspect)
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        return min(height, self.grid), min(width, self.grid)

    def _block(self, height: int, width: int) -> Tensor:
        mask = torch.zeros(self.grid, self.grid, dtype=torch.bool)
        top, left = random.randint(0, self.grid - height), random.randint(0, self.grid - width)
        mask[top : top + height, left : left + width] = True
        return mask

    def __call__(self, images: list[Tensor]) -> Collated:
        """Images (B, 3, H, W), context (B, K) and targets (B, M, T), indices of patches."""
        target_size, context_size = self._size((0.15, 0.2), (0.75, 1.5)), self._size((0.85, 1.0), (1.0, 1.0))
        contexts, targets = [], []
        for _ in images:
            blocks = [self._block(*target_size) for _ in range(self.targets)]
            context = self._block(*context_size)
            for block in blocks:
                context &= ~block
            contexts.append(context.flatten().nonzero().squeeze(1))
            targets.append(torch.stack([block.flatten().nonzero().squeeze(1) for block in blocks]))
        kept = max(1, min(len(context) for context in contexts))
        context = torch.stack([context[torch.randperm(len(context))[:kept]] for context in contexts])
        return torch.stack(images), context, torch.stack(targets)


class TransformersJepa(nn.Module):
    """Encoder and teacher are `IJepaModel`s, the predictor is a stack of their layers.

    Args:
        image, patch: sides in pixels.
        width, depth, heads: of the encoder.
        predictor: width, depth and heads of the predictor.
    """

    positions: Tensor

    def __init__(
        self, image: int, patch: int, width: int, depth: int, heads: int, predictor: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.encoder = IJepaModel(_config(image, patch, width, depth, heads))
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        narrow, layers, predictor_heads = predictor
        config = _config(image, patch, narrow, layers, predictor_heads)
        self.embed, self.out = nn.Linear(width, narrow), nn.Linear(narrow, width)
        self.register_buffer("positions", torch.randn(1, (image // patch) ** 2, narrow) * 0.02)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, narrow))
        self.layers = nn.ModuleList(IJepaLayer(config) for _ in range(layers))
        self.norm = nn.LayerNorm(narrow)

    def forward(self, images: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        """The loss, 0-dim."""
        with torch.no_grad():
            whole = self.teacher(images).last_hidden_state
            whole = functional.layer_norm(whole, whole.shape[-1:])
            goal = torch.stack([_rows(whole, targets[:, block]) for block in range(targets.shape[1])], 1)
        hidden = _rows(self.encoder.embeddings(images), context)
        for layer in self.encoder.layers:
            hidden = layer(hidden)
        predicted = self._predict(self.encoder.layernorm(hidden), context, targets)
        return functional.smooth_l1_loss(predicted, goal.flatten(0, 1))

    def _predict(self, seen: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        """(B * M, T, width), all blocks in one call of the layers."""
        samples, blocks, wanted = targets.shape
        positions = self.positions.expand(samples, -1, -1)
        seen = self.embed(seen) + _rows(positions, context)
        asked = self.mask_token + _rows(positions, targets.flatten(1))
        hidden = torch.cat(
            [seen.repeat_interleave(blocks, 0), asked.reshape(samples * blocks, wanted, -1)], 1
        )
        for layer in self.layers:
            hidden = layer(hidden)
        return self.out(self.norm(hidden)[:, -wanted:])


def _config(image: int, patch: int, width: int, depth: int, heads: int) -> IJepaConfig:
    return IJepaConfig(
        image_size=image, patch_size=patch, hidden_size=width, num_hidden_layers=depth,
        num_attention_heads=heads, intermediate_size=4 * width, attn_implementation="sdpa",
    )  # fmt: skip


def _rows(table: Tensor, indices: Tensor) -> Tensor:
    return table.gather(1, indices.unsqueeze(-1).expand(-1, -1, table.shape[-1]))


class PeerTraining:
    """The peer's loop: it goes on where it stopped, so that it can take turns with another.

    Args:
        model: trained.
        data: of which batches are drawn, without end.
        collate: makes a batch of samples, with masks.
        batch_size: samples a step.
        workers: loader processes.
    """

    def __init__(
        self,
        model: TransformersJepa,
        data: Images,
        collate: MultiBlockCollator,
        batch_size: int,
        workers: int,
    ) -> None:
        self.model, self.momentum = model, 0.996
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": 0.04},
            {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-4)
        # one sampler for many epochs, so that the loader never runs dry between two
        sampler = RandomSampler(data, num_samples=100_000 * batch_size)
        loader = DataLoader(
            data, batch_size, sampler=sampler, num_workers=workers, collate_fn=collate, drop_last=True
        )
        self.loader: Iterator[Collated] = iter(loader)
        self.losses: list[float] = []
        self.widths: list[tuple[int, int]] = []  # context and target tokens of each step

    def step(self) -> None:
        """One update."""
        images, context, targets = next(self.loader)
        loss = self.model(images, context, targets)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            pairs = zip(self.model.teacher.parameters(), self.model.encoder.parameters(), strict=True)
            for slow, fast in pairs:
                slow.mul_(self.momentum).add_(fast, alpha=1 - self.momentum)
        self.losses.append(loss.item())
        self.widths.append((context.shape[1], targets.shape[2]))
