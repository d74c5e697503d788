"""The paper's claim on real tables: does a deep head do better on T-JEPA features than on raw columns?

For each table and seed a random part of the rows is drawn (defaults: 4,000 to train, 1,000 to validate, 4,000
to test; the whole tables are larger), T-JEPA is pre-trained on the training rows without labels, and every
model gets the same number of validation trials:

    t-jepa + mlp       a perceptron on the frozen tokens of the whole row
    untrained + mlp    the same on the tokens of the encoder before training: what scaling and shape give
    raw + mlp          the same perceptron, the same trials, on one-hot and standardised columns
    t-jepa + linear    logistic or ridge regression on the tokens
    raw + linear       the same on raw columns
    raw + boosting     histogram gradient boosting on raw columns, categories and missing cells native

The setting that validates best is scored once on the test rows. Classification is scored by accuracy and area
under the ROC curve, regression by RMSE in units of the training targets' standard deviation. The paper tunes
with the test rows as validation rows and leaves the raw heads less tuned (paper note); here neither is done.

    python benchmarks/tables.py --data ../shared/data --seeds 0 1 2 3 4 --json
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.domains import domains
from anyjepa.domains.sources import NoSplit
from anyjepa.domains.table_sources import read_table
from anyjepa.engine.run import load
from anyjepa.engine.train import Settings, train
from anyjepa.evaluation.confidence import mean_interval
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words

TABLES = {
    "adult": ("tabular_adult", "class"),
    "higgs7k": ("tabular_higgs7k", "column_0"),
    "housing": ("tabular_housing", "median_house_value"),
}
MODELS = ("t-jepa + mlp", "untrained + mlp", "raw + mlp", "t-jepa + linear", "raw + linear", "raw + boosting")
PATIENCE = 6


@dataclass(frozen=True)
class Part:
    """Rows of one side: features by name, labels."""

    features: dict[str, np.ndarray]
    labels: np.ndarray


@dataclass(frozen=True)
class Score:
    """What a fitted model reached: higher is better for `value` only."""

    value: float
    figures: dict[str, float]


def score(outputs: np.ndarray, labels: np.ndarray, classes: int) -> Score:
    """Of class probabilities (rows, classes), or of predictions (rows,) of standardised targets."""
    if not classes:
        rmse = float(np.sqrt(np.mean((outputs - labels) ** 2)))
        return Score(-rmse, {"rmse": rmse})
    accuracy = float((outputs.argmax(1) == labels).mean())
    figures = {"accuracy": accuracy}
    if classes == 2:
        figures["auc"] = float(roc_auc_score(labels, outputs[:, 1]))
    return Score(accuracy, figures)


def perceptron(
    train_part: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    classes: int,
    seed: int,
    rate: float,
    dropout: float,
    epochs: int = 40,
) -> Callable[[np.ndarray], np.ndarray]:
    """Two hidden layers of 128, AdamW, stopped where the held-out loss is lowest."""
    mean, scale = train_part[0].mean(0), train_part[0].std(0)
    scale[scale < 1e-6] = 1.0

    def ready(features: np.ndarray) -> Tensor:
        return torch.from_numpy(((features - mean) / scale).astype(np.float32)).clamp(-8, 8)

    def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
        return (
            functional.cross_entropy(outputs, labels)
            if classes
            else functional.mse_loss(outputs[:, 0], labels)
        )

    torch.manual_seed(seed)
    x, y = ready(train_part[0]), torch.from_numpy(train_part[1])
    x_held, y_held = ready(held_out[0]), torch.from_numpy(held_out[1])
    hidden = [
        layer
        for width in (x.shape[1], 128)
        for layer in (nn.Linear(width, 128), nn.ReLU(), nn.Dropout(dropout))
    ]
    model = nn.Sequential(*hidden, nn.Linear(128, classes or 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2, fused=True)
    best, kept, since = np.inf, model.state_dict(), 0
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(128):
            optimiser.zero_grad()
            loss_of(model(x[rows]), y[rows]).backward()
            optimiser.step()
        model.eval()
        with torch.inference_mode():
            held = float(loss_of(model(x_held), y_held))
        since += 1
        if held < best:
            best, since = held, 0
            kept = {name: value.clone() for name, value in model.state_dict().items()}
        if since >= PATIENCE:
            break
    model.load_state_dict(kept)

    @torch.inference_mode()
    def predict(features: np.ndarray) -> np.ndarray:
        outputs = model(ready(features))
        return outputs.softmax(1).numpy() if classes else outputs[:, 0].numpy()

    return predict


def linear(
    train_part: tuple[np.ndarray, np.ndarray], classes: int, strength: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic or ridge regression on standardised features; `strength` of the penalty per row."""
    mean, scale = train_part[0].mean(0), train_part[0].std(0)
    scale[scale < 1e-6] = 1.0
    rows = len(train_part[1])
    model: Any = (
        LogisticRegression(C=1 / (strength * rows), max_iter=300) if classes else Ridge(strength * rows)
    )
    model.fit((train_part[0] - mean) / scale, train_part[1])
    ask = model.predict_proba if classes else model.predict
    return lambda features: ask((features - mean) / scale)


def boosting(
    train_part: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    classes: int,
    seed: int,
    categorical: list[int],
    **settings: Any,
) -> Callable[[np.ndarray], np.ndarray]:
    """Histogram gradient boosting, stopped by the held-out rows as the perceptron is."""
    kind: Any = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    model = kind(
        random_state=seed, early_stopping=True, max_iter=400, categorical_features=categorical, **settings
    ).fit(*train_part, X_val=held_out[0], y_val=held_out[1])
    return model.predict_proba if classes else model.predict


def tuned(
    name: str, parts: dict[str, Part], classes: int, seed: int, trials: int, categorical: list[int]
) -> dict[str, float]:
    """Test figures of the setting that validates best among `trials` of them."""
    kind = "cells" if "boosting" in name else name.split(" + ")[0]
    fit, held, test = ((parts[side].features[kind], parts[side].labels) for side in ("train", "held", "test"))
    best: Score | None = None
    chosen: Callable[[np.ndarray], np.ndarray] | None = None
    for setting in settings_of(name)[:trials]:
        if "mlp" in name:
            model = perceptron(fit, held, classes, seed, **setting)
        elif "linear" in name:
            model = linear(fit, classes, **setting)
        else:
            model = boosting(fit, held, classes, seed, categorical, **setting)
        reached = score(model(held[0]), held[1], classes)
        if best is None or reached.value > best.value:
            best, chosen = reached, model
    assert chosen is not None
    return score(chosen(test[0]), test[1], classes).figures


def settings_of(name: str) -> list[dict[str, Any]]:
    """What is tried, in order."""
    if "mlp" in name:
        pairs = itertools.product((1e-3, 3e-4), (0.1, 0.4))
        return [{"rate": rate, "dropout": dropout} for rate, dropout in pairs]
    if "linear" in name:
        return [{"strength": strength} for strength in (1e-3, 1e-2, 1e-4, 1e-1)]
    pairs = itertools.product((0.1, 0.04), (31, 8))
    return [{"learning_rate": rate, "max_leaf_nodes": leaves} for rate, leaves in pairs]


def one(table: str, seed: int, options: argparse.Namespace, fields: dict[str, Any]) -> dict[str, Any]:
    """All models on one table with one seed."""
    folder, target = TABLES[table]
    source = str(Path(options.data) / folder)
    domain, random = domains()["table"], np.random.default_rng(seed)
    whole = whole_table(source, target)
    order = random.permutation(len(whole.labels))
    most = int(0.6 * len(order)), int(0.15 * len(order))
    ends = np.cumsum([min(options.train, most[0]), min(options.held, most[1]), options.test])
    sides = dict(zip(("train", "held", "test"), np.split(order, ends)[:3], strict=True))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        settings = Settings(seed=seed, steps=options.steps, quiet=True, device="cpu")
        # only the training rows: neither scales nor categories are learned from the others
        frame = whole.frame.take(sides["train"])
        train("t-jepa", frame, f"{out}/run", preset=options.preset, settings=settings,
              **{"target": target, **fields})  # fmt: skip
        run = load(f"{out}/run", "cpu")
        untrained = run.untrained()
        ratio = run.metrics()[-1]["position_only_ratio"]
        seconds = time.perf_counter() - start
        parts = {side: described(run, untrained, domain, whole, rows) for side, rows in sides.items()}
    classes = 0 if whole.classes is None else len(whole.classes)
    if not classes:
        mean, scale = parts["train"].labels.mean(), parts["train"].labels.std()
        parts = {
            side: Part(part.features, ((part.labels - mean) / scale).astype(np.float32))
            for side, part in parts.items()
        }
    coded = [number for number, column in enumerate(run.facts["columns"]) if "counts" in column]
    row: dict[str, Any] = {"table": table, "seed": seed, "rows": [len(sides[side]) for side in sides]}
    row |= {"pretraining_seconds": round(seconds, 1), "position_only_ratio": ratio}
    for name in MODELS:
        row[name] = tuned(name, parts, classes, seed, options.trials, coded)
    return {**row, "seconds": round(time.perf_counter() - start, 1)}


@dataclass(frozen=True)
class Whole:
    """A table, its training and test files together where it has both."""

    frame: Any
    labels: np.ndarray
    classes: list[str] | None


def whole_table(source: str, target: str) -> Whole:
    """The whole table as Arrow, with its labels."""
    sheets = [read_table(source)[0].table]
    with contextlib.suppress(NoSplit):
        sheets.append(read_table(source, "test")[0].table)
    frame = pyarrow.concat_tables(sheets)
    samples = domains()["table"].open(frame, reading={"target": target})
    assert samples.labels is not None and len(samples) == frame.num_rows
    return Whole(frame, samples.labels, samples.classes)


def described(run: Any, untrained: Any, domain: Any, whole: Whole, rows: np.ndarray) -> Part:
    """Tokens, raw features and plain cells of some rows, encoded as the run was trained."""
    samples = run.open(whole.frame.take(rows))
    batch = run.recipe.present(samples.array)
    features = {
        "t-jepa": run.embed(samples).numpy(),
        "untrained": untrained.embed(samples).numpy(),
        "raw": domain.raw(batch, run.facts).numpy(),
        "cells": samples.array,
    }
    labels = whole.labels[rows]
    return Part(features, labels if whole.classes is None else labels.astype(np.int64))


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over seeds with its 95 % interval, and what T-JEPA features gain for the perceptron."""
    found = []
    for table in dict.fromkeys(row["table"] for row in rows):
        mine = [row for row in rows if row["table"] == table]
        for metric in mine[0][MODELS[0]]:
            entry: dict[str, Any] = {"table": table, "metric": metric, "seeds": len(mine)}
            for name in MODELS:
                entry[name] = interval([row[name][metric] for row in mine])
            sign = -1 if metric == "rmse" else 1
            for other in ("untrained + mlp", "raw + mlp", "raw + boosting"):
                gains = [sign * (row[MODELS[0]][metric] - row[other][metric]) for row in mine]
                entry[f"gain over {other}"] = interval(gains)
            found.append(entry)
    return found


def interval(values: list[float]) -> list[float]:
    """Mean, low and high; of one value the value alone."""
    return list(mean_interval(values)) if len(values) > 1 else [values[0]]


def show(entries: list[dict[str, Any]]) -> None:
    """For each table and metric one row a model, with its interval and what t-jepa + mlp gains over it."""
    grid = Table("table", "metric", "model", "mean over seeds", "t-jepa + mlp gains")
    for entry in entries:
        for name in MODELS:
            gain = entry.get(f"gain over {name}")
            grid.add_row(entry["table"], entry["metric"], name, written(entry[name]), written(gain or []))
    Console(soft_wrap=True).print(grid)


def written(values: list[float]) -> str:
    """A mean with its interval, where it has one."""
    if len(values) < 3:
        return "".join(f"{value:.3f}" for value in values)
    return f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"


def main() -> None:
    """Run every table and seed, print each as a line of JSON, then the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder that holds tabular_adult and the others")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", default="tiny", help="of t-jepa")
    parser.add_argument("--steps", type=int, default=600, help="of pre-training")
    parser.add_argument("--train", type=int, default=4000, help="training rows, at most 60 %% of the table")
    parser.add_argument("--held", type=int, default=1000, help="validation rows, at most 15 %% of the table")
    parser.add_argument("--test", type=int, default=4000, help="test rows, at most what is left")
    parser.add_argument("--trials", type=int, default=4, choices=range(1, 5), help="settings tried a model")
    parser.add_argument("--json", action="store_true", help="print the summary as the last line")
    options, rest = parser.parse_known_args()
    fields = parse_words(recipe("t-jepa"), rest)
    rows = []
    for seed, table in itertools.product(options.seeds, options.tables):
        rows.append(one(table, seed, options, fields))
        print(json.dumps(rows[-1]), flush=True)
    entries = summary(rows)
    show(entries)
    if options.json:
        print(json.dumps({"summary": entries, "rows": rows}))


if __name__ == "__main__":
    main()
