"""EEG: read in volts with each electrode's place on the head, measured, described and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Domain, Samples
from anyjepa.domains.eeg_baselines import band_power, classical, on_electrodes
from anyjepa.domains.eeg_batches import PLACE
from anyjepa.domains.eeg_frames import Film, FrameTubelets, rows_of
from anyjepa.domains.eeg_recordings import ENDINGS, FileRecordings
from anyjepa.domains.eeg_samples import EegSamples
from anyjepa.domains.eeg_scalp import Cells, Shading, drawn, film_strip, painted
from anyjepa.domains.eeg_sources import open_eeg
from anyjepa.domains.packs import PackedSamples
from anyjepa.domains.sources import choose

__all__ = ["Eeg"]

MEASURED = 400
MONTAGES = 16  # different ones that are remembered
PLAUSIBLE = (2e-7, 1e-3)  # volts: deviations that an EEG can have at the scalp


class Eeg(Domain):
    """EEG of any electrodes. A batch is {"eeg": (n, channels, time) volts, "positions": (n, channels, 3)
    metres, "present": (n, channels)}.
    """

    name = "eeg"
    endings = frozenset({*ENDINGS, ".eeg", ".vmrk", ".fdt", ".npy", ".npz"})

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source of EEG; see :func:`anyjepa.domains.eeg_sources.open_eeg`."""
        return open_eeg(source, labels, split, reading)

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Electrodes with their places, montages, rate, length of a window and deviation in volts.

        Over at most 400 windows drawn with ``seed``; damaged ones are passed over. Raises UserError if all
        are.
        """
        chosen = choose(len(samples), MEASURED, seed)
        deviations, counts, montages = [], [], {}
        for index in chosen:
            try:
                window = samples.read(int(index))
            except BadSample:
                continue
            deviations.append(float(np.median(window[:, PLACE:].astype(np.float64).std(axis=1))))
            counts.append(len(window))
            places = np.round(window[:, :PLACE].astype(np.float64), 5)
            if len(montages) < MONTAGES:
                montages.setdefault(places.tobytes(), places.tolist())
        if not counts:
            raise UserError(f"{samples.source} holds no readable EEG: give recordings that open.")
        assert isinstance(samples, EegSamples | PackedSamples)
        stated = samples.stated if isinstance(samples, EegSamples) else samples.pack.manifest["facts"]
        return {
            "electrodes": list(stated["names"]),
            "places": np.round(np.array(stated["places"], np.float64), 5).tolist(),
            "montages": list(montages.values()),
            "rate": float(stated["rate"]),
            "seconds": float(stated["seconds"]),
            "patch": int(stated["patch"]),
            "step": int(stated["step"]),
            "film": stated.get("film"),
            "fewest": int(min(counts)),
            "most": int(max(counts)),
            "deviation": float(np.median(deviations)),
        }

    def likeness(self, samples: Samples) -> float:
        """Recordings for sure; arrays only where they name electrodes."""
        assert isinstance(samples, EegSamples)
        if isinstance(samples.recordings, FileRecordings):
            return 1.0
        return 0.7 if len(samples.names) > 1 else 0.1

    def in_words(self, facts: dict) -> dict[str, str]:
        """Electrodes by name, rate in hertz, length of a window, deviation in microvolts."""
        names = [str(name) for name in facts["electrodes"]]
        shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
        few, many = facts["fewest"], facts["most"]
        return {
            "electrodes": f"{len(names)}: {shown}",
            "channels of a window": f"{many}" if few == many else f"{few} to {many}",
            "rate": f"{facts['rate']:g} Hz, as it is read",
            "window": f"{facts['seconds']:.4g} s, {round(facts['seconds'] * facts['rate']):,} samples",
            "deviation": f"{facts['deviation'] * 1e6:.3g} µV",
        }

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """Amplitudes that no scalp gives, channels without a place, and montages of a single electrode."""
        found = []
        deviation = facts["deviation"]
        if not PLAUSIBLE[0] <= deviation <= PLAUSIBLE[1]:
            found.append(
                f"its deviation of {deviation * 1e6:.3g} µV is not that of an EEG: the file's unit is wrong, "
                "which --unit corrects; where windows are scaled by their own deviation it does no harm."
            )
        left_out = getattr(samples, "left_out", [])
        if left_out:
            found.append(
                f"{len(left_out)} channels have no known place and are left out: {', '.join(left_out[:5])}."
            )
        if facts["most"] < 3:
            found.append(f"{facts['most']} electrodes leave little to predict one from another.")
        return found

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """Log power in delta, theta, alpha, beta and gamma of each electrode of the training data.

        An electrode that a window lacks is stood in for by the nearest one.
        """
        places = torch.tensor(facts["places"], dtype=torch.float32, device=batch["eeg"].device)
        return band_power(on_electrodes(batch, places).float(), facts["rate"]).flatten(1)

    def baselines(
        self, train: dict[str, Tensor], labels: Int[Tensor, " train"], test: dict[str, Tensor], facts: dict
    ) -> dict[str, np.ndarray]:
        """Labels predicted by CSP with linear discriminants, and in the tangent space of covariances."""
        places = torch.tensor(facts["places"], dtype=torch.float32, device=train["eeg"].device)
        sides = (on_electrodes(side, places) for side in (train, test))
        return classical(next(sides), labels, next(sides), facts["rate"])

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Windows (electrodes, 3 + time) float32 of independent normal samples."""
        random = np.random.default_rng(0)
        places = np.array(facts["places"], np.float32)
        shape = (len(places), round(facts["seconds"] * facts["rate"]))
        return [
            np.concatenate(
                [places, (facts["deviation"] * random.standard_normal(shape)).astype(np.float32)], axis=1
            )
            for _ in range(count)
        ]

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """(h, w, 3) uint8: up to eight traces; ``colours`` (tokens, 3) paint stretches of them."""
        if facts.get("film"):
            _, video, cells = _film(batch, index, facts, colours)
            shading = [(row, start, stop, colour) for frame, row, start, stop, colour in cells if frame == 0]
            return painted(video[0], facts["rate"], shading)
        signals, _, _ = _one(batch, index, facts)
        return painted(signals, facts["rate"], _shading(batch, index, facts, colours))

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """The head from above and the traces; ``colours`` (tokens, 3) shade electrodes and stretches.

        For recipes that cut windows into frames, a strip of four frames with its tubelets.
        """
        if facts.get("film"):
            rows, video, cells = _film(batch, index, facts, colours)
            return film_strip(video, rows, facts["rate"], facts["film"]["hop"], cells)
        return drawn(*_one(batch, index, facts), facts["rate"], _shading(batch, index, facts, colours))


def _one(batch: dict[str, Tensor], index: int, facts: dict) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """Signals and places of the channels that are there, and their names."""
    there = batch["present"][index].cpu().numpy()
    signals = batch["eeg"][index].detach().float().cpu().numpy()[there]
    places = batch["positions"][index].detach().float().cpu().numpy()[there]
    known = np.array(facts["places"], np.float64).reshape(-1, 3)
    far = np.linalg.norm(places[:, None] - known[None], axis=2)
    names = [
        str(facts["electrodes"][near]) if gap < 1e-3 else ""
        for near, gap in zip(far.argmin(1), far.min(1), strict=True)
    ]
    return signals, places, names


def _film(
    batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None
) -> tuple[list[str], np.ndarray, Cells]:
    """Names of the rows, the frames (frames, rows, samples), and what of them tubelets paint."""
    said = facts["film"]
    rows, _ = rows_of(facts, said["names"])
    film = Film.of(said, len(rows))
    tubelets = FrameTubelets(film, 1, [place for _, place in rows])
    one = {name: value[index : index + 1].detach().cpu() for name, value in batch.items()}
    signals, _ = tubelets.rows(one)
    video = film.video(signals)[0].float().numpy()
    cells: Cells = []
    if colours is not None:
        paint = colours.detach().float().cpu().numpy().reshape(*film.grid, 3)
        part, high, wide = film.token
        for depth, line, column in np.argwhere(~np.isnan(paint).any(axis=3)).tolist():
            span = column * wide / facts["rate"], min(film.size, (column + 1) * wide) / facts["rate"]
            cells += [
                (frame, row, *span, paint[depth, line, column])
                for frame in range(depth * part, (depth + 1) * part)
                for row in range(line * high, min(film.rows, (line + 1) * high))
            ]
    return [name for name, _ in rows], video, cells


def _shading(batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None) -> Shading | None:
    """What a token covers, for tokens channel by channel, each channel's in order of time."""
    if colours is None or not facts.get("step"):
        return None
    channels = batch["eeg"].shape[1]
    there = batch["present"][index].cpu().numpy()
    paint = colours.detach().float().cpu().numpy().reshape(channels, -1, 3)[there]
    step, rate = facts["step"], facts["rate"]
    # stretches may overlap; each is drawn up to the next
    return [
        (channel, moment * step / rate, (moment + 1) * step / rate, colour)
        for channel, row in enumerate(paint)
        for moment, colour in enumerate(row)
        if not np.isnan(colour).any()
    ]
