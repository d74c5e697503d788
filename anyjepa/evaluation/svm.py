"""The linear support vector machine that papers on point clouds score frozen features with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from anyjepa.core.errors import UserError
from anyjepa.evaluation.labelled import Labelled, ProbeResult

PUBLISHED = 0.012  # C of Point-JEPA and of the papers it compares with
MARGINS = (0.001, PUBLISHED, 0.1, 1.0, 10.0)


def svm_probe(
    train_features: Float[Tensor, "train dim"],
    train_labels: Shaped[Tensor, "train_labels ..."],
    test_features: Float[Tensor, "test test_dim"],
    test_labels: Shaped[Tensor, "test_labels ..."],
    *,
    margins: Sequence[float] = MARGINS,
    validation_fraction: float = 0.2,
    seed: int = 0,
    train_groups: Int[Tensor, " train_groups"] | None = None,
    test_groups: Int[Tensor, " test_groups"] | None = None,
) -> ProbeResult:
    """A support vector machine with a linear kernel, one against one (scikit-learn's SVC).

    C, and whether the features are standardised first, are chosen on a stratified part of the training
    samples, and the machine is fitted again on all of them. ``chosen`` also holds ``published``: the accuracy
    on the test samples of features as they are at C = 0.012, which papers report (Point-JEPA, section 4.1).
    With a single C in `margins` nothing is chosen and features stay as they are.

    Raises UserError as `linear_probe` does, and for targets that are no classes.
    """
    if not margins or min(margins) <= 0:
        raise UserError(f"C of the support vector machine must be above 0, not {tuple(margins)}.")
    data = Labelled.checked(
        train_features, train_labels, test_features, test_labels, train_groups, test_groups
    )
    if data.classes is None:
        raise UserError("a support vector machine tells classes apart: use --probe linear for numbers.")
    chosen: dict[str, Any] = {"C": float(margins[0]), "standardised": False}
    if len(margins) > 1:
        chosen = _choose(data, data.split(validation_fraction, seed), margins)
    test = _array(data.test)
    truth = data.test_labels.cpu().numpy()
    everything = _array(data.train), data.train_labels.cpu().numpy()
    published = _fitted(*everything, PUBLISHED, False).predict(test) == truth
    predictions = _fitted(*everything, chosen["C"], chosen["standardised"]).predict(test)
    chosen["published"] = float(published.mean())
    found = torch.from_numpy(predictions).to(data.test_labels)
    return data.result("svm", found, chosen)


def _choose(data: Labelled, parts: tuple[Tensor, Tensor], margins: Sequence[float]) -> dict[str, Any]:
    """The setting that predicts the held-out part best; of equally good ones the first."""
    features, labels = _array(data.train), data.train_labels.cpu().numpy()
    fit, held_out = (part.cpu().numpy() for part in parts)
    choices = []
    for standardised in (False, True):
        for margin in margins:
            machine = _fitted(features[fit], labels[fit], margin, standardised)
            score = float((machine.predict(features[held_out]) == labels[held_out]).mean())
            choices.append({"C": float(margin), "standardised": standardised, "validation": score})
    return max(choices, key=lambda choice: choice["validation"])


def _fitted(features: np.ndarray, labels: np.ndarray, margin: float, standardised: bool) -> Any:
    from sklearn.pipeline import make_pipeline  # slow to import
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    machine = SVC(C=margin, kernel="linear")
    return (make_pipeline(StandardScaler(), machine) if standardised else machine).fit(features, labels)


def _array(features: Tensor) -> np.ndarray:
    return features.double().cpu().numpy()
