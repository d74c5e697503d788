"""Damaged files of fMRI: left out or refused in words, never worse."""

import gzip
import io

import numpy as np
import pytest
import scipy.io
from brains import cortex, series, write_atlas, write_dense, write_labels, write_parcels, write_volumes
from damaged import Part, refuses, withstands

FEW = pytest.mark.parametrize("examples", [12, pytest.param(400, marks=pytest.mark.slow)])
VALUES = series(5, 30)


def mat(folder):
    for packed in (False, True):
        scipy.io.savemat(folder / f"{packed}.mat", {"tc": VALUES}, do_compression=packed)
    return {"a.mat": (folder / "False.mat").read_bytes(), "b.mat": (folder / "True.mat").read_bytes()}


def tables(folder):
    text = "\n".join(",".join(f"{value:.2f}" for value in row) for row in VALUES.T).encode()
    target = io.BytesIO()
    np.save(target, VALUES.T)
    return {
        "a.csv": b"a,b,c,d,e\n" + text, "b.1D": b"# a b\n" + text.replace(b",", b" "),
        "c.tsv.gz": Part(text.replace(b",", b"\t"), gzip.compress), "d.npy": target.getvalue(),
    }  # fmt: skip


def volumes(folder):
    write_volumes(folder / "a.nii", VALUES)
    write_atlas(folder / "atlas.nii")
    content = (folder / "a.nii").read_bytes()
    return {
        "a.nii": content,
        "b.nii.gz": Part(content, gzip.compress),
        "atlas.nii": (folder / "atlas.nii").read_bytes(),
    }


def grayordinates(folder):
    write_dense(folder / "a.dtseries.nii", np.random.default_rng(0).standard_normal((20, 15)) + 50)
    write_labels(folder / "x.dlabel.nii", np.arange(15) // 4, cortex())
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def parcels(folder):
    return {"a.ptseries.nii": write_parcels(folder / "a.ptseries.nii", VALUES).read_bytes()}


@FEW
@pytest.mark.parametrize("made", [mat, tables, volumes, grayordinates, parcels])
def test_a_damaged_run(tmp_path, made, examples):
    (tmp_path / "made").mkdir()
    withstands("fmri", tmp_path, made(tmp_path / "made"), "{}", examples=examples, random=examples > 100)


def test_an_image_that_claims_more_than_it_holds(tmp_path):
    write_volumes(tmp_path / "a.nii", VALUES)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[42:50] = np.array([30000] * 4, "<i2").tobytes()  # the header's dim[1] to dim[4]
    assert "more than the file can hold" in refuses("fmri", tmp_path, {"b.nii": bytes(content)}, "{}")


def test_a_real_run_that_is_damaged(tmp_path, data_folder):
    path = data_folder("fmri_hcp_gw") / "gw" / "NAP_001" / "functional" / "BOLD_rsfMRI.mat"
    withstands("fmri", tmp_path, {"a.mat": path.read_bytes()}, "{}", examples=8)
