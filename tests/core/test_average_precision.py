"""Average precision by KITTI's definition, against cases worked out by hand and a plain loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.core.average_precision import average_precision, matched, precisions


def frame(overlap, scores, least=0.5, ignored_truths=None, ignored_detections=None):
    overlap = np.array(overlap, np.float64).reshape(len(scores), -1)
    return matched(
        overlap, np.array(scores, np.float64), least,
        None if ignored_truths is None else np.array(ignored_truths),
        None if ignored_detections is None else np.array(ignored_detections),
    )  # fmt: skip


def test_all_found_is_one_and_nothing_found_is_zero():
    perfect = [frame(np.eye(3), [0.9, 0.8, 0.7]) for _ in range(20)]
    assert average_precision(perfect, 40) == 1
    assert average_precision(perfect, 11) == 1
    nothing = [frame(np.zeros((2, 3)), [0.9, 0.8]) for _ in range(3)]
    assert average_precision(nothing, 40) == 0
    assert np.isnan(average_precision([frame(np.zeros((1, 0)), [0.5])]))


def test_half_of_the_objects_found_without_a_false_alarm():
    """Recall ends at a half: of 40 places 20 have precision 1, of 11 places those from 0 to 0.5."""
    frames = [frame([[1.0, 0.0]], [score]) for score in np.linspace(0.9, 0.1, 40)]
    assert average_precision(frames, 40) == pytest.approx(20 / 40)
    assert average_precision(frames, 11) == pytest.approx(6 / 11)


def test_a_false_alarm_above_every_hit_lowers_precision_everywhere():
    """At the first of 80 hits precision is 1/2, at the last 80/81: what is had later counts earlier."""
    frames = [frame([[1.0]], [score]) for score in np.linspace(0.9, 0.1, 80)]
    frames.append(frame(np.zeros((1, 0)), [0.99]))
    found = precisions(frames)
    assert found[40] == found[0] == pytest.approx(80 / 81)
    assert average_precision(frames, 40) == pytest.approx(80 / 81)


def test_fewer_objects_than_places_of_recall_cannot_reach_one():
    """The benchmark's own counting: 20 objects give 20 thresholds, of which the first is recall 0."""
    frames = [frame([[1.0]], [score]) for score in np.linspace(0.9, 0.1, 20)]
    assert average_precision(frames, 40) == pytest.approx(19 / 40)


def test_false_alarms_below_every_hit_do_no_harm_before_them():
    frames = [frame([[1.0], [0.0]], [score, 0.01]) for score in np.linspace(0.9, 0.1, 80)]
    assert average_precision(frames, 40) == 1


def test_an_object_is_found_once():
    """The second detection of the same object is a false alarm."""
    one = frame([[0.9], [0.8]], [0.9, 0.8])
    assert one.right.tolist() == [0, 1, 1] and one.wrong.tolist() == [0, 0, 1]


def test_an_overlap_must_exceed_what_is_asked():
    assert frame([[0.5]], [0.9], least=0.5).right[-1] == 0
    assert frame([[0.5001]], [0.9], least=0.5).right[-1] == 1


def test_ignored_objects_are_neither_asked_for_nor_false_alarms():
    one = frame([[0.9, 0.0], [0.0, 0.9]], [0.9, 0.8], ignored_truths=[False, True])
    assert one.truths == 1
    assert one.right[-1] == 1 and one.wrong[-1] == 0
    assert average_precision([one] * 80) == 1


def test_ignored_detections_are_no_false_alarms_and_no_hits():
    one = frame([[0.0], [0.9]], [0.9, 0.8], ignored_detections=[True, True])
    assert one.right[-1] == 0 and one.wrong[-1] == 0 and not len(one.found)


def test_a_whole_detection_goes_before_an_ignored_one_of_the_same_object():
    one = frame([[0.9], [0.6]], [0.9, 0.8], ignored_detections=[True, False])
    assert one.right.tolist() == [0, 0, 1]


def test_of_two_that_fit_the_nearer_one_counts_where_all_are_kept():
    """With no threshold the best score is taken, at a threshold the greatest overlap: the other is wrong."""
    one = frame([[0.6], [0.9]], [0.9, 0.8])
    assert one.found.tolist() == [0.9]
    assert one.right.tolist() == [0, 1, 1] and one.wrong.tolist() == [0, 0, 1]


def test_other_numbers_of_places_are_refused():
    with pytest.raises(ValueError, match="11 or 40"):
        average_precision([], 12)


@st.composite
def scenes(draw):
    frames = []
    for _ in range(draw(st.integers(1, 4))):
        detections, truths = draw(st.integers(0, 5)), draw(st.integers(0, 4))
        numbers = np.random.default_rng(draw(st.integers(0, 10**6)))
        frames.append(
            (
                numbers.uniform(size=(detections, truths)), numbers.uniform(size=detections),
                numbers.uniform(size=truths) < 0.2, numbers.uniform(size=detections) < 0.2,
            )
        )  # fmt: skip
    return frames


@given(scenes())
def test_counts_at_every_threshold_are_those_of_a_plain_loop(frames):
    for overlap, scores, hidden, small in frames:
        one = matched(overlap, scores, 0.5, hidden, small)
        for kept, limit in enumerate(np.sort(scores)[::-1], 1):
            right, wrong = plain(overlap, scores, hidden, small, limit)
            assert (one.right[kept], one.wrong[kept]) == (right, wrong)


def plain(overlap, scores, hidden, small, limit):
    order = [place for place in np.argsort(-scores, kind="stable") if scores[place] >= limit]
    taken, right = set(), 0
    for truth in range(overlap.shape[1]):
        best = None
        for place in order:
            if place in taken or overlap[place, truth] <= 0.5:
                continue
            better = best is None or (small[best] and not small[place])
            nearer = best is not None and small[best] == small[place] and not small[place]
            if better or (nearer and overlap[place, truth] > overlap[best, truth]):
                best = place
        if best is not None:
            taken.add(best)
            right += not hidden[truth] and not small[best]
    return right, sum(place not in taken and not small[place] for place in order)


@given(scenes())
def test_precision_never_rises_with_recall_and_stays_a_share(frames):
    found = precisions([matched(overlap, scores, 0.5) for overlap, scores, _, _ in frames])
    assert (np.diff(found) <= 1e-12).all()
    assert found.min() >= 0 and found.max() <= 1
