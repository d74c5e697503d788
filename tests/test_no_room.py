"""A full disk, a folder that may not be written and one that goes: a sentence, and nothing half-written."""

import errno
import os
import shutil

import pytest
from small import picture_folder, train_small, words

from anyjepa.cli import main
from anyjepa.engine.journal import Journal

COMMANDS = {
    "evaluate": ("evaluate", "RUN", "--data", "DATA", "--probe", "knn"),
    "embed": ("embed", "RUN", "--out", "RUN/out/e.parquet"),
    "embed npy": ("embed", "RUN", "--out", "RUN/out/e.npy"),
    "embed shards": ("embed", "RUN", "--out", "RUN/out/e.parquet", "--shard-rows", "8"),
    "export": ("export", "RUN", "--format", "safetensors", "--out", "RUN/out/e.safetensors"),
    "export torch": ("export", "RUN", "--format", "torch-export", "--out", "RUN/out/e.pt2"),
    "report": ("report", "RUN"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    data = picture_folder(folder / "data", 24)
    train_small(folder / "run", str(data), steps=2)
    (folder / "run/out").mkdir()
    return folder


def state_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def failing(monkeypatch, number, inside):
    """Writing below a folder fails as the system says it: what is opened, made and renamed."""
    import builtins
    import io

    real = {"open": io.open, "mkdir": os.mkdir, "replace": os.replace}

    def refuse(path):
        if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(str(inside)):
            raise OSError(number, os.strerror(number), str(path))

    def opened(path, mode="r", *rest, **more):
        if set(mode) & set("wax+"):
            refuse(path)
        return real["open"](path, mode, *rest, **more)

    def made(path, *rest, **more):
        if not os.path.isdir(path):
            refuse(path)
        return real["mkdir"](path, *rest, **more)

    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(os, "mkdir", made)
    monkeypatch.setattr(os, "replace", lambda a, b: refuse(b) or real["replace"](a, b))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_room_is_one_sentence_and_leaves_nothing(made, tmp_path, monkeypatch, capfd, command, number):
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    before = state_of(run)
    typed = [w.replace("RUN", str(run)).replace("DATA", str(made / "data")) for w in COMMANDS[command]]
    with monkeypatch.context() as patched:
        failing(patched, number, run)
        code = main(typed)
    said = capfd.readouterr().err.strip().splitlines()
    assert code == 2, said
    assert said[-1].startswith("error: ")
    assert ("disk is full" if number == errno.ENOSPC else "no permission") in said[-1]
    assert state_of(run) == before
    assert main(typed) == 0, "once there is room, the same command works"


def test_a_folder_that_goes_while_it_is_trained_into(made, tmp_path, monkeypatch, capfd):
    run, record = tmp_path / "run", Journal.record

    def gone(self, row):
        if row["step"] == 3:
            shutil.rmtree(run)
        record(self, row)

    monkeypatch.setattr(Journal, "record", gone)
    typed = ["train", "i-jepa", "--data", str(made / "data"), "--out", str(run), "--steps", "6",
             "--log-every", "1", "--quiet", "true", *words()]  # fmt: skip
    assert main(typed) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: cannot write ")
    assert "Traceback" not in "".join(said)
