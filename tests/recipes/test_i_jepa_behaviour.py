"""What training does: collapse is said in words, compiled steps are the same, trained beats untrained."""

import json
import subprocess
import sys

import pytest

import anyjepa
from anyjepa.engine.files import read_lines

SMALL = {
    "image_size": (16, 16), "width": 48, "depth": 2, "heads": 3,
    "predictor_width": 24, "predictor_depth": 1, "predictor_heads": 3,
}  # fmt: skip


def trained(tmp_path, steps, name="run", **options):
    settings = anyjepa.Settings(steps=steps, quiet=True, log_every=10)
    return anyjepa.train("i-jepa", "digits", tmp_path / name, settings=settings, **options)


def warnings(result):
    return [
        row["warning"]
        for row in read_lines(anyjepa.load(result["run"]).path / "metrics.jsonl")
        if "warning" in row
    ]


def test_without_stop_gradient_it_collapses_and_says_so_while_it_happens(tmp_path):
    result = trained(tmp_path, 150, teacher="collapse", warmup_epochs=1.0, **SMALL)
    found = warnings(result)
    assert found
    assert found[-1].startswith("collapsed to one point")
    assert result["loss"] < 0.01
    health = anyjepa.inspect(result["run"])
    assert health["collapsed"]
    assert "before training" in health["verdict"]


@pytest.mark.slow
def test_with_a_teacher_it_does_not_collapse(tmp_path):
    result = trained(tmp_path, 150, momentum=(0.996, 1.0), warmup_epochs=1.0, **SMALL)
    assert not warnings(result)
    assert not anyjepa.inspect(result["run"])["collapsed"]


@pytest.mark.slow
def test_of_a_frozen_teacher_the_encoder_that_learned_is_taken_away(tmp_path):
    result = trained(tmp_path, 10, momentum=(1.0, 1.0), **SMALL)
    run = anyjepa.load(result["run"])
    assert run.method.backbone is run.method.encoder
    digits = run.open()
    assert not run.embed(digits).allclose(run.untrained().embed(digits))


@pytest.mark.slow
def test_compiled_steps_learn_the_same(tmp_path):
    """In processes of their own: the compiler cannot trace the checks of shapes that tests add."""
    words = [f"--{name.replace('_', '-')}" for name in SMALL]
    fields = [part for word, value in zip(words, SMALL.values(), strict=True) for part in (word, str(value))]
    fields[1:2] = ["16", "16"]
    losses = []
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        command = [sys.executable, "-m", "anyjepa", "train", "i-jepa", "--data", "digits", "--out", str(out)]
        command += ["--steps", "10", "--batch-size", "16", "--compile", compiled, "--json", *fields]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        losses.append(json.loads(shown.splitlines()[-1])["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_the_demo_learns_to_tell_digits_apart(tmp_path):
    from anyjepa.demo import demo

    result = demo(tmp_path / "demo")
    assert result["accuracy"] > result["accuracy_untrained"] + 0.02
    assert result["knn"] > result["knn_untrained"] + 0.05
    assert not result["verdict"].startswith(("collapsed", "partly"))
