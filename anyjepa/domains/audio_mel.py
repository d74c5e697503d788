"""Log-mel spectrograms on the device, batched, as Kaldi computes them (and so AST and Audio-MAE).

Shapes: B samples, T frames, M mel bands.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.tracing import traced

__all__ = ["LogMel", "mel_filters"]

FLOOR = 1.1920928955078125e-07  # of the power: the distance from 1 to the next float32
PRE_EMPHASIS = 0.97


def hertz_to_mel(frequency: Tensor) -> Tensor:
    """1127 ln(1 + f / 700), of HTK and Kaldi."""
    return 1127.0 * (1.0 + frequency / 700.0).log()


def mel_filters(bands: int, points: int, rate: float, low: float, high: float) -> Float[Tensor, "bins bands"]:
    """Triangles over the bins of a Fourier transform of `points`, evenly spaced and straight in mel.

    Args:
        bands: number of them.
        points: of the transform; there are points // 2 + 1 bins.
        rate: samples a second.
        low, high: where the first begins and the last ends, in Hz.
    """
    ends = hertz_to_mel(torch.tensor([low, high], dtype=torch.float64))
    corners = torch.linspace(float(ends[0]), float(ends[1]), bands + 2, dtype=torch.float64)
    bins = hertz_to_mel(torch.arange(points // 2 + 1, dtype=torch.float64) * (rate / points))[:, None]
    rise = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return torch.minimum(rise, fall).clamp(min=0.0).float()


class LogMel(nn.Module):
    """Waveform to log-mel: power in mel bands, natural logarithm, silence at a finite floor.

    Each frame has its mean taken off, is pre-emphasised by 0.97 and windowed by Hann's window; there is no
    padding at either end, so that 16,000 samples with a window of 400 and a hop of 160 give 98 frames.

    Args:
        rate: samples a second.
        window, hop: of a frame, and from one to the next, in seconds.
        bands: of the mel scale.
        low, high: where the first band begins and the last ends, in Hz; 0 for half the rate.
        points: of the Fourier transform; 0 for the power of two that a window fills.
    """

    taper: Tensor
    filters: Tensor

    def __init__(
        self, rate: float, window: float = 0.025, hop: float = 0.01, bands: int = 128, low: float = 20.0,
        high: float = 0.0, points: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.window, self.hop = max(1, round(window * rate)), max(1, round(hop * rate))
        self.points = max(points, 1 << (self.window - 1).bit_length())
        self.bands = bands
        # what a graph and a checkpoint need not carry: it follows from the numbers above
        filters = mel_filters(bands, self.points, rate, low, high or rate / 2)
        self.register_buffer("filters", filters, persistent=False)
        taper = torch.hann_window(self.window, periodic=False)
        self.register_buffer("taper", taper, persistent=False)

    def frames(self, samples: int) -> int:
        """Whole frames in so many samples."""
        return max(0, 1 + (samples - self.window) // self.hop)

    def samples(self, frames: int) -> int:
        """Samples that so many frames need."""
        return (frames - 1) * self.hop + self.window

    def forward(self, sound: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames bands"]:
        """Log power in each band; of float64 sound in float64, else in float32."""
        if traced() or not torch.is_autocast_enabled(sound.device.type):
            return self._log_mel(sound)
        with torch.autocast(sound.device.type, enabled=False):
            return self._log_mel(sound)

    def _log_mel(self, sound: Tensor) -> Tensor:
        cut = sound.to(self.taper.dtype).unfold(-1, self.window, self.hop)
        cut = cut - cut.mean(-1, keepdim=True)
        before = torch.cat([cut[..., :1], cut[..., :-1]], dim=-1)
        cut = (cut - PRE_EMPHASIS * before) * self.taper
        power = self._power(cut)
        return (power @ self.filters).clamp(min=FLOOR).log()

    def _power(self, cut: Tensor) -> Tensor:
        if not traced():
            spectrum = torch.fft.rfft(cut, n=self.points)
            return spectrum.real.square() + spectrum.imag.square()
        # graphs for other programs know products, but not all of them Fourier transforms
        places = torch.arange(self.window, dtype=torch.float64)[:, None]
        turns = places * torch.arange(self.points // 2 + 1, dtype=torch.float64) * (2 * math.pi / self.points)
        waves = torch.cat([turns.cos(), turns.sin()], dim=1).to(cut)
        real, imaginary = functional.linear(cut, waves.T).chunk(2, dim=-1)
        return real.square() + imaginary.square()
