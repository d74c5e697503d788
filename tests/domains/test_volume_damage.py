"""Damaged files of volumes: left out or refused in words, never worse."""

import gzip

import numpy as np
import pytest
from damaged import Part, refuses, withstands
from scans import body, write_dicom, write_meta, write_nifti, write_nrrd

FEW = pytest.mark.parametrize("examples", [10, pytest.param(400, marks=pytest.mark.slow)])


def nifti(folder):
    content = write_nifti(folder / "a.nii", body()).read_bytes()
    mask = write_nifti(folder / "b.nii", body() % 3, dtype=np.uint8).read_bytes()
    return {
        "imagesTr/a.nii": content, "imagesTr/b.nii.gz": Part(content, gzip.compress), "labelsTr/a.nii": mask,
    }  # fmt: skip


def others(folder):
    parts = {
        f"{kind}.nrrd": write_nrrd(folder / "a.nrrd", body(), encoding=kind).read_bytes()
        for kind in ("raw", "gzip")
    }
    np.save(folder / "a.npy", body())
    return {
        **parts, "c.mha": write_meta(folder / "a.mha", body()).read_bytes(),
        "d.npy": (folder / "a.npy").read_bytes(),
    }  # fmt: skip


def dicom(folder):
    write_dicom(folder, body((4, 6, 8)))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@FEW
@pytest.mark.parametrize("made", [nifti, others, dicom])
def test_a_damaged_volume(tmp_path, made, examples):
    (tmp_path / "made").mkdir()
    parts = made(tmp_path / "made")
    withstands("volume", tmp_path, parts, "{}", examples=examples, random=examples > 100)


def test_files_that_claim_more_than_they_hold(tmp_path):
    content = bytearray(write_nifti(tmp_path / "a.nii", body()).read_bytes())
    content[42:48] = np.array([30000] * 3, "<i2").tobytes()
    assert "more than the file can hold" in refuses("volume", tmp_path / "n", {"a.nii": bytes(content)}, "{}")
    nrrd = (
        write_nrrd(tmp_path / "a.nrrd", body())
        .read_bytes()
        .replace(b"sizes: 12 10 6", b"sizes: 90000 90000 90000")
    )
    assert "more than the file can hold" in refuses("volume", tmp_path / "r", {"a.nrrd": nrrd}, "{}")


def test_a_real_volume_that_is_damaged(tmp_path, data_folder):
    path = data_folder("hippocampus_mri") / "imagesTr" / "hippocampus_001.nii.gz"
    content = gzip.decompress(path.read_bytes())
    withstands("volume", tmp_path, {"a.nii.gz": Part(content, gzip.compress)}, "{}", examples=8)
