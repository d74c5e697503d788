"""fMRI: runs of any regions, repetition time and length from every format; the odd ones named."""

import gzip

import numpy as np
import pytest
import scipy.io
import torch
from brains import cortex, series, write_atlas, write_dense, write_labels, write_parcels, write_volumes

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import domains
from anyjepa.domains.fmri_carpet import carpet, drawn
from anyjepa.domains.fmri_crops import random_crops, side_by_side
from anyjepa.domains.fmri_gradients import connectivity, gradients
from anyjepa.domains.fmri_samples import prepared, resampled
from anyjepa.domains.fmri_simulation import CLASSES, simulated
from anyjepa.domains.fmri_sources import open_fmri, subject_of
from anyjepa.domains.sources import NoSplit

FMRI = domains()["fmri"]
VALUES = series()


def text(values, mark=","):
    return "\n".join(mark.join(f"{value:.4f}" for value in row) for row in values) + "\n"


def csv_of_regions(path):
    rows = [f"area {n}," + ",".join(f"{v:.4f}" for v in row) for n, row in enumerate(VALUES)]
    path.write_text("\n".join(["label," + ",".join(map(str, range(80))), *rows]))


def csv_of_volumes(path):
    path.write_text(",".join(f"area {n}" for n in range(5)) + "\n" + text(VALUES.T))


WRITERS = {
    "a.1D": lambda path: path.write_text("#area0 area1 area2 area3 area4\n" + text(VALUES.T, " ")),
    "a.csv": csv_of_regions,
    "b.csv": csv_of_volumes,
    "c.csv": lambda path: path.write_text(text(VALUES)),
    "d.csv.gz": lambda path: path.write_bytes(gzip.compress(text(VALUES.T).encode())),
    "a.tsv": lambda path: path.write_text(text(VALUES.T, "\t")),
    "a.txt": lambda path: path.write_text(text(VALUES, "  ")),
    "a.npy": lambda path: np.save(path, VALUES.astype(np.float32)),
    "b.npy": lambda path: np.save(path, VALUES.T[None]),
    "a.mat": lambda path: scipy.io.savemat(path, {"tc": VALUES, "sc": np.eye(200)}),
    "a.npz": lambda path: np.savez(path, x=VALUES.T[None], repetition_time=2.0, subjects=["s1"]),
    "a.ptseries.nii": lambda path: write_parcels(path, VALUES, 2.0),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_of_any_format_lies_the_right_way_round(tmp_path, name):
    WRITERS[name](tmp_path / name)
    samples = open_fmri(str(tmp_path / name), reading={"step": 2.0})
    assert len(samples) == 1
    np.testing.assert_allclose(samples.read(0), VALUES, rtol=1e-6)
    assert samples.step == 2
    assert samples.told == (name in ("a.npz", "a.ptseries.nii"))
    named = {"a.csv": "area 1", "b.csv": "area 1", "a.1D": "area1", "a.ptseries.nii": "P1"}
    assert samples.regions[1] == named.get(name, "region 2")


def test_which_axis_is_the_regions_is_what_all_files_share(tmp_path):
    for number, length in enumerate((3, 4)):
        np.save(tmp_path / f"{number}.npy", series(5, length))
    samples = open_fmri(str(tmp_path))
    assert [samples.read(i).shape for i in (0, 1)] == [(5, 3), (5, 4)]
    np.save(tmp_path / "2.npy", series(5, 3))
    (tmp_path / "1.npy").unlink()
    assert open_fmri(str(tmp_path)).read(0).shape == (3, 5), "the shorter axis"
    assert open_fmri(str(tmp_path), reading={"layout": "regions-first"}).read(0).shape == (5, 3)
    with pytest.raises(UserError, match="--layout is one of"):
        open_fmri(str(tmp_path), reading={"layout": "sideways"})


@pytest.mark.parametrize("name", ["sub-01_bold.nii", "sub-01_bold.nii.gz"])
def test_volumes_are_parcellated_by_an_atlas_on_any_grid(tmp_path, name):
    write_volumes(tmp_path / "sub-01" / name, VALUES, 2000.0, "msec")
    write_atlas(tmp_path / "atlas" / "slabs.nii", scale=2)
    entries = "".join(f"<label><index>{10 * n}</index><name>Slab_{n}</name></label>" for n in range(1, 6))
    (tmp_path / "atlas" / "slabs.xml").write_text(f"<atlas>{entries}</atlas>")
    samples = open_fmri(str(tmp_path))
    np.testing.assert_allclose(samples.read(0), VALUES, rtol=1e-5)
    assert samples.regions == ["Slab_1", "Slab_2", "Slab_3", "Slab_4", "Slab_5"]
    assert samples.step == 2
    assert samples.groups.tolist() == ["sub-01"]
    assert FMRI.likeness(samples) == 1


def test_a_region_outside_the_field_of_view_is_named_and_is_nan(tmp_path):
    write_volumes(tmp_path / "a.nii", VALUES, slabs=5)
    atlas = write_atlas(tmp_path / "elsewhere" / "labels.nii.gz")
    samples = open_fmri(str(tmp_path / "a.nii"), reading={"atlas": str(atlas)})
    assert np.isnan(samples.read(0)[4]).all()
    np.testing.assert_allclose(samples.read(0)[:4], VALUES[:4], rtol=1e-5)
    assert "1 regions lack" in samples.description
    batch = side_by_side([samples.read(0)])
    assert batch["recorded"].tolist() == [[True] * 4 + [False]]
    assert torch.isfinite(batch["bold"]).all()


def test_volumes_need_one_atlas(tmp_path):
    write_volumes(tmp_path / "a.nii", VALUES)
    with pytest.raises(UserError, match="name a label image with --atlas"):
        open_fmri(str(tmp_path))
    for name in ("atlas1.nii", "atlas2.nii"):
        write_atlas(tmp_path / name)
    with pytest.raises(UserError, match=r"atlas1.nii, atlas2.nii"):
        open_fmri(str(tmp_path))
    with pytest.raises(UserError, match="is no atlas"):
        open_fmri(str(tmp_path), reading={"atlas": str(tmp_path / "a.nii")})
    with pytest.raises(UserError, match="is not a file"):
        open_fmri(str(tmp_path), reading={"atlas": "none.nii"})


def test_grayordinates_are_parcellated_by_vertex_and_voxel(tmp_path):
    numbers = np.array([0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 0, 0, 5, 5, 5])
    values = np.random.default_rng(0).standard_normal((40, 15)) + 100
    write_dense(tmp_path / "sub-7_rest.dtseries.nii", values)
    # the atlas knows more vertices than the data, in which these are not the first
    wider = cortex(20)
    given = np.zeros(len(wider), int)
    given[:12], given[20:] = numbers[:12], numbers[12:]
    write_labels(tmp_path / "areas.dlabel.nii", given, wider)
    samples = open_fmri(str(tmp_path))
    expected = np.stack([values[:, numbers == n].mean(1) for n in range(1, 6)])
    np.testing.assert_allclose(samples.read(0), expected, rtol=1e-5)
    assert samples.regions[0] == "area 1"
    assert samples.step == pytest.approx(0.72)


def test_matrices_and_anatomy_are_passed_over_and_damage_is_named(tmp_path):
    for number in range(3):
        scipy.io.savemat(tmp_path / f"{number}.mat", {"tc": series(5, 60, number)})
    scipy.io.savemat(tmp_path / "sc.mat", {"sc": np.random.default_rng(0).random((5, 5)) * (1 - np.eye(5))})
    np.savetxt(tmp_path / "fc.csv", connectivity(VALUES), delimiter=",")
    write_atlas(tmp_path / "brain.nii.gz")
    (tmp_path / "noise.mat").write_bytes(np.random.default_rng(0).bytes(3000))
    (tmp_path / "words.csv").write_text("a,b\nc,d\n")
    np.save(tmp_path / "other.npy", series(7, 60))
    samples = open_fmri(str(tmp_path))
    assert [samples.identity(i) for i in range(len(samples))] == ["0.mat", "1.mat", "2.mat"]
    problems = {problem.identity: problem.reason for problem in samples.problems}
    assert problems.keys() == {"noise.mat", "words.csv", "other.npy"}
    assert problems["other.npy"] == "has 7 regions, not 5"
    with pytest.raises(UserError, match="holds no run of fMRI"):
        open_fmri(str(tmp_path / "fc.csv"))


def test_gaps_are_mended_and_empty_regions_are_not_recorded():
    values = VALUES.copy()
    values[0, 10:13] = np.nan
    values[1, :20] = np.inf
    values[2] = 4.0
    mended, absent = prepared(values, "x")
    assert absent == [1, 2]
    np.testing.assert_allclose(mended[0, 9:14], np.linspace(values[0, 9], values[0, 13], 5))
    values[3] = 0
    with pytest.raises(BadSample, match="3 of 5 regions are empty or flat"):
        prepared(values, "x")


def test_any_repetition_time_is_brought_to_one():
    slow = np.sin(2 * np.pi * 0.02 * np.arange(300) * 0.72) * 40 + 9000
    fast = np.sin(2 * np.pi * 0.6 * np.arange(300) * 0.72) * 40
    made = resampled(np.stack([slow, slow + fast]), 0.72, 2.2)
    times = np.arange(made.shape[1]) * 2.2
    expected = np.sin(2 * np.pi * 0.02 * times) * 40 + 9000
    inner = slice(5, -5)
    np.testing.assert_allclose(made[0, inner], expected[inner], atol=1.5)
    np.testing.assert_allclose(made[1, inner], expected[inner], atol=4, err_msg="what would alias is gone")
    assert resampled(slow[None], 0.72, 0.723) is not None
    assert resampled(slow[None], 0.72, 0.723).shape == (1, 300), "as good as equal"


def test_long_runs_are_several_samples_of_one_subject_and_short_ones_are_named(tmp_path):
    for name, length in (("101309/rest1.npy", 400), ("102311/rest1.npy", 150), ("102311/rest2.npy", 20)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, series(5, length))
    reading = {"step": 1.0, "points": 50, "every": 2, "run_seconds": 120.0, "patch_size": 5}
    samples = open_fmri(str(tmp_path), reading=reading)
    assert [samples.identity(i) for i in range(4)][1:] == [
        "101309/rest1.npy@133.333s", "101309/rest1.npy@266.667s", "102311/rest1.npy",
    ]  # fmt: skip
    assert samples.groups.tolist() == ["101309"] * 3 + ["102311"]
    assert samples.labels is None, "folders of subjects are no classes"
    assert [problem.identity for problem in samples.problems] == ["102311/rest2.npy"]
    assert "shorter than a crop" in samples.problems[0].reason
    for place, start in enumerate((0, 133, 266)):
        np.testing.assert_allclose(samples.read(place), series(5, 400)[:, start : start + 133], rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("sub-01/ses-2/func/sub-01_ses-2_task-rest_bold.nii.gz", "sub-01"),
        ("hcp/101309/functional/TC_rsfMRI.mat", "101309"),
        ("gw/NAP_001/functional/BOLD.mat", "NAP_001"),
        ("100206_REST1.npy", "100206"),
        ("run1/ses-2/a.npy", None),
        ("Caltech_0051456_rois_aal.1D", None),
    ],
)
def test_subjects_by_name(path, subject):
    assert subject_of(path) == subject


def test_labels_by_run_or_by_subject(tmp_path):
    for name in ("sub-1", "sub-2"):
        for run in (1, 2):
            np.save(tmp_path / f"{name}_run-{run}.npy", series(5, 60, run))
    table = tmp_path / "people.csv"
    table.write_text("id,label\nsub-1,young\nsub-2,old\n")
    samples = open_fmri(str(tmp_path), str(table))
    assert [samples.classes[label] for label in samples.labels] == ["young", "young", "old", "old"]
    assert samples.groups.tolist() == ["sub-1", "sub-1", "sub-2", "sub-2"]


def test_crops_are_every_so_many_points_of_a_random_part():
    run = np.arange(100, dtype=np.float32) * np.ones((3, 1), np.float32)
    run[1] = np.nan
    batch = random_crops([run, run], np.array([0.0, 0.999]), 10, 3, 4)
    assert batch["bold"].shape == (2, 3, 8)
    assert batch["bold"][0, 0].tolist() == list(range(0, 24, 3))
    assert batch["bold"][1, 2].tolist() == list(range(78, 102, 3))
    assert batch["recorded"][0].tolist() == [True, False, True]


def test_the_raw_baseline_is_the_connectivity_matrix():
    samples = open_fmri("synthetic-fmri", reading={"points": 48, "patch_size": 8})
    facts = FMRI.measure(samples)
    runs = [samples.read(0), samples.read(1)[:, :50], samples.read(2)]
    runs[2][3] = np.nan
    found = FMRI.raw(side_by_side(runs), facts).numpy()
    rows, columns = np.triu_indices(21, 1)
    for values, run in zip(found[:2], runs[:2], strict=True):
        np.testing.assert_allclose(values, np.arctanh(np.corrcoef(run)[rows, columns]), atol=1e-4)
    assert not found[2][(rows == 3) | (columns == 3)].any()
    assert np.isfinite(found).all()


def test_what_is_measured():
    samples = open_fmri(
        "synthetic-fmri", reading={"points": 48, "patch_size": 8, "components": 6, "sparsity": 0.6}
    )
    facts = FMRI.measure(samples)
    level = samples.array.mean(axis=2, dtype=np.float64)
    np.testing.assert_allclose(facts["median"], np.median(level, axis=0), rtol=1e-5)
    quarter = np.percentile(level, [25, 75], axis=0)
    np.testing.assert_allclose(facts["spread"], quarter[1] - quarter[0], rtol=1e-5)
    inside = samples.array.astype(np.float64).var(axis=2).mean(axis=0)
    share = inside.sum() / (inside + level.var(axis=0)).sum()
    assert facts["temporal_share"] == pytest.approx(share, rel=1e-3)
    mean = np.mean([connectivity(run) for run in samples.array], axis=0)
    table = np.array([[float(value) for value in row.split()] for row in facts["gradients"]])
    np.testing.assert_allclose(table, gradients(mean, 6, 0.6), rtol=1e-4, atol=1e-6)
    assert facts["points"] == 48
    # what was put in comes out: the first gradient runs from the sensory to the transmodal end
    place = {
        "visual": 0,
        "somatomotor": 1,
        "attention": 2,
        "salience": 3,
        "limbic": 4,
        "control": 5,
        "default": 6,
    }
    order = [place[name.split()[0]] for name in samples.regions]
    assert abs(np.corrcoef(table[:, 0], order)[0, 1]) > 0.95
    words = FMRI.in_words(facts)
    assert words["crop"] == "96 s, 48 points"
    assert FMRI.doubts(samples, facts)


def test_simulated_subjects_differ_in_where_networks_fluctuate():
    runs, labels, subjects, names = simulated("train")
    assert runs.shape == (960, 21, 64)
    assert np.bincount(labels).tolist() == [320] * 3
    assert len(set(subjects)) == 960
    again, *_ = simulated(None)
    assert np.array_equal(runs, again)
    other, _, others, _ = simulated("test")
    assert len(other) == 480
    assert not set(others) & set(subjects)
    found = np.stack([connectivity(run) for run in runs])
    for number, network in enumerate(("visual", "salience", "default")):
        here = np.flatnonzero([name.startswith(network) for name in names])
        within = found[:, here[:, None], here].mean((1, 2))
        assert np.argmax([within[labels == kind].mean() for kind in range(len(CLASSES))]) == number
    with pytest.raises(NoSplit):
        simulated("other")


def test_arrays_and_refusals(tmp_path):
    values = np.stack([series(5, 60, n) for n in range(4)])
    samples = open_fmri(values)
    assert samples.array.shape == (4, 5, 60)
    assert np.array_equal(open_fmri(values.swapaxes(1, 2)).array, samples.array)
    for source, words in [
        ("synthetic-fmr", "Did you mean 'synthetic-fmri'"), ("hf:x", "not a source of fMRI"), ("", "empty"),
        (np.zeros((2, 3, 4, 5)), r"give runs as \(n, regions, time\)"), (np.zeros((3, 1, 9)), "one region"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words):
            open_fmri(source)
    with pytest.raises(UserError, match="are wanted"):
        open_fmri(values, reading={"regions": ["a"] * 7})
    np.savez(tmp_path / "a.npz", x=values, tr=[500.0])
    with pytest.raises(UserError, match="repetition time of 500"):
        open_fmri(str(tmp_path / "a.npz"))


def test_a_carpet_is_sorted_and_shaded_and_names_are_text():
    run, table = np.zeros((3, 8)), np.array([[0.1, 0], [0.9, 1], [0.5, 2]])
    run[1, :4], run[2, 4:] = 1, 1
    colours = np.full((6, 3), np.nan)
    colours[0] = (1, 0, 0)  # the first half of the first region, which is drawn last
    pixels = carpet(run, table, colours)
    height, width = pixels.shape[0] // 3, pixels.shape[1]
    assert pixels[0, 0, 0] > 127 > pixels[0, -1, 0], "the region with the highest value of gradient 1"
    assert pixels[height, 0, 0] < 127 < pixels[height, -1, 0]
    assert pixels[-1, 0].tolist() == [255, 0, 0]
    assert pixels[-1, width // 2].tolist() == [128, 128, 128]
    svg = drawn(run, table, 2.0, ["<b>", "x", "y"])
    assert "&lt;b&gt;" in svg
    assert "<b>" not in svg
    assert svg.count("<circle") == 3
    assert "<circle" not in drawn(run, table, 2.0, ["<b>", "x", "y"], colours)
    with pytest.raises(ValueError, match="do not fill"):
        carpet(run, table, colours[:4])


def test_real_runs_and_what_lies_beside_them(data_folder):
    folder = data_folder("fmri_hcp_gw")
    samples = open_fmri(str(folder), reading={"step": 0.72})
    assert len(samples) == 12
    assert not samples.problems
    assert samples.classes == ["gw", "hcp"]
    assert "101309" in samples.groups
    expected = scipy.io.loadmat(folder / "hcp/101309/functional/TC_rsfMRI_REST1_LR.mat")["tc"]
    place = samples.groups.tolist().index("101309")
    np.testing.assert_allclose(samples.read(place), expected, rtol=1e-6)
    facts = FMRI.measure(samples)
    assert facts["temporal_share"] < 0.1
    assert any("--repetition-time" in doubt for doubt in FMRI.doubts(samples, facts))


def test_a_real_atlas_parcellates(tmp_path, data_folder):
    from anyjepa.domains.fmri_volumes import read_atlas

    atlas = read_atlas(str(data_folder("fmri_hcp_gw") / "atlas" / "AAL2.nii"))
    assert len(atlas.numbers) == 120
    assert atlas.names[0] == "Precentral_L"
