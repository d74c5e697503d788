"""Damaged sounds: left out or refused in words, never worse."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
import soundfile
from damaged import Part, withstands
from sounds import noise

from anyjepa.recipes import recipe

FEW = pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.slow)])
FORMATS = ("wav", "flac", "ogg", "mp3", "aiff", "caf")
READING = recipe("a-jepa").preset("tiny").reading()


def sound(ending: str) -> bytes:
    """0.4 s of noise as a file."""
    target = io.BytesIO()
    soundfile.write(target, noise(0.4, 8000), 8000, format=ending.upper())
    return target.getvalue()


def zipped(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return target.getvalue()


def shard(content: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("a.wav")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def clips() -> bytes:
    target = io.BytesIO()
    np.save(target, np.stack([noise(0.2, seed=n) for n in range(3)]))
    return target.getvalue()


@FEW
@pytest.mark.parametrize("ending", FORMATS)
def test_a_damaged_sound(tmp_path, ending, examples):
    parts = {f"a.{ending}": sound(ending)}
    withstands("audio", tmp_path, parts, examples=examples, random=examples > 100, reading=READING)


@FEW
def test_a_damaged_array_or_shard_of_sounds(tmp_path, examples):
    withstands("audio", tmp_path / "a", {"a.npy": clips()}, examples=examples, reading=READING)
    withstands("audio", tmp_path / "b", {"a.npz": Part(clips(), zipped)}, examples=examples, reading=READING)
    withstands(
        "audio", tmp_path / "c", {"a.tar": Part(sound("wav"), shard)}, "wds:{}/a.tar", examples=examples,
        reading=READING,
    )  # fmt: skip
