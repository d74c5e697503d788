"""Views of things: several of each with known poses, or single images that views are to be made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import BadSample
from anyjepa.domains import Samples
from anyjepa.domains.images import Images
from anyjepa.domains.views_drawing import sequence_drawn, strip
from anyjepa.domains.views_salience import open_with_maps
from anyjepa.domains.views_samples import NUMBERS, OneByOne, ViewSamples, record
from anyjepa.domains.views_sources import from_records, open_views

__all__ = ["ManyViews"]

RAW_SIDE = 16


class ManyViews(Images):
    """Things seen from several sides, or images.

    Of things a batch is {"image": (n, views, channels, height, width), "pose": (n, views, numbers) float32}
    and a raw sample as of `views_samples.record`; of images it is as of `Images`, and {"saliency": (n,
    height, width)} beside it where the source has such maps.
    """

    name = "views"
    reads_shards = False
    endings = frozenset({"poses.csv", "poses.tsv"})  # other things are rather images: say that they are views

    @property
    def packs(self) -> bool:
        """No: a pack holds one array a sample, and here are views and their poses."""
        return False

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open things with poses (:func:`anyjepa.domains.views_sources.open_views`), or images.

        Views need a pose each, so whatever has none is read as `Images` reads it; a .npz file with an array
        ``saliency`` (n, height, width) beside its images brings maps of where to look.
        """
        asked = reading or {}
        if isinstance(source, np.ndarray) and source.dtype.names:
            return from_records(source, asked)
        if isinstance(source, str | Path):
            for found in (
                open_views(str(source), labels, split, asked),
                open_with_maps(str(source), labels, split),
            ):
                if found is not None:
                    return found
        return super().open(source, labels, split, asked)

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Facts of `Images.measure`, and ``views`` (1 for images), ``rotation``, ``others``, ``others_std``.

        ``rotation`` is what the first numbers of a pose are (`Poses`), ``others`` names the numbers behind.
        """
        if not isinstance(samples, ViewSamples):
            mapped = bool(getattr(samples, "maps", None) is not None)
            plain = samples.images if mapped else samples  # pyright: ignore[reportAttributeAccessIssue]
            return {**super().measure(plain, seed), "views": 1, "saliency": mapped}
        facts = super().measure(OneByOne(samples), seed)
        poses, beside = samples.poses, []
        wide = poses.numbers - len(poses.others)
        for index in range(0, len(samples), max(1, len(samples) // 500)):
            try:
                beside.append(samples.read(index)["pose"][:, wide:])
            except BadSample:
                continue
        spread = np.concatenate(beside).astype(np.float64).std(axis=0)
        return {
            **facts,
            "views": samples.wanted.seen,
            "rotation": poses.rotation,
            "others": list(poses.others),
            "others_std": [float(value) if value > 0 else 1.0 for value in spread],
        }

    def likeness(self, samples: Samples) -> float:
        """Surely, where there are poses; pictures alone are rather images."""
        return 1.0 if isinstance(samples, ViewSamples) else 0.2

    def in_words(self, facts: dict) -> dict[str, str]:
        """As of images, and how many views there are and what their poses say."""
        found = super().in_words(facts)
        if facts["views"] == 1:
            return found
        kinds = {"quaternion": ["rotation"], "turn": ["angle on a turntable"], "none": []}
        told = ", ".join([*kinds[facts["rotation"]], *facts["others"]])
        return {**found, "views": f"{facts['views']} of each thing", "poses": told}

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """The pixels of all views, each averaged down to at most 16 x 16; of images as `Images` does."""
        if "pose" not in batch:
            return super().raw(batch, facts)
        views = batch["image"].float()
        size = (min(views.shape[3], RAW_SIDE), min(views.shape[4], RAW_SIDE))
        small = functional.interpolate(views.flatten(0, 1), size=size, mode="area")
        return small.unflatten(0, views.shape[:2]).flatten(1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Views of independent normal pixels with random poses, or such images."""
        if facts["views"] == 1:
            images = super().noise(facts, count)
            if not facts.get("saliency"):
                return images
            return [_with_map(image) for image in images]
        random, views = np.random.default_rng(0), facts["views"]
        shape = (count, views, facts["height"], facts["width"], facts["channels"])
        pixels = random.normal(facts["mean"], facts["std"], shape).astype(np.float32)
        wide = NUMBERS[facts["rotation"]]
        poses = random.normal(size=(count, views, wide + len(facts["others"]))).astype(np.float32)
        return [record(*one) for one in zip(pixels, poses, strict=True)]

    def picture(
        self,
        batch: dict[str, Tensor],
        index: int,
        facts: dict,
        colours: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """The views of a thing in a square; of an image as `Images` draws it."""
        if batch["image"].ndim == 4:
            return super().picture(batch, index, facts, colours, grid)
        views = batch["image"][index]
        drawn = [
            super(ManyViews, self).picture({"image": views}, number, facts) for number in range(len(views))
        ]
        columns = int(np.ceil(np.sqrt(len(drawn))))
        height, width = drawn[0].shape[:2]
        sheet = np.full((-(-len(drawn) // columns) * height, columns * width, 3), 128, np.uint8)
        for number, one in enumerate(drawn):
            top, left = number // columns * height, number % columns * width
            sheet[top : top + height, left : left + width] = one
        return sheet

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """Views in order with what was done between them, and the way of the eye over the image it looks at.

        The actions are in ``action`` (n, views - 1, numbers) of a batch that a method made, the fixations in
        ``fixation`` (n, views, 2), shares of ``whole`` (n, channels, height, width).
        """
        if batch["image"].ndim == 4:
            return None
        views = [
            super(ManyViews, self).picture({"image": batch["image"][index]}, number, facts)
            for number in range(batch["image"].shape[1])
        ]
        if "action" not in batch:
            return strip(views)
        names = _words(batch["names"]) if "names" in batch else []
        whole, places = None, None
        if "whole" in batch:
            whole = super().picture({"image": batch["whole"]}, index, facts)
            places = batch["fixation"][index].detach().float().cpu().numpy()
        return sequence_drawn(
            views, batch["action"][index].detach().float().cpu().numpy(), names, whole, places
        )


def _with_map(image: np.ndarray) -> np.ndarray:
    from anyjepa.domains.views_salience import mapped

    return mapped(image, np.ones(image.shape[:2], np.float32))


def _words(coded: Tensor) -> list[str]:
    """Names that a tensor of UTF-8 bytes carries: a batch holds tensors only."""
    return bytes(coded.cpu().to(torch.uint8).tolist()).decode().split("\n")
