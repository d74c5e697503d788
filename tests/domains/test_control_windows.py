"""Windows of episodes, from LeRobot's folders, HDF5, arrays and simulation, whole and damaged."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged import Part, withstands
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.errors import UserError
from anyjepa.domains import domains
from anyjepa.domains.control_episodes import open_windows
from anyjepa.domains.control_pendulum import CLASSES, UPRIGHT, Pendulums, expert, swinging
from anyjepa.domains.control_windows import Episode, Window, WindowSamples, window_of
from anyjepa.domains.sources import NoSplit
from anyjepa.recipes import recipe

CONTROL = domains()["control"]
READING = {"chunk": 4}
FEW = pytest.mark.parametrize("examples", [20, pytest.param(300, marks=pytest.mark.slow)])


def rows(long=6, seed=0, states=3, actions=2):
    random = np.random.default_rng(seed)
    return random.normal(size=(long, states)).astype(np.float32), random.normal(size=(long, actions)).astype(
        np.float32
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 8))
def test_windows_never_leave_their_episode(lengths, chunk):
    episodes = []
    for number, long in enumerate(lengths):
        # states say which episode and step they are of
        states = np.stack([np.full(long, number), np.arange(long)], 1).astype(np.float32)
        episodes.append(Episode(str(number), states, states[:, :1] * 0 + number))
    samples = WindowSamples("here", episodes, "episodes", Window(chunk))
    assert len(samples) == sum(lengths)
    index = 0
    for number, long in enumerate(lengths):
        for step in range(long):
            one = samples.read(index)
            valid = ~one["padded"]
            assert valid.sum() == min(chunk, long - step)
            assert valid[: valid.sum()].all(), "padding is at the end"
            assert (one["states"][:, 0] == number).all()
            np.testing.assert_array_equal(one["states"][valid, 1], np.arange(step, step + valid.sum()))
            assert (one["states"][~valid, 1] == long - 1).all()
            assert samples.identity(index) == f"{number}#{step}"
            assert samples.groups[index] == str(number)
            index += 1


def test_the_last_step_has_itself_alone():
    states, actions = rows(50)
    one = window_of(states, actions, 30, 49)
    assert one["padded"].tolist() == [False] + [True] * 29


def test_the_simulated_pendulum_is_gymnasiums():
    gymnasium = pytest.importorskip("gymnasium")
    world = gymnasium.make("Pendulum-v1").unwrapped
    ours = Pendulums(1, np.random.default_rng(0))
    world.reset(seed=0)
    world.state = np.array([ours.angle[0], ours.speed[0]])
    random = np.random.default_rng(1)
    for _ in range(60):
        torque = random.uniform(-3, 3, 1)
        seen, *_ = world.step(torque)
        ours.act(torque)
        np.testing.assert_allclose(ours.state[0], seen, atol=1e-5)


def test_the_expert_swings_up_from_anywhere():
    world = Pendulums(200, np.random.default_rng(5))
    for _ in range(200):
        world.act(expert(world.state)[:, 0])
    assert (world.state[:, 0] > 0.99).all()


def test_simulated_episodes_are_always_the_same_and_labels_tell_what_follows():
    (states, actions, labels), again = swinging("train"), swinging(None)
    assert all(np.array_equal(a, b) for a, b in zip((states, actions, labels), again, strict=True))
    test, *_ = swinging("test")
    assert not set(states[:, 0, 2].tolist()) & set(test[:, 0, 2].tolist())
    up = states[:, :, 0] > UPRIGHT
    for step in (0, 7, 15):
        ahead = up[:, step:]
        known = ahead.any(1)
        # a class begins right behind the last step of the one before
        wanted = np.minimum(np.ceil(ahead.argmax(1) / 6), 7)
        np.testing.assert_array_equal(labels[known, step], wanted[known])
    assert (np.bincount(labels.ravel()) / labels.size > 0.01).all()
    samples = CONTROL.open("synthetic-pendulum", reading={"chunk": 16})
    assert samples.classes == CLASSES
    assert samples.array is not None
    with pytest.raises(NoSplit):
        CONTROL.open("synthetic-pendulum", split="night", reading={"chunk": 16})
    with pytest.raises(UserError, match="synthetic-pendulum"):
        CONTROL.open("synthetic-pendlum", reading={"chunk": 16})


def lerobot(root, version, episodes, seed=0, damaged=()):
    """A folder as LeRobot writes it, without pictures."""
    third = version.startswith("v3")
    paths = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    if not third:
        paths = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    kinds = {"observation.state": "float32", "action": "float32"}
    about = {
        "codebase_version": version, "fps": 10, "total_episodes": len(episodes), "chunks_size": 1000,
        "data_path": paths, "video_path": None, "splits": {"train": "0:2", "test": "2:3"},
        "features": {name: {"dtype": kind, "shape": [2]} for name, kind in kinds.items()},
    }  # fmt: skip
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(about))
    tables = []
    for number, (states, actions) in enumerate(episodes):
        table = pa.table({
            "observation.state": pa.array(states.tolist(), pa.list_(pa.float32())),
            "action": pa.array(actions.tolist(), pa.list_(pa.float32())),
            "episode_index": np.full(len(states), number), "task_index": np.full(len(states), number % 2),
        })  # fmt: skip
        tables.append(table)
        if not third:
            pq.write_table(table, root / "data" / "chunk-000" / f"episode_{number:06d}.parquet")
    if third:
        for file, part in ((0, tables[:2]), (1, tables[2:])):
            pq.write_table(pa.concat_tables(part), root / "data" / "chunk-000" / f"file-{file:03d}.parquet")
        said = [
            {"episode_index": n, "length": len(one), "data/chunk_index": 0, "data/file_index": int(n > 1)}
            for n, one in enumerate(tables)
        ]
        pq.write_table(
            pa.Table.from_pylist(said), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        )
    return root


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_both_layouts_of_lerobot_hold_the_same(tmp_path, version):
    episodes = [rows(5 + n, n) for n in range(3)]
    root = lerobot(tmp_path / "set", version, episodes)
    samples = CONTROL.open(str(root), reading=READING)
    assert len(samples) == 11, "its first two episodes are for training"
    assert samples.rate == 10
    np.testing.assert_array_equal(samples.read(5)["states"], episodes[1][0][:4])
    np.testing.assert_array_equal(samples.read(1)["actions"], episodes[0][1][1:5])
    assert [int(samples.read(index)["task"]) for index in (0, 5)] == [0, 1]
    test = CONTROL.open(str(root), split="test", reading=READING)
    assert (len(test), test.identity(0)) == (7, "episode_000002#0")
    with pytest.raises(UserError, match=r"observation\.state"):
        CONTROL.open(str(root), reading={**READING, "state_name": "observation.stat"})
    facts = CONTROL.measure(samples)
    stacked = np.concatenate([one[0] for one in episodes[:2]]).astype(float)
    np.testing.assert_allclose(facts["state_mean"], stacked.mean(0))
    np.testing.assert_allclose(facts["state_std"], stacked.std(0))
    assert facts["tasks"] == 2


def robomimic(path, episodes, mask=True):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for number, (states, actions) in enumerate(episodes):
            group = file.create_group(f"data/demo_{number}")
            group["actions"] = actions
            group["obs/eef_pos"], group["obs/object"] = states[:, :2], states[:, 2:]
            group["obs/front_image"] = np.full((len(states), 6, 8, 3), number, np.uint8)
        if mask:
            file["mask/train"] = np.array([b"demo_0", b"demo_1"])
            file["mask/valid"] = np.array([b"demo_2"])


def test_robomimic(tmp_path):
    episodes = [rows(6, n) for n in range(3)]
    robomimic(tmp_path / "low.hdf5", episodes)
    samples = CONTROL.open(str(tmp_path / "low.hdf5"), reading=READING)
    one = samples.read(7)
    np.testing.assert_array_equal(one["states"], episodes[1][0][1:5])
    np.testing.assert_array_equal(one["actions"], episodes[1][1][1:5])
    assert (one["image"] == 1).all()
    test = CONTROL.open(str(tmp_path / "low.hdf5"), split="test", reading={**READING, "camera_name": "none"})
    assert len(test) == 6
    assert test.array is not None
    chosen = CONTROL.open(str(tmp_path / "low.hdf5"), reading={**READING, "state_name": "object,eef_pos"})
    np.testing.assert_array_equal(chosen.read(0)["states"], episodes[0][0][:4][:, [2, 0, 1]])


def test_one_hdf5_file_an_episode(tmp_path):
    h5py = pytest.importorskip("h5py")
    for number in range(2):
        states, actions = rows(5, number)
        with h5py.File(tmp_path / f"episode_{number}.hdf5", "w") as file:
            file["action"], file["observations/qpos"] = actions, states
            file["observations/qvel"] = states * 0
            file["observations/images/top"] = np.zeros((5, 4, 4, 3), np.uint8)
    samples = CONTROL.open(str(tmp_path), reading=READING)
    assert (len(samples), samples.read(0)["states"].shape) == (10, (4, 3))
    assert samples.read(3)["image"].shape == (4, 4, 3)


def archived(**arrays):
    target = io.BytesIO()
    np.savez_compressed(target, **arrays)
    return target.getvalue()


def test_arrays(tmp_path):
    states, actions = (np.stack(part) for part in zip(*[rows(6, n) for n in range(3)], strict=True))
    labels = np.array([0, 1, 1])
    (tmp_path / "a.npz").write_bytes(archived(observation=states, action=actions, y=labels))
    samples = CONTROL.open(str(tmp_path / "a.npz"), reading=READING)
    assert samples.labels.tolist() == [0] * 6 + [1] * 12
    # one behind the other, as diffusion policies store them
    flat = {"state": states.reshape(-1, 3), "action": actions.reshape(-1, 2), "episode_ends": [6, 12, 18]}
    (tmp_path / "b.npz").write_bytes(archived(**flat))
    again = CONTROL.open(str(tmp_path / "b.npz"), reading=READING)
    assert all(np.array_equal(again.read(n), samples.read(n)) for n in range(18))
    # the last state has no action, and no actions at all are no error
    (tmp_path / "c.npz").write_bytes(archived(states=states, actions=actions[:, :-1]))
    assert len(CONTROL.open(str(tmp_path / "c.npz"), reading=READING)) == 15
    (tmp_path / "d.npz").write_bytes(archived(states=states))
    nobody = CONTROL.open(str(tmp_path / "d.npz"), reading=READING)
    assert not nobody.read(0)["acted"]
    assert "without actions" in nobody.description
    (tmp_path / "e.npz").write_bytes(archived(states=states[0]))
    with pytest.raises(UserError, match="episode_ends"):
        CONTROL.open(str(tmp_path / "e.npz"), reading=READING)
    given = samples.array[:3]
    assert np.array_equal(CONTROL.open(given, reading=READING).read(2), given[2])


def test_damaged_episodes_are_named(tmp_path):
    for name, change in (("good", None), ("nan", "nan"), ("wide", "wide"), ("short", "short")):
        states, actions = rows(6)
        if change == "nan":
            actions[2, 0] = np.nan
        if change == "wide":
            states = np.concatenate([states, states], 1)
        if change == "short":
            actions = actions[:3]
        (tmp_path / f"{name}.npz").write_bytes(archived(states=states, actions=actions))
    (tmp_path / "other.npz").write_bytes(archived(video=np.zeros((6, 4, 4, 3), np.uint8)))
    (tmp_path / "torn.npz").write_bytes(archived(states=rows()[0])[:-30])
    samples = open_windows(str(tmp_path), reading=READING)
    assert len(samples) == 6
    reasons = {problem.identity: problem.reason for problem in samples.problems}
    assert reasons.keys() == {"nan.npz", "wide.npz", "short.npz", "other.npz", "torn.npz"}
    assert "NaN" in reasons["nan.npz"]
    assert reasons["other.npz"] == "lacks states"


def test_files_of_a_folder_may_hold_several_episodes(tmp_path):
    states, actions = rows(6)
    (tmp_path / "a.npz").write_bytes(archived(states=np.stack([states] * 3), actions=np.stack([actions] * 3)))
    (tmp_path / "b.npz").write_bytes(archived(states=np.stack([states] * 3), actions=actions[None]))
    (tmp_path / "c.npz").write_bytes(archived(states=states, actions=actions))
    samples = open_windows(str(tmp_path), reading=READING)
    assert sorted(set(samples.groups)) == ["a.npz 0", "a.npz 1", "a.npz 2", "c.npz"]
    assert np.array_equal(samples.read(6)["states"], samples.read(0)["states"])
    assert [problem.identity for problem in samples.problems] == ["b.npz"]


@FEW
def test_a_damaged_table_is_survived(tmp_path, examples):
    root = lerobot(tmp_path / "set", "v3.0", [rows(5, n) for n in range(3)])
    parts = {
        str(path.relative_to(root)): Part(path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    withstands("control", tmp_path, parts, "{}", examples=examples, reading=READING)


def test_real_robots(data_folder):
    kind = recipe("act-jepa").preset("tiny")
    samples = CONTROL.open(str(data_folder("robot_g1_lerobot")), reading=kind.reading())
    assert len(set(samples.groups.tolist())) == 60
    assert samples.read(100)["states"].shape == (16, 26)
    assert not samples.problems
    hopper = CONTROL.open(
        str(data_folder("robot_mujoco_expert") / "hopper_v4_expert.npz"), reading={"chunk": 16}
    )
    assert (len(hopper), hopper.read(0)["states"].shape) == (2000, (16, 11))
