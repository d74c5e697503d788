"""Pictures of a score class by class: every number drawn, names escaped, nothing where there is nothing."""

import re

import numpy as np

from anyjepa.reports.class_charts import by_class, class_bars, confusion
from anyjepa.reports.summary import scores


def test_every_confusion_is_drawn_and_named():
    table = np.array([[8, 2], [0, 5]])
    drawn = confusion(["cat", "<dog>"], table)
    assert "cat said to be &lt;dog&gt;: 2 of 10" in drawn
    assert "<dog>" not in drawn
    assert len(re.findall("<rect class", drawn)) == 1 + 3, "the frame and the cells that are not empty"
    assert "0.867 on the diagonal" in drawn
    assert max(map(float, re.findall(r'opacity="([\d.]+)"', drawn))) == 0.56


def test_bars_come_best_first():
    drawn = class_bars("AUC", ["low", "high"], [0.25, 0.75])
    assert drawn.index(">high<") < drawn.index(">low<")
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="12"', drawn)]
    assert widths[0] == 3 * widths[1]


def test_a_result_gives_the_picture_that_it_allows():
    assert by_class({}) == ""
    assert by_class({"class_names": ["a"], "confusion": [[1, 2], [3, 4]]}) == ""
    assert "AUC of each class" in by_class({"class_names": ["a"], "class_auc": [0.5]})
    assert "IoU of each class" in by_class({"class_names": ["a"], "class_iou": [0.5], "confusion": [[1]]})
    assert "Confusions of 1 classes" in by_class({"class_names": ["a"], "confusion": [[1]]})


def test_few_labels_are_another_score_than_all_and_the_newest_counts():
    row = {"probe": "linear", "metric": "accuracy", "value": 0.5, "data": "d", "train": 100, "test": 10}
    few = {**row, "shots": 2, "draws": [0.1, 0.2], "value": 0.2, "gain_over_untrained": [0.1, 0.0, 0.2]}
    found = scores(
        [row, few, {**row, "value": 0.7, "metrics": {"macro_f1": {"trained": 1, "untrained": 0, "raw": 0}}}]
    )
    assert [score.value for score in found] == [0.7, 0.2]
    assert found[0].samples == "100 to learn from, 10 to test on"
    assert found[0].further == [("macro f1", 1.0, 0.0, 0.0)]
    assert found[1].samples.endswith("; 2 labels a class; over 2 draws")
    assert found[1].gain == (0.1, 0.0, 0.2)
