"""Resting-state fMRI: series of brain regions, read, measured, placed along gradients, drawn as carpets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Domain, Samples
from anyjepa.domains.fmri_carpet import carpet, drawn
from anyjepa.domains.fmri_gradients import STRONGEST, connectivity, gradients
from anyjepa.domains.fmri_runs import FileRuns
from anyjepa.domains.fmri_samples import FmriSamples
from anyjepa.domains.fmri_sources import FILES, open_fmri
from anyjepa.domains.fmri_supplied import supplied
from anyjepa.domains.sources import choose

__all__ = ["Fmri", "table_of"]

MEASURED = 2000
WHOLE = frozenset({"NIfTI", "CIFTI", ".1D"})  # kinds of files that nothing else is kept in
NAMED = re.compile(r"bold|fmri|func|timeseries|time_series|roi", re.IGNORECASE)  # in names of tables of it
FEWEST = 20  # regions of tables that may be BOLD without such a name
SMOOTH = 0.2  # correlation of neighbours in time, from which on numbers may be BOLD
OFFSET = 0.9  # share of the variance that is between runs, from which on a caution is due


class Fmri(Domain):
    """fMRI of any regions. A batch is {"bold": (n, regions, time), "recorded": (n, regions)}."""

    name = "fmri"
    reads_shards = True
    endings = (FILES - {".txt"}) | {".npz"}

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source of fMRI; see :func:`anyjepa.domains.fmri_sources.open_fmri`."""
        return open_fmri(source, labels, split, reading)

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Regions, step, length of a crop, each region's level over runs, and the gradients of the regions.

        ``median`` and ``spread``: of each region, median and interquartile range over runs of its mean over
        time. ``temporal_share``: share of all variance that is within a run. ``gradients``: a line of numbers
        a region, from the mean correlation matrix of the runs, or from the table that was supplied; ``mean``
        and ``std`` of each region over everything.
        Over at most 2,000 samples drawn with ``seed``; damaged ones are passed over. Raises UserError if all
        are.
        """
        assert isinstance(samples, FmriSamples)
        chosen = choose(len(samples), MEASURED, seed)
        regions = len(samples.regions)
        matrix, levels, within = np.zeros((regions, regions)), [], []
        for index in chosen:
            try:
                series = samples.read(int(index)).astype(np.float64)
            except BadSample:
                continue
            matrix += connectivity(series)
            levels.append(series.mean(axis=1))
            within.append(series.var(axis=1))
        if not levels:
            raise UserError(f"{samples.source} holds no readable run: give files that open.")
        level, inside = np.stack(levels), np.stack(within)
        known = ~np.isnan(level).all(axis=0)
        median, spread, mean, between, variance = np.zeros((5, regions))
        median[known] = np.nanmedian(level[:, known], axis=0)
        low, high = np.nanpercentile(level[:, known], [25, 75], axis=0)
        spread[known], mean[known] = high - low, np.nanmean(level[:, known], axis=0)
        between[known], variance[known] = (
            np.nanvar(level[:, known], axis=0),
            np.nanmean(inside[:, known], axis=0),
        )
        total = float((between + variance).sum())
        asked = samples.reading
        shortest = min(samples.points(index) for index in range(len(samples)))
        every, multiple = int(asked.get("every") or 1), int(asked.get("patch_size") or 1)
        room = (shortest - 1) // every + 1
        points = min(int(asked.get("points") or room), room) // multiple * multiple
        options = {name: asked[name] for name in ("components", "sparsity", "alpha") if name in asked}
        table = supplied(asked.get("gradient_table") or "", regions, **options)
        if table is None:
            table = gradients(matrix / len(levels), **options)
        return {
            "regions": list(samples.regions),
            "step": samples.step,
            "points": points,
            "every": every,
            "patch_size": multiple,
            "median": _short(median),
            "spread": _short(spread),
            "mean": _short(mean),
            "std": _short(np.sqrt(between + variance)),
            "temporal_share": float(f"{variance.sum() / total:.4g}") if total > 0 else 0.0,
            "gradients": [" ".join(f"{value:.6g}" for value in row) for row in table],
        }

    def likeness(self, samples: Samples) -> float:
        """Images of brains and .1D files for sure; other tables by their names, or where they may be BOLD."""
        assert isinstance(samples, FmriSamples)
        if isinstance(samples.runs, FileRuns) and samples.runs.kinds <= WHOLE:
            return 1.0
        if not isinstance(samples.runs, FileRuns):
            return 1.0 if samples.told else 0.05
        names = samples.runs.names
        if sum(NAMED.search(name) is not None for name in names) > len(names) / 2:
            return 0.9
        several = len(names) > 1 and len(samples.regions) >= FEWEST
        return 0.4 if several and _smoothness(samples) > SMOOTH else 0.05

    def in_words(self, facts: dict) -> dict[str, str]:
        """Regions by name, repetition time, length of a crop, and where the variance lies."""
        regions, step = facts["regions"], facts["step"]
        named = ", ".join(map(str, regions[:4])) + (" ..." if len(regions) > 4 else "")
        every = f", every {_ordinal(facts['every'])} of them" if facts["every"] > 1 else ""
        return {
            "regions": f"{len(regions)}: {named}",
            "step": f"{step:g} s, as it is read",
            "crop": f"{facts['points'] * step * facts['every']:.4g} s, {facts['points']:,} points{every}",
            "variance": f"{facts['temporal_share']:.1%} over time within runs, the rest between runs",
            "gradients": f"{table_of(facts).shape[1]} a region",
        }

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """Regions that are empty, a repetition time that nobody said, offsets that outweigh what moves."""
        assert isinstance(samples, FmriSamples)
        found = []
        flat = [str(name) for name, value in zip(facts["regions"], facts["std"], strict=True) if value == 0]
        if flat:
            found.append(f"empty or flat in every run: {len(flat)} regions, such as {flat[0]}.")
        if not samples.told and not samples.reading.get("repetition_time"):
            found.append(
                f"no file says its repetition time, so {samples.step:g} s is assumed: state it with "
                "--repetition-time."
            )
        if facts["temporal_share"] < 1 - OFFSET:
            found.append(
                f"only {facts['temporal_share']:.1%} of the variance is over time, the rest are offsets of "
                "runs: keep --normalise region."
            )
        return found

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """The connectivity matrix: Fisher's z of the correlations of every two regions over the whole run.

        What the field compares with: the upper triangle, 0 where a region was not recorded.
        """
        bold, there = batch["bold"].double(), batch["recorded"].unsqueeze(-1)
        length = batch.get("length")
        inside = torch.ones_like(bold[:, :1], dtype=torch.bool)
        if length is not None:
            inside = (torch.arange(bold.shape[2], device=bold.device) < length[:, None])[:, None]
        count = inside.sum(2, keepdim=True)
        centred = torch.where(inside & there, bold - (bold * inside).sum(2, keepdim=True) / count, 0.0)
        norm = centred.norm(dim=2, keepdim=True)
        unit = centred / torch.where(norm > 0, norm, torch.inf)
        rows, columns = torch.triu_indices(bold.shape[1], bold.shape[1], 1, device=bold.device)
        correlations = (unit @ unit.mT)[:, rows, columns]
        return correlations.clamp(-STRONGEST, STRONGEST).atanh().float()

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Runs (regions, time) float32 of independent normal points about each region's mean."""
        random = np.random.default_rng(0)
        mean = np.array(facts["mean"])[:, None]
        deviation = np.sqrt(facts["temporal_share"]) * np.array(facts["std"])[:, None]
        shape = (len(mean), facts["points"] * facts["every"])
        return [(mean + deviation * random.standard_normal(shape)).astype(np.float32) for _ in range(count)]

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """(h, w, 3) uint8: the carpet of regions and time, sorted along the first gradient."""
        return carpet(*_one(batch, index, facts), _plain(colours))

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """The carpet with axes and each region's place along the first gradient; whole, beside a gradient
        map.

        ``colours`` (tokens, 3) shade stretches of regions.
        """
        series, table = _one(batch, index, facts)
        return drawn(series, table, facts["step"] * facts["every"], facts["regions"], _plain(colours))


def table_of(facts: Mapping[str, Any]) -> Float[np.ndarray, "regions components"]:
    """The gradients of the regions from `Fmri.measure`."""
    return np.array([[float(value) for value in row.split()] for row in facts["gradients"]], np.float32)


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _ordinal(number: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _smoothness(samples: FmriSamples) -> float:
    """How much neighbours in time agree, on average over the regions of one sample."""
    series = samples.read(0).astype(np.float64)
    series = series[~np.isnan(series[:, 0])]
    before, after = (part - part.mean(axis=1, keepdims=True) for part in (series[:, :-1], series[:, 1:]))
    norm = np.sqrt((before**2).sum(axis=1) * (after**2).sum(axis=1))
    return float(np.mean((before * after).sum(axis=1) / np.maximum(norm, 1e-300)))


def _one(batch: dict[str, Tensor], index: int, facts: dict) -> tuple[np.ndarray, np.ndarray]:
    """Series (regions, points) of the first crop, and the gradients."""
    series = batch["bold"][index, :, : (facts["points"] - 1) * facts["every"] + 1 : facts["every"]]
    return series.detach().float().cpu().numpy(), table_of(facts)


def _plain(colours: Tensor | None) -> np.ndarray | None:
    return None if colours is None else colours.detach().float().cpu().numpy()
