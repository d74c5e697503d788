"""A mistake is one sentence with exit code 2, a damaged sample is counted and named, and nothing is lost."""

import errno
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from small import picture_folder, pictures, same_to_the_bit, train_small, words

from anyjepa.cli import main
from anyjepa.core.errors import UserError
from anyjepa.engine.checkpoint import checkpoints, newest_checkpoint, read_checkpoint
from anyjepa.engine.files import read_lines
from anyjepa.engine.guard import Guard
from anyjepa.engine.lock import sole_owner
from anyjepa.engine.optimiser import build_optimiser
from anyjepa.engine.run import load


def mistake(capsys, *typed):
    """The one line that a mistake is answered with."""
    code = main([str(word) for word in typed])
    answer = capsys.readouterr()
    assert code == 2
    assert answer.out == ""
    said = answer.err.strip().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    return said[0]


def typed_train(data, out, *more):
    return [
        "train",
        "i-jepa",
        "--data",
        data,
        "--out",
        out,
        "--steps",
        "2",
        "--quiet",
        "true",
        *words(),
        *more,
    ]


def good_and(tmp_path, name, content):
    folder = picture_folder(tmp_path / "data", 20)
    (folder / "cat" / name).write_bytes(content)
    return folder


def jpeg_cut_short(tmp_path):
    from PIL import Image

    path = tmp_path / "whole.jpg"
    Image.fromarray(pictures(1, (64, 64))[0]).save(path)
    return path.read_bytes()[: path.stat().st_size // 2]


def test_an_empty_folder_and_a_missing_one(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    assert "holds no image" in mistake(capsys, *typed_train(tmp_path / "data", tmp_path / "run"))
    assert "Did you mean 'data'?" in mistake(capsys, *typed_train(tmp_path / "dat", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["text", "truncated"])
def test_a_damaged_picture_is_counted_and_named_up_to_the_limit(tmp_path, capsys, kind):
    content = b"this is no picture" if kind == "text" else jpeg_cut_short(tmp_path)
    name = "bad.png" if kind == "text" else "bad.jpg"
    folder, out = good_and(tmp_path, name, content), tmp_path / "run"
    assert (
        main([str(w) for w in typed_train(folder, out, "--max-bad-fraction", "0.5", "--log-every", "1")]) == 0
    )
    assert [row["sample"] for row in read_lines(out / "skipped.jsonl")] == [f"cat/{name}"]
    assert read_lines(out / "skipped.jsonl")[0]["reason"]
    assert newest_checkpoint(out / "checkpoints")[0].step == 2
    capsys.readouterr()
    main(["train", "i-jepa", "--out", str(out), "--resume", "--quiet", "true", "--max-bad-fraction", "0.5"])
    assert len(read_lines(out / "skipped.jsonl")) == 1, "named once, however often it is met"
    capsys.readouterr()
    said = mistake(capsys, *typed_train(folder, tmp_path / "strict"))
    assert "above the limit of 0.01 (--max-bad-fraction)" in said
    assert f"cat/{name}" in said


def test_a_sample_that_is_no_number(tmp_path, capsys):
    array = pictures(20).astype(np.float32)
    array[7, 3, 3] = np.nan
    np.save(tmp_path / "data.npy", array)
    out = tmp_path / "run"
    said = mistake(capsys, *typed_train(tmp_path / "data.npy", out))
    assert "1 of 20 samples are damaged" in said
    shutil.rmtree(out, ignore_errors=True)
    assert main([str(w) for w in typed_train(tmp_path / "data.npy", out, "--max-bad-fraction", "0.1")]) == 0
    assert len(read_lines(out / "skipped.jsonl")) == 1
    assert all(torch.isfinite(p).all() for p in load(out, "cpu").method.parameters())


def test_a_folder_without_permission(tmp_path, capsys, monkeypatch):
    """Permission is refused by a patched call: root is never refused any."""
    folder = picture_folder(tmp_path / "data", 20)

    def refuse(path, *_rest):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refuse)
        assert "may not be read" in mistake(capsys, *typed_train(folder, tmp_path / "run"))
    out = tmp_path / "locked" / "run"
    make = type(out).mkdir
    with monkeypatch.context() as patched:
        patched.setattr(
            type(out), "mkdir", lambda p, *a, **k: refuse(p) if "locked" in str(p) else make(p, *a, **k)
        )
        said = mistake(capsys, *typed_train(folder, out))
    assert "no permission to use" in said
    assert "choose another --out" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--patch-size", "32"], "smaller than a patch of 32"),
        (["--image-size", "16", "18"], "does not divide into patches of 4 pixels"),
        (["--teacher", "ema2"], "Did you mean 'ema'?"),
        (["--depht", "3"], "Did you mean '--depth'?"),
        (["--depth", "three"], "--depth takes N, not 'three'"),
        (["--preset", "tinny"], "Did you mean 'tiny'?"),
        (["--device", "toaster"], "there is no device 'toaster'"),
    ],
)
def test_settings_that_cannot_work(tmp_path, capsys, more, said):
    assert said in mistake(capsys, *typed_train("digits", tmp_path / "run", *more))


def test_a_batch_larger_than_the_data_is_all_of_it_and_says_so(tmp_path, capfd):
    result = train_small(tmp_path / "run", pictures(10), quiet=False)
    assert result["steps"] == 8
    assert "a batch is 10 samples, all there are, not 16" in capfd.readouterr().err


def test_a_loss_that_is_no_number_stops_and_spoils_no_checkpoint(tmp_path, monkeypatch):
    data, out = pictures(40), tmp_path / "run"
    from anyjepa.core.method import MaskedJepa

    losses = MaskedJepa.losses

    def spoiled(self, batch, context):
        found = losses(self, batch, context)
        return {**found, "loss": found["loss"] * (float("nan") if context.step >= 6 else 1.0)}

    with monkeypatch.context() as patched:
        patched.setattr(MaskedJepa, "losses", spoiled)
        with pytest.raises(
            UserError, match="no numbers 3 times in a row, by step 8; the last checkpoint is intact"
        ):
            train_small(out, data, steps=12, log_every=20, checkpoint_every=2)
    assert [path.name for path in checkpoints(out / "checkpoints")] == ["step-000000004", "step-000000002"]
    train_small(out, data, resume=True, fields={}, steps=None)
    train_small(tmp_path / "whole", data, steps=12)
    assert same_to_the_bit(out, tmp_path / "whole")


def test_a_step_that_gives_no_number_is_left_out_and_said(tmp_path, monkeypatch, capfd):
    from anyjepa.core.method import MaskedJepa

    losses = MaskedJepa.losses

    def spoiled(self, batch, context):
        found = losses(self, batch, context)
        return {**found, "loss": found["loss"] * (float("nan") if context.step in (4, 8) else 1.0)}

    monkeypatch.setattr(MaskedJepa, "losses", spoiled)
    train_small(tmp_path / "run", pictures(40), steps=9, log_every=3, checkpoint_every=1,
                keep_checkpoints=0, quiet=False)  # fmt: skip
    kept = {path.name: read_checkpoint(path) for path in checkpoints(tmp_path / "run" / "checkpoints")}
    # no checkpoint is made of a step in doubt
    assert sorted(kept) == [f"step-{step:09d}" for step in (1, 2, 3, 5, 6, 7, 9)]
    last = kept["step-000000009"].tensors
    assert all(tensor.isfinite().all() for tensor in last.values())
    assert {float(value) for name, value in last.items() if name.endswith(".step")} == {7.0}
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("left_out", 0) for row in rows] == [0, 1, 1]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert "1 of the last steps gave a loss or gradients that are not numbers" in capfd.readouterr().err


def test_a_step_left_out_changes_no_running_statistic():
    norm = torch.nn.BatchNorm1d(3)
    optimiser = build_optimiser(norm)
    guard = Guard(norm, optimiser, torch.device("cpu"))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    for value in (float("inf"), 1.0):
        guard.remember()
        loss = norm(torch.randn(4, 3) * value).square().mean()
        loss.backward()
        guard.judge(loss, None)
        optimiser.step()
        same = all(torch.equal(before[name], now) for name, now in norm.state_dict().items())
        assert same == (value != 1.0)
        optimiser.zero_grad()


def test_two_runs_into_one_folder_are_refused_and_name_the_other(tmp_path):
    (tmp_path / "run").mkdir()
    with (
        sole_owner(tmp_path / "run"),
        pytest.raises(UserError, match=rf"process \({os.getpid()} on .* another --out"),
    ):
        train_small(tmp_path / "run", pictures(40))
    train_small(tmp_path / "run", pictures(40))
    assert not (tmp_path / "run" / ".holder").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip(
            "mounting a small file system is not allowed here; test_checkpoint.py simulates a full disk"
        )
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_named_keeps_the_last_checkpoint_and_lets_go_on(tmp_path, small_disk):
    data, out = pictures(40), small_disk / "run"
    ballast = small_disk / "ballast"

    def fill(_self, row):
        if row["step"] == 5:
            with open(ballast, "wb") as file:
                file.write(b"0" * (shutil.disk_usage(small_disk).free - 4096))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("anyjepa.engine.journal.Journal.record", fill)
        with pytest.raises(
            UserError,
            match=r"step 6 .*the disk is full; free some space and try again, a training with --resume",
        ):
            train_small(out, data, steps=12, checkpoint_every=2)
    assert newest_checkpoint(out / "checkpoints")[0].step == 4
    ballast.unlink()
    train_small(out, data, resume=True, fields={}, steps=None)
    train_small(tmp_path / "whole", data, steps=12)
    assert same_to_the_bit(out, tmp_path / "whole")


def test_a_disk_too_full_for_a_line_is_named_too(small_disk):
    data, out = pictures(40), small_disk / "run"
    from anyjepa.engine.journal import Journal

    record = Journal.record

    def fill(self, row):
        if row["step"] == 3:
            with open(small_disk / "ballast", "wb", buffering=0) as file:
                while file.write(b"0" * 4096) == 4096 and shutil.disk_usage(small_disk).free:
                    pass
        record(self, {**row, "padding": "x" * 5000})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "record", fill)
        with pytest.raises(UserError, match="the disk is full"):
            train_small(out, data, steps=40, checkpoint_every=2)
    assert newest_checkpoint(out / "checkpoints")[0].step == 2
    (small_disk / "ballast").unlink()
    assert train_small(out, data, resume=True, fields={}, steps=None)["steps"] == 40


def test_what_is_no_run_is_said_to_be_none(tmp_path, capsys):
    train_small(tmp_path / "digits", pictures(20), steps=1)
    assert "Did you mean 'digits'?" in mistake(capsys, "inspect", tmp_path / "digit")
    (tmp_path / "digits" / "config.yaml").write_text("")
    assert "config.yaml" in mistake(capsys, "inspect", tmp_path / "digits")
