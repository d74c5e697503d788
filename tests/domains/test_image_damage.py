"""Damaged pictures, arrays, shards and tables of pictures: left out or refused in words, never worse."""

import gzip
import io
import zipfile
import zlib

import numpy as np
import pytest
import tifffile
from damaged import Part, withstands
from pictures import encoded, idx, noise, write_tar
from PIL import Image

DEEP = noise(12, 9, 3, dtype=np.uint16)


def sealed_png(content: bytes) -> bytes:
    """A PNG with the checksums of its chunks put right."""
    out, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        out += content[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return bytes(out)


def sealed_tar(content: bytes) -> bytes:
    """A tar with the checksum of its first member's header put right."""
    found = bytearray(content)
    if len(found) >= 512:
        found[148:156] = b" " * 8
        found[148:156] = f"{sum(found[:512]):06o}\0 ".encode()
    return bytes(found)


def npy(values, **options) -> bytes:
    target = io.BytesIO()
    np.save(target, values, **options)
    return target.getvalue()


def zipped(name="x.npy", **others):
    """What makes an .npz of a damaged member: its checksum is right."""

    def wrap(content: bytes) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
            for other, values in others.items():
                archive.writestr(f"{other}.npy", npy(values))
        return target.getvalue()

    return wrap


def tiff(values, **options) -> bytes:
    target = io.BytesIO()
    tifffile.imwrite(target, values, **options)
    return target.getvalue()


def deep_png() -> bytes:
    import imagecodecs

    return imagecodecs.png_encode(DEEP)


def palette() -> Image.Image:
    return Image.fromarray(noise(16, 16, 3)).convert("P")


def moving() -> bytes:
    target = io.BytesIO()
    palette().save(target, "GIF", save_all=True, append_images=[palette()])
    return target.getvalue()


FILES = {
    "a.png": lambda: Part(encoded(noise(16, 16, 3)), sealed_png),
    "deep.png": lambda: Part(deep_png(), sealed_png),
    "palette.png": lambda: Part(encoded(palette()), sealed_png),
    "a.jpg": lambda: encoded(noise(24, 24, 3), "JPEG"),
    "progressive.jpg": lambda: encoded(noise(24, 24, 3), "JPEG", progressive=True),
    "a.webp": lambda: encoded(noise(16, 16, 3), "WEBP"),
    "a.bmp": lambda: encoded(noise(16, 16, 3), "BMP"),
    "a.gif": moving,
    "a.tif": lambda: tiff(DEEP, photometric="rgb"),
    "tiles.tif": lambda: tiff(noise(32, 32, 3), tile=(16, 16), compression="zlib", photometric="rgb"),
    "lzw.tif": lambda: tiff(noise(32, 32), compression="lzw"),
    "pages.tif": lambda: tiff(noise(3, 16, 16)),
    "a.npy": lambda: npy(noise(16, 16, 3)),
}

SOURCES = {
    "array.npy": lambda: {"array.npy": npy(noise(5, 8, 8))},
    "set.npz": lambda: {"set.npz": Part(npy(noise(5, 8, 8)), zipped(y=np.arange(5)))},
    "labels.npz": lambda: {"labels.npz": Part(npy(np.arange(5)), zipped("y.npy", x=noise(5, 8, 8)))},
    "idx": lambda: {
        "train-images-idx3-ubyte": idx(noise(5, 8, 8)),
        "train-labels-idx1-ubyte": idx(np.arange(5, dtype=np.uint8)),
    },
    "idx.gz": lambda: {"train-images-idx3-ubyte.gz": Part(idx(noise(5, 8, 8)), gzip.compress)},
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("examples", [30, pytest.param(400, marks=pytest.mark.slow)])
def test_a_damaged_picture(tmp_path, name, examples):
    parts = {"whole.png": encoded(noise(16, 16, 3)), name: FILES[name]()}
    withstands("image", tmp_path, {name: parts[name]}, examples=examples, random=examples > 100)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("examples", [30, pytest.param(400, marks=pytest.mark.slow)])
def test_a_damaged_set_of_pictures(tmp_path, name, examples):
    withstands("image", tmp_path, SOURCES[name](), examples=examples, random=examples > 100)


def shard(tmp_path) -> bytes:
    members = {f"{n}.png": encoded(noise(8, 8, 3, seed=n)) for n in range(3)} | {
        "0.cls": b"1",
        "1.json": b'{"label": 2}',
    }
    return write_tar(tmp_path / "made.tar", members).read_bytes()


@pytest.mark.parametrize("examples", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_a_damaged_shard(tmp_path, examples):
    parts = {"a.tar": Part(shard(tmp_path), sealed_tar)}
    withstands("image", tmp_path, parts, "wds:{}/a.tar", examples=examples, random=examples > 100)
