"""LiDAR frames of one source, and what is marked in them: read only when asked for."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.fingerprints import digest_of
from anyjepa.domains.label_files import labels_from_file
from anyjepa.domains.lidar_labels import (
    IMAGE,
    Calibration,
    Objects,
    parse_boxes,
    parse_calibration,
    parse_kitti_labels,
)
from anyjepa.domains.lidar_simulation import SCENES, Simulated
from anyjepa.domains.point_files import read_file

__all__ = ["BoxedSamples", "FileFrames", "Frames", "LidarSamples"]

COLUMNS = 4  # x, y, z and how much came back
FARTHEST = 1e5  # metres; what lies further is damage


@runtime_checkable
class Frames(Protocol):
    """Where frames lie, as of `anyjepa.domains.point_samples.Store`. Can be pickled."""

    def __len__(self) -> int: ...

    def decode(self, index: int) -> np.ndarray:
        """(n, 3 or more) numbers as stored; raises BadSample."""
        ...

    def identity(self, index: int) -> str:
        """Unique in the store."""
        ...

    def size(self, index: int) -> int:
        """Bytes that the frame takes where it lies."""
        ...


@runtime_checkable
class BoxedSamples(Protocol):
    """Samples in which objects are marked, beside what `Samples` promises."""

    def objects(self, index: int) -> Objects:
        """What is marked. Raises BadSample where it is damaged, UserError where the source marks nothing."""
        ...

    @property
    def marked(self) -> bool:
        """Whether the source marks objects at all."""
        ...


class FileFrames:
    """Files below one folder, a frame each, with labels and calibration beside them as KITTI lays them out.

    A scan ``.../velodyne/000001.bin`` has its labels in ``.../label_2/000001.txt`` (or plain ones in
    ``.../labels/000001.txt``) and its calibration in ``.../calib/000001.txt`` or ``.../calib.txt``.

    Args:
        root: the folder.
        names: relative paths with /.
        columns: numbers of a point in ``.bin`` files; 0 for 5 in ``.pcd.bin`` files and 4 in others.
    """

    def __init__(self, root: str, names: Sequence[str], columns: int = 0) -> None:
        self.root, self.names, self.columns = root, names, columns

    def __len__(self) -> int:
        return len(self.names)

    def decode(self, index: int) -> np.ndarray:
        """The file's points."""
        name = self.names[index]
        if self.columns == 0 or not name.lower().endswith(".bin"):
            return read_file(self.root, name, 0)
        content = self._content(name)
        if not content or len(content) % (4 * self.columns):
            raise BadSample(name, f"has {len(content)} bytes, not a multiple of {4 * self.columns}")
        return np.frombuffer(content, "<f4").reshape(-1, self.columns)

    def identity(self, index: int) -> str:
        """The relative path."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Bytes of the file."""
        return os.stat(os.path.join(self.root, self.names[index])).st_size

    def beside(self, index: int, folder: str, ending: str = ".txt") -> str | None:
        """Path of the file of the same stem in a folder beside the scan's own; None where there is none."""
        path = PurePosixPath(self.names[index])
        stem = path.name.split(".")[0]
        found = str(path.parent.parent / folder / f"{stem}{ending}")
        if len(path.parts) < 2:
            found = os.path.join("..", folder, f"{stem}{ending}")
        return found if os.path.isfile(os.path.join(self.root, found)) else None

    def labels(self, index: int) -> str | None:
        """Path of its labels."""
        return self.beside(index, "label_2") or self.beside(index, "labels")

    def calibration(self, index: int) -> Calibration | None:
        """Of the camera, where it is known. Raises BadSample where it is damaged."""
        found = self.beside(index, "calib")
        if found is None:
            found = str(PurePosixPath(self.names[index]).parent.parent / "calib.txt")
            if not os.path.isfile(os.path.join(self.root, found)):
                return None
        text = self._content(found).decode("utf-8", "replace")
        return parse_calibration(text, self.identity(index), self._image(index))

    def objects(self, index: int) -> Objects | None:
        """What is marked in a frame; None where no file says. Raises BadSample."""
        found = self.labels(index)
        if found is None:
            return None
        text, identity = self._content(found).decode("utf-8", "replace"), self.identity(index)
        if "label_2" not in PurePosixPath(found).parts:
            return parse_boxes(text, identity)
        calibration = self.calibration(index)
        if calibration is None:
            raise BadSample(identity, "has labels in a camera's metres and no calibration beside them")
        return parse_kitti_labels(text, calibration, identity)

    def _content(self, name: str) -> bytes:
        try:
            return Path(self.root, name).read_bytes()
        except OSError as error:
            raise BadSample(name, error.strerror or str(error)) from None

    def _image(self, index: int) -> tuple[int, int]:
        """Width and height of the camera's picture, from the head of its PNG file."""
        found = self.beside(index, "image_2", ".png")
        if found is None:
            return IMAGE
        head = self._content(found)[:24] if os.path.getsize(os.path.join(self.root, found)) > 24 else b""
        if head[:8] != b"\x89PNG\r\n\x1a\n":
            return IMAGE
        width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
        return (width, height) if 0 < width < 2**16 and 0 < height < 2**16 else IMAGE


class LidarSamples:
    """Frames of one source; satisfies the Samples protocol, and `BoxedSamples`.

    A frame is (n, 4) float32: x forward, y left and z up from the sensor in metres, and how much came back in
    the source's own unit (0 where it does not say). Neither labels nor boxes are read before they are asked
    for: pre-training never asks.

    Args:
        source: what the person typed.
        store: where frames lie.
        kind: what they are in words.
        forward: the axis that points forward in the source; of ``y``, x points right, as in nuScenes.
        camera: leave out what no camera sees, where calibration lies beside the frames.
        labels: a file, ``objects`` (which classes are in sight) or ``scene`` (of simulated ones); None for
            the scene where it is simulated, else the objects.
        groups: (n,) of frames of one drive; None where unknown.
        problems: what was damaged when the source was opened.
        drawing: the range and cells that a recipe wants drawn: no data, but kept with its facts.

    Attributes: ``labels`` is (n,) which scene, or (n, classes) which objects are in sight; None where nobody
    says. ``classes`` are their names.
    """

    labels: np.ndarray | None
    classes: list[str] | None

    def __init__(
        self,
        source: str,
        store: Frames,
        kind: str,
        *,
        forward: str = "x",
        camera: bool = True,
        labels: str | None = None,
        groups: np.ndarray | None = None,
        problems: Sequence[BadSample] = (),
        drawing: Mapping[str, Any] | None = None,
    ) -> None:
        self.drawing = dict(drawing or {})
        self.source, self.store, self.forward, self.camera = source, store, forward, camera
        self.groups, self.problems, self.asked = groups, list(problems), labels
        if not len(store):
            raise UserError(f"{source} holds no LiDAR frame: give a folder, file or array that holds some")
        if forward not in ("x", "y"):
            raise UserError(f"--forward is x or y, not '{forward}'.")
        if labels == "scene" and not isinstance(store, Simulated):
            raise UserError(f"{source} does not say what scenes are: use --labels objects, or a file.")
        if labels not in (None, "scene", "objects"):
            names = [store.identity(index) for index in range(len(store))]
            self.labels, self.classes = labels_from_file(labels, names)
        self.description = f"{len(store):,} {kind}"

    def __len__(self) -> int:
        return len(self.store)

    def read(self, index: int | np.integer) -> np.ndarray:
        """(n, 4) float32. Raises BadSample where it is damaged."""
        index = int(index)
        values, identity = self.store.decode(index), self.store.identity(index)
        if values.shape[1] < 3:
            raise BadSample(identity, f"has {values.shape[1]} numbers a point: x, y and z are needed")
        frame = np.zeros((len(values), COLUMNS), np.float32)
        with np.errstate(over="ignore"):
            frame[:, : min(COLUMNS, values.shape[1])] = values[:, :COLUMNS]
        # what never came back is written as the sensor's own place, or as no number
        whole = np.isfinite(frame).all(axis=1) & (np.abs(frame) < FARTHEST).all(axis=1)
        frame = frame[whole & frame[:, :3].any(axis=1)]
        if not len(frame):
            raise BadSample(identity, "has no finite point" if len(values) else "has no points")
        if self.forward == "y":
            frame[:, 0], frame[:, 1] = frame[:, 1].copy(), -frame[:, 0]
        if self.camera and self.forward == "x" and isinstance(self.store, FileFrames):
            calibration = self.store.calibration(index)
            frame = frame if calibration is None else frame[calibration.seen(frame)]
            if not len(frame):
                raise BadSample(identity, "has no point that the camera sees")
        return frame

    @property
    def marked(self) -> bool:
        """Whether objects are marked in any of its frames, by names alone."""
        if isinstance(self.store, FileFrames):
            return any(self.store.labels(index) is not None for index in range(len(self)))
        return isinstance(self.store, Simulated)

    def objects(self, index: int | np.integer) -> Objects:
        """What is marked in a frame, about the sensor as `read` has it.

        Raises BadSample where it is damaged or this frame has no labels, UserError where none has.
        """
        found = self.store.objects(int(index)) if isinstance(self.store, FileFrames | Simulated) else None
        if found is None:
            if not self.marked:
                raise UserError(
                    f"no objects are marked in {self.source}: put KITTI's label_2 beside velodyne."
                )
            raise BadSample(self.identity(index), "has no labels")
        if self.forward == "y":
            boxes = found.boxes.copy()
            boxes[:, 0], boxes[:, 1] = found.boxes[:, 1], -found.boxes[:, 0]
            boxes[:, 6] -= np.pi / 2
            return Objects(boxes, found.names, found.truncation, found.occlusion, found.heights)
        return found

    def _said(self) -> tuple[np.ndarray | None, list[str] | None]:
        if isinstance(self.store, Simulated) and self.asked != "objects":
            return self.store.kinds, SCENES
        if not self.marked:
            return None, None
        names = []
        for index in range(len(self)):
            try:
                names.append(self.objects(index).names)
            except BadSample as problem:
                self.problems.append(problem)
                names.append(None)
        classes = sorted({name for part in names for name in part or ()})
        table = np.zeros((len(self), len(classes)), np.int8)
        for row, part in enumerate(names):
            table[row] = -1 if part is None else [name in part for name in classes]
        return table, classes

    def __getattr__(self, name: str) -> Any:
        if name not in ("labels", "classes"):
            raise AttributeError(name)
        self.labels, self.classes = self._said()
        return self.__dict__[name]

    def identity(self, index: int | np.integer) -> str:
        """Relative path, row number, or kind of scene and number."""
        return self.store.identity(int(index))

    def fingerprint(self) -> str:
        """Digest of all names, and of the sizes of at most 4,096 frames spread evenly over the source."""
        head = f"{len(self)} {self.forward} {self.camera}"
        if isinstance(self.store, Simulated):
            head += f" {self.store.part}"
        names = (self.store.identity(index) for index in range(len(self.store)))
        return digest_of(head, names, len(self.store), self.store.size)

    def packed(self, index: int) -> tuple[str, bytes]:
        """The frame as it lies, all columns, as a ``.npy`` file. Raises BadSample."""
        self.read(index)
        file = io.BytesIO()
        np.save(file, self.store.decode(int(index)), allow_pickle=False)
        return "npy", file.getvalue()
