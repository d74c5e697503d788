"""Verdicts in words: each kind of ill health is told apart, with its evidence and fields that exist."""

import json

import numpy as np
import pytest
import torch
from small import FIELDS, pictures, train_small

import anyjepa
from anyjepa.core.accumulation import Accumulator
from anyjepa.core.errors import UserError
from anyjepa.core.health import Shape
from anyjepa.domains import domains
from anyjepa.domains.sources import choose
from anyjepa.engine.run import load
from anyjepa.evaluation import verdict
from anyjepa.evaluation.inspection import MEANINGS, inspect
from anyjepa.evaluation.verdict import dominating, judge, remedies
from anyjepa.recipes import recipe, recipes


def cloud(rows=600, dim=16, directions=16, spread=1.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    noise = torch.zeros(rows, dim)
    noise[:, :directions] = torch.randn(rows, directions, generator=draw)
    return 0.3 + spread * noise


def source(groups=None):
    """600 samples that belong to groups."""
    opened = domains()["image"].open(pictures(600, (2, 2)))
    opened.groups = groups
    return opened


def judged(z, before=None, groups=None, views=None, name="i-jepa", **fields):
    sums = Accumulator(z.shape[1]).add(z)
    if views is not None:
        sums.add_views(views)
    shape = Shape.of(Accumulator(z.shape[1]).add(cloud() if before is None else before).gram())
    figures = {key: one.value for key, one in sums.estimates().items()}
    few = dominating(sums, source(groups), shape)
    return judge(sums, shape, figures, recipe(name).preset("tiny", **fields), few)


def test_health_is_said_with_its_evidence():
    said = judged(cloud(), before=cloud(directions=4))
    assert said.words.startswith("healthy: effective rank 15.")
    assert "of 16 (untrained 4.0)" in said.words
    assert (said.tone, said.collapsed) == ("good", False)
    assert said.remarks == ()


@pytest.mark.parametrize(
    ("z", "words", "collapsed", "tone"),
    [
        (cloud(spread=1e-5), "collapsed to one point", True, "bad"),
        (cloud(directions=1), "collapsed to one direction", True, "bad"),
        (cloud(directions=3), "partly collapsed: the embeddings use 3.0 of 16 directions", True, "bad"),
        (cloud(directions=6), "shrinking: effective rank 6.0 of 16", False, "care"),
        (cloud(directions=15), "not collapsed, but no more directions are used", False, "care"),
        (cloud(rows=12), "unknown: 12 samples", False, "unknown"),
    ],
)
def test_each_kind_of_ill_health(z, words, collapsed, tone):
    said = judged(z)
    assert said.words.startswith(words)
    assert (said.collapsed, said.tone) == (collapsed, tone)


def test_advice_names_fields_of_the_recipe_and_values_that_differ_from_those_now():
    said = judged(cloud(directions=1), teacher="none", learning_rate=0.003)
    assert "--teacher ema (now none)" in said.advice
    assert "--learning-rate 0.001 (now 0.003)" in said.advice
    assert "--momentum 0.99 1 (now 0.98 1)" in said.advice
    assert "--teacher" not in judged(cloud(directions=1)).advice
    lejepa = judged(cloud(directions=1), name="lejepa", regularisation=0.02)
    assert "--regularisation 0.04 (now 0.02)" in lejepa.advice


@pytest.mark.parametrize("name", recipes())
def test_what_is_advised_can_be_typed(name):
    from anyjepa.recipes.fields import parse_words

    kind = recipe(name).preset("tiny")
    for rules in (verdict.COLLAPSE, verdict.SHRINKING, verdict.NOISE, verdict.DOMINATED):
        for words in remedies(kind, rules):
            flags = words.split(" (now")[0].split()
            given = parse_words(type(kind), [one.removesuffix(".0") for one in flags])
            kind.preset("tiny", **given)


def test_a_group_that_dominates_is_named_with_the_rank_without_it():
    z, groups = cloud(), np.array([f"patient-{index % 20}" for index in range(600)])
    z[groups == "patient-7", 0] += 30 * cloud(30, 16, seed=3)[:, 0]
    said = judged(z, groups=groups)
    assert said.words.startswith("dominated by group 'patient-7': 5.0% of the samples hold 74% of")
    assert "15.9 without" in said.words
    assert not said.collapsed
    single = cloud()
    single[[3, 99]] = 1000.0
    said = judged(single)
    assert said.words.startswith("dominated by 1 sample ('") or "dominated by 2 samples ('" in said.words


def test_collapse_that_remains_without_the_few_is_collapse():
    z = cloud(directions=1)
    z[3, 0] = 500.0
    assert judged(z).words.startswith("collapsed to one direction")


def test_views_that_differ_as_much_as_samples_are_noise():
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 8, 16, generator=draw)
    said = judged(cloud(), before=cloud(directions=4), views=noise)
    assert said.words.startswith("noise: samples differ no more than views of one sample do")
    assert said.tone == "bad"
    stable = cloud(300)[:, None] + 0.1 * noise
    assert judged(cloud(), before=cloud(directions=4), views=stable).words.startswith("healthy")


def test_a_common_mean_and_too_few_samples_are_remarked():
    offset = cloud(60) + 20
    said = judged(offset)
    assert any("A common mean hides the rest" in words for words in said.remarks)
    assert any("Only 60 samples" in words for words in said.remarks)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("inspected") / "run"
    train_small(path, pictures(80), steps=4)
    return load(path, "cpu")


def test_a_run_is_inspected_beside_its_untrained_self(run):
    array = pictures(300, seed=1)
    result = inspect(run, array)
    assert list(result)[: len(MEANINGS)] == list(MEANINGS)
    assert result["rankme"] == pytest.approx(anyjepa.health.rankme(run.embed(array)))
    assert result["untrained"]["rankme"] == pytest.approx(anyjepa.health.rankme(run.untrained().embed(array)))
    assert result["untrained"].keys() == set(MEANINGS)
    assert 0 < result["errors"]["rankme"] < 1
    assert result["dim"] == FIELDS["width"]
    assert inspect(run, array) == result
    json.dumps(result)


def test_a_seeded_part_or_all_samples_are_looked_at(run):
    assert inspect(run, pictures(100), samples=40)["samples"] == 40
    assert inspect(run, pictures(100), samples=0)["samples"] == 100
    assert np.array_equal(choose(10, 0, 0), np.arange(10))
    assert np.array_equal(choose(100, 30, 1), choose(100, 30, 1))
    assert not np.array_equal(choose(100, 30, 1), choose(100, 30, 2))
    with pytest.raises(UserError, match="two samples or more"):
        inspect(run, pictures(1))


def test_embeddings_that_are_no_numbers_are_refused_by_name(run):
    broken = run.untrained()
    with torch.no_grad():
        next(broken.method.backbone.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="is not finite"):
        inspect(broken, pictures(30))
