"""From what a person types to sounds: tells folders, files, shards, arrays, the hub and simulation apart."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest, require
from anyjepa.domains import hub
from anyjepa.domains.audio_files import SOUNDS
from anyjepa.domains.audio_samples import AudioSamples, Reading
from anyjepa.domains.audio_simulation import CLASSES, spoken_vowels
from anyjepa.domains.audio_stores import (
    ArraySounds,
    FileSounds,
    HubSounds,
    PackSounds,
    ShardSounds,
    Sounds,
)
from anyjepa.domains.image_arrays import LABEL_KEYS, array_labels
from anyjepa.domains.label_files import groups_from_file, labels_from_file
from anyjepa.domains.names import Names
from anyjepa.domains.number_files import open_archive, read_array
from anyjepa.domains.packs import open_pack
from anyjepa.domains.sources import (
    as_labels,
    existing,
    index_classes,
    list_files,
    list_folders,
    named_arrays,
    natural_split,
    only_train,
)
from anyjepa.domains.tar_shards import TarShards, find_shards, shard_labels

__all__ = ["NAMED", "open_audio"]

SOUND_KEYS = ("x", "audio", "sound", "sounds", "waveform", "waveforms", "clips", "signals", "data")
RATE_KEYS = ("rate", "sr", "sample_rate", "sampling_rate", "fs")
FEW_CHANNELS = 8
MAPPED_BYTES = 512 * 2**20
NAMED = "name:"


def open_audio(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> AudioSamples:
    """Open sounds.

    source: a folder of sound files (WAV, FLAC, OGG, Opus, MP3, AIFF, AU, CAF; the first folder level is the
    class, or a split); a sound file; ``wds:PATTERN`` (tar shards, or a pack); ``hf:NAME[:SPLIT]`` with a
    column of sounds; a .npy file (n, time) or with channels; a .npz file with x, y and rate (or x_train,
    y_train ...); ``synthetic-audio``; or such an array in memory.

    labels: a CSV, TSV or Parquet file with columns id and label, and group or speaker where known; of ``hf:``
    also the name of a column; or ``name:PATTERN``, a regular expression that is looked for in each name,
    whose part ``(?P<label>...)`` is its label and ``(?P<group>...)`` what it belongs to, such as the speaker:
    ``name:(?P<label>[0-9])_(?P<group>[a-z]+)_`` of ``7_jackson_3.wav``.
    split: train, val or test where the source is split. reading: see `Reading`.

    Raises UserError where nothing can be read, NoSplit where the split is missing. Damaged, silent and too
    short sounds are ``problems``.
    """
    asked = Reading.of(reading or {})
    if isinstance(source, np.ndarray):
        return _from_array("an array", source, "clips in an array", None, None, asked, labels)
    source = os.fspath(source)
    scheme, _, rest = source.partition(":")
    if source == "synthetic-audio":
        rate = asked.rate or 8000.0
        sounds, given, speakers = spoken_vowels(split, rate)
        store = ArraySounds(sounds, rate)
        return _assembled(
            source, store, "simulated vowels", labels, given, list(CLASSES), asked, (), speakers
        )
    if scheme == "hf":
        return _from_hub(source, rest, labels, split, asked)
    if scheme == "wds":
        return _from_shards(source, rest, labels, split, asked)
    if not source or (re.match(r"[A-Za-z][A-Za-z0-9+-]+:", source) and not os.path.exists(source)):
        raise UserError(
            f"'{source}' is not a source of sounds: give a path, hf:NAME, wds:PATTERN or synthetic-audio."
        )
    if source.startswith("synthetic") and not os.path.exists(source):
        raise UserError(f"there is no '{source}'.{nearest(source, ['synthetic-audio'])}")
    path = existing(source)
    if path.is_dir():
        return _from_folder(source, path, labels, split, asked)
    return _from_file(source, path, labels, split, asked)


def _from_file(
    source: str, path: Path, labels: str | None, split: str | None, reading: Reading
) -> AudioSamples:
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _from_numpy(source, path, labels, split, reading)
    only_train(split, source)
    if suffix not in SOUNDS:
        hint = f"type wds:{source}" if suffix == ".tar" else "give a folder of sounds, a sound, .npy or .npz"
        raise UserError(f"{source} is not a file of sounds: {hint}.")
    store = FileSounds(str(path.parent), [path.name])
    return _assembled(source, store, f"{_format([path.name])} file", labels, None, None, reading)


def _from_folder(
    source: str, root: Path, labels: str | None, split: str | None, reading: Reading
) -> AudioSamples:
    chosen = natural_split(list_folders(root), split)
    root = root / chosen if chosen else root
    names = list_files(root, SOUNDS)
    if not names:
        tar = any(name.endswith(".tar") for name in os.listdir(root))
        hint = f"it holds tar shards, so type wds:{root}" if tar else "give a folder with .wav, .flac, .mp3"
        raise UserError(f"{root} holds no sound: {hint}.")
    found, classes = index_classes([name.split("/", 1)[0] if "/" in name else None for name in names])
    kind = f"{_format(names)} files"
    if len(classes) < 2:
        return _assembled(source, FileSounds(str(root), Names(names)), kind, labels, None, None, reading)
    kind += f" in {len(classes):,} class folders"
    return _assembled(source, FileSounds(str(root), Names(names)), kind, labels, found, classes, reading)


def _format(names: Sequence[str]) -> str:
    suffixes = Counter(name.rpartition(".")[2].upper() for name in names)
    return suffixes.most_common(1)[0][0] if len(suffixes) == 1 else "sound"


def _from_shards(
    source: str, pattern: str, labels: str | None, split: str | None, reading: Reading
) -> AudioSamples:
    pack = open_pack(pattern, split, "audio")
    if pack is not None:
        count = len(pack.manifest["shards"])
        kind = f"{pack.manifest['kind']} in {count:,} shard{'s' * (count > 1)}"
        return _assembled(
            source, PackSounds(pack), kind, labels, pack.labels, pack.classes, reading, pack.problems,
            pack.groups,
        )  # fmt: skip
    shards = TarShards(find_shards(pattern, split))
    extensions = [name for name in shards.members if f".{name.rpartition('.')[2]}" in SOUNDS]
    chosen = np.full(len(shards.keys), -1)
    for number, extension in reversed(list(enumerate(extensions))):
        chosen[shards.members[extension][:, 0] >= 0] = number
    rows = np.flatnonzero(chosen >= 0)
    if not len(rows):
        reason = f", for instance {shards.problems[0]}" if shards.problems else ""
        raise UserError(f"{source} holds no sound{reason}: give shards with wav, flac, ogg or mp3 members.")
    problems = list(shards.problems)
    if len(rows) * 2 > len(chosen):  # else the others are something else: tables, texts, pictures
        problems += [
            BadSample(shards.keys[row], "has no sound among its members")
            for row in np.flatnonzero(chosen < 0)
            if not {".csv", ".tsv", ".txt", ".md"} & {f".{e}" for e in _members_of(shards, int(row))}
        ]
    found, classes = shard_labels(shards, rows)
    own = [extensions[number] for number in chosen[rows].tolist()]
    count = len(shards.paths)
    kind = f"{_format([f'.{name}' for name in own])} files in {count:,} shard{'s' * (count > 1)}"
    store = ShardSounds(shards, rows, own)
    return _assembled(source, store, kind, labels, found, classes, reading, problems)


def _members_of(shards: TarShards, row: int) -> list[str]:
    return [name for name, places in shards.members.items() if places[row, 0] >= 0]


def _from_hub(
    source: str, name: str, labels: str | None, split: str | None, reading: Reading
) -> AudioSamples:
    folder = name.partition(":")[0]
    if os.path.isdir(folder) and list_files(folder, SOUNDS):
        raise UserError(f"{folder} is a folder of sound files: type it without hf:.")
    table = hub.open_hub(name, split)
    sound_kind = require("datasets", "hub").Audio
    columns = [
        column for column, kind in table.features.items()
        if isinstance(kind, sound_kind) or (isinstance(kind, dict) and {"bytes", "path"} <= kind.keys())
    ]  # fmt: skip
    if not columns:
        raise UserError(
            f"{source} has no column of sounds, only {', '.join(table.column_names)}: give one that has."
        )
    named = labels is not None and (labels.startswith(NAMED) or os.path.exists(labels))
    found, classes = hub.hub_labels(table, None if named else labels)
    kind = "sounds in a Hugging Face data set"
    store = HubSounds(table, columns[0])
    return _assembled(source, store, kind, labels if named else None, found, classes, reading)


def _from_numpy(
    source: str, path: Path, labels: str | None, split: str | None, reading: Reading
) -> AudioSamples:
    rate, given, classes = 0.0, None, None
    try:
        if path.suffix.lower() == ".npy":
            only_train(split, source)
            # mapped first: a header that claims more than the file holds fails here, before memory is taken
            values = read_array(path, mapped=True)
            if path.stat().st_size <= MAPPED_BYTES:
                values = np.array(values)
            kind = "clips in a .npy file"
        else:
            with open_archive(path) as file:
                key, label = named_arrays(list(file.files), SOUND_KEYS, LABEL_KEYS, split, source, "sounds")
                values, kind = file[key], "clips in a .npz file"
                if label is not None:
                    given, classes = array_labels(file[label], f"{label} in {path}")
                stated = next((name for name in RATE_KEYS if name in file.files), None)
                if stated:
                    rate = float(np.asarray(file[stated]).reshape(-1)[0])
    except (ValueError, EOFError, OSError, IndexError, TypeError) as problem:
        line = (str(problem).splitlines() or ["damaged"])[0].rstrip(".")
        raise UserError(f"{path} is not a file of numbers: {line}.") from None
    if given is not None and len(given) != len(values):
        raise UserError(f"{path} holds {len(values)} clips but {len(given)} labels: make them one to one.")
    return _from_array(source, values, kind, given, classes, reading, labels, rate)


def _from_array(
    source: str,
    values: np.ndarray,
    kind: str,
    given: np.ndarray | None,
    classes: list[str] | None,
    reading: Reading,
    labels: str | None,
    rate: float = 0.0,
) -> AudioSamples:
    rate = rate or reading.array_rate or reading.rate
    if not rate:
        raise UserError(f"{source} does not say how many samples a second it has: say it with --array-rate.")
    if not (np.isfinite(rate) and rate > 0):
        raise UserError(f"{source} says it has {rate:g} samples a second: put the rate right.")
    return _assembled(
        source, ArraySounds(_arranged(values, source), rate), kind, labels, given, classes, reading
    )


def _arranged(values: np.ndarray, source: str) -> np.ndarray:
    """Any of the shapes that `open_audio` takes as (n, time) or (n, channels, time)."""
    if values.dtype == object and values.ndim == 1 and len(values):
        # clips of several lengths; one that is no row of numbers is named when it is read
        return np.array([np.asarray(clip) for clip in values] + [None], dtype=object)[:-1]
    if values.dtype.kind not in "iuf":
        raise UserError(f"{source} holds values of type {values.dtype}: give numbers.")
    if values.ndim == 1:
        values = values[None]
    if values.ndim == 3 and values.shape[2] <= FEW_CHANNELS < values.shape[1]:
        values = np.moveaxis(values, 2, 1)
    if values.ndim not in (2, 3) or not values.size or (values.ndim == 3 and values.shape[1] > FEW_CHANNELS):
        raise UserError(f"{source} has shape {values.shape}: give clips as (n, time) or (n, channels, time).")
    return values


def _from_names(pattern: str, names: Sequence[str]) -> tuple[list[str | None] | None, np.ndarray | None]:
    """Labels and groups that a regular expression finds in names; None for what it has no part for."""
    try:
        known = re.compile(pattern)
    except re.error as problem:
        raise UserError(f"--labels name:{pattern} is no regular expression ({problem}).") from None
    parts = set(known.groupindex)
    if not parts & {"label", "group"}:
        raise UserError(
            f"--labels name:{pattern} has no part (?P<label>...) or (?P<group>...): say which is which."
        )
    found = [known.search(name) for name in names]
    if not any(found):
        raise UserError(f"--labels name:{pattern} is found in no name, such as {names[0]}.")
    labels = [match["label"] if match else None for match in found] if "label" in parts else None
    groups = [(match["group"] or "") if match else "" for match in found] if "group" in parts else None
    return labels, None if groups is None else np.array(groups)


def _assembled(
    source: str,
    store: Sounds,
    kind: str,
    asked: str | None,
    labels: np.ndarray | None,
    classes: list[str] | None,
    reading: Reading,
    problems: Sequence[BadSample] = (),
    groups: np.ndarray | None = None,
) -> AudioSamples:
    if asked is not None:
        names = [store.identity(index) for index in range(len(store))]
        if asked.startswith(NAMED):
            given, parts = _from_names(asked.removeprefix(NAMED), names)
            groups = groups if parts is None else parts
            if given is not None:
                labels, classes = as_labels(given)
        else:
            labels, classes = labels_from_file(asked, names)
            found = groups_from_file(asked, names)
            groups = groups if found is None else found
    return AudioSamples(source, store, kind, reading, labels, classes, groups, problems)
