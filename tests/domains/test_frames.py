"""Pairs of frames: files of flow, pairs by name, real data, simulated data, baselines and colours."""

import io
import struct

import numpy as np
import pytest
import torch
from pictures import noise
from PIL import Image

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.flow import end_point_error
from anyjepa.domains import domains
from anyjepa.domains.frames_baselines import BASELINES, grey
from anyjepa.domains.frames_drawing import captioned, flow_colours, heat, wheel
from anyjepa.domains.frames_files import decode_flow, encode_flo
from anyjepa.domains.frames_simulation import CLASSES, moving_shapes
from anyjepa.domains.frames_sources import pairs_of
from anyjepa.domains.sources import NoSplit

frames = domains()["frames"]


def known_flow(height=6, width=5):
    flow = np.random.default_rng(0).normal(0, 9, (height, width, 2)).astype(np.float32)
    flow[1, 2] = np.nan
    return flow


def pfm(flow):
    third = np.concatenate([np.nan_to_num(flow), np.zeros_like(flow[..., :1])], axis=2)
    return f"PF\n{flow.shape[1]} {flow.shape[0]}\n-1.0\n".encode() + third[::-1].astype("<f4").tobytes()


def kitti(flow):
    import imagecodecs

    stored = np.zeros((*flow.shape[:2], 3), np.uint16)
    known = np.isfinite(flow).all(axis=2)
    stored[known, :2] = np.rint(flow[known] * 64 + 2**15)
    stored[known, 2] = 1
    return imagecodecs.png_encode(stored)


def npy(flow):
    file = io.BytesIO()
    np.save(file, flow)
    return file.getvalue()


@pytest.mark.parametrize(("encode", "tolerance"), [(encode_flo, 0), (npy, 0), (kitti, 1 / 128 + 1e-5)])
def test_flow_is_read_as_it_was_written(encode, tolerance):
    flow = known_flow()
    found = decode_flow(encode(flow), "a")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, flow, atol=tolerance, rtol=0)


def test_pfm_is_upside_down():
    flow = np.nan_to_num(known_flow())
    np.testing.assert_array_equal(decode_flow(pfm(flow), "a"), flow)


def test_bytes_of_a_flo_are_those_of_its_definition():
    content = struct.pack("<fii6f", 202021.25, 3, 1, 1, 2, 3, 4, 1e10, 0)
    found = decode_flow(content, "a")
    np.testing.assert_array_equal(found, [[[1, 2], [3, 4], [np.nan, np.nan]]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encode_flo(known_flow())[:-1], "claims 5 x 6 pixels"),
        (encode_flo(known_flow())[:9], "damaged flow"),
        (b"PF\n9 9\n-1.0\n", "claims 9 x 9"),
        (npy(np.zeros((4, 4, 3), np.float32)), "not (height, width, 2)"),
        (b"GIF89a", "no flow in a format"),
        (b"", "no flow in a format"),
    ],
)
def test_damaged_flow_is_named(content, words):
    with pytest.raises(BadSample, match=r"a: has damaged flow") as problem:
        decode_flow(content, "a")
    assert words in str(problem.value)


def test_an_ordinary_png_is_no_flow():
    file = io.BytesIO()
    Image.fromarray(noise(4, 4, 3)).save(file, "PNG")
    with pytest.raises(BadSample, match="not three of 16 bits"):
        decode_flow(file.getvalue(), "a")


CHAIRS = ["0-gt.flo", "0-img0.ppm", "0-img1.ppm", "1-img0.ppm", "1-img1.ppm"]
RELEASED = ["00001_flow.flo", "00001_img1.ppm", "00001_img2.ppm", "00002_img1.ppm", "00002_img2.ppm"]
KITTI = [
    "flow_noc/000000_10.png", "flow_occ/000000_10.png", "disp_occ_0/000000_10.png",
    "image_2/000000_10.png", "image_2/000000_11.png", "image_2/000001_10.png", "image_2/000001_11.png",
]  # fmt: skip
SINTEL = [
    "clean/alley/frame_0001.png", "clean/alley/frame_0002.png", "clean/alley/frame_0010.png",
    "flow/alley/frame_0001.flo", "flow/alley/frame_0002.flo", "occlusions/alley/frame_0001.png",
]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (CHAIRS, [("0-img0.ppm", "0-img1.ppm", "0-gt.flo"), ("1-img0.ppm", "1-img1.ppm", None)]),
        (
            RELEASED,
            [
                ("00001_img1.ppm", "00001_img2.ppm", "00001_flow.flo"),
                ("00002_img1.ppm", "00002_img2.ppm", None),
            ],
        ),
        (
            KITTI,
            [
                ("image_2/000000_10.png", "image_2/000000_11.png", "flow_occ/000000_10.png"),
                ("image_2/000001_10.png", "image_2/000001_11.png", None),
            ],
        ),
        (
            SINTEL,
            [
                ("clean/alley/frame_0001.png", "clean/alley/frame_0002.png", "flow/alley/frame_0001.flo"),
                ("clean/alley/frame_0002.png", "clean/alley/frame_0010.png", "flow/alley/frame_0002.flo"),
            ],
        ),
        (["a/9.png", "a/10.png", "b/1.png"], [("a/9.png", "a/10.png", None)]),
    ],
)
def test_frames_pair_up_by_their_names(names, wanted):
    assert pairs_of(sorted(names)) == wanted


def test_frames_farther_apart_have_no_flow_of_neighbours():
    assert pairs_of(SINTEL, apart=2) == [("clean/alley/frame_0001.png", "clean/alley/frame_0010.png", None)]


@pytest.fixture
def folder(tmp_path):
    """Two scenes of four frames, of which the second has one frame of another size; flow of the first."""
    for scene, sides in (("left", (16, 16, 16, 16)), ("right", (16, 16, 20, 16))):
        (tmp_path / scene).mkdir()
        for number, side in enumerate(sides, 1):
            Image.fromarray(noise(side, 16, 3, seed=number)).save(tmp_path / scene / f"{number}.png")
    return tmp_path


def test_a_folder_of_scenes(folder):
    samples = frames.open(str(folder))
    assert len(samples) == 6
    assert samples.classes == ["left", "right"]
    assert list(samples.groups) == ["left"] * 3 + ["right"] * 3
    assert not samples.has_flow and samples.flow(0) is None
    assert [samples.identity(index) for index in (0, 4)] == ["left/1.png", "right/2.png"]
    np.testing.assert_array_equal(samples.read(1)[0], noise(16, 16, 3, seed=2))
    np.testing.assert_array_equal(samples.read(1)[1], noise(16, 16, 3, seed=3))
    with pytest.raises(BadSample, match=r"right/2.png: has frames that differ"):
        samples.read(4)
    assert len(frames.open(str(folder), reading={"apart": 2})) == 4


def test_flow_of_another_size_is_named(folder):
    (folder / "left" / "1.flo").write_bytes(encode_flo(known_flow()))
    samples = frames.open(str(folder))
    assert samples.has_flow and "1 with known flow" in samples.description
    with pytest.raises(BadSample, match="its flow of"):
        samples.flow(0)


def test_a_folder_without_pairs_says_what_is_wanted(tmp_path):
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds no pairs of frames"):
        frames.open(str(tmp_path))
    with pytest.raises(UserError, match="Did you mean 'synthetic-frames'"):
        frames.open("synthetic-frame")


def test_arrays_with_and_without_flow(tmp_path):
    pairs = noise(5, 2, 12, 10, 3)
    np.savez(tmp_path / "a.npz", x=pairs, y=np.arange(5), flow=np.zeros((5, 12, 10, 2)))
    samples = frames.open(str(tmp_path / "a.npz"), reading={"fps": 12.0})
    assert samples.array is not None and len(samples) == 5
    np.testing.assert_array_equal(samples.read(3), pairs[3])
    np.testing.assert_array_equal(samples.labels, np.arange(5))
    assert samples.flow(2).shape == (12, 10, 2)
    assert frames.open(pairs).flow(0) is None
    np.savez(tmp_path / "b.npz", x=pairs, flow=np.zeros((4, 12, 10, 2)))
    with pytest.raises(UserError, match="as many as pairs"):
        frames.open(str(tmp_path / "b.npz"))


def test_still_images_stand_beside_what_is_trained_on(folder, tmp_path):
    stills = noise(7, 16, 16, 3, seed=9)
    np.save(tmp_path / "stills.npy", stills)
    samples = frames.open(str(folder / "left"), reading={"stills": str(tmp_path / "stills.npy")})
    chances = np.zeros(16)
    chances[15] = 3.5 / 7
    read = samples.read_part(0, chances)
    assert read.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(read[:2], samples.read(0))
    np.testing.assert_array_equal(read[2], stills[3])
    whole = frames.open("synthetic-frames", reading={"stills": str(tmp_path / "stills.npy")})
    assert whole.array is None, "else nothing would be read beside the pairs"


def test_simulated_flow_is_true():
    """Each pixel of the first frame is found where its flow leads, but where something came in between."""
    pairs, flows, labels = moving_shapes("test")
    assert pairs.shape == (192, 2, 64, 64, 3) and pairs.dtype == np.uint8
    assert np.bincount(labels).tolist() == [32] * 6 and len(CLASSES) == 6
    assert np.hypot(flows[..., 0], flows[..., 1]).max() <= 4.001
    from anyjepa.core.flow import inside, warp

    first, second = (torch.from_numpy(pairs[:, step]).double().permute(0, 3, 1, 2) for step in (0, 1))
    flow = torch.from_numpy(flows).double().permute(0, 3, 1, 2)
    seen = inside(flow)
    before, after = (((one - first).abs() * seen).mean() for one in (second, warp(second, flow)))
    assert after < 0.45 * before, "bilinear warping blurs what is finely textured"
    again = moving_shapes("val")[0]
    np.testing.assert_array_equal(pairs, again)
    assert not np.array_equal(pairs, moving_shapes(None)[0][:192])
    with pytest.raises(NoSplit):
        moving_shapes("other")


@pytest.mark.parametrize("name", BASELINES)
def test_opencv_finds_a_shift(name):
    pytest.importorskip("cv2")
    texture = noise(80, 80, 3, seed=4).astype(np.float32)
    smooth = np.stack(
        [Image.fromarray(texture[..., axis]).resize((240, 240), 3) for axis in range(3)], axis=2
    )
    pair = np.stack([smooth[50:150, 60:180], smooth[48:148, 57:177]]).clip(0, 255).astype(np.uint8)
    flow = BASELINES[name](pair)
    assert flow.shape == (100, 120, 2)
    inner = flow[20:-20, 20:-20]
    np.testing.assert_allclose(np.median(inner, axis=(0, 1)), [3, 2], atol=0.2)
    assert BASELINES[name](pair[:, :9, :11]).shape == (9, 11, 2)
    assert grey(pair.astype(np.float32)).dtype == np.uint8


def test_colours_of_flow_are_the_usual_ones():
    right, down, left, up = (
        np.full((1, 1, 2), step, np.float32) for step in ((1, 0), (0, 1), (-1, 0), (0, -1))
    )
    seen = [flow_colours(one, 1.0)[0, 0].tolist() for one in (right, down, left, up)]
    assert seen[0] == [255, 0, 0], "to the right is red"
    assert seen[1][0] > 240 and seen[1][1] > 200 and seen[1][2] == 0, "down is yellow"
    assert seen[2][0] == 0 and seen[2][2] > 240, "to the left is cyan to blue"
    assert seen[3][2] == 255 and 50 < seen[3][0] < 200, "up is violet"
    assert (flow_colours(np.zeros((2, 2, 2))) == 255).all(), "what stands still is white"
    unknown = np.full((1, 1, 2), np.nan)
    assert (flow_colours(unknown) == 128).all()
    assert flow_colours(0.5 * right, 1.0)[0, 0].tolist() == [255, 128, 128]
    assert wheel(9).shape == (9, 9, 3) and (wheel(9)[4, 4] == 255).all()
    np.testing.assert_array_equal(heat(np.array([[0.0, 1.0]]))[0], [[0, 0, 0], [255, 255, 255]])
    assert "&lt;b&gt;" in captioned([(wheel(9), "<b>")], 50)


def test_flying_chairs(data_folder):
    samples = frames.open(str(data_folder("flying_chairs")))
    assert len(samples) == 5 and samples.has_flow
    lengths = [np.hypot(*samples.flow(index).transpose(2, 0, 1)).mean() for index in range(5)]
    np.testing.assert_allclose(lengths, [6.1, 4.5, 4.4, 6.0, 25.6], atol=0.06)
    facts = frames.measure(samples)
    assert (facts["height"], facts["width"], facts["channels"], facts["known_flow"]) == (384, 512, 3, True)
    assert frames.likeness(samples) == 1.0
    pytest.importorskip("cv2")
    truth = torch.from_numpy(samples.flow(1).copy()).permute(2, 0, 1)[None]
    for function in BASELINES.values():
        found = torch.from_numpy(function(samples.read(1))).permute(2, 0, 1)[None]
        assert float(end_point_error(found, truth).mean()) < 0.7 * lengths[1]


def test_real_videos_are_cut_into_pairs(data_folder):
    pytest.importorskip("av")
    reading = {"fps": 10.0, "video_seconds": 1.0, "decode_side": 96}
    samples = frames.open(str(data_folder("video_asl_gestures")), reading=reading)
    assert len(samples) > 40 and not samples.has_flow
    pair = samples.read(0)
    assert pair.shape == (2, 96, 128, 3)
    assert 0 < np.abs(pair[1].astype(int) - pair[0]).mean() < 40
    assert len(set(samples.groups)) == len(samples.store)
