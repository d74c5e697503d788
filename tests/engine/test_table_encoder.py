"""T-JEPA as a scikit-learn transformer: scikit-learn's own checks, pipelines, frames, pickles."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import polars
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import anyjepa

FIELDS = {
    "width": 8, "depth": 1, "heads": 2, "feedforward": 8, "batch_size": 16,
    "predictor_width": 8, "predictor_depth": 1, "predictor_heads": 2, "predictor_feedforward": 8,
}  # fmt: skip


def encoder(**options):
    return anyjepa.TableEncoder(**{"steps": 2, "fields": FIELDS, "device": "cpu", **options})


@pytest.fixture(scope="module")
def frame():
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "amount": np.where(draw.random(80) < 0.1, np.nan, draw.lognormal(size=80)),
            "city": draw.choice(["Oslo", "Riga", None], 80),
            "open": draw.random(80) < 0.5,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(draw.integers(0, 400, 80), "D"),
            "row_id": np.arange(80),
        }
    )


@pytest.fixture(scope="module")
def fitted(frame):
    return encoder().fit(frame)


CHECKS = """
import json, sys
from sklearn.utils.estimator_checks import check_estimator
import anyjepa
encoder = anyjepa.TableEncoder(steps=2, fields=json.loads(sys.argv[1]), device="cpu")
results = check_estimator(encoder, on_fail=None)
print(len(results), [(r["check_name"], str(r["exception"])) for r in results if r["status"] == "failed"])
"""


@pytest.mark.slow
def test_scikit_learn_finds_no_fault():
    """In a process of its own: one check passes arguments of a wrong type, which tests would refuse."""
    command = [sys.executable, "-c", CHECKS, json.dumps(FIELDS)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    count, _, failed = shown.partition(" ")
    assert int(count) > 40
    assert failed == "[]"


def test_frames_of_mixed_columns(frame, fitted):
    vectors = fitted.transform(frame)
    assert vectors.shape == (80, 5 * 8)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert fitted.columns_ == ["amount", "city", "open", "day"]
    assert list(fitted.left_out_) == ["row_id"]
    np.testing.assert_allclose(fitted.transform(polars.from_pandas(frame)), vectors, rtol=1e-5, atol=1e-6)
    names = fitted.get_feature_names_out()
    assert names[:2].tolist() == ["reg0_0", "reg0_1"]
    assert names[8:10].tolist() == ["amount_0", "amount_1"]
    assert len(names) == vectors.shape[1]
    out = clone(fitted).set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == list(names)
    np.testing.assert_array_equal(out.to_numpy(), vectors)


def test_a_row_does_not_depend_on_the_others(frame, fitted):
    whole = fitted.transform(frame)
    np.testing.assert_allclose(fitted.transform(frame.iloc[[7]]), whole[[7]], rtol=1e-6)
    np.testing.assert_allclose(fitted.transform(frame.iloc[::-1]), whole[::-1], rtol=1e-6)


def test_it_pickles(frame, fitted):
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.transform(frame), fitted.transform(frame))


@pytest.mark.parametrize(("embedding", "dim"), [("mean", 8), ("reg", 8)])
def test_one_vector_a_row(frame, embedding, dim):
    fitted = encoder(embedding=embedding).fit(frame)
    assert fitted.transform(frame).shape == (80, dim)
    assert fitted.get_feature_names_out()[0] == "tableencoder0"


def test_pipeline_and_search(frame):
    target = (frame["amount"].fillna(0) > 1).astype(int)
    pipeline = make_pipeline(encoder(), LogisticRegression(max_iter=200))
    search = GridSearchCV(pipeline, {"tableencoder__embedding": ["flat", "mean"]}, cv=2).fit(frame, target)
    assert set(search.cv_results_["param_tableencoder__embedding"]) == {"flat", "mean"}
    assert search.predict(frame).shape == (80,)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_seeds_decide(frame):
    first, again, other = (encoder(random_state=seed).fit_transform(frame) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_mistakes_are_value_errors(frame, fitted):
    with pytest.raises(NotFittedError):
        encoder().transform(frame)
    with pytest.raises(ValueError, match="feature names"):
        fitted.transform(frame.drop(columns="city"))
    with pytest.raises(ValueError, match="amount is 'much', not a finite number"):
        fitted.transform(frame.astype({"amount": object}).assign(amount="much"))
    with pytest.raises(ValueError, match="Did you mean 'width'"):
        encoder(fields={"widht": 8}).fit(frame)
