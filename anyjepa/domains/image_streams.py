"""Images of a data set in the hub's layout that is read where it lies, for sets that no disk holds."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyjepa.core.errors import UserError, require
from anyjepa.domains.hub import chosen_split, cleared, label_column, labels_of, own_name
from anyjepa.domains.hub_streams import FileRows, GroupRows, data_files, files_of
from anyjepa.domains.image_samples import EncodedStore, ImageSamples

__all__ = ["Stream", "StreamStore", "StreamedImages", "open_stream"]


class StreamStore(EncodedStore):
    """Images in rows of Parquet files or in files at addresses; named by row numbers."""

    def __init__(self, rows: GroupRows | FileRows) -> None:
        self.rows = rows
        self.blocks = rows.ends if isinstance(rows, GroupRows) else None

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, index: int) -> bytes:
        """The encoded image."""
        return self.rows.content(int(index))

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def size(self, index: int) -> int:
        """Bytes of the image's share of its row group; of a file, of its address, for it is not opened."""
        if isinstance(self.rows, FileRows):
            return len(self.rows.paths[index])
        group = self.rows.group(int(index))
        before = int(self.rows.ends[group - 1]) if group else 0
        return self.rows.size(group) // (int(self.rows.ends[group]) - before)

    def looked_at(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Rows that speak for all, already fetched."""
        chosen = self.rows.near(count, random)
        self.rows.prepare(chosen)
        return chosen


@dataclass
class Stream:
    """What is known of a streamed set before its images are read.

    Args:
        store: of its images.
        kind: in words.
        column: of its labels; None where it has none.
        feature: of that column.
        values: of that column, where listing the files gave them; read when asked for otherwise.
    """

    store: StreamStore
    kind: str
    column: str | None
    feature: Any
    values: list[Any] | None

    def labels(self) -> tuple[np.ndarray | None, list[str] | None]:
        """Labels and classes of all images."""
        if self.column is None:
            return None, None
        values = self.values
        if values is None:
            assert isinstance(self.store.rows, GroupRows)
            values = self.store.rows.values(self.column)
        return labels_of(values, self.feature)


def open_stream(name: str, split: str | None, column: str | None) -> Stream:
    """The data set ``NAME`` or ``NAME:SPLIT``: Parquet files, or a folder of images with or without labels.

    Only footers of Parquet files are read and folders listed. Raises UserError and NoSplit.
    """
    datasets = require("datasets", "hub")
    name, own_split = own_name(name)
    with cleared(name):
        kind, files, features = data_files(name)
    if kind not in ("parquet", "imagefolder"):
        raise UserError(
            f"hf-stream:{name} is a data set of {kind} files, which cannot be read at random where they lie: "
            f"type hf:{name}, or make shards of it with `anyjepa pack hf:{name}`"
        )
    with cleared(name):
        chosen = chosen_split(list(files), own_split or split, name)
        stream: Any = None
        if kind == "parquet":
            groups = GroupRows(files[chosen])
            features = features or datasets.Features.from_arrow_schema(groups.schema)
        else:
            stream = datasets.load_dataset(name, split=chosen, streaming=True)
            groups, features = None, stream.features
    columns = [found for found, what in (features or {}).items() if isinstance(what, datasets.Image)]
    if not columns:
        raise UserError(
            f"hf-stream:{name} has no image column, only {', '.join(features or ())}: give one that has"
        )
    label = label_column(features, column)
    kind_of_label = features[label] if label else None
    if groups is not None:
        groups.column = columns[0]
        words = f"images in {len(groups.paths):,} Parquet files of the hub's layout, read where they lie"
        return Stream(StreamStore(groups), words, label, kind_of_label, None)
    with cleared(name):
        paths, others = files_of(stream, columns[0], [label] if label else [])
    words = "image files of the hub's layout, read where they lie"
    return Stream(StreamStore(FileRows(paths)), words, label, kind_of_label, others[label] if label else None)


class StreamedImages(ImageSamples):
    """Images that lie elsewhere; labels are fetched when they are first asked for, which training never does.

    Attributes: ``window``: how many are shuffled together, from one place of the set at a time.
    """

    def __init__(self, source: str, stream: Stream, resident_bytes: int) -> None:
        self.stream, rows = stream, stream.store.rows
        self._labelling = (None, None)
        problems = rows.problems if isinstance(rows, GroupRows) else []
        super().__init__(source, stream.store, stream.kind, problems=problems, resident_bytes=resident_bytes)
        del self._labelling  # which the parent class has set to nothing
        self.window = rows.window if isinstance(rows, GroupRows) else 0

    @property
    def labels(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As of Samples."""
        return self._labelling[0]

    @labels.setter
    def labels(self, values: np.ndarray | None) -> None:
        self._labelling = values, self._labelling[1]

    @property
    def classes(self) -> list[str] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As of Samples."""
        return self._labelling[1]

    @classes.setter
    def classes(self, names: list[str] | None) -> None:
        self._labelling = self._labelling[0], names

    @functools.cached_property
    def _labelling(self) -> tuple[np.ndarray | None, list[str] | None]:
        labels, classes = self.stream.labels()
        return labels if labels is None or self.rows is None else labels[self.rows], classes

    def prepare(self, indices: np.ndarray) -> None:
        """Fetch what a batch needs side by side."""
        if self.array is None and self.images is None:
            self.stream.store.rows.prepare(indices if self.rows is None else self.rows[indices])

    def looked_at(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Indices of about `count` images that speak for all, already fetched."""
        if self.array is not None or self.images is not None:
            return random.choice(len(self), count, replace=False)
        rows = self.stream.store.looked_at(count, random)
        if self.rows is None:
            return rows
        return np.searchsorted(self.rows, np.intersect1d(rows, self.rows))
