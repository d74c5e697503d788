"""Runs side by side: measured alike, ranked without labels, and judged by labels where there are any."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import FIELDS, pictures, train_small

from anyjepa import health
from anyjepa.core.errors import UserError
from anyjepa.engine.checkpoint import checkpoints
from anyjepa.engine.run import load
from anyjepa.evaluation.comparison import Measured, compare, final_loss, ranked, reached, states


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two kinds of pictures that a probe tells apart, labelled."""
    path = tmp_path_factory.mktemp("compared") / "data.npz"
    images = pictures(120)
    images[::2, :8] //= 4
    np.savez(path, x=images, y=np.arange(120) % 2)
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """Four runs of other seeds, all checkpoints kept, and one that knows nothing but one point."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(4):
        settings = {"seed": seed, "steps": 6, "checkpoint_every": 2, "keep_checkpoints": 0}
        train_small(folder / f"seed-{seed}", data, **settings)
    shutil.copytree(folder / "seed-0", folder / "point")
    weights = load_file(folder / "point" / "encoder.safetensors")
    for name, value in weights.items():
        if "position" not in name and value.ndim == 2:
            value.zero_()
    save_file(weights, folder / "point" / "encoder.safetensors")
    return folder


def test_runs_are_ranked_by_what_inspect_measures_and_collapsed_ones_last(runs, data):
    names = ["point", "seed-0", "seed-1", "seed-2"]
    result = compare([runs / name for name in names], samples=0)
    rows = result["runs"]
    assert rows[-1]["run"].endswith("point")
    assert rows[-1]["collapsed"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert [row["rankme"] for row in rows[:3]] == sorted((row["rankme"] for row in rows[:3]), reverse=True)
    for row in rows:
        run = load(row["run"])
        assert row["rankme"] == pytest.approx(health.rankme(run.embed(run.open())), rel=1e-6)
    assert result["agreement"] == []
    assert "value" not in rows[0]
    json.dumps(result)
    by_loss = compare([runs / name for name in names[1:]], by="loss")["runs"]
    assert [row["loss"] for row in by_loss] == sorted(row["loss"] for row in by_loss)


def test_a_run_is_not_told_apart_from_itself_but_from_another(runs, tmp_path):
    shutil.copytree(runs / "seed-1", tmp_path / "again")
    rows = compare([runs / "seed-1", tmp_path / "again"])["runs"]
    assert [row["tied"] for row in rows] == [False, True]
    assert rows[0]["rankme"] == rows[1]["rankme"]


@pytest.mark.slow
def test_labels_judge_the_ranking_and_do_not_make_it(runs, data):
    folders = [runs / f"seed-{seed}" for seed in range(4)]
    blind = compare(folders)
    result = compare(folders, data, probe="knn")
    assert [row["run"] for row in result["runs"]] == [row["run"] for row in blind["runs"]]
    values = [row["value"] for row in result["runs"]]
    found = {row["by"]: row for row in result["agreement"]}
    assert {"rankme", "lidar", "alpha_req", "loss", "clid"} <= found.keys()
    row = found["rankme"]
    assert row["chosen"] == result["runs"][0]["run"]
    assert row["lost"][0] == pytest.approx(max(values) - values[0])
    assert row["count"] == 4


def test_checkpoints_are_runs_too(runs, data):
    run = load(runs / "seed-2")
    kept, earlier = list(states(run)), len(run.results())
    assert [step for _, step in kept] == [2, 4, 6]
    array = pictures(20)
    assert torch.equal(kept[-1][0].embed(array), run.embed(array))
    assert not torch.equal(kept[0][0].embed(array), run.embed(array))
    result = compare([runs / "seed-2"], data, probe="knn", checkpoints=True)
    assert sorted(row["step"] for row in result["runs"]) == [2, 4, 6]
    assert all("value" in row for row in result["runs"])
    # what an earlier checkpoint scored is no result of the run
    assert len(run.results()) == earlier + 1
    damaged = runs / "damaged"
    shutil.copytree(runs / "seed-2", damaged)
    (checkpoints(damaged / "checkpoints")[1] / "state.safetensors").write_bytes(b"cut")
    assert [step for _, step in states(load(damaged))] == [2, 6]


def test_the_loss_is_the_mean_of_the_last_tenth_of_the_steps(runs):
    run = load(runs / "seed-3")
    rows = run.metrics()
    assert reached(run) == 6
    assert final_loss(run, 6).value == pytest.approx(rows[-1]["loss"])
    assert final_loss(run, 4).value == pytest.approx(rows[3]["loss"])
    (run.path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "loss": step / 10}) + "\n" for step in range(1, 101))
    )
    estimate = final_loss(run, 100)
    assert estimate.value == pytest.approx(np.mean(np.arange(91, 101) / 10))
    assert estimate.error == pytest.approx(np.std(np.arange(91, 101) / 10, ddof=1) / np.sqrt(10))


def test_what_cannot_be_compared_is_said(runs, tmp_path):
    train_small(tmp_path / "other", pictures(30), steps=1)
    with pytest.raises(UserError, match="trained on different data: name one source"):
        compare([runs / "seed-0", tmp_path / "other"])
    with pytest.raises(UserError, match="Did you mean 'lidar'"):
        compare([runs / "seed-0"], by="lida")
    with pytest.raises(UserError, match="name the runs"):
        compare([])


def test_other_widths_are_ranked_apart_unless_asked(runs, data, tmp_path):
    train_small(tmp_path / "wide", data, steps=2, fields={**FIELDS, "width": 48})
    folders = [runs / "seed-0", tmp_path / "wide"]
    apart = compare(folders)
    assert [row["rank"] for row in apart["runs"]] == [1, 1]
    assert "ranked apart" in apart["remarks"][0]
    together = compare(folders, across=True)
    assert [row["rank"] for row in together["runs"]] == [1, 2]
    assert together["remarks"] == []


def test_losses_under_other_weights_of_the_regulariser_are_brought_to_one_scale(tmp_path):
    from anyjepa.engine.train import Settings, train

    small = {"width": 24, "depth": 1, "heads": 2, "image_size": (16, 16), "loaded_size": 16, "local_views": 0}
    small |= {"projector": (16, 16), "projection": 8, "slices": 8, "batch_size": 20}
    short = Settings(steps=1, log_every=1, quiet=True, workers=0, device="cpu")
    train("lejepa", pictures(20), tmp_path / "run", settings=short, regularisation=0.1, **small)
    [row] = compare([tmp_path / "run"], pictures(60))["runs"]
    assert row["scaled_loss"] == pytest.approx(row["loss"] / 0.1**0.4)


def test_runs_that_use_no_more_directions_than_untrained_ones_are_remarked():
    def run(rank, before):
        row = {"run": str(rank), "recipe": "x", "dim": 8, "collapsed": False, "errors": {}}
        return Measured(row | {"rankme": rank, "rankme_centred": rank, "untrained_rank": before}, {})

    assert "less was learned" in ranked([run(3.0, 4.0), run(2.0, 4.0)])["remarks"][0]
    assert ranked([run(3.0, 4.0), run(5.0, 4.0)])["remarks"] == []
