"""From what a person types to views with poses: arrays, tables of poses, renderings, turntables."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.image_arrays import array_labels
from anyjepa.domains.image_files import SUFFIXES, layout, plain
from anyjepa.domains.label_files import labels_from_file
from anyjepa.domains.number_files import open_archive, read_array
from anyjepa.domains.sources import as_labels, index_classes, list_files, list_folders, natural_split
from anyjepa.domains.views_rendering import CLASSES, SOURCE, quaternions, synthetic_turntable
from anyjepa.domains.views_samples import ArrayViews, FileViews, Poses, ViewSamples, Wanted

__all__ = ["open_views"]

TABLES = ("poses.csv", "poses.tsv")
ROTATIONS = {  # names of the numbers of a rotation, and what they are
    ("quaternion_x", "quaternion_y", "quaternion_z", "quaternion_w"): "quaternion",
    ("euler_x", "euler_y", "euler_z"): "euler",
    ("angle",): "turn",
}
TURNTABLE = re.compile(r"^(.+)__(\d+)$")
RENDERED = re.compile(r"^image_(\d+)$")


def open_views(
    source: str, labels: str | None, split: str | None, asked: Mapping[str, Any]
) -> ViewSamples | None:
    """Things seen from several sides with known poses; None where the source holds none.

    source: ``synthetic-turntable``; a .npz file with x (n, views, height, width[, channels]) and one of
    quaternion (n, views, 4), euler (n, views, 3), angle (n, views) in radians, or pose (n, views, numbers);
    a folder with poses.csv (columns file, object, perhaps label; then numbers, those of a rotation called
    euler_x, euler_y, euler_z or quaternion_x ... quaternion_w or angle); a folder of renderings as 3DIEBench
    has them (image_K beside latent_K.npy, whose first three numbers are Euler angles); or a folder of
    NAME__K files, the K-th of evenly spaced views on a turntable (COIL-20).

    Raises UserError where it cannot be read.
    """
    wanted = Wanted.of(asked)
    if source == SOURCE:
        values, turned, classes = synthetic_turntable(split)
        store = ArrayViews(values, turned, Poses("quaternion", ("floor hue", "light hue")))
        return _labelled(
            ViewSamples(source, store, "simulated solids on a turntable", wanted, classes, CLASSES), labels
        )
    path = Path(source).expanduser()
    if path.suffix.lower() == ".npz" and path.is_file():
        return _from_arrays(source, path, labels, split, wanted)
    if not path.is_dir():
        return None
    chosen = natural_split(list_folders(path), split)
    root = path / chosen if chosen else path
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    if table is not None:
        return _labelled(_from_table(source, root, table, wanted), labels)
    names = list_files(root, SUFFIXES - {".npy"})
    stems = [os.path.splitext(os.path.basename(name))[0] for name in names]
    if names and all(map(RENDERED.match, stems)):
        return _labelled(_from_renderings(source, root, names, wanted), labels)
    if names and all(map(TURNTABLE.match, stems)):
        return _labelled(_from_turntable(source, root, names, wanted), labels)
    return None


def _labelled(samples: ViewSamples, labels: str | None) -> ViewSamples:
    if labels is not None:
        names = [samples.identity(index) for index in range(len(samples))]
        samples.labels, samples.classes = labels_from_file(labels, names)
    return samples


def _from_arrays(
    source: str, path: Path, labels: str | None, split: str | None, wanted: Wanted
) -> ViewSamples | None:
    word = "test" if split is not None and split.lower().startswith(("test", "val")) else "train"
    try:
        with open_archive(path) as file:
            ending = f"_{word}" if f"x_{word}" in file else ""
            name = next((n for n in ("quaternion", "euler", "angle", "pose") if n + ending in file), None)
            if name is None or "x" + ending not in file:
                return None
            values, turned = file["x" + ending], file[name + ending]
            targets = file[labelled] if (labelled := f"y{ending}") in file else None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a .npz file of numbers: {str(error).splitlines()[0]}") from None
    if split is not None and not ending and word == "test":
        raise UserError(f"{source} has no split {split!r}: call its arrays x_train, x_test and so on.")
    values, turned, poses = _checked(source, values, turned, name)
    names, classes = None, None
    if targets is not None:
        if len(targets) != len(values):
            raise UserError(f"{path} holds {len(values)} things but {len(targets)} labels: make them equal.")
        names, classes = array_labels(targets, f"y in {path}")
    store = ArrayViews(values, turned, poses)
    return _labelled(ViewSamples(source, store, "things in a .npz file", wanted, names, classes), labels)


def from_records(values: np.ndarray, asked: Mapping[str, Any]) -> ViewSamples:
    """Things as they are read: an array of records with the fields image and pose, as of `record`.

    Poses that begin with four numbers of length 1 begin with a quaternion. Raises UserError for other fields.
    """
    names = values.dtype.names or ()
    if set(names) != {"image", "pose"}:
        raise UserError(f"records of {', '.join(names)} are no views: give the fields image and pose.")
    turned = values["pose"].astype(np.float64)
    wide = turned.shape[-1]
    unit = wide >= 4 and np.allclose(np.linalg.norm(turned[..., :4], axis=-1), 1, atol=1e-3)
    rotation, first = ("quaternion", 4) if unit else ("none", 0)
    poses = Poses(rotation, tuple(f"pose {number + 1}" for number in range(first, wide)))
    store = ArrayViews(plain(values["image"]), turned, poses)
    return ViewSamples("an array", store, "things in an array", Wanted.of(asked))


def _checked(
    source: str, values: np.ndarray, turned: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, Poses]:
    if values.ndim == 4:
        values = values[..., None]
    if values.ndim != 5 or values.dtype.kind not in "biuf":
        raise UserError(
            f"{source} holds views of shape {values.shape}: give (things, views, height, width[, channels])."
        )
    if layout(values.shape[2:]) == "first":
        values = np.moveaxis(values, 2, -1)
    if turned.ndim == 2:
        turned = turned[..., None]
    known = {"quaternion": 4, "euler": 3, "angle": 1}
    wide = known[name] if name in known else turned.shape[-1]
    if turned.shape != (*values.shape[:2], wide) or turned.dtype.kind not in "iuf":
        raise UserError(
            f"{source} has {name} of shape {turned.shape}: give {(*values.shape[:2], wide)}, one a view."
        )
    turned = turned.astype(np.float64)
    if name == "euler":
        turned = quaternions(turned)
    rotation = {"quaternion": "quaternion", "euler": "quaternion", "angle": "turn"}.get(name, "none")
    others = tuple(f"pose {number + 1}" for number in range(wide)) if rotation == "none" else ()
    return plain(values), turned, Poses(rotation, others)


def _from_table(source: str, root: Path, table: Path, wanted: Wanted) -> ViewSamples:
    try:
        with open(table, newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t" if table.suffix == ".tsv" else ","))
    except (csv.Error, ValueError, OSError) as error:
        raise UserError(f"{table} cannot be read: {str(error).splitlines()[0]}.") from None
    columns = [name for name in (rows[0] if rows else {}) if name]
    if "file" not in columns or "object" not in columns or len(columns) < 3:
        raise UserError(f"{table} needs the columns file and object, and numbers that say the pose.")
    found = next(((names, kind) for names, kind in ROTATIONS.items() if set(names) <= set(columns)), None)
    names, rotation = found if found else ((), "none")
    others = tuple(name for name in columns if name not in ("file", "object", "label", *names))
    turned = np.array([[_number(row[name]) for name in (*names, *others)] for row in rows], np.float64)
    if rotation == "euler":
        turned = np.concatenate([quaternions(turned[:, :3]), turned[:, 3:]], axis=1)
        rotation = "quaternion"
    things, identities = index_classes([row["object"] or None for row in rows])
    outside = [row["file"] for row in rows if ".." in str(row["file"]).split("/") or not row["file"]]
    if outside:
        raise UserError(f"{table} names a file {outside[0]!r} that does not lie below {root}.")
    files = [np.flatnonzero(things == number) for number in range(len(identities))]
    store = FileViews(
        str(root), [[rows[row]["file"] for row in own] for own in files], [turned[own] for own in files],
        Poses(rotation, others), identities,
    )  # fmt: skip
    labels, classes = None, None
    if "label" in columns:
        labels, classes = as_labels([rows[own[0]]["label"] for own in files])
    kind = f"things with the poses of {table.name}"
    return ViewSamples(source, store, kind, wanted, labels, classes, own="label" not in columns)


def _number(text: str | None) -> float:
    """NaN for what is no number: the view is then named as damaged when it is read."""
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _from_renderings(source: str, root: Path, names: Sequence[str], wanted: Wanted) -> ViewSamples:
    """Folders of image_K with latent_K.npy beside; the folder above is the class."""
    folders, problems, found = _by_folder(names), [], {}
    for folder, files in folders.items():
        turned, kept = [], []
        for name in files:
            number = re.sub(r".*image_(\d+)\.\w+$", r"\1", name)
            try:
                latent = read_array(root / folder / f"latent_{number}.npy").astype(np.float64).ravel()
                if len(latent) < 3:
                    raise ValueError(f"{len(latent)} numbers are no Euler angles")
            except (ValueError, OSError) as error:
                problems.append(BadSample(name, f"its latent cannot be read: {str(error).splitlines()[0]}"))
                continue
            kept.append(name)
            turned.append(np.r_[quaternions(latent[:3]), latent[3:]])
        if kept and len({len(one) for one in turned}) == 1:
            found[folder] = (kept, np.stack(turned))
    if not found:
        raise UserError(f"{source} has images but no latent_K.npy beside them that can be read.")
    numbers = max(len(turned[0]) for _, turned in found.values())
    found = {name: one for name, one in found.items() if len(one[1][0]) == numbers}
    others = tuple(f"latent {number}" for number in range(3, numbers - 1))
    store = FileViews(
        str(root), [files for files, _ in found.values()], [turned for _, turned in found.values()],
        Poses("quaternion", others), list(found),
    )  # fmt: skip
    labels, classes = index_classes([os.path.dirname(folder) or None for folder in found])
    many = len(classes) > 1
    return ViewSamples(
        source, store, "rendered things", wanted, labels if many else None, classes if many else None,
        problems=problems,
    )  # fmt: skip


def _by_folder(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(os.path.dirname(name), []).append(name)
    return found


def _from_turntable(source: str, root: Path, names: Sequence[str], wanted: Wanted) -> ViewSamples:
    """NAME__K: the K-th of the views, which are as many for a full turn as the largest number says."""
    things: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = TURNTABLE.match(os.path.splitext(name)[0])
        assert match is not None
        things.setdefault(match[1], []).append((int(match[2]), name))
    _, order = index_classes(list(things))
    own = [sorted(things[thing]) for thing in order]
    full = max(number for views in own for number, _ in views) + 1
    turned = [np.array([[2 * np.pi * number / full] for number, _ in views]) for views in own]
    files = [[name for _, name in views] for views in own]
    store = FileViews(str(root), files, turned, Poses("turn"), order)
    return ViewSamples(source, store, "things on a turntable", wanted, own=True)
