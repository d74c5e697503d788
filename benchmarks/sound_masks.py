r"""Score A-JEPA's masks on sound, before and after training, beside mean and deviation of the log-mel.

    python benchmarks/sound_masks.py --steps 640 --seeds 0 1 2
    python benchmarks/sound_masks.py --data wds:spoken_digits/recordings.tar --steps 400 --seeds 0 \
        --labels 'name:(?P<label>[0-9])_(?P<group>[a-z]+)_[0-9]+' --masks random curriculum-cross easy

A source with a test split is scored on it. Any other is parted by group into three, each of which is once the
test side, and the mean is given. Features are of the first window of each clip, rows of frequencies by
themselves. Ridge regression to the classes, and kNN of ten by cosine, on standardised features.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from anyjepa.core.method import Context
from anyjepa.domains import Samples, domains
from anyjepa.domains.sources import NoSplit
from anyjepa.engine.loading import Steps
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method
from anyjepa.recipes import recipe

MASKS = {
    "random": {"mask": "random"},
    "easy": {"mask": "easy"},
    "time": {"mask": "hard", "geometry": "time"},
    "frequency": {"mask": "hard", "geometry": "frequency"},
    **{f"curriculum-{name}": {"mask": "curriculum", "geometry": name} for name in ("rect", "cross", "strip")},
    "inverse-cross": {"mask": "inverse", "geometry": "cross"},
}
STRENGTH, NEIGHBOURS, PARTS, AT_ONCE = 100.0, 10, 3, 250


def batches(chosen, samples: Samples):
    for start in range(0, len(samples), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(samples)))
        yield chosen.present([samples.read(row) for row in rows])


@torch.inference_mode()
def features(compute, chosen, samples: Samples) -> np.ndarray:
    return torch.cat([compute(batch) for batch in batches(chosen, samples)]).numpy()


def first_window(method, chosen):
    method.eval()
    return lambda batch: method.tokens(batch).values.unflatten(1, (-1, chosen.grid[1])).mean(1).flatten(1)


def sides(samples: Samples, test: Samples | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test rows; rows of a test source come after all others."""
    if test is not None:
        rows = np.arange(len(samples) + len(test))
        return [(rows[: len(samples)], rows[len(samples) :])]
    groups = np.arange(len(samples)) if samples.groups is None else samples.groups
    held = [np.isin(groups, part) for part in np.array_split(np.unique(groups), PARTS)]
    return [(np.flatnonzero(~one), np.flatnonzero(one)) for one in held]


def scores(values: np.ndarray, labels: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]]) -> str:
    found = []
    for fit, test in parts:
        scaled = StandardScaler().fit(values[fit]).transform(values)
        probes = RidgeClassifier(alpha=STRENGTH), KNeighborsClassifier(NEIGHBOURS, metric="cosine")
        found.append([p.fit(scaled[fit], labels[fit]).score(scaled[test], labels[test]) for p in probes])
    linear, near = np.mean(found, axis=0)
    return f"linear {linear:.3f} kNN {near:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="synthetic-audio")
    parser.add_argument("--labels")
    parser.add_argument("--steps", type=int, default=640)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--masks", nargs="+", choices=MASKS, default=["random"])
    options = parser.parse_args()
    domain, read = domains()["audio"], recipe("a-jepa").preset("tiny").reading()
    samples = domain.open(options.data, options.labels, reading=read)
    try:
        test = domain.open(options.data, options.labels, "test", read)
    except NoSplit:
        test = None
    facts, parts = domain.measure(samples), sides(samples, test)
    sources = [samples] if test is None else [samples, test]
    labels = np.concatenate([source.labels for source in sources])
    for name in options.masks:
        for seed in options.seeds:
            chosen = recipe("a-jepa").preset("tiny", **MASKS[name])

            def told(compute, words, chosen=chosen):
                values = np.concatenate([features(compute, chosen, source) for source in sources])
                print(words, scores(values, labels, parts), flush=True)

            method = build_method(chosen, facts, seed)
            if name == options.masks[0]:
                if seed == options.seeds[0]:
                    told(lambda batch: domain.raw(batch, facts), "log-mel")
                told(first_window(method, chosen), f"untrained seed {seed}")
            method.train()
            optimiser, loader = (
                build_optimiser(method, chosen),
                Steps(samples, chosen, chosen.batch_size, seed, options.steps),
            )
            for step in range(1, options.steps + 1):
                apply(optimiser, schedule(chosen, step, options.steps))
                context = Context(step, options.steps, step_generator(seed, step))
                method(loader[step - 1][0], context)["loss"].backward()
                optimiser.step()
                optimiser.zero_grad()
                method.after_step(context)
            told(first_window(method, chosen), f"{name} seed {seed}")


if __name__ == "__main__":
    main()
