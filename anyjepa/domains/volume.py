"""Medical volumes: CT, MR and the like, in one orientation and spacing; measured, described and shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.tokens import Tokens
from anyjepa.domains import Domain, Samples
from anyjepa.domains.sources import choose
from anyjepa.domains.volume_files import VOLUMES
from anyjepa.domains.volume_geometry import PLANES
from anyjepa.domains.volume_planes import middle_slice, planes
from anyjepa.domains.volume_samples import VolumeSamples
from anyjepa.domains.volume_sources import DICOM, IMAGES, SIMULATED, open_volumes

__all__ = ["Volume", "fitted"]

MEASURED = 100
RAW = (8, 12, 12)  # slices, rows and columns that volumes are averaged down to
BINS = 16


class Volume(Domain):
    """Volumes of slices, scaled to 0 to 1.

    A batch is {"volume": (n, channels, slices, rows, columns) float32, "present": (n, slices) bool, False
    where a slice pads}.
    """

    name = "volume"
    reads_shards = False
    endings = frozenset({*VOLUMES, *DICOM, ".npz", ""})

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source of volumes; see :func:`anyjepa.domains.volume_sources.open_volumes`."""
        # labels that masks give are counted late, by a property, which a protocol's plain attribute is not
        return open_volumes(source, labels, split, reading)  # pyright: ignore[reportReturnType]

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Channels, spacing in millimetres, plane, sizes, and mean and deviation of the values of 0 to 1.

        Over at most 100 volumes drawn with ``seed``. ``slices``, ``rows`` and ``columns`` are medians,
        ``most`` the largest of each. Raises UserError where no volume can be read.
        """
        chosen = choose(len(samples), MEASURED, seed)
        shapes, sums = [], []
        for index in chosen.tolist():
            try:
                values = samples.read(index)
            except BadSample:
                continue
            shapes.append(values.shape)
            flat = values.reshape(-1, values.shape[3]).astype(np.float64)
            sums.append((len(flat), flat.sum(axis=0), (flat**2).sum(axis=0)))
        if not shapes:
            raise UserError(f"{samples.source} holds no readable volume: give volumes that open.")
        count = sum(one for one, _, _ in sums)
        mean, square = (np.sum([row[part] for row in sums], axis=0) / count for part in (1, 2))
        middle = np.median(shapes, axis=0).astype(int).tolist()
        return {
            "channels": int(shapes[0][3]),
            # packed volumes state what they were read with
            "spacing": [float(step) for step in samples.spacing],  # pyright: ignore[reportAttributeAccessIssue]
            "plane": str(samples.plane),  # pyright: ignore[reportAttributeAccessIssue]
            "slices": middle[0],
            "rows": middle[1],
            "columns": middle[2],
            "most": [int(side) for side in np.max(shapes, axis=0)[:3]],
            "samples": len(samples),
            "mean": mean.tolist(),
            "std": np.sqrt(np.maximum(square - mean**2, 0)).tolist(),
        }

    def likeness(self, samples: Samples) -> float:
        """Files of scanners for sure; several channels may be time; arrays and images are rather others."""
        if samples.source == SIMULATED:
            return 1.0
        if not isinstance(samples, VolumeSamples) or samples.source.startswith(IMAGES):
            return 0.3
        if ".npy" in samples.description or "array" in samples.description or ".npz" in samples.description:
            return 0.1
        return 1.0 if samples.channels <= 8 else 0.1

    def in_words(self, facts: dict) -> dict[str, str]:
        """Sizes in slices, rows and columns, and in millimetres."""
        sizes = facts["slices"], facts["rows"], facts["columns"]
        length = " x ".join(f"{n * step:.0f}" for n, step in zip(sizes, facts["spacing"], strict=True))
        most = " x ".join(map(str, facts["most"]))
        return {
            "slices": f"{sizes[0]} {facts['plane']}, of {sizes[1]} x {sizes[2]} pixels (at most {most})",
            "spacing": " x ".join(f"{step:.3g}" for step in facts["spacing"]) + f" mm, {length} mm in all",
            "channels": str(facts["channels"]),
        }

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """Channels that never change, and spacings that differ much within the source."""
        found = super().doubts(samples, facts)
        own = getattr(samples, "own_spacings", None)
        if own is not None and len(own) > 1:
            ratio = float((own.max(axis=0) / own.min(axis=0)).max())
            if ratio > 2:
                found.append(
                    f"spacings differ by up to {ratio:.1f} times: volumes are resampled to "
                    f"{' x '.join(f'{step:.3g}' for step in facts['spacing'])} mm (--spacing)."
                )
        return found

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """Values averaged down to at most 8 x 12 x 12 places, and their histogram in 16 bins."""
        volume = batch["volume"].to(torch.float32)
        slices, rows, columns = (min(side, most) for side, most in zip(volume.shape[2:], RAW, strict=True))
        small = functional.adaptive_avg_pool3d(volume, (slices, rows, columns)).flatten(1)
        bins = (volume * BINS).long().clamp(0, BINS - 1).flatten(2)
        shares = torch.zeros(*bins.shape[:2], BINS, device=volume.device)
        shares.scatter_add_(2, bins, torch.ones_like(bins, dtype=torch.float32))
        return torch.cat([small, (shares * (BINS / bins.shape[2])).flatten(1)], dim=1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Volumes (slices, rows, columns, channels) float32 of independent normal values."""
        shape = (count, facts["slices"], facts["rows"], facts["columns"], facts["channels"])
        values = np.random.default_rng(0).normal(facts["mean"], facts["std"], shape)
        return list(np.clip(values, 0, 1).astype(np.float32))

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """(h, w, 3) uint8: the middle slice; ``colours`` (slices, 3) are a bar at its left."""
        return middle_slice(*_first(batch, index), _spacing(facts), _plain(colours))

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """Three planes through the middle and slices side by side; ``colours`` (slices, 3) paint slices."""
        plane = facts.get("plane", "axial")
        plane = plane if plane in PLANES else "axial"
        return planes(*_first(batch, index), _spacing(facts), plane, _plain(colours))

    def elements(
        self,
        batch: dict[str, Tensor],
        tokens: Sequence[Tokens],
        dense: Sequence[np.ndarray],
        classes: int,
        present: Callable[[list[np.ndarray]], dict[str, Tensor]],
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """The slices of each volume: token, pixels averaged down, the largest structure in it."""
        shown = present([np.asarray(labels, np.float32)[:, None, None, None] + 1 for labels in dense])
        # a slice that pads is 0 in what is cropped and padded as the volume is
        labels = shown["volume"][:, 0].amax((2, 3)).round().long() - 1
        volume = batch["volume"].to(torch.float32)
        size = min(volume.shape[3], RAW[1]), min(volume.shape[4], RAW[2])
        small = functional.adaptive_avg_pool2d(volume.transpose(1, 2).flatten(0, 1), size)
        return (
            [one.values.float() for one in tokens],
            small.flatten(1).unflatten(0, labels.shape),
            labels.to(volume.device),
        )


def fitted(
    samples: Sequence[np.ndarray], shape: Sequence[int]
) -> tuple[Float[Tensor, "n channels slices rows columns"], Bool[Tensor, "n slices"]]:
    """Volumes (slices, rows, columns, channels) cropped to a shape, or padded with zeros, around the middle.

    Volumes that all have one slice stay of one slice. Returns them, and which slices are not padding.
    """
    slices = 1 if all(len(sample) == 1 for sample in samples) else shape[0]
    wanted = slices, shape[1], shape[2]
    found = np.zeros((len(samples), *wanted, samples[0].shape[3]), np.float32)
    present = np.zeros((len(samples), slices), bool)
    for row, sample in enumerate(samples):
        to, of = [], []
        for own, asked in zip(sample.shape[:3], wanted, strict=True):
            both = min(own, asked)
            to.append(slice((asked - both) // 2, (asked - both) // 2 + both))
            of.append(slice((own - both) // 2, (own - both) // 2 + both))
        found[(row, *to)] = sample[tuple(of)]
        present[row, to[0]] = True
    return torch.from_numpy(np.moveaxis(found, 4, 1).copy()), torch.from_numpy(present)


def _first(batch: dict[str, Tensor], index: int) -> tuple[np.ndarray, np.ndarray]:
    volume = batch["volume"][index, 0].detach().float().cpu().numpy()
    present = batch["present"][index].cpu().numpy() if "present" in batch else np.ones(len(volume), bool)
    return volume, present


def _spacing(facts: dict) -> Sequence[float]:
    return facts.get("spacing", (1.0, 1.0, 1.0))


def _plain(colours: Tensor | None) -> np.ndarray | None:
    return None if colours is None else colours.detach().float().cpu().numpy()
