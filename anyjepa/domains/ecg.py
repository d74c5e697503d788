"""ECGs: read from WFDB, EDF and arrays, measured in millivolts, drawn on millimetre paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Domain, Samples
from anyjepa.domains.ecg_leads import STANDARD
from anyjepa.domains.ecg_paper import drawn, painted
from anyjepa.domains.ecg_records import EDF, FileRecords
from anyjepa.domains.ecg_samples import EcgSamples
from anyjepa.domains.ecg_sources import open_ecg
from anyjepa.domains.sources import choose

__all__ = ["Ecg"]

MEASURED = 2000
RAW_POINTS = 256  # of each lead in the raw baseline
HIGHEST = 40.0  # Hz; what a monitor's filter lets through
BAND = 1.0  # Hz
LONGEST_LAG = 2.0  # seconds: an interval of 30 beats a minute
ENVELOPE_RATE = 50.0  # Hz
LEADS = (1, 2, 3, 5, 6, 8, 12, 15)  # how many are commonly recorded


class Ecg(Domain):
    """ECGs of any leads and rate. A batch is {"ecg": (n, leads, time) millivolts, "recorded": (n, leads)}."""

    name = "ecg"
    reads_shards = True
    endings = frozenset({".hea", ".dat", ".mat", ".atr", *EDF, ".npy", ".npz", ".tsv"})

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source of ECGs; see :func:`anyjepa.domains.ecg_sources.open_ecg`."""
        return open_ecg(source, labels, split, reading)

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Leads, rate, length of a crop, and mean and standard deviation of each lead in millivolts.

        Over at most 2,000 samples drawn with ``seed``, where a lead was recorded; damaged ones are passed
        over.
        Raises UserError if all are.
        """
        assert isinstance(samples, EcgSamples)
        chosen = choose(len(samples), MEASURED, seed)
        count, sums, squares = (np.zeros(len(samples.leads)) for _ in range(3))
        for index in chosen:
            try:
                signals = samples.read(int(index)).astype(np.float64)
            except BadSample:
                continue
            recorded = ~np.isnan(signals[:, 0])
            count += recorded * signals.shape[1]
            sums += np.where(recorded, signals.sum(axis=1), 0)
            squares += np.where(recorded, (signals**2).sum(axis=1), 0)
        if not count.any():
            raise UserError(f"{samples.source} holds no readable ECG: give records that open.")
        mean = sums / np.maximum(count, 1)
        deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
        shortest = min(samples.points(index) for index in range(len(samples)))
        asked = samples.reading.get("seconds")
        points = min(shortest, round(asked * samples.rate)) if asked else shortest
        multiple = int(samples.reading.get("patch_size", 1))
        return {
            "leads": list(samples.leads),
            "rate": samples.rate,
            "points": points // multiple * multiple,
            "mean": mean.tolist(),
            "std": deviation.tolist(),
        }

    def likeness(self, samples: Samples) -> float:
        """Records for sure, beats of the UCR archive nearly; arrays by their number of leads and length.

        EDF files without a single lead of the standard ones may hold another voltage, such as an EEG.
        """
        assert isinstance(samples, EcgSamples)
        if isinstance(samples.records, FileRecords):
            edf = all(PurePosixPath(name).suffix.lower() in EDF for name in samples.records.names)
            return 0.6 if edf and not set(samples.leads) & set(STANDARD) else 1.0
        if "UCR" in samples.description:
            return 0.9
        return 0.8 if len(samples.leads) in LEADS and samples.points(0) >= 200 else 0.05

    def in_words(self, facts: dict) -> dict[str, str]:
        """Leads by name, rate in hertz, length of a crop, deviation of each lead in millivolts."""
        leads = [str(name) for name in facts["leads"]]
        return {
            "leads": f"{len(leads)}: {', '.join(leads)}",
            "rate": f"{facts['rate']:g} Hz, as it is read",
            "crop": f"{facts['points'] / facts['rate']:.4g} s, {facts['points']:,} samples a lead",
            "deviation": ", ".join(f"{value:.2g}" for value in facts["std"]) + " mV",
        }

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """Leads that are flat."""
        flat = [str(lead) for lead, value in zip(facts["leads"], facts["std"], strict=True) if value == 0]
        return [f"flat in every record: lead {', '.join(flat)}."] if flat else []

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """What the signals say without learning: waveform, spectrum and rhythm, for the length of a crop.

        Each lead averaged down to at most 256 points; the logarithm of each lead's power in bands of 1 Hz up
        to 40 Hz; and the autocorrelation, at lags up to two seconds, of how steeply all leads move, which
        peaks at the interval of the beats and is flat where they are irregular. Features that a classical
        programme would begin with, each standardised by the probe.
        """
        ecg = batch["ecg"][..., : facts["points"]].float() * batch["recorded"].unsqueeze(-1)
        ecg = functional.pad(ecg, (0, facts["points"] - ecg.shape[-1]))
        points = min(RAW_POINTS, ecg.shape[-1])
        waveform = functional.adaptive_avg_pool1d(ecg, points).flatten(1)
        return torch.cat(
            [waveform, _bands(ecg, facts["rate"]).flatten(1), _rhythm(ecg, facts["rate"])], dim=1
        )

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """ECGs (leads, time) float32 of independent normal samples."""
        random = np.random.default_rng(0)
        mean, std = (np.array(facts[key])[:, None] for key in ("mean", "std"))
        shape = (len(facts["leads"]), facts["points"])
        return [(mean + std * random.standard_normal(shape)).astype(np.float32) for _ in range(count)]

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """(h, w, 3) uint8: up to three leads (II, V1, V5 first) on pink paper, few seconds of them."""
        return painted(*_one(batch, index, facts), _plain(colours))

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """The ECG on paper at 25 mm/s and 10 mm/mV; colours (tokens, 3) shade stretches of time."""
        return drawn(*_one(batch, index, facts), _plain(colours))


def _one(
    batch: dict[str, Tensor], index: int, facts: dict
) -> tuple[np.ndarray, np.ndarray, list[str], float]:
    """Signals (leads, time) for the length of a crop, what was recorded, the leads' names and the rate."""
    points = min(facts["points"], int(batch["length"][index])) if "length" in batch else facts["points"]
    signals = batch["ecg"][index, :, :points].detach().float().cpu().numpy()
    return signals, batch["recorded"][index].cpu().numpy(), facts["leads"], facts["rate"]


def _plain(colours: Tensor | None) -> np.ndarray | None:
    return None if colours is None else colours.detach().float().cpu().numpy()


def _bands(ecg: Float[Tensor, "n leads time"], rate: float) -> Float[Tensor, "n leads bands"]:
    """log(1 + power) in bands of 1 Hz up to 40 Hz or half the rate, power in (10 microvolts)^2 / Hz."""
    points = ecg.shape[-1]
    tapered = (ecg - ecg.mean(-1, keepdim=True)) * torch.hann_window(points, device=ecg.device)
    power = torch.fft.rfft(tapered).abs() ** 2 / (points * rate)
    bands = max(1, int(min(HIGHEST, rate / 2) / BAND))
    spectrum = power[..., : max(bands, round(bands * BAND * points / rate))]
    return functional.adaptive_avg_pool1d(spectrum, bands).mul(1e4).log1p()


def _rhythm(ecg: Float[Tensor, "n leads time"], rate: float) -> Float[Tensor, "n lags"]:
    """Autocorrelation of the steepness of all leads, from a lag of a quarter of a second to two seconds."""
    steep = ecg.diff(dim=-1).abs().mean(1, keepdim=True)
    points = max(2, int(steep.shape[-1] * ENVELOPE_RATE / rate)) if rate > ENVELOPE_RATE else steep.shape[-1]
    envelope = functional.adaptive_avg_pool1d(steep, points)[:, 0]
    step = min(rate, ENVELOPE_RATE)
    envelope = envelope - envelope.mean(-1, keepdim=True)
    spectrum = torch.fft.rfft(envelope, n=2 * points).abs() ** 2
    correlation = torch.fft.irfft(spectrum, n=2 * points)[:, :points]
    correlation = correlation / correlation[:, :1].clamp(min=1e-12)
    first, last = int(0.25 * step), int(LONGEST_LAG * step)
    return correlation[:, min(first, points - 1) : min(last, points)]
