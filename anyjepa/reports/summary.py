"""What a report says at its head and foot: the verdict, the key figures, the curves, the settings."""

from __future__ import annotations

import datetime
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.health import Gram, Shape, collapse, rankme
from anyjepa.evaluation.inspection import MEANINGS
from anyjepa.recipes import recipe
from anyjepa.reports.charts import Chart, Series, line_chart, score_text, short
from anyjepa.reports.class_charts import by_class
from anyjepa.reports.page import Figure, Health, Score, Table, Verdict
from anyjepa.reports.recommendation_lists import recommended

Rows = Sequence[dict[str, Any]]
Curves = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]  # title, and (name, key of the log) of each line

CURVES: Curves = (
    ("Loss", (("loss", "loss"),)),
    ("RankMe in training", (("as embedded", "rankme"), ("mean off", "rankme_centred"))),
    ("Spread of the embeddings", (("spread", "spread"),)),
    ("Samples a second", (("samples a second", "samples_per_second"),)),
)
SMALL_CURVES: Curves = (
    ("Learning rate", (("learning rate", "learning_rate"),)),
    ("Weight decay", (("weight decay", "weight_decay"),)),
    ("Teacher momentum", (("momentum", "momentum"),)),
)
LOWER_IS_BETTER = ("error", "rmse", "mse", "mae", "loss", "perplexity")


def curves(wanted: Curves, rows: Rows) -> list[Chart]:
    """The wanted charts over the steps of the log."""
    return [line_chart(title, [_series(name, key, rows) for name, key in lines]) for title, lines in wanted]


def _series(name: str, key: str, rows: Rows) -> Series:
    """The rows that have `key`: what was not measured at a step is absent there, not a gap."""
    points = [(row["step"], math.nan if row[key] is None else row[key]) for row in rows if key in row]
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    return Series(name, table[:, 0], table[:, 1])


def scores(results: Rows) -> list[Score]:
    """The newest result of each probe, metric, data and number of labels."""
    told = ("data", "labels_fraction", "shots", "ways", "episode_shots")
    newest = {(row["probe"], row["metric"], *(str(row.get(key)) for key in told)): row for row in results}
    return [_score(row) for row in newest.values()]


def _score(row: dict[str, Any]) -> Score:
    low, high, untrained, raw = (_number(row.get(key)) for key in ("low", "high", "untrained", "raw"))
    gain = row.get("gain_over_untrained")
    further = [
        (name.replace("_", " "), float(found["trained"]), float(found["untrained"]), float(found["raw"]))
        for name, found in (row.get("metrics") or {}).items()
    ]
    return Score(
        row["probe"],
        row["metric"],
        float(row["value"]),
        low,
        high,
        untrained,
        raw,
        data=str(row.get("data") or ""),
        untrained_ends=(_number(row.get("untrained_low")), _number(row.get("untrained_high"))),
        raw_ends=(_number(row.get("raw_low")), _number(row.get("raw_high"))),
        gain=None if gain is None else (gain[0], gain[1], gain[2]),
        samples=_samples(row),
        further=further,
        picture=by_class(row) or recommended(row),
    )


def _samples(row: dict[str, Any]) -> str:
    """How many samples a result was learned from and tested on, in words."""
    if "train" not in row or "test" not in row:
        return ""
    words = f"{row['train']:,} to learn from, {row['test']:,} to test on"
    if "ways" in row:
        words = f"{row['ways']} classes, {row['episode_shots']} labels each, {row['queries']} queries"
    if "test_groups" in row:
        words += f" of {row['test_groups']:,} groups"
    if row.get("labels_fraction") is not None:
        words += f"; {row['labels_fraction']:.3g} of the labels"
    if row.get("shots") is not None and "ways" not in row:
        words += f"; {row['shots']} labels a class"
    return words + (f"; over {len(row['draws'])} draws" if row.get("draws") else "")


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def facts(config: dict[str, Any], rows: Rows, written: float) -> list[str]:
    """Steps, preset, status, date of the last row (`written`, seconds since 1970) and time it took."""
    done, asked = int(rows[-1]["step"]) if rows else 0, int(config["steps"])
    said = [f"{asked:,} steps" if done >= asked else f"{done:,} of {asked:,} steps"]
    said.append(f"preset {config['preset']}")
    said += [str(config["status"])] if config.get("status") else []
    date = datetime.datetime.fromtimestamp(written)
    said.append(f"{date.day} {date:%B %Y}")
    steps = [0, *(row["step"] for row in rows)]
    spent = sum(
        row.get("seconds_per_step", 0.0) * (row["step"] - before)
        for row, before in zip(rows, steps, strict=False)
    )
    return [*said, f"trained in {duration(spent)}"] if spent else said


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def data(config: dict[str, Any]) -> str:
    """What it was trained on, in words."""
    described, source = str(config["data"]["description"]), config["data"].get("source")
    return f"{described} · {source}" if source and str(source) not in described.split() else described


def figures(
    rows: Rows, embeddings: Gram | None, untrained: Gram | None, measured: Sequence[Score]
) -> list[Figure]:
    """The key figures: scores, RankMe, loss and speed, those that are known."""
    found = []
    for score in measured[:2]:
        beside = [("untrained", score.untrained), ("raw", score.raw)]
        note = ", ".join(f"{name} {score_text(value)}" for name, value in beside if value is not None)
        found.append(Figure(f"{score.probe} {score.metric}", score_text(score.value), note))
    if embeddings is not None:
        note = f"of {embeddings.dim}, over {embeddings.count:,} samples"
        note += f"; untrained {short(rankme(untrained))}" if untrained is not None else ""
        found.append(Figure("RankMe", short(rankme(embeddings)), note))
    elif known := _known(rows, "rankme"):
        found.append(Figure("RankMe", short(known[-1]), "in training"))
    if losses := _known(rows, "loss"):
        found.append(Figure("Loss", short(losses[-1]), f"first {short(losses[0])}"))
    if rates := _known(rows, "samples_per_second"):
        found.append(Figure("Samples a second", short(float(np.median(rates))), "median of the run"))
    return found


def _known(rows: Rows, key: str) -> list[float]:
    return [float(row[key]) for row in rows if row.get(key) is not None]


def health(result: Mapping[str, Any]) -> Health:
    """What `inspect` found, as text."""
    errors, untrained = result["errors"], result["untrained"]
    own = [name for name in result if name not in MEANINGS and isinstance(result[name], float)]
    rows = []
    for name in (*(name for name in MEANINGS if name in result), *own):
        error = f" ± {errors[name]:.2g}" if errors.get(name) else ""
        beside = short(untrained[name]) if name in untrained else ""
        rows.append((name.replace("_", " "), short(result[name]) + error, beside, MEANINGS.get(name, "")))
    words = f"{result['verdict'][0].upper()}{result['verdict'][1:]}"
    return Health(rows, words, *(result[key] for key in ("tone", "advice", "remarks", "samples")))


def verdict(
    config: dict[str, Any],
    embeddings: Gram | None,
    untrained: Gram | None,
    measured: Sequence[Score],
    judged: Health | None = None,
) -> Verdict:
    """The run in words: collapsed or healthy, and whether it beats what any encoder must beat."""
    if embeddings is None:
        return Verdict("unknown", "Health is not known, for no embedding could be looked at.")
    tone, words = _health(embeddings, untrained)
    if judged is not None:
        tone, words = judged.tone, f"{judged.verdict}."
    if measured:
        beaten, sentence = _worth(measured[0])
        words += " " + sentence
        tone = tone if beaten or tone != "good" else "care"
    if config.get("status") == "training":
        words += " Training has not finished."
    return Verdict(tone, words)


def _health(embeddings: Gram, untrained: Gram | None) -> tuple[str, str]:
    """Tone and words; using no more directions than before training calls for care, for so does failing."""
    collapsed = collapse(embeddings, None if untrained is None else Shape.of(untrained))
    if collapsed:
        return "bad", f"Not healthy: {collapsed}."
    if embeddings.count < embeddings.dim:
        few, dim = f"{embeddings.count:,}", embeddings.dim
        return "unknown", f"{few} samples are too few to judge the health of embeddings of {dim} dimensions."
    used, dim = rankme(embeddings, centred=True), embeddings.dim
    words = f"with their mean taken off, the embeddings use {used:.1f} of {dim} directions"
    if untrained is None:
        return "good", f"Not collapsed: {words}."
    before = rankme(untrained, centred=True)
    if used > before:
        return "good", f"Healthy: {words}, up from {before:.1f} before training."
    return "care", f"Not collapsed, but {words}, no more than the {before:.1f} before training."


def _worth(score: Score) -> tuple[bool, str]:
    """Whether a score beats the untrained encoder and the raw input, as far as they are known."""
    sign = -1 if any(word in score.metric.lower() for word in LOWER_IS_BETTER) else 1
    beside = [("the untrained encoder", score.untrained), ("the raw input", score.raw)]
    known = [(f"{name} ({score_text(value)})", value) for name, value in beside if value is not None]
    lost = [name for name, value in known if sign * (score.value - value) <= 0]
    measured = f"{score.probe} {score.metric} of {score_text(score.value)}"
    if lost:
        return False, f"But its {measured} does not beat {' or '.join(lost)}."
    if known:
        return True, f"Its {measured} beats {' and '.join(name for name, _ in known)}."
    return True, f"It has a {measured}."


def commands(
    path: Path, config: dict[str, Any], measured: Sequence[Score], acts: bool = False
) -> list[tuple[str, str]]:
    """What to type next, ready for a shell; `acts` where the run is of a policy."""
    folder, source = shlex.quote(str(path)), config["data"].get("source")
    data = shlex.quote(str(source)) if source else "DATA"
    own = recipe(config["recipe"]).downstream
    probe = own[0] if own else "knn" if measured else "linear"
    typed = [
        ("Its health in numbers", f"anyjepa inspect {folder}" + ("" if source else " --data DATA")),
        ("A score on labelled data", f"anyjepa evaluate {folder} --data {data} --probe {probe}"),
        ("Embeddings to work with", f"anyjepa embed {folder} --data {data} --out embeddings.parquet"),
        ("The encoder for other tools", f"anyjepa export {folder} --format safetensors"),
    ]
    if acts:
        typed += [
            ("Its successes in an environment", f"anyjepa rollout {folder} --environment Pendulum-v1"),
            ("The policy for other tools", f"anyjepa export {folder} --format onnx --output actions"),
        ]
    if config.get("status") == "finished":
        return typed
    again = f"anyjepa train {shlex.quote(config['recipe'])} --data {data} --out {folder} --resume"
    if config.get("status") == "imported":
        again = (
            f"anyjepa train {shlex.quote(config['recipe'])} --init {folder} --data {data} --out NEW_FOLDER"
        )
    return [("Go on training", again), *typed]


def tables(config: dict[str, Any]) -> list[Table]:
    """Every field, and all else that the run's settings hold."""
    inner = ("fields", "data", "versions")
    run = [(key, value) for key, value in config.items() if key not in inner]
    run += [(f"{name} version", version) for name, version in config["versions"].items()]
    source = [(key, value) for key, value in config["data"].items() if key != "facts"]
    named = [
        (f"{config['recipe']}", config["fields"].items()),
        ("Run", run),
        ("Data", [*source, *(config["data"].get("facts") or {}).items()]),
    ]
    return [
        Table(title, [(str(name).replace("_", " "), _text(value)) for name, value in rows])
        for title, rows in named
    ]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(_text(one) for one in value) if isinstance(value, list | tuple) else str(value)
