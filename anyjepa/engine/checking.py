"""Are the samples whole? Reads all of a small set, a bounded choice of a large one."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from anyjepa.core.errors import BadSample
from anyjepa.domains import Samples

MOST = 100_000
SECONDS = 4.0


@dataclass(frozen=True)
class Checked:
    """What reading samples showed.

    Args:
        checked: samples that were read, with those already found damaged when the source was opened.
        total: samples there are, damaged ones included.
        problems: damaged samples with the reason.
        duplicates: (name, the earlier sample's name) of samples whose values are the same.
        shapes: how many samples have each shape.
        constant: names of samples all of whose values are equal.
    """

    checked: int
    total: int
    problems: list[BadSample]
    duplicates: list[tuple[str, str]]
    shapes: Counter[tuple[int, ...]]
    constant: list[str]

    @property
    def complete(self) -> bool:
        """Every sample was read."""
        return self.checked == self.total


def check(samples: Samples, seed: int = 0, most: int = MOST, seconds: float = SECONDS) -> Checked:
    """Read the first and the last sample, then others in an order drawn with `seed`, as time allows.

    Args:
        samples: of one source.
        seed: of the order.
        most: read no more than this many.
        seconds: begin no further sample after so long.
    """
    count = len(samples)
    order = np.random.default_rng(seed).permutation(count)
    ends = np.array([0, count - 1][: min(count, 2)], dtype=np.int64)
    order = np.concatenate([ends, order[~np.isin(order, ends)]])[:most].tolist()
    damaged = {problem.identity: problem for problem in samples.problems}
    before = len(damaged)
    seen: dict[bytes, str] = {}
    duplicates, constant = [], []
    shapes: Counter[tuple[int, ...]] = Counter()
    begun, checked = time.monotonic(), 0
    for index in order:
        if checked >= 2 and time.monotonic() - begun > seconds:
            break
        checked += 1
        try:
            sample = np.asarray(samples.read(index))
        except BadSample as problem:
            damaged[problem.identity] = problem
            continue
        shapes[sample.shape] += 1
        name = samples.identity(index)
        digest = hashlib.blake2b(np.ascontiguousarray(sample).view(np.uint8).data, digest_size=16).digest()
        first = seen.setdefault(digest, name)
        if first != name:
            duplicates.append((name, first))
        if sample.size > 1 and (sample == sample.flat[0]).all():
            constant.append(name)
    # what is held in memory was read when the source was opened
    if checked < count and getattr(samples, "array", None) is not None:
        checked = count
    return Checked(checked + before, count + before, list(damaged.values()), duplicates, shapes, constant)
