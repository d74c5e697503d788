"""Kinds of data: how each is read, measured, shown and cut into tokens. One file a kind.

A kind of data is a concrete subclass of :class:`Domain` in a file of this package; :func:`domains` finds it
there. Nothing here imports torch, so that commands which only read a run start at once.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from anyjepa.core.tokens import Tokens

__all__ = ["DenseSamples", "Domain", "Frame", "Samples", "domains"]


@runtime_checkable
class Frame(Protocol):
    """A table in memory of pandas, polars or Arrow, told by its shape so that none of them is imported."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    @property
    def columns(self) -> Any:
        """Names of the columns, or the columns."""
        ...

    def __len__(self) -> int: ...


@runtime_checkable
class Samples(Protocol):
    """Random access to the raw samples of one source. Can be pickled: loader workers hold a copy."""

    source: str
    """What the person typed."""
    description: str
    """In words, for instance ``12,000 JPEG images in 10 class folders``."""
    labels: np.ndarray | None
    """(n,) int64 indices into ``classes``, -1 where unknown; (n,) float32 targets, NaN where unknown; or
    (n, classes) int8, 1 for each class that a sample is of, 0 for the others, -1 where unknown."""
    classes: list[str] | None
    """Names of the classes, in the order of their index; None for float targets or no labels."""
    groups: np.ndarray | None
    """(n,) of what must not be on both sides of a split: patient, subject, recording; None where unknown."""
    problems: list[BadSample]
    """What was damaged when the source was opened; these are not among the n samples."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> np.ndarray:
        """The raw sample in its native dtype. Raises BadSample where it is damaged."""
        ...

    def identity(self, index: int) -> str:
        """Relative path, shard key or row number: unique in the source."""
        ...

    def fingerprint(self) -> str:
        """Hexadecimal digest of the names and sizes of the samples, cheap for a million files."""
        ...


@runtime_checkable
class DenseSamples(Protocol):
    """Samples that also carry labels of their parts, beside what `Samples` promises."""

    dense_classes: list[str] | None
    """Names of the labels of parts, in the order of their index; None where they are but numbers."""

    def dense(self, index: int) -> np.ndarray:
        """Whole numbers: one a point of `read` (n,), or one a pixel (height, width); -1 where unknown.

        Raises BadSample where they are damaged, UserError where the source has none.
        """
        ...


class Domain(ABC):
    """One kind of data. Stateless: one instance serves every run."""

    name: ClassVar[str]
    reads_frames: ClassVar[bool] = False
    reads_shards: ClassVar[bool] = (
        False  # whether `open` knows wds:; else packs of its arrays are read as such
    )
    endings: ClassVar[frozenset[str]] = frozenset()
    """Of the names of its files and of those that lie beside them, in small letters (``.png``, ``.nii.gz``).

    `anyjepa look` opens a folder or file as this kind of data only if such a name is in it; none: always.
    """

    @abstractmethod
    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Open a source (path, ``hf:``, ``wds:``, shipped name or array; a `Frame` where `reads_frames`).

        ``reading`` is what a recipe asks (`Recipe.reading`); for a run that is trained, with the facts that
        were measured then over it, so that other data is read in the same way (rate, leads, columns).
        Raises UserError if it cannot be opened.
        """

    @abstractmethod
    def measure(self, samples: Samples, seed: int = 0) -> dict:
        """Facts that a recipe needs before it can build its tokenizer; plain JSON values."""

    @abstractmethod
    def raw(self, batch: dict[str, Tensor], facts: dict) -> Tensor:
        """(n, features) float32: the input itself as an embedding, the baseline of every evaluation."""

    def baselines(
        self, train: dict[str, Tensor], labels: Tensor, test: dict[str, Tensor], facts: dict
    ) -> dict[str, np.ndarray]:
        """What the field's own classifiers say of the test samples, (n_test,) labels by the pipeline's name.

        ``train`` and ``test`` are batches of `Recipe.present`, ``labels`` (n_train,) int64. They stand beside
        every score of classes. None where the field has no other than `raw`.
        """
        return {}

    @abstractmethod
    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Samples of pure chance with the statistics in ``facts``, always the same ones."""

    @abstractmethod
    def picture(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> np.ndarray:
        """(h, w, 3) uint8 picture of one sample; ``colours`` (tokens, 3) in 0..1 paints its tokens.

        NaN leaves a token as it is.
        """

    @property
    def packs(self) -> bool:
        """Whether `anyjepa pack` makes shards of it."""
        return not self.reads_frames

    def likeness(self, samples: Samples) -> float:
        """How surely what was opened is this kind of data, 0 to 1, where another kind can read it too."""
        return 0.5

    def in_words(self, facts: dict) -> dict[str, str]:
        """What was measured, for a person: shapes with units, channels by name. Here the plain facts."""
        plain = {
            name.replace("_", " "): value
            for name, value in facts.items()
            if isinstance(value, str | int | float) or (isinstance(value, list) and len(str(value)) < 80)
        }
        return {
            name: f"{value:,.4g}" if isinstance(value, float) else str(value) for name, value in plain.items()
        }

    def doubts(self, samples: Samples, facts: dict) -> list[str]:
        """What cannot be learned from such data, in sentences. Here channels that never change."""
        spread = facts.get("std")
        if not isinstance(spread, list):
            return []
        flat = [str(number) for number, value in enumerate(spread) if value == 0]
        if not flat:
            return []
        return [f"{len(flat)} of {len(spread)} channels never change (number {', '.join(flat[:5])})."]

    def figure(
        self, batch: dict[str, Tensor], index: int, facts: dict, colours: Tensor | None = None
    ) -> str | None:
        """The same as HTML or SVG, for kinds of data that say more drawn large, with axes, or turned by hand.

        What comes from the data must be escaped; nothing may be loaded from elsewhere. None where the
        picture does.
        """
        return None

    def annotated(self, batch: dict[str, Tensor], samples: Samples, places: np.ndarray) -> dict[str, Tensor]:
        """A batch of the samples at `places` with what only pictures need, such as boxes of objects."""
        return batch

    def elements(
        self,
        batch: dict[str, Tensor],
        tokens: Sequence[Tokens],
        dense: Sequence[np.ndarray],
        classes: int,
        present: Callable[[list[np.ndarray]], dict[str, Tensor]],
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """What carries labels of parts in each sample of a batch: patches of images, points of clouds.

        ``tokens`` are `Method.deep_tokens` of one encoder or more, ``dense`` labels below ``classes`` as
        `DenseSamples.dense` gives them, ``present`` the recipe's. Returns features (n, elements, width) of
        each encoder, a raw description (n, elements, numbers), and labels (n, elements) int64, -1 where
        unknown. Raises UserError where the kind of data has no such labels.
        """
        raise UserError(f"{self.name} data has no labels of parts: use another --probe than patch.")


@functools.cache
def domains() -> dict[str, Domain]:
    """Every kind of data by name, found in the files of this package."""
    found: dict[str, Domain] = {}
    for entry in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{entry.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ != module.__name__ or not issubclass(kind, Domain) or inspect.isabstract(kind):
                continue
            if kind.name in found:
                raise RuntimeError(f"two domains are called {kind.name!r}: {found[kind.name]!r} and {kind!r}")
            found[kind.name] = kind()
    return dict(sorted(found.items()))
