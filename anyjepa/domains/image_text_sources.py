"""From what a person types to images with captions: tables, folders, tars, text files, shards, hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest, require
from anyjepa.domains import hub, image_samples
from anyjepa.domains.image_arrays import ArrayStore
from anyjepa.domains.image_files import SUFFIXES
from anyjepa.domains.image_samples import FileStore, HubStore, ImageSamples, ShardStore, Store
from anyjepa.domains.image_sources import open_images
from anyjepa.domains.image_text_samples import ImageTextSamples
from anyjepa.domains.image_text_simulation import FEELINGS, PALETTES, scenes
from anyjepa.domains.image_text_tables import (
    CAPTIONS,
    TABLES,
    Described,
    captions_in,
    chosen_column,
    read_table,
    split_of_file,
)
from anyjepa.domains.label_files import labels_from_file
from anyjepa.domains.names import Names
from anyjepa.domains.sources import (
    NoSplit,
    as_labels,
    existing,
    list_files,
    list_folders,
    list_names,
    natural_split,
    split_order,
)
from anyjepa.domains.tar_shards import TarShards

__all__ = ["SYNTHETIC", "open_image_text"]

SYNTHETIC = "synthetic-captions"
TEXTS = ("txt", "caption", "captions", "text", "cap")  # extensions of captions in shards
LABEL_KEYS = ("label", "sentiment", "category", "class")


def open_image_text(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> ImageTextSamples:
    """Open images with captions.

    source: a CSV, TSV, JSON lines, JSON (COCO's captions) or Parquet file that names images, which lie below
    its folder, as files or in a tar; a folder with one such table, or one for each split, or with a file
    NAME.txt beside each image NAME (a caption a line); ``wds:`` shards with .txt or .json members; ``hf:``
    with columns of images and texts; ``synthetic-captions``; an array of records with the fields ``image``
    and ``captions``. An array or file of images alone is read as samples without text.

    labels: a column of the table, or a file with columns id and label; of simulated scenes ``palette``, which
    is the default, or ``feeling``. split: as of the source: a column
    ``split``, folders or files called after it. reading: ``caption_column``, which holds the captions.

    Raises UserError where nothing can be read, NoSplit where the split is missing. Single damaged images,
    and images without caption, are listed in ``problems``.
    """
    column = str((reading or {}).get("caption_column") or "")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    source = os.fspath(source)
    if source == SYNTHETIC:
        return _simulated(labels, split)
    if source.startswith("synthetic") and not os.path.exists(source):
        raise UserError(f"there is no '{source}'.{nearest(source, [SYNTHETIC])}")
    if source.startswith("wds:"):
        return _from_shards(source, labels, split, column)
    if source.startswith("hf:"):
        return _from_hub(source, labels, split, column)
    if re.match(r"[A-Za-z][A-Za-z0-9+-]+:", source) and not os.path.exists(source):
        raise UserError(
            f"{source.partition(':')[0]}: is not a kind of source of captions: give a table, a folder, "
            "hf:NAME or wds:PATTERN."
        )
    path = existing(source) if source else Path()
    if not source:
        raise UserError(
            "the source is empty: give a table, a folder, hf:NAME, wds:PATTERN or synthetic-captions."
        )
    if path.is_dir():
        return _from_folder(source, path, labels, split, column)
    if path.suffix.lower() in TABLES:
        return _from_table(source, path, path.parent, labels, split, column)
    if path.suffix.lower() in (".npy", ".npz"):
        return ImageTextSamples(open_images(source, labels, split), {}, "images in an array", silent=True)
    raise UserError(
        f"{source} is no table of captions: give a .csv, .tsv, .jsonl, .json or .parquet file, or a folder."
    )


def _from_array(values: np.ndarray) -> ImageTextSamples:
    """Records as `read` gives them, or images alone."""
    each = [np.asarray(value) for value in values]
    if not each or any(one.dtype.names != ("image", "captions") for one in each):
        return ImageTextSamples(open_images(values), {}, "images in an array", silent=True)
    if len({one["image"].shape for one in each}) > 1:
        raise UserError("the images of an array of records must be of one size: give a folder and a table.")
    images = open_images(np.stack([one["image"] for one in each]))
    said = {images.identity(place): np.ravel(one["captions"]).tolist() for place, one in enumerate(each)}
    return ImageTextSamples(images, said, "images with captions in an array")


def _simulated(labels: str | None, split: str | None) -> ImageTextSamples:
    made = scenes(split)
    known = {"palette": (made.palettes, PALETTES), "feeling": (made.feelings, FEELINGS)}
    found: np.ndarray
    classes: list[str] | None
    if labels is None or labels in known:
        found, classes = known[labels or "palette"]
    elif os.path.isfile(labels):
        found, classes = labels_from_file(labels, [str(row) for row in range(len(made.images))])
    else:
        raise UserError(
            f"{SYNTHETIC} has labels palette and feeling, not '{labels}'.{nearest(labels, known)}"
        )
    images = ImageSamples(SYNTHETIC, ArrayStore(made.images), "scenes", found, classes)
    texts = {str(row): said for row, said in enumerate(made.captions)}
    return ImageTextSamples(images, texts, "simulated scenes")


def _from_folder(
    source: str, root: Path, labels: str | None, split: str | None, column: str
) -> ImageTextSamples:
    tables = [name for name in list_names(root) if Path(name).suffix.lower() in TABLES]
    if not tables:
        chosen = natural_split(list_folders(root), split)
        root = root / chosen if chosen else root
        # a split of its own has been chosen: its table needs say nothing of it
        split = None if chosen else split
        tables = [name for name in list_names(root) if Path(name).suffix.lower() in TABLES]
    if not tables:
        return _from_texts(source, root, labels, split)
    table = root / _table_of(tables, split, source)
    return _from_table(source, table, root, labels, split, column)


def _table_of(tables: list[str], split: str | None, source: str) -> str:
    """The table of a split; the only one, or the one that is called after captions or metadata."""
    if len(tables) == 1:
        return tables[0]
    named = {split_of_file(name): name for name in reversed(tables)}
    for word in split_order(split):
        if word in named:
            return named[word]
    usual = [name for name in tables if re.search("caption|metadata", name.lower())]
    if len(usual) == 1:
        return usual[0]
    if any(named):
        raise NoSplit(f"{source} has no table of the split {split!r}, only {', '.join(tables)}.")
    raise UserError(
        f"{source} holds several tables ({', '.join(tables[:5])}): name one of them as the source."
    )


def _from_texts(source: str, root: Path, labels: str | None, split: str | None) -> ImageTextSamples:
    """A folder of images with NAME.txt beside each NAME."""
    texts = {os.path.splitext(name)[0]: name for name in list_files(root, frozenset({".txt"}))}
    images = open_images(os.fspath(root), labels)
    images.source = source
    if split is not None and split_order(split)[0].lower() not in split_order("train"):
        raise NoSplit(
            f"{source} has no split {split!r}: make folders train and test, or leave the split out."
        )
    captions = {}
    for place in range(len(images)):
        name = images.identity(place)
        beside = texts.get(os.path.splitext(name)[0])
        if beside is None:
            continue
        try:
            content = (root / beside).read_text(encoding="utf-8-sig", errors="replace")
        except OSError as problem:
            images.problems.append(BadSample(beside, problem.strerror or str(problem)))
            continue
        captions[name] = content.splitlines()
    return ImageTextSamples(images, captions, "images with text files beside them")


def _from_table(
    source: str, table: Path, root: Path, labels: str | None, split: str | None, column: str
) -> ImageTextSamples:
    file = labels if labels is not None and os.path.isfile(labels) else None
    described = read_table(table, split, None if file else labels, column)
    store, names, problems = _images_named(root, list(described.captions))
    if not names:
        example = f" (such as {problems[0].identity})" if problems else ""
        raise UserError(
            f"none of the images that {table} names{example} lies below {root}, as a file or in a tar: put "
            "them there."
        )
    identities = [store.identity(place) for place in range(len(store))]
    found, classes = _labels(described, names, identities, file)
    made = ImageSamples(source, store, "images", found, classes, problems, image_samples.RESIDENT_BYTES)
    captions = {identity: described.captions[name] for identity, name in zip(identities, names, strict=True)}
    return ImageTextSamples(made, captions, f"images of {table.name}")


def _labels(
    described: Described, names: Sequence[str], identities: Sequence[str], file: str | None
) -> tuple[np.ndarray | None, list[str] | None]:
    if file is not None:
        return labels_from_file(file, identities)
    if not described.labelled:
        return None, None
    return as_labels([described.labels.get(name) for name in names])


def _images_named(root: Path, names: list[str]) -> tuple[Store, list[str], list[BadSample]]:
    """Where the images of these names are; the names that are there, in the store's order; what is not."""
    files = list_files(root, SUFFIXES)
    if files:
        places = _matched(names, files)
        there = [name for name in names if name in places]
        store: Store = FileStore(os.fspath(root), Names([files[places[name]] for name in there]))
        return store, there, _missing(names, places)
    tars = [os.fspath(root / name) for name in list_files(root, frozenset({".tar"}))]
    if not tars:
        return FileStore(os.fspath(root), []), [], [BadSample(name, "is not there") for name in names[:1]]
    shards = TarShards(tars)
    extensions = [ending for ending in shards.members if f".{ending.rpartition('.')[2]}" in SUFFIXES]
    members = [
        (f"{shards.keys[row]}.{ending}", number, int(row))
        for number, ending in enumerate(extensions)
        for row in np.flatnonzero(shards.members[ending][:, 0] >= 0)
    ]
    places = _matched(names, [member for member, _, _ in members])
    there = [name for name in names if name in places]
    rows = np.array([members[places[name]][2] for name in there], np.int64)
    kinds = np.array([members[places[name]][1] for name in there], np.int64)
    return ShardStore(shards, rows, extensions, kinds), there, shards.problems + _missing(names, places)


def _missing(names: Sequence[str], places: Mapping[str, int]) -> list[BadSample]:
    return [BadSample(name, "is not among the images") for name in names if name not in places]


def _matched(names: Sequence[str], files: Sequence[str]) -> dict[str, int]:
    """Place among `files` of each name: by path, else by the end of the path, with or without extension."""
    known: dict[str, int] = {}
    doubtful: set[str] = set()
    for place, file in enumerate(files):
        parts = file.split("/")
        tails = {"/".join(parts[start:]) for start in range(1, len(parts))}
        tails |= {os.path.splitext(tail)[0] for tail in (*tails, file)}
        for tail in tails:
            if known.setdefault(tail, place) != place:
                doubtful.add(tail)
    for tail in doubtful:
        del known[tail]
    known |= {file: place for place, file in enumerate(files)}
    found = {}
    for name in names:
        plain = os.path.normpath(name.replace("\\", "/"))
        for tried in (plain, os.path.basename(plain), os.path.splitext(os.path.basename(plain))[0]):
            if tried in known:
                found[name] = known[tried]
                break
    return found


def _from_shards(source: str, labels: str | None, split: str | None, column: str) -> ImageTextSamples:
    file = labels if labels is not None and os.path.isfile(labels) else None
    images = open_images(source, file, split, domain="image-text")
    store = images.store
    if not isinstance(store, ShardStore):
        raise UserError(
            f"{source} is a pack of images without captions: give shards with .txt or .json members."
        )
    keys = [part.strip() for part in column.split(",") if part.strip()] or list(CAPTIONS)
    captions, said = {}, []
    for place in range(len(store)):
        row = int(store.rows[place])
        about = _json_of(store.shards, row)
        said.append(about)
        texts = [
            line
            for ending in TEXTS
            if ending in store.shards.members and store.shards.members[ending][row, 0] >= 0
            for line in store.shards.read(ending, row).decode("utf-8", "replace").splitlines()
        ]
        if column or not texts:
            texts = [text for key in keys if key in about for text in captions_in(about[key])]
        captions[store.identity(place)] = texts
    if images.labels is None and file is None:
        names = list(dict.fromkeys(key for about in said[:1000] for key in about))
        chosen = chosen_column(names, labels, source) if labels else _label_key(names)
        if chosen is not None:
            # those of images that were left out go with them
            kept = [images.identity(place) for place in range(len(images))]
            values = {store.identity(place): _text_of(about.get(chosen)) for place, about in enumerate(said)}
            images.labels, images.classes = as_labels([values[name] for name in kept])
    return ImageTextSamples(images, captions, "images in shards")


def _label_key(names: Sequence[str]) -> str | None:
    return next((key for key in LABEL_KEYS if key in names), None)


def _text_of(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def _json_of(shards: TarShards, row: int) -> dict[str, Any]:
    if "json" not in shards.members or shards.members["json"][row, 0] < 0:
        return {}
    try:
        found = json.loads(shards.read("json", row).decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _from_hub(source: str, labels: str | None, split: str | None, column: str) -> ImageTextSamples:
    table = hub.open_hub(source.removeprefix("hf:"), split)
    library = require("datasets", "hub")
    pictures = [name for name, kind in table.features.items() if isinstance(kind, library.Image)]
    names = list(table.column_names)
    wanted = [part.strip() for part in column.split(",") if part.strip()]
    texts = wanted or [name for known in CAPTIONS for name in names if name.lower() == known][:1]
    for name in texts:
        if name not in names:
            raise UserError(
                f"{source} has no column '{name}', only {', '.join(names)}.{nearest(name, names)}"
            )
    if not pictures or not texts:
        raise UserError(
            f"{source} has the columns {', '.join(names)}: it needs one of images, and one of captions, "
            "which --caption-column names."
        )
    file = labels if labels is not None and os.path.isfile(labels) else None
    if file:
        found, classes = labels_from_file(file, [str(row) for row in range(len(table))])
    else:
        found, classes = hub.hub_labels(table, labels)
    images = ImageSamples(
        source, HubStore(table, pictures[0]), "images", found, classes, (), image_samples.RESIDENT_BYTES
    )
    columns = [list(table.with_format("python")[name][:]) for name in texts]
    captions = {
        str(row): [text for cell in cells for text in captions_in(cell)]
        for row, cells in enumerate(zip(*columns, strict=True))
    }
    return ImageTextSamples(images, captions, "images in a Hugging Face data set")
