"""Data sets in the hub's layout, read where they lie: never downloaded whole, never converted to Arrow.

Parquet files are read a row group at a time, of the one column that is wanted, into the bounded cache that
shards are fetched into; folders of files a file at a time. Both can be read at random, so that order,
resuming and any number of processes are what they are for every other source.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, require
from anyjepa.domains.names import Names
from anyjepa.domains.remote import kept

__all__ = ["FileRows", "GroupRows", "data_files", "failures", "files_of"]

AT_ONCE = 16  # fetches side by side: what is far away answers late
OPEN_GROUPS = 256
WINDOW_BYTES = 4 * 2**30  # of row groups that are shuffled together, which the cache must hold
WINDOW = 65_536
NEAR = 4  # row groups that speak for all
TRIES = 3


def failures() -> tuple[type[BaseException], ...]:
    """What reading from elsewhere raises: the system's errors, Arrow's, and those of the hub's client."""
    import pyarrow

    found: list[type[BaseException]] = [OSError, pyarrow.ArrowException]
    try:
        from httpx import HTTPError  # huggingface_hub 1.0 and later, none of whose errors is an OSError
    except ImportError:
        return tuple(found)
    return (*found, HTTPError)


def data_files(name: str) -> tuple[str, dict[str, list[str]], Any]:
    """The format of a data set (``parquet``, ``imagefolder`` ...), addresses of its files by split, features.

    The features are those that its card states, else None. Raises what the library does.
    """
    datasets = require("datasets", "hub")
    builder = datasets.load_dataset_builder(name)
    kind = type(builder).__mro__[1].__module__.rpartition(".")[2]
    files = builder.config.data_files or {}
    found = {str(split): [str(path) for path in paths] for split, paths in files.items()}
    return kind, found, builder.info.features


def _at_once(call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, items))


def _opened(path: str) -> Any:
    """A file of this machine, or at an address that is read in ranges."""
    if os.path.isabs(path):
        return open(path, "rb")
    # Arrow asks for all ranges of a row group at once: anything read ahead would be for nothing
    return require("fsspec", "hub").open(path, "rb", cache_type="none").open()


class GroupRows:
    """One column of many Parquet files, a row group at a time. Can be pickled.

    Args:
        paths: of the files, in order.
        column: that holds binary values, or a struct with a field ``bytes`` as the hub keeps images.

    Attributes: schema: of the first file. ends: (groups,) int64 where each row group's rows end. problems:
    files that cannot be read, of which nothing is among the rows.

    Raises:
        UserError: no file can be read, or there is no such column.
    """

    def __init__(self, paths: Sequence[str], column: str | None = None) -> None:
        self.problems: list[BadSample] = []
        self.paths: list[str] = []
        self.footers: list[Any] = []
        for path, footer in zip(paths, _at_once(_footer, paths), strict=True):
            if isinstance(footer, str):
                self.problems.append(BadSample(path, footer))
            else:
                self.paths.append(path)
                self.footers.append(footer)
        if not self.paths:
            raise UserError(f"no Parquet file can be read, for instance {self.problems[0]}: give whole ones.")
        # files of this machine may be written anew; addresses of the hub name a revision, which cannot
        self.stamps = [os.stat(path).st_mtime_ns if os.path.isabs(path) else 0 for path in self.paths]
        self.schema = self.footers[0].schema.to_arrow_schema()
        self.column = column
        counts = [
            (file, group, footer.row_group(group).num_rows)
            for file, footer in enumerate(self.footers)
            for group in range(footer.num_row_groups)
            if footer.row_group(group).num_rows
        ]
        self.places = [(file, group) for file, group, _ in counts]
        self.ends = np.cumsum([rows for _, _, rows in counts], dtype=np.int64)
        self._open: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"} | {"_open": {}}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def window(self) -> int:
        """Rows that are shuffled together, at most `WINDOW`."""
        total = sum(map(self.size, range(len(self.places))))
        return max(1, min(WINDOW, WINDOW_BYTES * len(self) // max(1, total)))

    def near(self, count: int, random: np.random.Generator) -> np.ndarray:
        """About `count` rows out of a few row groups, so that no more is fetched."""
        groups = random.permutation(len(self.places))[:NEAR]
        each = -(-count // len(groups))
        found = []
        for group in groups.tolist():
            start = int(self.ends[group - 1]) if group else 0
            found.append(start + random.permutation(int(self.ends[group]) - start)[:each])
        return np.concatenate(found)

    def size(self, group: int) -> int:
        """Bytes of the column in a row group, as it lies in the file."""
        file, number = self.places[group]
        found = self.footers[file].row_group(number)
        parts = [found.column(index) for index in range(found.num_columns)]
        mine = [part for part in parts if part.path_in_schema.split(".")[0] == self.column]
        return sum(part.total_compressed_size for part in mine)

    def group(self, row: int) -> int:
        """Number of the row group that a row is in."""
        return int(np.searchsorted(self.ends, row, side="right"))

    def content(self, row: int) -> bytes:
        """The bytes of one row. Raises OSError where the row group cannot be read."""
        group = self.group(row)
        values = self._values(group)
        value = values[row - (int(self.ends[group - 1]) if group else 0)].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise OSError("the row holds no bytes" if value is None else "the row holds no picture")
        return value

    def prepare(self, rows: np.ndarray) -> None:
        """Fetch what the rows need side by side; what fails is found out when it is read."""
        wanted = [
            group for group in np.unique(np.searchsorted(self.ends, rows, side="right")).tolist()
            if group not in self._open
        ]  # fmt: skip
        if len(wanted) > 1:
            _at_once(self._tried, wanted)

    def values(self, column: str) -> list[Any]:
        """All values of another column, small enough to be held."""
        parts = _at_once(lambda file: self._column(file, column), range(len(self.paths)))
        return [value for part in parts for value in part]

    def _column(self, file: int, column: str) -> list[Any]:
        from pyarrow import parquet

        try:
            with _opened(self.paths[file]) as source:
                table = parquet.ParquetFile(source, metadata=self.footers[file], pre_buffer=True)
                return table.read([column]).column(0).to_pylist()
        except failures() as problem:
            self.problems.append(
                BadSample(self.paths[file], f"its column {column} cannot be read ({problem})")
            )
            return [None] * self.footers[file].num_rows

    def _tried(self, group: int) -> None:
        with suppress(OSError):
            self._values(group)

    def _values(self, group: int) -> Any:
        """The column of a row group, mapped into memory out of the cache."""
        from pyarrow import ArrowException, ipc, memory_map

        found = self._open.get(group)
        if found is not None:
            return found
        file, number = self.places[group]
        path, footer = self.paths[file], self.footers[file]
        what = f"{path} {self.stamps[file]} {footer.serialized_size} {number} {self.column}"
        name = f"{os.path.basename(path)}-{number}.arrow"
        for attempt in range(TRIES):
            place = kept(what, name, self.size(group), partial(self._fetch, group))
            try:
                found = ipc.open_file(memory_map(place)).read_all().column(0)
                break
            except (FileNotFoundError, ArrowException):
                # another process has made room just now, or a cut of power left half of it
                Path(place).unlink(missing_ok=True)
                if attempt + 1 == TRIES:
                    raise OSError(f"the cache cannot keep {place}") from None
        with self._lock:
            while len(self._open) >= OPEN_GROUPS:
                self._open.pop(next(iter(self._open)))
            self._open[group] = found
        return found

    def _fetch(self, group: int, place: Path) -> None:
        from pyarrow import ipc, parquet

        file, number = self.places[group]
        beside = place.with_name(f".{place.name}.partial")
        problem: BaseException | None = None
        for _ in range(TRIES):
            try:
                with _opened(self.paths[file]) as source:
                    table = parquet.ParquetFile(source, metadata=self.footers[file], pre_buffer=True)
                    rows = table.read_row_group(number, columns=[self.column])
                with ipc.new_file(str(beside), rows.schema) as target:
                    target.write_table(rows)
                os.replace(beside, place)
                return
            except failures() as found:
                problem = found
            finally:
                beside.unlink(missing_ok=True)
        reason = (str(problem).splitlines() or ["no reason given"])[0]
        raise OSError(f"row group {number} of {self.paths[file]} cannot be read ({reason})")


def _footer(path: str) -> Any:
    """The footer of a Parquet file, or why there is none."""
    from pyarrow import parquet

    try:
        with _opened(path) as source:
            return parquet.ParquetFile(source).metadata
    except failures() as problem:
        return (str(problem).splitlines() or [type(problem).__name__])[0].rstrip(".")


class FileRows:
    """Files at addresses, each read when it is asked for and not kept. Can be pickled."""

    def __init__(self, paths: Names) -> None:
        self.paths = paths
        self._ahead: dict[int, bytes | OSError] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_ahead": {}}

    def content(self, row: int) -> bytes:
        """The whole file; raises OSError."""
        found = self._ahead.pop(row, None)
        if found is None:
            found = self._attempt(row)
        if isinstance(found, OSError):
            raise found
        return found

    def near(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Some rows, fewer where they are far away."""
        return random.permutation(len(self))[:count]

    def prepare(self, rows: np.ndarray) -> None:
        """Fetch the files of a batch side by side, where they are not of this machine."""
        distinct = np.unique(rows).tolist()
        if len(distinct) > 1 and not os.path.isabs(self.paths[distinct[0]]):
            self._ahead = dict(zip(distinct, _at_once(self._attempt, distinct), strict=True))

    def _attempt(self, row: int) -> bytes | OSError:
        problem: BaseException | None = None
        for _ in range(TRIES):
            try:
                with _opened(self.paths[row]) as file:
                    return file.read()
            except FileNotFoundError as missing:
                return missing
            except failures() as found:
                problem = found
        return OSError((str(problem).splitlines() or ["no reason given"])[0])


def files_of(stream: Any, column: str, wanted: Sequence[str]) -> tuple[Names, dict[str, list[Any]]]:
    """Addresses in a column of a streamed folder of files, and other columns; opens none of the files.

    Raises what the library does.
    """
    datasets = require("datasets", "hub")
    stream = stream.cast_column(column, datasets.Image(decode=False))
    paths: list[str] = []
    others: dict[str, list[Any]] = {other: [] for other in wanted}
    for row in stream:
        paths.append(row[column]["path"])
        for other, values in others.items():
            values.append(row[other])
    return Names(paths), others
