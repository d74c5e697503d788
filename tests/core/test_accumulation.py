"""Health in bounded memory: streaming equals the whole, errors are what they say, processes add up."""

import math
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core import health
from anyjepa.core.accumulation import (
    Accumulator,
    Estimate,
    Sketch,
    difference_error,
    jackknife_error,
)
from anyjepa.core.neighbourhoods import self_cluster


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coloured(rows, dim=12, seed=0):
    return normal(rows, dim, seed=seed) / torch.arange(1, dim + 1) + 0.5


@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_batches_of_any_size_give_what_the_whole_gives(sizes, seed):
    z = coloured(sum(sizes) + 20, seed=seed)
    whole, sums = Accumulator(12).add(z), Accumulator(12)
    for part in z.split([*sizes, 20]):
        sums.add(part)
    first, second = sums.estimates(), whole.estimates()
    assert first.keys() == second.keys()
    assert sums.seen == len(z)
    for name, estimate in first.items():
        if "clid" not in name:  # its k-means begins elsewhere, for the sketch is in another order
            assert estimate.value == pytest.approx(second[name].value, rel=1e-5, abs=1e-7), name
    assert first["rankme"].value == pytest.approx(health.rankme(z))
    assert first["uniformity"].value == pytest.approx(health.uniformity(z))
    assert first["self_cluster"].value == pytest.approx(self_cluster(z))


def held(sums):
    """Bytes of all tensors that an accumulator holds."""
    parts = [vars(part) for part in (sums.sketch, *sums.grams, *sums.scatters)]
    tensors = [one for part in parts for one in part.values() if isinstance(one, torch.Tensor)]
    return sum(one.numel() * one.element_size() for one in tensors)


def test_memory_does_not_grow_with_the_number_of_embeddings():
    sums, batch = Accumulator(16, rows=256), normal(4096, 16)
    sums.add(batch)
    before = held(sums)
    assert before == 8 * 8 * (16 + 16 * 16) + 256 * (16 * 4 + 8 + 8)
    tracemalloc.start()
    start, _ = tracemalloc.get_traced_memory()
    for _ in range(50):
        sums.add(batch)
    end, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sums.seen == 51 * 4096
    assert held(sums) == before
    assert end - start < 20_000
    assert most - start < 200_000
    # what is kept is a copy: a batch is not held back by the few of its rows that stay
    assert sums.sketch.rows.untyped_storage().nbytes() == 256 * 16 * 4


def test_the_sketch_is_a_uniform_sample_of_what_was_seen():
    counts = np.zeros(100)
    for seed in range(200):
        sketch = Sketch(1, 20, seed)
        for start in range(0, 100, 7):
            places = torch.arange(start, min(start + 7, 100))
            sketch.add(places[:, None].float(), places)
        assert torch.equal(sketch.rows[:, 0].long(), sketch.places)
        assert len(set(sketch.places.tolist())) == 20
        counts[sketch.places] += 1
    # 200 draws of a fifth: 40 each, with variance 32; chi-squared of 99 degrees has 1 % above 135
    assert ((counts - 40) ** 2 / 40).sum() < 135
    # early and late rows are as likely
    assert abs(counts[:50].sum() - counts[50:].sum()) < 4 * math.sqrt(100 * 32)


def test_merging_is_seeing_both():
    z = coloured(500)
    first, second = Accumulator(12, seed=1).add(z[:200]), Accumulator(12, seed=2).add(z[200:])
    merged = first.merge(second)
    whole = Accumulator(12).add(z).estimates()
    for name in ("rankme", "alpha_req", "spread", "uniformity", "participation_ratio"):
        assert merged.estimates([name])[name].value == pytest.approx(whole[name].value, rel=1e-5)


def test_embeddings_that_are_not_finite_are_counted_and_left_out():
    z = coloured(200)
    broken = z.clone()
    broken[[5, 9], 3] = torch.nan
    sums = Accumulator(12).add(broken[:100], torch.arange(1000, 1100)).add(broken[100:])
    assert (sums.seen, sums.refused, sums.first_refused) == (200, 2, 1005)
    kept = torch.cat([z[:5], z[6:9], z[10:]])
    assert sums.estimates()["rankme"].value == pytest.approx(health.rankme(kept))


def test_the_error_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(0).normal(size=40)
    without = ((values.sum() - values) / 39).tolist()
    assert jackknife_error(without) == pytest.approx(values.std(ddof=1) / math.sqrt(40))
    assert math.isnan(jackknife_error([1.0]))


@pytest.mark.parametrize("name", ["rankme", "participation_ratio", "uniformity", "alpha_req", "spread"])
def test_an_error_is_how_far_figures_of_other_samples_lie(name):
    estimates = [
        Accumulator(12, seed=seed).add(coloured(400, seed=seed)).estimates([name])[name] for seed in range(40)
    ]
    spread = np.std([one.value for one in estimates], ddof=1)
    stated = np.sqrt(np.mean([one.error**2 for one in estimates]))
    assert 0.6 < stated / spread < 1.6


def test_two_encoders_on_the_same_samples_differ_by_less_than_their_errors_together():
    z = coloured(800)
    first = Accumulator(12).add(z).estimates(["spread"])["spread"]
    second = Accumulator(12).add(1.01 * z + 0.01 * normal(800, 12, seed=5)).estimates(["spread"])["spread"]
    assert difference_error(first, second) < 0.2 * math.hypot(first.error, second.error)
    alone = Estimate(1.0)
    assert math.isnan(difference_error(alone, alone))


def test_lidar_of_views_of_another_width_than_the_embeddings():
    seen = normal(300, 1, 5) + 0.3 * normal(300, 4, 5, seed=1)
    sums = Accumulator(12).add(coloured(300))
    for part in seen.split(64):
        sums.add_views(part)
    estimates = sums.estimates()
    assert estimates["lidar"].value == pytest.approx(health.lidar(seen), rel=1e-9)
    assert estimates["alignment"].value == pytest.approx(health.alignment(seen[:, 0], seen[:, 1]), rel=1e-9)
    assert 0 < estimates["lidar"].error < 1


PROCESS = """
import sys, torch, torch.distributed as distributed
from anyjepa.core.accumulation import Accumulator
rank, port = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
z = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) / torch.arange(1, 7)
mine = z[:100] if rank == 0 else z[100:]
sums = Accumulator(6, rows=400).add(mine)
if rank == 1:  # one process may have no views at all
    sums.add_views(z[:200].view(50, 4, 6))
sums.all_reduce()
print({name: one.value for name, one in sums.estimates().items()}, sums.seen, len(sums.sketch.rows))
distributed.destroy_process_group()
"""


def test_two_processes_know_what_one_would():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", PROCESS]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[0][0] == said[1][0]
    z = normal(300, 6) / torch.arange(1, 7)
    whole = Accumulator(6, rows=400).add(z).add_views(z[:200].view(50, 4, 6))
    words = said[0][0].rsplit("}", 1)
    assert words[1].split() == ["300", "300"]
    found = dict(pair.split(": ") for pair in words[0].strip("{").replace("'", "").split(", "))
    for name, one in whole.estimates().items():
        if "clid" not in name:
            assert float(found[name]) == pytest.approx(one.value, rel=1e-5, abs=1e-6), name
