"""Stretches of sound files through soundfile: only what is asked for is decoded, channels become one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, require

__all__ = ["SOUNDS", "Header", "as_sound", "read_header", "read_stretch", "resampled"]

SOUNDS = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64"}
    | {".rf64"}
)
RATES = (100.0, 1_000_000.0)  # samples a second that a file may state
CHANNELS = 256
DENSEST = 4096  # samples that a byte of a file can stand for: a frame of silence in FLAC
AT_ONCE = 2**16  # samples of each channel that are decoded together
BORROWED = 16 * 1152  # samples of MP3 that are decoded ahead
BROKEN_OFF = 0.1  # share of a stretch that may be missing at its end: MP3 only estimates its length
HALF_WIDTH = 32  # of the filter, in samples of the lower rate
CUT_OFF, SIDE_LOBES = 0.91, 9.0  # with this width nothing above half of the lower rate is left by 90 dB
RATIO = 1000  # largest number in the ratio of two rates


@dataclass(frozen=True)
class Header:
    """What a sound file says of itself: samples a second, samples of each channel, channels."""

    rate: float
    samples: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length."""
        return self.samples / self.rate


DAMAGE = (OSError, ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError)


@contextmanager
def _opened(content: str | bytes, identity: str) -> Iterator[Any]:
    soundfile = require("soundfile", "audio")
    try:
        file = soundfile.SoundFile(io.BytesIO(content) if isinstance(content, bytes) else content)
    except DAMAGE as problem:
        raise BadSample(identity, f"is no sound that opens ({_words(problem)})") from None
    with file:
        yield file


def _words(problem: Exception) -> str:
    said = getattr(problem, "error_string", None) or getattr(problem, "strerror", None) or str(problem)
    return (str(said).splitlines() or [type(problem).__name__])[0].rstrip(".")


def read_header(content: str | bytes, identity: str) -> Header:
    """Rate, length and channels of a sound file (path or bytes).

    Raises BadSample where it does not open, is empty, or claims what it cannot hold.
    """
    with _opened(content, identity) as file:
        header = Header(float(file.samplerate), int(file.frames), int(file.channels))
    size = len(content) if isinstance(content, bytes) else os.path.getsize(content)
    if not RATES[0] <= header.rate <= RATES[1]:
        raise BadSample(identity, f"says it has {header.rate:g} samples a second")
    if not 1 <= header.channels <= CHANNELS:
        raise BadSample(identity, f"says it has {header.channels} channels")
    if header.samples <= 0:
        raise BadSample(identity, "holds no sound")
    if header.samples > DENSEST * size:
        raise BadSample(identity, f"claims {header.samples:,} samples, more than {size:,} bytes can hold")
    return header


def read_stretch(content: str | bytes, identity: str, start: int, stop: int) -> np.ndarray:
    """Samples from `start` to before `stop` as float32 in -1 to 1, the mean of all channels.

    content: path of a sound file, or its bytes. Files of whole numbers are divided by their range.
    Raises BadSample where nothing decodes, a tenth of the stretch is missing, or a value is not finite.
    """
    parts, reason = [], ""
    with _opened(content, identity) as file:
        # a frame of MP3 borrows bits from those before it, and is silent without them
        ahead = min(start, BORROWED) if file.format in ("MP3", "MPEG") else 0
        wanted = stop - start + ahead
        try:
            if start > ahead:
                file.seek(start - ahead)
            while wanted > 0:
                part = file.read(min(wanted, AT_ONCE), dtype="float32", always_2d=True)
                if not len(part):
                    break
                parts.append(part.mean(axis=1))
                wanted -= len(part)
        except DAMAGE as problem:
            reason = f" ({_words(problem)})"
    found = np.concatenate(parts)[ahead:] if parts else np.zeros(0, np.float32)
    if len(found) < (1 - BROKEN_OFF) * (stop - start):
        raise BadSample(identity, f"breaks off after {len(found):,} of {stop - start:,} samples{reason}")
    return _finite(found, identity)


def _finite(sound: np.ndarray, identity: str) -> np.ndarray:
    if not np.isfinite(sound).all():
        raise BadSample(identity, "holds NaN or infinite values")
    return sound


def as_sound(values: np.ndarray, identity: str) -> np.ndarray:
    """A row of an array, (time,) or (channels, time), as float32 (time,); whole numbers by their range.

    Raises BadSample for NaN and infinity.
    """
    kind = values.dtype
    sound = values.astype(np.float32)
    if kind.kind in "iu":
        half = 2.0 ** (8 * kind.itemsize - 1)
        sound = (sound - half) / half if kind.kind == "u" else sound / half
    return _finite(sound.mean(axis=0) if sound.ndim == 2 else sound, identity)


def resampled(sound: np.ndarray, stored: float, wanted: float) -> np.ndarray:
    """Sound (time,) float32 at `wanted` samples a second, by a polyphase filter.

    What lies above half of the lower rate is gone by 90 dB, so that nothing aliases; what lies below 0.82 of
    that passes as it is.
    """
    ratio = Fraction(wanted / stored).limit_denominator(RATIO)
    if ratio == 1 or not ratio:
        return sound
    signal = require("scipy.signal", "audio")
    up, down = ratio.numerator, ratio.denominator
    larger = max(up, down)
    taps = signal.firwin(2 * HALF_WIDTH * larger + 1, CUT_OFF / larger, window=("kaiser", SIDE_LOBES))
    return signal.resample_poly(sound, up, down, window=taps.astype(np.float32)).astype(np.float32)
