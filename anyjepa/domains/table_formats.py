"""Files that hold a table, each read into one Arrow table: CSV and its kin, ARFF, Parquet, Feather, numpy."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from pyarrow import csv as arrow_csv
from pyarrow import feather, parquet

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.number_files import open_archive, read_array
from anyjepa.domains.sources import split_order
from anyjepa.domains.table_columns import compute

__all__ = ["SUFFIXES", "Sheet", "from_array", "numbered", "read_sheet"]

SUFFIXES = frozenset({".csv", ".tsv", ".tab", ".txt", ".data", ".parquet", ".pq", ".feather", ".arrow",
                      ".arff", ".npy", ".npz"})  # fmt: skip
DELIMITED = {".csv", ".tsv", ".tab", ".txt", ".data"}
SNIFFED = 65_536  # bytes
MOST_ROWS = 4096  # a byte of Parquet: writers end a page of equal values sooner
NUMERIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


@dataclass
class Sheet:
    """A table as it was read.

    Args:
        table: columns by name, untyped text where the file says no types.
        problems: rows that could not be read.
        label: the column that its format or a convention names as the label.
        levels: order of the levels of ordered categoricals.
        kinds: types that the format states.
    """

    table: arrow.Table
    problems: list[BadSample] = field(default_factory=list)
    label: str | None = None
    levels: dict[str, list[str]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)


def numbered(count: int) -> list[str]:
    """Names of columns that have none."""
    return [f"column_{number}" for number in range(count)]


def read_sheet(path: Path, split: str | None = None) -> Sheet:
    """The table in one file; `split` chooses among the parts of an .npz.

    Raises:
        UserError: it cannot be read.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            return Sheet(read_parquet(path))
        if suffix in (".feather", ".arrow"):
            return Sheet(_sound(feather.read_table(path)))
        if suffix == ".arff":
            return _arff(path)
        if suffix == ".npy":
            return from_array(read_array(path, mapped=True))
        if suffix == ".npz":
            return _npz(path, split)
        if suffix in DELIMITED:
            return _delimited(path)
    except (arrow.ArrowException, OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as {suffix[1:]}: {str(error).splitlines()[0]}") from None
    known = ", ".join(sorted(SUFFIXES))
    raise UserError(f"{path} is not a table: give a file that ends in one of {known}.")


def read_parquet(path: Path) -> arrow.Table:
    """A Parquet file whose rows are no more than it can hold. Raises ArrowException, OSError, ValueError."""
    rows = parquet.read_metadata(path).num_rows
    if rows > MOST_ROWS * path.stat().st_size:
        raise ValueError(f"it claims {rows} rows, more than the file holds")
    return _sound(parquet.read_table(path))


def _sound(table: arrow.Table) -> arrow.Table:
    """The table itself; ArrowInvalid where lengths, offsets or text in it are not what they should be.

    Arrow believes a file, and what reads past the end of a column later ends the process.
    """
    table.validate(full=True)
    return table


def from_array(values: np.ndarray, names: Sequence[str] | None = None) -> Sheet:
    """A 2-D array (n, columns) of numbers, text or objects, or a structured array (n,) with its fields."""
    if values.dtype.names:
        return Sheet(arrow.table({name: _array(np.asarray(values[name])) for name in values.dtype.names}))
    if values.ndim != 2:
        raise UserError(f"a table is an array of 2 axes (rows, columns), not {values.ndim}: reshape it.")
    if values.dtype.kind not in "biufOUSM":
        raise UserError(f"a table of {values.dtype} cannot be read: give numbers or text.")
    names = list(names or numbered(values.shape[1]))
    columns = [_array(np.asarray(values[:, number])) for number in range(values.shape[1])]
    return Sheet(arrow.table(columns, names))


def _array(values: np.ndarray) -> arrow.Array:
    if values.dtype.kind == "S":
        values = values.astype(str)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    try:
        return arrow.array(values, from_pandas=True)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError):
        # numbers and words in one column
        return arrow.array([None if v is None or v != v else str(v) for v in values.tolist()], arrow.string())


def _npz(path: Path, split: str | None) -> Sheet:
    with open_archive(path) as file:
        arrays = {name.lower(): name for name in file.files}
        pairs = [(f"x_{word}", f"y_{word}") for word in split_order(split)]
        if split is None or not any(x in arrays for x, _ in pairs):
            pairs += [("x", "y"), ("data", "target"), ("features", "labels")]
        for x, y in pairs:
            if x in arrays:
                named = next((arrays[n] for n in ("feature_names", "columns", "names") if n in arrays), None)
                sheet = from_array(file[arrays[x]], None if named is None else file[named].tolist())
                if y in arrays:
                    sheet.table = sheet.table.append_column("target", _array(file[arrays[y]].reshape(-1)))
                    sheet.label = "target"
                return sheet
        if len(file.files) == 1:
            return from_array(file[file.files[0]])
        raise UserError(f"{path} holds {', '.join(file.files)}: name the table x (and its labels y).")


def _delimited(path: Path) -> Sheet:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as lines:
        start = lines.read(SNIFFED)
    if not start.strip():
        raise UserError(f"{path} is empty: give a table with a row or more.")
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else _delimiter(start)
    first = [row for row in csv.reader(io.StringIO(start), delimiter=delimiter, skipinitialspace=True) if row]
    # the last row may have been cut in two
    first = first[:-1] if len(start) == SNIFFED and len(first) > 1 else first
    header = _has_header(first)
    names = [name.strip() for name in first[0]] if header else numbered(len(first[0]))
    attributes = None if header else _attributes(path.parent, len(names))
    problems: list[BadSample] = []

    def damaged(row: Any) -> str:
        line = f"line {row.number}" if row.number is not None else "a line"
        reason = f"{row.actual_columns} cells, not {row.expected_columns}"
        problems.append(BadSample(f"{path.name}:{line}", reason))
        return "skip"

    names = _distinct(attributes or names)
    table = arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(
            column_names=names, skip_rows=int(header), use_threads=False, encoding="utf-8"
        ),
        parse_options=arrow_csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=damaged
        ),
        convert_options=arrow_csv.ConvertOptions(
            column_types={name: arrow.string() for name in names}, strings_can_be_null=False
        ),
    )
    sheet = Sheet(table, problems, names[-1] if attributes else None)
    if attributes:
        _strip_full_stops(sheet)
    return sheet


def _delimiter(text: str) -> str:
    """Of comma, semicolon, tab and bar the one that cuts the first lines into most cells, evenly."""
    lines = text.splitlines()[:20]
    best, most = ",", 1
    for delimiter in (",", ";", "\t", "|"):
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        if len(widths) > 1:
            widths = widths[:-1]
        width = max(set(widths), key=widths.count)
        if width > most and widths.count(width) > len(widths) / 2:
            best, most = delimiter, width
    return best


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: it has words where the others have numbers."""
    first, body = rows[0], [row for row in rows[1:200] if len(row) == len(rows[0])]
    columns = [[row[number].strip() for row in body] for number in range(len(first))]
    votes = 0
    for head, cells in zip(first, columns, strict=True):
        if cells and sum(bool(NUMERIC.match(cell)) for cell in cells) > len(cells) / 2:
            votes += -1 if NUMERIC.match(head.strip()) else 1
    if votes:
        return votes > 0
    return len(set(first)) == len(first) and not any(
        head.strip() in cells for head, cells in zip(first, columns, strict=True)
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that occur twice get a number."""
    met: dict[str, int] = {}
    found = []
    for name in names:
        met[name] = met.get(name, 0) + 1
        found.append(name if met[name] == 1 else f"{name}_{met[name]}")
    return found


def _attributes(folder: Path, columns: int) -> list[str] | None:
    """Names from the one .names file of the UCI repository beside a file without a header, class last."""
    files = sorted(folder.glob("*.names"))
    if len(files) != 1:
        return None
    lines = [line.partition("|")[0].strip() for line in files[0].read_text(errors="replace").splitlines()]
    names = [line.partition(":")[0].strip() for line in lines if re.match(r"[^:]+:\s*\S", line)]
    return [*names, "class"] if len(names) == columns - 1 else None


def _strip_full_stops(sheet: Sheet) -> None:
    """UCI's test files end their rows, and so their classes, with a full stop."""
    name = sheet.label
    assert name is not None
    labels = compute.utf8_rtrim(compute.utf8_trim_whitespace(sheet.table[name]), ".")
    sheet.table = sheet.table.set_column(sheet.table.column_names.index(name), name, labels)


def _arff(path: Path) -> Sheet:
    """An ARFF file, dense or sparse, as OpenML and Weka write it."""
    names: list[str] = []
    kinds: dict[str, str] = {}
    rows, problems = [], []
    with open(path, encoding="utf-8", errors="replace") as lines:
        numbered_lines = enumerate(lines, 1)
        for _, line in numbered_lines:
            words = _arff_words(line)
            if words and words[0].lower() == "@data":
                break
            if len(words) > 1 and words[0].lower() == "@attribute":
                name, kind = words[1], line.strip()
                names.append(name)
                kinds[name] = _arff_kind(kind[kind.index(name) + len(name) :])
        for number, cells in _arff_rows(numbered_lines, len(names)):
            if len(cells) == len(names):
                rows.append(cells)
            else:
                reason = f"{len(cells)} cells, not {len(names)}"
                problems.append(BadSample(f"{path.name}:line {number}", reason))
    if not names or not rows:
        raise UserError(f"{path} has no @attribute or no @data: give a whole ARFF file.")
    columns = [arrow.array(column, arrow.string()) for column in zip(*rows, strict=True)]
    stated = {name: kind for name, kind in kinds.items() if kind}
    return Sheet(arrow.table(columns, _distinct(names)), problems, kinds=stated)


def _arff_words(line: str) -> list[str]:
    """The first three words of a declaration; a name may be quoted."""
    found = re.findall(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|(\S+)", line.strip())
    words = [single or double or plain for single, double, plain in found]
    return [] if not words or words[0].startswith("%") else words[:3]


def _arff_kind(declared: str) -> str:
    word = declared.strip("'\" \t").lower()
    if word.startswith("{"):
        return "categorical"
    return "numeric" if word.split()[:1] and word.split()[0] in ("numeric", "real") else ""


def _arff_rows(lines: Any, width: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        line = line.strip()
        if not line or line.startswith("%"):
            continue
        quote = '"' if line.count('"') > line.count("'") else "'"
        sparse = line.startswith("{")
        [cells] = csv.reader([line.strip("{}")], quotechar=quote, escapechar="\\", skipinitialspace=True)
        if not sparse:
            yield number, [cell.strip() for cell in cells]
            continue
        full = ["0"] * width
        for cell in cells:
            place, _, value = cell.strip().partition(" ")
            if place.isdecimal() and int(place) < width:
                full[int(place)] = value.strip(f"{quote} ")
            elif place:
                full = []  # it names a column that is not there
                break
        yield number, full
