"""The sources that data.py reads: each made in a folder, with three ways to read it."""

from __future__ import annotations

import importlib.util
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anyjepa.domains import domains
from anyjepa.engine.loading import read_many
from anyjepa.engine.packing import pack
from anyjepa.engine.randomness import uniforms
from anyjepa.recipes import recipe

SIDE = 256  # of photographs
BATCH = 16
Reader = Callable[[np.ndarray], Any]


@dataclass
class Case:
    """One source and three ways to read some of its samples.

    Args:
        size: bytes on disk.
        count: samples.
        ours, plain: read the samples of some indices.
        peer: the same by another library; its name.
    """

    size: int
    count: int
    ours: Reader
    plain: Reader
    peer: tuple[str, Reader] | None = None


def bytes_of(place: Path) -> int:
    """All files below a folder, or of one file."""
    return (
        sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
        if place.is_dir()
        else place.stat().st_size
    )


def reader(name: str, source: str, reading: dict[str, Any] | None = None) -> tuple[Reader, Any]:
    """Our way, as a loader process goes it."""
    kind = recipe(name).preset("tiny", **(reading or {}))
    samples = domains()[kind.domain].open(source, reading=dict(kind.reading()))

    chances = uniforms(0, 0, np.arange(len(samples)))  # drawing is not reading

    def read(rows: np.ndarray) -> Any:
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH] % len(samples)
            read_many(samples, part, chances=chances[part])

    return read, samples


def photographs(count: int, format: str = "JPEG") -> Iterator[bytes]:
    draw = np.random.default_rng(0)
    for _ in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, format, quality=90)
        yield file.getvalue()


def in_pillow(content: Any) -> np.ndarray:
    with Image.open(content if isinstance(content, Path) else io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def _files(folder: Path, count: int) -> list[Path]:
    (folder / "pictures").mkdir()
    paths = [folder / "pictures" / f"{n:05d}.jpg" for n in range(count)]
    for path, content in zip(paths, photographs(count), strict=True):
        path.write_bytes(content)
    return paths


class _Dataset(torch.utils.data.Dataset):
    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(in_pillow(self.paths[index]).copy())


def folder(place: Path, count: int) -> Case:
    paths = _files(place, count)
    ours, _ = reader("i-jepa", str(place / "pictures"))

    def loader(rows: np.ndarray) -> None:
        for _ in torch.utils.data.DataLoader(_Dataset(paths), batch_size=BATCH, sampler=rows.tolist()):
            pass

    return Case(
        bytes_of(place),
        count,
        ours,
        lambda rows: [in_pillow(paths[row]) for row in rows],
        ("DataLoader", loader),
    )


def tar(place: Path, count: int) -> Case:
    with tarfile.open(place / "a.tar", "w") as archive:
        for number, content in enumerate(photographs(count)):
            member = tarfile.TarInfo(f"{number:05d}.jpg")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    ours, _ = reader("i-jepa", f"wds:{place}/a.tar")

    def plain(rows: np.ndarray) -> None:
        with tarfile.open(place / "a.tar") as archive:
            for _, member in zip(rows, archive, strict=False):
                in_pillow(archive.extractfile(member).read())  # pyright: ignore[reportOptionalMemberAccess]

    def peer(rows: np.ndarray) -> None:
        import webdataset

        stream = webdataset.WebDataset(str(place / "a.tar"), shardshuffle=False).decode("rgb8")
        for _, _sample in zip(rows, stream, strict=False):
            pass

    known = importlib.util.find_spec("webdataset") is not None
    return Case(bytes_of(place / "a.tar"), count, ours, plain, ("webdataset", peer) if known else None)


def packed(place: Path, count: int) -> Case:
    paths = _files(place, count)
    pack(str(place / "pictures"), place / "pack", domain="image", workers=1)
    ours, _ = reader("i-jepa", f"wds:{place}/pack")
    return Case(bytes_of(place / "pack"), count, ours, lambda rows: [in_pillow(paths[row]) for row in rows])


def _hub(place: Path, count: int) -> None:
    import datasets

    os.environ["ANYJEPA_CACHE"] = str(place / "cache")
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = place / "hub"
    datasets.config.HF_DATASETS_OFFLINE = True
    (place / "set").mkdir()
    content = [{"bytes": found, "path": None} for found in photographs(count)]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": content}, features).to_parquet(
        place / "set/train.parquet", batch_size=50
    )


def hub(place: Path, count: int) -> Case:
    import datasets

    _hub(place, count)
    ours, _ = reader("i-jepa", f"hf:{place}/set")
    table = datasets.load_dataset(str(place / "set"), split="train")

    def loop(rows: np.ndarray) -> None:
        for row in rows.tolist():
            np.asarray(table[row]["image"])

    def whole(rows: np.ndarray) -> None:
        for start in range(0, len(rows), BATCH):
            [np.asarray(image) for image in table[rows[start : start + BATCH].tolist()]["image"]]

    return Case(bytes_of(place / "set"), count, ours, loop, ("datasets, batches", whole))


def hub_stream(place: Path, count: int) -> Case:
    import datasets

    _hub(place, count)
    ours, _ = reader("i-jepa", f"hf-stream:{place}/set")

    def plain(rows: np.ndarray) -> None:
        stream = datasets.load_dataset(str(place / "set"), split="train", streaming=True)
        for _, row in zip(rows, stream, strict=False):
            np.asarray(row["image"])

    return Case(bytes_of(place / "set"), count, ours, plain)


def idx(place: Path, count: int) -> Case:
    count *= 20
    values = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    head = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in values.shape)
    (place / "train-images-idx3-ubyte").write_bytes(head + values.tobytes())
    ours, _ = reader("i-jepa", str(place))

    def plain(rows: np.ndarray) -> None:
        for start in range(0, len(rows), BATCH):
            np.stack([values[row] for row in rows[start : start + BATCH]])

    return Case(bytes_of(place), count, ours, plain)


def npy(place: Path, count: int) -> Case:
    values = np.random.default_rng(0).integers(0, 256, (count, 128, 128, 3), dtype=np.uint8)
    np.save(place / "a.npy", values)
    ours, _ = reader("i-jepa", str(place / "a.npy"))
    mapped = np.load(place / "a.npy", mmap_mode="r")
    return Case(bytes_of(place), count, ours, lambda rows: [np.array(mapped[row]) for row in rows])


def hdf5(place: Path, count: int) -> Case:
    import h5py

    with h5py.File(place / "a.h5", "w") as file:
        file["data"] = np.random.default_rng(0).normal(size=(count, 2048, 3)).astype(np.float32)
    ours, _ = reader("point-jepa", str(place / "a.h5"))

    def plain(rows: np.ndarray) -> None:
        with h5py.File(place / "a.h5") as file:
            for row in rows:
                np.asarray(file["data"][int(row)])

    return Case(bytes_of(place), count, ours, plain)


def _cloud(number: int, points: int = 2048) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(points, 3))


def las(place: Path, count: int) -> Case:
    import laspy

    paths = [place / f"{number:04d}.las" for number in range(count)]
    for number, path in enumerate(paths):
        scan, cloud = laspy.LasData(laspy.LasHeader(point_format=0, version="1.2")), _cloud(number)
        scan.header.scales = np.full(3, 1e-4)
        scan.x, scan.y, scan.z = cloud.T
        scan.write(str(path))
    ours, _ = reader("point-jepa", str(place))
    return Case(
        bytes_of(place), count, ours, lambda rows: [np.asarray(laspy.read(paths[row]).xyz) for row in rows]
    )


def ply(place: Path, count: int) -> Case:
    paths = [place / f"{number:04d}.ply" for number in range(count)]
    for number, path in enumerate(paths):
        cloud = _cloud(number).astype("<f4")
        head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(cloud)}\n"
        head += "property float x\nproperty float y\nproperty float z\nend_header\n"
        path.write_bytes(head.encode() + cloud.tobytes())
    ours, _ = reader("point-jepa", str(place))

    def plain(rows: np.ndarray) -> None:
        import trimesh

        for row in rows:
            np.asarray(trimesh.load(paths[row]).vertices)  # pyright: ignore[reportAttributeAccessIssue]

    return Case(bytes_of(place), count, ours, plain)


def wfdb(place: Path, count: int) -> Case:
    import wfdb as library

    names = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    for number in range(count):
        values = np.cumsum(np.random.default_rng(number).normal(size=(5000, 12)), axis=0) / 100
        library.wrsamp(
            f"r{number:04d}", fs=500, units=["mV"] * 12, sig_name=names, p_signal=values, fmt=["16"] * 12,
            write_dir=str(place),
        )  # fmt: skip
    ours, _ = reader("ecg-jepa", str(place))
    paths = [str(place / f"r{number:04d}") for number in range(count)]
    return Case(
        bytes_of(place), count, ours, lambda rows: [library.rdrecord(paths[row]).p_signal for row in rows]
    )


def mp4(place: Path, count: int) -> Case:
    import av

    count = max(4, count // 10)
    paths = [place / f"{number:03d}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        draw = np.random.default_rng(number)
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt, stream.gop_size = 112, 112, "yuv420p", 25
            for _ in range(250):
                coarse = Image.fromarray(draw.integers(0, 256, (14, 14, 3), dtype=np.uint8))
                frame = av.VideoFrame.from_image(coarse.resize((112, 112), Image.Resampling.BICUBIC))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    ours, _ = reader("v-jepa", str(place))
    frames = recipe("v-jepa").preset("tiny").frames  # pyright: ignore[reportAttributeAccessIssue]

    def plain(rows: np.ndarray) -> None:
        for row in rows:
            with av.open(str(paths[row % count])) as container:
                whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            np.stack(whole[:: max(1, len(whole) // frames)][:frames])

    return Case(bytes_of(place), count, ours, plain)


def _table(count: int) -> Any:
    import pandas

    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {f"x{n}": draw.normal(size=count) for n in range(12)}
    words = np.array(["office", "field", "none", "school"])
    return pandas.DataFrame({**columns, **{f"w{n}": words[draw.integers(0, 4, count)] for n in range(4)}})


def _opened(source: str, count: int, plain: Callable[[], Any], size: int) -> Case:
    def ours(_rows: np.ndarray) -> None:
        domains()["table"].open(source)

    return Case(size, count, ours, lambda _rows: plain())


def csv(place: Path, count: int) -> Case:
    import pandas

    path, count = place / "a.csv", count * 100
    _table(count).to_csv(path, index=False)
    return _opened(str(path), count, lambda: pandas.read_csv(path), bytes_of(path))


def parquet(place: Path, count: int) -> Case:
    import pandas

    path, count = place / "a.parquet", count * 100
    _table(count).to_parquet(path)
    return _opened(str(path), count, lambda: pandas.read_parquet(path), bytes_of(path))


CASES: dict[str, tuple[str, Callable[[Path, int], Case]]] = {
    "folder": ("JPEG files", folder), "tar": ("JPEG in tar shards", tar), "pack": ("JPEG in a pack", packed),
    "hf": ("JPEG in Parquet, converted", hub), "hf-stream": ("JPEG in Parquet, where it lies", hub_stream),
    "idx": ("IDX, in memory", idx), "npy": ("arrays, mapped", npy), "hdf5": ("clouds in HDF5", hdf5),
    "las": ("LAS scans", las), "ply": ("PLY clouds", ply), "wfdb": ("WFDB records", wfdb),
    "mp4": ("MP4 videos", mp4), "csv": ("CSV table, opened", csv),
    "parquet": ("Parquet table, opened", parquet),
}  # fmt: skip
