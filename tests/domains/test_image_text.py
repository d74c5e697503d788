"""Images with captions: every layout, splits, labels, real emoji and simulated scenes."""

import json

import numpy as np
import pytest
import torch
from pictures import encoded, noise, write, write_tar
from PIL import Image

from anyjepa.core.errors import UserError
from anyjepa.domains import domains
from anyjepa.domains.image_text_samples import on_white, record
from anyjepa.domains.image_text_simulation import FEELINGS, GROUNDS, PALETTES, TONES, scenes
from anyjepa.domains.image_text_tables import captions_in, split_of_file
from anyjepa.domains.sources import NoSplit
from anyjepa.recipes import recipe

pairs = domains()["image-text"]


def pictures(folder, *names):
    for seed, name in enumerate(names):
        write(folder / name, noise(8, 8, 3, seed=seed))
    return folder


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        import csv

        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


ROWS = [
    {"image": "a.png", "caption": "a dog", "mood": "good", "split": "train"},
    {"image": "a.png", "caption": "an animal", "mood": "good", "split": "train"},
    {"image": "sub/b.png", "caption": "a cat, «asleep»", "mood": "bad", "split": "train"},
    {"image": "c.png", "caption": "a house", "mood": "bad", "split": "test"},
]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_tables_beside_images(tmp_path, suffix):
    pictures(tmp_path, "a.png", "sub/b.png", "c.png")
    path = table(tmp_path / f"captions{suffix}", ROWS)
    for source in (path, tmp_path):
        samples = pairs.open(str(source), labels="mood")
        assert [samples.captions(row) for row in range(len(samples))] == [
            ("a dog", "an animal"),
            ("a cat, «asleep»",),
        ]
        assert samples.classes == ["bad", "good"]
        assert samples.labels.tolist() == [1, 0]
        assert np.array_equal(samples.read(1)["image"], noise(8, 8, 3, seed=1))
        assert samples.read(0)["captions"].tolist() == ["a dog", "an animal"]
        held_out = pairs.open(str(source), split="test")
        assert held_out.captions(0) == ("a house",)
        assert held_out.labels is None
        assert held_out.fingerprint() != samples.fingerprint()
    with pytest.raises(UserError, match="no column 'moods'"):
        pairs.open(str(path), labels="moods")


def test_captions_are_found_under_other_names(tmp_path):
    pictures(tmp_path / "images", "a.png", "b.png")
    rows = [
        {"file_name": "a.png", "caption_1": "one", "caption_2": "two"},
        {"file_name": "b", "caption_1": "three"},
    ]
    samples = pairs.open(str(table(tmp_path / "rows.jsonl", rows)))
    assert [samples.captions(row) for row in range(2)] == [("one", "two"), ("three",)]
    chosen = pairs.open(str(tmp_path / "rows.jsonl"), reading={"caption_column": "caption_2"})
    assert chosen.captions(0) == ("two",)
    assert [problem.identity for problem in chosen.problems] == ["images/b.png"]
    listed = [
        {"image": "a.png", "captions": ["x  y", "", "z", "z"]},
        {"image": "gone.png", "captions": ["q"]},
    ]
    samples = pairs.open(str(table(tmp_path / "more.json", listed)))
    assert samples.captions(0) == ("x y", "z"), "on one line, each once"
    assert "gone.png: is not among the images" in str(samples.problems[0])


def test_coco_s_annotations(tmp_path):
    pictures(tmp_path / "val2017", "000001.png", "000002.png")
    content = {
        "images": [{"id": 1, "file_name": "000001.png"}, {"id": 2, "file_name": "000002.png"}],
        "annotations": [
            {"image_id": 2, "caption": "two"}, {"image_id": 1, "caption": "one"},
            {"image_id": 2, "caption": "zwei"},
        ],
    }  # fmt: skip
    path = table(tmp_path / "captions_val2017.json", content)
    samples = pairs.open(str(path))
    assert {samples.identity(row): samples.captions(row) for row in range(2)} == {
        "val2017/000001.png": ("one",), "val2017/000002.png": ("two", "zwei"),
    }  # fmt: skip
    with pytest.raises(NoSplit):
        pairs.open(str(path), split="train")
    assert len(pairs.open(str(path), split="test")) == 2, "validation stands in"


def test_a_table_for_each_split(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path / "train.csv", [{"image": "a.png", "text": "a"}, {"image": "b.png", "text": "b"}])
    table(tmp_path / "test.csv", [{"image": "c.png", "text": "c"}])
    assert len(pairs.open(str(tmp_path))) == 2
    assert pairs.open(str(tmp_path), split="test").captions(0) == ("c",)
    (tmp_path / "folders").mkdir()
    for part in ("train", "test"):
        pictures(tmp_path / "folders" / part, f"{part}.png")
        table(tmp_path / "folders" / part / "metadata.csv", [{"file_name": f"{part}.png", "text": part}])
    assert pairs.open(str(tmp_path / "folders"), split="test").captions(0) == ("test",)


def test_text_files_beside_images(tmp_path):
    pictures(tmp_path, "data/1.png", "data/2.png", "data/3.png")
    (tmp_path / "data/1.txt").write_bytes("first\nsecond ☺".encode())
    (tmp_path / "data/2.txt").write_bytes(b"caf\xe9 in another encoding")
    (tmp_path / "labels.tsv").write_text("id\tlabel\n1\tpositive\n2\tnegative\n")
    samples = pairs.open(str(tmp_path / "data"), labels=str(tmp_path / "labels.tsv"))
    assert samples.captions(0) == ("first", "second ☺")
    assert samples.captions(1) == ("caf\ufffd in another encoding",)
    assert samples.labels.tolist() == [1, 0]
    assert [str(problem) for problem in samples.problems] == ["3.png: has no caption"]
    with pytest.raises(NoSplit):
        pairs.open(str(tmp_path / "data"), split="test")


def test_shards(tmp_path):
    members = {}
    for number in range(3):
        members[f"{number}.png"] = encoded(noise(8, 8, 3, seed=number))
    members["0.txt"] = b"said of zero"
    members["1.json"] = json.dumps(
        {"caption": "said of one", "sentiment": "positive", "alt": "other"}
    ).encode()
    members["2.json"] = b"{damaged"
    write_tar(tmp_path / "train-0.tar", members)
    samples = pairs.open(f"wds:{tmp_path}/train-*.tar")
    assert [samples.captions(row) for row in range(2)] == [("said of zero",), ("said of one",)]
    assert samples.classes == ["positive"]
    assert samples.labels.tolist() == [-1, 0]
    assert samples.problems[-1].identity == "2"
    other = pairs.open(f"wds:{tmp_path}/train-0.tar", labels="alt", reading={"caption_column": "alt"})
    assert other.captions(0) == ("other",)
    assert other.classes == ["other"]


def test_a_hub_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in range(3)],
        "sentences": [["one", "eins"], ["two"], []],
        "label": [0, 1, 0],
    }
    kinds = datasets.Features(
        {"image": datasets.Image(), "sentences": datasets.Sequence(datasets.Value("string")),
         "label": datasets.ClassLabel(names=["no", "yes"])}
    )  # fmt: skip
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "data/train-0.parquet")
    samples = pairs.open(f"hf:{tmp_path}")
    assert [samples.captions(row) for row in range(2)] == [("one", "eins"), ("two",)]
    assert samples.labels.tolist() == [0, 1]
    assert str(samples.problems[0]) == "2: has no caption"
    with pytest.raises(UserError, match="has no column 'said'"):
        pairs.open(f"hf:{tmp_path}", reading={"caption_column": "said"})


def test_an_array_of_images_is_read_without_text():
    samples = pairs.open(noise(5, 16, 16, 3))
    assert len(samples) == 5
    assert samples.captions(2) == ()
    batch = recipe("ti-jepa").preset("tiny").present([samples.read(row) for row in range(5)])
    assert not batch["said"].any()


@pytest.mark.parametrize(
    ("write_it", "words"),
    [
        (
            lambda at: table(at / "a.csv", [{"name": "x", "caption": "y"}]),
            "call the one of the images' file names image",
        ),
        (lambda at: table(at / "a.csv", [{"image": "x", "words": "y"}]), "say with --caption-column"),
        (lambda at: table(at / "a.csv", [{"image": "x", "caption": "y"}]), "lies below"),
        (lambda at: table(at / "a.json", {"rows": []}), "no list of images"),
        (lambda at: table(at / "a.json", [1, 2]), "not a list of objects"),
        (lambda at: write(at / "a.jsonl", b"{"), "cannot be read as jsonl"),
        (lambda at: write(at / "a.parquet", b"PAR1"), "cannot be read as parquet"),
    ],
)
def test_tables_that_say_nothing(tmp_path, write_it, words):
    with pytest.raises(UserError, match=words):
        pairs.open(str(write_it(tmp_path)))


def test_sources_that_are_none(tmp_path):
    pictures(tmp_path, "a.png")
    for source, words in [
        (str(tmp_path), "has a caption: name the column"), ("synthetic-caption", "synthetic-captions"),
        ("ftp:x", "is not a kind of source"), ("", "source is empty"),
        (str(tmp_path / "a.png"), "no table of captions"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words):
            pairs.open(source)
    table(tmp_path / "x.csv", ROWS)
    table(tmp_path / "y.csv", ROWS)
    with pytest.raises(UserError, match="several tables"):
        pairs.open(str(tmp_path))
    with pytest.raises(UserError, match="images of 3 channels and this run reads 1"):
        pairs.open("synthetic-captions", reading={"channels": 1})


def test_cells_and_names_of_files():
    assert captions_in([{"raw": "a", "tokens": ["a"]}, {"raw": "b"}, None, 3]) == ["a", "b", "3"]
    names = ("captions_val2017.json", "test.csv", "latest.csv", "dev-set.tsv")
    assert [split_of_file(name) for name in names] == ["val", "test", None, "val"]


def test_transparent_images_lie_on_white():
    image = np.zeros((2, 2, 4), np.uint8)
    image[0, 0], image[0, 1] = (10, 20, 30, 255), (10, 20, 30, 0)
    image[1, 0] = (0, 100, 200, 51)
    shown = on_white(image)
    assert shown[0, 0].tolist() == [10, 20, 30]
    assert shown[0, 1].tolist() == [255, 255, 255]
    assert shown[1, 0].tolist() == [204, 224, 244]
    assert on_white(image[..., :3]).shape == (2, 2, 3)


def test_simulated_scenes_are_what_is_said_of_them():
    images, captions, palettes, labels = scenes("test")
    assert images.shape == (400, 32, 32, 3)
    assert np.bincount(labels).min() > 100
    assert scenes("val")[1] == captions
    tones = {word: feeling for feeling, words in enumerate(TONES) for word in words}
    for image, said, label in zip(images[:200], captions, labels, strict=False):
        assert len(set(said)) == 3
        words = [
            next(word for word in text.replace(",", "").replace(":", "").split() if word in tones)
            for text in said
        ]
        assert len(set(words)) == 1
        ground = float(np.median(image.mean(2)))
        seen = int(np.argmin([abs(ground - level) for level in GROUNDS]))
        told = tones[words[0]]
        assert abs(seen - told) < 2, "they never contradict each other"
        assert label == (seen if told == 1 else told)
    for said, palette in zip(captions, palettes, strict=True):
        named = set(said[0].split()) & set(" ".join(PALETTES).split()) - {"and"}
        assert named == set(PALETTES[palette].split()) - {"and"}
    assert len(PALETTES) == 21
    assert pairs.open("synthetic-captions", "feeling").classes == FEELINGS
    assert pairs.open("synthetic-captions").classes == PALETTES
    with pytest.raises(UserError, match="labels palette and feeling, not 'mood'"):
        pairs.open("synthetic-captions", "mood")
    with pytest.raises(NoSplit):
        scenes("holdout")


def test_facts_raw_input_and_words():
    samples = pairs.open("synthetic-captions", split="test")
    facts = pairs.measure(samples)
    assert facts["captions"] == 3.0
    assert facts["channels"] == 3
    assert "3 an image" in pairs.in_words(facts)["captions"]
    batch = recipe("ti-jepa").preset("tiny").present([samples.read(row) for row in range(4)])
    raw = pairs.raw(batch, facts)
    assert raw.shape == (4, 32 * 32 * 3 + 512)
    assert torch.equal(raw[:, -512:].sum(1), batch["said"].sum(1).float())
    assert pairs.noise(facts, 2)[1]["image"].shape == (32, 32, 3)
    assert pairs.picture(batch, 0, facts).shape == (96, 96, 3)
    assert pairs.likeness(samples) == 1.0
    assert record(np.zeros((2, 2, 1), np.uint8), ("a", "bcd"))["captions"].tolist() == ["a", "bcd"]


def test_words_and_pixels_alone_are_scored_beside():
    samples = pairs.open("synthetic-captions", "feeling", "test")
    kind, facts = recipe("ti-jepa").preset("tiny"), pairs.measure(samples)
    sides = [kind.present([samples.read(row) for row in rows]) for rows in (range(200), range(200, 400))]
    found = pairs.baselines(sides[0], torch.from_numpy(samples.labels[:200].copy()), sides[1], facts)
    right = {name: (said == samples.labels[200:]).mean() for name, said in found.items()}
    assert right.keys() == {"words alone", "pixels alone"}
    assert 0.6 < right["words alone"] < 0.95, "the picture is needed too"


def test_real_emoji(data_folder):
    folder = data_folder("emoji_text")
    train, test = pairs.open(str(folder)), pairs.open(str(folder), split="test")
    assert (len(train), len(test)) == (1287, 321)
    assert not train.problems
    assert train.captions(0) == ("grinning face",)
    assert train.read(0)["image"].shape == (72, 72, 3)
    assert (train.image(0)[0, 0] == 255).all(), "transparent corners lie on white"
    assert len(train.classes) == 9
    tagged = pairs.open(str(folder), reading={"caption_column": "caption,tags"})
    assert tagged.captions(0) == ("grinning face", "smile happy")
