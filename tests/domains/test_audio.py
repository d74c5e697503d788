"""Sound from files of any rate, channels and length; the damaged named; baseline, figure and player."""

import base64
import io
import json
import re
import tarfile
import wave

import numpy as np
import pytest
import torch
from sounds import frequencies, noise, tone, write

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import audio_samples, domains
from anyjepa.domains.audio_files import read_header, read_stretch, resampled
from anyjepa.domains.audio_simulation import CLASSES, spoken_vowels
from anyjepa.domains.audio_sources import open_audio
from anyjepa.domains.sources import NoSplit
from anyjepa.recipes import recipe

DOMAIN = domains()["audio"]
RECIPE = recipe("a-jepa").preset("tiny")
READING = RECIPE.reading()
DIGITS = "name:(?P<label>[0-9])_(?P<group>[a-z]+)_[0-9]+"


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_gives_the_tone_that_was_written(tmp_path, ending, channels):
    sound = tone(440, 22050, 0.8)
    path = write(tmp_path / f"a.{ending}", np.stack([sound] * channels, 1), 22050)
    header = read_header(str(path), "a")
    assert (header.rate, header.channels) == (22050.0, channels)
    assert header.seconds == pytest.approx(0.8, abs=0.06)
    found = read_stretch(str(path), "a", 0, header.samples)
    assert found.dtype == np.float32
    hertz, spectrum = frequencies(found, 22050)
    assert hertz[spectrum.argmax()] == pytest.approx(440, abs=2)
    assert spectrum.max() == pytest.approx(0.5, abs=0.05)
    content = path.read_bytes()
    np.testing.assert_array_equal(read_stretch(content, "a", 0, header.samples), found)
    np.testing.assert_allclose(read_stretch(content, "a", 14000, 15000), found[14000:15000], atol=1e-6)


def test_stereo_becomes_the_mean_and_whole_numbers_are_divided(tmp_path):
    left, right = tone(300, 8000), tone(900, 8000)
    path = write(tmp_path / "a.wav", np.stack([left, right], 1), 8000, subtype="PCM_24")
    np.testing.assert_allclose(read_stretch(str(path), "a", 0, 8000), (left + right) / 2, atol=1e-6)
    wide = (tone(300, 8000)[None] * 32767).astype(np.int16)
    samples = open_audio(np.stack([wide, wide], 1), reading={"rate": 8000.0})
    np.testing.assert_allclose(samples.read(0), tone(300, 8000), atol=1e-4)


@pytest.mark.parametrize(("stored", "wanted"), [(44100, 16000), (8000, 16000), (22050, 8000), (48000, 8000)])
def test_resampling_keeps_what_fits_and_lets_nothing_alias(stored, wanted):
    edge = min(stored, wanted) / 2
    kept = resampled(tone(0.8 * edge, stored), float(stored), float(wanted))
    assert len(kept) == pytest.approx(wanted, abs=2)
    hertz, spectrum = frequencies(kept[200:-200], wanted)
    assert hertz[spectrum.argmax()] == pytest.approx(0.8 * edge, abs=2)
    assert spectrum.max() == pytest.approx(0.5, rel=0.01)
    if stored > wanted:
        for above in (1.0, 1.1, 1.5, 1.9):
            lost = resampled(tone(above * edge + 1, stored), float(stored), float(wanted))[400:-400]
            assert np.abs(lost).max() < 1e-4, f"aliases at {above} of half the rate"


def test_a_folder_of_classes_splits_rates_and_long_recordings(tmp_path):
    for split in ("train", "test"):
        for label, hertz in (("low", 300), ("high", 2000)):
            write(tmp_path / split / label / "1.wav", tone(hertz, 44100, 0.5), 44100)
    write(tmp_path / "train" / "low" / "2.flac", noise(5.0), 8000)
    reading = {**READING, "clip_seconds": 2.0}
    samples = open_audio(str(tmp_path), reading=reading)
    assert samples.classes == ["high", "low"]
    names = [samples.identity(index) for index in range(len(samples))]
    assert names == ["high/1.wav", "low/1.wav", "low/2.flac#t=0.00,2.50", "low/2.flac#t=2.50,5.00"]
    assert samples.labels.tolist() == [0, 1, 1, 1]
    assert samples.groups[2] == samples.groups[3] == "low/2.flac"
    assert samples.rate == 8000
    assert [len(samples.read(index)) for index in range(4)] == [4000, 4000, 20000, 20000]
    np.testing.assert_allclose(samples.read(3), noise(5.0)[20000:], atol=1e-4)
    assert len(open_audio(str(tmp_path), split="test", reading=reading)) == 2
    assert samples.fingerprint() == open_audio(str(tmp_path), reading=reading).fingerprint()
    with pytest.raises(NoSplit):
        open_audio(str(tmp_path / "train"), split="test")


def test_a_part_is_the_stretch_that_a_step_asks_for(tmp_path, monkeypatch):
    """The same crop from memory and from disk, where no more than it is decoded."""
    sound = noise(4.0, 16000, level=0.05) + tone(500, 16000, 4.0)
    write(tmp_path / "a.wav", sound, 16000)
    held = open_audio(str(tmp_path), reading=READING)
    monkeypatch.setattr(audio_samples, "RESIDENT_BYTES", 0)
    streamed = open_audio(str(tmp_path), reading=READING)
    assert held.array is not None and streamed.array is None
    decoded = []
    stretch = streamed.store.stretch
    monkeypatch.setattr(streamed.store, "stretch", lambda i, a, b: decoded.append(b - a) or stretch(i, a, b))
    size = round(READING["crop"] * 8000)
    for chance in (0.0, 0.37, 0.999):
        uniforms = np.full(16, chance)
        mine, theirs = held.read_part(0, uniforms), streamed.read_part(0, uniforms)
        assert mine.shape == theirs.shape == (size,)
        # two samples of the file are one of what is wanted
        shifts = [np.abs(mine[8 + s : size - 8 + s] - theirs[8 : size - 8]).max() for s in range(-2, 3)]
        assert min(shifts) < 0.2
    assert max(decoded) < 2 * size + 600


def test_labels_and_speakers_from_names(tmp_path):
    for name in ("7_jackson_3", "7_theo_0", "2_theo_1"):
        write(tmp_path / f"{name}.wav", noise(0.3))
    samples = open_audio(str(tmp_path), DIGITS, reading=READING)
    assert [samples.identity(i) for i in range(3)] == ["2_theo_1.wav", "7_jackson_3.wav", "7_theo_0.wav"]
    assert samples.classes == ["2", "7"]
    assert samples.labels.tolist() == [0, 1, 1]
    assert samples.groups.tolist() == ["theo", "jackson", "theo"]
    only = open_audio(str(tmp_path), "name:_(?P<group>[a-z]+)_", reading=READING)
    assert only.labels is None and only.groups.tolist() == samples.groups.tolist()
    for pattern, words in (
        ("name:(", "no regular"),
        ("name:x", "no part"),
        ("name:(?P<label>X)", "found in no"),
    ):
        with pytest.raises(UserError, match=words):
            open_audio(str(tmp_path), pattern, reading=READING)
    (tmp_path / "labels.csv").write_text("id,label,speaker\n2_theo_1,two,t\n7_theo_0,seven,t\n")
    listed = open_audio(str(tmp_path), str(tmp_path / "labels.csv"), reading=READING)
    assert listed.labels.tolist() == [1, -1, 0]
    assert listed.groups.tolist() == ["t", "7_jackson_3.wav", "t"]


def test_shards_arrays_and_the_hub_give_what_files_give(tmp_path):
    sounds = [noise(0.3, seed=n) for n in range(4)]
    for number, sound in enumerate(sounds):
        write(tmp_path / "wav" / "ab"[number % 2] / f"{number}.wav", sound)
    files = open_audio(str(tmp_path / "wav"), reading=READING)
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(tmp_path / "wav", "wav")
    shards = open_audio(f"wds:{tmp_path / 'all.tar'}", reading=READING)
    assert shards.identity(0) == "wav/a/0"
    np.savez(tmp_path / "x.npz", x=np.stack([files.read(n) for n in range(4)]), y=files.labels, rate=8000)
    arrays = open_audio(str(tmp_path / "x.npz"), reading=READING)
    for other in (shards, arrays):
        assert other.labels.tolist() == files.labels.tolist() == [0, 0, 1, 1]
        for index in range(4):
            np.testing.assert_array_equal(other.read(index), files.read(index))


@pytest.mark.parametrize("typed", [True, False])
def test_a_data_set_of_the_hub_s_layout_on_disk(tmp_path, typed):
    """Parquet with the bytes of the files, as the hub stores it; a folder of files needs no hub."""
    datasets = pytest.importorskip("datasets")
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    datasets.disable_progress_bars()
    rows = []
    for number in range(4):
        path = write(tmp_path / "wav" / f"{number}.flac", noise(0.3, seed=number))
        rows.append({"audio": {"bytes": path.read_bytes(), "path": path.name}, "label": number % 2})
    table = arrow.Table.from_pylist(rows)
    if typed:
        kinds = {"audio": {"_type": "Audio"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})
    (tmp_path / "hub").mkdir()
    parquet.write_table(table, tmp_path / "hub" / "train.parquet")
    hub = open_audio(f"hf:{tmp_path / 'hub'}", reading=READING)
    assert hub.labels.tolist() == [0, 1, 0, 1]
    assert hub.classes == (["no", "yes"] if typed else ["0", "1"])
    assert hub.identity(2) == "2/2.flac"
    np.testing.assert_array_equal(hub.read(2), open_audio(str(tmp_path / "wav"), reading=READING).read(2))
    with pytest.raises(UserError, match="without hf:"):
        open_audio(f"hf:{tmp_path / 'wav'}", reading=READING)


def test_arrays_say_their_rate_and_have_time_last_or_first(tmp_path):
    values = np.stack([noise(0.5, seed=n) for n in range(3)])
    np.save(tmp_path / "x.npy", values)
    assert len(open_audio(str(tmp_path / "x.npy"), reading=READING).read(0)) == 4000
    half = open_audio(str(tmp_path / "x.npy"), reading={**READING, "array_rate": 4000.0})
    assert len(half.read(0)) == 8000
    for other in (values[:, None], values[:, :, None], np.stack([values, values], 2)):
        np.testing.assert_allclose(open_audio(other, reading=READING).read(1), values[1], atol=1e-6)
    with pytest.raises(UserError, match="--array-rate"):
        open_audio(values)
    with pytest.raises(UserError, match="has shape"):
        open_audio(np.zeros((2, 3, 4, 5), np.float32), reading=READING)


def test_damaged_silent_and_short_sounds_are_named(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.wav", noise(0.4, seed=number))
    (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(4000))
    (tmp_path / "empty.wav").write_bytes(b"")
    write(tmp_path / "none.wav", np.zeros(0, np.float32))
    write(tmp_path / "silent.wav", np.zeros(4000, np.float32))
    write(tmp_path / "click.wav", noise(0.01))
    broken = noise(0.4)
    broken[7] = np.nan
    write(tmp_path / "nan.wav", broken, subtype="FLOAT")
    flac = write(tmp_path / "cut.flac", noise(3.0), 8000)
    flac.write_bytes(flac.read_bytes()[:9000])
    samples = open_audio(str(tmp_path), reading=READING)
    problems = {problem.identity: problem.reason for problem in samples.problems}
    assert problems.keys() == {
        "noise.mp3", "empty.wav", "none.wav", "silent.wav", "click.wav", "nan.wav", "cut.flac",
    }  # fmt: skip
    assert problems["silent.wav"] == "is silent throughout"
    assert "NaN" in problems["nan.wav"]
    assert "shorter" in problems["click.wav"] or "less than" in problems["click.wav"]
    assert len(samples) == 3
    with pytest.raises(BadSample, match="breaks off"):
        read_stretch(str(flac), "cut.flac", 0, 24000)


def test_nothing_usable_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no sound"):
        open_audio(str(tmp_path))
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"holds no usable sound, for instance a.wav"):
        open_audio(str(tmp_path))
    with pytest.raises(UserError, match=r"Did you mean 'synthetic-audio'"):
        open_audio("synthetic-adio")
    with pytest.raises(UserError, match="give a path"):
        open_audio("sox:name")
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(UserError, match="type wds:"):
        open_audio(str(tmp_path / "x.tar"))


def test_simulated_vowels_are_what_their_labels_say():
    clips, labels, voices = spoken_vowels(None, 8000.0)
    test = spoken_vowels("test", 8000.0)
    assert not set(voices) & set(test[2]), "a voice on both sides"
    assert np.bincount(labels).min() > 40
    again = spoken_vowels(None, 8000.0)
    assert all(np.array_equal(a, b) for a, b in zip(clips, again[0], strict=True))
    rising = []
    for clip, label in zip(clips[:60], labels[:60], strict=True):
        third = len(clip) // 3
        pitches = []
        for part in (clip[:third], clip[-third:]):
            part = part - part.mean()
            match = np.correlate(part, part, "full")[len(part) - 1 :]
            pitches.append(8000 / (25 + match[25:70].argmax()))
        rising.append((pitches[1] > pitches[0]) == CLASSES[label].endswith("rising"))
    assert np.mean(rising) > 0.9
    with pytest.raises(NoSplit):
        spoken_vowels("other", 8000.0)


def measured(samples):
    return DOMAIN.measure(samples)


def test_the_measured_statistics_are_those_of_the_log_mel():
    samples = open_audio("synthetic-audio", reading=READING)
    facts = measured(samples)
    tokenizer = RECIPE.method(facts).encoder.tokenizer
    mel = torch.cat([tokenizer.spectrogram(torch.from_numpy(samples.read(i))[None])[0] for i in range(40)])
    assert float(mel.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(mel.std()) == pytest.approx(0.5, abs=0.05)
    assert facts["rate"] == 8000.0
    assert facts["crop"] == pytest.approx(0.655)


def test_the_baseline_is_mean_and_deviation_of_the_log_mel_within_the_clip():
    sounds = [noise(0.5, seed=1), noise(0.9, seed=2)]
    facts = measured(open_audio("synthetic-audio", reading=READING))
    together = DOMAIN.raw(RECIPE.present(sounds), facts)
    assert together.shape == (2, 128)
    for row, sound in zip(together, sounds, strict=True):
        alone = DOMAIN.raw(RECIPE.present([sound]), facts)[0]
        torch.testing.assert_close(row, alone, atol=1e-4, rtol=1e-4)
    louder = DOMAIN.raw(RECIPE.present([2 * sounds[0]]), facts)[0]
    torch.testing.assert_close(
        louder[:64] - together[0, :64], torch.full((64,), float(np.log(4))), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(louder[64:], together[0, 64:], atol=1e-3, rtol=1e-3)


def test_a_figure_shows_patches_and_plays_the_sound():
    samples = open_audio("synthetic-audio", reading=READING)
    facts = measured(samples)
    batch = RECIPE.present([samples.read(0)])
    whole = DOMAIN.figure(batch, 0, facts)
    uri = re.search(r'src="data:audio/wav;base64,([^"]+)"', whole)
    with wave.open(io.BytesIO(base64.b64decode(uri[1]))) as file:
        assert (file.getframerate(), file.getnchannels()) == (8000, 1)
        heard = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    window = samples.read(0)[: len(heard)]
    assert np.corrcoef(heard[: len(window)], window)[0, 1] > 0.999
    tokens = RECIPE.grid[0] * RECIPE.grid[1]
    colours = torch.full((tokens, 3), float("nan"))
    colours[0] = torch.tensor([1.0, 0.0, 0.0])
    assert "<audio" not in DOMAIN.figure(batch, 0, facts, colours)
    plain, painted = DOMAIN.picture(batch, 0, facts), DOMAIN.picture(batch, 0, facts, colours)
    changed = (plain != painted).any(-1)
    frames, bands = RECIPE.patch
    # the first token is the lowest band at the beginning: below, on the left
    assert changed[-bands:, :frames].all()
    changed[-bands:, :frames] = False
    assert not changed.any()


def test_real_digits_have_speakers_and_rates(data_folder):
    tar = data_folder("spoken_digits") / "recordings.tar"
    samples = open_audio(f"wds:{tar}", DIGITS, reading=READING)
    assert len(samples) == 1500 and not samples.problems
    assert len(samples.classes) == 10 and len(set(samples.groups)) == 6
    with tarfile.open(tar) as archive, wave.open(archive.extractfile("recordings/7_jackson_3.wav")) as file:
        wanted = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    index = next(i for i in range(1500) if samples.identity(i).endswith("7_jackson_3"))
    np.testing.assert_allclose(samples.read(index), wanted, atol=1e-6)
    drums = open_audio(f"wds:{data_folder('drum_hits') / 'drum_hits.tar'}", reading=READING)
    assert (len(drums), len(drums.classes), drums.rate) == (200, 10, 8000.0)
    assert len(drums.read(0)) == 8000
