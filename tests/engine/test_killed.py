"""kill -9 at any moment, also inside the writing of a checkpoint, costs time and changes no bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import pictures


@pytest.mark.parametrize("moments", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_every_resume_ends_as_the_run_that_was_never_killed(tmp_path, moments):
    """Right before each change that a checkpoint makes to the disk, and at random moments of the whole run.

    Each goes on with 0, 1 or 2 loader workers; every third is killed again on the way.
    """
    np.save(tmp_path / "pictures.npy", pictures())
    command = [sys.executable, Path(__file__).with_name("killed.py")]
    command += [tmp_path / "pictures.npy", tmp_path, moments]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    told = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    result = json.loads(told.stdout.splitlines()[-1])
    attempts = result["attempts"]
    assert [attempt for attempt in attempts if not (attempt["same"] and attempt["logged"])] == []
    # the folder is made, the state written and synced, the folder renamed, the older one removed
    assert result["changes"] >= 10
    assert len(attempts) == result["changes"] + moments
    interrupted = [a for a in attempts if any(name.endswith(".partial") for name in a["left"])]
    assert len(interrupted) >= 5, "kills hit the writing itself"
