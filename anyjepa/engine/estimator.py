"""Any recipe in scikit-learn's manner."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from anyjepa.core.errors import UserError
from anyjepa.domains import Frame
from anyjepa.engine.checkpoint import save_encoder
from anyjepa.engine.files import explained, write_whole
from anyjepa.engine.run import Run, load, write_config
from anyjepa.engine.train import Settings, train

PARAMETERS = "estimator.json"
COMPANIONS = frozenset({".dat", ".mat", ".mtl", ".bin"})  # hold what a header or mesh beside them names


class Encoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Pre-train on X without labels, then turn samples into embeddings.

    ``make_pipeline(anyjepa.Encoder("ecg-jepa"), LogisticRegression()).fit(X, y)``

    X is what the recipe's kind of data can be given as: an array whose first axis is the samples, a list of
    arrays (of different sizes where the kind of data allows it), a list of files, one sample or table each
    with what lies beside it under the same name, a folder or another source (``digits``, ``hf:NAME``), or for
    tables a data frame. One row comes out for each sample, in order; a damaged one is a ValueError that names
    it, in `fit` only where there are too many. The same X, parameters and seed give the same vectors.

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

    def fit(self, X: Any, y: Any = None) -> Encoder:
        """Train on the samples X without labels; y is ignored.

        Raises:
            ValueError: X is nothing that the recipe's kind of data can be read from.
        """
        settings = Settings(steps=self.steps, seed=self.seed, device=self.device, quiet=self.quiet)
        with tempfile.TemporaryDirectory() as folder, _source(X) as source, _as_value_error():
            out = self.out or f"{folder}/run"
            train(self.recipe, source, out, preset=self.preset, settings=settings, **(self.fields or {}))
            self.run_: Run = load(out, self.device)
        if not isinstance(X, str | os.PathLike):
            self.run_.config["data"]["source"] = None
        self.n_features_out_ = self._n_features_out = _width(self.run_)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embeddings (n, dim) float32.

        Raises:
            ValueError: X cannot be read as the data it was fitted on, or a sample of it is damaged.
        """
        check_is_fitted(self, "run_")
        with _source(X) as source, _as_value_error():
            samples = self.run_.open(source)
            before = len(self.run_.problems)
            damaged = list(samples.problems)
            embeddings = self.run_.embed(samples).numpy() if len(samples) else None
            damaged += self.run_.problems[before:]
        if damaged or embeddings is None:
            more = f" ({len(damaged)} samples are damaged)" if len(damaged) > 1 else ""
            raise ValueError(f"{damaged[0]}{more}." if damaged else "there is no sample to embed.")
        return embeddings

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write what was fitted as a run's folder that every command reads, without pickling anything.

        Raises:
            UserError: it cannot be written, or there is another run.
        """
        check_is_fitted(self, "run_")
        path = Path(folder)
        if (path / "config.yaml").exists() and not (path / PARAMETERS).exists():
            raise UserError(f"{path} already holds a run: choose another folder.")
        with explained(f"write to {path}"):
            path.mkdir(parents=True, exist_ok=True)
            write_config(path, {**self.run_.config, "status": "finished"})
            save_encoder(self.run_.method, path / "encoder.safetensors")
            write_whole(path / PARAMETERS, json.dumps(self.get_params(), default=list).encode())

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str | None = None) -> Encoder:
        """The encoder that `save` wrote, fitted.

        Args:
            folder: as given to `save`.
            device: to use in place of the one it was fitted on.

        Raises:
            UserError: it is no such folder.
        """
        file = Path(folder) / PARAMETERS
        if not file.is_file():
            raise UserError(f"{folder} was not written by Encoder.save: open a run with anyjepa.load.")
        encoder = cls(**json.loads(file.read_text()))
        if device is not None:
            encoder.device = device
        encoder.run_ = load(Path(folder), encoder.device)
        encoder.n_features_out_ = encoder._n_features_out = _width(encoder.run_)
        return encoder


@torch.inference_mode()
def _width(run: Run) -> int:
    """Of an embedding."""
    batch = run.recipe.present(run.domain.noise(run.facts, 1))
    return run.method.embed({name: value.to(run.device) for name, value in batch.items()}).shape[1]


@contextmanager
def _as_value_error() -> Iterator[None]:
    """What scikit-learn's callers expect of X that cannot be used."""
    try:
        yield
    except UserError as mistake:
        raise ValueError(str(mistake)) from mistake


@contextmanager
def _source(X: Any) -> Iterator[str | np.ndarray | Frame]:
    """X as a kind of data opens it: a list of files becomes a folder of links, a list of arrays an array."""
    if isinstance(X, str | os.PathLike):
        yield os.fspath(X)
    elif not isinstance(X, list | tuple):
        yield X
    elif X and all(isinstance(file, str | os.PathLike) for file in X):
        with tempfile.TemporaryDirectory(prefix="anyjepa-files-") as folder:
            _link([Path(file).expanduser() for file in X], Path(folder))
            yield folder
    else:
        yield _together(X)


def _together(arrays: Sequence[Any]) -> np.ndarray:
    parts = [np.asarray(part) for part in arrays]
    if (
        len({part.shape for part in parts}) == 1
        and len({part.dtype for part in parts if part.dtype.names}) < 2
    ):
        return np.stack(parts)
    ragged = np.empty(len(parts), dtype=object)
    for place, part in enumerate(parts):
        ragged[place] = part
    return ragged


def _link(files: Sequence[Path], folder: Path) -> None:
    """Links in a folder for each file, in order; what a record consists of beside its header comes along."""
    digits = len(str(len(files)))
    beside: dict[Path, dict[str, list[Path]]] = {}
    for number, file in enumerate(files):
        if not file.is_file():
            raise ValueError(f"{file} is no file: give a list of files, or one folder.")
        if file.parent not in beside:
            stems = beside[file.parent] = {}
            for entry in sorted(file.parent.iterdir()):
                stems.setdefault(entry.stem, []).append(entry)
        place = folder / f"{number:0{digits}d}"
        place.mkdir()
        for part in beside[file.parent][file.stem]:
            if part == file or part.suffix.lower() in COMPANIONS:
                (place / part.name).symlink_to(part.resolve())
