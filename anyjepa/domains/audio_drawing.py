"""Spectrograms as pictures: time to the right, low sounds below, with a player of the sound itself."""

from __future__ import annotations

import base64
import io
import wave

import numpy as np

from anyjepa.core.errors import require

__all__ = ["data_uri_of_sound", "painted_spectrogram", "spectrogram_figure"]

# points of a perceptually even scale from near black through violet and orange to near white
SCALE = np.array(
    [(4, 4, 20), (45, 17, 89), (114, 31, 129), (181, 54, 122), (229, 89, 100), (251, 135, 97),
     (254, 194, 135), (252, 253, 191)], np.float64,
)  # fmt: skip
DARKEST, BRIGHTEST = 5.0, 99.7  # percentiles of what is drawn
SHADE = 0.62  # of the paint over a patch
ACROSS, DOWN = 720, 250  # pixels of a figure
LONGEST = 30.0  # seconds that a player holds
LOUD = 0.7  # of full scale, that the loudest sample is brought to


def painted_spectrogram(
    mel: np.ndarray, colours: np.ndarray | None, patch: tuple[int, int], strength: float = 1.0
) -> np.ndarray:
    """Log-mel (frames, bands) as a picture (bands, frames, 3) uint8, high sounds above.

    colours: (tokens, 3) in 0..1 of patches, time-major, NaN where the sound is to show. patch: its frames and
    bands. strength: share of the paint.
    """
    low, high = np.percentile(mel, [DARKEST, BRIGHTEST])
    level = np.clip((mel - low) / max(high - low, 1e-6), 0, 1) * (len(SCALE) - 1)
    below = np.minimum(level.astype(int), len(SCALE) - 2)
    part = (level - below)[..., None]
    picture = SCALE[below] * (1 - part) + SCALE[below + 1] * part
    if colours is not None:
        rows = mel.shape[1] // patch[1]
        columns = mel.shape[0] // patch[0]
        if len(colours) != rows * columns:
            raise ValueError(f"{len(colours)} colours are not those of {columns} x {rows} patches")
        paint = colours.reshape(columns, rows, 3).repeat(patch[0], axis=0).repeat(patch[1], axis=1)
        covered = ~np.isnan(paint).any(axis=2, keepdims=True)
        mixed = picture[: len(paint)] * (1 - strength) + np.nan_to_num(np.clip(paint, 0, 1)) * 255 * strength
        picture[: len(paint)] = np.where(covered, mixed, picture[: len(paint)])
    return np.rint(picture).astype(np.uint8).transpose(1, 0, 2)[::-1]


def data_uri_of_sound(sound: np.ndarray, rate: float) -> str:
    """A WAV data URI of (time,) float32, 16 bits, as loud as is pleasant, 30 s at most."""
    sound = sound[: int(LONGEST * rate)]
    peak = float(np.abs(sound).max(initial=0.0))
    values = np.rint(sound * (LOUD / peak if peak > 0 else 0.0) * 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(round(rate))
        out.writeframes(values.tobytes())
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def spectrogram_figure(
    mel: np.ndarray,
    sound: np.ndarray | None,
    rate: float,
    hop: float,
    edges: tuple[float, float],
    colours: np.ndarray | None,
    patch: tuple[int, int],
) -> str:
    """SVG of a log-mel (frames, bands) with seconds and hertz on its axes, patches shaded; then a player.

    sound: (time,) float32 to be heard, or None for no player. hop: seconds of a frame. edges: where the bands
    begin and end, in Hz.
    """
    picture = painted_spectrogram(mel, colours, patch, SHADE)
    left, top, foot = 46, 6, 30
    marks = []
    seconds = len(mel) * hop
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 600) if seconds / s <= 10)
    text = 'style="fill:currentColor;font-size:13px"'
    for number in range(int(seconds / step + 1e-6) + 1):
        x = left + ACROSS * number * step / seconds
        marks.append(
            f'<text x="{x:.0f}" y="{top + DOWN + 18}" text-anchor="middle" {text}>{number * step:.3g}</text>'
        )
    low, high = (1127 * np.log1p(edge / 700) for edge in edges)
    for hertz in (100, 250, 500, 1000, 2000, 4000, 8000, 16000):
        if edges[0] <= hertz <= edges[1]:
            y = top + DOWN * (1 - (1127 * np.log1p(hertz / 700) - low) / (high - low))
            said = f"{hertz // 1000}k" if hertz >= 1000 else str(hertz)
            marks.append(
                f'<text x="{left - 5}" y="{y + 4:.0f}" text-anchor="end" {text}>{said}</text>'
                f'<line x1="{left - 3}" x2="{left}" y1="{y:.0f}" y2="{y:.0f}" stroke="currentColor"/>'
            )
    marks.append(f'<text x="{left + ACROSS}" y="{top + DOWN + foot}" text-anchor="end" {text}>seconds</text>')
    marks.append(f'<text x="2" y="{top + DOWN + foot}" {text}>Hz</text>')
    drawn = (
        f'<svg class="wide" viewBox="0 0 {left + ACROSS + 8} {top + DOWN + foot + 6}" role="img" '
        f'aria-label="spectrogram of {seconds:.2f} seconds, low sounds below">'
        f'<image x="{left}" y="{top}" width="{ACROSS}" height="{DOWN}" preserveAspectRatio="none" '
        f'href="{_data_uri(picture)}" style="image-rendering:pixelated"/>{"".join(marks)}</svg>'
    )
    if sound is None:
        return drawn
    player = data_uri_of_sound(sound, rate)
    style = "width:100%;height:2.2em"
    return f'{drawn}<audio controls preload="metadata" style="{style}" src="{player}"></audio>'


def _data_uri(pixels: np.ndarray) -> str:
    image = require("PIL.Image", "audio").fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    image.quantize(256, dither=0).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
