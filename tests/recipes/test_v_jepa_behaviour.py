"""What training does (checks 11, 13 and 16 of the note): motion, attention reads more, rank stays."""

import pytest

import anyjepa

SMALL = {
    "width": 48, "depth": 3, "heads": 4, "predictor_width": 48, "predictor_depth": 2, "predictor_heads": 4,
    "variance": 0.0, "learning_rate": 1.5e-3,
}  # fmt: skip


def trained(out, steps, **fields):
    settings = anyjepa.Settings(steps=steps, quiet=True, workers=0, device="cpu")
    return anyjepa.train("v-jepa", "synthetic-video", out, settings=settings, **{**SMALL, **fields})


@pytest.mark.slow
def test_an_attentive_probe_reads_more_than_the_mean_of_the_same_tokens(tmp_path):
    run = trained(tmp_path / "run", 150)["run"]
    linear, attentive = (anyjepa.evaluate(run, probe=probe) for probe in ("linear", "attentive"))
    assert attentive["value"] > linear["value"] + 0.02


@pytest.mark.slow
def test_rank_stays_with_a_teacher_and_goes_without(tmp_path):
    kept = trained(tmp_path / "kept", 120, momentum=(0.998, 1.0))
    lost = trained(tmp_path / "lost", 120, teacher="collapse")
    health = {name: anyjepa.inspect(result["run"]) for name, result in (("kept", kept), ("lost", lost))}
    assert health["kept"]["rankme"] > 4
    assert not health["kept"]["collapsed"]
    assert health["lost"]["collapsed"]
    assert lost["loss"] < kept["loss"]


@pytest.mark.slow
def test_training_beats_an_untrained_encoder(tmp_path):
    """Check 11, with the preset `tiny` as it is."""
    settings = anyjepa.Settings(quiet=True, workers=0, device="cpu")
    run = anyjepa.train("v-jepa", None, tmp_path / "run", settings=settings)["run"]
    score = anyjepa.evaluate(run, probe="linear")
    assert score["value"] > score["untrained"] + 0.02
    assert score["value"] > 2 * score["raw"]
