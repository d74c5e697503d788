"""Series whose offsets outweigh what moves (check 18 of the note): the collapse users reported is said."""

import numpy as np
import pytest

import anyjepa

SMALL = {
    "step": 2.0, "repetition_time": 2.0, "width": 32, "depth": 2, "heads": 2, "predictor_width": 16,
    "predictor_depth": 1, "predictor_heads": 2, "batch_size": 16, "warmup_epochs": 1.0,
}  # fmt: skip


@pytest.mark.slow
def test_offsets_that_drown_what_moves_are_a_collapse_that_is_said_and_taken_off_they_are_none(tmp_path):
    random = np.random.default_rng(0)
    level = random.normal(9000, 2000, (1, 16, 1))
    shared = random.standard_normal((64, 4, 64)).cumsum(2)
    moving = np.einsum("rn,snt->srt", random.standard_normal((16, 4)), shared)
    bold = level + 0.3 * moving + 0.3 * random.standard_normal((64, 16, 64))
    np.save(tmp_path / "bold.npy", bold.astype(np.float32))
    settings = anyjepa.Settings(steps=40, quiet=True, workers=0, device="cpu", log_every=10)
    said = {}
    for normalise in ("matrix", "region"):
        out, source = tmp_path / normalise, str(tmp_path / "bold.npy")
        anyjepa.train("brain-jepa", source, out, settings=settings, normalise=normalise, **SMALL)
        said[normalise] = [row["warning"] for row in anyjepa.load(out).metrics() if "warning" in row]
        assert anyjepa.inspect(out)["collapsed"] == (normalise == "matrix")
    assert said["matrix"][0].startswith("collapsed to one")
    assert not said["region"]
