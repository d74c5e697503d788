"""The report's clusters: the fullest first, each with what is nearest to it, one part a sample."""

import dataclasses

import numpy as np
import pytest
import torch

from anyjepa.core.method import Method
from anyjepa.domains import domains
from anyjepa.engine.run import Run
from anyjepa.reports.clustered import clustered
from anyjepa.reports.page import Clusters, Content, render


class Clustering(Method):
    """Two parts a sample, a bright one and a dark one, and three clusters of which one stays empty."""

    def exemplars(self, batch):
        image = batch["image"]
        scores = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]).repeat(len(image), 1)
        scores[::2, 0] += torch.arange(len(image)) / 100
        both = torch.stack([image, 255 - image], dim=1).flatten(0, 1)
        return scores, {"image": both}, torch.arange(len(image)).repeat_interleave(2)


class Plain(Method):
    """No clusters."""


def run_of(method, folder):
    values = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8)
    samples = domains()["image"].open(values)

    def batches(samples, indices, batch_size):
        for start in range(0, len(indices), batch_size):
            rows = indices[start : start + batch_size]
            yield rows, {"image": torch.from_numpy(values[rows])[:, None]}

    (folder / "checkpoints").mkdir(exist_ok=True)
    run = object.__new__(Run)
    run.method, run.batches, run.path = method, batches, folder
    run.domain, run.config = domains()["image"], {"data": {"facts": {}}}
    return run, samples


def test_clusters_are_shown_with_their_nearest(tmp_path):
    run, samples = run_of(Clustering(), tmp_path)
    found = clustered(run, samples, np.array([4, 1, 2]), 1.0)
    assert (found.filled, found.clusters, found.parts) == (2, 3, 6)
    assert [share for share, _ in found.rows] == ["50.0%", "50.0%"]
    # of the first cluster the last sample is nearest, and no sample is shown twice
    assert [picture.alt for picture in found.rows[0][1]] == ["of sample 2", "of sample 1", "of sample 4"]


def test_methods_without_clusters_and_runs_without_prototypes_have_no_such_section(tmp_path):
    run, samples = run_of(Plain(), tmp_path)
    assert clustered(run, samples, np.arange(3), 1.0) is None
    run, samples = run_of(Clustering(), tmp_path)
    (tmp_path / "checkpoints").rmdir()
    assert clustered(run, samples, np.arange(3), 1.0) is None


def test_the_page_says_what_is_in_them(full: Content, tmp_path):
    run, samples = run_of(Clustering(), tmp_path)
    found = clustered(run, samples, np.arange(3), 1.0)
    page = render(dataclasses.replace(full, clusters=found))
    assert "2 of 3 clusters are filled" in page and 'id="clusters"' in page
    assert 'id="clusters"' not in render(full)
    with pytest.raises(TypeError):
        Clusters([])
