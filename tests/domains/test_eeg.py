"""The kind of data EEG: what is measured, compared with, drawn, packed and found by `look`."""

import json
import xml.dom.minidom

import numpy as np
import pytest
import torch
from eegs import NAMES, waves, write_edf, write_fif

import anyjepa
from anyjepa.domains import domains
from anyjepa.domains.eeg_baselines import band_power, on_electrodes
from anyjepa.domains.eeg_batches import beside
from anyjepa.domains.eeg_montage import TEN_TWENTY, ten_twenty
from anyjepa.domains.eeg_samples import PLACE
from anyjepa.domains.eeg_scalp import flattened
from anyjepa.domains.eeg_simulation import CLASSES, simulated_eeg
from anyjepa.engine.packing import pack
from anyjepa.engine.proposal import recipes_for
from anyjepa.engine.survey import identify
from anyjepa.recipes import recipe

EEG = domains()["eeg"]
SIX = ["F1", "C1", "C2", "Pz", "POz", "Oz"]
READING = recipe("s-jepa").preset("tiny", seconds=4.0).reading()


@pytest.fixture(scope="module")
def simulated():
    samples = EEG.open("synthetic-eeg", reading=READING)
    return samples, EEG.measure(samples)


def test_the_simulation_is_what_it_says():
    volts, labels, who = simulated_eeg(None, 64.0, 4.0)
    again = simulated_eeg("train", 64.0, 4.0)
    assert all(np.array_equal(one, other) for one, other in zip((volts, labels, who), again, strict=True))
    _, _, others = simulated_eeg("test", 64.0, 4.0)
    assert not set(who) & set(others), "test subjects are others"
    assert len(set(who)) >= 3 and volts.shape[1:] == (19, 256)
    assert 3e-6 < volts.std() < 3e-5
    frequencies = np.fft.rfftfreq(256, 1 / 64)
    power = (np.abs(np.fft.rfft(volts)) ** 2)[..., (frequencies >= 8) & (frequencies < 14)].mean(-1)
    place = {name: number for number, name in enumerate(TEN_TWENTY)}
    mean = {kind: power[labels == number].mean(0) for number, kind in enumerate(CLASSES)}
    assert mean["eyes closed"][place["O1"]] > 3 * mean["rest"][place["O1"]]
    for moved, over, other in (("left hand", "C4", "C3"), ("right hand", "C3", "C4")):
        assert mean[moved][place[over]] < 0.6 * mean["rest"][place[over]]
        assert mean[moved][place[other]] > 0.8 * mean["rest"][place[other]]


def test_what_is_measured(simulated):
    samples, facts = simulated
    assert json.loads(json.dumps(facts)) == facts
    assert facts["electrodes"] == list(TEN_TWENTY) and (facts["fewest"], facts["most"]) == (19, 19)
    assert np.allclose(facts["places"], ten_twenty(), atol=1e-5) and len(facts["montages"]) == 1
    assert facts["deviation"] == pytest.approx(1e-5, rel=0.5)
    assert EEG.doubts(samples, facts) == []
    words = EEG.in_words(facts)
    assert words["rate"] == "64 Hz, as it is read" and "µV" in words["deviation"]
    wrong = EEG.doubts(samples, {**facts, "deviation": 10.0})
    assert len(wrong) == 1 and "unit" in wrong[0]


def test_band_power_is_that_of_the_band():
    times = torch.arange(512) / 128
    signals = torch.stack([2e-5 * torch.sin(2 * torch.pi * f * times) for f in (2.0, 6.0, 10.0, 20.0, 40.0)])
    power = band_power(signals[None], 128.0)[0]
    assert power.argmax(1).tolist() == [0, 1, 2, 3, 4]
    louder = band_power(10 * signals[None], 128.0)[0]
    grown = (louder - power).diagonal()
    torch.testing.assert_close(grown, torch.full_like(grown, 2 * np.log(10)), atol=1e-3, rtol=0)
    assert band_power(signals[None, :, :128], 64.0).shape == (1, 5, 5)


def test_the_raw_features_do_not_depend_on_padding_or_order(simulated):
    samples, facts = simulated
    raw = [samples.read(n) for n in range(3)]
    plain = EEG.raw(beside(raw), facts)
    order = np.random.default_rng(0).permutation(19)
    torch.testing.assert_close(EEG.raw(beside([one[order] for one in raw]), facts), plain)
    few = EEG.raw(beside([raw[0], raw[1][:5]]), facts)
    assert few.shape == plain[:2].shape and few.isfinite().all()
    torch.testing.assert_close(few[0], plain[0])
    assert on_electrodes(beside([raw[1][:5]]), torch.tensor(facts["places"])).shape == (1, 19, 256)


@pytest.mark.slow
def test_the_fields_pipelines_tell_simulated_classes_apart(simulated):
    pytest.importorskip("pyriemann")
    samples, facts = simulated
    held_out = EEG.open("synthetic-eeg", split="test", reading=READING)
    train, test = (beside([one.read(n) for n in range(0, len(one), 3)]) for one in (samples, held_out))
    labels = torch.from_numpy(samples.labels[::3])
    found = EEG.baselines(train, labels, test, facts)
    assert set(found) == {"CSP + LDA", "tangent space"}
    for name, said in found.items():
        assert (said == held_out.labels[::3]).mean() > 0.45, name


def test_the_head_from_above():
    flat = flattened(ten_twenty())
    place = dict(zip(TEN_TWENTY, flat, strict=True))
    assert np.allclose(place["Cz"], 0, atol=0.05)
    assert place["T8"][0] > 0.9 and place["T7"][0] < -0.9 and place["Fp1"][1] > 0.8 and place["O1"][1] < -0.8
    assert np.abs(np.linalg.norm(place["C4"])) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["s-jepa", "eeg-vjepa"])
def test_drawings_are_shaded_where_tokens_are(name):
    kind = recipe(name).preset("tiny")
    samples = EEG.open("synthetic-eeg", reading=kind.reading())
    facts = EEG.measure(samples)
    batch = kind.present([samples.read(n) for n in range(2)])
    tokens = kind.method(facts).tokens(batch).values.shape[1]
    colours = torch.full((tokens, 3), torch.nan)
    plain, bare = EEG.figure(batch, 1, facts, colours), EEG.picture(batch, 1, facts)
    colours[:8] = torch.tensor([1.0, 0.0, 0.0])
    shaded, painted = EEG.figure(batch, 1, facts, colours), EEG.picture(batch, 1, facts, colours)
    xml.dom.minidom.parseString(shaded)
    assert "#ff0000" in shaded and "#ff0000" not in plain
    assert bare.shape == painted.shape == (96, 128, 3) and (bare != painted).any()
    named = EEG.figure(batch, 0, {**facts, "electrodes": ["<b>&", *facts["electrodes"][1:]]}, None)
    assert "<b>" not in named and "&lt;b&gt;" in named
    assert len(shaded) < 300_000


def test_a_pack_is_read_as_its_source(tmp_path):
    write_fif(tmp_path / "data" / "sub-01_raw.fif", waves())
    write_fif(tmp_path / "data" / "sub-02_raw.fif", waves(NAMES[:4], seed=1), NAMES[:4])
    made = pack(str(tmp_path / "data"), tmp_path / "pack", recipe_name="s-jepa", workers=1)
    kind = recipe("s-jepa").preset("tiny")
    source = EEG.open(
        str(tmp_path / "data"), reading=recipe("s-jepa").preset("paper").reading() | {"seconds": 20.0}
    )
    del source
    from anyjepa.engine.run import open_source

    packed = open_source(EEG, made["source"], None, None, kind.reading())
    assert len(packed) == made["samples"] and sorted(set(packed.groups)) == ["sub-01", "sub-02"]
    facts = EEG.measure(packed)
    assert (facts["fewest"], facts["most"]) == (4, 6) and facts["electrodes"] == NAMES
    assert {packed.read(0).shape[0], packed.read(len(packed) - 1).shape[0]} == {4, 6}
    assert packed.read(0).shape[1] == PLACE + round(facts["rate"] * facts["seconds"])


def test_look_tells_an_eeg_from_an_ecg_and_proposes_s_jepa(tmp_path):
    write_edf(tmp_path / "a.edf", waves())
    found = identify(str(tmp_path))
    assert found.candidates[0].domain.name == "eeg"
    assert recipes_for(EEG)[0].name == "s-jepa"


@pytest.mark.parametrize("name", ["s-jepa", "eeg-vjepa"])
def test_training_on_one_montage_serves_another(tmp_path, name):
    """A run of 19 simulated electrodes embeds and scores recordings of six others."""
    folder = tmp_path / "run"
    settings = anyjepa.Settings(steps=2, quiet=True, workers=0)
    anyjepa.train(name, out=folder, settings=settings, batch_size=8)
    run = anyjepa.load(folder)
    for who in range(3):
        write_fif(tmp_path / "data" / f"sub-{who}_raw.fif", waves(SIX, seed=who), SIX)
    samples = run.open(str(tmp_path / "data"))
    vectors = run.embed(samples)
    assert len(vectors) == len(samples) > 3 and vectors.isfinite().all()
    assert vectors.shape[1] == run.embed(run.open(), indices=np.arange(2)).shape[1]


@pytest.mark.slow
def test_scores_stand_beside_the_fields_pipelines_and_the_papers_heads(tmp_path):
    pytest.importorskip("pyriemann")
    settings = anyjepa.Settings(steps=2, quiet=True, workers=0)
    anyjepa.train("s-jepa", out=tmp_path / "run", settings=settings, batch_size=8, width=24, heads=2,
                  predictor_heads=2, place_width=18, depth=1)  # fmt: skip
    from anyjepa.evaluation.finetuning import FineTuning

    found = anyjepa.evaluate(tmp_path / "run", probe=["linear", "pre-local"], tuning=FineTuning(epochs=1.0))
    linear, head = found["results"]
    assert set(linear["baselines"]) == set(head["baselines"]) == {"CSP + LDA", "tangent space"}
    assert (
        head["probe"] == "pre-local" and head["raw_probe"] == "linear" and head["chosen"]["regime"] == "new"
    )
    with pytest.raises(anyjepa.UserError, match="no probe"):
        anyjepa.evaluate(tmp_path / "run", probe="post-locla")


def test_one_subject_on_both_sides_is_refused(tmp_path):
    for session in (1, 2):
        write_fif(tmp_path / "data" / f"sub-01_ses-{session}_raw.fif", waves(seed=session))
    table = tmp_path / "trials.csv"
    rows = [
        f"sub-01_ses-{s},{t},{'ab'[t % 2]},01,{'train' if s == 1 else 'test'}"
        for s in (1, 2)
        for t in range(8)
    ]
    table.write_text("recording,onset,label,subject,split\n" + "\n".join(rows) + "\n")
    settings = anyjepa.Settings(steps=1, quiet=True, workers=0)
    small = {"batch_size": 4, "width": 24, "heads": 2, "predictor_heads": 2, "place_width": 18, "depth": 1}
    anyjepa.train("s-jepa", str(tmp_path / "data"), tmp_path / "run", settings=settings, **small)
    with pytest.raises(anyjepa.UserError, match="both sides of the split"):
        anyjepa.evaluate(tmp_path / "run", str(tmp_path / "data"), labels=str(table), probe="knn")
