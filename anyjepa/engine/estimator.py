"""Any recipe in scikit-learn's manner."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from anyjepa.engine.run import Run, load
from anyjepa.engine.train import Settings, train


class Encoder(TransformerMixin, BaseEstimator):
    """Pre-train on X without labels, then turn samples into embeddings.

    ``anyjepa.Encoder("i-jepa").fit(X).transform(X)``

    Args:
        recipe: its name.
        preset: of the recipe.
        steps: length of the training; the recipe's epochs where None.
        seed: of everything random.
        out: folder for the run, kept; a temporary one, deleted after fitting, where None.
        device: auto, cpu, cuda or mps.
        fields: other fields of the recipe, by name.
        quiet: show no progress.
    """

    def __init__(
        self,
        recipe: str = "i-jepa",
        preset: str = "tiny",
        steps: int | None = None,
        seed: int = 0,
        out: str | None = None,
        device: str = "auto",
        fields: dict[str, Any] | None = None,
        quiet: bool = True,
    ) -> None:
        self.recipe, self.preset, self.steps, self.seed = recipe, preset, steps, seed
        self.out, self.device, self.fields, self.quiet = out, device, fields, quiet

    def fit(self, X: np.ndarray, y: Any = None) -> Encoder:
        """Train on samples X, for images (n, height, width) or (n, height, width, channels); y is ignored."""
        settings = Settings(steps=self.steps, seed=self.seed, device=self.device, quiet=self.quiet)
        with tempfile.TemporaryDirectory() as folder:
            out = self.out or f"{folder}/run"
            train(self.recipe, X, out, preset=self.preset, settings=settings, **(self.fields or {}))
            self.run_: Run = load(out, self.device)
        self.n_features_out_ = self.run_.embed(X[:1]).shape[1]
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) float32."""
        check_is_fitted(self, "run_")
        return self.run_.embed(X).numpy()
