"""Damaged pairs of frames and damaged flow: named or refused in words, never worse."""

import io

import numpy as np
import pytest
from damaged import withstands
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise
from test_frames import kitti, known_flow, npy, pfm

from anyjepa.core.errors import BadSample
from anyjepa.domains.frames_files import decode_flow, encode_flo

FEW = pytest.mark.parametrize("examples", [25, pytest.param(400, marks=pytest.mark.slow)])


@FEW
def test_a_damaged_pair(tmp_path, examples):
    parts = {f"0-img{n}.png": encoded(noise(16, 16, 3, seed=n)) for n in range(2)}
    parts["0-gt.flo"] = encode_flo(known_flow(16, 16))
    withstands("frames", tmp_path, parts, "{}", examples=examples, random=examples > 100)


@FEW
def test_a_damaged_archive(tmp_path, examples):
    target = io.BytesIO()
    np.savez(target, x=noise(3, 2, 8, 8, 3), flow=np.zeros((3, 8, 8, 2), np.float32))
    withstands("frames", tmp_path, {"a.npz": target.getvalue()}, examples=examples)


@settings(max_examples=60)
@given(data=st.data(), encode=st.sampled_from([encode_flo, npy, kitti, pfm]))
def test_damaged_flow(data, encode):
    from damaged import edits

    content = data.draw(edits(encode(known_flow())))
    try:
        found = decode_flow(content, "a")
    except BadSample:
        return
    assert found.ndim == 3 and found.shape[2] == 2 and not np.isinf(found).any()
