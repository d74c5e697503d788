"""Damage done to real pictures, to masks of their pixels and to sets in the hub's layout."""

import io
import tarfile

import numpy as np
import pytest
from damaged import Part, readable, refuses, withstands
from pictures import encoded, noise
from PIL import Image

from anyjepa.domains import domains
from anyjepa.domains.image_files import SUFFIXES

FEW = pytest.mark.parametrize("examples", [20, pytest.param(300, marks=pytest.mark.slow)])
REAL = ["cifar10_jpeg/test.tar", "coil20", "emoji_text", "kitti_object3", "mstar_soc", "ui_miniwob"]


def real_picture(place):
    """Name and content of the first picture in a folder of real data or in its tar files."""
    tars = [place] if place.is_file() else sorted(place.rglob("*.tar"))
    for path in [] if place.is_file() else sorted(place.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            return path.name, path.read_bytes()
    for path in tars:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and f".{member.name.rpartition('.')[2].lower()}" in SUFFIXES:
                    return member.name.rpartition("/")[2], archive.extractfile(member).read()
    pytest.skip(f"{place} holds no picture of a kind that is read")


@FEW
@pytest.mark.parametrize("place", REAL)
def test_a_real_picture(tmp_path, data_folder, place, examples):
    name, content = real_picture(data_folder(place))
    withstands("image", tmp_path, {name: content}, examples=examples, random=examples > 100)


def test_real_pictures_each_damaged_in_its_own_way(tmp_path, data_folder):
    """Of 90 JPEGs 30 are cut, 30 have flipped bits: what is not whole is named."""
    random = np.random.default_rng(0)
    with tarfile.open(data_folder("cifar10_jpeg/test.tar")) as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][:90]
        for number, member in enumerate(members):
            content = bytearray(archive.extractfile(member).read())
            if number % 3 == 0:
                del content[random.integers(20, len(content) - 20) :]
            elif number % 3 == 1:
                for place in random.integers(0, len(content), 20):
                    content[place] ^= 1 << random.integers(8)
            (tmp_path / f"{number:02d}.jpg").write_bytes(content)
    samples = domains()["image"].open(str(tmp_path))
    named = {problem.identity for problem in samples.problems}
    assert {f"{number:02d}.jpg" for number in range(0, 90, 3)} <= named
    assert not named & {f"{number:02d}.jpg" for number in range(2, 90, 3)}
    assert len(samples) + len(named) == 90
    assert all(samples.read(index).shape[2] == 3 for index in range(len(samples)))


def npy(values):
    target = io.BytesIO()
    np.save(target, values)
    return target.getvalue()


def palette(values):
    picture = Image.fromarray(values, "L").convert("P")
    return encoded(picture)


LABELS = np.arange(64, dtype=np.uint8).reshape(8, 8)
MASKS = {
    "png": lambda: encoded(LABELS),
    "palette.png": lambda: palette(LABELS),
    "gif": lambda: encoded(Image.fromarray(LABELS), "GIF"),
    "tif": lambda: encoded(Image.fromarray(LABELS), "TIFF"),
    "bmp": lambda: encoded(Image.fromarray(LABELS), "BMP"),
    "npy": lambda: npy(LABELS.astype(np.int64)),
}


@FEW
@pytest.mark.parametrize("kind", MASKS)
def test_a_mask(tmp_path, kind, examples):
    parts = {"masks/0." + kind.rpartition(".")[2]: MASKS[kind](), "images/0.png": encoded(noise(8, 8, 3))}
    reading = {"dense": str(tmp_path / "data" / "masks")}
    source = "{}/images"
    withstands("image", tmp_path, parts, source, examples=examples, random=examples > 100, reading=reading)


def test_a_mask_that_claims_a_terabyte(tmp_path):
    parts = {"images/0.png": encoded(noise(8, 8, 3)), "masks/0.npy": npy(LABELS)}
    header = parts["masks/0.npy"].replace(b"(8, 8), }        ", b"(1048576, 1048576)")[
        : len(parts["masks/0.npy"])
    ]
    parts["masks/0.npy"] = header
    said = refuses("image", tmp_path, parts, "{}/images", reading={"dense": str(tmp_path / "data/masks")})
    assert "has a damaged mask" in said


PARTS = ("x", "y", "z", "part")


@FEW
@pytest.mark.parametrize("dense", ["last", "parts"])
def test_labels_of_points(tmp_path, dense, examples):
    import h5py

    random = np.random.default_rng(0)
    if dense == "last":
        rows = np.column_stack([random.normal(size=(30, 3)), random.integers(0, 3, 30)])
        content, name = "\n".join(" ".join(f"{v:g}" for v in row) for row in rows).encode(), "0.txt"
    else:
        target, name = io.BytesIO(), "0.h5"
        with h5py.File(target, "w") as file:
            file["data"], file["parts"] = random.normal(size=(3, 30, 3)), random.integers(0, 3, (3, 30))
        content = target.getvalue()
    parts = {name: Part(content, asks=dense == "parts")}
    withstands("points", tmp_path, parts, examples=examples, random=examples > 100, reading={"dense": dense})


@pytest.fixture
def offline(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setenv("ANYJEPA_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def hub_table():
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    content = [{"bytes": encoded(noise(8, 8, 3, seed=row)), "path": None} for row in range(6)]
    target = io.BytesIO()
    datasets.Dataset.from_dict({"image": content, "label": [0, 1] * 3}, features).to_parquet(target)
    return target.getvalue()


HUB = {
    "parquet": lambda: {"set/train.parquet": Part(hub_table(), asks=True)},
    "folder": lambda: {
        **{f"set/{row}.png": encoded(noise(8, 8, 3, seed=row)) for row in range(3)},
        "set/metadata.csv": b"file_name,label\n0.png,a\n1.png,b\n2.png,a\n",
    },
    "lines": lambda: {
        "set/0.png": encoded(noise(8, 8, 3)),
        "set/metadata.jsonl": b'{"file_name": "0.png", "label": 1}\n',
    },
}


@pytest.mark.parametrize("examples", [6, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", HUB)
@pytest.mark.parametrize("scheme", ["hf", "hf-stream"])
def test_a_set_in_the_layout_of_the_hub(tmp_path, offline, scheme, layout, examples):
    parts = HUB[layout]()
    withstands("image", tmp_path, parts, f"{scheme}:{{}}/set", examples=examples, random=examples > 100)


def test_names_in_a_set_of_the_hub_are_text(tmp_path, offline):
    """A file name that leads out of the set, or is code, opens nothing outside it."""
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(noise(8, 8, 3)))
    (tmp_path / "set/0.png").write_bytes(encoded(noise(8, 8, 3, seed=1)))
    (tmp_path / "set/metadata.csv").write_text(
        "file_name,label\n0.png,<script>alert(1)</script>\n../secret.png,b\n"
    )
    for scheme in ("hf", "hf-stream"):
        said = " ".join(readable("image", f"{scheme}:{tmp_path}/set"))
        assert "Traceback" not in said
