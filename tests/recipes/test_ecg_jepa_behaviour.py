"""What training does to simulated ECGs: trained beats untrained, patients kept apart; collapse is said."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import anyjepa
from anyjepa.domains.ecg_sources import open_ecg

SMALL = {
    "width": 32, "depth": 2, "heads": 2, "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2,
    "patch_size": 25,
}  # fmt: skip


def accuracy(run, samples):
    """Of a linear probe of the frozen embeddings, every patient judged by a probe that has not seen them."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    features, labels = run.embed(samples).numpy(), samples.labels
    return np.mean(
        cross_val_predict(probe, features, labels, groups=samples.groups, cv=GroupKFold(4)) == labels
    )


@pytest.mark.slow
def test_trained_tells_rhythms_apart_better_than_untrained(tmp_path):
    """Behavioural check 13."""
    settings = anyjepa.Settings(quiet=True)
    anyjepa.train("ecg-jepa", out=tmp_path / "run", settings=settings)
    run = anyjepa.load(tmp_path / "run", "cpu")
    samples = run.open("synthetic-ecg", split="all")
    assert accuracy(run, samples) > accuracy(run.untrained(), samples) + 0.02


@pytest.mark.slow
def test_without_teacher_and_stop_gradient_it_collapses_and_says_so(tmp_path):
    """Behavioural check 16."""
    settings = anyjepa.Settings(steps=200, quiet=True, log_every=10)
    anyjepa.train(
        "ecg-jepa", out=tmp_path / "run", settings=settings, teacher="collapse", warmup_epochs=1.0, **SMALL
    )
    assert anyjepa.inspect(tmp_path / "run")["collapsed"]


def test_several_labels_are_carried_into_a_table_of_embeddings(tmp_path):
    from pyarrow import parquet

    values = np.random.default_rng(0).normal(size=(12, 2, 1000)).astype(np.float32)
    labels = np.eye(3, dtype=np.int8)[np.arange(12) % 3] | np.eye(3, dtype=np.int8)[0]
    labels[5] = -1
    np.savez(tmp_path / "x.npz", x=values, y=labels)
    settings = anyjepa.Settings(steps=1, quiet=True, workers=0)
    source = str(tmp_path / "x.npz")
    anyjepa.train("ecg-jepa", source, tmp_path / "run", settings=settings, batch_size=8, **SMALL)
    anyjepa.embed(tmp_path / "run", source, tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.column("label").to_pylist()[:6] == [["0"], ["0", "1"], ["0", "2"], ["0"], ["0", "1"], None]
    run = anyjepa.load(tmp_path / "run", "cpu")
    assert torch.allclose(
        torch.tensor(table.column("embedding").to_pylist()),
        run.embed(open_ecg(source, reading=run.reading())),
    )
    page = (anyjepa.load(tmp_path / "run").path / "report.html", anyjepa.report(tmp_path / "run"))[
        0
    ].read_text()
    assert "0, 2" in page
    assert "25 mm/s" in page
