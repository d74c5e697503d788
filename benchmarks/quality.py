"""Score embeddings: trained beside untrained, raw input, and a supervised network of the same size.

Pre-trains a recipe without labels, probes it on held-out samples, and trains the same encoder with labels and
the same crops for the same time. One line a seed, then means with 95 % intervals over seeds.

    python benchmarks/quality.py --data ../shared/data/mnist --seeds 0 1 2
    python benchmarks/quality.py --recipe point-jepa --data clouds/ --no-supervised
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import anyjepa
from anyjepa.core.schedules import warmup_cosine
from anyjepa.engine.loading import read_many
from anyjepa.engine.randomness import permutation, uniforms
from anyjepa.engine.run import Run, build_method, load
from anyjepa.engine.train import Settings, train
from anyjepa.evaluation.confidence import accuracy_interval, mean_interval
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words

SHOWN = (("trained", "value"), ("untrained", "untrained"), ("raw", "raw"))


class Classifier(nn.Module):
    """The recipe's encoder, average pooling and a linear layer, trained with labels from scratch."""

    def __init__(self, run: Run, classes: int, seed: int) -> None:
        super().__init__()
        self.encoder = build_method(run.recipe, run.config["data"]["facts"], seed).encoder
        self.head = nn.Linear(self.encoder.width, classes)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (batch, classes)."""
        return self.head(self.encoder(batch).values.mean(1))


def supervised(run: Run, seconds: float, seed: int, rate: float = 1e-3) -> tuple[float, float, float]:
    """Test accuracy with its interval of a network of the same size, trained with labels for `seconds`."""
    samples, held_out = run.open(), run.open(split="test")
    torch.manual_seed(seed)
    model = Classifier(run, len(samples.classes), seed).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05, fused=True)
    start, epoch, size = time.perf_counter(), 0, run.config["batch_size"]
    while (spent := time.perf_counter() - start) < seconds:
        order = permutation(seed, epoch, len(samples))
        for first in range(0, len(order) - size + 1, size):
            spent = time.perf_counter() - start
            if spent >= seconds:
                break
            for group in optimiser.param_groups:
                group["lr"] = warmup_cosine(
                    int(1000 * spent), int(1000 * seconds), int(50 * seconds), 1e-5, rate, 1e-6
                )
            indices = order[first : first + size]
            batch = run.recipe.draw(read_many(samples, indices)[0], uniforms(seed, epoch, indices))
            loss = functional.cross_entropy(model(batch), torch.as_tensor(samples.labels[indices]))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        epoch += 1
    model.eval()
    right = []
    with torch.inference_mode():
        for indices, batch in run.batches(held_out):
            right.append(model(batch).argmax(1) == torch.as_tensor(held_out.labels[indices]))
    return accuracy_interval(torch.cat(right))


def one_seed(options: argparse.Namespace, fields: dict[str, Any], seed: int) -> dict[str, Any]:
    """Figures of one seed."""
    out = Path(options.out) / f"seed-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    settings = Settings(seed=seed, steps=options.steps)
    start = time.perf_counter()
    trained = train(options.recipe, options.data, out, preset=options.preset, settings=settings, **fields)
    seconds = time.perf_counter() - start
    run = load(out)
    row: dict[str, Any] = {"seed": seed, "seconds": round(seconds), "steps": trained["steps"]}
    row["rankme"] = anyjepa.inspect(run)["rankme"]
    scored = anyjepa.evaluate(run, options.data, probe=options.probes, labels=options.labels)
    for result in scored.get("results", [scored]):
        for key in ("value", "low", "high", "untrained", "raw"):
            row[f"{result['probe']}_{key}"] = result[key]
        for kind in ("untrained", "raw"):
            difference = [result["value"] - result[kind]]
            row[f"{result['probe']}_gain_over_{kind}"] = result.get(f"gain_over_{kind}", difference)
        shown = "  ".join(f"{kind} {result[key]:.3f}" for kind, key in SHOWN)
        print(f"seed {seed}  {result['probe']}  {shown}", flush=True)
    if not options.no_supervised:
        row["supervised"], row["supervised_low"], row["supervised_high"] = supervised(run, seconds, seed)
    return row


def over_seeds(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Mean and 95 % interval over seeds of every score, and of every gain, which is paired by seed."""
    summary = {}
    for name, value in rows[0].items():
        if isinstance(value, float) and not name.endswith(("low", "high")):
            summary[name] = [round(part, 4) for part in mean_interval([row[name] for row in rows])]
        elif "_gain_over_" in name:
            summary[name] = [round(part, 4) for part in mean_interval([row[name][0] for row in rows])]
    return summary


def main() -> None:
    """Run all seeds and print one JSON object a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="i-jepa")
    parser.add_argument("--data", help="a labelled source; else what the recipe shows itself on")
    parser.add_argument("--labels", help="as of anyjepa evaluate")
    parser.add_argument("--probes", nargs="+", default=["linear", "knn"])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", default="runs/quality", help="folder for the runs")
    parser.add_argument("--no-supervised", action="store_true", help="leave the supervised network out")
    options, rest = parser.parse_known_args()
    fields = parse_words(recipe(options.recipe), rest)
    options.data = options.data or recipe(options.recipe).example_data
    rows = []
    for seed in options.seeds:
        rows.append(one_seed(options, fields, seed))
        print(json.dumps(rows[-1]), flush=True)
    if len(rows) > 1:
        print(json.dumps(over_seeds(rows)))


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
