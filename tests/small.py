"""A run small enough to be trained in a blink, and the data for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from anyjepa.engine.checkpoint import checkpoints
from anyjepa.engine.journal import Journal
from anyjepa.engine.train import Settings, train
from anyjepa.recipes import recipe, recipes

FIELDS = {
    "width": 24, "depth": 2, "heads": 2,
    "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2,
    "image_size": (16, 16), "patch_size": 4, "batch_size": 16,
}  # fmt: skip
FACTS = {"channels": 1, "mean": [127.0], "std": [70.0]}


# one of each kind of thing that a step may do beyond predicting masked tokens
KINDS = ("i-jepa", "lejepa", "ad-l-jepa", "dseq-jepa", "image-volume", "mc-jepa", "s-jepa")


def every_recipe(quick=KINDS):
    """All recipes as parameters of a test; those that are not `quick` are left to the slow tests."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in recipes()]


def words(fields=FIELDS):
    """The fields as they are typed."""
    found = []
    for name, value in fields.items():
        found += ["--" + name.replace("_", "-"), *map(str, value if isinstance(value, tuple) else [value])]
    return found


def small_recipe(**fields):
    return recipe("i-jepa").preset("tiny", **{**FIELDS, **fields})


def small_method(seed=0, facts=FACTS, **fields):
    torch.manual_seed(seed)
    return small_recipe(**fields).method(facts)


def pictures(count=70, shape=(16, 16), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def picture_folder(folder: Path, count=24, classes=("cat", "dog"), seed=0) -> Path:
    """A folder of PNG files, the first half of them in the folder of the first class."""
    for index, picture in enumerate(pictures(count, seed=seed)):
        path = folder / classes[index * len(classes) // count] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


def train_small(out, data, resume=False, fields=None, **settings):
    chosen = Settings(**{"steps": 8, "log_every": 1, "quiet": True, "workers": 0, **settings})
    return train(
        "i-jepa", data, out, resume=resume, settings=chosen, **(FIELDS if fields is None else fields)
    )


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    """Everything that a run learned: the encoder it gives away and its newest checkpoint."""
    found = {f"encoder.{name}": value for name, value in load_file(run / "encoder.safetensors").items()}
    state = load_file(checkpoints(run / "checkpoints")[0] / "state.safetensors")
    return found | {f"state.{name}": value for name, value in state.items()}


def same_to_the_bit(first: Path, second: Path) -> bool:
    mine, theirs = tensors_of(first), tensors_of(second)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def killed_at(step, training, *arguments, **options):
    """Call `training` in a process of its own that kill -9 ends where it logs `step`."""
    process = os.fork()
    if process == 0:

        def record(_journal, row):
            if row["step"] == step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            Journal.record = record
            training(*arguments, **options)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def struck(out, data, blow, rows, *more, steps=100, group=False):
    """Train in a process of its own and send it the signal `blow` once it has logged `rows` rows."""
    command = [sys.executable, "-m", "anyjepa", "train", "i-jepa", "--data", str(data), "--out", str(out)]
    command += ["--steps", str(steps), "--log-every", "1", *words(), *more]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    ends = time.monotonic() + 120
    while lines(out / "metrics.jsonl") < rows and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()
    (os.killpg if group else os.kill)(process.pid, blow)
    _, errors = process.communicate(timeout=60)
    if blow == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    return process.returncode, errors
