"""The sounds of one source: how they are cut into samples at one rate, and what of them is read."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.audio_files import Header, resampled
from anyjepa.domains.audio_stores import ArraySounds, EncodedSounds, Sounds
from anyjepa.domains.fingerprints import digest_of

__all__ = ["AudioSamples", "Reading"]

RESIDENT_BYTES = 512 * 2**20
MARGIN = 64  # samples on either side of a stretch that is resampled, which its ends spoil
LONGEST = 600.0  # seconds of a sample at most, whatever is asked


@dataclass(frozen=True)
class Reading:
    """How sounds are read.

    rate: samples a second that all are brought to; 0 for the commonest. crop: seconds of what a step trains
    on; 0 for whole samples. clip_seconds: a longer recording counts as several samples of at least this
    length. shortest: seconds that one must last. array_rate: of arrays that do not say theirs; 0 for `rate`.
    front_end: all that was asked, of which what else reads it takes its part.
    """

    rate: float = 0.0
    crop: float = 0.0
    clip_seconds: float = 60.0
    shortest: float = 0.0
    array_rate: float = 0.0
    front_end: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Reading:
        """From what a recipe asks, where facts of other names may lie among it."""
        names = ("rate", "crop", "clip_seconds", "shortest", "array_rate")
        known = {name: float(asked[name]) for name in names if asked.get(name) is not None}
        return cls(**known, front_end=dict(asked))


class AudioSamples:
    """Sounds at one rate, one channel each; satisfies the Samples protocol.

    A sample is (time,) float32 in -1 to 1. labels, groups: one for each sound of the store. kind: what they
    are in the description. Raises UserError where none can be read.

    Attributes: ``array`` is (n, time) where all are in memory and of one length, else None. ``pieces`` are
    (sound, first and last but one of its samples) of each sample. ``rate``: samples a second. ``stated``:
    what a pack of them says.
    """

    def __init__(
        self,
        source: str,
        store: Sounds,
        kind: str,
        reading: Reading,
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        groups: np.ndarray | None = None,
        problems: Sequence[BadSample] = (),
        resident_bytes: int | None = None,
    ) -> None:
        self.source, self.store, self.reading, self.classes = source, store, reading, classes
        self.asked = dict(reading.front_end)
        self.problems = list(problems)
        self.array: np.ndarray | None = None
        self.sounds: list[np.ndarray] | None = None
        headers = self._headers()
        self.rate = reading.rate or _commonest(headers)
        self.stated = {"rate": self.rate}
        self._rates = {index: header.rate for index, header in headers.items()}
        self.pieces = self._cut(headers)
        if sum(self.seconds(index) for index in range(len(self.pieces))) * self.rate * 4 <= (
            RESIDENT_BYTES if resident_bytes is None else resident_bytes
        ):
            self._hold()
        rows = np.array([sound for sound, _, _ in self.pieces])
        self.labels = None if labels is None else labels[rows]
        own = np.array([store.identity(index) for index in range(len(store))])
        several = len(set(rows.tolist())) < len(rows)
        self.groups: np.ndarray | None = None
        if groups is not None:
            self.groups = np.where(groups == "", own, groups)[rows]
        elif several:
            self.groups = own[rows]
        cut = f", cut into {len(self.pieces):,} samples" if several else ""
        self.description = f"{len(set(rows.tolist())):,} {kind}{cut}, at {self.rate:g} Hz"

    def __len__(self) -> int:
        return len(self.pieces)

    def seconds(self, index: int) -> float:
        """Length of a sample."""
        sound, start, stop = self.pieces[index]
        return (stop - start) / self._rates[sound]

    def read(self, index: int | np.integer) -> np.ndarray:
        """(time,) float32 of a whole sample. Raises BadSample where it is damaged."""
        return self._held(int(index)) if self.sounds is not None else self._decoded(int(index))

    def read_part(self, index: int | np.integer, uniforms: np.ndarray) -> np.ndarray:
        """A crop at a random time, by the first of the sample's uniforms; a shorter sample whole."""
        size = round(self.reading.crop * self.rate)
        sound, start, stop = self.pieces[int(index)]
        stored = self._rates[sound]
        room = (stop - start) - int(np.ceil(size * stored / self.rate))
        if not size or room <= 0:
            return self.read(index)
        if self.sounds is not None:
            whole = self._held(int(index))
            begin = int(uniforms[0] * (len(whole) - size + 1))
            return whole[begin : begin + size]
        begin = start + int(uniforms[0] * (room + 1))
        margin = int(np.ceil(MARGIN * max(1.0, stored / self.rate)))
        first = max(start, begin - margin)
        last = min(stop, begin + int(np.ceil(size * stored / self.rate)) + margin)
        made = resampled(self.store.stretch(sound, first, last), stored, self.rate)
        ahead = min(round((begin - first) * self.rate / stored), max(0, len(made) - size))
        return self._checked(made[ahead : ahead + size], int(index))

    def identity(self, index: int | np.integer) -> str:
        """Relative path, key or row number, and the stretch where a recording counts as several."""
        sound, start, stop = self.pieces[int(index)]
        name = self.store.identity(sound)
        if sound not in self._several:
            return name
        return f"{name}#t={start / self._rates[sound]:.2f},{stop / self._rates[sound]:.2f}"

    def packed(self, index: int) -> tuple[str, bytes]:
        """Extension and bytes of one sample: the file as it lies where it is one. Raises BadSample."""
        sound = self.pieces[index][0]
        whole = self.read(index)
        if sound not in self._several and isinstance(self.store, EncodedSounds):
            return self.store.suffix(sound), self.store.content(sound)
        file = io.BytesIO()
        np.save(file, whole, allow_pickle=False)
        return "npy", file.getvalue()

    def fingerprint(self) -> str:
        """Digest of all names and of the sizes of at most 4,096 sounds; of an array, of 64 of its rows."""
        names = (self.store.identity(index) for index in range(len(self.store)))
        values = self.store.values if isinstance(self.store, ArraySounds) else None
        return digest_of(str(len(self.store)), names, len(self.store), self.store.size, values)

    def _held(self, index: int) -> np.ndarray:
        assert self.sounds is not None
        return self.sounds[index]

    def _decoded(self, index: int) -> np.ndarray:
        sound, start, stop = self.pieces[index]
        values = resampled(self.store.stretch(sound, start, stop), self._rates[sound], self.rate)
        return self._checked(values, index)

    def _checked(self, values: np.ndarray, index: int) -> np.ndarray:
        if not len(values):
            raise BadSample(self.identity(index), "holds no sound")
        if len(self.pieces) and self.pieces[index][0] not in self._several and np.ptp(values) == 0:
            raise BadSample(self.identity(index), "is silent throughout")
        return values

    def _headers(self) -> dict[int, Header]:
        """Of the sounds that open; the others become problems."""

        def attempt(index: int) -> Header | BadSample:
            try:
                return self.store.header(index)
            except BadSample as problem:
                return problem

        with ThreadPoolExecutor(max_workers=8) as pool:
            found = dict(enumerate(pool.map(attempt, range(len(self.store)))))
        self.problems += [problem for problem in found.values() if isinstance(problem, BadSample)]
        headers = {index: header for index, header in found.items() if isinstance(header, Header)}
        if not headers:
            first = f", for instance {self.problems[0]}" if self.problems else ""
            raise UserError(f"{self.source} holds no usable sound{first}: give sounds that open.")
        return headers

    def _cut(self, headers: Mapping[int, Header]) -> list[tuple[int, int, int]]:
        """Every sound, or equal parts of it where it is long; those that are too short become problems."""
        pieces, self._several = [], set()
        least = min(max(self.reading.clip_seconds, self.reading.crop), LONGEST) or LONGEST
        for index, header in headers.items():
            if header.seconds < self.reading.shortest:
                reason = f"lasts {header.seconds:.3g} s, less than {self.reading.shortest:.3g} s (a frame)"
                self.problems.append(BadSample(self.store.identity(index), reason))
                continue
            parts = max(1, int(header.seconds // least))
            edges = np.linspace(0, header.samples, parts + 1).astype(int).tolist()
            pieces += [(index, edges[part], edges[part + 1]) for part in range(parts)]
            if parts > 1:
                self._several.add(index)
        if not pieces:
            raise UserError(f"every sound of {self.source} is too short, for instance {self.problems[-1]}.")
        return pieces

    def _hold(self) -> None:
        """Decode everything now; what is damaged is left out."""

        def attempt(index: int) -> np.ndarray | BadSample:
            try:
                return self._decoded(index)
            except BadSample as problem:
                return problem

        with ThreadPoolExecutor(max_workers=4) as pool:
            found = list(pool.map(attempt, range(len(self.pieces))))
        self.problems += [problem for problem in found if isinstance(problem, BadSample)]
        kept = [index for index, values in enumerate(found) if not isinstance(values, BadSample)]
        if not kept:
            raise UserError(
                f"{self.source} holds no usable sound, for instance {self.problems[-1]}: give sounds "
                "that open."
            )
        self.pieces = [self.pieces[index] for index in kept]
        self.sounds = [values for values in found if isinstance(values, np.ndarray)]
        if len({len(values) for values in self.sounds}) == 1:
            self.array = np.stack(self.sounds)
            self.sounds = list(self.array)


def _commonest(headers: Mapping[int, Header]) -> float:
    rates, counts = np.unique([header.rate for header in headers.values()], return_counts=True)
    return float(rates[counts.argmax()])
