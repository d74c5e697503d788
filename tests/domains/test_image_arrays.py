"""Images that lie as one array, in memory or in a file."""

import gzip
import pickle

import numpy as np
import pytest
from pictures import idx, noise

from anyjepa.core.errors import UserError
from anyjepa.domains import domains, image_samples
from anyjepa.domains.sources import NoSplit

images = domains()["image"]


class TestArrays:
    def test_in_memory(self):
        for values in (noise(5, 8, 9), noise(5, 8, 9, 3), noise(5, 3, 8, 9)):
            samples = images.open(values)
            assert samples.array.shape == (5, 8, 9, values.size // 360)
            assert samples.identity(4) == "4"
        assert np.array_equal(samples.array, values.transpose(0, 2, 3, 1))
        with pytest.raises(UserError, match=r"shape \(5, 64\)"):
            images.open(noise(5, 64))

    def test_nan_rows_are_named_and_row_numbers_kept(self):
        values = noise(6, 4, 4, dtype=np.float64)
        values[1, 2, 2], values[4, 0, 0] = np.nan, np.inf
        samples = images.open(values)
        assert [problem.identity for problem in samples.problems] == ["1", "4"]
        assert [samples.identity(index) for index in range(4)] == ["0", "2", "3", "5"]
        assert samples.read(3).dtype == np.float32
        with pytest.raises(UserError, match="NaN"):
            images.open(np.full((3, 4, 4), np.nan))

    def test_npy(self, tmp_path, monkeypatch):
        values = noise(6, 3, 10, 12)
        np.save(tmp_path / "a.npy", values)
        held = images.open(str(tmp_path / "a.npy"))
        monkeypatch.setattr(image_samples, "RESIDENT_BYTES", 100)
        mapped = images.open(str(tmp_path / "a.npy"))
        assert mapped.array is None and len(pickle.dumps(mapped)) < 2000
        copy = pickle.loads(pickle.dumps(mapped))
        for index in range(6):
            assert np.array_equal(held.read(index), values[index].transpose(1, 2, 0))
            assert np.array_equal(copy.read(index), held.read(index))
        with pytest.raises(NoSplit):
            images.open(str(tmp_path / "a.npy"), split="test")

    def test_objects_and_lying_headers_are_refused(self, tmp_path):
        np.save(tmp_path / "o.npy", np.array([[{}]], dtype=object))
        np.savez(tmp_path / "o.npz", x=np.array([[{}]], dtype=object))
        np.save(tmp_path / "short.npy", noise(100, 8, 8))
        whole = (tmp_path / "short.npy").read_bytes()
        (tmp_path / "short.npy").write_bytes(whole.replace(b"(100, 8, 8)", b"(10000000, 8, 8)")[: len(whole)])
        (tmp_path / "no.npz").write_bytes(b"PK\x03\x04 not a zip")
        for name in ("o.npy", "o.npz", "short.npy", "no.npz"):
            with pytest.raises(UserError, match=name):
                images.open(str(tmp_path / name))

    def test_npz_keys_and_splits(self, tmp_path):
        x, y = noise(5, 4, 4, 3), np.array([[3], [7], [3], [9], [7]])
        np.savez(tmp_path / "one.npz", X=x, target=y)
        samples = images.open(str(tmp_path / "one.npz"))
        assert np.array_equal(samples.array, x)
        assert (samples.labels.tolist(), samples.classes) == ([0, 1, 0, 2, 1], ["3", "7", "9"])
        np.savez_compressed(tmp_path / "two.npz", x_train=x, y_train=np.eye(2)[[0, 1, 1, 0, 1]], x_test=x[:2])
        assert images.open(str(tmp_path / "two.npz")).labels.tolist() == [0, 1, 1, 0, 1]
        assert len(images.open(str(tmp_path / "two.npz"), split="val")) == 2
        np.savez(tmp_path / "uneven.npz", x=x, y=y[:3])
        with pytest.raises(UserError, match="5 images but 3 labels"):
            images.open(str(tmp_path / "uneven.npz"))
        np.savez(tmp_path / "keys.npz", a=x, b=x)
        with pytest.raises(UserError, match="holds a, b"):
            images.open(str(tmp_path / "keys.npz"))

    def test_digits(self):
        from sklearn.datasets import load_digits

        both = [images.open("digits", split=split) for split in (None, "test")]
        rows = [[int(samples.identity(index)) for index in range(len(samples))] for samples in both]
        assert sorted(rows[0] + rows[1]) == list(range(1797))
        assert 0.19 < len(rows[1]) / 1797 < 0.21
        for samples, chosen in zip(both, rows, strict=True):
            assert np.array_equal(samples.array[..., 0], load_digits().images[chosen])
            assert np.array_equal(samples.labels, load_digits().target[chosen])
        everything = images.open("digits", split="all")
        assert everything.array.shape == (1797, 8, 8, 1) and everything.array.dtype == np.uint8
        assert everything.array.max() == 16
        with pytest.raises(NoSplit):
            images.open("digits", split="tomorrow")


class TestIdx:
    def test_folder_of_both_splits(self, tmp_path):
        values = {"train": noise(6, 5, 4), "t10k": noise(3, 5, 4, seed=1)}
        for split, pixels in values.items():
            labels = np.arange(len(pixels), dtype=np.uint8) % 3
            (tmp_path / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
            (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels))
        for split, name in ((None, "train"), ("test", "t10k"), ("val", "t10k")):
            samples = images.open(str(tmp_path), split=split)
            assert np.array_equal(samples.array[..., 0], values[name])
            assert samples.labels.tolist() == [index % 3 for index in range(len(samples))]

    def test_headers_that_claim_too_much(self, tmp_path):
        values = noise(6, 5, 4)
        (tmp_path / "short-idx3-ubyte").write_bytes(idx(values, (7, 5, 4)))
        (tmp_path / "huge-idx3-ubyte.gz").write_bytes(gzip.compress(idx(values, (2**31, 2**16, 2**16))))
        (tmp_path / "cut-idx3-ubyte.gz").write_bytes(gzip.compress(idx(noise(60, 5, 4)))[:-200])
        (tmp_path / "text-idx3-ubyte").write_bytes(b"not at all")
        for name in ("short-idx3-ubyte", "huge-idx3-ubyte.gz", "cut-idx3-ubyte.gz", "text-idx3-ubyte"):
            with pytest.raises(UserError, match=name):
                images.open(str(tmp_path / name))

    def test_labels_of_another_length(self, tmp_path):
        (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(noise(6, 5, 4)))
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
        with pytest.raises(UserError, match=r"6 images but .* 5 labels"):
            images.open(str(tmp_path))

    def test_mnist(self, data_folder):
        samples = images.open(str(data_folder("mnist")), split="test")
        assert samples.array.shape == (10000, 28, 28, 1)
        assert np.bincount(samples.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert len(images.open(str(data_folder("mnist")))) == 60000
