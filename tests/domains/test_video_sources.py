"""Videos in tar shards, hub data sets and HDF5 files, in every container, and several clips of one."""

import io
import tarfile
from fractions import Fraction

import numpy as np
import pytest
import torch
from damaged import Part, withstands

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import domains
from anyjepa.recipes import recipe

av = pytest.importorskip("av")
VIDEO = domains()["video"]
READING = recipe("v-jepa").preset("tiny").reading()
CODECS = {"mp4": "mpeg4", "mkv": "mjpeg", "webm": "libvpx", "gif": "gif"}
FEW = pytest.mark.parametrize("examples", [25, pytest.param(300, marks=pytest.mark.slow)])


def video(ending: str, frames: int = 24, rate: int = 8) -> bytes:
    """Frames that grow brighter, so that a frame's time can be read off it."""
    target = io.BytesIO()
    with av.open(target, "w", format={"mkv": "matroska"}.get(ending, ending)) as container:
        stream = container.add_stream(CODECS[ending], rate=rate)
        stream.width, stream.height = 32, 32
        stream.pix_fmt = {"gif": "rgb8", "mkv": "yuvj420p"}.get(ending, "yuv420p")
        stream.codec_context.time_base = Fraction(1, rate)
        for number in range(frames):
            picture = np.full((32, 32, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()


def shard(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def brightness(clip: np.ndarray) -> np.ndarray:
    return clip.astype(float).mean((1, 2, 3)) / 10


def test_videos_in_shards(tmp_path):
    members = {}
    for ending in CODECS:
        members |= {f"{ending}1.{ending}": video(ending), f"{ending}1.cls": str(len(ending) % 2).encode()}
    members |= {"none.cls": b"1", "broken.mp4": b"no video", "broken.cls": b"0"}
    (tmp_path / "a.tar").write_bytes(shard(members))
    samples = VIDEO.open(f"wds:{tmp_path}/a.tar", reading=READING)
    names = [samples.identity(index) for index in range(len(samples))]
    assert sorted(names) == ["gif1", "mkv1", "mp41", "webm1"]
    assert {p.identity for p in samples.problems} == {"none", "broken"}
    assert samples.labels.tolist() == [len(name[:-1]) % 2 for name in names]
    for index in range(len(samples)):
        # the middle second of three
        np.testing.assert_allclose(brightness(samples.read(index)), np.arange(8, 16), atol=1.2)
    facts = VIDEO.measure(samples)
    assert (facts["height"], facts["clip_frames"]) == (32, 8)
    (tmp_path / "b.tar").write_bytes(shard({"a.txt": b"x"}))
    with pytest.raises(UserError, match="holds no video"):
        VIDEO.open(f"wds:{tmp_path}/b.tar", reading=READING)


def test_packed_videos_are_measured(tmp_path):
    import anyjepa

    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (6, 8, 16, 16, 3), np.uint8))
    anyjepa.pack(str(tmp_path / "a.npy"), tmp_path / "pack", domain="video", recipe_name="v-jepa")
    packed = VIDEO.open(f"wds:{tmp_path}/pack", reading=READING)
    whole = VIDEO.open(str(tmp_path / "a.npy"), reading=READING)
    assert VIDEO.measure(packed) == VIDEO.measure(whole)
    np.testing.assert_array_equal(packed.read(3), whole.read(3))


def test_videos_of_a_hub_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"video": [video("mp4"), video("webm"), b""], "label": ["a", "b", "a"]}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "set" / "train.parquet"))
    samples = VIDEO.open(f"hf:{tmp_path}/set", reading=READING)
    assert (len(samples), samples.classes) == (2, ["a", "b"])
    assert [p.identity for p in samples.problems] == ["2"]
    np.testing.assert_allclose(brightness(samples.read(1)), np.arange(8, 16), atol=1.2)


def test_clips_in_a_hdf5_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    clips = np.random.default_rng(0).integers(0, 256, (5, 12, 16, 16, 3), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"], file["rate"] = clips, np.array([0, 1, 0, 1, 1]), 8.0
    samples = VIDEO.open(str(tmp_path / "a.h5"), reading=READING)
    assert samples.labels.tolist() == [0, 1, 0, 1, 1]
    np.testing.assert_array_equal(samples.read(2), clips[2, 2:10])
    np.testing.assert_array_equal(samples.read_part(2, np.full(16, 0.0)), clips[2, :8])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = np.zeros((3, 4))
    with pytest.raises(UserError, match="no array of clips"):
        VIDEO.open(str(tmp_path / "b.h5"), reading=READING)


def test_an_embedding_is_the_average_over_clips():
    fields = {"width": 24, "depth": 1, "heads": 2, "predictor_width": 24, "predictor_depth": 1,
              "predictor_heads": 2}  # fmt: skip
    kind = recipe("v-jepa").preset("tiny", clips=3, **fields)
    clips = np.random.default_rng(0).integers(0, 256, (2, 40, 32, 32, 3), np.uint8)
    samples = VIDEO.open(clips, reading=kind.reading())
    whole = samples.read(1)
    room = 40 - 8
    starts = [int((number + 0.5) / 3 * room) for number in range(3)]
    np.testing.assert_array_equal(whole, np.concatenate([clips[1, start : start + 8] for start in starts]))
    torch.manual_seed(0)
    method = kind.method(VIDEO.measure(samples)).eval()
    alone = torch.stack(
        [method.embed(kind.present([clips[1, start : start + 8]])) for start in starts]
    ).mean(0)  # fmt: skip
    together = kind.present([samples.read(0), whole])
    torch.testing.assert_close(method.embed(together)[1:], alone)
    tokens = method.tokens(together)
    assert tokens.values.shape[1] == 3 * 64
    assert tokens.coordinates[0, 64].tolist() == [4.0, 0.0, 0.0]
    assert samples.read_part(0, np.full(16, 0.3)).shape[0] == 8, "training sees one clip"
    with pytest.raises(UserError, match="--clips"):
        recipe("v-jepa").preset("tiny", clips=0)


@FEW
def test_damaged_shards_and_hdf5_files(tmp_path, examples):
    h5py = pytest.importorskip("h5py")
    content = shard({"a.mp4": video("mp4"), "a.cls": b"1", "b.webm": video("webm"), "b.cls": b"0"})
    source = "wds:{}/a.tar"
    withstands("video", tmp_path / "a", {"a.tar": content}, source, examples=examples, reading=READING)
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        file.create_dataset("x", data=np.zeros((4, 8, 16, 16, 3), np.uint8), compression="gzip")
    part = Part(target.getvalue(), asks=True)
    withstands("video", tmp_path / "b", {"a.h5": part}, examples=examples, reading=READING)


def test_a_shard_that_becomes_shorter(tmp_path):
    (tmp_path / "a.tar").write_bytes(shard({"a.mp4": video("mp4")}))
    samples = VIDEO.open(f"wds:{tmp_path}/a.tar", reading=READING)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(BadSample, match="shorter"):
        samples.read(0)
