"""Images in tar shards and in the Hugging Face hub's layout."""

import gzip
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise, write, write_tar

from anyjepa.core.errors import UserError
from anyjepa.domains import domains, image_samples
from anyjepa.domains.sources import NoSplit
from anyjepa.domains.tar_shards import TarShards, _headers, expand_braces

images = domains()["image"]


class TestShards:
    def test_braces(self):
        assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
        assert expand_braces("{a,b{0..1}}/{x,y}") == ["a/x", "a/y", "b0/x", "b0/y", "b1/x", "b1/y"]
        assert expand_braces("{8..11}") == ["8", "9", "10", "11"]

    def test_members_are_grouped_by_key_and_labels_found(self, tmp_path):
        pixels = [noise(4, 4, 3, seed=seed) for seed in range(4)]
        for shard in range(2):
            members = {}
            for row in (2 * shard, 2 * shard + 1):
                members |= {
                    f"s/{row}.png": encoded(pixels[row]),
                    f"s/{row}.cls": b"%d\n" % (row % 2),
                    f"s/{row}.txt": b"hi",
                }
            write_tar(tmp_path / f"a-{shard:03}.tar", members)
        for pattern in ("a-{000..001}.tar", "a-*.tar", ""):
            samples = images.open(f"wds:{tmp_path}/{pattern}")
            assert [samples.identity(index) for index in range(4)] == ["s/0", "s/1", "s/2", "s/3"]
            assert all(np.array_equal(samples.read(index), pixels[index]) for index in range(4))
            assert (samples.labels.tolist(), samples.classes) == ([0, 1, 0, 1], ["0", "1"])
        with pytest.raises(UserError, match=r"a-002\.tar does not exist"):
            images.open(f"wds:{tmp_path}/a-{{000..002}}.tar")

    def test_labels_from_json_and_from_folders(self, tmp_path):
        picture = encoded(noise(4, 4))
        members = {
            "0.jpg": picture,
            "0.json": json.dumps({"label": "cat"}).encode(),
            "1.jpg": picture,
            "1.json": b"{",
        }
        samples = images.open(f"wds:{write_tar(tmp_path / 'j.tar', members)}")
        assert (samples.labels.tolist(), samples.classes) == ([0, -1], ["cat"])
        members = {f"set/train/{name}/0.left.PNG": picture for name in ("car", "train", "van")}
        samples = images.open(f"wds:{write_tar(tmp_path / 'f.tar', members)}")
        assert samples.classes == ["car", "train", "van"] and samples.labels.tolist() == [0, 1, 2]

    def test_same_keys_in_two_shards_stay_apart(self, tmp_path):
        for name in "ab":
            write_tar(tmp_path / f"{name}.tar", {"0.png": encoded(noise(4, 4))})
        samples = images.open(f"wds:{tmp_path}/*.tar")
        assert [samples.identity(index) for index in (0, 1)] == ["a.tar:0", "b.tar:0"]

    @pytest.mark.parametrize("keep", [0.2, 0.45, 0.7])
    def test_cut_off_shard_gives_what_is_whole(self, tmp_path, keep):
        members = {f"{index:02}.png": encoded(noise(16, 16, 3, seed=index)) for index in range(20)}
        path = write_tar(tmp_path / "a.tar", members)
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[: int(size * keep)])
        samples = images.open(f"wds:{path}")
        assert 0 < len(samples) <= 20
        assert [problem.identity for problem in samples.problems] == [str(path)]
        for index in range(len(samples)):
            assert np.array_equal(samples.read(index), noise(16, 16, 3, seed=index))

    def test_damage_in_the_middle_and_missing_images_are_named(self, tmp_path):
        path = write_tar(
            tmp_path / "a.tar", {"0.png": encoded(noise(4, 4)), "1.png": encoded(noise(4, 4)), "2.cls": b"1"}
        )
        content = bytearray(path.read_bytes())
        assert [problem.identity for problem in images.open(f"wds:{path}").problems] == ["2"]
        content[1024:1536] = b"\xff" * 512
        path.write_bytes(bytes(content))
        samples = images.open(f"wds:{path}")
        assert len(samples) == 1
        assert "after 0.png" in str(samples.problems[0])

    def test_compressed_shards_are_refused(self, tmp_path):
        path = write_tar(tmp_path / "a.tar", {"0.png": encoded(noise(4, 4))})
        path.write_bytes(gzip.compress(path.read_bytes()))
        with pytest.raises(UserError, match="compressed"):
            images.open(f"wds:{path}")

    def test_splits_are_told_by_the_names_of_shards(self, tmp_path):
        for name, count in (("train-0", 3), ("train-1", 1), ("test", 2)):
            write_tar(
                tmp_path / f"{name}.tar",
                {f"{name}{index}.png": encoded(noise(4, 4)) for index in range(count)},
            )
        assert len(images.open(f"wds:{tmp_path}/*.tar")) == 4
        assert (
            len(images.open(f"wds:{tmp_path}", split="test"))
            == len(images.open(f"wds:{tmp_path}", split="val"))
            == 2
        )
        assert len(images.open(f"wds:{tmp_path}/test.tar")) == 2
        with pytest.raises(NoSplit):
            images.open(f"wds:{tmp_path}/train-*.tar", split="test")

    def test_copies_reopen_their_files(self, tmp_path):
        shards = TarShards([str(write_tar(tmp_path / "a.tar", {"0.txt": b"zero", "1.txt": b"one"}))])
        assert shards.read("txt", 1) == b"one"
        copy = pickle.loads(pickle.dumps(shards))
        assert not copy._files
        assert copy.read("txt", 0) == b"zero"

    def test_cifar(self, data_folder, tmp_path, monkeypatch):
        folder = data_folder("cifar10_jpeg")
        with monkeypatch.context() as patch:
            patch.setattr(image_samples, "RESIDENT_BYTES", 0)
            samples = images.open(f"wds:{folder}/train.tar")
        assert len(samples) == 12000
        assert np.bincount(samples.labels).tolist() == [1200] * 10
        assert samples.classes[:2] == ["airplane", "automobile"]
        facts = images.measure(samples)
        assert np.allclose(np.array(facts["mean"]) / 255, (0.493, 0.483, 0.447), atol=0.006)
        assert np.allclose(np.array(facts["std"]) / 255, (0.246, 0.243, 0.261), atol=0.006)
        with tarfile.open(folder / "test.tar") as archive:
            archive.extractall(tmp_path, filter="data")
        shards, files = images.open(f"wds:{folder}", split="test"), images.open(str(tmp_path))
        assert shards.array.shape == (4000, 32, 32, 3)
        assert np.array_equal(shards.array, files.array)
        assert np.array_equal(shards.labels, files.labels) and shards.classes == files.classes


class TestHub:
    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch, tmp_path):
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def test_parquet_with_an_image_feature(self, tmp_path):
        import datasets

        pixels = [noise(4, 5, 3, seed=seed) for seed in range(6)]
        features = datasets.Features(
            {
                "id": datasets.Value("int64"),
                "picture": datasets.Image(),
                "kind": datasets.ClassLabel(names=["no", "yes"]),
            }
        )
        for split, rows in (("train", range(4)), ("test", range(4, 6))):
            content = [{"bytes": encoded(pixels[row]), "path": None} for row in rows]
            columns = {"id": list(rows), "picture": content, "kind": [row % 2 for row in rows]}
            (tmp_path / "set/data").mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_dict(columns, features).to_parquet(
                tmp_path / f"set/data/{split}-00000-of-00001.parquet"
            )
        samples = images.open(f"hf:{tmp_path}/set")
        assert all(np.array_equal(samples.read(index), pixels[index]) for index in range(4))
        assert (samples.labels.tolist(), samples.classes) == ([0, 1, 0, 1], ["no", "yes"])
        assert (
            len(images.open(f"hf:{tmp_path}/set:test"))
            == len(images.open(f"hf:{tmp_path}/set", split="val"))
            == 2
        )
        assert images.open(f"hf:{tmp_path}/set", labels="id").classes == ["0", "1", "2", "3"]
        assert np.array_equal(pickle.loads(pickle.dumps(samples)).read(2), pixels[2])
        with pytest.raises(NoSplit, match="only"):
            images.open(f"hf:{tmp_path}/set:other")
        with pytest.raises(UserError, match=r"no column 'kin'.*Did you mean 'kind'"):
            images.open(f"hf:{tmp_path}/set", labels="kin")

    def test_image_folder_with_metadata(self, tmp_path):
        for index in range(3):
            write(tmp_path / f"set/{index}.png", noise(4, 4, 3, seed=index))
        write(tmp_path / "set/3.png", b"broken")
        rows = "\n".join(f"{index}.png,{'ab'[index % 2]}" for index in range(4))
        (tmp_path / "set/metadata.csv").write_text(f"file_name,label\n{rows}\n")
        samples = images.open(f"hf:{tmp_path}/set")
        assert len(samples) == 3 and len(samples.problems) == 1
        assert {samples.classes[label] for label in samples.labels} == {"a", "b"}
        found = {samples.read(index).tobytes() for index in range(3)}
        assert found == {noise(4, 4, 3, seed=seed).tobytes() for seed in range(3)}

    def test_what_is_not_there(self, tmp_path):
        (tmp_path / "pictures").mkdir()
        with pytest.raises(UserError, match="Did you mean 'pictures'"):
            images.open(f"hf:{tmp_path}/picture")
        with pytest.raises(UserError, match="cannot be opened"):
            images.open(f"hf:{tmp_path}/pictures")


class TestHeaders:
    """Members are found as tarfile finds them, whatever their headers look like."""

    @given(
        names=st.lists(
            st.text("abcé./_-", min_size=1, max_size=130).filter(lambda name: not name.startswith("/")),
            max_size=8,
        ),
        kind=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
        sizes=st.lists(st.integers(0, 2000), min_size=8, max_size=8),
    )
    @settings(max_examples=60)
    def test_every_format_and_name(self, tmp_path_factory, names, kind, sizes):
        path = tmp_path_factory.mktemp("tar") / "a.tar"
        with tarfile.open(path, "w", format=kind) as archive:
            for name, size in zip(names, sizes, strict=False):
                member = tarfile.TarInfo(name)
                member.size = size
                try:
                    archive.addfile(member, io.BytesIO(bytes(size)))
                except ValueError:
                    continue  # too long for the oldest format
                link = tarfile.TarInfo(f"link to {len(name)}")
                link.type, link.linkname = tarfile.SYMTYPE, name[:50]
                archive.addfile(link)
        with tarfile.open(path) as archive:
            wanted = [(m.name, m.offset_data, m.size, m.isreg()) for m in archive if m.isreg()]
        with tarfile.open(path) as archive, open(path, "rb") as file:
            found = [member for member in _headers(archive, file.fileno()) if member[3]]
        assert found == wanted
