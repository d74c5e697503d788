"""Kill one training at many moments, go on after each, and say what came of it.

A program of its own: it imports torch once, has no other thread, and forks a process for each attempt.
usage: python killed.py DATA FOLDER RANDOM-MOMENTS
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import safetensors.torch
from small import same_to_the_bit, train_small

from anyjepa.engine import checkpoint, loop

STEPS = 6
SETTINGS = {"steps": STEPS, "checkpoint_every": 2, "keep_checkpoints": 1}
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def forked(body, *arguments):
    """The process that runs `body` and leaves."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            body(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def finished(process):
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def points_of_a_write(last, told):
    """Have the process die right before change number `last` of its second checkpoint; tell how many it made.

    Changes are those of the file system: whatever Python's audit sees, each sync, and the state file before,
    half-way through and after its writing. What the thread of TensorBoard writes meanwhile is none of them.
    """
    writing, saves, count, saver = False, 0, 0, threading.get_ident()

    def change():
        nonlocal count
        if writing and threading.get_ident() == saver:
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

    def audited(event, arguments):
        if event in CHANGES and (event != "open" or arguments[1] in ("w", "a", "wb")):
            change()

    save, sync, file = loop.save_checkpoint, os.fsync, checkpoint.save_file

    def saved(*arguments):
        nonlocal writing, saves
        saves += 1
        writing = saves == 2
        try:
            return save(*arguments)
        finally:
            writing = False
            Path(told).write_text(str(count))

    def synced(descriptor):
        change()
        sync(descriptor)

    def written(tensors, path):
        whole = safetensors.torch.save(tensors)
        with open(path, "wb") as half:
            half.write(whole[: len(whole) // 2])
        change()
        file(tensors, path)
        change()

    loop.save_checkpoint, os.fsync, checkpoint.save_file = saved, synced, written
    sys.addaudithook(audited)


def train(out, data, workers=0):
    train_small(out, data, resume=True, workers=workers, **SETTINGS)


def train_until(out, data, last):
    points_of_a_write(last, f"{out}.changes")
    train(out, data)


def struck_after(seconds, out, data):
    """Whether the training that is killed after so long was still going on."""
    process = forked(train, out, data)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return finished(process) == -signal.SIGKILL


def main(data, folder, moments):
    folder, chance, attempts = Path(folder), random.Random(0), []
    train(folder / "whole", data)  # here, so that what is imported on the way is imported once
    began = time.monotonic()
    assert finished(forked(train, folder / "again", data)) == 0
    lasts = time.monotonic() - began
    counted = folder / "counted"
    assert finished(forked(train_until, counted, data, 0)) == 0
    changes = int(Path(f"{counted}.changes").read_text())

    def gone_on_with(out, how):
        left = sorted(path.name for path in (out / "checkpoints").glob("*"))
        if len(attempts) % 3 == 2:  # what goes on can be killed too
            struck_after(chance.uniform(0, lasts), out, data)
        code = finished(forked(train, out, data, len(attempts) % 3))
        same = code == 0 and same_to_the_bit(out, folder / "whole")
        rows = (out / "metrics.jsonl").read_text().splitlines() if code == 0 else []
        logged = [json.loads(row)["step"] for row in rows] == list(range(1, STEPS + 1))
        attempts.append({"killed": how, "left": left, "same": same, "logged": logged, "code": code})

    for number in range(1, changes + 1):
        out = folder / f"change-{number}"
        assert finished(forked(train_until, out, data, number)) == -signal.SIGKILL
        gone_on_with(out, f"before change {number} of {changes}")
    while len(attempts) < changes + moments:
        out = folder / f"moment-{len(attempts)}"
        seconds = chance.uniform(0, lasts)
        if struck_after(seconds, out, data):
            gone_on_with(out, f"after {seconds:.3f} s of {lasts:.3f}")
        else:  # it was over already: the machine is faster than it was
            lasts = min(lasts, seconds)
            shutil.rmtree(out)
    print(json.dumps({"changes": changes, "attempts": attempts}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
