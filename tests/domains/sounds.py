"""Sounds for tests, and files of them."""

import numpy as np
import soundfile


def tone(hertz, rate, seconds=1.0, level=0.5):
    """A sine, (time,) float32."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(seconds=1.0, rate=8000, seed=0, level=0.1):
    """White noise, (time,) float32."""
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def write(path, sound, rate=8000, **options):
    """A sound file of the ending's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), sound, rate, **options)
    return path


def frequencies(sound, rate):
    """Amplitude spectrum of a sound under a Hann window, and its frequencies."""
    window = np.hanning(len(sound))
    spectrum = np.abs(np.fft.rfft(sound * window)) / (window.sum() / 2)
    return np.fft.rfftfreq(len(sound), 1 / rate), spectrum
