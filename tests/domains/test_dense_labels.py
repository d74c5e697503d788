"""Labels of parts: of points in text, arrays and HDF5, and that they stay with their points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.dense_labels import MaskFolder, column_of
from anyjepa.domains.point_samples import cleaned
from anyjepa.domains.point_sources import open_points


@given(st.integers(0, 999), st.integers(0, 2))
@settings(max_examples=30)
def test_a_point_keeps_its_label_whatever_is_dropped_and_reordered(seed, channels):
    random = np.random.default_rng(seed)
    values = random.integers(0, 4, (60, 3 + channels)).astype(float)
    values[random.random(60) < 0.1] = np.nan
    if np.isnan(values).any(1).all():
        return
    # the label says the place, so that it can be checked afterwards
    labels = np.nan_to_num(values[:, 0] * 16 + values[:, 1] * 4 + values[:, 2]).astype(int)
    whole = np.column_stack([values, labels])
    for found in (cleaned(values, channels, "a", labels), cleaned(whole, channels, "a", -1)):
        kept = values[np.isfinite(values).all(1)]
        places = found.points[:, :3] + np.unique(kept[:, :3], axis=0).mean(0)
        assert np.allclose(places @ [16, 4, 1], found.parts, atol=1e-3)
        assert len(found.parts) == len(found.points)


def test_the_last_column_of_text_as_in_shapenetpart(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        table = np.column_stack([random.normal(size=(50, 6)), random.integers(0, 3, 50)])
        (tmp_path / "02691156").mkdir(exist_ok=True)
        np.savetxt(tmp_path / "02691156" / f"{name}.txt", table)
    samples = open_points(str(tmp_path), dense="last")
    same = open_points(str(tmp_path), dense="7")
    assert np.array_equal(samples.dense(1), same.dense(1))
    assert samples.dense(0).shape == (len(samples.read(0)),)
    assert set(samples.dense(0).tolist()) == {0, 1, 2}
    assert open_points(str(tmp_path), channels=3, dense="last").read(0).shape[1] == 6
    with pytest.raises(UserError, match=r"has 6 numbers a point"):
        open_points(str(tmp_path), channels=4, dense="last")
    with pytest.raises(UserError, match="names no column"):
        open_points(str(tmp_path), dense="part")
    with pytest.raises(UserError, match="name their column or array with --dense"):
        open_points(str(tmp_path)).dense(0)


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_an_array_beside_the_clouds(tmp_path, kind):
    random = np.random.default_rng(0)
    clouds, parts = random.normal(size=(4, 30, 3)), random.integers(0, 5, (4, 30))
    path = tmp_path / f"train.{kind}"
    if kind == "npz":
        np.savez(path, data=clouds, label=np.arange(4), pid=parts)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["data"], file["label"], file["pid"] = clouds, np.arange(4), parts
    samples = open_points(str(path), dense="pid")
    for index in range(4):
        order = np.lexsort(clouds[index].T[::-1])
        assert np.array_equal(samples.dense(index), parts[index][order])
    with pytest.raises(UserError, match="Did you mean 'pid'"):
        open_points(str(path), dense="pids")


def test_simulated_parts_are_what_they_are_called():
    samples = open_points("synthetic-shapes")
    names = np.array(samples.dense_classes)
    by_class = {name: set() for name in samples.classes}
    for index in range(0, len(samples), 20):
        by_class[samples.classes[samples.labels[index]]] |= set(names[np.unique(samples.dense(index))])
    assert by_class["table"] == {"board", "leg"}
    assert by_class["stairs"] == {"tread", "riser"}
    assert by_class["bottle"] == {"side", "end", "neck"}
    assert by_class["tube"] == {"side", "end", "inside"}
    assert by_class["sphere"] == {"side"}


def test_words_of_columns_and_masks_that_do_not_fit(tmp_path):
    assert [column_of(word) for word in ("last", "7", "0", "pid", None)] == [-1, 6, None, None, None]
    np.save(tmp_path / "a.npy", np.array([[0, 300], [-1, 2]], np.int16))
    masks = MaskFolder(str(tmp_path))
    assert masks.read("some/where/a.jpg", (2, 2)).tolist() == [[0, 300], [-1, 2]]
    for identity, shape, said in (
        ("b.png", (2, 2), "has no mask"),
        ("a.png", (2, 3), r"is \(2, 3\) and its mask"),
    ):
        with pytest.raises(BadSample, match=said):
            masks.read(identity, shape)
    np.save(tmp_path / "c.npy", np.zeros((2, 2, 3)))
    with pytest.raises(BadSample, match="not one whole number a pixel"):
        masks.read("c.png", (2, 2))
