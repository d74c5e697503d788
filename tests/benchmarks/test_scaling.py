"""The plan's formulas are what the recipe does."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scaling
import scaling_model
from step_parts import Sizes, useful_flops


@pytest.mark.parametrize("model", scaling.SMALL, ids=lambda model: model.name)
def test_operations_and_parameters_are_those_of_the_recipe(model):
    found = scaling.count_flops(model, batch=1)
    assert found["counted"] == pytest.approx(found["formula"], rel=1e-4)
    assert found["parameters"] == found["parameters_formula"]
    context, target = model.masks()
    sizes = Sizes(width=model.width, depth=model.depth, predictor_width=model.predictor_width,
                  predictor_depth=model.predictor_depth, batch_size=1)  # fmt: skip
    assert model.flops(context, target) == sum(useful_flops(sizes, context, target).values())


def test_all_reduce_by_hand():
    machine = scaling_model.Machine()
    assert scaling_model.all_reduce(3e9, 1, machine) == 0
    assert scaling_model.all_reduce(3e9, 8, machine) == pytest.approx(2 * 7 / 8 * 3e9 / 300e9)
    # two nodes: an eighth a GPU goes once there and back, in 120 buckets of two hops
    between = 2 / 2 * 3e9 / 8 / 40e9 + 2 * 1 * 10e-6 * 120
    assert scaling_model.all_reduce(3e9, 16, machine) == pytest.approx(2 * 7 / 8 * 3e9 / 300e9 + between)


def test_even_loaders_starve_nobody_and_slow_ones_by_what_they_lack():
    assert scaling.starving([1.0] * 10, 64, 0.9) == pytest.approx(0, abs=0.01)
    assert scaling.starving([1.0] * 10, 64, 2.0) == pytest.approx(0.5, abs=0.01)
