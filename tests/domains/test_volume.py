"""Volumes as samples: scaled, labelled by files and by masks, grouped by patients, whole or by slices."""

import json

import numpy as np
import pytest
import torch
from scans import body, write_nifti

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Samples, domains
from anyjepa.domains.sources import NoSplit
from anyjepa.domains.volume import fitted
from anyjepa.domains.volume_samples import scaled
from anyjepa.domains.volume_sources import open_volumes, patient_of
from anyjepa.evaluation.sides import _same_classes


@pytest.fixture
def segmented(tmp_path):
    """A set laid out as the Medical Segmentation Decathlon's: structure 2 in half of the volumes."""
    for number in range(4):
        (tmp_path / "imagesTr").mkdir(exist_ok=True)
        (tmp_path / "labelsTr").mkdir(exist_ok=True)
        write_nifti(tmp_path / "imagesTr" / f"case_{number:03d}.nii.gz", body(seed=number))
        mask = np.zeros((6, 10, 12), np.uint8)
        mask[1:3, :5, :4] = 1
        mask[3, :2, : 2 * (number % 2)] = 2
        write_nifti(tmp_path / "labelsTr" / f"case_{number:03d}.nii.gz", mask, dtype=np.uint8)
    named = {"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}
    (tmp_path / "dataset.json").write_text(json.dumps(named))
    return tmp_path


def test_masks_say_how_large_structures_are_and_what_slices_show(segmented):
    samples = open_volumes(str(segmented))
    assert isinstance(samples, Samples) and len(samples) == 4
    # 40 places of structure 1, and of 2 none or 4, of 6 cubic millimetres each
    assert samples.labels == pytest.approx([0.24, 0.264, 0.24, 0.264]) and samples.classes is None
    second = open_volumes(str(segmented), "volume:2")
    assert second.labels == pytest.approx([0, 0.024, 0, 0.024])
    which = open_volumes(str(segmented), "structures")
    assert which.labels.tolist() == [[1, 0], [1, 1], [1, 0], [1, 1]]
    assert which.classes == ["Anterior", "Posterior"]
    slices = open_volumes(f"slices:{segmented}")
    assert slices.classes == ["none", "Anterior", "Posterior"] and len(slices) == 24
    assert slices.labels[:12].tolist() == [0, 1, 1, 0, 0, 0, 0, 1, 1, 2, 0, 0]
    assert slices.groups[0] == slices.groups[5] != slices.groups[6]
    area = open_volumes(f"slices:{segmented}", "volume")
    assert area.labels[:4] == pytest.approx([0, 0.4, 0.4, 0])  # 20 places of 2 square millimetres
    assert samples.dense(1).tolist() == [0, 1, 1, 2, 0, 0]
    assert np.array_equal(slices.read(2)[0], samples.read(0)[2])
    assert slices.identity(2) == "imagesTr/case_000.nii.gz[3]"


def test_what_cannot_be_said_of_masks_is_one_sentence(segmented, tmp_path_factory):
    with pytest.raises(UserError, match="nor one of volume"):
        open_volumes(str(segmented), "volum")
    with pytest.raises(UserError, match="no structure 7"):
        _ = open_volumes(str(segmented), "volume:7").labels
    plain = tmp_path_factory.mktemp("plain")
    write_nifti(plain / "a.nii", body())
    assert open_volumes(str(plain)).labels is None
    with pytest.raises(UserError, match="has no masks"):
        open_volumes(str(plain), "volume")
    write_nifti(segmented / "labelsTr" / "case_000.nii.gz", np.zeros((5, 10, 12)), dtype=np.uint8)
    samples = open_volumes(str(segmented))
    assert np.isnan(samples.labels[0]) and "mask of shape" in str(samples.problems[0])


def test_masks_and_sequences_are_told_by_their_names(tmp_path):
    for name in ("p1_t1", "p1_seg", "p2_t1", "p2_seg"):
        write_nifti(tmp_path / f"{name}.nii.gz", body() % 2 if "seg" in name else body())
    samples = open_volumes(str(tmp_path))
    assert [samples.identity(i) for i in range(2)] == ["p1_t1.nii.gz", "p2_t1.nii.gz"] and len(samples) == 2
    assert samples.groups.tolist() == ["p1", "p2"]


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("sub-07/anat/sub-07_T1w.nii.gz", "sub-07"),
        ("imagesTr/hippocampus_001.nii.gz", "imagesTr/hippocampus_001"),
        ("BRATS_12_flair.nii.gz", "BRATS_12"),
        ("BRATS_0012_0001.nii.gz", "BRATS_0012"),
        ("heart_0003.nii.gz", "heart_0003"),
        ("adam_scan1.nrrd", "adam"),
        ("ct.nii", "ct"),
    ],
)
def test_whose_a_volume_is(name, patient):
    assert patient_of(name) == patient


def test_labels_and_patients_of_a_file(tmp_path):
    for number in range(4):
        write_nifti(tmp_path / f"v{number}.nii.gz", body(seed=number))
    (tmp_path / "l.csv").write_text("id,label,patient\nv0,ill,A\nv1,well,A\nv2,ill,B\n")
    samples = open_volumes(str(tmp_path), str(tmp_path / "l.csv"))
    assert samples.labels.tolist() == [0, 1, 0, -1] and samples.classes == ["ill", "well"]
    assert samples.groups.tolist() == ["A", "A", "B", "v3"]
    slices = open_volumes(f"slices:{tmp_path}", str(tmp_path / "l.csv"))
    assert slices.labels[:6].tolist() == [0] * 6 and slices.groups[11] == "A"


def test_class_folders_are_labels_and_patient_folders_are_not(tmp_path):
    for folder in ("tumour/p1", "tumour/p2", "healthy/p3"):
        (tmp_path / folder).mkdir(parents=True)
        write_nifti(tmp_path / folder / "t1.nii", body())
    samples = open_volumes(str(tmp_path))
    assert samples.classes == ["healthy", "tumour"] and samples.labels.tolist() == [0, 1, 1]
    assert samples.groups.tolist() == ["p3", "p1", "p2"]
    assert open_volumes(str(tmp_path / "tumour")).labels is None


def test_values_are_scaled_by_what_is_not_background():
    values = np.zeros((4, 20, 20, 1), np.float32)
    values[:, 5:15, 5:15] = np.linspace(100, 200, 100).reshape(1, 10, 10, 1)
    values[0, 6, 6] = 1e6
    found = scaled(values, (0.0, 0.0), "a")
    assert found.min() == 0 and found.max() == 1 and found.dtype == np.float32
    assert found[1, 14, 14] > 0.95 and np.allclose(found, scaled(values * 7, (0.0, 0.0), "a"))
    window = scaled(np.array([-2000.0, -160, 40, 240, 3000]).reshape(1, 1, 5, 1), (-160.0, 240.0), "a")
    assert window.ravel().tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    for bad, reason in ((np.nan, "NaN"), (0.0, "one value")):
        with pytest.raises(BadSample, match=reason):
            scaled(np.full((2, 8, 8, 1), bad), (0.0, 0.0), "a")


def test_all_volumes_are_brought_to_one_spacing_that_other_data_takes_over(tmp_path):
    write_nifti(tmp_path / "a.nii", body(), (3.0, 1.0, 2.0))
    write_nifti(tmp_path / "b.nii", body((6, 10, 12), 1), (3.0, 1.0, 2.0))
    write_nifti(tmp_path / "c.nii", body((12, 10, 12), 2), (1.5, 1.0, 2.0))
    domain = domains()["volume"]
    samples = domain.open(str(tmp_path))
    assert [samples.read(i).shape for i in range(3)] == [(6, 10, 12, 1)] * 3
    assert [samples.shape(i) for i in range(3)] == [(6, 10, 12)] * 3
    facts = domain.measure(samples)
    other = domain.open(str(tmp_path / "c.nii"), reading={"plane": "axial", **facts})
    assert other.read(0).shape == (6, 10, 12, 1) and other.spacing == samples.spacing
    coarse = domain.open(str(tmp_path), reading={"spacing": (6.0, 2.0, 2.0)})
    assert coarse.read(0).shape == (3, 5, 12, 1) and coarse.fingerprint() != samples.fingerprint()
    coronal = domain.open(str(tmp_path), reading={"plane": "coronal"})
    assert coronal.read(0).shape == (10, 6, 12, 1) and coronal.spacing == pytest.approx((1, 3, 2))
    for wrong in ({"plane": "oblique"}, {"spacing": (1.0, 0.0, 1.0)}):
        with pytest.raises(UserError, match=r"--(plane|spacing)"):
            domain.open(str(tmp_path), reading=wrong)


def test_arrays_archives_images_and_slices(tmp_path):
    values = np.stack([body(seed=n) for n in range(3)])
    np.save(tmp_path / "a.npy", values)
    np.savez(
        tmp_path / "a.npz", train_images=values, train_labels=[0, 1, 0], test_images=values[:1],
        test_labels=[1], spacing=[3.0, 1.0, 2.0],
    )  # fmt: skip
    first, second = open_volumes(str(tmp_path / "a.npy")), open_volumes(str(tmp_path / "a.npz"))
    assert np.array_equal(first.read(1), second.read(1)) and second.labels.tolist() == [0, 1, 0]
    assert second.spacing == (3.0, 1.0, 2.0) and len(open_volumes(str(tmp_path / "a.npz"), split="test")) == 1
    assert np.array_equal(open_volumes(values).read(2), first.read(2))
    images = open_volumes("images:digits", split="test")
    assert images.read(0).shape == (1, 8, 8, 1) and images.labels is not None
    with pytest.raises(UserError, match="slices already"):
        open_volumes("slices:images:digits")
    with pytest.raises(NoSplit):
        open_volumes(str(tmp_path / "a.npy"), split="test")


def test_simulated_patients_are_on_one_side_and_all_findings_are_visible():
    train, test = (open_volumes("synthetic-volumes", split=split) for split in (None, "test"))
    assert len(train) == 200 and len(test) == 100
    assert np.array_equal(train.read(3), open_volumes("synthetic-volumes").read(3))
    lesions = np.array([(train.parts(i) == 4).sum() for i in range(40)])
    ill = np.array(train.classes)[train.labels[:40]] == "liver lesions"
    assert (lesions[ill] > 0).mean() > 0.9 and not lesions[~ill].any()
    spleens = np.array([(train.parts(i) == 2).sum() for i in range(40)])
    large = np.array(train.classes)[train.labels[:40]] == "large spleen"
    assert np.median(spleens[large]) > 2 * np.median(spleens[~large])
    assert (train.groups[::2] == train.groups[1::2]).all()
    assert not set(train.groups.tolist()) & set(test.groups.tolist())


def test_volumes_are_cropped_and_padded_around_their_middle():
    one, other = np.ones((2, 12, 7, 1), np.float32), np.full((9, 4, 8, 1), 2, np.float32)
    volume, present = fitted([one, other], (5, 8, 8))
    assert volume.shape == (2, 1, 5, 8, 8) and present.tolist() == [
        [False, True, True, False, False],
        [True] * 5,
    ]
    assert (
        volume[0].sum() == 2 * 8 * 7 and volume[1, 0, :, 2:6].eq(2).all() and volume[1].sum() == 5 * 4 * 8 * 2
    )
    alone, there = fitted([one[:1]], (5, 8, 8))
    assert alone.shape == (1, 1, 1, 8, 8) and there.tolist() == [[True]]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_three_planes_and_the_slices_are_drawn(plane):
    domain = domains()["volume"]
    samples = domain.open("synthetic-volumes", reading={"plane": plane})
    facts = domain.measure(samples)
    volume, present = fitted([samples.read(0)], (40, 32, 32))
    batch = {"volume": volume, "present": present}
    colours = torch.full((40, 3), torch.nan)
    colours[18] = torch.tensor([1.0, 0.0, 0.0])
    whole, painted = domain.figure(batch, 0, facts), domain.figure(batch, 0, facts, colours)
    for name in ("axial", "coronal", "sagittal"):
        assert f"{name}, " in whole
    assert painted != whole and whole.count("<img") == 3 + min(12, int(present.sum()))
    picture = domain.picture(batch, 0, facts)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert (domain.picture(batch, 0, facts, colours) != picture).any()
    alone = {"volume": volume[:, :, 20:21], "present": torch.ones(1, 1, dtype=torch.bool)}
    assert domain.figure(alone, 0, facts).count("<img") == 1
    assert domain.raw(batch, facts).shape == (1, 8 * 12 * 12 + 16)


def test_the_hippocampus_is_measured_as_its_masks_say(data_folder):
    """Volumes of a whole hippocampus in adults are some 2.5 to 4.5 ml."""
    samples = open_volumes(str(data_folder("hippocampus_mri")), reading={"plane": "coronal"})
    assert len(samples) == 120 and samples.problems == []
    assert samples.spacing == pytest.approx((1, 1, 1)) and len(set(samples.groups.tolist())) == 120
    assert 2.5 < np.median(samples.labels) < 4.5
    # from front to back, slices show the anterior part, then the posterior one
    shown = [kind for kind in samples.dense(0).tolist() if kind]
    assert shown == sorted(shown) and set(shown) == {1, 2}


@pytest.mark.parametrize("slices", [False, True])
def test_test_data_with_fewer_structures_is_counted_and_named_as_the_training_data(segmented, slices):
    word = "largest" if slices else "structures"
    train = open_volumes(f"slices:{segmented}" if slices else str(segmented), word)
    test = open_volumes(f"slices:{segmented}" if slices else str(segmented), word)
    if slices:
        test.labels, test.classes = np.where(test.labels == 2, 1, 0), ["none", "Posterior"]
        found = _same_classes(test, train)
        assert set(found.labels.tolist()) == {0, 2}
    else:
        test.labels, test.classes = test.labels[:, 1:], ["Posterior"]
        found = _same_classes(test, train)
        assert found.labels[:, 0].sum() == 0 and found.labels[:, 1].tolist() == [0, 1, 0, 1]
    assert found.classes == train.classes
