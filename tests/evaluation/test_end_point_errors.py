"""Optical flow of a run: measured against flow that is known, and written."""

import json

import numpy as np
import pytest
import torch

import anyjepa
from anyjepa import cli
from anyjepa.core.errors import UserError
from anyjepa.domains.frames_files import decode_flow
from anyjepa.engine.run import load

SMALL = {
    "width": 8, "depths": (1,), "image_size": (16, 16), "view_size": (16, 16), "loaded_size": 16,
    "estimator_widths": (8,), "context": 4, "dense_level": 2, "expander": (16, 16, 16), "batch_size": 4,
    "level_variance": (0.01,) * 3, "level_covariance": (0.0,) * 3,
}  # fmt: skip
LONG = 5.0  # pixels of the flow of every other pair; the others stand still


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Six pairs of 24 x 20 pixels, of which every other is one picture and the same 3 right and 4 down."""
    random, path = np.random.default_rng(0), tmp_path_factory.mktemp("pairs") / "pairs.npz"
    frames, flows = np.zeros((6, 2, 24, 20, 3), np.uint8), np.zeros((6, 24, 20, 2), np.float32)
    for number in range(6):
        picture = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        step = (3, 4) if number % 2 else (0, 0)
        frames[number] = [picture[10:34, 10:30], picture[10 - step[1] :, 10 - step[0] :][:24, :20]]
        flows[number] = step
    flows[:, 0] = np.nan
    np.savez(path, x=frames, flow=flows)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pairs):
    out = tmp_path_factory.mktemp("run") / "run"
    settings = anyjepa.Settings(quiet=True, workers=0, steps=1, log_every=1)
    anyjepa.train("mc-jepa", str(pairs), out, preset="tiny", settings=settings, **SMALL)
    return out


def still(path):
    """The run with an estimator that says that nothing moves."""
    run = load(path, "cpu")
    for correction in run.method.estimator.corrections:
        torch.nn.init.zeros_(correction.out.weight)
        torch.nn.init.zeros_(correction.out.bias)
    return run


def test_errors_are_those_of_the_flow_that_is_known(trained):
    found = anyjepa.flow(still(trained), opencv=False)
    assert (found["pairs"], found["known"], found["part"]) == (6, 6, "all")
    assert found["epe"] == found["epe_zero"] == pytest.approx(LONG / 2)
    assert found["fl"] == found["fl_zero"] == 0.5
    assert found["gain_zero"] == [0, 0, 0]
    assert found["photometric_left"] == pytest.approx(1, abs=1e-6)
    assert found["forward_backward_error"] == 0
    assert 0 < found["epe_low"] < found["epe"] < found["epe_high"] <= LONG
    assert abs(found["epe_untrained"] - LONG / 2) < 1


def test_opencv_stands_beside_and_all_is_kept(trained):
    pytest.importorskip("cv2")
    before = len(load(trained).results())
    found = anyjepa.flow(trained, pairs=4)
    assert found["pairs"] == 4
    assert {"epe_farneback", "epe_dis", "fl_dis"} <= found.keys()
    row = load(trained).results()[before]
    assert (row["probe"], row["value"], row["raw"]) == ("flow", found["epe"], found["epe_zero"])
    assert row["baselines"] == {name: found[f"epe_{name}"] for name in ("farneback", "dis")}


def test_flow_is_written_for_other_tools(trained, tmp_path, capsys):
    assert cli.main(["flow", str(trained), "--out", str(tmp_path / "flow"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["out"] == str(tmp_path / "flow")
    names = sorted(path.name for path in (tmp_path / "flow").iterdir())
    assert names == sorted(f"{number}.{ending}" for number in range(6) for ending in ("flo", "png"))
    written = decode_flow((tmp_path / "flow" / "3.flo").read_bytes(), "3")
    run = load(trained, "cpu")
    pair = torch.from_numpy(run.open().read(3)).permute(0, 3, 1, 2)[None]
    np.testing.assert_allclose(written, run.method.flow(pair)[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_pairs_without_truth_are_measured_without(trained, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.random.default_rng(1).integers(0, 256, (3, 2, 9, 30, 3), dtype=np.uint8))
    assert cli.main(["flow", str(trained), "--data", str(tmp_path / "a.npy")]) == 0
    said = capsys.readouterr().out
    assert "3 pairs, flow known of 0." in said
    assert "end-point error" not in said


def test_a_run_without_flow_says_so(tmp_path, pairs):
    settings = anyjepa.Settings(quiet=True, workers=0, steps=1, log_every=1)
    anyjepa.train(
        "mc-jepa", str(pairs), tmp_path / "run", preset="tiny", settings=settings, flow=0.0, **SMALL
    )
    with pytest.raises(UserError, match="has learned no flow: train mc-jepa"):
        anyjepa.flow(tmp_path / "run")
