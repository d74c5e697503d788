"""What every test shares: checked shapes, a fixed number of threads, reproducible examples, real data."""

import os
from collections.abc import Callable
from pathlib import Path

# Rounding depends on how many threads share a sum. Set before torch is imported and inherited by the
# commands that tests start, so that a golden figure does not depend on the machine's number of cores. One:
# `make test` runs two processes of tests side by side, which is faster than one with two threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jaxtyping
import pytest

# Before the first import of anyjepa: from here on each call checks the shapes and types of its arguments.
jaxtyping.install_import_hook("anyjepa", "beartype.beartype")

hypothesis.settings.register_profile("anyjepa", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("anyjepa")


@pytest.fixture(scope="session")
def data_folder() -> Callable[[str], Path]:
    """`data_folder("eurosat")`: that folder of real data, or the test is skipped and says why."""

    def find(name: str) -> Path:
        root = os.environ.get("ANYJEPA_DATA")
        if not root:
            pytest.skip("needs real data: set ANYJEPA_DATA to the folder that holds it")
        folder = Path(root) / name
        if not folder.exists():
            pytest.skip(f"needs real data: {folder} does not exist")
        return folder

    return find
