"""What else a probe's predictions say: further metrics, and which classes are taken for which."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyjepa.evaluation.labelled import ProbeResult

MOST_CLASSES = 40  # of a confusion matrix or of a list by class


def further_metrics(result: ProbeResult, truth: Tensor) -> dict[str, float]:
    """Metrics beside the main one, as scikit-learn computes them, by name.

    ``balanced_accuracy`` and ``macro_f1`` of classes, ``rmse`` and ``mae`` (in the targets' unit) of targets,
    ``macro_average_precision`` of several labels; of retrieval its recalls.

    Args:
        result: of a probe.
        truth: labels of the test samples, as the probe was given them.
    """
    from sklearn import metrics

    said, known = result.predictions.numpy(), truth.cpu().numpy()
    if result.metric == "accuracy":
        with warnings.catch_warnings():
            # a class that is predicted but does not occur among few test samples
            warnings.simplefilter("ignore")
            return {
                "balanced_accuracy": float(metrics.balanced_accuracy_score(known, said)),
                "macro_f1": float(metrics.f1_score(known, said, average="macro", zero_division="warn")),
            }
    if result.metric == "r2":
        return {
            "rmse": float(metrics.root_mean_squared_error(known, said)),
            "mae": float(metrics.mean_absolute_error(known, said)),
        }
    if result.metric == "macro_auc":
        each = [
            metrics.average_precision_score(column[column >= 0] == 1, scores[column >= 0])
            for column, scores in zip(known.T, said.T, strict=True)
            if (column == 1).any() and (column == 0).any()
        ]
        return {"macro_average_precision": float(np.mean(each))}
    return {name: value for name, value in result.chosen.items() if name.startswith("recall_at_")}


def by_class(result: ProbeResult, truth: Tensor, classes: list[str] | None) -> dict[str, Any]:
    """``confusion`` (rows: the truth, columns: what was said) or ``class_auc``, and ``class_names``.

    Nothing for other metrics, or for more than 40 classes.
    """
    from sklearn.metrics import confusion_matrix, roc_auc_score

    known = truth.cpu().numpy()
    if result.metric == "accuracy":
        said = result.predictions.numpy()
        numbers = np.unique(np.concatenate([known, said]))
        if len(numbers) > MOST_CLASSES:
            return {}
        table = confusion_matrix(known, said, labels=numbers)
        return {"confusion": table.tolist(), "class_names": _names(numbers, classes)}
    if result.metric == "macro_auc" and known.shape[1] <= MOST_CLASSES:
        numbers = [c for c, column in enumerate(known.T) if (column == 1).any() and (column == 0).any()]
        areas = [
            float(
                roc_auc_score(
                    known[known[:, c] >= 0, c], result.predictions[torch.from_numpy(known[:, c] >= 0), c]
                )
            )
            for c in numbers
        ]
        return {"class_auc": areas, "class_names": _names(np.array(numbers), classes)}
    return {}


def _names(numbers: np.ndarray, classes: list[str] | None) -> list[str]:
    return [str(number) if classes is None else classes[number] for number in numbers.tolist()]
