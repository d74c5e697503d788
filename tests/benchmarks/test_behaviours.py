"""The checks of what the papers' notes expect: they run, and what they compare is what they say."""

import importlib
import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports one of the scripts, whose folder is on the path as when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_errors_of_the_mean_the_copy_and_the_truth_by_hand(script):
    goal = torch.tensor([[[0.0], [1.0], [4.0], [7.0]]])
    errors = script("behaviours_runs").Errors()
    wanted, context = torch.tensor([[1, 3]]), torch.tensor([[0, 2]])
    apart = torch.tensor([[[1.0, 2.0], [torch.inf, torch.inf]]])
    errors.add(goal, wanted, context, torch.tensor([[[1.5], [100.0]]]), apart)
    assert (errors.predicted, errors.copied, errors.mean) == (0.25, 1.0, 4.0)
    assert errors.shares() == (0.0625, 0.25)


@pytest.mark.parametrize(
    ("firsts", "verdict"),
    [((0.7, 0.8, 0.9), "shows"), ((0.1, 0.2, 0.3), "the opposite shows"), ((0.4, 0.5, 0.9), "does not show")],
)
def test_what_shows_is_beyond_the_interval_over_seeds(script, firsts, verdict):
    runs = script("behaviours_runs")
    assert runs.summary([runs.Claim("", first, 0.5) for first in firsts])["verdict"] == verdict
    turned = runs.summary([runs.Claim("", 1 - first, 0.5, above=False) for first in firsts])
    assert turned["verdict"] == verdict


def test_a_check_trains_once_and_prints_a_line_an_expectation(script, tmp_path, capsys):
    words = ["--only", "s-places", "s-places", "--steps", "2", "--out", str(tmp_path), "--json"]
    script("behaviours").main(words)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["check"] for row in rows] == ["s-places"] * 2
    assert len(list(tmp_path.iterdir())) == 1
    assert rows[0] == rows[1]
    assert all(row["verdict"].startswith("one seed") for row in rows)
