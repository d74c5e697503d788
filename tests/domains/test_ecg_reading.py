"""ECGs from files and arrays: leads by name, units, rates, gaps, damage, labels and patients."""

import pickle

import numpy as np
import pytest
import wfdb
from ecgs import TWELVE, signals, write_edf, write_wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Samples, domains, ecg_samples
from anyjepa.domains.ecg_leads import arranged, common_leads, lead_name, millivolts
from anyjepa.domains.ecg_records import Recording, read_header
from anyjepa.domains.ecg_samples import prepared, resampled
from anyjepa.domains.ecg_sources import open_ecg
from anyjepa.domains.sources import NoSplit

CROP = {"rate": 500.0, "seconds": 10.0, "record_seconds": 60.0, "use_seconds": 2.5, "patch_size": 25}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("AVF", "aVF"), ("ECG avl", "aVL"), ("Lead II", "II"), ("EKG_V1", "V1"), ("MLII", "II"),
        ("DIII", "III"),
        ("v6", "V6"), ("ECG lead I", "I"), ("vx", "vx"), ("ECG1", "ECG1"), ("RESP", "RESP"),
    ],
)  # fmt: skip
def test_a_lead_is_known_in_any_spelling(given, name):
    assert lead_name(given) == name


def test_units_become_millivolts_and_what_is_no_voltage_is_told_apart():
    assert [millivolts(unit) for unit in ("mV", "uV", "µV", "V", "", None)] == [1, 1e-3, 1e-3, 1e3, 1, 1]
    assert millivolts("mmHg") is None


@given(
    kept=st.lists(st.sampled_from(TWELVE[:6]), min_size=2, max_size=6, unique=True), seed=st.integers(0, 99)
)
def test_every_limb_lead_follows_from_any_two(kept, seed):
    """Einthoven: I + III = II; Goldberger: aVR = -(I + II) / 2, aVL = (I - III) / 2, aVF = (II + III) / 2."""
    first, second = np.random.default_rng(seed).normal(size=(2, 50))
    third = second - first
    limb = dict(
        zip(
            TWELVE[:6],
            [first, second, third, -(first + second) / 2, (first - third) / 2, (second + third) / 2],
            strict=True,
        )
    )
    found = arranged(np.stack([limb[name] for name in kept]), kept, TWELVE[:7])
    assert np.allclose(found[:6], np.stack(list(limb.values())), atol=1e-9)
    assert np.isnan(found[6]).all()


def test_auto_takes_the_standard_leads_that_half_of_the_records_have():
    assert common_leads([["V5", "II"], ["II", "V5"], ["V1", "II"]]) == ["II", "V5"]
    assert common_leads([["I", "II", "V1"]]) == [*TWELVE[:6], "V1"]
    assert common_leads([["lead 1"], ["lead 1"]]) == ["lead 1"]


@pytest.mark.parametrize("format", ["16", "212"])
def test_wfdb_leads_are_found_by_name_in_any_order_and_any_unit(tmp_path, format):
    values = np.clip(signals(), -1.9, 1.9)
    order = list(reversed(range(12)))
    write_wfdb(tmp_path, "plain", values, TWELVE, format=format)
    write_wfdb(tmp_path, "turned", values[:, order], [TWELVE[i].upper() for i in order], format=format)
    write_wfdb(tmp_path, "micro", values * 1000, TWELVE, units="uV", format=format)
    found = open_ecg(tmp_path, reading=CROP)
    assert isinstance(found, Samples)
    assert [found.identity(i) for i in range(3)] == ["micro", "plain", "turned"]
    assert (found.leads, found.rate) == (TWELVE, 500.0)
    for index in range(3):
        assert found.read(index).dtype == np.float32
        assert np.abs(found.read(index) - values.T).max() < 3e-3
    assert found.description == "3 WFDB records, 12 leads at 500 Hz"
    assert found.array.shape == (3, 12, 5000)


def test_a_header_is_read_as_wfdb_reads_it(data_folder):
    for path in sorted(data_folder("ecg_cinc2021").glob("*.hea"))[::7]:
        mine, theirs = read_header(str(path))[0], wfdb.rdheader(str(path.with_suffix("")))
        assert (mine.rate, mine.points, list(mine.names)) == (theirs.fs, theirs.sig_len, theirs.sig_name)


@pytest.mark.parametrize("rate", [250.0, 257.0, 360.0, 1000.0])
def test_other_rates_are_resampled_without_aliasing(tmp_path, rate):
    """A wave of 5 Hz stays as it is, one above half of the wanted rate goes."""
    times = np.arange(round(rate * 10)) / rate
    slow, fast = np.sin(2 * np.pi * 5 * times), np.sin(2 * np.pi * 90 * times)
    write_wfdb(tmp_path, "a", np.stack([slow, fast], axis=1), ["II", "V5"], rate)
    found = open_ecg(tmp_path, reading={**CROP, "rate": 100.0})
    wanted = np.sin(2 * np.pi * 5 * np.arange(1000) / 100)
    inner = slice(50, -50)
    assert found.leads == ["II", "V5"]
    assert np.abs(found.read(0)[0, inner] - wanted[inner]).max() < 0.02
    assert np.abs(found.read(0)[1, inner]).max() < 0.05


def test_resampling_agrees_with_scipy_and_keeps_an_offset():
    values = signals(2).T
    values -= values[:, :1]
    values[:, -1] = 0
    assert np.allclose(resampled(values, 500.0, 125.0), resample_poly(values, 1, 4, axis=1), atol=1e-12)
    assert np.abs(resampled(np.full((1, 3600), 7.0), 360.0, 500.0) - 7).max() < 1e-6


@given(missing=st.sets(st.integers(0, 99), max_size=10))
def test_few_gaps_are_interpolated(missing):
    ramp = np.arange(100.0)
    row = ramp.copy()
    row[list(missing)] = np.nan
    values, faults = prepared(Recording(row[None], ["II"]), ["II"], (100.0, 100.0), "x")
    assert not faults
    inner = [i for i in range(100) if min(set(range(100)) - missing) <= i <= max(set(range(100)) - missing)]
    assert np.allclose(values[0, inner], ramp[inner])
    assert np.isfinite(values).all()


def test_leads_that_are_flat_empty_or_mostly_missing_are_named(tmp_path):
    values = signals()
    values[:, 7] = 0.3
    values[:-1, 8] = np.nan
    values[:2000, 9] = np.nan
    write_wfdb(tmp_path, "bad", values, TWELVE)
    write_wfdb(tmp_path, "few", signals(3), ["I", "V1", "V2"])
    write_wfdb(tmp_path, "good", signals(), TWELVE)
    found = open_ecg(tmp_path, reading=CROP)
    assert ("bad", "V2", "flat") in found.faults
    assert ("bad", "V3", "100% missing") in found.faults
    assert ("bad", "V4", "40% missing") in found.faults
    assert ("few", "II", "not there") in found.faults
    assert "; 2 lack a lead: " in found.description
    lost = np.isnan(found.read(0)).all(axis=1)
    assert [lead for lead, gone in zip(TWELVE, lost, strict=True) if gone] == ["V2", "V3", "V4"]
    assert not np.isnan(found.read(0)[~lost]).any()


def test_a_flat_limb_lead_is_worked_out_of_two_others(tmp_path):
    values = signals()
    values[:, 2] = values[:, 1] - values[:, 0]
    broken = values.copy()
    broken[:, 0] = 0
    write_wfdb(tmp_path, "a", broken, TWELVE)
    found = open_ecg(tmp_path, reading=CROP)
    assert not found.faults
    assert np.abs(found.read(0)[0] - values[:, 0]).max() < 1e-2


def test_a_record_without_any_usable_lead_is_left_out_and_named(tmp_path):
    write_wfdb(tmp_path, "dead", np.zeros((5000, 12)), TWELVE)
    write_wfdb(tmp_path, "good", signals(), TWELVE)
    found = open_ecg(tmp_path, reading=CROP)
    assert (len(found), [problem.identity for problem in found.problems]) == (1, ["dead"])
    assert found.problems[0].reason.startswith("has no usable lead (I flat; II flat")


def test_damaged_records_are_named_and_skipped(tmp_path):
    for name in ("whole", "cut", "garbled", "gone"):
        write_wfdb(tmp_path, name, signals(), TWELVE)
    (tmp_path / "cut.dat").write_bytes((tmp_path / "cut.dat").read_bytes()[:1000])
    (tmp_path / "garbled.hea").write_text("this is no header")
    (tmp_path / "gone.dat").unlink()
    (tmp_path / "empty.hea").write_text("")
    found = open_ecg(tmp_path, reading=CROP)
    assert [found.identity(i) for i in range(len(found))] == ["whole"]
    assert {problem.identity for problem in found.problems} == {"cut", "garbled", "gone", "empty"}
    (tmp_path / "whole.dat").unlink()
    with pytest.raises(UserError, match="holds no usable ECG"):
        open_ecg(tmp_path, reading=CROP)


@given(content=st.binary(max_size=300))
@settings(max_examples=60)
def test_no_header_makes_opening_fail_otherwise_than_in_words(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.hea").write_bytes(content)
    with pytest.raises(UserError, match=r"no ECG|no usable|shorter"):
        open_ecg(folder, reading=CROP)


def test_a_long_record_is_several_samples_of_one_group(tmp_path):
    values = signals(2, 100.0, 200)
    write_wfdb(tmp_path, "holter", values, ["MLII", "V5"], 100.0, comments=["Dx: 426783006"])
    found = open_ecg(tmp_path, reading={**CROP, "rate": 100.0})
    assert [found.identity(i) for i in range(len(found))] == ["holter@0s", "holter@66.66s", "holter@133.33s"]
    assert {found.points(i) for i in range(3)} == {6666, 6667}
    assert np.abs(np.concatenate([found.read(i) for i in range(3)], axis=1) - values.T).max() < 2e-3
    assert found.groups.tolist() == ["holter"] * 3
    assert found.labels.tolist() == [[1]] * 3
    assert found.classes == ["sinus rhythm"]


def test_short_records_are_named_unless_all_are_alike(tmp_path):
    write_wfdb(tmp_path, "long", signals(), TWELVE)
    write_wfdb(tmp_path, "short", signals(seconds=4), TWELVE)
    found = open_ecg(tmp_path, reading=CROP)
    assert [(p.identity, p.reason) for p in found.problems] == [
        ("short", "lasts 4 s, shorter than 10 s (--seconds)")
    ]
    # a run that is there already embeds by windows, for which four seconds are enough
    assert len(open_ecg(tmp_path, reading={**CROP, "points": 5000})) == 2
    beats = open_ecg(np.random.default_rng(0).normal(size=(5, 96)), reading=CROP)
    assert (len(beats), beats.points(0), beats.leads) == (5, 96, ["lead 1"])


def test_edf_gives_millivolts_whatever_its_unit(tmp_path):
    values = signals(3)
    write_edf(tmp_path / "a" / "milli.edf", values, ["ECG I", "ECG II", "ECG V1"])
    write_edf(
        tmp_path / "b" / "micro.edf", values * 1000, ["ECG I", "ECG II", "ECG V1"], unit="uV", largest=5000.0
    )
    found = open_ecg(tmp_path, reading=CROP)
    assert found.leads == [*TWELVE[:6], "V1"]
    for index in range(2):
        assert np.abs(found.read(index)[[0, 1, 6]] - values.T).max() < 2e-3
    assert found.classes == ["a", "b"]
    assert found.description.startswith("2 EDF records, 7 leads at 500 Hz")


def test_diagnoses_in_headers_are_several_labels_in_words(tmp_path):
    for name, codes in {"a": "426783006,164934002", "b": "427084000", "c": "Unknown", "d": None}.items():
        write_wfdb(
            tmp_path, name, signals(), TWELVE, comments=["Age: 60"] + ([f"Dx: {codes}"] if codes else [])
        )
    found = open_ecg(tmp_path, reading=CROP)
    assert found.classes == ["T wave abnormal", "sinus rhythm", "sinus tachycardia"]
    assert found.labels.dtype == np.int8
    assert found.labels.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [-1, -1, -1]]


def test_a_label_file_goes_first_and_may_name_patients(tmp_path):
    for name in "abc":
        write_wfdb(tmp_path / "records", name, signals(), TWELVE, comments=["Dx: 427084000"])
    table = tmp_path / "labels.csv"
    table.write_text("id,label,patient\na,426783006;164889003,p1\nb,164889003,p1\n")
    found = open_ecg(tmp_path / "records", labels=str(table), reading=CROP)
    assert found.classes == ["atrial fibrillation", "sinus rhythm"]
    assert found.labels.tolist() == [[1, 1], [1, 0], [-1, -1]]
    assert found.groups.tolist() == ["p1", "p1", "c"]


def test_patients_are_folders_that_are_named_so(tmp_path):
    for patient in ("patient001", "patient002"):
        for name in "ab":
            write_wfdb(tmp_path / patient, name, signals(), TWELVE)
    found = open_ecg(tmp_path, reading=CROP)
    assert found.labels is None
    assert found.groups.tolist() == ["patient001"] * 2 + ["patient002"] * 2


@pytest.mark.parametrize("ending", ["", ".hea", ".dat"])
def test_one_record_opens_by_its_name(tmp_path, ending):
    write_wfdb(tmp_path, "a", signals(), TWELVE)
    found = open_ecg(f"{tmp_path / 'a'}{ending}", reading=CROP)
    assert (len(found), found.identity(0)) == (1, "a")


@pytest.mark.parametrize("turned", [False, True])
def test_arrays_are_read_in_either_order_of_axes(tmp_path, turned):
    values = np.stack([signals(seed=seed).T for seed in range(4)])
    given = values.swapaxes(1, 2) if turned else values
    np.save(tmp_path / "x.npy", given)
    np.savez(
        tmp_path / "x.npz", x=given, y=[0, 1, 1, 0], patient=["p", "p", "q", "q"], rate=500.0,
        leads=[name.lower() for name in TWELVE],
    )  # fmt: skip
    for source in (given, str(tmp_path / "x.npy"), str(tmp_path / "x.npz")):
        found = open_ecg(source, reading=CROP)
        assert found.leads == TWELVE
        assert np.allclose(found.array, values, atol=1e-6)
    assert (found.labels.tolist(), found.groups.tolist()) == ([0, 1, 1, 0], ["p", "p", "q", "q"])
    with pytest.raises(NoSplit):
        open_ecg(str(tmp_path / "x.npz"), split="test", reading=CROP)


def test_an_array_file_may_hold_splits_and_several_labels(tmp_path):
    values = np.stack([signals().T] * 3)
    np.savez(
        tmp_path / "x.npz", x_train=values, y_train=np.eye(3)[[0, 1, 1]] + np.eye(3)[2], x_test=values[:2],
        y_test=np.zeros((2, 3)), rate=250,
    )  # fmt: skip
    found = open_ecg(str(tmp_path / "x.npz"), reading={**CROP, "rate": 500.0})
    assert found.labels.tolist() == [[1, 0, 1], [0, 1, 1], [0, 1, 1]]
    assert found.points(0) == 10_000
    assert len(open_ecg(str(tmp_path / "x.npz"), split="test", reading=CROP)) == 2


def test_what_does_not_fit_into_memory_is_read_when_asked_for(tmp_path, monkeypatch):
    for name in "abc":
        write_wfdb(tmp_path, name, signals(seed=ord(name)), TWELVE)
    np.save(tmp_path / "x.npy", np.stack([signals(seed=s) for s in range(3)]))
    resident, held = open_ecg(tmp_path, reading=CROP), open_ecg(str(tmp_path / "x.npy"), reading=CROP)
    monkeypatch.setattr(ecg_samples, "RESIDENT_BYTES", 0)
    (tmp_path / "b.dat").unlink()
    for kept, source in ((resident, tmp_path), (held, str(tmp_path / "x.npy"))):
        lazy = open_ecg(source, reading=CROP)
        again = pickle.loads(pickle.dumps(lazy))
        assert lazy.array is None
        for index in (0, 2):
            assert np.array_equal(lazy.read(index), kept.read(index))
            assert np.array_equal(again.read(index), kept.read(index))
        assert lazy.fingerprint() == kept.fingerprint()
    with pytest.raises(BadSample, match="b: "):
        open_ecg(tmp_path, reading=CROP).read(1)


def test_a_run_reads_other_data_with_its_own_leads(tmp_path):
    write_wfdb(tmp_path, "a", signals(3), ["V1", "II", "V5"])
    found = open_ecg(tmp_path, reading={**CROP, "leads": ["II", "V5"], "points": 5000})
    assert found.leads == ["II", "V5"]
    assert np.abs(found.read(0)[0] - signals(3)[:, 1]).max() < 2e-3
    with pytest.raises(
        UserError, match="has none of the leads V6, only V1, II, V5: choose others with --leads"
    ):
        open_ecg(tmp_path, reading={**CROP, "leads": ["V6"]})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "the source is empty"),
        ("hf:ecg", "is not a source of ECGs"),
        ("synthetic-ecgs", "Did you mean 'synthetic-ecg'"),
        ("nowhere", "nowhere does not exist"),
        (np.zeros((3, 100, 100)), "give .n, leads, time."),
        (np.array([["a"]]), "give numbers"),
    ],
)
def test_what_is_no_source_is_said_in_words(source, words):
    with pytest.raises(UserError, match=words):
        domains()["ecg"].open(source)


def test_a_folder_without_ecgs_is_said_in_words(tmp_path):
    (tmp_path / "note.txt").write_text("no ECG")
    with pytest.raises(UserError, match="holds no ECG"):
        open_ecg(tmp_path)
    with pytest.raises(UserError, match="is not a file of ECGs"):
        open_ecg(tmp_path / "note.txt")


def test_real_records_open(data_folder):
    challenge = open_ecg(data_folder("ecg_cinc2021"), reading=CROP)
    assert (len(challenge), challenge.leads, challenge.problems) == (50, TWELVE, [])
    # two of the records have chest leads that never move
    assert challenge.faults == [
        (name, lead, "flat") for name in ("JS20004", "JS20008") for lead in ("V2", "V4", "V6")
    ]
    assert challenge.description.endswith("500 Hz; 2 lack a lead: V2 flat (2), V4 flat (2), V6 flat (2)")
    assert challenge.labels[:, challenge.classes.index("sinus tachycardia")].sum() == 23
    assert challenge.labels[:, challenge.classes.index("sinus rhythm")].sum() == 15
    stored = wfdb.rdrecord(str(data_folder("ecg_cinc2021") / "E07500")).p_signal
    assert np.allclose(challenge.read(0), stored.T, atol=1e-6)
    holter = open_ecg(data_folder("ecg_mitbih100"), reading=CROP)
    assert (len(holter), holter.leads, set(holter.groups)) == (30, ["II", "V5"], {"100"})
    beats = [open_ecg(data_folder("ecg200"), split=split, reading=CROP) for split in (None, "test")]
    assert [(len(b), b.classes, np.bincount(b.labels).tolist()) for b in beats] == [
        (100, ["-1", "1"], [31, 69]), (100, ["-1", "1"], [36, 64]),
    ]  # fmt: skip
