"""Damaged records of ECGs: left out or refused in words, never worse."""

import io
import zipfile

import numpy as np
import pytest
import scipy.io
from damaged import Part, withstands
from ecgs import TWELVE, signals, write_edf, write_wfdb

from anyjepa.recipes import recipe

SMALL = signals(leads=2, rate=100.0, seconds=4.0)
READING = recipe("ecg-jepa").preset("tiny", seconds=2.0, record_seconds=2.0).reading()
FEW = pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.slow)])


def npy(values) -> bytes:
    target = io.BytesIO()
    np.save(target, values)
    return target.getvalue()


def zipped(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", npy(np.arange(4)))
        archive.writestr("rate.npy", npy(np.array(100.0)))
    return target.getvalue()


def of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def dat(folder):
    write_wfdb(folder, "r", SMALL, ["I", "II"], rate=100.0, comments=["Dx: 426783006"])
    return of(folder)


def packed(folder):
    write_wfdb(folder, "r", SMALL, ["I", "II"], rate=100.0, format="212")
    return of(folder)


def compressed(folder):
    import wfdb

    folder.mkdir()
    wfdb.wrsamp("r", fs=100.0, units=["mV"] * 2, sig_name=["I", "II"], p_signal=SMALL, fmt=["516"] * 2,
                write_dir=str(folder))  # fmt: skip
    return of(folder)


def mat(folder):
    folder.mkdir()
    values = np.rint(SMALL.T * 1000).astype(np.int16)
    scipy.io.savemat(folder / "r.mat", {"val": values}, format="4")
    first = values[:, 0].tolist()
    lines = [f"r.mat 16x1+24 1000/mV 16 0 {first[n]} 0 0 {name}" for n, name in enumerate(["I", "II"])]
    (folder / "r.hea").write_text(f"r 2 100 {values.shape[1]}\n" + "\n".join(lines) + "\n# Dx: 426783006\n")
    return of(folder)


def edf(folder):
    return {"r.edf": write_edf(folder / "r.edf", SMALL, ["I", "II"], rate=100).read_bytes()}


def arrays(folder):
    return {"r.npz": Part(npy(np.stack([SMALL.T] * 4)), zipped)}


def array(folder):
    return {"r.npy": npy(np.stack([SMALL.T] * 4).astype(np.float32))}


def beats(folder):
    rows = np.concatenate([np.array([[1], [-1], [1]]), signals(3, 96.0, 1.0).T], axis=1)
    return {"Made_TRAIN.tsv": "\n".join("\t".join(f"{v:.4f}" for v in row) for row in rows).encode()}


@FEW
@pytest.mark.parametrize("made", [dat, packed, compressed, mat, edf, arrays, array, beats])
def test_a_damaged_record(tmp_path, made, examples):
    parts = made(tmp_path / "made")
    first = next((name for name in parts if name.endswith(".hea")), next(iter(parts)))
    withstands(
        "ecg", tmp_path, parts, f"{{}}/{first}", examples=examples, random=examples > 100, reading=READING
    )


@FEW
def test_a_damaged_record_among_whole_ones(tmp_path, examples):
    for name in ("a", "b"):
        write_wfdb(tmp_path / "made", name, signals(12, 100.0, 4.0), TWELVE, rate=100.0)
    parts = of(tmp_path / "made")
    withstands("ecg", tmp_path, parts, "{}", examples=examples, random=examples > 100, reading=READING)


@FEW
def test_a_damaged_real_record(tmp_path, data_folder, examples):
    folder = data_folder("ecg_cinc2021")
    parts = {name: (folder / name).read_bytes() for name in ("E07500.hea", "E07500.mat")}
    withstands(
        "ecg", tmp_path, parts, "{}/E07500.hea", examples=examples, random=examples > 100, reading=READING
    )
