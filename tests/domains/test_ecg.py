"""The ECG domain: what it measures, crops, tokens, raw features and drawings; and the simulated hearts."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from ecgs import TWELVE, signals
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from anyjepa.core.errors import UserError
from anyjepa.domains import domains
from anyjepa.domains.ecg_crops import random_crops, side_by_side
from anyjepa.domains.ecg_paper import drawn
from anyjepa.domains.ecg_patches import EcgPatches
from anyjepa.domains.ecg_simulation import CLASSES, DIRECTIONS, simulated
from anyjepa.domains.ecg_sources import open_ecg
from anyjepa.domains.sources import NoSplit

CROP = {"rate": 100.0, "seconds": 10.0, "record_seconds": 60.0, "use_seconds": 2.5, "patch_size": 10}
DOMAIN = domains()["ecg"]
SVG = "{http://www.w3.org/2000/svg}"


def records(count=6, leads=12):
    return np.stack([signals(leads, 100.0, seed=seed).T for seed in range(count)]).astype(np.float32)


def facts(values=None, reading=CROP):
    return DOMAIN.measure(open_ecg(records() if values is None else values, reading=reading))


def test_each_lead_is_measured_where_it_was_recorded():
    values = records()
    values[2, 3] = np.nan
    found = facts(values)
    there = np.delete(values[:, 3].astype(np.float64), 2, axis=0)
    # the limb leads that are left give the fourth
    derived = -(values[2, 0].astype(np.float64) + values[2, 1]) / 2
    whole = np.concatenate([there.ravel(), derived])
    assert (found["leads"], found["rate"], found["points"]) == (TWELVE, 100.0, 1000)
    assert found["mean"][3] == pytest.approx(whole.mean(), abs=1e-6)
    assert found["std"][3] == pytest.approx(whole.std(), abs=1e-6)
    lost = values.copy()
    lost[2, 8] = np.nan
    assert facts(lost)["std"][8] == pytest.approx(np.delete(values[:, 8], 2, axis=0).std(), abs=1e-6)


def test_the_length_of_a_crop_is_a_multiple_of_a_token():
    assert facts(records()[:, :, :994], {**CROP, "patch_size": 25})["points"] == 975


@given(
    uniforms=st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3), points=st.integers(1, 60)
)
def test_a_crop_is_a_stretch_of_its_record(uniforms, points):
    rows = [np.arange(length, dtype=np.float32) + np.zeros((2, 1), np.float32) for length in (60, 75, 60)]
    rows[1][1] = np.nan
    batch = random_crops(rows, np.array(uniforms), points)
    assert batch["ecg"].shape == (3, 2, points)
    first = batch["ecg"][:, 0, 0].numpy()
    assert np.array_equal(batch["ecg"][:, 0].numpy(), first[:, None] + np.arange(points))
    assert (first <= np.array([60, 75, 60]) - points).all()
    assert batch["recorded"].tolist() == [[True, True], [True, False], [True, True]]
    assert not batch["ecg"][1, 1].any()


def test_every_start_of_a_crop_is_as_likely():
    row = np.arange(12, dtype=np.float32)[None]
    many = random_crops([row] * 6000, np.random.default_rng(0).random(6000), 10)["ecg"][:, 0, 0]
    assert torch.bincount(many.long()).tolist() == pytest.approx([2000] * 3, abs=150)


def test_whole_records_lie_side_by_side():
    batch = side_by_side([np.ones((1, 4), np.float32), np.full((1, 2), 3, np.float32)])
    assert batch["ecg"].tolist() == [[[1, 1, 1, 1]], [[3, 3, 0, 0]]]
    assert batch["length"].tolist() == [4, 2]


def batch_of(values):
    return {"ecg": torch.as_tensor(values), "recorded": torch.ones(values.shape[:2], dtype=torch.bool)}


@pytest.mark.parametrize(("points", "tokens"), [(5000, 200), (1250, 50)])
def test_tokens_are_those_of_a_strided_convolution(points, tokens):
    """Exact check 1, against torch's own convolution."""
    torch.manual_seed(0)
    patches = EcgPatches(25, 32, [0.0] * 12, [1.0] * 12)
    values = torch.randn(3, 12, points)
    made = patches(batch_of(values))
    convolution = nn.functional.conv1d(
        values.clamp(-5, 5), patches.project.weight.view(32, 12, 25), stride=25
    )
    assert made.values.shape == (3, tokens, 32)
    assert torch.allclose(made.values, convolution.transpose(1, 2), atol=1e-5)
    keep = torch.tensor([[4, 2], [0, 1], [7, 3]])
    kept = patches(batch_of(values), keep)
    assert torch.allclose(kept.values, made.take(keep).values, atol=1e-6)
    assert kept.coordinates[0, :, 0].tolist() == [4, 2]


def test_leads_are_standardised_then_clipped():
    """Exact check 12: mean + 7 std is 5; what was not recorded is 0."""
    patches = EcgPatches(1, 4, [0.2, -1.0], [0.5, 2.0])
    batch = batch_of(torch.tensor([[[0.2 + 7 * 0.5, 0.2], [-1 - 9 * 2.0, 1.0]]]))
    assert patches.standardised(batch).tolist() == [[[5, 0], [-5, 1]]]
    batch["recorded"][0, 1] = False
    assert patches.standardised(batch)[0, 1].tolist() == [0, 0]


def test_tokens_beyond_the_end_of_a_record_are_not_present():
    patches = EcgPatches(10, 4, [0.0], [1.0])
    batch = {**batch_of(torch.randn(2, 1, 50)), "length": torch.tensor([50, 39])}
    assert patches(batch).present.tolist() == [[True] * 5, [True, True, True, False, False]]


def test_the_raw_baseline_finds_the_frequency_and_the_interval():
    """A wave of 7 Hz has its power between 7 and 8 Hz, beats 0.8 s apart repeat after that time."""
    known = facts(records())
    times = np.arange(1000) / 100
    wave = np.zeros((1, 12, 1000), np.float32)
    wave[0, 4] = np.sin(2 * np.pi * 7.4 * times)
    features = DOMAIN.raw(batch_of(wave), known)[0]
    waveform, bands, rhythm = (
        features[: 12 * 256],
        features[12 * 256 : 12 * 296].view(12, 40),
        features[12 * 296 :],
    )
    assert waveform.view(12, 256)[4].std() > 0.5
    assert (bands.argmax(1)[4], bands[4].max() > 5) == (7, True)
    assert not bands[[0, 1, 2, 3, 5]].any()
    beats = np.exp(-0.5 * (((times + 0.4) % 0.8 - 0.4) / 0.02) ** 2) * np.ones((12, 1))
    rhythm = DOMAIN.raw(batch_of(beats[None].astype(np.float32)), known)[0, 12 * 296 :]
    assert len(rhythm) == 88
    assert 0.24 + rhythm.argmax().item() / 50 == pytest.approx(0.8, abs=0.02)


def test_raw_features_do_not_depend_on_the_other_records():
    known, values = facts(records()), records()
    together = DOMAIN.raw(side_by_side(values), known)
    assert torch.allclose(DOMAIN.raw(side_by_side(values[:1]), known), together[:1], atol=1e-4)
    longer = [*values[:1], np.concatenate([values[1], values[1]], axis=1)]
    assert torch.allclose(DOMAIN.raw(side_by_side(longer), known)[0], together[0], atol=1e-4)


def test_noise_has_the_measured_statistics():
    known = facts()
    noise = np.stack(DOMAIN.noise(known, 50))
    assert noise.shape == (50, 12, 1000)
    assert noise.mean((0, 2)) == pytest.approx(known["mean"], abs=0.01)
    assert noise.std((0, 2)) == pytest.approx(known["std"], abs=0.01)


def traces(drawing):
    """Leads' names and their lines in millimetres, as they are on the paper."""
    root = ElementTree.fromstring(drawing)
    names = [text.text for text in root.iter(f"{SVG}text") if not text.get("class")]
    lines = []
    for path in root.iter(f"{SVG}path"):
        if path.get("transform"):
            numbers = np.array(re.findall(r"-?\d+", path.get("d")), float).reshape(-1, 2)
            lines.append(numbers.cumsum(0) / 100)
    return root, names, lines


def test_paper_has_25_mm_a_second_and_10_mm_a_millivolt():
    values = np.zeros((1, 500))
    values[0, 200:300] = 1.5
    _, names, lines = traces(drawn(values, np.array([True]), ["II"], 100.0))
    line = lines[0]
    assert names == ["II"]
    assert np.ptp(line[:, 0]) == pytest.approx(4.99 * 25, abs=0.02)
    assert np.ptp(line[:, 1]) == pytest.approx(15, abs=0.1)
    rise = line[line[:, 1] < line[:, 1].min() + 1, 0].min() - line[0, 0]
    assert rise == pytest.approx(2.0 * 25, abs=0.3)


def test_a_drawn_line_misses_no_peak_and_is_short():
    values = records()[0]
    drawing = drawn(values, np.ones(12, bool), TWELVE, 100.0)
    _, names, lines = traces(drawing)
    assert names == ["I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "II"]
    rhythm = lines[-1]
    there = np.interp(np.arange(1000) * 0.25 + rhythm[0, 0], rhythm[:, 0], -rhythm[:, 1]) / 10
    wanted = values[1] - np.median(values[1])
    assert np.abs(there - there[0] - (wanted - wanted[0])).max() < 0.02
    assert len(drawing) < 40_000


def test_masks_are_bands_of_time_on_the_paper():
    colours = np.full((20, 3), np.nan)
    colours[5:9] = (1, 0, 0)
    root, _, _ = traces(drawn(records()[0], np.ones(12, bool), TWELVE, 100.0, colours))
    bands = [r for r in root.iter(f"{SVG}rect") if r.get("fill-opacity")]
    assert [(float(b.get("x")), float(b.get("width")), b.get("fill")) for b in bands] == [
        (5 + 250 * 5 / 20, 250 * 4 / 20, "#ff0000")
    ]


def test_names_from_the_data_are_escaped_and_missing_leads_said():
    values = np.random.default_rng(0).normal(size=(2, 300))
    drawing = drawn(values, np.array([True, False]), ["<script>", "V1"], 100.0)
    assert "<script>" not in drawing
    assert drawing.count("not recorded") == 1


@pytest.mark.parametrize("leads", [1, 2, 12])
def test_a_thumbnail_shows_the_trace_and_its_paint(leads):
    known = facts(records(leads=leads))
    batch = side_by_side(records(leads=leads))
    plain = DOMAIN.picture(batch, 0, known)
    colours = torch.full((100, 3), torch.nan)
    colours[:50] = torch.tensor([0.0, 0.0, 1.0])
    painted = DOMAIN.picture(batch, 0, known, colours)
    assert (plain.shape, plain.dtype) == ((96, 128, 3), np.uint8)
    assert (plain.min(2) < 90).sum() > 100
    changed = (plain != painted).any(2)
    assert changed[:, :60].mean() > 0.5
    assert not changed[:, 70:].any()


def test_simulated_hearts_obey_einthoven_and_goldberger():
    limb = dict(zip(TWELVE[:6], DIRECTIONS[:6], strict=True))
    assert np.allclose(limb["II"], limb["I"] + limb["III"])
    assert np.allclose(limb["aVR"], -(limb["I"] + limb["II"]) / 2)
    assert np.allclose(limb["aVL"], (limb["I"] - limb["III"]) / 2)
    assert np.allclose(limb["aVF"], (limb["II"] + limb["III"]) / 2)


def test_simulated_records_are_always_the_same_and_split_by_patient():
    train, test, whole = (open_ecg("synthetic-ecg", split=s, reading=CROP) for s in (None, "test", "all"))
    assert train.fingerprint() == open_ecg("synthetic-ecg", split="train", reading=CROP).fingerprint()
    assert not set(train.groups) & set(test.groups)
    assert len(train) + len(test) == len(whole)
    assert train.classes == CLASSES
    for part in (train, test):
        assert len(set(np.bincount(part.labels))) == 1
        assert all(len(set(part.labels[part.groups == patient])) == 1 for patient in set(part.groups))
    with pytest.raises(NoSplit, match="only train, test and all"):
        simulated("other", 100.0)


def test_simulated_rhythms_are_what_they_are_called():
    """R peaks by a threshold in lead II: rates by class, and intervals that vary in fibrillation only."""
    made = simulated("all", 250.0)
    steep = np.abs(np.diff(made.records.values, axis=2)).sum(1)
    rates, spreads = {}, {}
    for kind, name in enumerate(CLASSES):
        found = [_intervals(row) for row in steep[made.labels == kind]]
        rates[name] = np.median([60 / np.mean(f) for f in found])
        spreads[name] = np.median([np.std(f) / np.mean(f) for f in found])
    assert rates["bradycardia"] < 55 < rates["sinus rhythm"] < 100 < rates["tachycardia"]
    assert spreads["atrial fibrillation"] > 2.5 * spreads["sinus rhythm"]


def _intervals(steep, rate=250.0):
    peaks, last = [], -np.inf
    smooth = np.convolve(steep, np.ones(15) / 15, "same")
    smooth = smooth - np.median(smooth)
    high = smooth > 0.45 * np.quantile(smooth, 0.99)
    for place in np.flatnonzero(high):
        if place - last > 0.25 * rate:
            peaks.append(place)
        last = place
    return np.diff(peaks) / rate


def test_all_damaged_is_said_in_words():
    with pytest.raises(UserError, match="holds no usable ECG"):
        open_ecg(np.zeros((3, 12, 1000)), reading=CROP)
