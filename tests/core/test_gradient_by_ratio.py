"""The gradient by ratio by the exact checks of the note on SAR-JEPA."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import polygamma

from anyjepa.core.gradient_by_ratio import GradientBank, gradient_by_ratio

RADII = (5, 9, 13, 17)


def noise(side=48, batch=2, channels=1, seed=0):
    return (
        0.05 + torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(seed)).double()
    )


def by_convolution(image, radius, offset, centre):
    """The same by the released code's dense kernels."""
    size, middle = 2 * radius + 1, radius
    half = torch.zeros(4, 1, size, size, dtype=torch.float64)
    end = middle + 1 if centre else middle
    half[0, 0, :, :end] = half[2, 0, :end] = 1
    half[1, 0, :, size - end :] = half[3, 0, size - end :] = 1
    padded = torch.nn.functional.pad(image, (radius,) * 4, mode="reflect") + offset
    left, right, top, bottom = torch.nn.functional.conv2d(padded, half).log().split(1, dim=1)
    return ((left - right) ** 2 + (top - bottom) ** 2).sqrt()


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("radius", [1, 5, 17])
def test_means_of_means_are_the_released_convolutions(radius, centre):
    """Exact check 6."""
    known = by_convolution(noise(), radius, 0.01, centre)
    assert torch.allclose(gradient_by_ratio(noise(), radius, 0.01, centre), known, atol=1e-9)


def test_a_constant_image_has_no_gradient_anywhere():
    """Exact check 1."""
    assert GradientBank()(torch.full((1, 2, 40, 44), 0.37)).abs().max() < 1e-5
    assert torch.isfinite(GradientBank()(torch.zeros(1, 1, 40, 40))).all()


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.01, 100), radius=st.integers(1, 12))
def test_a_factor_changes_nothing_and_an_addend_does(factor, radius):
    """Exact check 2."""
    known = gradient_by_ratio(noise(32), radius, 0.0)
    assert torch.allclose(gradient_by_ratio(factor * noise(32), radius, 0.0), known, atol=1e-9)
    assert not torch.allclose(gradient_by_ratio(noise(32) + 0.5, radius, 0.0), known, atol=1e-3)


@pytest.mark.parametrize(("radius", "known"), [(5, 2.056), (9, 2.124), (13, 2.151), (17, 2.166)])
def test_a_step_has_the_known_response(radius, known):
    """Exact check 3: at the first column right of a step from 1 to 0.1."""
    step = torch.ones(1, 1, 80, 80, dtype=torch.float64)
    step[..., 40:] = 0.1
    found = gradient_by_ratio(step, radius)[0, 0, 40, 40].item()
    bright, dark = 1.01, 0.11
    assert found == pytest.approx(math.log((radius * bright + dark) / ((radius + 1) * dark)), abs=1e-9)
    assert found == pytest.approx(known, abs=6e-4)
    without = gradient_by_ratio(step, radius, centre=False)[0, 0, 40]
    # between the two columns of the step one half window reaches across it
    assert without.max().item() <= math.log(bright / dark) + 1e-9


def test_turns_and_mirrors_of_the_image_are_those_of_the_map():
    """Exact check 4."""
    image, bank = noise(), GradientBank()
    for change in (lambda x: x.rot90(1, (2, 3)), lambda x: x.flip(3), lambda x: x.flip(2)):
        assert torch.allclose(bank(change(image)), change(bank(image)), atol=1e-9)


@pytest.mark.parametrize(("radius", "known"), [(5, 0.192), (9, 0.108), (13, 0.0755), (17, 0.0580)])
def test_speckle_moves_the_logarithm_of_the_ratio_by_what_is_derived(radius, known):
    """Exact check 5: independent of the mean; an ordinary difference grows with it."""
    assert math.sqrt(2 * polygamma(1, radius * (2 * radius + 1))) == pytest.approx(known, abs=6e-4)
    speckle = torch.from_numpy(np.random.default_rng(0).gamma(1.0, size=(12, 1, 96, 96)))
    spread = []
    for mean in (0.1, 10.0):
        size = gradient_by_ratio(mean * speckle, radius, 0.0, centre=False)
        # both parts are nearly normal with the same deviation, so the length's mean square is twice it
        inner = size[..., radius:-radius, radius:-radius]
        spread.append(math.sqrt(inner.square().mean() / 2))
    assert spread[0] == pytest.approx(spread[1], rel=1e-6)
    assert spread[0] == pytest.approx(known, rel=0.12)


def test_the_bank_has_all_channels_of_each_radius_and_learns_nothing():
    """Exact check 10."""
    image = noise(channels=2).requires_grad_()
    bank = GradientBank((3, 5))
    maps = bank(image)
    assert maps.shape == (2, 4, 48, 48)
    assert torch.equal(maps[:, 2:], gradient_by_ratio(image, 5))
    assert not list(bank.parameters()) and not maps.requires_grad
