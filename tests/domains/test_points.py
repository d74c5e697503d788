"""Clouds as a domain: what is measured, described without learning, and drawn."""

import base64
import html.parser
import re

import numpy as np
import pytest
import torch
from clouds import cloud, lines, write

from anyjepa.core.errors import UserError
from anyjepa.domains.point_drawing import drawn_cloud, patch_of_points, turnable_cloud
from anyjepa.domains.points import Points, resampled

DOMAIN = Points()


def batch(count=3, points=400, columns=3, seed=0):
    return {"points": torch.randn(count, points, columns, generator=torch.Generator().manual_seed(seed))}


def test_facts_are_of_the_channels_and_sizes(tmp_path):
    for number in range(4):
        write(tmp_path / f"{number}.xyz", lines(cloud(20 + number, 5, seed=number)))
    samples = DOMAIN.open(str(tmp_path), reading={"channels": 1, "up": "z", "patches": 8})
    facts, everything = DOMAIN.measure(samples), np.concatenate([samples.read(i) for i in range(4)])
    assert facts["channels"] == 1
    assert facts["channel_mean"] == pytest.approx([everything[:, 3].mean()])
    assert facts["channel_std"] == pytest.approx([everything[:, 3].std()], rel=1e-5)
    assert (facts["least_points"], facts["points"], facts["most_points"]) == (20, 21, 23)
    assert (facts["up"], facts["patches"]) == ("z", 8)
    assert DOMAIN.open(str(tmp_path), reading=facts).read(0).shape == (20, 4), "read alike later"
    noise = DOMAIN.noise(facts, 3)
    assert [part.shape for part in noise] == [(21, 4)] * 3 and noise[0].dtype == np.float32
    assert all(np.array_equal(a, b) for a, b in zip(noise, DOMAIN.noise(facts, 3), strict=True))


def test_the_raw_description_is_of_the_shape_alone():
    points = batch()
    raw = DOMAIN.raw(points, {})
    assert raw.shape == (3, 64 + 3 + 512)
    assert torch.isfinite(raw).all()
    moved = DOMAIN.raw({"points": 4 * points["points"] + 7}, {})
    # a point on the wall of a cell may change sides
    assert (raw - moved).abs().mean() < 0.05
    assert torch.allclose(raw[:, :64].mean(dim=1), torch.ones(3)), "shares in units of an even spread"
    assert torch.allclose(raw[:, 67:].sum(dim=1), torch.full((3,), 512.0), atol=1e-2)


def test_principal_axes_of_a_flat_cloud_say_that_it_is_flat():
    flat = torch.rand(1, 3000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 1.0, 0.0])
    spread = DOMAIN.raw({"points": flat}, {})[0, 64:67]
    assert spread[0] / spread[1] == pytest.approx(2, rel=0.05)
    assert spread[2] < 1e-3


def test_channels_are_described_too():
    points = batch(columns=4)
    assert torch.allclose(DOMAIN.raw(points, {})[:, -2], points["points"][..., 3].mean(dim=1))


def test_a_picture_shows_colours_where_they_are_given():
    points = batch(1)
    plain = DOMAIN.picture(points, 0, {})
    assert plain.shape == (120, 120, 3) and plain.dtype == np.uint8
    assert (plain != plain[0, 0]).any(axis=2).mean() > 0.02
    red = torch.full((4, 3), torch.nan)
    red[2] = torch.tensor([1.0, 0, 0])
    painted = DOMAIN.picture(points, 0, {}, red)
    is_red = (painted[..., 0] > 100) & (painted[..., 1] == 0)
    assert 0 < is_red.sum() < (painted != painted[0, 0]).any(axis=2).sum()


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_what_points_up_is_drawn_above(up):
    axis = "xyz".index(up)
    upright = torch.zeros(1, 200, 3)
    upright[0, :, axis] = torch.linspace(-1, 1, 200)
    rows = np.flatnonzero((drawn_cloud(upright[0], up=up) != [20, 23, 28]).any(axis=2).any(axis=1))
    columns = np.flatnonzero((drawn_cloud(upright[0], up=up) != [20, 23, 28]).any(axis=2).any(axis=0))
    assert np.ptp(rows) > 5 * np.ptp(columns)


def test_drawings_turn_and_never_mirror():
    from anyjepa.domains.point_drawing import _upright

    points = batch(1)["points"][0]
    known = _upright(points, "y")
    for up in "xz":
        turned = _upright(points, up)
        matrix = np.linalg.lstsq(known, turned, rcond=None)[0]
        assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-4)


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_a_figure_is_a_canvas_that_carries_its_points_and_loads_nothing():
    points = batch(1, 3000)
    drawing = DOMAIN.figure(points, 0, {"patches": 16})
    tags = Tags()
    tags.feed(drawing)
    assert [tag for tag, _ in tags.found] == ["canvas", "script"]
    raw = np.frombuffer(base64.b64decode(tags.found[0][1]["data-cloud"]), np.uint8).reshape(-1, 10)
    assert len(raw) == 1200
    places = raw[:, :6].copy().view("<u2") / 32767.5 - 1
    assert np.quantile(np.linalg.norm(places, axis=1), 0.95) <= 1
    assert len(np.unique(raw[:, 6:9], axis=0)) == 16, "a colour a patch"
    assert not re.search(r"https?:|src=|import ", drawing)


def test_grey_is_small_and_the_uncoloured_is_plain():
    colours = torch.full((4, 3), torch.nan)
    colours[0], colours[1] = 0.55, torch.tensor([0.9, 0.6, 0.0])
    points = batch(1)["points"][0]
    content = re.search(r'data-cloud="([^"]+)"', turnable_cloud(points, colours)).group(1)
    raw = np.frombuffer(base64.b64decode(content), np.uint8).reshape(-1, 10)
    patch = patch_of_points(points, 4)[0].numpy()
    assert set(raw[patch == 0, 9]) == {9} and set(raw[patch != 0, 9]) == {16}
    assert len(np.unique(raw[patch >= 2, 6:9], axis=0)) == 1


def test_patches_of_points_are_those_of_the_nearest_centre():
    points = batch(1)["points"][0]
    patch, centres = patch_of_points(points, 6)
    assert torch.equal(patch[centres], torch.arange(6))
    apart = torch.cdist(points, points[centres])
    assert torch.allclose(apart.gather(1, patch[:, None])[:, 0], apart.amin(dim=1))


def test_resampling_keeps_everything_of_few_points():
    found = resampled([cloud(7), cloud(50)], 20, [np.random.default_rng(i) for i in range(2)])
    assert found.shape == (2, 20, 3) and found.dtype == np.float32
    assert sorted(np.unique(found[0], axis=0, return_counts=True)[1]) == [2] * 1 + [3] * 6
    assert len(np.unique(found[1], axis=0)) == 20


def test_a_source_without_a_readable_cloud_cannot_be_measured(tmp_path):
    write(tmp_path / "a.xyz", lines(cloud(5)))
    samples = DOMAIN.open(str(tmp_path))
    samples.array = None
    (tmp_path / "a.xyz").unlink()
    with pytest.raises(UserError, match="no readable cloud"):
        DOMAIN.measure(samples)
