"""The main job in one command, on images that ship with scikit-learn."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from anyjepa.core.errors import UserError

DATA = "digits"
STEPS = 3600
# the digits are 8 pixels wide: a patch of 4 of 16 pixels is one of 2 of the original, 16 tokens an image
FIELDS = {"image_size": (16, 16), "crop_area": (0.6, 1.0)}


def demo(out: str | Path = "runs/demo", steps: int = STEPS) -> dict[str, Any]:
    """Train the tiny I-JEPA on handwritten digits, inspect, evaluate and report.

    Args:
        out: the run's folder; an earlier demo there is replaced.
        steps: length of the training.

    Returns:
        ``run``, ``steps``, ``rankme``, ``accuracy``, ``accuracy_untrained``, ``accuracy_raw``, ``knn`` and
        the same for it, ``verdict``, ``report``.

    Raises:
        UserError: `out` holds something that is not an earlier demo.
    """
    from anyjepa.engine.run import load, read_config
    from anyjepa.engine.train import Settings, train
    from anyjepa.evaluation.inspection import inspect
    from anyjepa.evaluation.scores import evaluate
    from anyjepa.reports.gather import write_report

    path = Path(out)
    if path.exists() and any(path.iterdir()):
        if not (path / "config.yaml").is_file() or read_config(path)["data"]["source"] != DATA:
            raise UserError(f"{path} holds something that is not an earlier demo; choose another --out.")
        shutil.rmtree(path)
    console = Console(markup=False, emoji=False, stderr=True, soft_wrap=True, highlight=False)
    console.rule("1 of 4: learn from 1,438 small images, no labels")
    trained = train("i-jepa", DATA, path, settings=Settings(steps=steps), **FIELDS)
    if trained.get("stopped_by"):
        return trained
    run = load(path)
    console.rule("2 of 4: is the encoder healthy? (no labels)")
    health = inspect(run)
    console.print(f"{health['verdict']}.")
    console.rule("3 of 4: is it useful? (labels of 1,438 images; scored on 359 others)")
    linear, knn = evaluate(run, DATA, probe=("linear", "knn"))["results"]
    _print(console, linear, knn)
    console.rule("4 of 4: look at it")
    report = write_report(run)
    console.print(_learned(linear, knn))
    console.print(
        f"\nopen {report}\nand then, with your own images:\n"
        "  anyjepa train i-jepa --data FOLDER --out runs/mine\n  anyjepa inspect runs/mine\n"
        "  anyjepa evaluate runs/mine --data LABELLED_FOLDER\n  anyjepa report runs/mine"
    )
    return {
        "run": str(path),
        "steps": trained["steps"],
        "rankme": health["rankme"],
        "accuracy": linear["value"],
        "accuracy_untrained": linear["untrained"],
        "accuracy_raw": linear["raw"],
        "knn": knn["value"],
        "knn_untrained": knn["untrained"],
        "knn_raw": knn["raw"],
        "verdict": health["verdict"],
        "report": str(report),
    }


def _learned(linear: dict[str, Any], knn: dict[str, Any]) -> str:
    gain, low, high = (f"{100 * points:+.1f}" for points in linear["gain_over_untrained"])
    return (
        "learned: without seeing a label, the encoder came to tell digits apart. A linear probe on its "
        f"embeddings is right for {linear['value']:.1%} of unseen images, {gain} points over the "
        f"same encoder untrained (95 % interval {low} to {high}); the nearest neighbours agree for "
        f"{knn['value']:.1%} ({knn['untrained']:.1%} untrained)."
    )


def _print(console: Console, *results: dict[str, Any]) -> None:
    for row in results:
        console.print(
            f"{row['probe']:>6} probe: {row['value']:.1%} right ({row['low']:.1%} to {row['high']:.1%});"
            f"  untrained {row['untrained']:.1%};  raw pixels {row['raw']:.1%}"
        )
