"""T-JEPA as a scikit-learn transformer for tables of mixed columns."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_feature_names_in,  # pyright: ignore[reportAttributeAccessIssue]
    check_is_fitted,
    validate_data,
)

from anyjepa.core.errors import UserError
from anyjepa.engine.run import Run, load
from anyjepa.engine.train import Settings, train

ROWS_AT_ONCE = 1024


class TableEncoder(TransformerMixin, BaseEstimator):
    """Learn a table's rows without labels, then turn rows into vectors.

    ``make_pipeline(TableEncoder(), LogisticRegression()).fit(frame, y)``

    X is a pandas or polars frame of mixed columns (numbers, words, dates, booleans; missing cells stay
    missing), or an array (rows, columns). Types of columns are inferred from what it is fitted on; ids,
    constants and free text are left out (``left_out_`` says which and why). The same rows, parameters and
    ``random_state`` give the same vectors. It pickles as any transformer, and clones.

    Args:
        preset: of the recipe ``t-jepa``.
        steps: length of the training in updates; the preset's epochs where None.
        embedding: ``flat`` (all tokens in a row), ``mean`` (their mean) or ``reg`` (the [REG] token).
        columns: types that are stated, ``age=numeric,size=ordinal:S/M/L,note=left-out``.
        fields: other fields of the recipe, by name.
        random_state: seed of weights, order and masks; None for chance.
        device: auto, cpu, cuda or mps.
        quiet: show no progress.
    """

    def __init__(
        self,
        preset: str = "tiny",
        steps: int | None = None,
        embedding: str = "flat",
        columns: str = "",
        fields: dict[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "auto",
        quiet: bool = True,
    ) -> None:
        self.preset, self.steps, self.embedding, self.columns = preset, steps, embedding, columns
        self.fields, self.random_state, self.device, self.quiet = fields, random_state, device, quiet

    def fit(self, X: Any, y: Any = None) -> TableEncoder:
        """Train on the rows X without labels; y is ignored.

        Raises:
            ValueError: there are fewer than two rows or columns that say anything.
        """
        X = self._checked(X, reset=True)
        fields = {
            "target": "none",
            "columns": self.columns,
            "embedding": self.embedding,
            **(self.fields or {}),
        }
        # some seeds are whole numbers of numpy, which a settings file cannot hold
        chance = check_random_state(self.random_state)
        seed = self.random_state if isinstance(self.random_state, int) else int(chance.randint(2**31 - 1))
        settings = Settings(steps=self.steps, seed=seed, device=self.device, quiet=self.quiet)
        with tempfile.TemporaryDirectory() as folder:
            try:
                train("t-jepa", X, folder + "/run", preset=self.preset, settings=settings, **fields)
            except UserError as mistake:
                raise ValueError(str(mistake)) from mistake
            self.run_: Run = load(folder + "/run", self.device)
        self.run_.config["data"]["source"] = None
        self.columns_ = [column["name"] for column in self.run_.facts["columns"]]
        self.left_out_ = dict(self.run_.facts["left_out"])
        # rounding must not depend on which rows are computed together
        if self.run_.device.type != "mps":
            self.run_.method.double()
        self._n_features_out = self._embed(self.run_.domain.noise(self.run_.facts, 1)).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Vectors (rows, dim) float32.

        Raises:
            ValueError: a column is missing, or a cell is not of its column's type.
        """
        check_is_fitted(self, "run_")
        X = self._checked(X, reset=False)
        try:
            samples = self.run_.open(X)
        except UserError as mistake:
            raise ValueError(str(mistake)) from mistake
        if samples.problems:
            more = f" ({len(samples.problems)} rows are damaged)" if len(samples.problems) > 1 else ""
            raise ValueError(f"row {samples.problems[0]}{more}.")
        return self._embed([samples.read(row) for row in range(len(samples))])

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """``COLUMN_0``, ``COLUMN_1`` ... of each token in turn, or ``tableencoder0`` ... for one vector."""
        check_is_fitted(self, "run_")
        _check_feature_names_in(self, input_features, generate_names=False)
        if self.embedding != "flat":
            return np.array([f"tableencoder{place}" for place in range(self._n_features_out)], dtype=object)
        width = self.run_.recipe.width  # pyright: ignore[reportAttributeAccessIssue]
        registers = self._n_features_out // width - len(self.columns_)
        tokens = [f"reg{number}" for number in range(registers)] + self.columns_
        return np.array([f"{token}_{place}" for token in tokens for place in range(width)], dtype=object)

    def _checked(self, X: Any, reset: bool) -> Any:
        """A frame as it is, anything else as an array; both with as many columns as were fitted."""
        if hasattr(X, "columns") and hasattr(X, "shape"):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if len(X) == 0:
                raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
            return X
        return validate_data(
            self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1, ensure_min_features=2 if reset else 1,
        )  # fmt: skip

    @torch.inference_mode()
    def _embed(self, rows: list[np.ndarray]) -> np.ndarray:
        method, parts = self.run_.method, []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            batch = self.run_.recipe.present(rows[start : start + ROWS_AT_ONCE])
            dtype = next(method.parameters()).dtype
            batch = {name: value.to(self.run_.device, dtype) for name, value in batch.items()}
            parts.append(method.embed(batch).float().cpu().numpy())
        return np.concatenate(parts)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        tags.transformer_tags.preserves_dtype = []
        return tags
