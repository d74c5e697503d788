"""Views: cut where they should be, with their own parameters, and colours changed as the formulae say."""

import colorsys
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.domains import image_views
from anyjepa.domains.image_crops import resize_boxes
from anyjepa.domains.image_views import Views, gaussian_filter, in_dtype_of, triangle_filter

PLAIN = {"flip": 0.0, "jitter_chance": 0.0, "grey": 0.0, "blur": 0.0, "solarise": 0.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=4, channels=3, size=(20, 24), dtype=torch.uint8, seed=0):
    return torch.randint(0, 256, (count, channels, *size), generator=generator(seed)).to(dtype)


def test_the_whole_image_is_the_loaders_resize():
    x = images()
    views = Views(1, (8, 6), (1.0, 1.0), (1.0, 1.0), **PLAIN)(x, generator(), torch.full((4,), 1.0))[0]
    boxes = np.tile([0.0, 0.0, 20.0, 24.0], (4, 1))
    wanted = resize_boxes(x.permute(0, 2, 3, 1).numpy(), boxes, (8, 6))
    assert (in_dtype_of(views, x).int() - wanted.int()).abs().max() <= 1


@given(st.floats(0, 1), st.floats(0.05, 1), st.integers(2, 30), st.integers(1, 30))
def test_filters_average_and_know_where_they_are(share, extent, length, out):
    size = torch.tensor([extent * length], dtype=torch.float64)
    start = (length - size) * share
    weights = triangle_filter(start, size, length, out)[0]
    assert torch.allclose(weights.sum(1), torch.ones(out, dtype=torch.float64))
    assert (weights >= 0).all()
    # a ramp comes out as the places of the samples, but near the ends, where the filter is cut off
    places = weights @ (torch.arange(length, dtype=torch.float64) + 0.5)
    wanted = start + (torch.arange(out) + 0.5) * size / out
    reach = max(1.0, extent * length / out)
    inside = (wanted > reach) & (wanted < length - reach)
    assert torch.allclose(places[inside], wanted[inside], atol=0.35 * reach)


def test_a_ramp_shows_that_areas_and_aspects_are_those_asked_for():
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    x = torch.stack([rows, columns]).repeat(500, 1, 1, 1)
    views = Views(2, (16, 16), (0.2, 0.4), (0.5, 2.0), **PLAIN)(x, generator())
    tall = (views[:, :, 0, 12, 0] - views[:, :, 0, 4, 0]) * 2 / 64
    wide = (views[:, :, 1, 0, 12] - views[:, :, 1, 0, 4]) * 2 / 64
    share, ratio = (tall * wide).flatten(), (wide / tall).flatten()
    assert share.min() > 0.19 and share.max() < 0.41
    assert share.mean() == pytest.approx(0.3, abs=0.01)
    assert ratio.min() > 0.49 and ratio.max() < 2.05
    assert ratio.log().mean() == pytest.approx(0, abs=0.05)
    assert len(share.unique()) > 900, "every view of every image has a crop of its own"


def test_an_aspect_ratio_that_the_loader_squeezed_comes_back():
    x = images(200, 1, (32, 32), torch.float32)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    x = torch.stack([rows, columns]).repeat(200, 1, 1, 1)
    # images twice as wide as high: a square of them is half as wide in the squeezed array
    views = Views(1, (8, 8), (0.1, 0.2), (1.0, 1.0), **PLAIN)(x, generator(), torch.full((200,), 2.0))[0]
    tall = views[:, 0, 6, 0] - views[:, 0, 2, 0]
    wide = views[:, 1, 0, 6] - views[:, 1, 0, 2]
    assert torch.allclose(wide / tall, torch.full_like(wide, 0.5), atol=0.05)


def test_mirroring_is_of_columns_and_of_the_share_asked_for():
    x = torch.arange(16.0).repeat(1000, 1, 16, 1)
    views = Views(1, (16, 16), (1.0, 1.0), (1.0, 1.0), **{**PLAIN, "flip": 0.3})(x, generator())[0]
    mirrored = views[:, 0, 0, 0] > views[:, 0, 0, -1]
    assert float(mirrored.float().mean()) == pytest.approx(0.3, abs=0.05)
    assert torch.allclose(views[mirrored][0], views[~mirrored][0].flip(-1))


def test_views_depend_on_the_generator_only_and_samples_not_on_each_other():
    x, augment = images(), Views(3, (8, 8), (0.3, 1.0))
    first = augment(x, generator())
    torch.rand(2)
    assert torch.equal(first, augment(x, generator()))
    assert not torch.equal(first, augment(x, generator(1)))
    changed = x.clone()
    changed[0] = 0
    assert torch.equal(first[:, 1:], augment(changed, generator())[:, 1:])


@pytest.mark.parametrize(("channels", "dtype"), [(1, torch.uint8), (5, torch.int32), (3, torch.float32)])
def test_only_colours_of_three_channels_of_whole_numbers_are_changed(channels, dtype):
    x = images(8, channels, dtype=dtype)
    augment = Views(2, (8, 8), (0.5, 1.0))
    plain = dataclasses.replace(augment, jitter_chance=0.0, grey=0.0, solarise=0.0)
    assert torch.equal(augment(x, generator()), plain(x, generator()))
    colours = images(8)
    assert not torch.equal(augment(colours, generator()), plain(colours, generator()))


def test_blur_has_the_deviation_asked_for():
    weights = gaussian_filter(torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64), 41)
    assert torch.equal(weights[0], torch.eye(41, dtype=torch.float64))
    place = torch.arange(41, dtype=torch.float64) - 20
    for sigma, row in ((1.0, weights[1, 20]), (2.5, weights[2, 20])):
        assert float((row * place**2).sum()) == pytest.approx(sigma**2, rel=1e-3)


def test_a_blurred_view_is_the_view_blurred():
    x = images(3, 1, dtype=torch.float32)
    plain = Views(1, (12, 12), (0.5, 0.9), **PLAIN)
    blurred = dataclasses.replace(plain, blur=1.0, blur_sigma=(1.5, 1.5))
    sharp = plain(x, generator())
    weights = gaussian_filter(torch.tensor([1.5]), 12)[0]
    assert torch.allclose(blurred(x, generator()), weights @ sharp @ weights.T, atol=1e-3)


def test_colours_are_changed_as_the_formulae_say():
    view = torch.rand(2, 3, 4, 5, generator=generator(), dtype=torch.float64)
    factor = torch.tensor([0.5, 1.3], dtype=torch.float64)
    each = factor[:, None, None, None]
    grey = image_views.luma(view)
    assert torch.allclose(grey[:, 0], 0.2989 * view[:, 0] + 0.587 * view[:, 1] + 0.114 * view[:, 2])
    assert torch.allclose(image_views.brighten(view, factor), (view * each).clamp(0, 1))
    mean = grey.mean((1, 2, 3))[:, None, None, None]
    assert torch.allclose(image_views.contrast(view, factor), (view * each + (1 - each) * mean).clamp(0, 1))
    assert torch.allclose(image_views.saturate(view, factor), (view * each + (1 - each) * grey).clamp(0, 1))


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(-0.5, 0.5))
def test_hue_turns_as_in_hsv(colour, turn):
    pixel = torch.tensor(colour, dtype=torch.float64).view(3, 1, 1)
    turned = image_views.turn_hue(pixel, torch.tensor(turn, dtype=torch.float64)).flatten()
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    wanted = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    assert torch.allclose(turned, torch.tensor(wanted, dtype=torch.float64), atol=1e-9)


def test_shares_of_grey_and_solarised_views():
    x = torch.tensor([200, 100, 50], dtype=torch.uint8)[:, None, None].repeat(2000, 1, 4, 4)
    none = {**PLAIN, "grey": 0.2, "solarise": 0.3}
    views = Views(1, (4, 4), (0.9, 1.0), **none)(x, generator())[0][:, :, 0, 0]
    grey = views[:, 0] == views[:, 1]
    assert float(grey.float().mean()) == pytest.approx(0.2, abs=0.03)
    inverted = (views[:, 0] - 55).abs() < 1
    assert float(inverted[~grey].float().mean()) == pytest.approx(0.3, abs=0.04)
    assert torch.allclose(views[inverted][0], torch.tensor([55.0, 100, 50]), atol=0.1)


def test_pixels_return_to_their_own_dtype():
    x = images(1, dtype=torch.int32)
    assert in_dtype_of(torch.tensor([-3.0, 2.6, 70000.0]), x).tolist() == [0, 3, 65535]
    assert in_dtype_of(torch.tensor([-3.0]), x.float()).tolist() == [-3.0]
