"""From what a person types to pairs of frames: data sets of flow, folders in order, videos, arrays."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import UserError, nearest
from anyjepa.domains.frames_files import FLOWS, PICTURES, PairFiles
from anyjepa.domains.frames_samples import FramePairs
from anyjepa.domains.frames_simulation import CLASSES, moving_shapes
from anyjepa.domains.image_sources import open_images
from anyjepa.domains.label_files import groups_from_file, labels_from_file
from anyjepa.domains.number_files import open_archive
from anyjepa.domains.sources import index_classes, list_files, list_folders, natural_split
from anyjepa.domains.video_files import VIDEOS
from anyjepa.domains.video_samples import ArrayVideos, Reading, VideoSamples
from anyjepa.domains.video_sources import open_videos

__all__ = ["open_frames", "pairs_of"]

# folders of truth beside the frames, in the layouts of KITTI, Sintel and FlyingThings3D
TRUTH = re.compile(r"(flow|disp|disparit|occlusion|invalid|obj_map|calib|viz)", re.IGNORECASE)
KITTI = re.compile(r"(image_[023]|colored_[01]|image_[01])")
CHAIRS = re.compile(r"(?P<stem>.*)(?P<mark>[-_]img)(?P<number>[0-9])$")
BESIDE = ("{}-gt", "{}_gt", "{}-flow", "{}_flow", "{}-flow_01", "{}_flow_01")  # FlyingChairs and its kin


def open_frames(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> FramePairs:
    """Open pairs of frames.

    source: a folder of images, whose numbered frames pair up with the next one of their folder, or by the
    names of FlyingChairs (``-img0``, ``-img1``) and KITTI (``_10``, ``_11``); flow is found beside them as
    .flo, .pfm, .npy or KITTI's .png, in the same folder or in one called flow (Sintel) or flow_occ and
    flow_noc. Else what `open_videos` reads: videos, ``wds:`` and ``hf:``, arrays (n, 2, height, width[,
    channels]), a .npz with x, y and, where known, ``flow`` (n, height, width, 2). ``synthetic-frames`` is
    simulated.

    labels, split: as of `open_videos`. reading: ``fps`` of videos, ``video_seconds`` between the pairs of
    one, ``apart`` frames of a folder, ``channels``, and ``stills``, a source of images that stand beside the
    pairs.

    Raises UserError where nothing can be read, NoSplit where the split is missing.
    """
    asked = dict(reading or {})
    stills = open_images(asked["stills"]) if asked.get("stills") else None
    pairs = dataclasses.replace(Reading.of(asked), frames=2, clips=1)
    if not isinstance(source, np.ndarray):
        source = os.fspath(source)
        if source == "synthetic-frames":
            frames, flows, given = moving_shapes(split)
            store = ArrayVideos(frames, dataclasses.replace(pairs, rate=0.0))
            plain = dataclasses.replace(pairs, rate=0.0)
            made = VideoSamples(
                source, store, "pairs of simulated moving shapes", plain, given, list(CLASSES)
            )
            return FramePairs.of(made, flows, stills)
        if source.startswith("synthetic") and not os.path.exists(source):
            raise UserError(f"there is no '{source}'.{nearest(source, ['synthetic-frames'])}")
        path = Path(source).expanduser()
        if path.is_dir():
            found = _from_folder(source, path, labels, split, pairs, int(asked.get("apart") or 1))
            if found is not None:
                return FramePairs.of(found, stills=stills)
    asked |= {"frames": 2, "clips": 1}
    if isinstance(source, np.ndarray) or source.lower().endswith((".npy", ".npz")):
        asked["fps"] = 0.0  # a row is a pair, whatever the rate
    videos = open_videos(source, labels, split, asked)
    return FramePairs.of(videos, _flows_of(source, videos), stills)


def _flows_of(source: str | np.ndarray, videos: VideoSamples) -> np.ndarray | None:
    """``flow`` of a .npz file, one for each sample."""
    if isinstance(source, np.ndarray) or not source.lower().endswith(".npz"):
        return None
    with open_archive(Path(source).expanduser()) as file:
        if "flow" not in file.files:
            return None
        flows = file["flow"]
    if flows.ndim != 4 or flows.shape[3] != 2 or len(flows) != len(videos):
        raise UserError(
            f"flow in {source} has shape {flows.shape}: give (pairs, height, width, 2), as many as pairs."
        )
    return flows.astype(np.float32)


def _from_folder(
    source: str, root: Path, labels: str | None, split: str | None, reading: Reading, apart: int
) -> VideoSamples | None:
    """Pairs of a folder of images; None where it holds videos or none."""
    chosen = natural_split(list_folders(root), split)
    root = root / chosen if chosen else root
    if list_files(root, VIDEOS - PICTURES):
        return None
    found = pairs_of(list_files(root, PICTURES | FLOWS), apart)
    if not found:
        raise UserError(
            f"{root} holds no pairs of frames: give a folder of numbered frames, or of videos, or pairs "
            "that are named as in FlyingChairs (-img0, -img1) or KITTI (_10, _11)."
        )
    store, truths = PairFiles(str(root), found), sum(flow is not None for _, _, flow in found)
    names = [first for first, _, _ in found]
    counts: dict[str, int] = {}
    for name in names:
        counts[os.path.dirname(name)] = counts.get(os.path.dirname(name), 0) + 1
    single = all(CHAIRS.match(os.path.splitext(name)[0]) or KITTI.search(name) for name in names)
    # frames of one folder show one scene, but for the sets whose pairs are each another
    groups = np.array(["" if single else os.path.dirname(name) for name in names])
    given, classes = None, None
    if labels is not None:
        given, classes = labels_from_file(labels, names)
        filed = groups_from_file(labels, names)
        groups = groups if filed is None else filed
    elif not truths:
        given, classes = index_classes([name.split("/")[0] if "/" in name else None for name in names])
        given, classes = (given, classes) if len(classes) > 1 else (None, None)
    plain = dataclasses.replace(reading, rate=0.0)
    kind = "pairs of frames" + (f", {truths:,} with known flow" if truths else "")
    made = VideoSamples(source, store, kind, plain, given, classes, groups)
    if not single and len(counts) == 1:
        made.groups = None  # one scene alone can still be split
    return made


def pairs_of(names: Sequence[str], apart: int = 1) -> list[tuple[str, str, str | None]]:
    """First frame, second frame and flow (None where there is no file) of each pair, in order.

    Args:
        names: relative paths of all files of a folder, with /.
        apart: images of a folder from the first to the second frame; flow files count for neighbours only.
    """
    known = set(names)
    series: dict[tuple[str, str], list[tuple[list[int], str]]] = {}
    for name in names:
        stem, ending = os.path.splitext(name)
        folder, base = os.path.split(stem)
        if ending.lower() not in PICTURES or any(TRUTH.match(part) for part in folder.split("/")):
            continue
        if TRUTH.search(base) or base.endswith(("-gt", "_gt")):
            continue
        digits = [int(part) for part in re.findall(r"\d+", base)]
        kitti = re.fullmatch(r"(\d{6})_\d{2}", base) if KITTI.search(folder) else None
        chairs = CHAIRS.match(base)
        within = kitti[1] if kitti else chairs["stem"] if chairs else ""
        series.setdefault((folder, within), []).append((digits, name))
    found = []
    for (_, within), frames in sorted(series.items()):
        ordered = [name for _, name in sorted(frames)]
        step = 1 if within else apart
        for first, second in zip(ordered, ordered[step:], strict=False):
            found.append((first, second, _truth(first, known) if step == 1 else None))
    return found


def _truth(first: str, known: set[str]) -> str | None:
    """The file that holds the flow from a frame to the next."""
    stem = os.path.splitext(first)[0]
    folder, base = os.path.split(stem)
    chairs = CHAIRS.match(base)
    asked = [stem] if chairs is None else [
        os.path.join(folder, pattern.format(chairs["stem"])) for pattern in BESIDE
    ]  # fmt: skip
    found = [f"{name}{ending}" for name in asked for ending in (".flo", ".pfm", ".npy")]
    parts = folder.split("/")
    for place in range(len(parts)):
        for truth in ("flow", "flow_occ", "flow_noc"):
            aside = "/".join([*parts[:place], truth, *parts[place + 1 :], base])
            found += [f"{aside}{ending}" for ending in (".flo", ".pfm", ".npy", ".png")]
    return next((name for name in found if name in known), None)
