"""Damaged EEG recordings: left out or refused in words, never worse."""

import io
import zipfile

import numpy as np
import pytest
from damaged import Part, withstands
from eegs import NAMES, waves, write_brainvision, write_edf, write_fif, write_set

from anyjepa.domains.eeg_sources import open_eeg
from anyjepa.recipes import recipe

mne = pytest.importorskip("mne")
VOLTS = waves(NAMES[:3], seconds=6.0)
READING = recipe("s-jepa").preset("tiny", seconds=2.0).reading()
FEW = pytest.mark.parametrize("examples", [12, pytest.param(400, marks=pytest.mark.slow)])
MARKS = [(1.0, 0.0, "a"), (3.0, 0.0, "b")]


def npy(values) -> bytes:
    target = io.BytesIO()
    np.save(target, values)
    return target.getvalue()


def zipped(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
        archive.writestr("channels.npy", npy(np.array(NAMES[:3])))
    return target.getvalue()


def of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def edf(folder):
    write_edf(folder / "r.edf", VOLTS, NAMES[:3])
    return of(folder)


def bdf(folder):
    write_edf(folder / "r.bdf", VOLTS, NAMES[:3], bits=24)
    return of(folder)


def fif(folder):
    write_fif(folder / "r_raw.fif", VOLTS, NAMES[:3], marks=MARKS)
    return of(folder)


def brainvision(folder):
    write_brainvision(folder / "r.vhdr", VOLTS, NAMES[:3], marks=MARKS)
    return dict(sorted(of(folder).items(), key=lambda part: not part[0].endswith(".vhdr")))


def eeglab(folder):
    write_set(folder / "r.set", VOLTS, NAMES[:3], marks=MARKS)
    return of(folder)


def arrays(folder):
    return {"r.npz": Part(npy(np.stack([VOLTS] * 3)), zipped)}


@FEW
@pytest.mark.parametrize("made", [edf, bdf, fif, brainvision, eeglab, arrays])
def test_a_damaged_recording(tmp_path, made, examples):
    parts = made(tmp_path / "made")
    source = f"{{}}/{next(iter(parts))}"
    withstands("eeg", tmp_path, parts, source, examples=examples, random=examples > 100, reading=READING)


def test_a_recording_that_claims_to_be_endless_is_as_long_as_its_file(tmp_path):
    content = edf(tmp_path / "made")["r.edf"]
    (tmp_path / "r.edf").write_bytes(content[:236] + b"99999999" + content[244:])
    assert len(open_eeg(str(tmp_path / "r.edf"), reading=READING)) == 3
