"""A folder of runs, and a stand-in for what makes reports."""

import pytest
from written import row, write_run

from anyjepa.board.reporting import Reporter
from anyjepa.board.runs import Runs


@pytest.fixture
def several(tmp_path):
    """Three runs, one of them in a folder of a sweep."""
    folder = tmp_path / "runs"
    score = {"probe": "linear", "metric": "accuracy", "value": 0.9, "low": 0.88, "high": 0.92}
    score |= {"untrained": 0.6, "raw": 0.7, "data": "digits"}
    write_run(folder / "first", [row(step) for step in range(20, 1001, 20)], [score])
    write_run(folder / "second", [row(step, loss=2.0) for step in (20, 40)], fields={"width": 48}, seed=1)
    write_run(folder / "sweep/trial-000", [], recipe="t-jepa", status="imported", fields={"scaling": "rank"})
    return folder


@pytest.fixture
def runs(several):
    return Runs(several)


@pytest.fixture
def reporter():
    """Makes a page of a word instead of a report."""
    program = "import sys, pathlib; pathlib.Path(sys.argv[1], 'report.html').write_text('made'); "
    program += "print('{\"report\": 1}')"
    made = Reporter(["python", "-c", program])
    yield made
    made.close()
