"""Packs hold what the source holds, and training on them is training on the source."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small import picture_folder, pictures, same_to_the_bit, train_small

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import domains, image_samples, remote
from anyjepa.domains.packs import open_pack
from anyjepa.domains.sources import NoSplit
from anyjepa.domains.tar_shards import TarShards
from anyjepa.engine import packing
from anyjepa.engine.packing import pack
from anyjepa.engine.train import Settings, train
from anyjepa.recipes import recipe, recipes

images = domains()["image"]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_pack_keeps_pictures_ids_and_labels(tmp_path):
    source = picture_folder(tmp_path / "source", count=24)
    result = pack(str(source), tmp_path / "pack", shard_samples=7)
    assert (result["samples"], result["shards"], result["skipped"]) == (24, 4, 0)
    ours, theirs = images.open(str(source)), images.open(f"wds:{tmp_path / 'pack'}")
    assert [theirs.identity(i) for i in range(24)] == [ours.identity(i) for i in range(24)]
    assert np.array_equal(theirs.labels, ours.labels) and theirs.classes == ours.classes
    assert all(np.array_equal(theirs.read(i), ours.read(i)) for i in range(24))
    # any reader of WebDatasets finds the files themselves, and what is known of them
    shards = TarShards(sorted(map(str, (tmp_path / "pack").glob("*.tar"))))
    assert shards.read("png", 9) == (source / ours.identity(9)).read_bytes()
    assert json.loads(shards.read("json", 9)) == {"id": ours.identity(9), "label": "cat"}


@pytest.mark.slow
def test_bytes_do_not_depend_on_processes(tmp_path):
    source = picture_folder(tmp_path / "source", count=20)
    for workers in (1, 3):
        pack(str(source), tmp_path / str(workers), domain="image", shard_samples=6, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_training_on_a_pack_is_training_on_the_source(tmp_path):
    source = picture_folder(tmp_path / "source", count=40)
    pack(str(source), tmp_path / "pack", domain="image", shard_samples=9)
    for data, out in ((source, "one"), (f"wds:{tmp_path / 'pack'}", "two")):
        train_small(tmp_path / out, str(data), steps=4)
    assert same_to_the_bit(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(recipes()) - {"t-jepa"}))
def test_training_any_recipe_on_a_pack_is_training_on_the_source(tmp_path, name):
    data = recipe(name).example_data
    pack(data, tmp_path / "pack", recipe_name=name)
    settings = Settings(steps=3, quiet=True, workers=0)
    for source, out in ((data, "one"), (f"wds:{tmp_path / 'pack'}", "two")):
        train(name, source, tmp_path / out, settings=settings, batch_size=4)
    assert same_to_the_bit(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    ("folder", "name"), [("ecg_cinc2021", "ecg-jepa"), ("kitti_scan_sequence", "point-jepa")]
)
def test_real_records_and_scans_are_kept(data_folder, tmp_path, folder, name):
    source, kind = data_folder(folder), recipe(name)
    domain, reading = domains()[kind.domain], kind.preset("tiny").reading()
    result = pack(str(source), tmp_path / "pack", recipe_name=name, workers=1, max_bad_fraction=0.5)
    ours, theirs = (domain.open(typed, reading=reading) for typed in (str(source), result["source"]))
    assert len(ours) == len(theirs) > 0 and theirs.classes == ours.classes
    for index in range(len(ours)):
        assert theirs.identity(index) == ours.identity(index)
        np.testing.assert_array_equal(theirs.read(index), ours.read(index))
    assert np.array_equal(theirs.labels, ours.labels) if ours.labels is not None else theirs.labels is None
    assert domain.measure(theirs) == domain.measure(ours)


def test_damaged_samples_are_named_and_left_out(tmp_path):
    source = picture_folder(tmp_path / "source", count=30)
    (source / "cat" / "005.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="are damaged"):
        pack(str(source), tmp_path / "pack")
    result = pack(str(source), tmp_path / "pack", max_bad_fraction=0.1)
    assert (result["samples"], result["skipped"]) == (29, 1)
    [named] = [json.loads(line) for line in (tmp_path / "pack" / "skipped.jsonl").read_text().splitlines()]
    assert named["sample"] == "cat/005.png"
    assert len(images.open(result["source"])) == 29


def test_what_was_stopped_goes_on_and_what_is_finished_stays(tmp_path, monkeypatch):
    source = picture_folder(tmp_path / "source", count=30)
    write, done = packing._write_shard, []

    def dies(samples, out, name, start, stop):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(name)
        write(samples, out, name, start, stop)

    monkeypatch.setattr(packing, "_write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        pack(str(source), tmp_path / "pack", domain="image", shard_samples=6, workers=1)
    monkeypatch.undo()
    with pytest.raises(UserError):
        images.open(f"wds:{tmp_path / 'pack'}/none")
    result = pack(str(source), tmp_path / "pack", domain="image", shard_samples=6, workers=1)
    assert (result["kept"], result["shards"]) == (2, 5)
    pack(str(source), tmp_path / "whole", domain="image", shard_samples=6, workers=1)
    assert contents(tmp_path / "pack") == contents(tmp_path / "whole")
    assert pack(str(source), tmp_path / "pack", shard_samples=6)["kept"] == 5
    other = picture_folder(tmp_path / "other", count=12, seed=1)
    with pytest.raises(UserError, match="holds a pack of other data"):
        pack(str(other), tmp_path / "pack")


@pytest.mark.slow
def test_splits_lie_beside_each_other(tmp_path):
    for split in ("train", "test"):
        pack("digits", tmp_path / "pack" / split, split=split, domain="image")
    opened = {split: images.open(f"wds:{tmp_path / 'pack'}", split=split) for split in ("train", "test")}
    for split, samples in opened.items():
        whole = images.open("digits", split=split)
        assert np.array_equal(samples.array, whole.array) and np.array_equal(samples.labels, whole.labels)
    pack("digits", tmp_path / "alone")
    with pytest.raises(NoSplit, match="--split test"):
        images.open(f"wds:{tmp_path / 'alone'}", split="test")


def test_what_happened_to_a_pack_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(image_samples, "RESIDENT_BYTES", 0)
    source = picture_folder(tmp_path / "source", count=30)
    place = tmp_path / "pack"
    pack(str(source), place, domain="image", shard_samples=10)
    with pytest.raises(UserError, match="is a pack of image data, not of ecg data"):
        domains()["ecg"].open(f"wds:{place}")
    samples = images.open(f"wds:{place}")
    os.truncate(place / "shard-00001.tar", 512 * 9)
    with pytest.raises(BadSample, match="has become shorter"):
        samples.read(15)
    assert images.open(f"wds:{place}").problems[0].identity == str(place / "shard-00001.tar")
    (place / "shard-00001.tar").unlink()
    with pytest.raises(UserError, match="is missing"):
        images.open(f"wds:{place}")
    pack(str(source), place, domain="image", shard_samples=10)
    assert not images.open(f"wds:{place}").problems
    (place / "pack.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        images.open(f"wds:{place}")


def test_a_kind_of_data_without_shards_of_its_own_reads_arrays(tmp_path, monkeypatch):
    from anyjepa.engine.run import open_source

    monkeypatch.setattr(type(images), "reads_shards", False)
    monkeypatch.delattr(image_samples.ImageSamples, "packed")
    np.save(tmp_path / "a.npy", pictures(12))
    pack(str(tmp_path / "a.npy"), tmp_path / "pack", domain="image")
    samples = open_source(images, f"wds:{tmp_path / 'pack'}")
    assert np.array_equal(np.stack([samples.read(i) for i in range(12)])[..., 0], pictures(12))
    assert samples.identity(3) == "3" and samples.description.startswith("12 images")


def test_a_pack_is_known_by_its_folder(tmp_path):
    from anyjepa.engine.survey import identify

    pack("digits", tmp_path / "pack", domain="image")
    [found] = identify(str(tmp_path / "pack")).candidates
    assert (found.domain.name, found.source) == ("image", f"wds:{tmp_path / 'pack'}")
    assert found.samples.description == "1,438 8 x 8 digits, in 2 shards"


def test_a_table_is_not_packed(tmp_path):
    with pytest.raises(UserError, match="keep it as Parquet"):
        pack("sklearn:iris", tmp_path / "pack", domain="table")


@pytest.mark.slow
def test_the_command_says_what_it_made(tmp_path):
    words = [sys.executable, "-m", "anyjepa", "pack", "digits", str(tmp_path / "pack"), "--domain", "image",
             "--json"]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["domain"], result["samples"], result["source"]) == (
        "image", 1438, f"wds:{tmp_path / 'pack'}"
    )  # fmt: skip


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, *_args):
        self.asked.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A pack of 120 pictures in 12 shards at an address, and what is asked of it."""
    source = picture_folder(tmp_path / "source", count=120)
    pack(str(source), tmp_path / "pack", domain="image", shard_samples=10)
    monkeypatch.setenv("ANYJEPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_samples, "RESIDENT_BYTES", 0)
    handler = functools.partial(Quiet, directory=str(tmp_path / "pack"))
    Quiet.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"wds:http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_shards_at_an_address_are_fetched_once_and_give_the_same_pictures(server, tmp_path):
    here, there = images.open(f"wds:{tmp_path / 'pack'}"), images.open(server)
    assert there.blocks.tolist() == list(range(10, 121, 10)) and here.blocks is None
    with ThreadPoolExecutor(4) as several:
        read = list(several.map(there.read, range(120)))
    assert all(np.array_equal(picture, here.read(i)) for i, picture in enumerate(read))
    fetched = [path for path in Quiet.asked if path.endswith(".tar")]
    assert sorted(fetched) == [f"/shard-{number:05d}.tar" for number in range(12)]


def test_a_run_on_shards_at_an_address_goes_on_as_if_never_stopped(server, tmp_path, monkeypatch):
    monkeypatch.setattr("anyjepa.engine.loading.WINDOW", 30)
    train_small(tmp_path / "whole", server, steps=12)
    train_small(tmp_path / "parts", server, steps=12, checkpoint_every=5, keep_checkpoints=0)
    for name in ("step-000000010", "step-000000012"):
        shutil.rmtree(tmp_path / "parts" / "checkpoints" / name)
    shutil.rmtree(tmp_path / "cache")
    train_small(tmp_path / "parts", server, resume=True, steps=12, workers=2)
    assert same_to_the_bit(tmp_path / "whole", tmp_path / "parts")


def test_the_cache_of_shards_is_bounded(server, tmp_path, monkeypatch):
    size = (tmp_path / "pack" / "shard-00000.tar").stat().st_size
    monkeypatch.setenv("ANYJEPA_CACHE_GB", str(3.5 * size / 2**30))
    there = images.open(server)
    for index in range(120):
        there.read(index)
        assert len([f for f in remote.cache_folder().iterdir() if f.name[0] != "."]) <= 4
    assert open_pack(server.removeprefix("wds:"), None, "image").ids[7] == there.identity(7)


def test_threads_that_make_room_for_each_other_lose_no_sample(server, tmp_path, monkeypatch):
    size = (tmp_path / "pack" / "shard-00000.tar").stat().st_size
    monkeypatch.setenv("ANYJEPA_CACHE_GB", str(1.5 * size / 2**30))
    monkeypatch.setattr("anyjepa.domains.packs.OPEN_SHARDS", 2)
    order = np.random.default_rng(0).permutation(np.tile(np.arange(120), 3)).tolist()
    far = open_pack(server.removeprefix("wds:"), None, "image")
    with ThreadPoolExecutor(8) as several:
        contents = list(several.map(far.content, order))
    near = open_pack(str(tmp_path / "pack"), None, "image")
    assert all(content == near.content(i) for content, i in zip(contents, order, strict=True))


def test_an_address_without_a_pack_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"shards need the pack\.json"):
        images.open("wds:http://127.0.0.1:9/nothing")
