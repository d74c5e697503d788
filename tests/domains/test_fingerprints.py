"""What decides a source's digest."""

import hashlib

import numpy as np

from anyjepa.domains.fingerprints import digest_of


def test_the_digest_is_of_head_names_sizes_and_rows():
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    known = hashlib.sha256(b"head\na\nb\n" + b"10\n20\n" + values[0].tobytes() + values[2].tobytes())
    assert digest_of("head", ["a", "b"], 2, [10, 20].__getitem__, values, rows=2) == known.hexdigest()


def test_a_million_files_are_not_all_asked_for_their_size():
    asked = []
    digest_of("", (), 10**6, lambda place: asked.append(place) or 0)
    assert len(asked) == 4096 and asked[0] == 0 and asked[-1] == 10**6 - 1
