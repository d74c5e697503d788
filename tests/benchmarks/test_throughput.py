"""The throughput benchmark: what it counts is what is executed, and what it dissects is what trains."""

import importlib
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    """The benchmark's modules; they are scripts, so their folder is on the path as when they are run."""
    pytest.importorskip("transformers", reason="the peer is made of transformers' modules")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        names = ("step_parts", "throughput", "transformers_peer")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def dissected(benchmark, tmp_path):
    sizes, folder, run = benchmark.throughput.QUICK, tmp_path / "images", tmp_path / "parts"
    folder.mkdir()
    run.mkdir()
    benchmark.throughput.write_images(folder, sizes.files, sizes.file_side)
    return benchmark.step_parts.Dissected(sizes, folder, run, steps=4)


def test_useful_flops_of_one_block_by_hand(benchmark):
    # 10 tokens of width 4: projections and perceptron 12 * 4 * 4 weights, two products of 10 x 10 x 4
    sizes = benchmark.step_parts.Sizes(
        image=8, patch=8, width=4, depth=1, predictor_width=2, predictor_depth=1, batch_size=1, targets=1
    )
    parts = benchmark.step_parts.useful_flops(sizes, context=10, target=1)
    blocks = 3 * (2 * 10 * 192 + 2 * 2 * 10 * 10 * 4)
    assert parts["encoder"] == blocks + 2 * (2 * 10 * 192 * 4)


def test_useful_flops_agree_with_what_is_executed(benchmark, dissected):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    sizes, method, (batch, _) = benchmark.throughput.QUICK, dissected.method, dissected.data[0]
    masks = method.sampler(sizes.batch_size, dissected.context().generator)
    parts = benchmark.step_parts.useful_flops(sizes, masks.context.shape[1], masks.targets.shape[2])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        method.target(method.encoder, batch)
    assert counter.get_total_flops() == parts["teacher"]
    counted = benchmark.step_parts.counted_flops(lambda: method.losses(batch, dissected.context())["loss"])
    patches, pixels = (sizes.image // sizes.patch) ** 2, 3 * sizes.patch**2
    # the encoder may project patches that it then drops, forward and for the weights' gradient
    dropped = sizes.batch_size * 4 * (patches - masks.context.shape[1]) * pixels * sizes.width
    # the sampler joins target blocks by a small product of its own
    union = sizes.batch_size * 2 * sizes.targets * patches
    assert counted - sum(parts.values()) - union in (0, dropped)


def test_dissected_step_learns_what_the_engine_learns(benchmark, dissected, tmp_path):
    """Same data, seed and schedule: the same losses, step by step."""
    ours = [dissected.update(dissected.data[step][0])["loss"].item() for step in range(4)]
    settings = benchmark.throughput.Settings(
        steps=4, log_every=1, device="cpu", precision="32-true", quiet=True, workers=0
    )
    benchmark.throughput.train(
        benchmark.throughput.QUICK.recipe(), str(tmp_path / "images"), tmp_path / "run", settings=settings
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ours == pytest.approx([row["loss"] for row in rows], rel=1e-5)


def test_collator_hides_the_targets_and_stacks(benchmark):
    images = [torch.zeros(3, 1, 1)] * 16
    for _ in range(20):
        _, context, targets = benchmark.transformers_peer.MultiBlockCollator(14, 4)(images)
        assert targets.shape[:2] == (16, 4)
        for seen, blocks in zip(context.tolist(), targets, strict=True):
            assert len(set(seen)) == len(seen)
            assert not set(seen) & set(blocks.flatten().tolist())
            for block in blocks:
                rows, columns = (block // 14).unique(), (block % 14).unique()
                assert len(rows) * len(columns) == len(block.unique()) == len(block)


def test_peer_learns_and_its_teacher_follows(benchmark, dissected, tmp_path):
    torch.manual_seed(0)
    random.seed(0)
    peer, _ = benchmark.throughput.choose_peer(benchmark.throughput.QUICK, tmp_path / "images", 0, 1)
    model = peer.model
    assert {layer.attention.config._attn_implementation for layer in model.layers} == {"sdpa"}
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    trained = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    peer.step()
    now = dict(model.named_parameters())
    assert not [name for name, value in trained.items() if torch.equal(value, now[name])]
    for name, fast in model.encoder.state_dict().items():
        torch.testing.assert_close(model.teacher.state_dict()[name], 0.996 * before[name] + 0.004 * fast)
    for group in peer.optimiser.param_groups:
        group["lr"] = 1e-3
    for _ in range(150):
        peer.step()
    assert sum(peer.losses[-10:]) < 0.9 * sum(peer.losses[:10])


def test_quick_run_reports_consistent_figures(benchmark, tmp_path, capsys):
    benchmark.throughput.main(["--quick", "--json", "--out", str(tmp_path / "found.json")])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "found.json").read_text())
    rates = found["samples_per_second"]
    ratios = [a / b for a, b in zip(rates["ours"]["rounds"], rates["peer"]["rounds"], strict=True)]
    assert found["ratio"]["rounds"] == pytest.approx(ratios)
    assert found["ratio"]["min"] <= found["ratio"]["median"] <= found["ratio"]["max"]
    equal = found["ratio"]["median"] * found["useful_flops"] / found["peer_useful_flops"]
    assert found["ratio_for_equal_flops"] == pytest.approx(equal)
    seconds = found["seconds_of_step"]
    model = sum(seconds[name] for name in benchmark.step_parts.MODEL)
    assert found["share_outside_model"]["median"] == pytest.approx(1 - model / sum(seconds.values()))
    assert 0 < found["share_of_matrix_rate"]["median"] < 1
    assert "ratio" in benchmark.throughput.describe(found)
