"""Frozen encoders of text: how a sentence becomes numbers, and these vectors, one a word or piece of a word.

``hashed`` needs no download and knows no language: see :class:`HashedText`. Any other name is a model of
transformers, on the hub or in a folder, and so are those of sentence-transformers.
"""

from __future__ import annotations

import functools
import json
import os
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anyjepa.core.errors import UserError, require

__all__ = [
    "BAG",
    "HASHED",
    "HashedText",
    "PretrainedText",
    "TextReader",
    "bag_of_words",
    "text_encoder",
    "text_reader",
]

HASHED = "hashed"
BUCKETS = 4096
BAG = 512  # columns of a bag of words
PIECES = 5  # runs of three letters of a word that count
FEATURES = 3 + PIECES  # numbers of a word: itself twice, with the word before, its pieces
SHARES = (0.7, 0.7, 0.6, *[0.3] * PIECES)  # of each in the word's vector
PLACES = 0.3  # share of the word's place in the sentence
TABLE_SEED = 20250309  # of the vectors: the same in every run
DAMAGE = (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError, ImportError)

TextReader = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Sentences to what the encoder reads, (n, length, ...) int64, and (n, length) bool, False where it pads."""


def words_of(text: str) -> list[str]:
    """Words in small letters, each other sign a word of its own."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def text_reader(name: str, length: int) -> TextReader:
    """What turns sentences into numbers for the encoder `name`: at most `length` words or pieces of words.

    Raises UserError where there is no such encoder.
    """
    return functools.partial(_hashed, length=length) if name == HASHED else _tokenized(name, length)


def text_encoder(name: str, width: int) -> HashedText | PretrainedText:
    """The encoder `name`; `width` is that of ``hashed``. Raises UserError where there is no such encoder."""
    return HashedText(width) if name == HASHED else PretrainedText(name)


def bag_of_words(
    ids: Int[Tensor, "n length ..."], present: Bool[Tensor, "n length"], width: int = BAG
) -> Tensor:
    """(n, width) float32: how often each word is said; words share the columns by chance."""
    first = (ids if ids.dim() == 2 else ids[..., 0]) % width
    counts = torch.zeros(len(ids), width, device=ids.device)
    return counts.scatter_add_(1, first, present.float())


class HashedText(nn.Module):
    """Words to fixed random vectors, by their hashes. Nothing of it is learned.

    The vector of a word is a sum of vectors for the word itself (from two of 4,096 rows, so that no two words
    are likely to share both), for the word with the one before it, for up to five of its runs of three
    letters, and of sines of its place. So equal words are alike, words that share letters are somewhat alike
    (``circle``, ``circles``), and the order of words is told; that ``cat`` and ``kitten`` have to do with
    each other is not: for that take a trained encoder.

    Args:
        width: of the vectors.
    """

    table: Tensor
    shares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(TABLE_SEED)
        table = torch.randn(BUCKETS + 1, width, generator=generator)
        table[0] = 0.0  # stands for nothing
        self.width = width
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("shares", torch.tensor(SHARES).view(-1, 1), persistent=False)

    def forward(
        self, ids: Int[Tensor, "n length features"], present: Bool[Tensor, "n length"]
    ) -> Float[Tensor, "n length width"]:
        """Vectors of the words; of padding the place alone."""
        found = (self.table[ids] * self.shares).sum(2)
        half = self.width // 2
        turns = torch.arange(ids.shape[1], device=ids.device)[:, None] / 100.0 ** (
            torch.arange(half, device=ids.device) / max(1, half)
        )
        places = torch.cat([turns.sin(), turns.cos(), torch.zeros_like(turns[:, : self.width % 2])], dim=1)
        return found + PLACES * places.to(found.dtype)


class PretrainedText(nn.Module):
    """The text encoder of a model of transformers, or of sentence-transformers, which are such models.

    Args:
        name: on the hub, or a folder that ``save_pretrained`` made.

    Raises:
        UserError: it cannot be opened, or transformers is not installed.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        library = require("transformers", "text")
        network = _opened(name, library.AutoModel.from_pretrained)
        if getattr(network.config, "is_encoder_decoder", False):
            network = network.get_encoder()
        self.network = getattr(network, "text_model", network).float()
        self.width = int(self.network.config.hidden_size)

    def forward(
        self, ids: Int[Tensor, "n length"], present: Bool[Tensor, "n length"]
    ) -> Float[Tensor, "n length width"]:
        """The last layer. Nothing is NaN for a text that is all padding; what is there means nothing."""
        seen = present.clone()
        seen[:, 0] |= ~present.any(1)
        return self.network(input_ids=ids, attention_mask=seen.long()).last_hidden_state


def _opened(name: str, opening: Callable[..., Any]) -> Any:
    """What transformers opens, in the folder that sentence-transformers keeps it in where it made it."""
    folder = os.path.expanduser(name)
    try:
        listed = os.path.join(folder, "modules.json")
        if os.path.isfile(listed):
            with open(listed, encoding="utf-8") as file:
                folder = os.path.join(folder, json.load(file)[0]["path"])
        return opening(folder if os.path.isdir(folder) else name)
    except DAMAGE as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(
            f"there is no text encoder '{name}' that can be opened ({reason}): give hashed, a folder, or a "
            "name of the hub while you are connected."
        ) from None


@functools.lru_cache(maxsize=4)
def _tokenizer(name: str) -> Any:
    tokenizer = _opened(name, require("transformers", "text").AutoTokenizer.from_pretrained)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _tokenized(name: str, length: int) -> TextReader:
    tokenizer = _tokenizer(name)

    def read(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        said = torch.tensor([bool(text.strip()) for text in texts])
        return found["input_ids"].long(), found["attention_mask"].bool() & said[:, None]

    return read


def _hashed(texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    ids = np.zeros((len(texts), length, FEATURES), np.int64)
    present = np.zeros((len(texts), length), bool)
    for row, text in enumerate(texts):
        words = words_of(text)[:length]
        for place, (before, word) in enumerate(zip(["", *words], words, strict=False)):
            ids[row, place] = _features(before, word)
        present[row, : len(words)] = True
    return torch.from_numpy(ids), torch.from_numpy(present)


@functools.lru_cache(maxsize=65_536)
def _features(before: str, word: str) -> tuple[int, ...]:
    edged = f"<{word}>"
    pieces = [edged[start : start + 3] for start in range(len(edged) - 2)][:PIECES]
    named = [f"word {word}", f"again {word}", f"pair {before} {word}", *(f"piece {one}" for one in pieces)]
    numbers = [zlib.crc32(one.encode("utf-8", "surrogateescape")) % BUCKETS + 1 for one in named]
    return (*numbers, *[0] * (FEATURES - len(numbers)))
