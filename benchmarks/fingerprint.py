"""Tell whose brain it is: windows of the second half of each run against windows of the first halves.

Pre-trains Brain-JEPA on the first halves of runs, without labels. Then the subject of each window of the
second halves is taken to be that of its nearest window of the first halves (cosine, less their mean): by the
embedding of the trained and of the untrained encoder, and by the connectivity matrix of the window.

    python benchmarks/fingerprint.py --data FMRI_HCP_GW/hcp --repetition-time 0.72 --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anyjepa.domains.fmri_sources import open_fmri
from anyjepa.engine.run import Run, load
from anyjepa.engine.train import Settings, train
from anyjepa.evaluation.confidence import mean_interval
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words

KINDS = ("trained", "untrained", "connectivity")


def halves(source: str, step: float) -> tuple[np.ndarray, np.ndarray]:
    """First and second half of each run, (runs, regions, time) each; runs are cut to the shortest."""
    samples = open_fmri(source, reading={"repetition_time": step, "step": step})
    if samples.groups is not None and len(set(samples.groups)) < len(samples):
        raise SystemExit("a subject has several runs: give one run of each.")
    runs = [samples.read(index) for index in range(len(samples))]
    half = min(run.shape[1] for run in runs) // 2
    return np.stack([run[:, :half] for run in runs]), np.stack([run[:, half : 2 * half] for run in runs])


def windows(runs: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows (n, regions, length) that do not overlap, and whose each is."""
    count = runs.shape[2] // length
    cut = runs[..., : count * length].reshape(*runs.shape[:2], count, length).swapaxes(1, 2)
    return cut.reshape(-1, runs.shape[1], length), np.repeat(np.arange(len(runs)), count)


def named(gallery: Tensor, queries: Tensor, whose: np.ndarray, asked: np.ndarray) -> float:
    """Share of the queries whose nearest neighbour is of the same subject."""
    mean = gallery.mean(0)
    first, second = (functional.normalize(values - mean, dim=1) for values in (gallery, queries))
    nearest = (second @ first.T).argmax(1).numpy()
    return float((whose[nearest] == asked).mean())


def features(run: Run, values: np.ndarray) -> dict[str, Tensor]:
    """What each kind makes of windows."""
    samples = run.domain.open(values, reading=run.reading())
    raw = [run.domain.raw(batch, run.facts) for _, batch in run.batches(samples)]
    return {
        "trained": run.embed(samples),
        "untrained": run.untrained().embed(samples),
        "connectivity": torch.cat(raw),
    }


def one_seed(options: argparse.Namespace, fields: dict[str, Any], seed: int) -> dict[str, Any]:
    """Figures of one seed."""
    out = Path(options.out) / f"seed-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    step = options.repetition_time
    first, second = halves(options.data, step)
    given = {"repetition_time": step, "step": step, "batch_size": 14, "run_seconds": 100.0, **fields}
    settings = Settings(seed=seed, steps=options.steps, quiet=True, workers=0)
    result = train("brain-jepa", first, out, preset="tiny", settings=settings, **given)
    run = load(out, "cpu")
    length = run.facts["points"] * run.facts["every"]
    (gallery, whose), (queries, asked) = windows(first, length), windows(second, length)
    one, two = features(run, gallery), features(run, queries)
    row: dict[str, Any] = {"seed": seed, "steps": result["steps"], "rankme": result["rankme"]}
    row |= {"subjects": len(first), "windows": len(queries), "seconds": round(length * step, 1)}
    return row | {kind: named(one[kind], two[kind], whose, asked) for kind in KINDS}


def main() -> None:
    """Run all seeds and print one JSON object a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="runs, one of each subject")
    parser.add_argument("--repetition-time", type=float, required=True, help="seconds, of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", default="runs/fingerprint")
    options, words = parser.parse_known_args()
    fields = parse_words(recipe("brain-jepa"), words)
    rows = []
    for seed in options.seeds:
        rows.append(one_seed(options, fields, seed))
        print(json.dumps(rows[-1]), flush=True)
    if len(rows) > 1:
        summary = {kind: [round(v, 4) for v in mean_interval([row[kind] for row in rows])] for kind in KINDS}
        gains = [row["trained"] - row["untrained"] for row in rows]
        summary["gain_over_untrained"] = [round(value, 4) for value in mean_interval(gains)]
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
