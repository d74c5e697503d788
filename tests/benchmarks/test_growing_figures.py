"""The benchmarks of growth, loops, loaders and GPUs: what they compare is the same, and they run."""

import importlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports one of the scripts, whose folder is on the path as when it is run."""
    pytest.importorskip("transformers", reason="the peer is made of transformers' modules")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law(script, power):
    x = [4.0, 9.0, 20.0, 45.0]
    found = script("growth").exponent(x, [3.0 * value**power for value in x])
    assert found == pytest.approx(power)


def test_the_flops_of_growth_are_linear_where_they_are_said_to_be(script):
    growth = script("growth")
    counted = []
    for batch in (2, 4, 8):
        call = growth.step(batch, {"depth": 1})
        with FlopCounterMode(display=False) as counter:
            call()
        counted.append(counter.get_total_flops())
    assert growth.exponent([2, 4, 8], counted) == pytest.approx(1.0, abs=0.01)


def test_a_points_process_tells_its_own_peak(script):
    growth = script("growth")

    def large():
        held = torch.ones(2**17, 64)
        return lambda: held.T @ held

    found = growth.point(large, 1, growth.CLOCKS["processor"])
    assert 30 < found["megabytes"] < 80
    assert found["flops"] > 0


def test_the_products_of_a_call_and_of_its_gradient_are_all_found(script):
    shapes = script("product_shapes")
    layer, x = torch.nn.Linear(6, 5), torch.randn(7, 6, requires_grad=True)
    query = torch.randn(2, 3, 4, 8, requires_grad=True)

    def call():
        attended = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        (layer(x).square().sum() + attended.square().sum()).backward()

    with FlopCounterMode(display=False) as counter:
        call()
    found = shapes.products_of(call)
    kinds = Counter(str(what).split(".")[1] for what, _ in found.elements())
    assert kinds["addmm"] == 1
    assert kinds["mm"] == 2
    assert kinds["_scaled_dot_product_flash_attention_for_cpu"] == 1
    assert kinds["_scaled_dot_product_flash_attention_for_cpu_backward"] == 1
    assert counter.get_total_flops() > 0
    assert shapes.seconds_alone(found, script("growth").CLOCKS["wall"]) > 0


@pytest.mark.parametrize("pair", ["sampling", "predictor", "masks", "average", "gathered"])
def test_loops_do_what_is_done_at_once(script, pair):
    """The pairs assert themselves that both give the same."""
    loops = script("loops")
    found = loops.compare(getattr(loops, pair)(), 1, loops.CLOCKS["processor"])
    assert 0 < found["least"] <= found["ratio"] <= found["greatest"]


@pytest.mark.parametrize("name", ["folder", "idx", "wfdb"])
def test_a_loader_is_measured(script, name, capsys, monkeypatch):
    data = script("data")
    for module in (data.ecg_samples, data.image_samples, data.point_samples, data.video_sources):
        monkeypatch.setattr(module, "RESIDENT_BYTES", module.RESIDENT_BYTES)
    data.main([name, "--count", "6", "--rounds", "1", "--json"])
    found = json.loads(capsys.readouterr().out)[name]
    assert found["samples_per_second"] > 0
    assert np.isfinite(found["plain"]["ratio"])


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_one(script, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    script("gpu").main(["--device", "cpu", "--quick", "--out", str(out)])
    row = json.loads(out.read_text())["models"][0]
    assert row["compiled_after_warm_up"]["ours, compiled"] == 0
    assert row["useful_flops_of_step"] > 0
    assert "ViT-S/16" in capsys.readouterr().out
