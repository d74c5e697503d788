"""Packed names are a list of texts, in a fraction of its memory."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.domains.names import Names

# with what a file system gives for bytes that are no UTF-8
texts = st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.just("a\udcff.png"), max_size=20)


@given(texts, st.integers(-25, 25), st.integers(-25, 25))
def test_they_are_the_list(names, start, stop):
    packed = pickle.loads(pickle.dumps(Names(iter(names))))
    assert list(packed) == names and packed == names and len(packed) == len(names)
    assert packed[start:stop] == names[start:stop]
    if -len(names) <= start < len(names):
        assert packed[start] == names[start]
    else:
        with pytest.raises(IndexError):
            packed[start]


def test_they_take_their_bytes_and_eight_more_each():
    names = [f"class-{number % 10}/{number:07d}.png" for number in range(1000)]
    assert Names(names).nbytes == sum(map(len, names)) + 8 * 1000
