"""Every recipe as scikit-learn's transformer, whatever its kind of data."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from small import FIELDS, picture_folder, pictures

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.domains import domains
from anyjepa.recipes import recipe, recipes

COUNT = 12


def samples_of(name):
    """Raw samples of a recipe's example data, and alternating labels."""
    kind = recipe(name).preset("tiny")
    opened = domains()[kind.domain].open(kind.example_data, reading=kind.reading())
    return [opened.read(index) for index in range(COUNT)], np.arange(COUNT) % 2


def encoder(name, **given):
    return anyjepa.Encoder(name, steps=2, fields={"batch_size": 4}, **given)


def test_a_log_of_interactions_is_one_file_and_its_items_are_the_samples(tmp_path):
    random = np.random.default_rng(0)
    log = pandas.DataFrame({"user": random.integers(0, 9, 120), "item": random.integers(0, 20, 120)})
    log.to_csv(tmp_path / "log.csv", index=False)
    vectors = anyjepa.Encoder("item-ssl", steps=2, fields={"masking": "none"}).fit_transform(
        str(tmp_path / "log.csv")
    )
    assert len(vectors) == log["item"].nunique()
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("name", [name for name in recipes() if name != "item-ssl"])
def test_every_recipe_fits_transforms_and_is_kept_without_pickling(name, tmp_path):
    X, y = samples_of(name)
    first = encoder(name)
    vectors = first.fit(X).transform(X)
    assert vectors.shape == (COUNT, first.n_features_out_)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    names = first.get_feature_names_out()
    assert len(names) == vectors.shape[1] and names[0] == "encoder0"
    assert first.get_params()["recipe"] == name
    np.testing.assert_allclose(first.transform(X[3:5]), vectors[3:5], atol=1e-5)
    first.save(tmp_path / "kept")
    again = anyjepa.Encoder.load(tmp_path / "kept")
    assert again.get_params() == first.get_params()
    assert np.array_equal(again.transform(X), vectors)
    files = {file.suffix for file in (tmp_path / "kept").iterdir()}
    assert files == {".yaml", ".safetensors", ".json"}, "nothing is pickled"
    assert np.array_equal(anyjepa.load(tmp_path / "kept").embed(first.run_.open(_array(X))).numpy(), vectors)
    line = make_pipeline(clone(first), LogisticRegression(max_iter=2000)).fit(X, y)
    assert np.array_equal(line[0].transform(X), vectors), "the same X and seed give the same vectors"
    assert line.predict(X).shape == (COUNT,)


def _array(X):
    if len({x.shape for x in X}) == 1:
        return np.stack(X)
    ragged = np.empty(len(X), dtype=object)
    ragged[:] = X
    return ragged


def test_images_come_as_arrays_folders_and_lists_of_files_in_their_order(tmp_path):
    array = pictures(20)
    small = anyjepa.Encoder("i-jepa", steps=2, fields=FIELDS).fit(array)
    for number, picture in enumerate(array):
        Image.fromarray(picture).save(tmp_path / f"{number % 3}-{number:02d}.png")
    vectors = small.transform(array)
    shuffled = [str(next(tmp_path.glob(f"*-{number:02d}.png"))) for number in (7, 3, 19, 0)]
    np.testing.assert_allclose(small.transform(shuffled), vectors[[7, 3, 19, 0]], atol=1e-6)
    order = [int(file.stem.split("-")[1]) for file in sorted(tmp_path.glob("*.png"))]
    np.testing.assert_allclose(small.transform(str(tmp_path)), vectors[order], atol=1e-6)
    listed = clone(small).fit([str(file) for file in sorted(tmp_path.glob("*.png"))])
    assert listed.run_.config["data"]["source"] is None, "the links are gone"
    assert listed.transform(tmp_path).shape == (20, FIELDS["width"])


def test_tables_come_as_data_frames():
    frame = pandas.DataFrame({"a": np.arange(40.0) % 7, "b": list("xyzw") * 10, "c": np.arange(40) % 5 / 3})
    table = encoder("t-jepa").fit(frame)
    assert table.transform(frame[:5]).shape == (5, table.n_features_out_)
    table.set_output(transform="pandas")
    assert list(table.transform(frame[:5]).columns) == list(table.get_feature_names_out())
    with pytest.raises(ValueError, match="lacks the columns c"):
        table.transform(frame[["a", "b"]])


def test_records_come_as_a_list_of_headers_and_bring_their_signals(data_folder):
    files = sorted(data_folder("ecg_cinc2021").glob("*.hea"))[:8]
    ecg = encoder("ecg-jepa").fit(files)
    vectors = ecg.transform(files)
    assert vectors.shape == (8, ecg.n_features_out_)
    np.testing.assert_allclose(ecg.transform(files[5:1:-1]), vectors[5:1:-1], atol=1e-5)


def test_what_cannot_be_used_is_a_value_error_that_says_why(tmp_path):
    small = anyjepa.Encoder("i-jepa", steps=2, fields=FIELDS)
    folder = picture_folder(tmp_path / "data", 20)
    small.fit(str(folder))
    (folder / "cat" / "000.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cat/000\.png: .*"):
        small.transform(str(folder))
    with pytest.raises(ValueError, match="is no file"):
        small.transform([folder])
    with pytest.raises(ValueError, match="does not exist"):
        clone(small).fit(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="there is no recipe"):
        anyjepa.Encoder("i-jepe").fit(pictures(4))
    anyjepa.train(
        "i-jepa", pictures(20), tmp_path / "run", settings=anyjepa.Settings(steps=1, quiet=True), **FIELDS
    )
    with pytest.raises(UserError, match="already holds a run"):
        small.save(tmp_path / "run")
    with pytest.raises(UserError, match=r"not written by Encoder\.save"):
        anyjepa.Encoder.load(tmp_path / "run")
    kept = tmp_path / "kept"
    small.save(kept)
    parameters = json.loads((kept / "estimator.json").read_text())
    assert parameters["recipe"] == "i-jepa"
    shutil.rmtree(folder)
    assert anyjepa.Encoder.load(kept, device="cpu").transform(pictures(3)).shape == (3, FIELDS["width"])


CHECKS = """
import warnings
import anyjepa
from anyjepa.recipes import recipes
from sklearn.base import clone
from sklearn.utils import estimator_checks as checks
warnings.filterwarnings("ignore")
names = ["check_no_attributes_set_in_init", "check_parameters_default_constructible",
         "check_get_params_invariance", "check_set_params", "check_estimator_cloneable",
         "check_estimator_repr", "check_do_not_raise_errors_in_init_or_set_params"]
done = 0
for name in recipes():
    for check in names:
        getattr(checks, check)("Encoder", anyjepa.Encoder(name))
        done += 1
print(done)
"""


@pytest.mark.slow
def test_scikit_learns_own_checks_of_parameters_pass_for_every_recipe():
    # in a process of its own: scikit-learn keeps state of its warnings and configuration
    answer = subprocess.run(
        [sys.executable, "-c", CHECKS], capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) == 7 * len(recipes())
