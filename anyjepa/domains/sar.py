"""Radar images (SAR): chips of amplitude, read as images are, and shown beside their gradients by ratio."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import BadSample, UserError, require
from anyjepa.core.gradient_by_ratio import gradient_by_ratio
from anyjepa.domains import Samples
from anyjepa.domains.image_arrays import ArrayStore
from anyjepa.domains.image_files import SUFFIXES
from anyjepa.domains.image_samples import FileStore, ImageSamples
from anyjepa.domains.image_sources import open_images
from anyjepa.domains.images import PICTURE_SIDE, RAW_SIDE, Images, _painted
from anyjepa.domains.sar_files import ENDINGS, PHOENIX
from anyjepa.domains.sar_simulation import CLASSES, synthetic_sar

__all__ = ["VALUES", "Sar", "amplitude"]

MEASURED = 500
VALUES = ("amplitude", "intensity", "decibel")
SHOWN = (5, 9, 13, 17)  # radii of 224 pixels of which maps are drawn


def amplitude(values: np.ndarray, kind: str) -> np.ndarray:
    """What a chip holds, as amplitude: linear, not negative, float32.

    Args:
        values: of any shape.
        kind: ``amplitude``, ``intensity`` (its square) or ``decibel`` (20 log10 of the amplitude).
    """
    values = np.asarray(values, np.float32)
    if kind == "decibel":
        return 10 ** (values / 20)
    return np.sqrt(np.maximum(values, 0)) if kind == "intensity" else np.maximum(values, 0)


class Sar(Images):
    """Chips of radar amplitude. A batch is {"image": (n, channels, height, width)}, amplitude, float32."""

    name = "sar"
    reads_shards = True
    endings = ENDINGS  # pictures and arrays are rather images: say that they are radar

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open chips: what `Images` opens, and MSTAR's raw files; ``synthetic-sar`` is simulated.

        Complex values (of .npy, .npz and TIFF) become their magnitude.
        """
        if isinstance(source, str) and source == "synthetic-sar":
            chips, classes = synthetic_sar(split)
            return ImageSamples(source, ArrayStore(chips), "simulated radar chips", classes, CLASSES)
        samples = open_images(source, labels, split, domain=self.name, suffixes=SUFFIXES | ENDINGS)
        return self.agreed(samples, reading or {})

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Facts of `Images.measure`, the least value and ``top``, that which all but 0.1 % lie below.

        ``top`` is 255 for 8-bit chips, which are stretched to it; else of at most 500 chips.
        """
        facts = super().measure(samples, seed)
        chosen = np.linspace(0, len(samples) - 1, min(len(samples), MEASURED)).astype(int)
        low, tops = np.inf, []
        for index in chosen.tolist():
            try:
                chip = samples.read(index)
            except BadSample:
                continue
            low = min(low, float(chip.min()))
            tops.append(float(np.quantile(chip, 0.999)))
        top = 255.0 if facts["dtype"] == "uint8" else float(np.median(tops))
        if low == top:
            raise UserError(f"{samples.source} has but one value, {low:g}: give chips that hold something.")
        return {**facts, "low": low, "top": top}

    def likeness(self, samples: Samples) -> float:
        """Raw chips of MSTAR for sure; grey pictures are rather images."""
        assert isinstance(samples, ImageSamples)
        store = samples.store
        if samples.source == "synthetic-sar":
            return 1.0
        if isinstance(store, FileStore) and store.content(0)[: len(PHOENIX)] == PHOENIX:
            return 1.0
        return 0.2

    def in_words(self, facts: dict) -> dict[str, str]:
        """As of images, and the range of the values."""
        return {**super().in_words(facts), "range": f"{facts['low']:.4g} to {facts['top']:.4g}"}

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """Values below zero, of which no ratio can be taken."""
        found = super().doubts(samples, facts)
        if facts["low"] < 0:
            found.append("values lie below zero: if they are decibels, say --values decibel.")
        return found

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """Square roots of the amplitude, averaged down to at most 32 x 32: what spreads dark and bright."""
        image = batch["image"].to(torch.float32)
        size = (min(image.shape[2], RAW_SIDE), min(image.shape[3], RAW_SIDE))
        return functional.interpolate(image, size=size, mode="area").clamp(min=0).sqrt().flatten(1)

    def picture(
        self,
        batch: dict[str, Tensor],
        index: int,
        facts: dict,
        colours: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """The square root of the amplitude, grey, up to its 99.5th percentile; else as of images."""
        picture = _grey(batch["image"][index, 0].detach().float().cpu().clamp(min=0).sqrt().numpy())
        scale = max(1, -(-PICTURE_SIDE // max(picture.shape[:2])))
        picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
        return picture if colours is None else _painted(picture, colours.detach().cpu().numpy(), grid)

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """The chip, its patches in their colours, and its gradients by ratio at four sizes beside it."""
        image = batch["image"][index : index + 1, :1].detach().float().cpu().clamp(min=0)
        top = max(float(torch.quantile(image.flatten(), 0.999)), 1e-12)
        shown = self.picture(batch, index, facts, colours)
        parts = [_drawn(shown, "the chip")]
        for radius in SHOWN:
            own = max(1, round(radius * image.shape[-1] / 224))
            maps = gradient_by_ratio(image / top, own)[0, 0].numpy()
            parts.append(_drawn(_grey(maps), f"gradient by ratio, windows of {2 * own + 1} pixels"))
        return f'<div style="display:flex;flex-wrap:wrap;gap:6px">{"".join(parts)}</div>'


def _grey(values: np.ndarray) -> np.ndarray:
    """(height, width) to (height, width, 3) uint8, black at 0 and white at the 99.5th percentile."""
    top = max(float(np.quantile(values, 0.995)), 1e-12)
    return np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def _drawn(pixels: np.ndarray, words: str) -> str:
    file = io.BytesIO()
    require("PIL.Image", "image").fromarray(pixels).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure style="margin:0;width:132px"><img style="width:132px;image-rendering:pixelated" '
        f'src="data:image/png;base64,{data}" alt="{html.escape(words)}">'
        f'<figcaption style="font-size:11px">{html.escape(words)}</figcaption></figure>'
    )
