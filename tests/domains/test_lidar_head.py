"""The centre-based head: what it should say is what it finds, and what its loss punishes."""

import numpy as np
import pytest
import torch

from anyjepa.core.boxes import overlaps
from anyjepa.domains.lidar_grid import Grid
from anyjepa.domains.lidar_head import CentreDetector, RawMap, Said, centre_goals, detected, detection_loss

GRID = Grid((0.0, -8.0, -3.0), (16.0, 8.0, 1.0), (0.5, 0.5, 4.0), 2)
BOXES = np.array(
    [
        [5.3, 2.2, -1.0, 4.0, 1.8, 1.5, 0.4],
        [9.7, -6.1, -0.8, 0.8, 0.6, 1.7, -2.9],
        [15.9, 7.9, -1.1, 4.4, 1.7, 1.4, 3.1],
        [40.0, 0.0, 0.0, 4.0, 2.0, 1.0, 0.0],
        [2.0, 0.0, 0.0, 4.0, 2.0, 1.0, 0.0],
    ]
)
CLASSES = np.array([0, 1, 0, 0, -1])


def detector():
    torch.manual_seed(0)
    made = CentreDetector(RawMap(GRID), 2, hidden=8)
    made.begin([BOXES[:3]], [CLASSES[:3]])
    return made


def perfect(goals, classes=2):
    """What a detector would say that makes no error."""
    rows, columns = GRID.shape
    numbers = torch.zeros(len(goals.heat), 8, rows * columns)
    numbers.scatter_(2, goals.cells.unsqueeze(1).expand(-1, 8, -1), goals.numbers.transpose(1, 2))
    return Said(torch.logit(goals.heat, eps=1e-4), numbers.unflatten(2, (rows, columns)))


def test_what_should_be_said_is_what_is_found():
    made = detector()
    goals = centre_goals([BOXES, BOXES[:0]], [CLASSES, CLASSES[:0]], made)
    assert goals.real.sum(1).tolist() == [3, 0]
    assert (goals.heat == 1).sum((1, 2, 3)).tolist() == [3, 0]
    said = perfect(goals)._replace(heat=torch.logit((goals.heat == 1).float() * 0.9, eps=1e-4))
    found, nothing = detected(said, made, least=0.5)
    assert len(nothing.boxes) == 0
    order = overlaps(BOXES[:3], found.boxes).argmax(axis=1)
    assert np.allclose(overlaps(BOXES[:3], found.boxes).max(axis=1), 1, atol=1e-4)
    assert found.classes[order].tolist() == [0, 1, 0]
    assert np.cos(found.boxes[order, 6] - BOXES[:3, 6]) == pytest.approx(1, abs=1e-5)


def test_an_object_on_the_edge_is_in_the_last_cell():
    goals = centre_goals([BOXES[2:3]], [CLASSES[2:3]], detector())
    assert goals.cells[0, 0] == 16 * 16 - 1


def test_usual_sizes_are_those_of_what_was_marked():
    made = detector()
    assert made.sizes[1].exp().tolist() == pytest.approx([0.8, 0.6, 1.7])
    assert made.heights.tolist() == pytest.approx([-1.05, -0.8])


def test_errors_cost_and_their_absence_does_not():
    goals = centre_goals([BOXES], [CLASSES], detector())
    none = detection_loss(
        perfect(goals)._replace(heat=torch.logit((goals.heat == 1).float(), eps=1e-4)), goals
    )
    assert none < 0.01
    right = perfect(goals)
    shifted = Said(right.heat, right.numbers + 0.5)
    assert detection_loss(shifted, goals) - detection_loss(right, goals) == pytest.approx(1.0, abs=1e-4)
    missed = Said(torch.full_like(right.heat, -5.0), right.numbers)
    alarmed = Said(torch.full_like(right.heat, 5.0), right.numbers)
    assert detection_loss(missed, goals) > 4
    assert detection_loss(alarmed, goals) > detection_loss(missed, goals)


def test_a_frame_without_objects_has_a_loss():
    goals = centre_goals([BOXES[:0]], [CLASSES[:0]], detector())
    found = detection_loss(Said(torch.zeros_like(goals.heat), torch.zeros(1, 8, 16, 16)), goals)
    assert torch.isfinite(found) and found > 0


def test_of_neighbouring_cells_the_highest_is_the_middle():
    heat = torch.full((1, 2, 16, 16), -8.0)
    heat[0, 0, 4, 4:7] = torch.tensor([1.0, 3.0, 2.0])
    heat[0, 1, 12, 12] = 0.0
    (found,) = detected(Said(heat, torch.zeros(1, 8, 16, 16)), detector(), least=0.1)
    assert found.classes.tolist() == [0, 1]
    assert found.boxes[:, :2] == pytest.approx(np.array([[5.5, -3.5], [12.5, 4.5]]))
    assert found.scores.tolist() == pytest.approx([0.9526, 0.5], abs=1e-4)


def test_the_raw_map_says_what_lies_in_each_cell():
    points = torch.tensor([[[3.2, -7.5, -1.0, 0.2], [3.4, -7.1, 0.0, 0.6], [99.0, 0, 0, 1], [1.0, 1, 0, 1]]])
    found = RawMap(GRID)({"points": points, "present": torch.tensor([[True, True, True, False]])})
    assert found.shape == (1, 6, 16, 16)
    assert found[0, :, 0, 3].tolist() == pytest.approx([1, np.log(3), 0.625, 0.4, 0.75, 0.5])
    assert found.abs().sum() == pytest.approx(float(found[0, :, 0, 3].sum()))
