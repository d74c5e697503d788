"""Folders that look like runs, written without training."""

import json

import yaml

FIELDS = {"width": 96, "learning_rate": 1e-3}


def row(step, steps=1000, **more):
    """A logged row, as training writes it."""
    return {
        "step": step, "epoch": step / 50, "loss": 1 / (1 + step), "samples_per_second": 320.0,
        "seconds_per_step": 0.2, "learning_rate": 1e-3 * (1 - step / steps), "rankme": 5 + step / 100,
        "rankme_centred": 8 + step / 100, "spread": 0.3, **more,
    }  # fmt: skip


def write_rows(folder, rows):
    with open(folder / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(one) + "\n" for one in rows)


def write_run(folder, rows=(), results=(), fields=None, **config):
    """A run's folder with these logged rows and results of evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "recipe": "i-jepa", "preset": "tiny",
        "fields": fields if isinstance(fields, list) else FIELDS | (fields or {}),
        "seed": 0, "steps": 1000, "batch_size": 64,
        "data": {"source": "digits", "kind": "image", "samples": 1438, "description": "1,438 digits"},
        "versions": {"anyjepa": "0.1.0"}, "status": "finished", **config,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    write_rows(folder, rows)
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in results))
    return folder
