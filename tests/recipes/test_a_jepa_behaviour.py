"""What training does to sound (check 13 of the note): without teacher and stop-gradient it collapses."""

import pytest

import anyjepa

SMALL = {
    "width": 32, "depth": 2, "heads": 2, "predictor_width": 24, "predictor_depth": 1, "predictor_heads": 2,
    "warmup_epochs": 1.0,
}  # fmt: skip


@pytest.mark.slow
def test_without_a_teacher_it_collapses_and_says_so_and_with_one_it_does_not(tmp_path):
    settings = anyjepa.Settings(steps=200, quiet=True, workers=0, device="cpu", log_every=10)
    said = {}
    for teacher in ("collapse", "ema"):
        out = tmp_path / teacher
        anyjepa.train("a-jepa", None, out, settings=settings, teacher=teacher, **SMALL)
        said[teacher] = [row["warning"] for row in anyjepa.load(out).metrics() if "warning" in row]
        assert anyjepa.inspect(out)["collapsed"] == (teacher == "collapse")
    assert said["collapse"][-1].startswith("collapsed to one")
    assert not said["ema"]
