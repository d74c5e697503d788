"""From a run that was trained to the page on disk."""

import dataclasses
import html
import json

import numpy as np
import pytest
import torch
from PIL import Image

from anyjepa.core.errors import UserError
from anyjepa.core.health import Gram
from anyjepa.engine.run import load
from anyjepa.engine.train import Settings, train
from anyjepa.reports import summary
from anyjepa.reports.charts import short
from anyjepa.reports.gather import gather, report, write_report

EVIL = "<script>alert(1)<"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three steps on images in two class folders, one of them called like a script."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    for folder in (EVIL, "plain"):
        (root / "data" / folder).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "data" / folder / f"{number}.png")
    small = {"image_size": (16, 16), "width": 24, "depth": 1, "predictor_depth": 1, "batch_size": 20}
    quick = Settings(steps=3, log_every=1, quiet=True, workers=0, device="cpu")
    train("i-jepa", str(root / "data"), root / "run", settings=quick, **small)
    result = {"probe": "linear", "metric": "accuracy", "value": 0.8, "low": 0.7, "high": 0.9, "data": "d"}
    lines = [{**result, "value": 0.1}, {**result, "untrained": 0.5, "raw": 0.6}]
    (root / "run" / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    skipped = [{"sample": f"{EVIL}{number}.png", "reason": "cut off"} for number in range(23)]
    (root / "run" / "skipped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in skipped))
    return load(root / "run", "cpu")


def test_a_run_has_every_section(run):
    content = gather(run, samples=30)
    sections = (content.scores, content.curves, content.spectrum, content.masks, content.neighbours)
    assert not [part for part in (*sections, content.patches, content.map) if isinstance(part, str)]
    assert content.neighbours.searched == 30
    assert len(content.masks.samples) == len(content.patches.pairs) == 6
    assert content.patches.less_position
    assert [name for name, _ in content.spectrum.legend] == ["this run", "untrained"]
    (loss,) = [figure.value for figure in content.figures if figure.label == "Loss"]
    assert content.curves[0].legend == [("loss", loss)]
    assert [score.value for score in content.scores] == [0.8]  # the newest
    assert (content.skipped, len(content.skipped_first)) == (23, 20)
    fields = {name for name, _ in content.tables[0].rows}
    assert fields == {name.replace("_", " ") for name in run.config["fields"]}


def test_the_health_is_that_of_inspect_and_the_head_says_it_too(run):
    from anyjepa.evaluation.inspection import MEANINGS, inspect

    content, result = gather(run, samples=40), inspect(run, samples=0)
    rows = {name: (value, untrained) for name, value, untrained, _ in content.health.rows}
    assert set(rows) == {name.replace("_", " ") for name in MEANINGS}
    assert rows["rankme"][0].startswith(short(result["rankme"]))
    assert rows["rankme"][1] == short(result["untrained"]["rankme"])
    assert content.health.samples == 40
    assert content.health.verdict.lower() == result["verdict"].lower()
    assert content.verdict.words.startswith(content.health.verdict)


def test_the_page_replaces_the_old_one_and_leaves_nothing_beside(run):
    (run.path / "report.html").write_text("old")
    before = set(run.path.iterdir())
    path = write_report(run, samples=20)
    assert path == run.path / "report.html"
    assert set(run.path.iterdir()) == before
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert EVIL not in page
    assert html.escape(EVIL) in page
    assert len(page) < 3_000_000
    assert report(run.path, samples=20) == {"report": str(path)}


def test_data_that_is_gone_is_said_but_data_asked_for_must_be_there(run, tmp_path):
    moved = dataclasses.replace(
        run, config={**run.config, "data": {**run.config["data"], "source": "gone/x"}}
    )
    content = gather(moved)
    for part in (content.spectrum, content.masks, content.neighbours, content.patches, content.map):
        assert isinstance(part, str)
        assert part.startswith("Not shown, for the data cannot be read:")
    assert content.verdict.tone == "unknown"
    assert len(content.curves) == 4
    with pytest.raises(UserError):
        gather(run, str(tmp_path / "nothing"))


def gram(scale, dim=8, count=200):
    z = torch.randn(count, dim, generator=torch.Generator().manual_seed(0)) * torch.tensor(scale)
    return Gram(dim).add(z)


def test_the_verdict_says_the_worst_first():
    good, poor = gram([1.0] * 8), gram([1.0, 0.5, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1])
    point, few = Gram(8).add(torch.ones(20, 8)), gram([1.0] * 8, count=5)
    score = summary.scores(
        [{"probe": "knn", "metric": "accuracy", "value": 0.8, "untrained": 0.5, "raw": 0.9}]
    )
    error = summary.scores(
        [{"probe": "linear", "metric": "RMSE", "value": 0.4, "untrained": 0.5, "raw": 0.9}]
    )
    done = {"status": "finished"}
    assert summary.verdict(done, point, good, error).tone == "bad"
    assert summary.verdict(done, few, good, error).tone == "unknown"
    assert summary.verdict(done, None, None, error).tone == "unknown"
    assert summary.verdict(done, good, poor, error).tone == "good"
    assert summary.verdict(done, poor, good, error).tone == "care"
    beaten = summary.verdict(done, good, poor, score)
    assert beaten.tone == "care"
    assert "does not beat the raw input (0.900)" in beaten.words


def test_commands_can_be_pasted_into_a_shell(tmp_path):
    config = {"recipe": "i-jepa", "status": "stopped", "data": {"source": "my data; rm -rf /"}}
    commands = [command for _, command in summary.commands(tmp_path / "a run", config, [])]
    assert commands[0].startswith("anyjepa train i-jepa --data 'my data; rm -rf /' --out '")
    assert commands[0].endswith("a run' --resume")
