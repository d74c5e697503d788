"""Videos: sampled by time, decoded only where needed, whatever they come as; the damaged are named."""

import shutil

import av
import numpy as np
import pytest
import torch
from PIL import Image

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import domains
from anyjepa.domains.sources import NoSplit
from anyjepa.domains.video_files import read_frames, read_header
from anyjepa.domains.video_simulation import CLASSES, drifting_patterns
from anyjepa.domains.video_sources import open_videos
from anyjepa.domains.video_strips import film_strip, painted

READING = {"frames": 4, "fps": 5.0, "video_seconds": 10.0}


def write_video(path, levels, rate=10, side=(32, 48), codec="libx264", key=250):
    """A video whose frame n is grey of `levels[n]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = side
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.gop_size = key
        for level in levels:
            picture = np.full((*side, 3), level, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def levels_of(clip):
    return [int(frame.mean().round()) for frame in clip]


LEVELS = [10 + 4 * n for n in range(50)]  # five seconds at 10 Hz


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("a.gif", "gif"),
    ],
)
def test_frames_are_those_shown_at_the_time(tmp_path, name, codec):
    path = write_video(tmp_path / name, LEVELS, codec=codec)
    header = read_header(str(path), name)
    assert header.seconds == pytest.approx(5.0, abs=0.11)
    times = np.array([1.04, 1.35, 2.0, 4.9, 7.0])
    wanted = [LEVELS[10], LEVELS[13], LEVELS[20], LEVELS[49], LEVELS[49]]
    clip = read_frames(str(path), name, times[:4])
    # eight colours of red and green are all that GIF's plain palette has
    assert np.abs(np.subtract(levels_of(clip), wanted[:4])).max() <= (40 if codec == "gif" else 4)
    assert clip.shape == (4, 32, 48, 3)
    content = path.read_bytes()
    np.testing.assert_array_equal(read_frames(content, name, times[:4]), clip)


def test_the_same_moment_whatever_the_rate(tmp_path):
    slow = write_video(tmp_path / "slow.mp4", LEVELS, rate=10)
    fast = write_video(tmp_path / "fast.mp4", np.repeat(LEVELS, 3), rate=30)
    times = 0.52 + np.arange(8) / 4
    there = [read_frames(str(path), "x", times) for path in (slow, fast)]
    assert np.abs(np.subtract(*map(levels_of, there))).max() <= 2


def test_only_from_the_key_frame_before(tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", np.arange(600) % 200, rate=10, key=20)
    decoded = []
    to_ndarray = av.VideoFrame.to_ndarray
    monkeypatch.setattr(
        "anyjepa.domains.video_files._picture",
        lambda frame, side: decoded.append(frame.time) or to_ndarray(frame, format="rgb24"),
    )
    clip = read_frames(str(path), "x", np.array([55.0, 55.4]))
    assert levels_of(clip) == pytest.approx([550 % 200, 554 % 200], abs=3)
    assert decoded == pytest.approx([55.0, 55.4])


def test_frames_are_scaled_down_as_they_are_decoded(tmp_path):
    path = write_video(tmp_path / "a.mp4", LEVELS, side=(64, 96))
    assert read_frames(str(path), "x", np.zeros(1), 16).shape == (1, 16, 24, 3)
    assert read_frames(str(path), "x", np.zeros(1), 200).shape == (1, 64, 96, 3)


def test_a_folder_of_classes_splits_and_long_videos(tmp_path):
    for split in ("train", "test"):
        for name in ("run", "walk"):
            write_video(tmp_path / split / name / "1.mp4", LEVELS)
    write_video(tmp_path / "train" / "walk" / "2.mkv", [100] * 260)
    samples = open_videos(str(tmp_path), None, None, READING)
    assert samples.classes == ["run", "walk"]
    assert [samples.identity(i) for i in range(4)] == [
        "run/1.mp4", "walk/1.mp4", "walk/2.mkv#t=0.00,13.00", "walk/2.mkv#t=13.00,26.00",
    ]  # fmt: skip
    assert samples.labels.tolist() == [0, 1, 1, 1]
    assert samples.groups[2] == samples.groups[3] == "walk/2.mkv"
    assert len(open_videos(str(tmp_path), None, "test", READING)) == 2
    clip = samples.read(0)
    assert levels_of(clip) == pytest.approx([LEVELS[n] for n in (21, 23, 25, 27)], abs=3)
    uniforms = np.full(16, 0.999)
    assert levels_of(samples.read_part(0, uniforms))[-1] > LEVELS[45]
    assert samples.fingerprint() == open_videos(str(tmp_path), None, None, READING).fingerprint()
    with pytest.raises(NoSplit):
        open_videos(str(tmp_path / "train"), None, "test", READING)


def test_damaged_and_short_videos_are_named(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", LEVELS)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.mkv").write_bytes(b"")
    write_video(tmp_path / "blink.mp4", LEVELS[:3])
    whole = write_video(tmp_path / "cut.mkv", list(np.random.default_rng(0).integers(0, 255, 300)), key=10)
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 3])
    samples = open_videos(str(tmp_path), None, None, READING)
    problems = {problem.identity: problem.reason for problem in samples.problems}
    assert problems.keys() == {"noise.mp4", "empty.mkv", "blink.mp4"}
    assert "--fps" in problems["blink.mp4"]
    last = [samples.identity(i) for i in range(len(samples))].index("cut.mkv#t=20.00,30.00")
    with pytest.raises(BadSample, match=r"breaks off|cut off"):
        samples.read(last)


def test_nothing_usable_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no video"):
        open_videos(str(tmp_path))
    (tmp_path / "noise.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"holds no usable video, for instance noise.mp4"):
        open_videos(str(tmp_path))
    with pytest.raises(UserError, match="synthetic-video"):
        open_videos("synthetic-vidoe")
    (tmp_path / "x.docx").write_bytes(b"")
    with pytest.raises(UserError, match="no video, list or array"):
        open_videos(str(tmp_path / "x.docx"))


def write_images(folder, levels):
    folder.mkdir(parents=True)
    for number, level in enumerate(levels):
        Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(folder / f"frame{number}.png")


def test_image_sequences_in_the_order_of_their_numbers(tmp_path):
    for name in ("a/one", "b/two"):
        write_images(tmp_path / name, range(0, 240, 20))
    samples = open_videos(str(tmp_path), None, None, {**READING, "frame_rate": 10.0})
    assert [samples.identity(i) for i in range(2)] == ["a/one", "b/two"]
    assert samples.classes == ["a", "b"]
    assert samples.description == "2 image sequences"
    assert levels_of(samples.read_part(0, np.zeros(16))) == [0, 40, 80, 120]
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "b" / "two" / "frame6.png")
    with pytest.raises(BadSample, match="one size"):
        samples.read(1)


def test_images_are_videos_of_one_frame(tmp_path):
    for name in ("a", "b"):
        write_images(tmp_path / name, [50, 60])
    samples = open_videos(f"images:{tmp_path}", None, None, READING)
    assert len(samples) == 4
    assert samples.labels.tolist() == [0, 0, 1, 1]
    assert samples.read(1).shape == (1, 20, 30, 3)
    array = open_videos(np.zeros((3, 20, 30, 3), np.uint8), reading=READING)
    assert array.read(0).shape == (1, 20, 30, 3)


def test_lists_of_files_with_labels(tmp_path):
    write_video(tmp_path / "one two.mp4", LEVELS)
    write_video(tmp_path / "three.mp4", LEVELS)
    for name, text in (
        ("a.csv", "path,label\none two.mp4,wave\nthree.mp4,nod\nmissing.mp4,nod\n"),
        ("a.txt", "one two.mp4 1\nthree.mp4 0\nmissing.mp4 0\n"),
    ):
        (tmp_path / name).write_text(text)
        samples = open_videos(str(tmp_path / name), None, None, READING)
        assert [samples.identity(i) for i in range(2)] == ["one two.mp4", "three.mp4"]
        assert samples.labels.tolist() == [1, 0]
        assert [problem.identity for problem in samples.problems] == ["missing.mp4"]


def test_labels_and_groups_from_a_file(tmp_path):
    write_video(tmp_path / "v" / "a.mp4", LEVELS)
    write_video(tmp_path / "v" / "b.mp4", LEVELS)
    (tmp_path / "labels.csv").write_text("id,label,group\na,yes,ann\nb,no,\n")
    samples = open_videos(str(tmp_path / "v"), str(tmp_path / "labels.csv"), None, READING)
    assert [samples.classes[label] for label in samples.labels] == ["yes", "no"]
    assert samples.groups.tolist() == ["ann", "b.mp4"]


def test_arrays_of_any_layout(tmp_path):
    random = np.random.default_rng(0)
    clips = random.integers(0, 255, (5, 4, 8, 10, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=clips, y_train=np.arange(5) % 2, x_test=clips[:2], y_test=[0, 1])
    samples = open_videos(str(tmp_path / "a.npz"), reading=READING)
    np.testing.assert_array_equal(samples.array, clips)
    assert samples.labels.tolist() == [0, 1, 0, 1, 0]
    assert len(open_videos(str(tmp_path / "a.npz"), split="test", reading=READING)) == 2
    np.save(tmp_path / "a.npy", clips.transpose(0, 1, 4, 2, 3))
    np.testing.assert_array_equal(open_videos(str(tmp_path / "a.npy"), reading=READING).array, clips)
    grey = open_videos(clips[..., 0], reading=READING)
    assert grey.read(0).shape == (4, 8, 10, 1)
    colour = open_videos(clips[..., 0], reading={**READING, "channels": 3})
    assert colour.read(0).shape == (4, 8, 10, 3)
    assert open_videos(clips, reading={**READING, "channels": 1}).read(0).shape == (4, 8, 10, 1)
    with pytest.raises(UserError, match="shape"):
        open_videos(clips[0, 0, 0])


def test_a_rate_of_an_array_is_brought_to_the_one_wanted(tmp_path):
    clips = np.arange(12, dtype=np.uint8)[None, :, None, None, None] * np.ones((2, 1, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x=clips, rate=15.0)
    samples = open_videos(str(tmp_path / "a.npz"), reading=READING)
    assert samples.array is None
    assert levels_of(samples.read_part(0, np.zeros(16))) == [0, 3, 6, 9]


def test_floats_that_are_not_finite_are_damaged():
    clips = np.zeros((3, 4, 8, 8, 3), np.float32)
    clips[1, 2, 3, 3] = np.nan
    samples = open_videos(clips, reading=READING)
    with pytest.raises(BadSample):
        samples.read(1)
    assert np.isfinite(domains()["video"].measure(samples)["mean"]).all()


def test_simulated_motion_is_what_its_label_says():
    clips, labels = drifting_patterns("test", 8, 8.0)
    assert clips.shape == (256, 8, 32, 32, 1)
    assert np.bincount(labels).tolist() == [32] * 8
    np.testing.assert_array_equal(drifting_patterns("test", 8, 8.0)[0], clips)
    steps = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
    for speed, pixels in (("slow", 1), ("fast", 3)):
        for name, (down, across) in steps.items():
            chosen = clips[labels == CLASSES.index(f"{speed} {name}")].astype(float)
            before, after = chosen[:, :-1, ..., 0], chosen[:, 1:, ..., 0]
            errors = [
                np.abs(
                    np.roll(before, (by * pixels * down, by * pixels * across), axis=(2, 3)) - after
                ).mean()
                for by in (1, 0, -1)
            ]
            assert errors[0] < min(errors[1:])
    with pytest.raises(NoSplit):
        drifting_patterns("other", 8, 8.0)


def test_measured_facts_and_noise_of_the_same_statistics():
    domain = domains()["video"]
    samples = domain.open("synthetic-video", reading={"frames": 8, "fps": 8.0})
    facts = domain.measure(samples)
    assert (facts["channels"], facts["height"], facts["width"], facts["clip_frames"]) == (1, 32, 32, 8)
    assert facts["mean"] == pytest.approx([samples.array.mean()], rel=0.1)
    noise = np.stack(domain.noise(facts, 4))
    assert noise.shape == (4, 8, 32, 32, 1)
    assert noise.std() == pytest.approx(np.mean(facts["std"]), rel=0.1)
    raw = domain.raw({"video": torch.from_numpy(samples.array[:2]).movedim(4, 1)}, facts)
    assert raw.shape == (2, 8 * 256 + 7 * 256)


def test_a_film_strip_shades_tubelets():
    clip = np.zeros((3, 4, 16, 16), np.uint8)
    colours = np.full((8, 3), np.nan)
    colours[4 + 1] = (1.0, 0.0, 0.0)  # second slice of time, top right of 2 x 2
    frames = painted(clip, colours, 2)
    red = (frames[..., 0] == 255).nonzero()
    assert set(red[0]) == {2, 3}
    assert set(red[1]) == set(range(8))
    assert set(red[2]) == set(range(8, 16))
    strip = film_strip(clip, 4.0, colours)
    assert strip.count("<text") == 4
    assert "0.75 s" in strip
    assert "<script" not in strip
    assert strip.count("http") == 0
    with pytest.raises(ValueError, match="slices"):
        painted(clip, colours[:7], 2)
    batch = {"video": torch.zeros(1, 3, 8, 16, 16)}
    picture = domains()["video"].picture(batch, 0, {"tubelet": 2})
    assert picture.dtype == np.uint8
    assert picture.shape == (96, 96, 3)


def test_real_gestures(data_folder, tmp_path):
    folder = data_folder("video_asl_gestures")
    reading = {"frames": 16, "fps": 7.5, "decode_side": 48}
    samples = open_videos(str(folder), None, None, reading)
    names = [samples.identity(i) for i in range(len(samples))]
    assert "book.mkv" in names
    assert sum(name.startswith("extra/") for name in names) == 3 + 3
    assert not samples.problems
    clip = samples.read(names.index("book.mkv"))
    assert clip.shape == (16, 48, 64, 3)
    # the whole video, decoded frame by frame
    with av.open(str(folder / "book.mkv")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    start = (len(frames) / 30 - 16 / 7.5) / 2
    for place, number in enumerate(np.floor((start + np.arange(16) / 7.5) * 30 + 1e-3).astype(int)):
        large = frames[number].astype(float).reshape(48, 10, 64, 10, 3).mean(axis=(1, 3))
        assert np.abs(large - clip[place]).mean() < 3
    shutil.copy(folder / "book.mkv", tmp_path / "a.mkv")
    assert len(open_videos(str(tmp_path / "a.mkv"), None, None, reading)) == 1
