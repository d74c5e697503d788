"""Several processes embed and score what one would have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from small import picture_folder, train_small

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.engine import crew
from anyjepa.engine.crew import Crew


def together(*words, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               f"--nproc-per-node={processes}", "-m", "anyjepa", *map(str, words), "--json"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and 600 labelled pictures of which one is damaged: more than one batch a process."""
    folder = tmp_path_factory.mktemp("crew")
    source = picture_folder(folder / "source", count=600)
    (source / "dog" / "400.png").write_bytes(b"no picture")
    train_small(folder / "run", str(source), steps=2)
    return folder / "run", source


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 256, 257, 5000])
def test_parts_are_whole_batches_in_order(size, count):
    rows = np.arange(count)
    parts = [Crew(rank, size).part(rows, 256) for rank in range(size)]
    assert np.array_equal(np.concatenate(parts), rows)
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    assert all(start % 256 == 0 for start, part in zip(starts, parts, strict=True) if len(part))


def test_one_process_alone_joins_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with crew.joined() as team:
        assert (team.first, team.size, team.told(3), team.collected(4)) == (True, 1, 3, [4])
        with pytest.raises(UserError), crew.joined():
            raise UserError("said as it is")


@pytest.mark.slow
def test_two_processes_embed_what_one_embeds(trained, tmp_path):
    run, source = trained
    mine = anyjepa.embed(run, str(source), tmp_path / "one.npy")
    done = together("embed", run, "--data", source, "--out", tmp_path / "two.npy")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert json.loads(line) == {**mine, "out": str(tmp_path / "two.npy")}
    assert mine["rows"] == 599
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()
    assert (tmp_path / "one.ids.txt").read_text() == (tmp_path / "two.ids.txt").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{ending}" for name in ("one", "two") for ending in ("npy", "ids.txt")
    }


@pytest.mark.slow
def test_two_processes_write_the_shards_that_one_writes(trained, tmp_path):
    run, source = trained
    mine = anyjepa.embed(run, str(source), tmp_path / "one.parquet", shard_rows=150)
    done = together("embed", run, "--data", source, "--out", tmp_path / "two.parquet", "--shard-rows", "150")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {**mine, "out": str(tmp_path / "two.parquet")}
    for path in sorted((tmp_path / "one.parquet").iterdir()):
        assert parquet.read_table(path).equals(parquet.read_table(tmp_path / "two.parquet" / path.name))
    manifests = [json.loads(Path(f"{tmp_path}/{n}.parquet.shards.json").read_text()) for n in ("one", "two")]
    assert manifests[0] == manifests[1]
    again = anyjepa.embed(run, str(source), tmp_path / "two.parquet", shard_rows=150)
    assert (again["kept"], again["shards"]) == (4, 4)


def test_two_processes_score_what_one_scores(trained, tmp_path):
    run, source = trained
    words = ("evaluate", run, "--data", source, "--probe", "linear", "knn", "--no-cache")
    done = together(*words)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    mine = anyjepa.evaluate(run, str(source), probe=["linear", "knn"], cache=False)
    for one, two in zip(mine["results"], json.loads(line)["results"], strict=True):
        one.pop("date"), two.pop("date")
        assert json.loads(json.dumps(one)) == two
    assert len(anyjepa.load(run).results()) == 4


@pytest.mark.slow
def test_what_all_find_wrong_is_said_once(trained, tmp_path):
    run, _ = trained
    done = together("embed", run, "--data", tmp_path / "nowhere", "--out", tmp_path / "z.npy")
    assert done.returncode != 0
    assert done.stderr.count("nowhere does not exist") == 1, done.stderr
