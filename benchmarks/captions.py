"""Which caption fits: TI-JEPA's energies beside a contrastive twin of the same size, a linear map and chance.

For each seed and setting a run is trained and its test pairs are held against each other; then what the
pair's embedding tells of the labels, beside what image and text tell alone. One line a run, then
means over seeds.

    python benchmarks/captions.py --seeds 0 1 2
    python benchmarks/captions.py --data ../shared/data/emoji_text --settings context twin --init runs/emoji
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from anyjepa.core.method import Context
from anyjepa.engine.run import Run, load
from anyjepa.engine.train import Settings, train
from anyjepa.evaluation.captions import captions_probe
from anyjepa.evaluation.confidence import mean_interval
from anyjepa.evaluation.probes import linear_probe
from anyjepa.evaluation.sides import both_sides
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words
from anyjepa.recipes.ti_jepa import learned
from anyjepa.recipes.ti_jepa_method import PairEncoder, TextImage
from anyjepa.recipes.ti_jepa_twin import TwoTowers

SETTINGS: dict[str, dict[str, Any]] = {
    "context": {"text_in": "context"},
    "predictor": {"text_in": "predictor"},
    "both": {"text_in": "both", "momentum": (0.98, 1.0)},
    "collapse": {"text_in": "both", "teacher": "collapse"},
    "twin": {"learn": "contrastive"},
}
PROBED = 2000  # samples of a side that the labels are probed on


@torch.inference_mode()
def one_sided(run: Run, data: str | None, labels: str | None) -> dict[str, float]:
    """Linear accuracy of the labels from the pair, from the image with its words hidden, from words alone."""
    found: dict[str, list[Any]] = {}
    encoder = run.method.backbone
    assert isinstance(encoder, PairEncoder | TwoTowers)
    for samples in (run.open(data, labels), run.open(data, labels, "test")):
        assert samples.labels is not None
        parts: dict[str, list[torch.Tensor]] = {"pair": [], "image": [], "text": [], "label": []}
        known = [row for row in range(min(len(samples), PROBED)) if samples.labels[row] >= 0]
        for rows, batch in run.batches(samples, torch.tensor(known).numpy()):
            silent = {**batch, "said": torch.zeros_like(batch["said"])}
            words, said = encoder.text.encoder(batch["ids"], batch["said"]), batch["said"]
            count = said.sum(1, keepdim=True).clamp(min=1)
            parts["pair"].append(run.method.embed(batch).float())
            parts["image"].append(run.method.embed(silent).float())
            parts["text"].append((words * said.unsqueeze(-1)).sum(1) / count)
            parts["label"].append(torch.as_tensor(samples.labels[rows]))
        for name, values in parts.items():
            found.setdefault(name, []).append(torch.cat(values))
    label = found.pop("label")
    return {
        f"probe_{name}": linear_probe(first, label[0], second, label[1]).value
        for name, (first, second) in found.items()
    }


@torch.inference_mode()
def of_targets(run: Run, data: str | None) -> dict[str, float]:
    """What the notes ask of the targets: how far text tells them, and whether they keep their spread."""
    if not isinstance(run.method, TextImage):
        return {}
    method, samples = run.method, run.open(data, split="test")
    context = Context(1, 1, torch.Generator().manual_seed(0))
    batches = [batch for _, batch in run.batches(samples)]
    figures = method.health(batches, context)
    frozen, targets = [], []
    for batch in batches:
        whole = method.encoder.see(batch).values
        targets.append(
            method._targets(whole, method.encoder.read(batch)) if method.place == "both" else whole
        )
        frozen.append(whole)
    for name, one, other in (("spread", *spreads(targets, frozen)), ("rank", *ranks_of(targets, frozen))):
        figures[f"target_{name}"] = one / max(other, 1e-12)
    return figures


def spreads(*parts: list[torch.Tensor]) -> list[float]:
    """Mean standard deviation over samples at fixed positions."""
    return [float(torch.cat(one).std(0).mean()) for one in parts]


def ranks_of(*parts: list[torch.Tensor]) -> list[float]:
    """Mean effective rank over samples at fixed positions: the exponential of the spectrum's entropy."""
    found = []
    for one in parts:
        tokens = torch.cat(one).transpose(0, 1).double()
        values = torch.linalg.svdvals(tokens - tokens.mean(1, keepdim=True))
        share = values / values.sum(1, keepdim=True).clamp(min=1e-12)
        entropy = -(share * share.clamp(min=1e-12).log()).sum(1)
        found.append(float(entropy.exp().mean()))
    return found


def measured(options: argparse.Namespace, fields: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
    """Train one setting with one seed, and measure it."""
    out = Path(options.out) / f"{name}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    settings = Settings(seed=seed, steps=options.steps, quiet=True)
    begun = {} if options.init is None else {"init": options.init}
    trained = train(
        "ti-jepa", options.data, out, preset=options.preset, settings=settings, **begun,
        **{**SETTINGS[name], **fields},
    )  # fmt: skip
    run = load(out)
    sides = both_sides(run, options.data, parts=True, seed=seed)
    scored = captions_probe(run, *sides, seed=0, most=options.pairs)
    row: dict[str, Any] = {"setting": name, "seed": seed, "steps": trained["steps"]}
    row |= {"learned": learned(run.method), "pairs": scored["test"], "chance": scored["chance"]}
    for figure, kinds in scored["metrics"].items():
        row[figure] = kinds["trained"]
        row |= {f"{figure}_{kind}": kinds[kind] for kind in ("untrained", "raw")}
    row |= of_targets(run, options.data)
    if not options.no_probes and run.open(options.data, options.labels).labels is not None:
        row |= one_sided(run, options.data, options.labels)
    return row


def main() -> None:
    """Run all settings with all seeds, one JSON object a line, then the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="images with captions; else the simulated scenes")
    parser.add_argument("--labels", help="column or file of labels; of the simulated scenes their feeling")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["context", "twin"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--init", help="run of i-jepa whose encoder all begin with")
    parser.add_argument("--pairs", type=int, default=100, help="test pairs that are held against each other")
    parser.add_argument("--no-probes", action="store_true", help="leave the labels out")
    parser.add_argument("--out", default="runs/captions", help="folder for the runs")
    options, rest = parser.parse_known_args()
    fields = parse_words(recipe("ti-jepa"), rest)
    if options.data is None:
        options.data, options.labels = recipe("ti-jepa").example_data, options.labels or "feeling"
    for name in options.settings:
        rows = []
        for seed in options.seeds:
            rows.append(measured(options, fields, name, seed))
            print(json.dumps(rows[-1]), flush=True)
        if len(rows) > 1:
            means = {
                key: [round(part, 4) for part in mean_interval([row[key] for row in rows])]
                for key, value in rows[0].items()
                if isinstance(value, float)
            }
            print(json.dumps({"setting": name, "seeds": options.seeds, **means}), flush=True)


if __name__ == "__main__":
    main()
