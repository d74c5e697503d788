"""Trajectories from simulation, arrays, folders of episodes and LeRobot data sets, whole and damaged."""

import io
import json

import numpy as np
import pytest
from damaged import Part, withstands

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.poses import differences
from anyjepa.domains import domains
from anyjepa.domains.control_samples import actions_of
from anyjepa.domains.control_world import BASE, EDGE, LINK, REACH, ReachWorld, _elbow, reaching
from anyjepa.recipes import recipe

FEW = pytest.mark.parametrize("examples", [25, pytest.param(300, marks=pytest.mark.slow)])
READING = recipe("v-jepa-2-ac").preset("tiny", frames=4).reading()
CONTROL = domains()["control"]


def episode(frames=9, seed=0, numbers=2):
    random = np.random.default_rng(seed)
    states = random.normal(size=(frames, numbers)).astype(np.float32).cumsum(0)
    video = np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 16, 16, 3))
    return {"video": video.copy(), "states": states, "actions": np.diff(states, axis=0)}


def archived(**arrays):
    target = io.BytesIO()
    np.savez_compressed(target, **arrays)
    return target.getvalue()


def test_the_simulated_arm_obeys():
    world = ReachWorld(20, np.random.default_rng(0))
    before = world.state.copy()
    after = world.act(np.full((20, 2), [0.05, -0.03]))
    free = (before[:, 0] < 1 - EDGE - 0.05) & (before[:, 1] > EDGE + 0.03)
    np.testing.assert_allclose((after - before)[free], [[0.05, -0.03]] * free.sum(), atol=1e-6)
    for _ in range(30):
        world.act(np.full((20, 2), 5.0))
    np.testing.assert_allclose(world.state, 1 - EDGE, atol=1e-6)
    # both links are as long as they are, wherever the hand is
    hand = ReachWorld.somewhere(np.random.default_rng(1), 500)
    elbow = _elbow(hand)
    np.testing.assert_allclose(np.linalg.norm(elbow - BASE, axis=1), LINK, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(elbow - hand, axis=1), LINK, atol=1e-6)


def test_the_hand_is_where_the_state_says():
    world = ReachWorld(64, np.random.default_rng(0))
    seen = world.seen().astype(float)
    # what is red there is the hand
    redness = np.clip(seen[..., 0] - seen[..., 1:].max(-1) - 60, 0, None)
    redness *= (np.abs(world.tables[..., 0] - seen[..., 0]) > 5) | (seen[..., 0] > 200)
    column, row = (np.tensordot(redness.sum(axis), np.arange(32) + 0.5, 1) for axis in (1, 2))
    total = redness.sum((1, 2))
    place = np.stack([column / total / 32, 1 - row / total / 32], 1)
    inside = (np.abs(world.state - 0.5) < 0.25).all(1)
    assert np.median(np.linalg.norm(place - world.state, axis=1)[inside]) < 0.06


def test_episodes_are_always_the_same_and_differ_by_split():
    one, again, other = reaching(None, 4), reaching("train", 4), reaching("test", 4)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0][:128], other[0])
    video, states, actions, stopped = one
    assert (video.shape, states.shape, actions.shape) == ((512, 4, 32, 32, 3), (512, 4, 2), (512, 3, 2))
    assert np.abs(actions).max() <= REACH + 1e-6
    moved = states[:, -1] - states[:, -2]
    assert np.array_equal(np.abs(moved - actions[:, -1]).max(1) > 1e-4, stopped.astype(bool))
    assert 0.1 < stopped.mean() < 0.5


def test_an_array_of_trajectories(tmp_path):
    episodes = [episode(seed=n) for n in range(5)]
    arrays = {name: np.stack([one[name] for one in episodes]) for name in episodes[0]}
    np.savez(tmp_path / "a.npz", **arrays, y=np.array([0, 1, 0, 1, 1]), rate=4.0)
    samples = CONTROL.open(str(tmp_path / "a.npz"), reading=READING)
    assert len(samples) == 10, "nine frames are two clips of four"
    assert samples.groups.tolist() == [str(n) for n in range(5) for _ in range(2)]
    assert samples.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 1, 1]
    clip = samples.read(3)
    numbers = clip["video"][:, 0, 0, 0]
    assert (np.diff(numbers) == 1).all()
    np.testing.assert_array_equal(clip["states"], arrays["states"][1][numbers])
    np.testing.assert_array_equal(clip["actions"], arrays["actions"][1][numbers[:-1]])
    starts = {int(samples.read_part(0, np.full(16, c))["video"][0, 0, 0, 0]) for c in (0.0, 0.5, 0.999)}
    assert starts == {0}, "a piece of four frames has one clip of four"
    third = CONTROL.open(str(tmp_path / "a.npz"), reading={**READING, "fps": 2.0, "motion": "sum"})
    clip = third.read(0)
    assert (np.diff(clip["video"][:, 0, 0, 0]) == 2).all(), "every second frame"
    np.testing.assert_allclose(clip["actions"], np.diff(clip["states"], axis=0), atol=1e-5)
    with pytest.raises(UserError, match="--fps 0"):
        CONTROL.open(str(tmp_path / "a.npz"), reading={**READING, "fps": 2.0})


def test_pieces_of_a_trajectory_do_not_overlap_and_reach_its_end(tmp_path):
    np.savez(tmp_path / "a.npz", **{name: value[None] for name, value in episode(31).items()})
    samples = CONTROL.open(str(tmp_path / "a.npz"), reading=READING)
    parts = [np.full(16, chance) for chance in np.linspace(0, 0.999, 40)]
    clips = [[samples.read_part(piece, part) for part in parts] for piece in range(len(samples))]
    seen = [{int(n) for clip in piece for n in clip["video"][:, 0, 0, 0]} for piece in clips]
    assert set().union(*seen) == set(range(31))
    assert sum(map(len, seen)) == 31


def test_a_folder_of_episodes(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.npz").write_bytes(archived(**episode(seed=number)))
    (tmp_path / "short.npz").write_bytes(archived(**episode(2)))
    (tmp_path / "no.npz").write_bytes(archived(video=np.zeros((9, 4, 4, 3), np.uint8)))
    broken = episode()
    broken["states"][6] = np.nan
    (tmp_path / "nan.npz").write_bytes(archived(**broken))
    samples = CONTROL.open(str(tmp_path), reading=READING)
    assert sorted((p.identity, p.reason) for p in samples.problems) == [
        ("no.npz", "lacks states"),
        ("short.npz", "has 2 frames, and a clip is 4 of them (--frames, --fps)"),
    ]
    names = [samples.identity(index) for index in range(len(samples))]
    assert names[0] == "0.npz#0-4"
    with pytest.raises(BadSample, match=r"nan\.npz"):
        samples.read(names.index("nan.npz#4-9"))


def test_actions_between_poses():
    random = np.random.default_rng(0)
    parts = random.normal(size=(5, 3)), random.uniform(-1, 1, (5, 3)), random.random((5, 1))
    poses = np.concatenate(parts, 1)
    import torch

    wanted = differences(torch.from_numpy(poses)).float().numpy()
    np.testing.assert_allclose(actions_of(poses, "pose"), wanted)
    with pytest.raises(ValueError, match="no pose"):
        actions_of(poses[:, :6], "pose")


def test_measures_are_those_of_all_clips():
    samples = CONTROL.open("synthetic-reach", reading={**READING, "frames": 8})
    facts = CONTROL.measure(samples)
    assert (facts["channels"], facts["height"], facts["clip_frames"]) == (3, 32, 8)
    assert facts["action_low"] == pytest.approx([-REACH] * 2, abs=1e-6)
    np.testing.assert_allclose(facts["state_mean"], samples.array["states"].mean((0, 1)), atol=0.05)
    batch = recipe("v-jepa-2-ac").preset("tiny").present(samples.array[:3])
    assert CONTROL.raw(batch, facts).shape == (3, 3 * 8 * 16 * 16 + 16 + 14)
    assert "<svg" in CONTROL.figure(batch, 0, facts)


def test_a_lerobot_data_set(data_folder):
    folder = str(data_folder("robot_g1_lerobot"))
    asked = recipe("v-jepa-2-ac").preset("tiny", motion="sum", fps=4.0).reading()
    samples = CONTROL.open(folder, reading=asked)
    assert {p.reason.split("/")[0] for p in samples.problems} == {"lacks videos"}
    assert len(samples.problems) == 59, "one of sixty episodes has its video"
    assert set(samples.groups) == {"episode_000029"}
    clip = samples.read(0)
    assert clip["video"].shape[0] == 8 and clip["video"].shape[3] == 3
    assert clip["states"].shape == (8, 26) and clip["actions"].shape == (7, 26)
    assert np.abs(np.diff(clip["video"].astype(float), axis=0)).mean() > 0.1
    given = CONTROL.open(folder, reading={**asked, "motion": "given", "fps": 0.0})
    assert np.abs(given.read(0)["actions"] - given.read(0)["states"][:-1]).mean() < 0.1
    with pytest.raises(UserError, match="Did you mean 'observation"):
        CONTROL.open(folder, reading={**asked, "state_name": "observation.stat"})


@FEW
def test_damaged_episodes(tmp_path, examples):
    arrays = {name: value[None] for name, value in episode().items()}
    plain = io.BytesIO()
    np.save(plain, episode()["states"])

    def zipped(content):
        target = io.BytesIO()
        import zipfile

        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, value in episode().items():
                if name != "states":
                    member = io.BytesIO()
                    np.save(member, value)
                    archive.writestr(f"{name}.npy", member.getvalue())
            archive.writestr("states.npy", content)
        return target.getvalue()

    withstands("control", tmp_path / "a", {"a.npz": archived(**arrays)}, examples=examples, reading=READING)
    parts = {"b/0.npz": Part(plain.getvalue(), zipped)}
    withstands("control", tmp_path / "b", parts, "{}/b", examples=examples, reading=READING)


@FEW
def test_a_damaged_lerobot_data_set(tmp_path, examples):
    av = pytest.importorskip("av")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    target, one = io.BytesIO(), episode()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for picture in one["video"]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    table = io.BytesIO()
    parquet.write_table(arrow.table({"observation.state": list(one["states"])}), table)
    about = {
        "fps": 4, "chunks_size": 10, "total_episodes": 1,
        "data_path": "data/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {"observation.state": {"dtype": "float32"}, "cam": {"dtype": "video"}},
    }  # fmt: skip
    parts = {
        "set/meta/info.json": json.dumps(about).encode(),
        "set/data/episode_000000.parquet": Part(table.getvalue(), asks=True),
        "set/videos/cam/episode_000000.mp4": target.getvalue(),
    }
    reading = {**READING, "motion": "sum"}
    withstands("control", tmp_path, parts, "{}/set", examples=examples, reading=reading)
