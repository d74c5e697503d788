"""Errors for the person: one sentence that says what was wrong and what to do. Imports no torch."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UserError(Exception):
    """A mistake the user can mend: the message is one sentence with the fix, shown without a traceback."""


class BadSample(Exception):
    """One damaged record: counted, named in ``skipped.jsonl`` and left out, never a reason to crash.

    Args:
        identity: the sample's name in its source (relative path, shard key or row number).
        reason: what is wrong with it, in a few words.
    """

    def __init__(self, identity: str, reason: str) -> None:
        super().__init__(identity, reason)
        self.identity = identity
        self.reason = reason

    def __str__(self) -> str:
        return visible(f"{self.identity}: {self.reason}")


def visible(text: str) -> str:
    """Text from data as it can be shown on one line: control characters and broken ones as escapes.

    A file's name may hold line breaks and what moves a terminal's cursor or colours it.
    """
    return "".join(
        character if character.isprintable() or character == " " else ascii(character)[1:-1]
        for character in text
    )


def nearest(word: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the choice most like `word`, or an empty string when none is alike."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library, or say which extra installs it.

    Raises:
        UserError: the library is missing or broken. A binary that does not match this torch raises
            RuntimeError or OSError rather than ImportError, so every exception counts.
    """
    try:
        return importlib.import_module(module)
    except Exception as problem:
        raise UserError(
            f"anyjepa[{extra}] is not installed: pip install 'anyjepa[{extra}]' "
            f"({type(problem).__name__}: {problem})"
        ) from problem
