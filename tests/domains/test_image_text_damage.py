"""Damaged tables of captions, images and shards: named or refused in words, never worse."""

import json

import pytest
from damaged import withstands
from pictures import encoded, noise

FEW = pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.slow)])
PICTURES = {f"{number}.png": encoded(noise(8, 8, 3, seed=number)) for number in range(3)}


@FEW
def test_a_damaged_table(tmp_path, examples):
    rows = "image,caption,label\n" + "".join(f'{n}.png,"a caption, {n}",{n % 2}\n' for n in range(3))
    withstands("image-text", tmp_path, PICTURES | {"a.csv": rows.encode()}, "{}/a.csv", examples=examples)


@FEW
def test_damaged_annotations(tmp_path, examples):
    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(3)],
        "annotations": [{"image_id": n, "caption": f"caption {n}"} for n in range(3)],
    }
    parts = PICTURES | {"captions.json": json.dumps(content).encode()}
    withstands("image-text", tmp_path, parts, "{}/captions.json", examples=examples)
