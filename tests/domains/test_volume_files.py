"""Every way in which a body can lie in a file is the same body."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scans import body, write_dicom, write_meta, write_nifti, write_nrrd

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.volume_files import read_scan
from anyjepa.domains.volume_geometry import PLANES, Scan, canonical, resampled
from anyjepa.domains.volume_sources import open_volumes

ORDERS = list(itertools.permutations(range(3)))
FLIPS = list(itertools.product((1, -1), repeat=3))


@pytest.mark.parametrize("order", ORDERS)
def test_nifti_with_axes_in_any_order_and_direction_is_one_body(tmp_path, order):
    flips = FLIPS[ORDERS.index(order)]
    path = write_nifti(tmp_path / "a.nii.gz", body(), order=order, flips=flips)
    values, spacing = canonical(read_scan(str(path), "a"), "axial")
    assert np.array_equal(values[..., 0], body())
    assert spacing == pytest.approx((3.0, 1.0, 2.0))


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from((1, -1))] * 3), st.sampled_from(sorted(PLANES)))
def test_planes_do_not_depend_on_how_a_scan_lies(order, flips, plane):
    straight = Scan(body()[..., None], np.diag([3.0, 1.0, 2.0])[:, ::-1].copy())
    axes = straight.axes[list(order)] * np.array(flips)[:, None]
    turned = straight.values.transpose(*order, 3)[tuple(slice(None, None, flip) for flip in flips)]
    expected, spacing = canonical(straight, plane)
    found, same = canonical(Scan(turned, axes), plane)
    assert np.array_equal(found, expected) and same == pytest.approx(spacing)


def test_planes_are_hung_as_radiologists_hang_them():
    """Slices upwards, rows to the back, columns to the left are axial; head on top in the other two."""
    scan = Scan(body()[..., None], np.diag([3.0, 1.0, 2.0])[:, ::-1].copy())
    axial, coronal, sagittal = (canonical(scan, plane)[0][..., 0] for plane in sorted(PLANES))
    assert np.array_equal(axial, body())
    assert np.array_equal(coronal, body().transpose(1, 0, 2)[:, ::-1])
    assert np.array_equal(sagittal, body().transpose(2, 0, 1)[:, ::-1])
    assert canonical(scan, "sagittal")[1] == pytest.approx((2.0, 3.0, 1.0))


def test_a_scan_that_lies_askew_keeps_three_axes():
    turn = 0.7
    axes = np.array([[0, 0, 1.0], [np.sin(turn), np.cos(turn), 0], [np.cos(turn), -np.sin(turn), 0]])
    values, spacing = canonical(Scan(body()[..., None], axes), "axial")
    assert values.shape == (6, 10, 12, 1) and spacing == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior", "RAS"])
def test_nrrd(tmp_path, encoding, space):
    spelled = "right-anterior-superior" if space == "RAS" else space
    path = write_nrrd(tmp_path / "a.nrrd", body(), encoding=encoding, space=spelled)
    path.write_bytes(path.read_bytes().replace(spelled.encode(), space.encode(), 1))
    values, spacing = canonical(read_scan(str(path), "a"), "axial")
    assert np.array_equal(values[..., 0], body())
    assert spacing == pytest.approx((3.0, 1.0, 2.0))


def test_nrrd_by_spacings_with_values_beside_it(tmp_path):
    (tmp_path / "a.raw").write_bytes(body().astype(">i2").tobytes())
    header = (
        "NRRD0001\ntype: int16\ndimension: 3\nsizes: 12 10 6\nspacings: 2 1 3\nencoding: raw\n"
        "endian: big\ndata file: a.raw\n\n"
    )
    (tmp_path / "a.nhdr").write_text(header)
    values, spacing = canonical(read_scan(str(tmp_path / "a.nhdr"), "a"), "axial")
    assert np.array_equal(values[..., 0], body()) and spacing == (3.0, 1.0, 2.0)
    (tmp_path / "a.nhdr").write_text(header.replace("a.raw", "../../etc/passwd"))
    with pytest.raises(BadSample, match="only a file beside it"):
        read_scan(str(tmp_path / "a.nhdr"), "a")


@pytest.mark.parametrize("beside", [False, True])
def test_meta_image(tmp_path, beside):
    path = write_meta(tmp_path / ("a.mhd" if beside else "a.mha"), body(), beside=beside)
    values, spacing = canonical(read_scan(str(path), "a"), "axial")
    assert np.array_equal(values[..., 0], body()) and spacing == (3.0, 1.0, 2.0)


def test_a_series_is_put_together_by_where_its_slices_lie(tmp_path):
    write_dicom(tmp_path / "one", body())
    write_dicom(tmp_path / "two", body(seed=1), patient="P2", series="1.2.4")
    samples = open_volumes(str(tmp_path), reading={"window": (-1000, 1000)})
    assert len(samples) == 2 and samples.problems == []
    assert samples.groups.tolist() == ["P1", "P2"] and "DICOM series (CT)" in samples.description
    assert samples.spacing == pytest.approx((3.0, 1.0, 2.0))
    expected = np.clip((body().astype(np.float32) + 1000) / 2000, 0, 1)
    assert np.allclose(samples.read(0)[..., 0], expected, atol=1e-6)


def test_series_that_are_no_volume_are_named(tmp_path):
    write_dicom(tmp_path / "whole", body())
    write_dicom(tmp_path / "gap", body())
    next((tmp_path / "gap").glob("*-3.dcm")).unlink()
    write_dicom(tmp_path / "twice", body())
    write_dicom(tmp_path / "twice", body(), ImagePositionPatient=[0.0, 0.0, 3.0])
    next((tmp_path / "whole").glob("*-1.dcm")).with_name("damaged.dcm").write_bytes(b"\0" * 128 + b"DICMx")
    samples = open_volumes(str(tmp_path))
    assert [samples.identity(0)] == ["whole"] and len(samples) == 1
    reasons = " ".join(str(problem) for problem in samples.problems)
    assert "gap: lacks slices" in reasons and "more than one volume" in reasons and "damaged" in reasons


def test_resampling_keeps_straight_lines_and_the_middle():
    """Values that grow evenly with the place still do at another spacing; labels stay whole."""
    line = np.arange(12, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 3, 1), np.float32)
    finer = resampled(line, (3.0, 1.0, 1.0), (1.5, 1.0, 1.0))
    assert finer.shape == (24, 3, 3, 1)
    assert np.allclose(np.diff(finer[2:-2, 0, 0, 0]), 0.5, atol=1e-5)
    coarser = resampled(line, (1.0, 1.0, 1.0), (3.0, 1.0, 1.0))
    assert coarser.shape == (4, 3, 3, 1)
    assert coarser[:, 0, 0, 0].mean() == pytest.approx(5.5, abs=1e-5)
    assert np.allclose(np.diff(coarser[1:3, 0, 0, 0]), 3, atol=1e-5)
    labels = resampled((line > 5).astype(np.uint8), (1.0, 1.0, 1.0), (2.0, 1.0, 1.0), labels=True)
    assert labels[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert resampled(line, (1.0, 1.0, 1.0), (1.01, 1.0, 1.0)) is line


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="is no volume"):
        open_volumes(str(tmp_path / "a.txt"))
    with pytest.raises(UserError, match="images:"):
        open_volumes(str(tmp_path))
    with pytest.raises(UserError, match="synthetic-volumes"):
        open_volumes("synthetic-volume")
