"""Every command that writes, on a real file system with too little room: a sentence, nothing half-written."""

import os
import shutil
import subprocess

import pytest
from small import picture_folder, train_small, words

from anyjepa.cli import main

SIZE = 8 * 2**20
ROOMS = (0, 4, 12, 40, 100, 200, 400, 1000, 2000)  # KB; a page is four
ALWAYS = ("train", "embed shards", "evaluate")  # the others take longer or go the same way as one of these
COMMANDS = {
    "train": ("train", "i-jepa", "--data", "DATA", "--out", "OUT/run", "--steps", "4", "--checkpoint-every",
              "2", "--quiet", "true", *words()),
    "embed shards": ("embed", "RUN", "--out", "OUT/e.parquet", "--shard-rows", "8"),
    "evaluate": ("evaluate", "RUN", "--data", "DATA", "--probe", "knn"),
    "embed": ("embed", "RUN", "--out", "OUT/e.parquet"),
    "embed npy": ("embed", "RUN", "--out", "OUT/e.npy"),
    "pack": ("pack", "DATA", "OUT/pack"),
    "look": ("look", "DATA", "--out", "OUT/look.html"),
    "report": ("report", "RUN"),
    "export": ("export", "RUN", "--format", "safetensors", "--out", "OUT/e.safetensors"),
    "export onnx": ("export", "RUN", "--format", "onnx", "--out", "OUT/e.onnx"),
    "export torchscript": ("export", "RUN", "--format", "torchscript", "--out", "OUT/e.pt"),
    "export torch": ("export", "RUN", "--format", "torch-export", "--out", "OUT/e.pt2"),
    "export transformers": ("export", "RUN", "--format", "transformers", "--out", "OUT/e"),
    "export timm": ("export", "RUN", "--format", "timm", "--out", "OUT/e.safetensors"),
}  # fmt: skip
# what the same command goes on with, whole each by itself
PARTS = {"train": "run/", "embed shards": "e.parquet", "pack": "pack/", "export transformers": "e/"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    data = picture_folder(folder / "data", 24)
    train_small(folder / "run", str(data), steps=2)
    return folder


@pytest.fixture
def disk(tmp_path):
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here; test_no_room.py simulates a full disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)
def test_a_full_disk(made, disk, capfd, command):
    refused = 0
    for room in ROOMS:
        shutil.copytree(made / "run", disk / "run")
        (disk / "out").mkdir()
        places = {"DATA": str(made / "data"), "RUN": str(disk / "run")}
        typed = [places.get(w, w.replace("OUT", str(disk / "out"))) for w in COMMANDS[command]]
        before = files(disk)
        with open(disk / "filler", "wb") as filler:
            filler.write(bytes(max(0, shutil.disk_usage(disk).free - room * 1024)))
        code = main(typed)
        said = capfd.readouterr().err.strip().splitlines()
        (disk / "filler").unlink()
        if code:
            refused += 1
            assert code == 2, said
            assert said[-1].startswith("error: "), said
            assert "the disk is full" in said[-1], said
            new = {name for name in files(disk) - before if not name.startswith("run/cache/")}
            kept = {name for name in new if command in PARTS and name.startswith(f"out/{PARTS[command]}")}
            assert new == kept
            assert not [name for name in new if ".partial" in name]
            again = [*typed, "--resume"] if command == "train" else typed
            assert main(again) == 0, capfd.readouterr().err
            capfd.readouterr()
        for path in disk.iterdir():
            shutil.rmtree(path)
        if not code:
            break
    assert refused, "the disk was never full"
    assert not code, "the command works once there is room"
