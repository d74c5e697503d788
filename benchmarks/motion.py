"""Ask whether V-JEPA sees motion: beside its untrained encoder, an I-JEPA of the same frames, and pixels.

    python benchmarks/motion.py --seeds 0 1 2
    python benchmarks/motion.py --turntable ../shared/data/coil20/coil20_png.tar --seeds 0 1 2

The first asks for the direction of the simulated motion. The second shows photographs of objects on a
turntable (COIL-20, a pose every five degrees) as clips that turn by 5, 10 or 20 degrees a frame to each side,
and asks which of the six it was, of objects that were never trained on. I-JEPA embeds each frame by itself; a
clip then is the mean over its frames, and the mean of what changes from one to the next. Ridge regression to
the classes on standardised features, its strength chosen by leaving whole objects out.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anyjepa.domains import domains
from anyjepa.engine.run import Run, load
from anyjepa.engine.train import Settings, train
from anyjepa.evaluation.confidence import mean_interval
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words

FRAMES, SIDE, STRIDE, POSES, TURNS = 8, 32, 3, 72, (-4, -2, -1, 1, 2, 4)
Side = tuple[np.ndarray, ...]  # clips (n, frames, height, width[, 3]), labels (n,) and objects (n,)


def turning(shards: str) -> tuple[Side, Side]:
    """Clips of turning objects, those of every second object apart."""
    samples = domains()["image"].open(f"wds:{shards}")
    pictures = {}
    for row in range(len(samples)):
        thing, pose = re.findall(r"\d+", Path(samples.identity(row)).name)[:2]
        picture = Image.fromarray(samples.read(row).squeeze(-1)).resize((SIDE, SIDE), Image.Resampling.BOX)
        pictures[int(thing), int(pose)] = np.asarray(picture)
    sides: tuple[list, list] = ([], [])
    for thing in sorted({thing for thing, _ in pictures}):
        for first in range(0, POSES, STRIDE):
            for label, turn in enumerate(TURNS):
                clip = [pictures[thing, (first + turn * frame) % POSES] for frame in range(FRAMES)]
                sides[thing % 2].append((np.stack(clip)[..., None], label, thing))
    train, test = (tuple(np.stack(column) for column in zip(*side, strict=True)) for side in sides)
    return train, test


def simulated() -> tuple[Side, Side]:
    """The clips that the recipe shows itself on."""
    found = []
    for split in ("train", "test"):
        samples = domains()["video"].open("synthetic-video", split=split)
        clips = np.stack([np.asarray(samples.read(row)) for row in range(len(samples))])
        found.append((clips, np.asarray(samples.labels), np.arange(len(samples))))
    return found[0], found[1]


def over_time(run: Run, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of an encoder of images: the mean over frames, and that beside the mean change between neighbours."""
    each = run.embed(clips.reshape(-1, *clips.shape[2:])).numpy().reshape(*clips.shape[:2], -1)
    mean = each.mean(1)
    return mean, np.concatenate([mean, np.abs(np.diff(each, axis=1)).mean(1)], axis=1)


def score(train: np.ndarray, test: np.ndarray, sides: tuple[Side, Side]) -> float:
    """Share of the test clips that are told rightly."""
    (_, labels, objects), (_, wanted, _) = sides
    strengths = {"ridgeclassifier__alpha": np.logspace(0, 5, 11)}
    probe = GridSearchCV(make_pipeline(StandardScaler(), RidgeClassifier()), strengths, cv=GroupKFold(5))
    return np.mean(probe.fit(train, labels, groups=objects).predict(test) == wanted).item()


def main() -> None:
    """A line a seed, then means and 95 % intervals over seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turntable", help="coil20_png.tar; else simulated clips")
    parser.add_argument("--steps", type=int, help="of both recipes; as many as v-jepa's tiny where not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/motion"))
    options, rest = parser.parse_known_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    sides = turning(options.turntable) if options.turntable else simulated()
    (fit, fit_labels, _), (test, test_labels, _) = sides
    data = options.out / "clips.npz"
    np.savez(data, x_train=fit, y_train=fit_labels, x_test=test, y_test=test_labels)
    frames = options.out / "frames.npy"
    np.save(frames, fit.reshape(-1, *fit.shape[2:]))
    common = np.bincount(test_labels).max() / len(test_labels)
    print(
        f"{len(fit):,} clips to learn from, {len(test):,} to test; the commonest class {common:.3f}",
        flush=True,
    )
    fields = parse_words(recipe("v-jepa"), rest)
    raw = [side.reshape(len(side), -1).astype(np.float32) for side in (fit, test)]
    rows = []
    for seed in options.seeds:
        settings = Settings(seed=seed, steps=options.steps, quiet=True)
        moving = options.out / f"v-jepa-{seed}"
        done = train("v-jepa", str(data), moving, preset="tiny", settings=settings, **fields)
        still = options.out / f"i-jepa-{seed}"
        settings = Settings(seed=seed, steps=done["steps"], quiet=True)
        train("i-jepa", str(frames), still, preset="tiny", settings=settings)
        row = {"seed": seed, "pixels": score(raw[0], raw[1], sides)}
        for name, run in (("v-jepa", load(moving)), ("i-jepa", load(still))):
            for kind, one in (("trained", run), ("untrained", run.untrained())):
                if name == "v-jepa":
                    row[f"{name} {kind}"] = score(one.embed(fit).numpy(), one.embed(test).numpy(), sides)
                    continue
                both = zip(over_time(one, fit), over_time(one, test), strict=True)
                for view, pair in zip(("frames", "changes"), both, strict=True):
                    row[f"{name} {kind}, {view}"] = score(*pair, sides)
        rows.append(row)
        print(json.dumps({name: round(value, 3) for name, value in row.items()}), flush=True)
    for name in rows[0]:
        if len(rows) > 1 and name != "seed":
            mean, low, high = mean_interval([row[name] for row in rows])
            print(f"{name:<28}{mean:.3f}  ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
