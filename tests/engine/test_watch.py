"""Collapse is said once, while it happens, and so is its end."""

import pytest
import torch

from anyjepa.core.health import rankme
from anyjepa.engine.watch import ROWS_PER_DIMENSION, Watch

DIM = 16


def healthy(rows=64, seed=0):
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


def one_point(rows=64):
    return torch.ones(rows, DIM) + 1e-6 * healthy(rows)


def one_direction(rows=64):
    return torch.ones(1, DIM) + healthy(rows)[:, :1] * torch.ones(1, DIM)


def fill(watch, draw):
    for _ in range(ROWS_PER_DIMENSION * DIM // 64 + 1):
        watch.see(draw())
    return watch.measure()[1]


def test_nothing_seen_is_nothing_said():
    assert Watch().measure() == ({}, None)


def test_collapse_and_recovery_are_said_once_each():
    watch = Watch()
    assert fill(watch, healthy) is None
    assert "collapsed to one point" in fill(watch, one_point)
    assert fill(watch, one_point) is None
    assert "collapsed to one direction" in fill(watch, one_direction)
    assert fill(watch, one_direction) is None
    assert fill(watch, healthy) == "no longer collapsed"
    assert fill(watch, healthy) is None


def test_figures_are_those_of_the_newest_embeddings_only():
    watch = Watch()
    for _ in range(50):
        watch.see(one_point())
    newest = [healthy(64, seed) for seed in range(ROWS_PER_DIMENSION * DIM // 64)]
    for embeddings in newest:
        watch.see(embeddings)
    figures, _ = watch.measure()
    assert figures["rankme"] == pytest.approx(rankme(torch.cat(newest)), rel=1e-9)
    assert watch.rows == ROWS_PER_DIMENSION * DIM


def test_what_is_kept_does_not_grow():
    watch = Watch()
    for _ in range(100):
        watch.see(healthy(100))
    assert ROWS_PER_DIMENSION * DIM <= watch.rows < ROWS_PER_DIMENSION * DIM + 100


def test_embeddings_that_are_no_numbers_are_said_and_not_measured():
    watch = Watch()
    broken = healthy()
    broken[3, 2] = torch.nan
    watch.see(broken)
    figures, news = watch.measure()
    assert figures == {}
    assert "no longer finite" in news
