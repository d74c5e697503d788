"""Sound: read from files of any rate, channels and length, measured as log-mel, drawn as spectrograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Domain, Samples
from anyjepa.domains.audio_drawing import painted_spectrogram, spectrogram_figure
from anyjepa.domains.audio_files import SOUNDS
from anyjepa.domains.audio_mel import LogMel
from anyjepa.domains.audio_patches import cut_windows
from anyjepa.domains.audio_samples import AudioSamples
from anyjepa.domains.audio_sources import open_audio
from anyjepa.domains.audio_stores import ArraySounds
from anyjepa.domains.sources import choose

__all__ = ["Audio"]

MEASURED = 500
LEAST_SPREAD = 0.1  # deviation of log-mel, below which nothing changes
RAW_BANDS, RAW_WINDOW, RAW_HOP = 64, 0.025, 0.01
FRONT_END = {  # what a recipe may leave unsaid
    "window": 0.025, "hop": 0.01, "mels": 128, "low": 20.0, "high": 0.0, "fft": 0, "frames": 1024,
    "patch": [16, 16], "fill": "repeat",
}  # fmt: skip


class Audio(Domain):
    """Sound of one channel. A batch is {"audio": (n, time) float32 in -1 to 1, "length": (n,) int64}."""

    name = "audio"
    reads_shards = True
    endings = SOUNDS  # arrays are read too, but do not say that they are sound

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source of sounds; see :func:`anyjepa.domains.audio_sources.open_audio`."""
        return open_audio(source, labels, split, reading)

    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Rate, mean and standard deviation of the log-mel, the median length, and the front end.

        Over at most 500 sounds drawn with ``seed``. Damaged ones are passed over. Raises UserError if all
        are.
        """
        assert isinstance(samples, AudioSamples)
        front = {**FRONT_END, **{name: value for name, value in samples.asked.items() if name in FRONT_END}}
        rate = samples.rate
        log_mel = _front_end(rate, front)
        chosen = choose(len(samples), MEASURED, seed)
        count, total, square, seconds, level = 0, 0.0, 0.0, [], []
        for index in chosen:
            try:
                sound = samples.read(int(index))
            except BadSample:
                continue
            whole = torch.from_numpy(np.pad(sound, (0, max(0, log_mel.window - len(sound)))))
            mel = log_mel(whole[None]).double()
            count, total, square = (
                count + mel.numel(),
                total + float(mel.sum()),
                square + float((mel**2).sum()),
            )
            seconds.append(len(sound) / rate)
            level.append(float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))))
        if not count:
            raise UserError(f"{samples.source} holds no readable sound: give sounds that open.")
        mean = total / count
        return {
            **front, "rate": rate, "mean": mean, "std": float(np.sqrt(max(square / count - mean**2, 0.0))),
            "seconds": float(np.median(seconds)), "shortest_clip": min(seconds), "longest_clip": max(seconds),
            "level": float(np.median(level)), "crop": log_mel.samples(front["frames"]) / rate,
        }  # fmt: skip

    def likeness(self, samples: Samples) -> float:
        """Files of sound for sure; an array is rather something else, unless it says its rate."""
        assert isinstance(samples, AudioSamples)
        return 0.1 if isinstance(samples.store, ArraySounds) else 1.0

    def in_words(self, facts: dict) -> dict[str, str]:
        """Rate, lengths, loudness, and the front end."""
        high = facts["high"] or facts["rate"] / 2
        return {
            "rate": f"{facts['rate']:g} Hz, as it is read, one channel",
            "length": f"{facts['seconds']:.3g} s (median), {facts['shortest_clip']:.3g} to "
            f"{facts['longest_clip']:.3g} s",
            "level": f"{20 * np.log10(max(facts['level'], 1e-9)):.0f} dB of full scale (median)",
            "log-mel": f"{facts['mels']} bands from {facts['low']:g} to {high:g} Hz every "
            f"{1000 * facts['hop']:g} ms, mean {facts['mean']:.3g}, deviation {facts['std']:.3g}",
            "crop": f"{facts['crop']:.3g} s, {facts['frames']} frames",
        }

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """Sound in which nothing changes."""
        if facts["std"] < LEAST_SPREAD:
            return [
                f"the log-mel hardly changes (deviation {facts['std']:.2g}): there is nothing to predict."
            ]
        return []

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """Mean and standard deviation over time of the log-mel, 64 bands: what a classical programme takes.

        Over the frames that lie within each clip.
        """
        log_mel = LogMel(facts["rate"], RAW_WINDOW, RAW_HOP, RAW_BANDS).to(batch["audio"].device)
        sound = batch["audio"].float()
        sound = torch.nn.functional.pad(sound, (0, max(0, log_mel.window - sound.shape[1])))
        mel = log_mel(sound)
        length = batch.get("length", torch.full((len(sound),), sound.shape[1], device=sound.device))
        frames = (1 + (length - log_mel.window) // log_mel.hop).clamp(min=1)
        there = (torch.arange(mel.shape[1], device=mel.device) < frames[:, None]).unsqueeze(-1).to(mel.dtype)
        mean = (mel * there).sum(1) / there.sum(1)
        variance = ((mel - mean.unsqueeze(1)).square() * there).sum(1) / there.sum(1)
        return torch.cat([mean, variance.sqrt()], dim=1)

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Sounds (time,) float32 of independent normal samples, as long as a crop."""
        shape = (count, round(facts["crop"] * facts["rate"]))
        return list((facts["level"] * np.random.default_rng(0).standard_normal(shape)).astype(np.float32))

    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """(h, w, 3) uint8: the spectrogram of the first window; ``colours`` paint its patches."""
        mel, _ = _drawn(batch, index, facts)
        return painted_spectrogram(mel, _plain(colours), tuple(facts["patch"]))

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """The same with seconds and hertz; whole, without ``colours``, it can also be heard."""
        mel, sound = _drawn(batch, index, facts)
        edges = facts["low"], facts["high"] or facts["rate"] / 2
        return spectrogram_figure(
            mel, sound if colours is None else None, facts["rate"], facts["hop"], edges, _plain(colours),
            tuple(facts["patch"]),
        )  # fmt: skip


def _front_end(rate: float, front: Mapping[str, Any]) -> LogMel:
    return LogMel(
        rate, front["window"], front["hop"], front["mels"], front["low"], front["high"], front["fft"]
    )


def _drawn(batch: dict[str, Tensor], index: int, facts: dict) -> tuple[np.ndarray, np.ndarray]:
    """Log-mel (frames, bands) of the first window of a clip, as the method cuts it, and the window."""
    log_mel = _front_end(facts["rate"], facts)
    sound = batch["audio"][index : index + 1].detach().float().cpu()
    length = batch["length"][index : index + 1].cpu() if "length" in batch else torch.tensor([sound.shape[1]])
    zero = torch.zeros_like(length)
    window, own = cut_windows(sound, length, zero, log_mel.samples(facts["frames"]), facts["fill"])
    heard = window[0, : int(own[0])].numpy()
    return log_mel(window)[0].numpy(), heard


def _plain(colours: Tensor | None) -> np.ndarray | None:
    return None if colours is None else colours.detach().float().cpu().numpy()
