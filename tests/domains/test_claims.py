"""Files that claim a terabyte, unpack to far more than they are, or carry a pickle: refused in words."""

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pyarrow as arrow
import pytest
import tifffile
from clouds import cloud, pcd, ply
from damaged import refuses
from ecgs import signals, write_wfdb
from pictures import encoded, idx, noise
from pyarrow import parquet
from test_image_damage import npy, sealed_png
from test_point_damage import las

from anyjepa.recipes import recipe

TERA = 2**40
KINDS = pytest.mark.parametrize("kind", ["image", "ecg", "points", "table"])


class Payload:
    """Unpickling it would end the process."""

    def __reduce__(self):
        import os

        return os._exit, (9,)


def claiming(shape, dtype="<f4") -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array_header_1_0(target, {"descr": dtype, "fortran_order": False, "shape": shape})
    return target.getvalue() + bytes(64)


def archive(content: bytes, name="x.npy", method=zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as zipped:
        zipped.writestr(name, content)
    return target.getvalue()


def lying_archive() -> bytes:
    """Both directories of the zip say that a member of a few bytes unpacks to 3 GB."""
    content = bytearray(archive(claiming((2**27, 6))))
    size = struct.pack("<I", 3 * 2**30)
    content[22:26] = size
    central = content.index(b"PK\x01\x02")
    content[central + 24 : central + 28] = size
    return bytes(content)


@KINDS
@pytest.mark.parametrize("shape", [(TERA, 4), (TERA, 4, 4), (2**62, 0), (4, 0, 2**62)])
def test_an_array_that_claims_a_terabyte(tmp_path, kind, shape):
    refuses(kind, tmp_path, {"x.npy": claiming(shape)})


@KINDS
@pytest.mark.parametrize("content", [lying_archive, lambda: archive(claiming((TERA, 4)))])
def test_an_archive_that_claims_a_terabyte(tmp_path, kind, content):
    refuses(kind, tmp_path, {"x.npz": content()})


@KINDS
def test_an_archive_in_an_archive_and_one_packed_without_bound(tmp_path, kind):
    inner = archive(bytes(10_000_000))
    refuses(kind, tmp_path / "a", {"x.npz": archive(inner, "inner.npz")})
    packed = archive(npy(np.zeros((300, 1000, 1000), np.uint8)), method=zipfile.ZIP_BZIP2)
    assert len(packed) < 10_000
    refuses(kind, tmp_path / "b", {"x.npz": packed})


@KINDS
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_a_pickle_is_never_opened(tmp_path, kind, ending):
    target = io.BytesIO()
    np.save(target, np.array([Payload()] * 4, dtype=object), allow_pickle=True)
    content = target.getvalue()
    refuses(kind, tmp_path / "a", {f"x.{ending}": content if ending == "npy" else archive(content)})
    refuses(kind, tmp_path / "b", {f"x.{ending}": pickle.dumps([Payload()])})


def test_pictures_that_claim_to_be_huge(tmp_path):
    png = bytearray(encoded(noise(8, 8, 3)))
    for width, height in ((12_000, 12_000), (2**31 - 1, 2**31 - 1)):
        png[16:24] = struct.pack(">II", width, height)
        assert "pixels" in refuses("image", tmp_path / f"png-{width}", {"a.png": sealed_png(bytes(png))})
    target = io.BytesIO()
    tifffile.imwrite(target, noise(8, 8), compression="zlib")
    content = target.getvalue().replace(
        struct.pack("<HHII", 256, 4, 1, 8), struct.pack("<HHII", 256, 4, 1, 2**31)
    )
    refuses("image", tmp_path / "tiff", {"a.tif": content})
    refuses("image", tmp_path / "idx", {"a-idx3-ubyte": idx(noise(2, 4, 4), (2**31, 1000, 1000))})
    packed = gzip.compress(idx(noise(2, 4, 4), (2**31, 1000, 1000)) + bytes(50_000_000))
    refuses("image", tmp_path / "gz", {"a-idx3-ubyte.gz": packed})


def test_clouds_that_claim_to_be_huge(tmp_path):
    many = str(TERA).encode()
    for form in ("ascii", "binary_little_endian"):
        content = ply(cloud(30), form=form).replace(b"vertex 30", b"vertex " + many)
        refuses("points", tmp_path / form, {"a.ply": content})
    for form in ("ascii", "binary", "binary_compressed"):
        content = pcd(np.round(cloud(30)), form=form).replace(b"WIDTH 30", b"WIDTH " + many)
        refuses("points", tmp_path / form, {"a.pcd": content.replace(b"POINTS 30", b"POINTS " + many)})
    refuses("points", tmp_path / "off", {"a.off": b"OFF\n" + many + b" 1 0\n0 0 0\n3 0 0 0\n"})
    refuses("points", tmp_path / "face", {"a.off": b"OFF\n1 1 0\n0 0 0\n" + many + b" 0 0 0\n"})
    refuses("points", tmp_path / "stl", {"a.stl": bytes(80) + struct.pack("<I", 2**32 - 1) + bytes(50)})
    for ending in ("las", "laz"):
        content = bytearray(las(ending))
        content[107:111] = struct.pack("<I", 2**32 - 1)
        refuses("points", tmp_path / ending, {f"a.{ending}": bytes(content)})


def test_a_hdf5_file_that_stores_nothing_of_what_it_claims(tmp_path):
    h5py = pytest.importorskip("h5py")
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        file.create_dataset("data", shape=(2**30, 64, 3), dtype="f4", chunks=(1, 64, 3))
    refuses("points", tmp_path, {"a.h5": target.getvalue()})


def test_records_that_claim_to_be_endless(tmp_path):
    reading = recipe("ecg-jepa").preset("tiny", seconds=2.0, record_seconds=2.0).reading()
    header = write_wfdb(tmp_path / "made", "r", signals(2, 100.0, 4.0), ["I", "II"], rate=100.0)
    content = header.read_text().replace(" 400\n", f" {TERA}\n").encode()
    assert str(TERA).encode() in content
    parts = {"r.hea": content, "r.dat": header.with_suffix(".dat").read_bytes()}
    assert "more than its files hold" in refuses("ecg", tmp_path / "wfdb", parts, reading=reading)


def test_a_table_of_more_rows_than_it_can_hold(tmp_path):
    target = io.BytesIO()
    same = arrow.table({"a": arrow.array(np.zeros(20_000_000, np.int8))})
    parquet.write_table(same, target, data_page_size=2**40, compression="zstd", max_rows_per_page=2**40)
    content = target.getvalue()
    assert len(content) * 4096 < 20_000_000, len(content)
    refuses("table", tmp_path, {"a.parquet": content})
