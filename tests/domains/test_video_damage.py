"""Damaged videos: left out or refused in words, never worse."""

import io
import zipfile
from fractions import Fraction

import numpy as np
import pytest
from damaged import Part, withstands
from pictures import encoded, noise

from anyjepa.recipes import recipe

av = pytest.importorskip("av")
FEW = pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.slow)])
CODECS = {"mp4": "mpeg4", "avi": "mpeg4", "mkv": "mjpeg", "webm": "libvpx", "gif": "gif"}
FORMATS = {"mkv": "matroska"}
READING = recipe("v-jepa").preset("tiny").reading()


def video(ending: str) -> bytes:
    """24 frames of a square that moves, a second long."""
    target = io.BytesIO()
    with av.open(target, "w", format=FORMATS.get(ending, ending)) as container:
        stream = container.add_stream(CODECS[ending], rate=24)
        stream.width, stream.height = 32, 32
        stream.pix_fmt = {"gif": "rgb8", "mkv": "yuvj420p"}.get(ending, "yuv420p")
        stream.codec_context.time_base = Fraction(1, 24)
        for number in range(24):
            picture = np.zeros((32, 32, 3), np.uint8)
            picture[number : number + 8, 4:12] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return target.getvalue()


def zipped(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return target.getvalue()


def clips(shape=(3, 16, 16, 16, 3)) -> bytes:
    target = io.BytesIO()
    np.save(target, noise(*shape))
    return target.getvalue()


@FEW
@pytest.mark.parametrize("ending", CODECS)
def test_a_damaged_video(tmp_path, ending, examples):
    parts = {f"a.{ending}": video(ending)}
    withstands("video", tmp_path, parts, examples=examples, random=examples > 100, reading=READING)


@FEW
def test_a_damaged_array_of_videos(tmp_path, examples):
    withstands("video", tmp_path / "a", {"a.npy": clips()}, examples=examples, reading=READING)
    withstands("video", tmp_path / "b", {"a.npz": Part(clips(), zipped)}, examples=examples, reading=READING)


@FEW
def test_a_damaged_frame_of_a_folder(tmp_path, examples):
    parts = {f"clip/{n:03d}.png": encoded(noise(16, 16, 3, seed=n)) for n in range(16)}
    withstands("video", tmp_path, parts, "{}", examples=examples, random=examples > 100, reading=READING)
