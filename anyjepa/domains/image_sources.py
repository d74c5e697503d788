"""From what a person types to images: tells folders, arrays, IDX files, shards and the hub apart."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest, require
from anyjepa.domains import hub, image_samples
from anyjepa.domains.image_arrays import (
    ArrayStore,
    ImageArray,
    arranged,
    is_idx,
    read_digits,
    read_idx,
    read_npy,
    read_npz,
)
from anyjepa.domains.image_files import SUFFIXES
from anyjepa.domains.image_samples import FileStore, HubStore, ImageSamples, PackStore, ShardStore, Store
from anyjepa.domains.image_streams import StreamedImages, open_stream
from anyjepa.domains.label_files import labels_from_file
from anyjepa.domains.names import Names
from anyjepa.domains.packs import Pack, open_pack
from anyjepa.domains.sources import (
    existing,
    index_classes,
    list_files,
    list_folders,
    list_names,
    natural_split,
)
from anyjepa.domains.tar_shards import TarShards, find_shards, shard_labels

__all__ = ["open_images"]

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WebP", ".tif": "TIFF", ".tiff": "TIFF", ".npy": ".npy"}


def open_images(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    *,
    domain: str = "image",
    suffixes: frozenset[str] = SUFFIXES,
) -> ImageSamples:
    """Open images.

    source: a folder of PNG, JPEG, WebP, BMP, GIF, TIFF or .npy files (the first folder level is the class);
    an image file; a .npy file (n, h, w[, c]); a .npz file with x and y (or x_train, y_train ...); an IDX file
    or the folder of them that MNIST is; ``hf:NAME[:SPLIT]``, or ``hf-stream:NAME[:SPLIT]``, which is read
    where it lies; ``wds:PATTERN``; ``digits``; or an array (n, h, w) or (n, h, w, c) in memory. Channels may
    also come first.

    labels: a CSV, TSV or Parquet file with columns id and label, which goes before the labels of the source;
    of ``hf:`` also the name of a column. split: train, val or test where the source is split; None takes
    train, test and val stand in for each other. ``digits`` is split 80 : 20 into train (also None) and test,
    always alike; ``all`` is all of it. domain: of packs. suffixes: that files of images have.

    Raises UserError where nothing can be read, NoSplit where the split is missing. Single damaged images are
    listed in ``problems`` or raise BadSample when they are read.
    """
    if isinstance(source, np.ndarray):
        array = ImageArray(ArrayStore(arranged(source, "the array")), None, None, "images in an array")
        return _from_array("an array", array, labels)
    source = os.fspath(source)
    scheme, _, rest = source.partition(":")
    if scheme == "hf":
        return _from_hub(source, rest, labels, split)
    if scheme == "hf-stream":
        return _from_stream(source, rest, labels, split)
    if scheme == "wds":
        return _from_shards(source, rest, labels, split, domain, suffixes)
    if source == "digits":
        return _from_array(source, read_digits(split), labels)
    if re.match(r"[A-Za-z][A-Za-z0-9+-]+:", source) and not os.path.exists(source):
        raise UserError(
            f"{scheme}: is not a kind of source: give a path, hf:NAME, wds:PATTERN or digits."
            + nearest(scheme, ["hf", "hf-stream", "wds"])
        )
    if not source:
        raise UserError("the source is empty: give a path, hf:NAME, wds:PATTERN or digits")
    path = existing(source)
    return (
        _from_folder(source, path, labels, split, suffixes)
        if path.is_dir()
        else _from_file(source, path, labels, split, suffixes)
    )


def _from_file(
    source: str, path: Path, labels: str | None, split: str | None, suffixes: frozenset[str]
) -> ImageSamples:
    suffix = path.suffix.lower()
    if is_idx(path.name):
        return _from_array(source, read_idx(path, split), labels)
    if suffix == ".npy":
        return _from_array(source, read_npy(path, split, image_samples.RESIDENT_BYTES), labels)
    if suffix == ".npz":
        return _from_array(source, read_npz(path, split), labels)
    if suffix in suffixes:
        return _assembled(
            source, FileStore(str(path.parent), [path.name]), f"{_format([path.name])} image", labels
        )
    hint = {".tar": f"type wds:{source}", ".parquet": f"type hf:{path.parent}"}.get(suffix)
    raise UserError(
        f"{source} is not a file of images: {hint or 'give a folder of images, .npy, .npz or IDX'}"
    )


def _from_array(source: str, array: ImageArray, labels: str | None) -> ImageSamples:
    return _assembled(source, array.store, array.kind, labels, array.labels, array.classes)


def _from_folder(
    source: str, root: Path, labels: str | None, split: str | None, suffixes: frozenset[str]
) -> ImageSamples:
    folders = list_folders(root)
    if not folders and any(map(is_idx, list_names(root))):
        return _from_array(source, read_idx(root, split), labels)
    chosen = natural_split(folders, split)
    root = root / chosen if chosen else root
    names = list_files(root, suffixes)
    if not names:
        raise UserError(f"{root} holds no image: {_advice(root)}")
    folder_labels, classes = index_classes([name.split("/", 1)[0] if "/" in name else None for name in names])
    kind = f"{_format(names)} images"
    if len(classes) < 2:
        return _assembled(source, FileStore(str(root), Names(names)), kind, labels)
    kind += f" in {len(classes):,} class folders"
    return _assembled(source, FileStore(str(root), Names(names)), kind, labels, folder_labels, classes)


def _advice(folder: Path) -> str:
    names = os.listdir(folder)
    if any(name.endswith(".tar") for name in names):
        return f"it holds tar shards, so type wds:{folder}"
    if any(name.endswith(".parquet") for name in names):
        return f"it holds Parquet files, so type hf:{folder}"
    return "give a folder with PNG, JPEG, WebP, BMP, GIF, TIFF or .npy files"


def _from_shards(
    source: str,
    pattern: str,
    labels: str | None,
    split: str | None,
    domain: str,
    suffixes: frozenset[str],
) -> ImageSamples:
    pack = open_pack(pattern, split, domain)
    if pack is not None:
        return _from_pack(source, pack, labels)
    shards = TarShards(find_shards(pattern, split))
    chosen = np.full(len(shards.keys), -1)
    extensions = [name for name in shards.members if f".{name.rpartition('.')[2]}" in suffixes]
    for number, extension in reversed(list(enumerate(extensions))):
        chosen[shards.members[extension][:, 0] >= 0] = number
    rows = np.flatnonzero(chosen >= 0)
    problems = shards.problems + [
        BadSample(shards.keys[row], "has no image among its members") for row in np.flatnonzero(chosen < 0)
    ]
    if not len(rows):
        reason = f", for instance {problems[0]}" if problems else ""
        raise UserError(
            f"{source} holds no image{reason}: give whole shards with jpg, png, webp, tiff or npy members"
        )
    found, classes = shard_labels(shards, rows)
    count = len(shards.paths)
    found_suffixes = [f".{extensions[number]}" for number in np.unique(chosen[rows]).tolist()]
    kind = f"{_format(found_suffixes)} images in {count:,} shard{'s' * (count > 1)}"
    return _assembled(
        source, ShardStore(shards, rows, extensions, chosen[rows]), kind, labels, found, classes, problems
    )


def _from_pack(source: str, pack: Pack, labels: str | None) -> ImageSamples:
    count = len(pack.manifest["shards"])
    kind = f"{pack.manifest['kind']}, in {count:,} shard{'s' * (count > 1)}"
    return _assembled(
        source, PackStore(pack), kind, labels, pack.labels, pack.classes, pack.problems, pack.groups
    )


def _from_hub(source: str, name: str, labels: str | None, split: str | None) -> ImageSamples:
    table = hub.open_hub(name, split)
    image_kind = require("datasets", "hub").Image
    columns = [column for column, kind in table.features.items() if isinstance(kind, image_kind)]
    if not columns:
        raise UserError(
            f"{source} has no image column, only {', '.join(table.column_names)}: give one that has"
        )
    column = labels if labels is not None and not os.path.exists(labels) else None
    found, classes = hub.hub_labels(table, column)
    kind = "images in a Hugging Face data set"
    return _assembled(source, HubStore(table, columns[0]), kind, None if column else labels, found, classes)


def _from_stream(source: str, name: str, labels: str | None, split: str | None) -> ImageSamples:
    column = labels if labels is not None and not os.path.exists(labels) else None
    samples = StreamedImages(source, open_stream(name, split, column), image_samples.RESIDENT_BYTES)
    if labels is not None and column is None:
        names = [samples.identity(index) for index in range(len(samples))]
        samples.labels, samples.classes = labels_from_file(labels, names)
    return samples


def _format(names: Sequence[str]) -> str:
    """The commonest format of some files in words."""
    suffixes = Counter(f".{name.rpartition('.')[2].lower()}" for name in names)
    suffix = suffixes.most_common(1)[0][0]
    return FORMATS.get(suffix, suffix[1:].upper()) if len(suffixes) == 1 else "assorted"


def _assembled(
    source: str,
    store: Store,
    kind: str,
    label_file: str | None,
    labels: np.ndarray | None = None,
    classes: list[str] | None = None,
    problems: Sequence[BadSample] = (),
    groups: np.ndarray | None = None,
) -> ImageSamples:
    if label_file is not None and len(store):
        labels, classes = labels_from_file(label_file, [store.identity(index) for index in range(len(store))])
    return ImageSamples(source, store, kind, labels, classes, problems, image_samples.RESIDENT_BYTES, groups)
