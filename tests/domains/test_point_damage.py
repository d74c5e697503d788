"""Damaged clouds, meshes and scans: left out or refused in words, never worse."""

import io
import zipfile

import numpy as np
import pytest
from clouds import CUBE_FACES, cloud, cube, lines, off, pcd, ply
from damaged import Part, withstands

FEW = pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.slow)])


def npy(values) -> bytes:
    target = io.BytesIO()
    np.save(target, values)
    return target.getvalue()


def zipped(name, **others):
    def wrap(content: bytes) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", content)
            for other, values in others.items():
                archive.writestr(f"{other}.npy", npy(values))
        return target.getvalue()

    return wrap


def las(ending: str) -> bytes:
    import laspy

    table = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
    table.x, table.y, table.z = cloud(40).T * 10
    target = io.BytesIO()
    table.write(target, do_compress=ending == "laz")
    return target.getvalue()


def stl() -> bytes:
    corners = cube()[[[face[0], face[1], face[2]] for face in CUBE_FACES]]
    records = b"".join(np.zeros(3, "<f4").tobytes() + c.astype("<f4").tobytes() + b"\0\0" for c in corners)
    return b"made up".ljust(80) + len(corners).to_bytes(4, "little") + records


def spoken_stl() -> bytes:
    rows = [" ".join(map(str, row)) for row in cube()[:3]]
    facet = (
        "facet normal 0 0 1\nouter loop\n"
        + "".join(f"vertex {row}\n" for row in rows)
        + "endloop\nendfacet\n"
    )
    return f"solid made\n{facet * 2}endsolid made\n".encode()


def obj() -> bytes:
    faces = "".join("f " + " ".join(f"{at + 1}/1/1" for at in face) + "\n" for face in CUBE_FACES)
    return ("".join(f"v {x} {y} {z}\n" for x, y, z in cube()) + faces).encode()


def hdf5(compression=None) -> bytes:
    import h5py

    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        file.create_dataset("data", data=np.stack([cloud(64, seed=n) for n in range(4)]).astype("f4"),
                            compression=compression, chunks=(1, 64, 3))  # fmt: skip
        file["label"] = np.arange(4, dtype=np.uint8)[:, None]
    return target.getvalue()


SETS = np.stack([cloud(64, seed=n) for n in range(4)]).astype(np.float32)
VOXELS = (SETS[:, :8, 0].reshape(4, 2, 2, 2) > 0).astype(np.uint8)
CELLS = np.full((4, 64), 7, np.uint8)
FILES = {
    "a.off": lambda: off(cube(), CUBE_FACES).encode(),
    "a.obj": obj,
    "binary.stl": stl,
    "spoken.stl": spoken_stl,
    "ascii.ply": lambda: ply(cube(), faces=CUBE_FACES),
    "little.ply": lambda: ply(cube(), form="binary_little_endian", faces=CUBE_FACES),
    "big.ply": lambda: ply(cloud(30), form="binary_big_endian"),
    "ascii.pcd": lambda: pcd(cloud(30)),
    "binary.pcd": lambda: pcd(cloud(30), form="binary"),
    "packed.pcd": lambda: pcd(np.round(cloud(30)), form="binary_compressed"),
    "a.las": lambda: las("las"),
    "a.laz": lambda: las("laz"),
    "a.xyz": lambda: lines(cloud(30)).encode(),
    "a.npy": lambda: npy(SETS),
    "a.bin": lambda: cloud(30, 4, dtype=np.float32).tobytes(),
    "a.npz": lambda: Part(npy(SETS), zipped("data", label=np.arange(4))),
    "voxels.npz": lambda: Part(npy(VOXELS), zipped("voxels")),
    "packed.npz": lambda: Part(npy(CELLS), zipped("voxels_packed", label=np.arange(4))),
    "a.h5": hdf5,
    "gzip.h5": lambda: hdf5("gzip"),
}  # fmt: skip


@FEW
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_cloud(tmp_path, name, examples):
    withstands("points", tmp_path, {name: FILES[name]()}, examples=examples, random=examples > 100)


@FEW
def test_a_damaged_cloud_among_whole_ones(tmp_path, examples):
    parts = {"chair/0.off": off(cube(), CUBE_FACES).encode(), "table/1.ply": ply(cloud(30))}
    withstands("points", tmp_path, parts, "{}", examples=examples, random=examples > 100)


@FEW
def test_a_damaged_real_scan(tmp_path, data_folder, examples):
    found = sorted(data_folder("kitti_scan_sequence").rglob("*.bin"))
    if not found:
        pytest.skip("there is no .bin scan")
    parts = {"a.bin": found[0].read_bytes()[:160_000]}
    withstands("points", tmp_path, parts, examples=examples, random=examples > 100)
