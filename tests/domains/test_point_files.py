"""Every format, as we write it by hand and as other libraries write it; and damaged files."""

import io
import struct

import numpy as np
import pytest
from clouds import CUBE_FACES, cloud, cube, lines, lzf, off, pcd, ply
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.core.errors import BadSample
from anyjepa.domains.point_files import decode
from anyjepa.domains.point_meshes import parse_off, parse_stl, surface_points
from anyjepa.domains.point_scans import lzf_decompress, parse_pcd, parse_ply

POINTS = cloud(20)


def read(content, name, on_surface=500):
    return decode(content if isinstance(content, bytes) else content.encode(), name, name, on_surface)


@pytest.mark.parametrize("header", ["OFF\n", "OFF", "OFF\n# a comment\n", "  OFF\r\n"])
def test_off_with_any_header(header):
    """ModelNet's headers are sometimes glued to the counts: OFF490 518 0."""
    assert np.array_equal(read(off(POINTS, header=header), "a.off"), POINTS)
    vertices, corners = parse_off(off(cube(), CUBE_FACES, header).encode(), "a")
    assert np.array_equal(vertices, cube())
    assert corners.shape == (12, 3), "each square became two triangles"


def test_off_with_colours_keeps_them_as_channels():
    coloured = np.concatenate([POINTS, np.arange(80.0).reshape(20, 4)], axis=1)
    assert np.array_equal(read(off(coloured, header="COFF\n"), "a.off"), coloured)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_ply_of_any_form_and_any_properties(form, kind):
    table = cloud(20, 6).astype(np.float32 if kind == "float" else np.float64)
    content = ply(table, ["nx", "x", "y", "quality", "z", "red"], kind, form)
    assert np.array_equal(read(content, "a.ply"), table[:, [1, 2, 4, 0, 3, 5]])


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("faces", [CUBE_FACES, [[0, 1, 2], [0, 1, 2, 3, 5], [1, 2, 3, 7]]])
def test_ply_faces_of_one_or_of_mixed_size(form, faces):
    vertices, corners = parse_ply(ply(cube(), form=form, faces=faces), "a")
    assert np.array_equal(vertices, cube())
    expected = [[f[0], f[i], f[i + 1]] for f in faces for i in range(1, len(f) - 1)]
    assert corners.tolist() == expected


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_pcd_of_any_form(form):
    table = np.round(cloud(30, 4), 1).astype(np.float32).astype(np.float64)
    content = pcd(table, "x y z intensity", form)
    assert np.array_equal(read(content, "a.pcd"), table)


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_pcd_colours_are_unpacked(form):
    packed = np.array([[1.0, 2, 3, (10 << 16) + (200 << 8) + 30]] * 4)
    found = parse_pcd(pcd(packed, "x y z rgb", form, "F4 F4 F4 U4"), "a")
    assert found.tolist() == [[1, 2, 3, 10, 200, 30]] * 4


@given(st.binary(max_size=400), st.integers(1, 5))
def test_lzf_gives_back_what_was_packed(content, times):
    content = content * times
    assert lzf_decompress(lzf(content), len(content)) == content


def test_lzf_copies_may_reach_into_what_they_write():
    assert lzf_decompress(bytes([0, ord("a"), (7 << 5) | 0, 1, 0]), 11) == b"a" * 11
    for packed, size, words in [
        (bytes([32, 5]), 3, "before the beginning"),
        (bytes([0, 1, 32]), 3, "cut off"),
        (bytes([0, 1]), 3, "gives 1 bytes, not 3"),
    ]:
        with pytest.raises(ValueError, match=words):
            lzf_decompress(packed, size)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.xyz", lines(POINTS)),
        ("a.csv", "x,y,z\n" + lines(POINTS, ",")),
        ("a.txt", "# made up\n\n" + lines(POINTS, ";")),
        ("a.pts", "20\n" + lines(POINTS)),
        ("a.asc", "// scanner\n" + lines(POINTS, "\t")),
    ],
)
def test_text_with_any_separator_and_heading(name, text):
    assert np.array_equal(read(text, name), POINTS)


def test_kitti_and_nuscenes_scans():
    scan = cloud(20, 4, dtype=np.float32)
    assert np.array_equal(read(scan.tobytes(), "0.bin"), scan)
    ringed = cloud(20, 5, dtype=np.float32)
    assert np.array_equal(read(ringed.tobytes(), "0.pcd.bin"), ringed)


def test_las_and_laz_keep_coordinates_of_millions_of_metres():
    laspy = pytest.importorskip("laspy", reason="needs laspy to write the files that it must read")
    places = np.array([5e5, 5.4e6, 300.0]) + np.round(cloud(30), 3)
    table = laspy.create(point_format=2, file_version="1.2")
    table.header.offsets, table.header.scales = [5e5, 5.4e6, 0], [0.001] * 3
    table.x, table.y, table.z = places.T
    table.intensity, table.red = np.arange(30), np.arange(30) * 100
    for compressed, name in [(False, "a.las"), (True, "a.laz")]:
        file = io.BytesIO()
        table.write(file, do_compress=compressed, laz_backend=laspy.LazBackend.Lazrs if compressed else None)
        found = read(file.getvalue(), name)
        assert np.allclose(found[:, :3], places, atol=1e-6)
        assert np.array_equal(found[:, 3:5], np.stack([np.arange(30), np.arange(30) * 100], 1))


def test_meshes_of_trimesh_are_read_as_it_reads_them():
    trimesh = pytest.importorskip("trimesh", reason="needs trimesh to compare with")
    mesh = trimesh.creation.icosphere(subdivisions=1)
    for kind in ("off", "ply", "obj", "stl", "stl_ascii"):
        content = mesh.export(file_type=kind)
        content = content.encode() if isinstance(content, str) else content
        found = read(content, f"a.{kind.partition('_')[0]}", 3000)
        assert found.shape == (3000, 3)
        _, away, _ = trimesh.proximity.closest_point_naive(mesh, found[:200])
        assert away.max() < 1e-6, kind


def test_points_of_a_surface_are_even_and_depend_on_the_name_only():
    tall = cube() * [1, 1, 9]
    corners = parse_off(off(tall, CUBE_FACES).encode(), "a")[1]
    found = surface_points(tall, corners, 20_000, "a")
    on_ends = np.isclose(found[:, 2], 0) | np.isclose(found[:, 2], 9)
    assert on_ends.mean() == pytest.approx(2 / 38, abs=0.01)
    assert np.ptp(found, axis=0) == pytest.approx([1, 1, 9], abs=0.01)
    assert np.array_equal(found, surface_points(tall, corners, 20_000, "a"))
    assert not np.array_equal(found, surface_points(tall, corners, 20_000, "b"))


def test_vertex_colours_are_interpolated_over_a_surface():
    coloured = np.concatenate([cube(), 100 * cube()], axis=1)
    found = read(off(coloured, CUBE_FACES, "COFF\n"), "a.off")
    assert np.allclose(found[:, 3:], 100 * found[:, :3])


def test_a_mesh_without_area_gives_its_vertices():
    assert np.array_equal(read(off(POINTS, [[0, 0, 0]]), "a.off"), POINTS)


OBJ = "o thing\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nf -4/1/1 -3/1/1 -2/1/1\nf 1 2 4\n"


def test_obj_counts_from_one_or_from_the_end():
    found = read(OBJ, "a.obj", 400)
    assert (np.isclose(found[:, 2], 0) | np.isclose(found[:, 1], 0)).all()


BINARY_STL = bytes(80) + struct.pack("<I", 1) + struct.pack("<12fH", *[0] * 3, *range(9), 0)


def test_binary_stl_that_begins_with_solid_is_still_binary():
    assert parse_stl(b"solid" + BINARY_STL[5:], "a")[0].tolist() == np.arange(9.0).reshape(3, 3).tolist()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.off", "PLY\n1 0 0\n", "does not begin with OFF"),
        ("a.off", "OFF\n", "cut off"),
        ("a.off", off(POINTS)[:200], "announces 20 vertices"),
        ("a.off", off(cube(), [[0, 1, 9]]), "outside its 8 vertices"),
        ("a.ply", "ply\nformat ascii 1.0\n", "does not begin with a header"),
        ("a.ply", ply(POINTS, ["a", "y", "z"]), "vertices have no x"),
        ("a.ply", ply(POINTS, form="binary_little_endian")[:-5], "cut off"),
        ("a.ply", ply(POINTS)[:-100], "cut off"),
        ("a.ply", ply(cube(), faces=[[0, 1, 99]]), "outside its 8 vertices"),
        ("a.ply", ply(cube(), kind="word"), "word"),
        ("a.ply", ply(cube(), form="binary_little_endian", faces=CUBE_FACES)[:-4], "damaged PLY"),
        ("a.pcd", pcd(POINTS)[:40], "no end"),
        ("a.pcd", pcd(POINTS, form="binary")[:-5], "damaged PCD"),
        ("a.pcd", pcd(POINTS, form="binary_compressed")[:-5], "compressed part"),
        ("a.pcd", pcd(POINTS, "a y z"), "points have no x"),
        ("a.xyz", "no numbers here\n", "no line of numbers"),
        ("a.xyz", lines(POINTS) + "1 2\n", "lines of other than 3"),
        ("a.xyz", lines(POINTS) + "1 2 three\n", "not a table of numbers"),
        ("a.bin", b"12345", "not a multiple of 16"),
        ("a.npy", b"nothing", "not a .npy file"),
        ("a.las", b"LASF nothing", "damaged LAS"),
        ("a.stl", b"solid nothing", "not an STL file"),
        ("a.stl", BINARY_STL[:-3], "not an STL file, or is cut off"),
        ("a.obj", "f 1 2 3\n", "holds no vertex"),
        ("a.obj", "v 0 0 0\nf 1 2 3\n", "outside its 1 vertices"),
    ],
)
def test_what_is_damaged_is_named(name, content, words):
    with pytest.raises(BadSample, match=words):
        read(content, name)


def test_a_header_that_lies_takes_no_memory():
    huge = ply(POINTS, form="binary_little_endian").replace(b"vertex 20", b"vertex 99999999999")
    with pytest.raises(BadSample, match="cut off"):
        parse_ply(huge, "a")
    with pytest.raises(BadSample, match="damaged PCD"):
        parse_pcd(pcd(POINTS, form="binary").replace(b"POINTS 20", b"POINTS 99999999999"), "a")
