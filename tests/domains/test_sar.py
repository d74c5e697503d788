"""Radar chips: MSTAR's raw files, complex values, what is measured and drawn."""

import numpy as np
import pytest
import tifffile
import torch
from damaged import refuses, withstands

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import domains
from anyjepa.domains.image_files import decode
from anyjepa.domains.sar import amplitude
from anyjepa.domains.sar_files import decode_phoenix

SAR = domains()["sar"]


def phoenix(values, native=b"", **words):
    """The content of a raw MSTAR file: the header counts its own length."""
    rows, columns = values.shape
    said = {"NumberOfColumns": columns, "NumberOfRows": rows, "native_header_length": len(native), **words}
    lines = [f"{name}= {value}" for name, value in said.items() if value is not None]
    for length in range(100, 1000):
        text = "\n".join(
            [
                "[PhoenixHeaderVer01.04]",
                f"PhoenixHeaderLength= {length:05d}",
                *lines,
                "[EndofPhoenixHeader]",
                "",
            ]
        )
        if len(text) == length:
            break
    phase = np.zeros_like(values, ">f4")
    return text.encode() + native + values.astype(">f4").tobytes() + phase.tobytes()


def chip(side=16, seed=0):
    return np.random.default_rng(seed).rayleigh(size=(side, side + 2)).astype(np.float32)


@pytest.mark.parametrize("native", [b"", b"\0" * 512])
def test_a_raw_chip_is_its_magnitudes(native):
    assert np.array_equal(decode_phoenix(phoenix(chip(), native)), chip())
    assert np.array_equal(decode(phoenix(chip(), native), "one")[:, :, 0], chip())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [({"NumberOfRows": 10**6}, "claims 1000000 x 18"), ({"NumberOfColumns": None}, "no NumberOfColumns")],
)
def test_a_raw_chip_that_lies_is_named(words, complaint):
    with pytest.raises(BadSample, match=complaint):
        decode(phoenix(chip(), **words), "one")


def test_a_folder_of_raw_chips_is_read_as_the_public_release_lies(tmp_path):
    for kind, serial in [("T72", "015"), ("BMP2", "000")]:
        (tmp_path / kind).mkdir()
        for number in range(3):
            (tmp_path / kind / f"HB0{number}.{serial}").write_bytes(phoenix(chip(seed=number)))
    (tmp_path / "T72" / "HB09.015").write_bytes(phoenix(chip())[:400])
    samples = SAR.open(str(tmp_path))
    assert samples.classes == ["BMP2", "T72"]
    assert samples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [problem.identity for problem in samples.problems] == ["T72/HB09.015"]
    assert np.array_equal(samples.read(1)[:, :, 0], chip(seed=1))
    assert SAR.likeness(samples) == 1.0


@pytest.mark.parametrize("ending", ["npy", "tif"])
def test_complex_chips_become_their_magnitude(tmp_path, ending):
    values = chip() * np.exp(1j * np.random.default_rng(1).uniform(0, 6, chip().shape)).astype(np.complex64)
    if ending == "npy":
        np.save(tmp_path / "one.npy", values)
    else:
        tifffile.imwrite(tmp_path / "one.tif", values)
    assert np.allclose(SAR.open(str(tmp_path)).read(0)[:, :, 0], chip(), atol=1e-6)
    many = np.stack([values, 2 * values])
    assert np.allclose(SAR.open(many).read(1)[:, :, 0], 2 * chip(), atol=1e-6)


def test_what_is_measured_is_the_range_too():
    values = np.stack([chip(40, seed) for seed in range(8)])
    facts = SAR.measure(SAR.open(values))
    assert facts["low"] == values.min()
    assert facts["top"] == pytest.approx(np.quantile(values, 0.999), rel=0.15)
    assert SAR.measure(SAR.open((values * 20).astype(np.uint8)))["top"] == 255
    with pytest.raises(UserError, match="but one value"):
        SAR.measure(SAR.open(np.ones((3, 16, 16), np.float32)))


@pytest.mark.parametrize("kind", ["amplitude", "intensity", "decibel"])
def test_amplitude_is_never_below_zero_nor_anything_but_finite(kind):
    found = amplitude(np.array([-3.0, 0.0, 4.0]), kind)
    assert (found >= 0).all() and np.isfinite(found).all() and found.dtype == np.float32
    assert found[2] == pytest.approx({"amplitude": 4, "intensity": 2, "decibel": 10**0.2}[kind])


def test_the_figure_shows_the_chip_and_four_maps_with_patches_painted():
    samples = SAR.open("synthetic-sar")
    batch = {"image": torch.from_numpy(np.stack([samples.read(0), samples.read(1)])).permute(0, 3, 1, 2)}
    plain = SAR.figure(batch, 0, {})
    assert plain.count("<img") == 5 and "windows of 35 pixels" not in plain and "windows of 3 pixels" in plain
    colours = torch.full((64, 3), torch.nan)
    colours[10] = torch.tensor([1.0, 0.0, 0.0])
    assert SAR.figure(batch, 0, {}, colours) != plain
    picture = SAR.picture(batch, 0, {}, colours)
    assert (picture == [255, 0, 0]).all(2).mean() == pytest.approx(1 / 64, abs=0.002)


def test_raw_features_are_square_roots_of_means():
    batch = {"image": torch.rand(2, 1, 64, 64)}
    known = batch["image"].view(2, 32, 2, 32, 2).mean((2, 4)).sqrt().flatten(1)
    assert torch.allclose(SAR.raw(batch, {}), known, atol=1e-6)


def test_chips_of_the_public_set(data_folder):
    train = SAR.open(f"wds:{data_folder('mstar_soc')}", split="train")
    assert len(train) == 2747 and len(train.classes) == 10
    assert train.read(0).shape == (88, 88, 1)
    assert SAR.measure(train)["top"] == 255


def test_damage_to_a_raw_chip_does_no_harm(tmp_path):
    withstands("sar", tmp_path, {"HB01.015": phoenix(chip()), "HB02.015": phoenix(chip(seed=1))}, "{}")


def test_a_header_that_claims_a_terabyte_is_refused(tmp_path):
    content = phoenix(chip(), NumberOfRows=2**20, NumberOfColumns=2**18)
    assert "claims 1048576 x 262144" in refuses("sar", tmp_path, {"HB01.015": content})
