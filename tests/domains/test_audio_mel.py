"""Log-mel spectrograms: known answers, parity with transformers' front end, and their cut into tokens."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from sounds import noise, tone

from anyjepa.domains.audio_mel import LogMel, mel_filters
from anyjepa.domains.audio_patches import MelPatches, cut_windows, window_starts

RATE, SECOND = 16000.0, 16000


@pytest.fixture(scope="module")
def published():
    return LogMel(RATE)


def test_ten_seconds_are_998_frames(published):
    assert published.frames(10 * SECOND) == 998
    assert published(torch.zeros(1, 10 * SECOND)).shape == (1, 998, 128)
    assert published.frames(published.samples(1024)) == 1024
    assert published.frames(published.samples(1024) - 1) == 1023


def test_a_tone_peaks_in_its_band(published):
    mel = published(torch.from_numpy(tone(1000, RATE))[None])[0].mean(0)
    corners = np.linspace(1127 * np.log1p(20 / 700), 1127 * np.log1p(8000 / 700), 130)
    nearest = int(np.abs(corners[1:-1] - 1127 * np.log1p(1000 / 700)).argmin())
    assert int(mel.argmax()) == nearest
    assert mel[nearest] > mel[nearest + 4] + 5


def test_twice_the_amplitude_adds_ln_4_and_silence_is_finite(published):
    sound = torch.from_numpy(noise(rate=RATE))[None].double()
    exact = LogMel(RATE).double()
    # so fine are 128 bands that some of the lowest lie between two bins and hold nothing
    filled = published.filters.sum(0) > 0
    assert filled.sum() > 120
    filled &= exact(sound).amin((0, 1)) > np.log(1e-6)
    assert filled.sum() > 115
    gained = (exact(2 * sound) - exact(sound))[..., filled]
    torch.testing.assert_close(gained, torch.full_like(gained, float(np.log(4.0))), atol=1e-4, rtol=0)
    silence = published(torch.zeros(1, SECOND))
    assert torch.isfinite(silence).all()
    assert float(silence.max()) == pytest.approx(np.log(1.1920928955078125e-07))


def test_an_offset_changes_nothing(published):
    sound = torch.from_numpy(noise(rate=RATE, seed=1))[None].double()
    exact = LogMel(RATE).double()
    torch.testing.assert_close(exact(sound + 0.3), exact(sound), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("rate", "bands", "points"), [(16000.0, 128, 512), (8000.0, 64, 512)])
def test_the_front_end_of_transformers_gives_the_same(rate, bands, points):
    """Parity with an implementation that is not ours: that of AST's feature extractor, without torchaudio."""
    utils = pytest.importorskip("transformers.audio_utils")
    filters = utils.mel_filter_bank(
        points // 2 + 1, bands, 20, rate / 2, rate, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    np.testing.assert_allclose(mel_filters(bands, points, rate, 20.0, rate / 2), filters, atol=1e-6)
    sound = noise(0.4, rate) + tone(700, rate, 0.4)
    length, hop = round(0.025 * rate), round(0.01 * rate)
    theirs = utils.spectrogram(
        sound.astype(np.float64), utils.window_function(length, "hann", periodic=False), length, hop,
        fft_length=points, power=2.0, center=False, preemphasis=0.97, mel_filters=filters, log_mel="log",
        mel_floor=1.192092955078125e-07, remove_dc_offset=True,
    ).T  # fmt: skip
    ours = LogMel(rate, bands=bands, points=points)(torch.from_numpy(sound)[None])[0]
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_a_graph_gets_the_same_by_products(published, monkeypatch):
    sound = torch.from_numpy(noise(0.3, RATE))[None]
    wanted = published(sound)
    monkeypatch.setattr("anyjepa.domains.audio_mel.traced", lambda: True)
    torch.testing.assert_close(published(sound), wanted, atol=1e-3, rtol=1e-4)


def patches(width=8, patch=(16, 16), **options):
    torch.manual_seed(0)
    return MelPatches(LogMel(RATE), patch, width, -4.0, 4.0, **options)


def test_tokens_of_the_published_window():
    """64 x 8 = 512 tokens, each of its own 16 x 16 cell, in order of time and then of frequency."""
    tokenizer = patches()
    mel = torch.randn(2, 1024, 128)
    tokens = tokenizer({"mel": mel})
    assert tokens.values.shape == (2, 512, 8)
    for index in (0, 7, 8, 100, 511):
        time, band = index // 8, index % 8
        assert tokens.coordinates[0, index].tolist() == [time, band]
        changed = mel.clone()
        changed[:, time * 16 : time * 16 + 16, band * 16 : band * 16 + 16] += 1.0
        moved = (tokenizer({"mel": changed}).values != tokens.values).any(-1)[0]
        assert moved.nonzero()[:, 0].tolist() == [index]


def test_only_kept_tokens_are_made_and_they_are_the_same():
    tokenizer, mel = patches(), torch.randn(2, 64, 128)
    keep = torch.tensor([[3, 30, 1], [31, 0, 7]])
    whole = tokenizer({"mel": mel, "columns": torch.tensor([4, 1])})
    kept = tokenizer({"mel": mel, "columns": torch.tensor([4, 1])}, keep)
    for part in ("values", "present"):
        mine, theirs = getattr(kept, part), getattr(whole, part)
        torch.testing.assert_close(mine, torch.stack([theirs[0][keep[0]], theirs[1][keep[1]]]))
    assert kept.present.tolist() == [[True] * 3, [False, True, True]]


def test_sixteen_frames_later_is_one_column_later():
    tokenizer = patches()
    size = tokenizer.log_mel.samples(64)
    sound = torch.from_numpy(noise(1.0, RATE))[None]
    now, later = (tokenizer.spectrogram(sound[:, start : start + size]) for start in (0, 16 * 160))
    first, second = (tokenizer.patches(mel).unflatten(1, (4, 8)) for mel in (now, later))
    torch.testing.assert_close(first[:, 1:], second[:, :-1], atol=1e-4, rtol=1e-4)


def test_values_are_standardised_to_the_deviation():
    tokenizer = MelPatches(LogMel(RATE), (16, 16), 8, -3.0, 2.0, 0.5)
    sound = torch.from_numpy(noise(0.3, RATE))[None]
    torch.testing.assert_close(tokenizer.spectrogram(sound), (tokenizer.log_mel(sound) + 3.0) / 4.0)


def test_columns_hold_a_whole_frame_each():
    tokenizer = patches()
    samples = torch.tensor([1, 400, 400 + 15 * 160, 400 + 16 * 160, 164080])
    assert tokenizer.columns(samples).tolist() == [1, 1, 1, 2, 64]


@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from(["repeat", "silence"]), st.integers(0, 5))
def test_a_window_is_of_the_clip_alone(length, size, fill, beyond):
    sound = torch.arange(1.0, length + 1)
    padded = torch.cat([sound, torch.full((beyond,), 999.0)])[None]
    start, has = window_starts(torch.tensor([length]), size, -(-(length + beyond) // size))
    assert has.sum() == -(-length // size)
    covered = set()
    for begin in start[has].tolist():
        window, own = cut_windows(padded, torch.tensor([length]), torch.tensor([begin]), size, fill)
        assert window.shape == (1, size)
        wanted = [float(begin + n + 1) for n in range(size)]
        if fill == "repeat":
            assert own.item() == size
            wanted = [float((begin + n) % length + 1) for n in range(size)]
        else:
            assert own.item() == min(size, length)
            wanted = [value if value <= length else 0.0 for value in wanted]
        assert window[0].tolist() == wanted
        covered |= set(wanted)
    assert covered - {0.0} == set(sound.tolist())
