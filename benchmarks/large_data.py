"""Data larger than memory: a million samples opened, packed and read for an epoch, and 300,000 files listed.

    python benchmarks/large_data.py --folder /tmp/large --json

Everything is made in the folder and removed afterwards (about 6 GB for a million samples).
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path

import numpy as np

from anyjepa.domains import domains, image_samples
from anyjepa.domains.image_samples import ImageSamples
from anyjepa.engine.loading import Steps
from anyjepa.engine.packing import pack
from anyjepa.engine.workers import batches
from anyjepa.recipes import recipe

SHARD = 10_000
BATCH = 256
SIDE = 16


def write_shards(folder: Path, count: int) -> None:
    """Tar shards of small colour images as .npy, as another tool would have written them."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    header = io.BytesIO()
    np.save(header, np.zeros((SIDE, SIDE, 3), np.uint8))
    start = header.getvalue()[: -SIDE * SIDE * 3]
    size = len(start) + SIDE * SIDE * 3
    for shard in range(-(-count // SHARD)):
        with open(folder / f"images-{shard:04d}.tar", "wb") as file:
            for index in range(shard * SHARD, min(count, (shard + 1) * SHARD)):
                member = tarfile.TarInfo(f"{index:08d}.npy")
                member.size = size
                file.write(member.tobuf(tarfile.USTAR_FORMAT))
                file.write((start + random.bytes(SIDE * SIDE * 3)).ljust(-(-size // 512) * 512, b"\0"))
            file.write(bytes(1024))


def resident() -> float:
    """MB of this process that are its own or its part of what is shared, and of its loader processes."""
    total = 0
    pids = [os.getpid()]
    for task in Path("/proc/self/task").iterdir():
        pids += [int(word) for word in (task / "children").read_text().split()]
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        # anonymous pages: what is mapped from files can be dropped at any time
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
    return total / 1024


def epoch(samples: ImageSamples, workers: int, limit: int | None) -> dict[str, float]:
    """Resident MB at 1 % and at the end of one epoch of loading, and samples a second."""
    kind = recipe("i-jepa").preset("tiny", image_size=(SIDE, SIDE), patch_size=4)
    steps = len(samples) // BATCH if limit is None else limit
    loader = Steps(samples, kind, BATCH, 0, steps)
    began, seen, found = time.perf_counter(), 0, {}
    for step, _ in enumerate(batches(loader, 0, workers, pin=False), 1):
        seen += BATCH
        for percent in (1, 10, 50, 100):
            # before the last steps, for loader processes leave when nothing is left to load
            if step == max(1, (steps - 20) * percent // 100):
                gc.collect()
                found[f"resident_mb_at_{percent}_percent"] = resident()
    return {**found, "samples_per_second": seen / (time.perf_counter() - began)}


def opened(source: str) -> tuple[ImageSamples, dict[str, float]]:
    before, began = resident(), time.perf_counter()
    samples = domains()["image"].open(source)
    assert isinstance(samples, ImageSamples) and samples.array is None
    seconds, began = time.perf_counter() - began, time.perf_counter()
    samples.fingerprint()
    return samples, {
        "open_seconds": seconds,
        "fingerprint_seconds": time.perf_counter() - began,
        "resident_mb": resident() - before,
    }


def listing(folder: Path, count: int) -> dict[str, float]:
    """How often folders are listed and files looked at while a source of many files is opened."""
    picture = io.BytesIO()
    np.save(picture, np.zeros((2, 2, 3), np.uint8))
    for index in range(count):
        name = folder / f"{index % 2}" / f"{index:07d}.npy"
        if index < 2:
            name.parent.mkdir(parents=True)
        with open(name, "wb") as file:
            file.write(picture.getvalue())
    time.sleep(2.5)
    calls = {"os.scandir": 0, "os.listdir": 0, "open": 0}
    entries = 0
    scandir = os.scandir

    def hook(event: str, arguments: tuple) -> None:
        nonlocal entries
        if event in calls and str(arguments[0]).startswith(str(folder)):
            calls[event] += 1

    sys.addaudithook(hook)

    class Counted:
        def __init__(self, *arguments):
            self.found = scandir(*arguments)

        def __enter__(self):
            self.found.__enter__()
            return self

        def __exit__(self, *problem):
            self.found.__exit__(*problem)

        def __iter__(self):
            return self

        def __next__(self):
            nonlocal entries
            entries += 1
            return next(self.found)

    os.scandir = Counted
    began = time.perf_counter()
    samples = domains()["image"].open(str(folder))
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    samples.fingerprint()
    os.scandir = scandir
    return {
        "files": len(samples),
        "scandir_calls": calls["os.scandir"],
        "listdir_calls": calls["os.listdir"],
        "entries_listed_per_file": round(entries / count, 3),
        "files_opened": calls["open"],
        "open_seconds": seconds,
        "fingerprint_seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=300_000)
    parser.add_argument("--steps", type=int, help="instead of an epoch")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, object] = {"samples": options.samples}
    # so small are the images that they would all be held in memory, which is another matter
    image_samples.RESIDENT_BYTES = 0
    try:
        write_shards(options.folder / "shards", options.samples)
        samples, result["open_shards"] = opened(f"wds:{options.folder / 'shards'}")
        print(json.dumps(result), file=sys.stderr, flush=True)
        began = time.perf_counter()
        made = pack(f"wds:{options.folder / 'shards'}", options.folder / "pack", domain="image", workers=2)
        result["pack"] = {
            "seconds": time.perf_counter() - began,
            "samples_per_second": made["samples_per_second"],
            "bytes": made["bytes"],
            "shards": made["shards"],
        }
        del samples
        shutil.rmtree(options.folder / "shards")
        samples, result["open_pack"] = opened(f"wds:{options.folder / 'pack'}")
        print(json.dumps(result), file=sys.stderr, flush=True)
        for workers in (2, 0):
            result[f"epoch_workers_{workers}"] = epoch(samples, workers, options.steps)
            print(json.dumps(result), file=sys.stderr, flush=True)
        shutil.rmtree(options.folder / "pack")
        result["files"] = listing(options.folder / "files", options.files)
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
