"""What training does to EEG as video (check 11 of the note): tokens keep their spread, clips stay apart."""

import pytest
import torch

import anyjepa
from anyjepa.core.method import Context


@pytest.mark.slow
def test_tokens_keep_their_spread_and_without_a_teacher_the_health_measures_say_that_they_do_not(tmp_path):
    settings = anyjepa.Settings(steps=150, quiet=True, workers=0, device="cpu", log_every=10)
    found = {}
    for teacher in ("ema", "collapse"):
        out = tmp_path / teacher
        anyjepa.train("eeg-vjepa", None, out, settings=settings, teacher=teacher)
        run = anyjepa.load(out, "cpu")
        _, batch = next(run.batches(run.open(split="test")))
        context = Context(1, 1, torch.Generator())
        trained, fresh = (one.method.health([batch], context) for one in (run, run.untrained()))
        found[teacher] = trained["token_spread"] / fresh["token_spread"], trained["clip_cosine"]
    assert found["ema"][0] > 0.1 > found["collapse"][0]
    assert found["ema"][1] < 0.99 < found["collapse"][1]
    assert anyjepa.inspect(tmp_path / "collapse")["collapsed"]
    assert not anyjepa.inspect(tmp_path / "ema")["collapsed"]
