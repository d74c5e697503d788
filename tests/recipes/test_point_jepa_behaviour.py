"""What training does: it does not collapse unless asked to, and trained beats untrained."""

import numpy as np
import pytest

import anyjepa
from anyjepa.engine.files import read_lines
from anyjepa.evaluation.svm import svm_probe

SMALL = {
    "points": 256, "candidates": 256, "groups": 16, "neighbours": 16, "width": 48, "depth": 2,
    "predictor_width": 24, "predictor_depth": 1, "batch_size": 32,
}  # fmt: skip


def trained(folder, data, steps, seed=0, preset="tiny", **fields):
    settings = anyjepa.Settings(steps=steps, quiet=True, log_every=20, seed=seed)
    return anyjepa.train(
        "point-jepa", data, folder / f"run-{seed}", preset=preset, settings=settings, **fields
    )


def scores(run, data):
    """Accuracy of the support vector machine at C = 0.012 on trained and untrained embeddings."""
    train, test = run.open(data), run.domain.open(data, split="test", reading=run.reading())
    found = []
    for encoder in (run, run.untrained()):
        vectors = [encoder.embed(part) for part in (train, test)]
        labels = [np.asarray(part.labels) for part in (train, test)]
        import torch

        pairs = [x for v, y in zip(vectors, labels, strict=True) for x in (v, torch.from_numpy(y))]
        found.append(svm_probe(*pairs).value)
    return found


def test_its_loss_falls_below_that_of_the_mean_target_and_nothing_collapses(tmp_path):
    """Exact checks 13 and 16, in a run of seconds."""
    result = trained(tmp_path, "synthetic-shapes", 120, **SMALL)
    last = read_lines(anyjepa.load(result["run"]).path / "metrics.jsonl")[-1]
    assert last["loss"] < 0.9 * last["mean_target_loss"]
    assert last["target_spread"] > 0.1
    assert last["predicted_spread"] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("data", "fields"), [("synthetic-shapes", {}), ("modelnet10_voxels", {"up": "z"})])
def test_trained_beats_untrained(tmp_path, data_folder, data, fields):
    """Exact check 14, over three seeds."""
    source = data if data.startswith("synthetic") else str(data_folder(data))
    gains = []
    for seed in range(3):
        result = trained(tmp_path, source, 400, seed, **fields)
        after, before = scores(anyjepa.load(result["run"]), source)
        gains.append(after - before)
    assert np.mean(gains) > 0, gains
    assert min(gains) > -0.02, gains
