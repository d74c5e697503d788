"""The cache of embeddings: the vectors that would be computed, found where all is the same, safe to lose."""

import dataclasses

import numpy as np
import pytest
import torch
from small import FIELDS, picture_folder, pictures, train_small

from anyjepa.core.errors import BadSample
from anyjepa.engine.cache import KINDS, embedded
from anyjepa.engine.run import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    train_small(place / "run", pictures(40), steps=2)
    return place


@pytest.fixture
def run(folder):
    for file in (folder / "run" / "cache").glob("*"):
        file.unlink()
    return load(folder / "run")


def files(run):
    return sorted((run.path / "cache").glob("*.safetensors"))


def opened(run, count=30, seed=0):
    return run.domain.open(pictures(count, seed=seed))


def test_what_comes_out_is_what_would_be_computed(run):
    samples = opened(run)
    first = embedded(run, samples, kinds=KINDS)
    again = embedded(run, opened(run), kinds=KINDS)
    plain = embedded(run, samples, kinds=KINDS, keep=False)
    assert (first.computed, again.computed, plain.computed) == (90, 0, 90)
    batch = next(run.batches(samples))[1]
    with torch.inference_mode():
        for kind, expected in [
            ("trained", run.method.embed(batch)), ("untrained", run.untrained().method.embed(batch)),
            ("raw", run.domain.raw(batch, run.facts)),
        ]:  # fmt: skip
            assert torch.equal(first.features[kind], expected.float())
            assert torch.equal(again.features[kind], first.features[kind])
            assert torch.equal(plain.features[kind], first.features[kind])
    assert len(files(run)) == 3
    assert first.features["trained"].shape == (30, FIELDS["width"])


def test_only_what_is_missing_is_computed_in_whatever_order_it_is_asked_for(run):
    samples = opened(run)
    some = embedded(run, samples, np.array([7, 3, 20]))
    more = embedded(run, samples, np.array([20, 1, 3]), ("trained", "raw"))
    assert (some.computed, more.computed) == (3, 1 + 3)
    everything = embedded(run, samples, keep=False).features["trained"]
    assert torch.allclose(some.features["trained"], everything[[7, 3, 20]], atol=1e-6)
    assert torch.allclose(more.features["trained"], everything[[20, 1, 3]], atol=1e-6)
    assert embedded(run, samples).computed == 30 - 4


def test_other_weights_data_fields_or_contents_are_other_entries(run, tmp_path):
    embedded(run, opened(run))
    assert embedded(run, opened(run, seed=1)).computed == 30, "other pictures"
    almost = pictures(30)
    almost[17, 0, 0] ^= 1
    assert embedded(run, run.domain.open(almost)).computed == 30, "one pixel of another"
    other = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, teacher="none"))
    assert embedded(other, opened(run)).computed == 30, "another field"
    with torch.no_grad():
        next(run.method.backbone.parameters()).add_(1e-3)
    assert embedded(run, opened(run)).computed == 30, "other weights"


def test_a_file_that_changes_in_place_is_read_again(run, tmp_path):
    source = picture_folder(tmp_path / "pictures", 10)
    embedded(run, run.domain.open(str(source)))
    assert embedded(run, run.domain.open(str(source))).computed == 0
    first = sorted(source.rglob("*.png"))[0]
    content = first.read_bytes()
    first.write_bytes(content)
    assert embedded(run, run.domain.open(str(source))).computed == 10


def test_what_cannot_be_read_is_named_each_time_and_not_read_again(run):
    class Damaged(type(opened(run))):
        reads = 0

        def read(self, index):
            Damaged.reads += 1
            if index in (2, 5):
                raise BadSample(str(index), "is torn")
            return super().read(index)

    samples = opened(run)
    samples.__class__ = Damaged
    first = embedded(run, samples)
    assert first.rows.tolist() == [i for i in range(30) if i not in (2, 5)]
    assert {problem.identity for problem in run.problems} == {"2", "5"}
    reads, run.problems = Damaged.reads, []
    again = embedded(run, samples)
    assert Damaged.reads == reads
    assert torch.equal(again.features["trained"], first.features["trained"])
    assert {problem.identity for problem in run.problems} == {"2", "5"}


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_costs_time_and_nothing_else(run, damage):
    whole = embedded(run, opened(run)).features["trained"]
    [file] = files(run)
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    again = embedded(run, opened(run))
    assert again.computed == 30
    assert torch.equal(again.features["trained"], whole)
    assert embedded(run, opened(run)).computed == 0


def test_the_cache_keeps_within_its_bound_and_the_oldest_goes_first(run):
    one = 30 * FIELDS["width"] * 4
    bound = int(3.5 * one)
    for seed in range(6):
        embedded(run, opened(run, seed=seed), bound=bound)
        assert sum(file.stat().st_size for file in files(run)) <= bound
    assert embedded(run, opened(run, seed=5), bound=bound).computed == 0
    assert embedded(run, opened(run, seed=0), bound=bound).computed == 30
    embedded(run, opened(run, seed=9), bound=one)
    assert not [file for file in files(run) if file.stat().st_size > one]


def test_without_a_folder_or_permission_it_is_computed(run, monkeypatch):
    alone = dataclasses.replace(run, path=run.path / "encoder.safetensors")
    assert embedded(alone, opened(run)).computed == 30
    assert not files(run)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anyjepa.engine.cache.write_whole", full)
    assert embedded(run, opened(run)).computed == 30
    assert not files(run)
