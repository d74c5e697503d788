"""EEG from every format: volts, places, windows by time, events, groups and what is damaged."""

import pickle

import numpy as np
import pytest
from eegs import NAMES, waves, write_brainvision, write_edf, write_fif, write_set

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.eeg_montage import electrode_name, is_brain, placed, plausible, ten_twenty
from anyjepa.domains.eeg_samples import PLACE, EegSamples
from anyjepa.domains.eeg_sources import open_eeg
from anyjepa.domains.sources import NoSplit

pytest.importorskip("mne")
READING = {"rate": 128.0, "band": (0.5, 40.0), "seconds": 4.0}
MARKS = [
    (2.0, 0.0, "left"),
    (6.0, 0.0, "right"),
    (10.0, 0.0, "left"),
    (14.0, 0.0, "right"),
    (18.5, 0.0, "left"),
]
WRITERS = {
    "a_raw.fif": write_fif, "a_raw.fif.gz": write_fif, "a.vhdr": write_brainvision, "a.edf": write_edf,
    "a.bdf": lambda path, volts: write_edf(path, volts, bits=24), "a.set": write_set,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_volts_and_places(tmp_path, name):
    volts = waves()
    WRITERS[name](tmp_path / name, volts)
    for source in (tmp_path, tmp_path / name):
        samples = open_eeg(str(source), reading={**READING, "band": (0.0, 0.0)})
        assert [samples.identity(index) for index in range(5)] == [f"a@{4 * n}s" for n in range(5)]
        window = samples.read(1)
        assert window.shape == (6, PLACE + 512) and window.dtype == np.float32
        wanted = volts[:, 512:1024]
        # as fine as 16 bits of 1 mV are, and a hundredth of that where they are 24
        assert np.abs(window[:, PLACE:] - wanted).max() < (2e-8 if name == "a.bdf" else 1e-7)
        assert samples.names == NAMES
        away = np.linalg.norm(window[:, :PLACE], axis=1)
        assert ((away > 0.07) & (away < 0.15)).all()
        cz, c3, c4, oz = (window[NAMES.index(word), :PLACE] for word in ("Cz", "C3", "C4", "Oz"))
        assert cz[2] > oz[2] and c3[0] < cz[0] < c4[0] and oz[1] < cz[1]


def test_a_window_is_cut_by_time_at_any_rate_without_aliasing(tmp_path):
    rate, times = 1000, np.arange(20_000) / 1000
    volts = 1e-5 * np.stack([np.sin(2 * np.pi * 10 * times), np.sin(2 * np.pi * 130 * times)])
    write_edf(tmp_path / "a.edf", volts, ["Cz", "Pz"], rate)
    samples = open_eeg(str(tmp_path), reading=READING)
    assert len(samples) == 5
    window = samples.read(2)[:, PLACE:]
    here = np.arange(512) / 128 + 8.0
    assert np.abs(window[0] - 1e-5 * np.sin(2 * np.pi * 10 * here)).max() < 3e-7, "no delay by the filter"
    assert np.abs(window[1]).max() < 2e-7, "130 Hz would be 2 Hz"


def test_the_filter_takes_offset_and_drift_off():
    times = np.arange(20 * 128) / 128
    wanted = 1e-5 * np.sin(2 * np.pi * 10 * times)
    values = np.stack([wanted + 0.2, wanted + 1e-4 * times / 20])[None]
    samples = open_eeg(values, reading={**READING, "channels": ["Cz", "Pz"]})
    found = samples.read(0)[:, PLACE:]
    middle = slice(128, 384)
    assert np.abs(found[:, middle] - wanted[None, middle]).max() < 1e-6


def test_whole_recordings_in_memory_and_windows_of_a_long_one_agree(tmp_path, monkeypatch):
    write_fif(tmp_path / "a_raw.fif", waves(seconds=40.0))
    held = open_eeg(str(tmp_path), reading=READING)
    monkeypatch.setattr("anyjepa.domains.eeg_samples.RESIDENT_BYTES", 1000)
    apart = open_eeg(str(tmp_path), reading=READING)
    assert held._signals and not apart._signals
    for index in (0, 4, 9):
        one, other = held.read(index), apart.read(index)
        assert np.abs(one - other).max() < 0.02 * one[:, PLACE:].std()
    again = pickle.loads(pickle.dumps(apart))
    assert np.array_equal(again.read(3), apart.read(3))
    assert held.fingerprint() == open_eeg(str(tmp_path), reading=READING).fingerprint()


@pytest.mark.parametrize("name", ["a_raw.fif", "a.vhdr", "a.set"])
def test_windows_at_the_recordings_own_events(tmp_path, name):
    volts = waves()
    WRITERS[name](tmp_path / name, volts, marks=MARKS)
    reading = {**READING, "band": (0.0, 0.0), "seconds": 2.0, "delay": 0.5}
    samples = open_eeg(str(tmp_path), "events", reading=reading)
    plain = [word.split("/")[-1] for word in samples.classes]
    assert plain == ["left", "right"]
    assert samples.labels.tolist() == [0, 1, 0, 1]
    assert [str(problem) for problem in samples.problems] == [
        "a@18.5s: its window of 2 s reaches beyond the recording (--seconds)"
    ]
    assert np.abs(samples.read(1)[:, PLACE:] - volts[:, 832:1088]).max() < 1e-7
    with pytest.raises(NoSplit):
        open_eeg(str(tmp_path), "events", "test", reading)
    assert len(open_eeg(str(tmp_path), reading=reading)) == 10, "without labels, from end to end"


def test_windows_at_the_events_of_a_table(tmp_path):
    for who in ("sub-01", "sub-02"):
        write_fif(tmp_path / "data" / f"{who}_raw.fif", waves(seed=int(who[-1])))
    table = tmp_path / "trials.csv"
    table.write_text(
        "recording,onset_sample,label,split\nsub-01,128,rest,train\nsub-02,256,move,train\nsub-01,640,move,test\n"
        "sub-09,1,rest,train\nsub-02,512,,train\n"
    )
    read = {**READING, "seconds": 1.0}
    train = open_eeg(str(tmp_path / "data"), str(table), reading=read)
    assert [train.identity(n) for n in range(len(train))] == ["sub-01@1s", "sub-02@2s", "sub-02@4s"]
    assert train.labels.tolist() == [1, 0, -1] and train.classes == ["move", "rest"]
    assert train.groups.tolist() == ["sub-01", "sub-02", "sub-02"]
    test = open_eeg(str(tmp_path / "data"), str(table), "test", read)
    assert [test.identity(n) for n in range(len(test))] == ["sub-01@5s"]
    with pytest.raises(NoSplit):
        open_eeg(str(tmp_path / "data"), str(table), "other", read)
    table.write_text("recording,onset,label,subject\nsub-01,1.0,rest,A\nsub-02,2.0,move,B\n")
    assert open_eeg(str(tmp_path / "data"), str(table), reading=read).groups.tolist() == ["A", "B"]
    table.write_text("recording,onset,label\nsub-01,soon,rest\n")
    with pytest.raises(UserError, match="row 1 has no number"):
        open_eeg(str(tmp_path / "data"), str(table), reading=read)
    table.write_text("recording,onset,label\nsub-77,1,rest\n")
    with pytest.raises(UserError, match="sub-77"):
        open_eeg(str(tmp_path / "data"), str(table), reading=read)


def test_bad_stretches_are_left_out_and_short_recordings_named(tmp_path):
    write_fif(tmp_path / "a_raw.fif", waves(), marks=[(5.0, 2.0, "BAD_move"), (13.0, 0.5, "blink")])
    write_fif(tmp_path / "b_raw.fif", waves(seconds=3.0))
    samples = open_eeg(str(tmp_path), reading=READING)
    assert [samples.identity(n) for n in range(len(samples))] == ["a@0s", "a@8s", "a@12s", "a@16s"]
    assert str(samples.problems[0]) == "b: lasts 3 s, shorter than a window of 4 s (--seconds)"


def test_subjects_are_groups_and_folders_classes(tmp_path):
    for name in ("sub-01/eeg/sub-01_task-rest", "sub-02/eeg/sub-02_task-rest"):
        write_brainvision(tmp_path / "bids" / f"{name}.vhdr", waves())
    bids = open_eeg(str(tmp_path / "bids"), reading=READING)
    assert sorted(set(bids.groups)) == ["sub-01", "sub-02"] and bids.labels is None
    for name in ("S001R04", "S001R08", "S002R04"):
        write_edf(tmp_path / "runs" / f"{name}.edf", waves())
    assert sorted(set(open_eeg(str(tmp_path / "runs"), reading=READING).groups)) == ["s001", "s002"]
    apart = open_eeg(str(tmp_path / "runs"), reading={**READING, "group": "recording"})
    assert len(set(apart.groups)) == 3
    for name in ("normal/a", "abnormal/b"):
        write_edf(tmp_path / "kinds" / f"{name}.edf", waves())
    kinds = open_eeg(str(tmp_path / "kinds"), reading=READING)
    assert kinds.classes == ["abnormal", "normal"] and set(kinds.groups) == {"normal/a", "abnormal/b"}
    for split in ("train", "test"):
        write_edf(tmp_path / "split" / split / "a.edf", waves())
    assert len(open_eeg(str(tmp_path / "split"), split="test", reading=READING)) == 5


def test_what_records_no_brain_or_has_no_place_is_left_out(tmp_path):
    names = ["EEG FP1-REF", "T3", "EOG1", "Fp1-F7", "A17", "STI 014"]
    write_edf(tmp_path / "a.edf", waves(names), names)
    samples = open_eeg(str(tmp_path), reading=READING)
    assert samples.names == ["FP1", "T7", "Fp1-F7"]
    assert samples.left_out == ["A17"] and "A17" in samples.description
    fp1, _, pair = samples.places
    assert np.allclose(pair, (fp1 + placed(["F7"])[0]) / 2, atol=1e-6)
    write_edf(tmp_path / "b" / "a.edf", waves(["A1x", "A2x"]), ["A1x", "A2x"])
    with pytest.raises(UserError, match="no channel whose place is known"):
        open_eeg(str(tmp_path / "b"), reading=READING)


def test_names_and_places():
    assert [electrode_name(name) for name in ("EEG Fz-LE", "Fc5.", "T4", "Cz", "EEG 01")] == [
        "Fz", "Fc5", "T8", "Cz", "01"]  # fmt: skip
    assert not any(map(is_brain, ["VEOG", "EOG-left", "ECG", "EMG1", "Status", "TRIG", "STI 014"]))
    assert all(map(is_brain, ["Fz", "EEG Oz", "C3", "E12", "A1"]))
    sphere = ten_twenty()
    assert np.allclose(np.linalg.norm(sphere, axis=1), 0.095)
    assert placed(["cz", "nowhere"])[0].shape == (3,) and np.isnan(placed(["nowhere"])).all()
    # millimetres, as the real FIF files of eeg_ssvep have them, are not believed
    assert not plausible(1e3 * sphere).any() and plausible(sphere).all()
    mixed = placed(["Cz", "Pz"], given=np.array([[0.0, -114.9, 14.7], [0.0, -110.0, 8.8]]))
    assert np.allclose(mixed, placed(["Cz", "Pz"]))
    own = np.array([[0.0, 0.0, 0.09], [0.0, -0.06, 0.07]])
    assert np.array_equal(placed(["Cz", "Pz"], given=own), own)
    with pytest.raises(UserError, match="no montage 'standrad_1005'"):
        placed(["Cz"], "standrad_1005")


def test_arrays(tmp_path):
    values = np.stack([waves(seed=n) for n in range(4)]) * 1e6
    labels = np.array([0, 1, 0, 1])
    np.savez(
        tmp_path / "x.npz", x=values, y=labels, channels=np.array(NAMES), rate=128.0, subject=[1, 1, 2, 2]
    )
    samples = open_eeg(str(tmp_path / "x.npz"), reading={**READING, "seconds": 20.0, "unit": "uV"})
    assert len(samples) == 4 and samples.array is not None
    assert samples.labels.tolist() == labels.tolist() and samples.groups.tolist() == ["1", "1", "2", "2"]
    assert 1e-6 < samples.read(0)[:, PLACE:].std() < 1e-4
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(UserError, match="no names: name them in order with --channels"):
        open_eeg(str(tmp_path / "x.npy"), reading=READING)
    named = open_eeg(str(tmp_path / "x.npy"), reading={**READING, "channels": NAMES})
    assert len(named) == 20 and named.groups is not None
    for broken, said in ((values[0], "shape"), (values.astype(complex), "complex")):
        with pytest.raises(UserError, match=said):
            open_eeg(broken, reading=READING)


def test_a_flat_or_missing_channel_is_no_row_of_its_window(tmp_path):
    volts = waves()[None].repeat(2, 0)
    volts[0, 2, :] = 7e-6
    volts[0, 3, :600] = np.nan
    volts[1, 4, 100:105] = np.nan
    samples = open_eeg(volts, reading={**READING, "channels": NAMES, "seconds": 20.0})
    assert isinstance(samples, EegSamples) and samples.array is None
    assert [len(samples.read(n)) for n in range(2)] == [4, 6]
    assert np.isfinite(samples.read(1)).all()
    volts[:] = 0.0
    with pytest.raises(UserError, match="flat or missing"):
        open_eeg(volts, reading={**READING, "channels": NAMES})


def test_two_formats_of_one_recording_have_two_names(tmp_path):
    write_fif(tmp_path / "a_raw.fif", waves())
    write_edf(tmp_path / "a.edf", waves())
    samples = open_eeg(str(tmp_path), reading=READING)
    assert len({samples.identity(n) for n in range(len(samples))}) == len(samples) == 10


def test_what_is_no_eeg_is_one_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("no")
    for source, said in (
        (tmp_path, "holds no EEG"), (tmp_path / "a.txt", "no EEG recording"), ("", "empty"),
        ("hf:x", "not a source"),
        ("synthetic-egg", "synthetic-eeg"), (tmp_path / "b.edf", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said) as caught:
            open_eeg(str(source), reading=READING)
        assert "\n" not in str(caught.value)
    (tmp_path / "b.edf").write_bytes(b"0" * 300)
    with pytest.raises(UserError, match="holds no EEG that opens"):
        open_eeg(str(tmp_path / "b.edf"), reading=READING)


def test_a_recording_that_ends_early_is_named(tmp_path):
    write_brainvision(tmp_path / "a.vhdr", waves())
    write_brainvision(tmp_path / "b.vhdr", waves())
    (tmp_path / "b.eeg").unlink()
    samples = open_eeg(str(tmp_path), reading=READING)
    assert len(samples) == 5 and samples.problems[0].identity == "b"


def test_real_recordings_of_three_formats(data_folder):
    ssvep = data_folder("eeg_ssvep")
    fif = open_eeg(str(ssvep / "sub-01_ses-1_raw.fif.gz"), reading=READING)
    gdf = open_eeg(str(ssvep / "sub-01_ses-1.gdf"), reading=READING)
    assert fif.names == gdf.names == ["Oz", "O1", "O2", "PO3", "POz", "PO7", "PO8", "PO4"]
    one, other = (samples.read(3) for samples in (fif, gdf))
    # the FIF holds microvolts as volts, and millimetres as metres
    assert np.allclose(one[:, PLACE:], 1e6 * other[:, PLACE:], rtol=1e-3, atol=1e-3 * one[:, PLACE:].std())
    assert np.allclose(one[:, :PLACE], other[:, :PLACE], atol=1e-6)
    trials = str(ssvep / "trials.csv")
    train, test = (open_eeg(str(ssvep), trials, split, READING) for split in (None, "test"))
    assert len(train) == len(test) == 128
    assert np.bincount(train.labels).tolist() == [32] * 4
    assert train.classes == ["13Hz", "17Hz", "21Hz", "rest"]
    lab = open_eeg(
        str(data_folder("eeg_eeglab32") / "eeglab_data.set"), "events", reading={**READING, "seconds": 1.0}
    )
    assert len(lab.names) == 30 and not {"EOG1", "EOG2"} & set(lab.names)
    assert np.bincount(lab.labels).tolist() == [74, 80] and lab.classes == ["rt", "square"]
    deviation = np.median(lab.read(5)[:, PLACE:].std(1))
    assert 3e-6 < deviation < 3e-5


def test_damage_is_a_bad_sample():
    samples = open_eeg("synthetic-eeg", reading=READING)
    assert samples.problems == [] and len(samples) == len(samples.labels) == len(samples.groups)
    short = EegSamples.__new__(EegSamples)
    short.__dict__.update(samples.__dict__, array=None, windows=[(0, 400, 912)], _signals={})
    with pytest.raises(BadSample, match="beyond the end"):
        short.read(0)
