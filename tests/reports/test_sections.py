"""Sections: what is near, what is seen, and what colours mean."""

import numpy as np
import pytest
import torch

from anyjepa.core.tokens import Tokens
from anyjepa.domains.images import Images
from anyjepa.reports import sections
from anyjepa.reports.pictures import fit, sprite_sheet
from anyjepa.reports.sections import Labels, Looked


def looked(embeddings, labels=None):
    count = len(embeddings)
    pictures = [np.full((4, 4, 3), index, dtype=np.uint8) for index in range(count)]
    return Looked(embeddings, pictures, [f"s{index}" for index in range(count)], Labels(labels, ["a", "b"]))


def test_neighbours_are_nearest_by_the_angle_from_the_mean():
    angles = torch.tensor([0.0, 0.1, 0.3, 3.14, 3.3, 3.6])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = sections.neighbours(looked(embeddings + 100), [0, 3], count=2)
    assert [[one.alt.split(",")[0] for one in row] for _, row in found.rows] == [
        ["Sample s1", "Sample s2"],
        ["Sample s4", "Sample s5"],
    ]
    assert (found.searched, found.right, found.chance) == (6, None, None)


def test_neighbours_are_right_by_label_and_unknown_labels_do_not_count():
    embeddings = torch.tensor([[1.0, 0], [1, 0.1], [1, 0.2], [-1, 0], [-1, 0.1]])
    found = sections.neighbours(looked(embeddings, np.array([0, 0, 1, -1, 1])), [0], count=4)
    assert sorted(one.tone for one in found.rows[0][1]) == ["", "right", "wrong", "wrong"]
    assert found.right == pytest.approx(1 / 3)
    assert found.chance == pytest.approx(1 / 3)  # of the three others whose label is known


def test_chosen_samples_are_of_as_many_classes_as_there_are():
    labels = Labels(np.array([0] * 50 + [1, 2]))
    for seed in range(5):
        picked = sections.chosen(labels, 3, 52, seed)
        assert set(np.array(labels.values)[picked]) == {0, 1, 2}
    assert len(set(sections.chosen(Labels(None), 6, 52, 0))) == 6


def test_the_context_stays_and_the_rest_is_covered():
    colours = sections.context_colours(torch.tensor([1, 3]), 4)
    assert torch.isnan(colours).all(dim=1).tolist() == [False, True, False, True]


def test_overlapping_blocks_mix_their_colours():
    colours = sections.block_colours(torch.tensor([[0, 1], [1, 2]]), 4, ["#ff0000", "#0000ff"])
    expected = [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1], [np.nan] * 3]
    assert np.allclose(colours.numpy(), expected, equal_nan=True)


def test_paint_covers_its_share_of_what_is_painted_only():
    whole = np.full((1, 2, 3), 10, dtype=np.uint8)
    painted = whole.copy()
    painted[0, 1] = 200
    assert sections.tint(whole, painted, 0.5, gain=10.0).tolist() == [[[100] * 3, [150] * 3]]


def test_only_pictures_that_are_all_dark_are_brightened():
    dark, bright = np.full((2, 2, 3), 16, dtype=np.uint8), np.full((2, 2, 3), 128, dtype=np.uint8)
    assert sections.brightness([dark, dark // 2]) == 255 / 16
    assert sections.brightness([dark, bright]) == 1
    assert sections.brightness([dark * 0]) == 1
    assert sections.brighter(dark, 255 / 16).max() == 255


def test_token_colours_are_the_principal_components():
    values = torch.zeros(2, 50, 6)
    values[..., 4] = torch.linspace(-1, 1, 100).reshape(2, 50)
    colours, explained = sections.token_colours(Tokens(values, torch.zeros(1, 50, 1)), None)
    assert explained == pytest.approx(1)
    assert (colours[..., 0].flatten().diff() >= 0).all()
    assert (colours[0, 0, 0], colours[1, -1, 0]) == (0, 1)
    assert (colours[..., 1:] - 0.5).abs().max() <= 0.5


def test_position_alone_has_no_colour_once_it_is_taken_off():
    position = torch.randn(9, 4)
    tokens = Tokens(position.expand(3, 9, 4), torch.zeros(1, 9, 2))
    colours, _ = sections.token_colours(tokens, position)
    assert (colours == 0.5).all()


def test_padding_has_no_colour():
    present = torch.tensor([[True, True, False], [True, False, False]])
    colours, _ = sections.token_colours(Tokens(torch.randn(2, 3, 5), torch.zeros(2, 3, 1), present), None)
    assert torch.equal(torch.isnan(colours).all(dim=2), ~present)


def test_a_spectrum_counts_its_directions():
    chart = sections.spectrum([("even", torch.eye(8)), ("point", torch.ones(8, 8))])
    ranks = [float(text.removeprefix("RankMe ")) for _, text in chart.legend]
    assert ranks == pytest.approx([8, 1], abs=0.01)
    assert chart.hover["points"][0][2][0][1] == "0.125"
    assert "7 below the accuracy" in chart.note


def test_a_map_needs_embeddings_that_differ():
    assert "would say nothing" in sections.embedding_map(looked(torch.randn(3, 4)), 0)
    assert "point the same way" in sections.embedding_map(looked(torch.ones(20, 4)), 0)


def test_a_map_is_the_same_twice():
    embeddings = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    first, second = (sections.embedding_map(looked(embeddings), 3) for _ in range(2))
    assert np.array_equal(first.points, second.points)


def test_classes_past_the_last_mark_are_grey_and_counted():
    values = np.concatenate([np.arange(30), np.arange(10, 30), [-1]])
    marks, legend = sections.map_marks(Labels(values, [f"c{n}" for n in range(30)]), len(values))
    assert max(marks) == sections.NAMED - 1
    assert legend[-1] == (-1, "9 more classes")
    assert marks[10] == marks[30] >= 0  # frequent classes come first
    assert marks[-1] == -1


def test_targets_that_are_numbers_grade_from_blue_to_orange():
    marks, legend = sections.map_marks(Labels(np.array([0.0, 5.0, 10.0, np.nan], dtype=np.float32)), 4)
    assert marks == ["rgb(0,96,200)", "rgb(150,150,150)", "rgb(235,130,0)", -1]
    assert [name for _, name in legend] == ["0", "5", "10"]


def test_a_sprite_sheet_has_each_picture_in_its_cell():
    pictures = [np.full((2, 4, 3), shade, dtype=np.uint8) for shade in (0, 50, 100, 150, 200)]
    sheet, columns = sprite_sheet(pictures, 8)
    assert (sheet.shape, columns) == ((16, 24, 3), 3)
    assert [int(sheet[n // 3 * 8 + 4, n % 3 * 8 + 4, 0]) for n in range(5)] == [0, 50, 100, 150, 200]
    assert sheet[0, 0, 0] == 128  # proportions are kept: above a wide picture is the ground
    assert fit(np.zeros((200, 100, 3), dtype=np.uint8), 50).shape == (50, 25, 3)


def test_views_are_drawn_beside_their_sample_by_name():
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    small = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    made = {"global 1": {"image": images}, "local 1": {"image": small}}
    found = sections.views(Images(), {}, {"image": images}, made, ["a", "b"], 2.0)
    assert [[picture.caption for picture in pictures] for _, pictures in found.rows] == [
        ["global 1", "local 1"]
    ] * 2
    assert found.rows[1][0].alt == "Sample b"
    assert found.rows[1][1][1].alt == "local 1 view of sample b"
    # the same brightness for all
    assert found.gain == 2
    assert found.rows[0][0].source == found.rows[0][1][0].source != found.rows[1][0].source
