"""Check at small scale what papers' notes expect of S-, V-, A-, EEG-V-, Brain-, 3D-, AD-L- and SAR-JEPA.

    python benchmarks/behaviours.py --seeds 0 1 2
    python benchmarks/behaviours.py --only s-copy s-places --seeds 0 1 2
    python benchmarks/behaviours.py --only a-unread a-gain --digits wds:SPOKEN_DIGITS/recordings.tar

Each check trains the preset `tiny` with one thing changed, and prints one line an expectation: its two
figures of each seed, the mean margin between them with its 95 % interval over seeds (Student t), and whether
it shows, that is whether the interval lies beyond 0. Checks that share a training train it once. Real data is
named by --digits, --hcp, --ssvep, --eeglab, --clouds and --chips; checks without theirs use simulated data,
or are passed over.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import behaviours_eeg
import behaviours_space
import fingerprint
import numpy as np
import torch
from behaviours_runs import Bench, Claim, Errors, summary
from torch import Tensor
from torch.nn import functional

from anyjepa.domains import Samples
from anyjepa.engine.run import Run
from anyjepa.evaluation.comparison import states
from anyjepa.evaluation.finetuning import FineTuning, fine_tune
from anyjepa.evaluation.sides import both_sides

SPOKEN = "name:(?P<label>[0-9])_(?P<group>[a-z]+)_[0-9]+"
DECIBELS = 6.0


def video_masks(bench: Bench) -> list[Claim]:
    """V-JEPA 12: tubes of blocks beat independent tokens; two mask families beat one."""
    settings = {
        "blocks": {}, "tokens": {"mask": "random"},
        "small": {"families": "8x0.15"}, "large": {"families": "2x0.7"},
    }  # fmt: skip
    found = {name: bench.scores(bench.trained("v-jepa", **fields)) for name, fields in settings.items()}
    claims = []
    for at, probe in enumerate(("linear", "kNN")):
        base = found["blocks"][at]
        claims += [
            Claim(f"blocks in tubes beat single tokens, {probe}", base, found["tokens"][at]),
            Claim(f"two families beat eight small blocks, {probe}", base, found["small"][at]),
            Claim(f"two families beat two large blocks, {probe}", base, found["large"][at]),
        ]
    return claims


def _sound(bench: Bench) -> tuple[str, str | None, int]:
    if bench.options.digits:
        return bench.options.digits, SPOKEN, 400
    return "synthetic-audio", None, 300


def sound_unread(bench: Bench) -> list[Claim]:
    """A-JEPA 14: fine-tuning under regularised masking is no worse than plain, and both use the training."""
    data, labels, steps = _sound(bench)
    run = bench.trained("a-jepa", data, steps)
    train, test = (side.described(run, keep=False)[0] for side in both_sides(run, data, labels))
    found = {}
    for kind, unread in (("trained", 0.1), ("trained", 0.0), ("untrained", 0.0)):
        tuning = FineTuning(unread=unread, epochs=float(bench.options.epochs))
        found[kind, unread] = fine_tune(run, train, test, tuning, kind=kind, seed=bench.seed)[0].value
    return [
        Claim("a tenth unread is no worse by 3 points", found["trained", 0.1], found["trained", 0.0] - 0.03),
        Claim("a tenth unread beats plain", found["trained", 0.1], found["trained", 0.0]),
        Claim("pre-trained beats from scratch, plain", found["trained", 0.0], found["untrained", 0.0]),
    ]


def sound_gain(bench: Bench) -> list[Claim]:
    """A-JEPA 15: 6 dB move the embedding less than another word of the same speaker does."""
    data, labels, steps = _sound(bench)
    jittered = bench.trained("a-jepa", data, steps)
    plain = bench.trained("a-jepa", data, steps, gain=0.0)
    runs = {"jittered": jittered, "plain": plain, "untrained": jittered.untrained()}
    found = {name: _moved_by_gain(run, data, labels) for name, run in runs.items()}
    return [
        Claim("gain moves less than another word", found["jittered"], 1.0, above=False),
        Claim("less than of an untrained encoder", found["jittered"], found["untrained"], above=False),
        Claim("less than without jitter in training", found["jittered"], found["plain"], above=False),
    ]


@torch.inference_mode()
def _moved_by_gain(run: Run, data: str, labels: str | None) -> float:
    """Mean distance that 6 dB move an embedding, over that between words of one speaker."""
    samples = run.open(data, labels)
    rows = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:300].numpy()
    whole, moved = [], []
    for _, batch in run.batches(samples, rows):
        whole.append(run.method.embed(batch))
        for sign in (1, -1):
            louder = {**batch, "audio": batch["audio"] * 10 ** (sign * DECIBELS / 20)}
            moved.append((run.method.embed(louder) - whole[-1]).norm(dim=1))
    words, who = samples.labels[rows], samples.groups[rows]
    pairs = torch.from_numpy((words[:, None] != words) & (who[:, None] == who))
    return float(torch.cat(moved).mean() / torch.cdist(torch.cat(whole), torch.cat(whole))[pairs].mean())


BRAIN = {"steps": 120}


def _brain_errors(bench: Bench, run: Run, across: int, samples: Samples | None = None) -> tuple[float, float]:
    """Shares of the mean token's error in a set of targets: predicted, and the nearest seen in time."""
    method, errors = run.method, Errors()
    with torch.inference_mode():
        # a step's masks are of one plan, so that each batch is a step of its own
        held_out = run.batches(samples or run.open(split="test"), batch_size=32 if samples is None else 4)
        for step, (_, batch) in enumerate(held_out, 1):
            batch = method._crop(batch)
            masks = method._drawn(batch, bench.context(step))
            whole = method.target(method.encoder, batch)
            goal = functional.layer_norm(whole.values, whole.values.shape[-1:])
            predicted = method.predictor(method.encoder(batch, keep=masks.context), whole.coordinates, masks)
            first = sum(masks.widths[:across])
            part = slice(first, first + masks.widths[across])
            wanted = masks.targets[:, 0, part]
            here, seen = (index // method.stretches for index in (wanted, masks.context))
            when, then = (index % method.stretches for index in (wanted, masks.context))
            apart = (when[:, :, None] - then[:, None]).abs().float()
            if across == 1:
                apart = apart.masked_fill(here[:, :, None] != seen[:, None], torch.inf)
            if len(wanted[0]):
                errors.add(goal, wanted, masks.context, predicted[:, 0, part], apart)
    return errors.shares()


def brain_copies(bench: Bench) -> list[Claim]:
    """Brain-JEPA 13: hidden times are predicted better than by the mean, or the region's nearest stretch."""
    return _copies(bench, bench.trained("brain-jepa", **BRAIN), None)


def _copies(bench: Bench, run: Run, samples: Samples | None) -> list[Claim]:
    claims = []
    for across, words, copy in (
        (1, "hidden times", "stretch"),
        (0, "hidden regions", "region's at the time"),
    ):
        predicted, copied = _brain_errors(bench, run, across, samples)
        claims += [
            Claim(f"{words}: better than the mean token", predicted, 1.0, above=False),
            Claim(f"{words}: better than the nearest {copy}", predicted, copied, above=False),
        ]
    return claims


def brain_positions(bench: Bench) -> list[Claim]:
    """Brain-JEPA 15: places in the space of gradients predict best, one another's worst."""
    runs = {
        kind: bench.trained("brain-jepa", positions=kind, **BRAIN)
        for kind in ("gradient", "learned", "shuffled")
    }
    claims = []
    for across, words in ((0, "hidden regions"), (1, "hidden times")):
        error = {kind: _brain_errors(bench, run, across)[0] for kind, run in runs.items()}
        claims += [
            Claim(
                f"{words}: gradients predict better than {kind}", error["gradient"], error[kind], above=False
            )
            for kind in ("shuffled", "learned")
        ]
    for state, each in (
        ("trained", runs),
        ("untrained", {kind: run.untrained() for kind, run in runs.items()}),
    ):
        score = {kind: bench.score(run) for kind, run in each.items()}
        claims += [
            Claim(f"{state}, gradients are read better than {kind}", score["gradient"], score[kind])
            for kind in ("shuffled", "learned")
        ]
    return claims


def brain_masks(bench: Bench) -> list[Claim]:
    """Brain-JEPA 16: sets of regions and times teach more in as many steps than single tokens."""
    crossed, tokens = (bench.trained("brain-jepa", mask=mask, **BRAIN) for mask in ("crossed", "random"))
    claims = []
    later = zip(list(states(crossed))[4::5], list(states(tokens))[4::5], strict=True)
    for (first, step), (second, _) in later:
        pair = zip(bench.scores(first), bench.scores(second), ("linear", "kNN"), strict=True)
        claims += [
            Claim(f"sets beat tokens after {step} steps, {probe}", one, other) for one, other, probe in pair
        ]
    return claims


def brain_subjects(bench: Bench) -> list[Claim]:
    """Brain-JEPA 14: the second half of a run is nearest to the first half of the same subject's."""
    first, second = fingerprint.halves(bench.options.hcp, 0.72)
    path = bench.out / "first-halves.npy"
    bench.out.mkdir(parents=True, exist_ok=True)
    fields = {
        "repetition_time": 0.72, "step": 0.72, "points": 96, "patch_size": 12, "sparsity": 0.9,
        "batch_size": 14, "run_seconds": 100.0,
    }  # fmt: skip
    np.save(path, first)
    run = bench.trained("brain-jepa", str(path), 120, **fields)
    length = run.facts["points"] * run.facts["every"]
    (gallery, whose), (queries, asked) = (fingerprint.windows(half, length) for half in (first, second))
    found = {}
    for name, one in (("trained", run), ("untrained", run.untrained())):
        sides = [_by_region(one, half) for half in (gallery, queries)]
        found[name] = fingerprint.named(*sides, whose, asked)
    raw = [fingerprint.features(run, half)["connectivity"] for half in (gallery, queries)]
    matrix = fingerprint.named(*raw, whose, asked)
    return [
        Claim("tokens of regions name subjects above chance", found["trained"], 1 / len(first)),
        Claim("and better than untrained", found["trained"], found["untrained"]),
        Claim("and better than the connectivity matrix", found["trained"], matrix),
        *_copies(bench, run, run.domain.open(queries, reading=run.reading())),
    ]


@torch.inference_mode()
def _by_region(run: Run, values: object) -> Tensor:
    """The mean over time of each region's tokens, side by side."""
    samples = run.domain.open(values, reading=run.reading())
    found = [run.method.tokens(batch).values for _, batch in run.batches(samples)]
    return torch.cat(found).unflatten(1, (-1, run.method.stretches)).mean(2).flatten(1)


CHECKS: dict[str, Callable[[Bench], list[Claim]]] = {
    "v-masks": video_masks, "a-unread": sound_unread, "a-gain": sound_gain,
    **behaviours_eeg.CHECKS,
    "b-copy": brain_copies, "b-positions": brain_positions, "b-masks": brain_masks,
    "b-subjects": brain_subjects,
    **behaviours_space.CHECKS,
}  # fmt: skip


def main(words: list[str] | None = None) -> None:
    """Run the checks and print a line an expectation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CHECKS, help="checks; all where not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="of every training, instead of the check's own")
    parser.add_argument("--epochs", type=int, default=20, help="of heads and fine-tuning")
    parser.add_argument("--digits", help="spoken digits, whose names say digit and speaker")
    parser.add_argument("--hcp", help="runs of fMRI, one of each subject, a volume every 0.72 s")
    parser.add_argument("--ssvep", help="folder with recordings/ and trials.csv")
    parser.add_argument("--eeglab", help="a recording of other electrodes")
    parser.add_argument("--clouds", help="labelled point clouds whose third axis is up")
    parser.add_argument("--chips", help="labelled radar chips")
    parser.add_argument("--out", type=Path, default=Path("runs/behaviours"), help="folder for the runs")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args(words)
    for name in options.only or CHECKS:
        if name == "b-subjects" and not options.hcp:
            continue
        seeds = [CHECKS[name](Bench(seed, options.out, options)) for seed in options.seeds]
        for claims in zip(*seeds, strict=True):
            row = {"check": name, **summary(list(claims))}
            print(json.dumps(row) if options.json else in_words(row), flush=True)


def in_words(row: dict) -> str:
    """A line."""
    first, second = (" ".join(f"{value:.3f}" for value in row[name]) for name in ("first", "second"))
    beyond = f" ({row['low']:.3f} to {row['high']:.3f})" if "low" in row else ""
    return (
        f"{row['check']}: {row['expected']}: {first} | {second}; margin {row['margin']:.3f}{beyond}, "
        f"{row['in_favour']}: {row['verdict']}"
    )


if __name__ == "__main__":
    main()
