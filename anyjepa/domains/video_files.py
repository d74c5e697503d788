"""Frames of video files at given times, decoded from the key frame before: nothing else is read."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, require
from anyjepa.domains.image_files import decode

__all__ = ["IMAGES", "VIDEOS", "Header", "read_frames", "read_header", "read_sequence"]

VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ogv"}
    | {".ts", ".mts", ".wmv", ".flv", ".3gp", ".y4m"}
)
IMAGES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"])
DAMAGE = (OSError, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, MemoryError)
EPSILON = 1e-4  # seconds: times are stored in ticks


@dataclass(frozen=True)
class Header:
    """What a video says of itself: length in seconds and frames a second, as far as it does (else 0)."""

    seconds: float
    rate: float


def _opened(content: str | bytes, identity: str) -> Any:
    av = require("av", "video")
    try:
        container = av.open(io.BytesIO(content) if isinstance(content, bytes) else content)
    except (av.error.FFmpegError, *DAMAGE) as problem:
        raise BadSample(identity, f"is no video that opens ({_words(problem)})") from None
    if not container.streams.video:
        container.close()
        raise BadSample(identity, "has no pictures")
    return container


def _words(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or (str(problem).splitlines() or [type(problem).__name__])[0]


def read_header(content: str | bytes, identity: str) -> Header:
    """Length and rate of a video file (path or bytes). Raises BadSample where it does not open.

    A file that does not say how long it is (a stream that was cut off, some GIF) is read through.
    """
    av = require("av", "video")
    with _opened(content, identity) as container:
        stream = container.streams.video[0]
        try:
            rate = float(stream.average_rate or stream.base_rate or 0)
            seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        except DAMAGE as problem:
            raise BadSample(identity, f"has no clock ({_words(problem)})") from None
        if not seconds and container.duration:
            seconds = container.duration / av.time_base
        if seconds <= 0:
            try:
                ends = [
                    float((p.pts + (p.duration or 0)) * p.time_base)
                    for p in container.demux(stream)
                    if p.pts is not None
                ]
            except (av.error.FFmpegError, *DAMAGE) as problem:
                raise BadSample(identity, f"cannot be read ({_words(problem)})") from None
            start = float((stream.start_time or 0) * stream.time_base)
            seconds = max(ends, default=0.0) - start
    if seconds <= 0:
        raise BadSample(identity, "holds no frames")
    return Header(seconds, rate)


def read_frames(content: str | bytes, identity: str, times: np.ndarray, side: int = 0) -> np.ndarray:
    """The frames that are shown at some times: (times, height, width, 3) uint8, RGB.

    content: path of a video file, or its bytes. times: (n,) seconds from its start, in order; past its end
    the last frame stays. side: shorter side in pixels that frames are scaled down to; 0 leaves them.
    Pictures are turned upright where the file says that the camera was held sideways.
    Raises BadSample where nothing decodes, or decoding fails before the last time by more than half a second
    and a tenth of the stretch.
    """
    av = require("av", "video")
    found: list[np.ndarray] = []
    with _opened(content, identity) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        start = float((stream.start_time or 0) * stream.time_base)
        last, shown = None, -np.inf
        try:
            if times[0] > 0:
                container.seek(int((start + times[0]) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                now = shown if frame.time is None else frame.time - start
                while last is not None and len(found) < len(times) and times[len(found)] < now - EPSILON:
                    found.append(_picture(last, side))
                last, shown = frame, now
                if len(found) == len(times):
                    break
        except (av.error.FFmpegError, *DAMAGE) as problem:
            if last is None:
                raise BadSample(identity, f"cannot be decoded ({_words(problem)})") from None
        if last is None:
            raise BadSample(identity, f"has no frame at {times[0]:.2f} s: it is cut off")
        if times[-1] - shown > 0.5 + 0.1 * float(times[-1] - times[0]):
            raise BadSample(identity, f"breaks off at {max(shown, 0):.2f} s, though it says it lasts longer")
        if len(found) < len(times):
            found += [_picture(last, side)] * (len(times) - len(found))
    return np.stack(found)


def _picture(frame: Any, side: int) -> np.ndarray:
    """(height, width, 3) uint8 of a decoded frame, upright, its shorter side at most ``side``."""
    scale = side / min(frame.width, frame.height) if side else 1.0
    if scale < 1:
        size = {"width": max(1, round(frame.width * scale)), "height": max(1, round(frame.height * scale))}
        pixels = frame.to_ndarray(format="rgb24", interpolation="AREA", **size)
    else:
        pixels = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.rot90(pixels, turns) if turns else pixels


def read_sequence(folder: str, names: list[str], identity: str, times: np.ndarray) -> np.ndarray:
    """Images of a folder as the frames (n, height, width, channels) of a video.

    times: (n,) numbers of the images, the first is 0. Raises BadSample where one does not open or is of
    another size.
    """
    found: dict[int, np.ndarray] = {}
    for number in np.clip(np.rint(times).astype(int), 0, len(names) - 1):
        if number not in found:
            path = os.path.join(folder, names[number])
            try:
                with open(path, "rb") as file:
                    found[number] = decode(file.read(), identity)
            except OSError as problem:
                raise BadSample(identity, problem.strerror or str(problem)) from None
    if len({image.shape for image in found.values()}) > 1:
        raise BadSample(identity, "its frames are not all of one size")
    return np.stack([found[n] for n in np.clip(np.rint(times).astype(int), 0, len(names) - 1)])
