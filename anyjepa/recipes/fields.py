"""A recipe's fields as a command line sees them: type, meaning, value."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anyjepa.core.errors import UserError, nearest


@dataclass(frozen=True)
class Field:
    """One field of a dataclass: its flag's name, type, default and the comment beside it."""

    name: str
    type: Any
    default: Any
    meaning: str

    @property
    def flag(self) -> str:
        """``batch_size`` is ``--batch-size``."""
        return "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[Any, ...]:
        """Allowed values of a Literal, else none."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()

    @property
    def shape(self) -> str:
        """How the value is written: ``N``, ``N N``, ``true|false``, a choice."""
        if self.choices:
            return "|".join(map(str, self.choices))
        if typing.get_origin(self.type) is tuple:
            return " ".join("..." if part is ... else _letter(part) for part in typing.get_args(self.type))
        return _letter(_plain(self.type))

    def parse(self, words: Sequence[str]) -> Any:
        """The value that the words after the flag mean.

        Raises:
            UserError: they are not of the field's type.
        """
        parts = typing.get_args(self.type) if typing.get_origin(self.type) is tuple else (_plain(self.type),)
        if parts[-1] is ...:  # as many as are given
            parts = parts[:1] * max(1, len(words))
        if len(words) == 1 and len(parts) > 1:
            words = [words[0]] * len(parts)
        if not words and parts == (bool,):
            return True
        if len(words) != len(parts):
            raise UserError(f"{self.flag} takes {self.shape}, not '{' '.join(words)}'.")
        if self.choices:
            if words[0] not in self.choices:
                known = ", ".join(map(str, self.choices))
                raise UserError(
                    f"{self.flag} is one of {known}, not '{words[0]}'.{nearest(words[0], self.choices)}"
                )
            return words[0]
        values = tuple(self._one(part, word) for part, word in zip(parts, words, strict=True))
        return values if typing.get_origin(self.type) is tuple else values[0]

    def _one(self, kind: type, word: str) -> Any:
        if kind is bool:
            if word.lower() not in ("true", "false"):
                raise UserError(f"{self.flag} is true or false, not '{word}'.")
            return word.lower() == "true"
        try:
            return kind(word)
        except ValueError as problem:
            raise UserError(f"{self.flag} takes {self.shape}, not '{word}'.") from problem


def _plain(kind: Any) -> Any:
    """The type itself of `int | None`."""
    options = [part for part in typing.get_args(kind) if part is not type(None)]
    return options[0] if len(options) == 1 and typing.get_origin(kind) is not tuple else kind


def _letter(kind: Any) -> str:
    return {int: "N", float: "X", bool: "true|false"}.get(kind, "TEXT")


def fields_of(kind: type) -> list[Field]:
    """Every field of a dataclass with the comment on its own line in the source."""
    hints, meanings = typing.get_type_hints(kind), {}
    for part in reversed(kind.__mro__[:-1]):
        if dataclasses.is_dataclass(part):
            meanings.update(_comments(part))
    return [
        Field(field.name, hints[field.name], field.default, meanings.get(field.name, ""))
        for field in dataclasses.fields(kind)
    ]


def parse_words(kind: type, words: Sequence[str]) -> dict[str, Any]:
    """Values of fields written as ``--flag value ...``, for scripts that take a recipe's fields.

    Raises:
        UserError: a word that belongs to no field, or a value of another type.
    """
    known = {field.flag: field for field in fields_of(kind)}
    given: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            if word not in known:
                raise UserError(f"there is no field {word}.{nearest(word, known)}")
            given.pop(word, None)  # of a field given twice the last holds, as on the command line
            given[word] = []
        elif not given:
            raise UserError(f"'{word}' belongs to no field: write --FIELD VALUE.")
        else:
            given[next(reversed(given))].append(word)
    return {known[flag].name: known[flag].parse(values) for flag, values in given.items()}


def _comments(kind: type) -> dict[str, str]:
    source = inspect.getsource(kind)
    lines = source.splitlines()
    body = ast.parse(inspect.cleandoc(source)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement in body.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            comment = re.search(r"#\s*(.*)$", lines[(statement.end_lineno or statement.lineno) - 1])
            found[statement.target.id] = comment.group(1) if comment else ""
    return found
