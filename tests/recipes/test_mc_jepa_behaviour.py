"""What MC-JEPA does when it is trained: flow is learned, and features keep their spread where asked to."""

import pytest

import anyjepa
from anyjepa.engine.run import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def trained(out, steps, **fields):
    settings = anyjepa.Settings(quiet=True, steps=steps, log_every=steps)
    anyjepa.train("mc-jepa", out=out, preset="tiny", settings=settings, **fields)
    return load(out, "cpu")


def test_flow_is_learned_without_truth(tmp_path):
    """Behavioural check 12: of pairs that were not trained on, less than half the error of no flow at all."""
    run = trained(tmp_path / "run", 400, content=0.0, flow_every=1, batch_size=16)
    found = anyjepa.flow(run, opencv=False)
    assert found["part"] == "test" and found["known"] == 192
    assert found["epe"] < 0.5 * found["epe_zero"]
    assert found["gain_zero"][1] > 0


def test_regression_alone_shrinks_features_that_nothing_keeps_apart(tmp_path):
    """Behavioural check 14: variance and covariance of every level are what stops it."""
    spread = {}
    for name, kept in (("kept", 1.0), ("left", 0.0)):
        run = trained(
            tmp_path / name, 60, content=0.0, flow_every=1, batch_size=16, photometric=(0.0,) * 4, smooth=0.0,
            cycle=0.0, occlusion=False, level_variance=(kept,) * 4, level_covariance=(0.04 * kept,) * 4,
        )  # fmt: skip
        last = run.metrics()[-1]
        spread[name] = [last[f"spread_level_{level}"] for level in (2, 3, 4)]
    assert all(less < 0.5 * more for less, more in zip(spread["left"], spread["kept"], strict=True))
