"""Reading folders of images, their splits and labels, and what a person can get wrong."""

import os
import pickle

import imagecodecs
import numpy as np
import pytest
from pictures import encoded, noise, write

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Samples, domains, image_samples, sources
from anyjepa.domains.sources import NoSplit, as_labels, list_files, list_names, natural_split

images = domains()["image"]


class TestFolders:
    def test_flat_folder_has_no_labels_and_a_stable_order(self, tmp_path):
        pixels = {name: noise(4, 5, 3, seed=seed) for seed, name in enumerate(["b.png", "a.png", "c.PNG"])}
        for name, image in pixels.items():
            write(tmp_path / name, image)
        write(tmp_path / ".hidden.png", noise(4, 4))
        write(tmp_path / "notes.txt", b"no image")
        samples = images.open(str(tmp_path))
        assert isinstance(samples, Samples)
        assert [samples.identity(index) for index in range(len(samples))] == ["a.png", "b.png", "c.PNG"]
        assert samples.labels is None and samples.classes is None
        assert samples.description == "3 PNG images"
        assert all(np.array_equal(samples.read(index), pixels[samples.identity(index)]) for index in range(3))
        assert samples.array.shape == (3, 4, 5, 3)

    def test_class_folders_of_any_depth(self, tmp_path):
        for name in ("dog/1.png", "cat/deep/er/1.png", "cat/2.png"):
            write(tmp_path / name, noise(4, 4))
        samples = images.open(str(tmp_path))
        assert samples.classes == ["cat", "dog"]
        assert samples.labels.tolist() == [0, 0, 1]
        assert samples.labels.dtype == np.int64
        assert samples.identity(1) == "cat/deep/er/1.png"
        assert "2 class folders" in samples.description

    def test_splits(self, tmp_path):
        for split, count in (("train", 3), ("valid", 2)):
            for index in range(count):
                write(tmp_path / split / "ab"[index % 2] / f"{index}.png", noise(4, 4))
        assert len(images.open(str(tmp_path))) == 3
        assert len(images.open(str(tmp_path), split="train")) == 3
        assert (
            len(images.open(str(tmp_path), split="test")) == len(images.open(str(tmp_path), split="val")) == 2
        )
        assert images.open(str(tmp_path), split="val").classes == ["a", "b"]
        with pytest.raises(NoSplit, match="only train, valid"):
            images.open(str(tmp_path), split="trial")

    def test_a_class_called_train_is_no_split(self):
        assert natural_split(["car", "plane", "train"], None) is None
        assert natural_split(["Train", "Val"], None) == "Train"
        assert natural_split(["annotations", "test", "train"], "test") == "test"
        with pytest.raises(NoSplit):
            natural_split(["cat", "dog"], "test")

    def test_mixed_sizes_stay_a_list(self, tmp_path):
        write(tmp_path / "a.png", noise(4, 9, 3))
        write(tmp_path / "b.png", noise(5, 4, 3))
        samples = images.open(str(tmp_path))
        assert samples.array is None
        assert [samples.read(index).shape for index in (0, 1)] == [(4, 9, 3), (5, 4, 3)]

    def test_mixed_channels_and_depth_go_with_the_majority(self, tmp_path):
        for index in range(3):
            write(tmp_path / f"{index}.png", noise(4, 4, 3, seed=index))
        grey, alpha = noise(4, 4), noise(4, 4, 4)
        write(tmp_path / "grey.png", grey)
        write(tmp_path / "alpha.png", alpha)
        write(tmp_path / "deep.png", imagecodecs.png_encode(noise(4, 4, 3).astype(np.uint16) * 257))
        np.save(tmp_path / "many.npy", noise(8, 8, 6))
        samples = images.open(str(tmp_path))
        by_name = {samples.identity(index): samples.read(index) for index in range(len(samples))}
        assert {(image.shape, image.dtype.name) for image in by_name.values()} == {((4, 4, 3), "uint8")}
        assert np.array_equal(by_name["grey.png"], np.stack([grey] * 3, axis=2))
        assert np.array_equal(by_name["alpha.png"], alpha[:, :, :3])
        assert np.array_equal(by_name["deep.png"], noise(4, 4, 3))
        assert [problem.identity for problem in samples.problems] == ["many.npy"]

    def test_all_with_alpha_keep_it(self, tmp_path):
        write(tmp_path / "a.png", noise(4, 4, 4))
        assert images.open(str(tmp_path)).read(0).shape == (4, 4, 4)

    def test_damaged_files_are_named_and_left_out_with_their_labels(self, tmp_path):
        for name in ("a/1.png", "a/3.png", "b/1.png"):
            write(tmp_path / name, noise(4, 4))
        write(tmp_path / "a/2.png", b"hello, I am text")
        write(tmp_path / "b/0.jpg", encoded(noise(64, 64, 3), "JPEG")[:900])
        write(tmp_path / "b/2.png", b"")
        samples = images.open(str(tmp_path))
        assert [problem.identity for problem in samples.problems] == ["a/2.png", "b/0.jpg", "b/2.png"]
        assert [samples.identity(index) for index in range(3)] == ["a/1.png", "a/3.png", "b/1.png"]
        assert samples.labels.tolist() == [0, 0, 1]

    def test_large_sets_are_read_lazily_and_damage_shows_on_reading(self, tmp_path, monkeypatch):
        for index in range(8):
            write(tmp_path / f"{index}.png", noise(4, 4, seed=index))
        whole = images.open(str(tmp_path))
        monkeypatch.setattr(image_samples, "RESIDENT_BYTES", 64)
        samples = images.open(str(tmp_path))
        assert samples.array is None and samples.images is None
        assert all(np.array_equal(samples.read(index), whole.read(index)) for index in range(8))
        write(tmp_path / "3.png", b"gone bad")
        with pytest.raises(BadSample) as caught:
            samples.read(3)
        assert caught.value.identity == "3.png"
        (tmp_path / "4.png").unlink()
        with pytest.raises(BadSample, match=r"4\.png"):
            samples.read(4)
        assert np.array_equal(pickle.loads(pickle.dumps(samples)).read(5), whole.read(5))

    def test_fingerprint_tells_names_and_sizes(self, tmp_path):
        write(tmp_path / "a.png", noise(4, 4))
        first = images.open(str(tmp_path)).fingerprint()
        assert images.open(str(tmp_path)).fingerprint() == first
        write(tmp_path / "b.png", noise(4, 4))
        second = images.open(str(tmp_path)).fingerprint()
        write(tmp_path / "b.png", noise(9, 9))
        assert len({first, second, images.open(str(tmp_path)).fingerprint()}) == 3

    def test_listing_opens_and_stats_no_file(self, tmp_path, monkeypatch):
        for index in range(20):
            write(tmp_path / f"{index % 3}" / f"{index}.png", b"x")

        stat = os.stat

        def forbidden(path, *_, **__):
            assert not str(path).endswith(".png"), "a file was touched"
            return stat(path)

        monkeypatch.setattr("builtins.open", forbidden)
        monkeypatch.setattr(os, "stat", forbidden)
        names = list_files(tmp_path, frozenset({".png"}))
        monkeypatch.undo()
        assert len(names) == 20 and names == sorted(names)

    def test_a_folder_is_listed_once_for_its_folders_and_its_files(self, tmp_path, monkeypatch):
        for index in range(20):
            write(tmp_path / f"{index}.png", noise(4, 4))
        os.utime(tmp_path, (1e9, 1e9))
        listed, scandir = [], os.scandir
        monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
        images.open(str(tmp_path))
        assert listed == [str(tmp_path)]
        write(tmp_path / "new.png", noise(4, 4))
        assert len(images.open(str(tmp_path))) == 21

    def test_what_has_just_changed_is_listed_again(self, tmp_path):
        for index in range(20):
            write(tmp_path / f"{index}.png", b"x")
            assert len(list_names(tmp_path)) == index + 1

    def test_rings_of_links_end(self, tmp_path):
        write(tmp_path / "a/1.png", noise(4, 4))
        (tmp_path / "a/back").symlink_to(tmp_path, target_is_directory=True)
        assert list_files(tmp_path, frozenset({".png"})) == ["a/1.png"]

    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
    def test_labels_from_a_file(self, tmp_path, suffix):
        for name in ("x/a.png", "b.png", "c.png"):
            write(tmp_path / "images" / name, noise(4, 4))
        rows = {"id": ["x/a.png", "c", "elsewhere"], "label": ["old", "new", "old"]}
        path = tmp_path / f"labels{suffix}"
        if suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(rows), path)
        else:
            comma = "," if suffix == ".csv" else "\t"
            lines = [comma.join(row) for row in [("id", "label"), *zip(*rows.values(), strict=True)]]
            path.write_text("\n".join(lines))
        samples = images.open(str(tmp_path / "images"), labels=str(path))
        by_name = {samples.identity(index): samples.labels[index] for index in range(3)}
        assert samples.classes == ["new", "old"]
        assert by_name == {"x/a.png": 1, "b.png": -1, "c.png": 0}

    def test_label_files_that_do_not_fit(self, tmp_path):
        write(tmp_path / "images/a.png", noise(4, 4))
        (tmp_path / "wrong.csv").write_text("file,label\na,1\n")
        (tmp_path / "other.csv").write_text("id,label\nzebra,1\n")
        with pytest.raises(UserError, match=r"columns file, label: it needs id and label"):
            images.open(str(tmp_path / "images"), labels=str(tmp_path / "wrong.csv"))
        with pytest.raises(UserError, match=r"zebra.*a\.png"):
            images.open(str(tmp_path / "images"), labels=str(tmp_path / "other.csv"))
        with pytest.raises(UserError, match=r"Did you mean 'other\.csv'"):
            images.open(str(tmp_path / "images"), labels=str(tmp_path / "othr.csv"))


class TestMistakes:
    def test_one_sentence_each(self, tmp_path, monkeypatch):
        (tmp_path / "empty").mkdir()
        write(tmp_path / "bad/a.png", b"text")
        write(tmp_path / "tars/a.tar", b"")
        expected = {
            str(tmp_path / "empty"): "holds no image",
            str(tmp_path / "emty"): "does not exist.*Did you mean 'empty'",
            str(tmp_path / "bad"): r"no readable image, for instance a\.png",
            str(tmp_path / "tars"): "type wds:",
            str(tmp_path / "tars/a.tar"): "type wds:",
            "s3://bucket/images": "s3: is not a kind of source",
            "wds:": "does not exist|no tar shard",
            "": "empty",
        }
        for source, message in expected.items():
            with pytest.raises(UserError, match=message) as caught:
                images.open(source)
            assert "\n" not in str(caught.value)

    def test_folder_without_permission(self, tmp_path, monkeypatch):
        def refuse(path):
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(sources.os, "scandir", refuse)
        with pytest.raises(UserError, match="chmod"):
            images.open(str(tmp_path))

    def test_file_without_permission_is_a_bad_sample(self, tmp_path, monkeypatch):
        write(tmp_path / "a.png", noise(4, 4))
        write(tmp_path / "b.png", noise(4, 4))
        real = open

        def refuse(path, *arguments, **options):
            if str(path).endswith("a.png"):
                raise PermissionError(13, "Permission denied", path)
            return real(path, *arguments, **options)

        monkeypatch.setattr("builtins.open", refuse)
        assert [str(problem) for problem in images.open(str(tmp_path)).problems] == [
            "a.png: Permission denied"
        ]


@pytest.mark.parametrize(
    ("values", "labels", "classes"),
    [
        (["b", "a", None], [1, 0, -1], ["a", "b"]),
        (["10", "9", ""], [1, 0, -1], ["9", "10"]),
        (["-1", "1"], [0, 1], ["-1", "1"]),
        (["-1", "1", "2"], [-1, 0, 1], ["1", "2"]),
        (["1.0", "3.0"], [0, 1], ["1", "3"]),
        (["0.5", None, "2"], [0.5, np.nan, 2], None),
    ],
)
def test_labels_from_text(values, labels, classes):
    found, names = as_labels(values)
    assert np.array_equal(found, labels, equal_nan=True)
    assert names == classes
    assert found.dtype == (np.float32 if classes is None else np.int64)
