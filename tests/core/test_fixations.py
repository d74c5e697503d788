"""Fixations: where they fall, what is seen there, and what is not looked at again."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.core.fixations import centre_saliency, draw_fixations, foveas, gradient_saliency


def chances(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 999), st.integers(3, 20), st.integers(3, 20), st.integers(1, 9))
def test_a_patch_has_its_fixation_in_its_middle(seed, height, width, side):
    """Check 8 of the note: on an image that encodes its own coordinates, not transposed."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns])[None] + 1  # zero is what lies outside
    places = draw_fixations(torch.ones(1, height, width), chances(seed, 1, 3), 1.0)
    patches = foveas(image, places, side)
    assert patches.shape == (1, 3, 2, side, side)
    torch.testing.assert_close(patches[..., side // 2, side // 2] - 1, places)
    top, left = places[0, 0] - side // 2
    for row in range(side):
        for column in range(side):
            y, x = int(top) + row, int(left) + column
            inside = 0 <= y < height and 0 <= x < width
            assert patches[0, 0, 0, row, column] == (y + 1 if inside else 0)


@pytest.mark.parametrize("inhibition", ["square", "circle"])
@given(seed=st.integers(0, 999), radius=st.integers(1, 4))
def test_nothing_is_looked_at_again_while_there_is_elsewhere_to_look(inhibition, seed, radius):
    places = draw_fixations(
        torch.rand(4, 24, 24) + 0.1, chances(seed, 4, 4), float(radius), inhibition
    ).float()
    for later in range(1, 4):
        for earlier in range(later):
            away = (places[:, later] - places[:, earlier]).abs()
            far = away.amax(1) if inhibition == "square" else away.norm(dim=1)
            assert (far > radius).all()


def test_fixations_follow_the_map():
    saliency = torch.zeros(1, 8, 8)
    saliency[0, 2, 5], saliency[0, 6, 1] = 3.0, 1.0
    drawn = draw_fixations(saliency.expand(4000, -1, -1), chances(0, 4000, 1), 0.0, "none")[:, 0]
    upper = (drawn == torch.tensor([2, 5])).all(1)
    assert (upper | (drawn == torch.tensor([6, 1])).all(1)).all()
    assert float(upper.float().mean()) == pytest.approx(0.75, abs=0.03)


def test_a_map_that_is_used_up_leaves_all_places_alike():
    saliency = torch.zeros(500, 6, 6)
    saliency[:, 3, 3] = 1.0
    drawn = draw_fixations(saliency, chances(1, 500, 2), 2.0)
    assert (drawn[:, 0] == 3).all()
    assert len(drawn[:, 1].unique(dim=0)) == 36


def test_a_uniform_of_almost_one_stays_within_the_map():
    saliency = torch.zeros(1, 5, 5)
    saliency[0, 1, 2] = 0.3
    last = torch.tensor([[1 - 2**-24]])
    assert draw_fixations(saliency, last, 0.0, "none")[0, 0].tolist() == [1, 2]


def test_maps_without_a_label():
    image = torch.zeros(2, 3, 24, 24)
    image[0, :, 6:10, 12:] = 200.0
    found = gradient_saliency(image)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(found[1], centre_saliency(image[:1, 0])[0])
    assert found[0, 8, 13] > 5 * found[0, 20, 13], "an edge draws the eye"
    assert centre_saliency(image[:, 0])[0, 12, 12] > centre_saliency(image[:, 0])[0, 0, 0]
