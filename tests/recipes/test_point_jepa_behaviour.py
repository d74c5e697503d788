"""What training does: it learns more than the mean target, and does not collapse."""

import pytest

import anyjepa
from anyjepa.engine.files import read_lines


@pytest.mark.slow
def test_its_loss_falls_below_that_of_the_mean_target_and_nothing_collapses(tmp_path):
    """Exact checks 13 and 16. Measured with seed 0: 0.007 against 0.065, spreads 0.44 and 0.40."""
    settings = anyjepa.Settings(quiet=True)
    result = anyjepa.train("point-jepa", "synthetic-shapes", tmp_path / "run", settings=settings)
    last = read_lines(anyjepa.load(result["run"]).path / "metrics.jsonl")[-1]
    assert last["loss"] < 0.5 * last["mean_target_loss"]
    assert last["target_spread"] > 0.1
    assert last["predicted_spread"] > 0.01
