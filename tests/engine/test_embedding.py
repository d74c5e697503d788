"""Embeddings of a whole source: what is in the file, shards that go on after a kill, memory that stays."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pyarrow import parquet
from small import FIELDS, picture_folder, pictures, train_small

import anyjepa
from anyjepa.core.errors import BadSample, UserError
from anyjepa.engine import embedding


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedding") / "run"
    train_small(folder, pictures(), steps=1)
    return anyjepa.load(folder, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = picture_folder(tmp_path_factory.mktemp("pictures"), 50)
    (found / "cat" / "zzz.png").write_bytes(b"no picture")
    return found


def rows_of(path):
    table = parquet.read_table(path)
    return table["id"].to_pylist(), np.stack(table["embedding"].to_numpy()), table["label"].to_pylist()


@pytest.mark.parametrize("together", [1, 8192])
def test_a_table_has_ids_labels_and_every_sample_but_the_damaged(
    run, folder, tmp_path, together, monkeypatch
):
    monkeypatch.setattr(embedding, "ROWS_TOGETHER", together)
    told = anyjepa.embed(run, str(folder), tmp_path / "e.parquet")
    assert (told["rows"], told["dim"], told["skipped"]) == (50, FIELDS["width"], 1)
    names, vectors, labels = rows_of(tmp_path / "e.parquet")
    samples = run.open(str(folder))
    assert names == [samples.identity(i) for i in range(len(samples)) if "zzz" not in samples.identity(i)]
    assert labels == [name.split("/")[0] for name in names]
    assert np.array_equal(vectors, run.embed(samples).numpy())
    assert sorted(os.listdir(tmp_path)) == ["e.parquet"]


def test_labels_of_a_file_are_written_too(run, folder, tmp_path):
    names = [f"{kind}/{index:03d}.png" for index, kind in ((0, "cat"), (30, "dog"))]
    (tmp_path / "labels.csv").write_text(
        "id,label\n" + "".join(f"{name},{i}.5\n" for i, name in enumerate(names))
    )
    anyjepa.embed(run, str(folder), tmp_path / "e.parquet", labels=str(tmp_path / "labels.csv"))
    ids, _, labels = rows_of(tmp_path / "e.parquet")
    assert {name: label for name, label in zip(ids, labels, strict=True) if label is not None} == {
        names[0]: 0.5,
        names[1]: 1.5,
    }


def test_an_array_is_a_file_that_can_be_mapped_with_ids_beside(run, folder, tmp_path):
    told = anyjepa.embed(run, str(folder), tmp_path / "e.npy")
    values = np.load(tmp_path / "e.npy", mmap_mode="r")
    assert values.shape == (told["rows"], told["dim"]) == (50, FIELDS["width"])
    assert np.array_equal(values, run.embed(run.open(str(folder))).numpy())
    assert len((tmp_path / "e.ids.txt").read_text().splitlines()) == 50
    assert sorted(os.listdir(tmp_path)) == ["e.ids.txt", "e.npy"]


@pytest.mark.parametrize("ending", [".parquet", ".npy"])
def test_shards_hold_the_same_rows_and_are_kept(run, folder, tmp_path, ending):
    out = tmp_path / f"e{ending}"
    told = anyjepa.embed(run, str(folder), out, shard_rows=20)
    assert (told["rows"], told["shards"], told["kept"]) == (50, 3, 0)
    parts = sorted(out.glob(f"part-*{ending}"))
    whole = run.embed(run.open(str(folder))).numpy()
    if ending == ".parquet":
        names, vectors, labels = rows_of(out)
        assert (len(set(names)), set(labels)) == (50, {"cat", "dog"})
    else:
        vectors = np.concatenate([np.load(part) for part in parts])
    assert np.allclose(vectors, whole, atol=1e-6)
    written = [part.stat().st_mtime_ns for part in parts]
    parts[1].unlink()
    again = anyjepa.embed(run, str(folder), out, shard_rows=20)
    assert (again["rows"], again["kept"]) == (50, 2)
    assert [part.stat().st_mtime_ns for part in parts][::2] == written[::2]
    for options, said in (
        ({"shard_rows": 10}, "other shard_rows"),
        ({"shard_rows": None}, "is a folder"),
        ({"shard_rows": 0}, "--shard-rows must be 1 or more"),
    ):
        with pytest.raises(UserError, match=said):
            anyjepa.embed(run, str(folder), out, **options)
    with pytest.raises(UserError, match="other data"):
        anyjepa.embed(run, pictures(51), out, shard_rows=20)
    with pytest.raises(UserError, match="other encoder"):
        anyjepa.embed(run.untrained(), str(folder), out, shard_rows=20)


def test_a_shard_without_a_readable_sample_is_passed_over(run, tmp_path, monkeypatch):
    data, out = picture_folder(tmp_path / "data", 6), tmp_path / "e.parquet"
    kind = type(run.open(str(data)))
    read = kind.read

    def damaged(samples, index):
        if index in (2, 3):
            raise BadSample(samples.identity(index), "damaged")
        return read(samples, index)

    monkeypatch.setattr(kind, "read", damaged)
    for kept in (0, 3):
        told = anyjepa.embed(run, str(data), out, shard_rows=2)
        assert (told["rows"], told["skipped"], told["kept"]) == (4, 2, kept)
    assert [part.name for part in sorted(out.glob("part-*"))] == ["part-00000.parquet", "part-00002.parquet"]


def test_after_a_kill_the_same_command_goes_on(run, tmp_path):
    np.save(tmp_path / "many.npy", pictures(1500))
    out = tmp_path / "e.parquet"
    typed = [
        sys.executable,
        "-m",
        "anyjepa",
        "embed",
        run.path,
        "--data",
        tmp_path / "many.npy",
        "--out",
        out,
    ]
    typed = [*map(str, typed), "--shard-rows", "50", "--json"]
    process = subprocess.Popen(typed, stdout=subprocess.DEVNULL, cwd=tmp_path)
    ends = time.monotonic() + 60
    while len(list(out.glob("part-*"))) < 3 and time.monotonic() < ends:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    finished = len(json.loads((tmp_path / "e.parquet.shards.json").read_text())["shards"])
    assert 2 <= finished < 30
    told = anyjepa.embed(run, str(tmp_path / "many.npy"), out, shard_rows=50)
    assert (told["rows"], told["shards"]) == (1500, 30)
    assert told["kept"] >= finished
    vectors = np.stack(parquet.read_table(out)["embedding"].to_numpy())
    assert np.allclose(vectors, run.embed(pictures(1500)).numpy(), atol=1e-6)


MEASURED = """
import resource, sys
import anyjepa
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
anyjepa.embed(sys.argv[1], sys.argv[2], sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".parquet", ".npy"])
def test_memory_does_not_grow_with_the_rows(run, tmp_path, ending):
    peaks = []
    for rows in (20_000, 200_000):
        np.save(tmp_path / "many.npy", np.resize(pictures(1000), (rows, 16, 16)))
        typed = [sys.executable, "-c", MEASURED, run.path, tmp_path / "many.npy", tmp_path / f"e{ending}"]
        done = subprocess.run(list(map(str, typed)), capture_output=True, text=True, check=True, cwd=tmp_path)
        peaks.append(int(done.stdout.split()[-1]) * 1024)
    # the embeddings of the larger source are 19 MB more, and its pixels, which are mapped, 46 MB
    assert peaks[1] - peaks[0] < 60e6
