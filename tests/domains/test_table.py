"""What is measured of a table, and how a row looks raw, simulated and drawn."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.compose import make_column_transformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from anyjepa.domains import domains
from anyjepa.domains.table import _quantiles

TABLE = domains()["table"]


@pytest.fixture(scope="module")
def synthetic():
    samples = TABLE.open("synthetic-table")
    return samples, TABLE.measure(samples), {"row": torch.from_numpy(samples.array)}


def test_the_simulated_table_is_what_it_says(synthetic):
    samples, facts, _ = synthetic
    assert (len(samples), len(TABLE.open("synthetic-table", split="test"))) == (2400, 600)
    assert {column["kind"] for column in facts["columns"]} == {
        "numeric", "ordinal", "categorical", "boolean", "datetime",
    }  # fmt: skip
    assert samples.classes == ["budget", "family", "premium"]
    assert list(facts["left_out"]) == ["customer_id"]
    assert samples.fingerprint() == TABLE.open("synthetic-table").fingerprint()
    assert np.isnan(samples.array).mean() > 0.01


def test_facts_say_all_that_reading_needs(synthetic):
    samples, facts, _ = synthetic
    facts = json.loads(json.dumps(facts))
    again = TABLE.open("synthetic-table", reading=facts)
    assert again.layout == samples.layout
    np.testing.assert_array_equal(again.array, samples.array)


def test_raw_agrees_with_scikit_learn():
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": draw.normal(5, 3, 90), "b": draw.choice(list("xyz"), 90), "c": draw.lognormal(size=90)}
    )
    samples = TABLE.open(frame)
    raw = TABLE.raw({"row": torch.from_numpy(samples.array)}, TABLE.measure(samples)).numpy()
    theirs = make_column_transformer(
        (StandardScaler(), ["a"]), (OneHotEncoder(), ["b"]), (StandardScaler(), ["c"])
    )
    expected = theirs.fit_transform(frame)
    assert not raw[:, 1].any(), "the bucket of categories that were never seen"
    np.testing.assert_allclose(np.delete(raw, 1, axis=1), expected, atol=1e-4)


def test_raw_says_what_is_missing(synthetic):
    _, facts, batch = synthetic
    raw = TABLE.raw(batch, facts)
    assert torch.isfinite(raw).all()
    incomplete = [column["name"] for column in facts["columns"] if column["missing"]]
    assert incomplete == ["income", "rating"]
    income = 1  # after age; its indicator follows it
    assert torch.equal(raw[:, income + 1].bool(), batch["row"][:, 1].isnan())
    assert not raw[batch["row"][:, 1].isnan(), income].any()


@given(st.lists(st.integers(-5, 5) | st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60))
def test_quantiles_rise_and_are_finite(values):
    knots, heights = _quantiles(np.array(values, dtype=np.float64))
    assert len(knots) == len(heights) <= 33
    assert all(low < high for low, high in itertools.pairwise(knots))
    assert all(low <= high for low, high in itertools.pairwise(heights))
    assert np.isfinite(heights).all()
    assert (knots[0], knots[-1]) == (min(values), max(values))


def test_heights_are_normal_scores_of_middle_ranks():
    knots, heights = _quantiles(np.array([0.0] * 50 + [1.0] * 50))
    assert knots == [0.0, 1.0]
    assert heights == pytest.approx(norm.ppf([0.25, 0.75]))


def test_noise_has_the_statistics_of_the_table(synthetic):
    _, facts, batch = synthetic
    noise = np.stack(TABLE.noise(facts, 3000))
    assert noise.shape == (3000, 12) and noise.dtype == np.float32
    real = batch["row"].numpy()
    np.testing.assert_allclose(np.isnan(noise).mean(0), np.isnan(real).mean(0), atol=0.03)
    spread = np.nanstd(real, axis=0)
    assert (np.abs(np.nanmedian(noise, axis=0) - np.nanmedian(real, axis=0)) < 0.3 * spread + 0.5).all()
    assert np.array_equal(noise, np.stack(TABLE.noise(facts, 3000)), equal_nan=True)


def test_a_figure_names_columns_types_and_values():
    frame = pd.DataFrame({"<b>age</b>": [31.5, 40.0, np.nan], "city": ["<script>", "Oslo & Co", "<script>"]})
    samples = TABLE.open(frame)
    facts, batch = TABLE.measure(samples), {"row": torch.from_numpy(samples.array)}
    figure = TABLE.figure(batch, 0, facts)
    assert "&lt;b&gt;age&lt;/b&gt;" in figure and "&lt;script&gt;" in figure and "31.5" in figure
    assert "<script>" not in figure and "numeric" in figure and "categorical" in figure
    assert "missing" in TABLE.figure(batch, 2, facts)
    assert "rgba" not in figure and "[REG]" not in figure
    colours = torch.tensor([[torch.nan] * 3, [1.0, 0.0, 0.0], [torch.nan] * 3])
    painted = TABLE.figure(batch, 0, facts, colours)
    assert painted.count("rgba(255,0,0") == 1
    assert "[REG]" in painted
    assert painted.index("[REG]") < painted.index("rgba") < painted.index(">city<")


def test_a_picture_has_a_square_for_each_column(synthetic):
    _, facts, batch = synthetic
    plain = TABLE.picture(batch, 0, facts)
    assert plain.shape == (96, 96, 3) and plain.dtype == np.uint8
    colours = torch.full((13, 3), torch.nan)
    colours[2] = torch.tensor([1.0, 0.0, 0.0])  # [REG] is 0, so this is the second column
    painted = TABLE.picture(batch, 0, facts, colours)
    changed = (painted != plain).any(axis=2)
    assert (painted[changed] == [255, 0, 0]).all()
    assert changed[:32, 24:48].all() and changed.sum() == 32 * 24
