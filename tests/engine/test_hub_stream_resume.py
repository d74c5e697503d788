"""A training on a data set that is read where it lies stops anywhere and goes on to the bit."""

import numpy as np
import pytest
import torch
from small import killed_at, pictures, same_to_the_bit, train_small

from anyjepa.domains import image_samples, remote
from anyjepa.domains.image_sources import open_images
from anyjepa.engine.loading import Steps
from anyjepa.recipes import recipe

STEPS = 12  # of 16 in epochs of 4


@pytest.fixture
def data(tmp_path, monkeypatch):
    import datasets
    from pictures import encoded

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setenv("ANYJEPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_samples, "RESIDENT_BYTES", 0)
    (tmp_path / "set").mkdir()
    features = datasets.Features({"image": datasets.Image()})
    for file, found in enumerate(np.split(pictures(70), [40])):
        content = [{"bytes": encoded(picture), "path": None} for picture in found]
        table = datasets.Dataset.from_dict({"image": content}, features)
        table.to_parquet(tmp_path / f"set/train-{file:05d}-of-00002.parquet", batch_size=7)
    return f"hf-stream:{tmp_path / 'set'}"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_resume_to_the_bit_with_any_number_of_workers(tmp_path, data):
    for workers in (0, 2):
        train_small(tmp_path / f"whole-{workers}", data, steps=STEPS, workers=workers)
    assert same_to_the_bit(tmp_path / "whole-0", tmp_path / "whole-2")
    out = tmp_path / "run"
    killed_at(7, train_small, out, data, steps=STEPS, workers=2, checkpoint_every=2)
    for file in remote.cache_folder().iterdir():
        file.unlink()
    train_small(out, data, resume=True, fields={}, steps=None)
    assert same_to_the_bit(out, tmp_path / "whole-0")


def test_an_epoch_sees_every_picture_once_and_neighbours_together(tmp_path, data, monkeypatch):
    """As a buffer of 16 over shuffled row groups would, but a function of seed, epoch and place."""
    samples = open_images(data)
    monkeypatch.setattr(samples, "window", 16)
    loader = Steps(samples, recipe("i-jepa").preset("tiny"), 4, 0, 34)
    order = [loader._indices(epoch, 0, 68) for epoch in (0, 1)]
    assert all(len(set(rows.tolist())) == 68 for rows in order)
    assert not np.array_equal(*order)
    groups = np.searchsorted(samples.blocks, order[0], side="right")
    assert len(set(groups[:16].tolist())) <= 5 < len(samples.blocks)
    parts = [
        Steps(samples, loader.recipe, 4, 0, 34, part=(rank, 2))._indices(0, 2 * rank, 2 * rank + 2)
        for rank in (0, 1)
    ]
    assert torch.equal(torch.tensor(np.concatenate(parts)), torch.tensor(order[0][:4]))
