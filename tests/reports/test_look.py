"""``anyjepa look``: it names the kind of data, finds what is damaged, and proposes a training that works."""

import json
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from small import every_recipe, picture_folder, pictures

import anyjepa
from anyjepa import cli
from anyjepa.core.errors import BadSample, UserError
from anyjepa.engine.budget import Budget, rehearse
from anyjepa.engine.checking import check
from anyjepa.engine.survey import ending, identify, survey
from anyjepa.recipes import recipe, recipes

PROMISED = {"domain", "samples", "problems", "recipe", "seconds_per_epoch", "memory_bytes"}
PRICE = Budget(0.01, 0.01, 0.01, 400_000_000, None, 10, "cpu")
EXPECTED = {  # of the shared data: kind of data and samples, or what it says of a kind that nothing reads
    "brain_maps": "damaged as such", "cifar10_jpeg": ("image", 12000), "coil20": ("image", 1440),
    "drum_hits": ("audio", 200), "ecg200": ("ecg", 100), "ecg_cinc2021": ("ecg", 50),
    "ecg_mitbih100": ("ecg", 30), "eeg_eeglab32": ("eeg", 79), "eeg_ssvep": ("eeg", 728),
    "emoji_text": ("image", 1608), "flying_chairs": ("frames", 5),
    "fmri_hcp_gw": ("fmri", 33), "hippocampus_mri": ("volume", 120), "kitti_object3": ("points", 3),
    "kitti_scan_sequence": ("points", 4), "mnist": ("image", 60000), "modelnet10_voxels": ("points", 727),
    "mstar_soc": ("image", 2747), "recsys_ml100k": ("interactions", 1682), "robot_g1_lerobot": "LeRobot",
    "robot_mujoco_expert": ("control", 2000, 6), "spoken_digits": ("audio", 1500),
    "tabular_adult": ("table", 32561), "tabular_higgs7k": ("table", 7000),
    "tabular_housing": ("table", 20640), "ui_miniwob": "JSON",
}  # fmt: skip


@pytest.fixture
def priced(monkeypatch):
    """No steps are timed: every training costs the same; what was asked for is kept."""
    asked = []

    def cost(*given, **settings):
        asked.append((given, settings))
        return PRICE

    monkeypatch.setattr("anyjepa.reports.look.rehearse", cost)
    return asked


def images(folder):
    return picture_folder(folder, 40)


def ecgs(folder):
    wfdb = pytest.importorskip("wfdb")
    random, folder = np.random.default_rng(0), Path(folder)
    folder.mkdir()
    for number in range(10):
        values = random.normal(0, 0.3, (5000, 2))
        wfdb.wrsamp(
            f"r{number}", fs=500, units=["mV"] * 2, sig_name=["II", "V1"], p_signal=values, fmt=["16"] * 2,
            write_dir=str(folder),
        )  # fmt: skip
    return folder


def clouds(folder):
    random, folder = np.random.default_rng(0), Path(folder)
    folder.mkdir()
    for number in range(12):
        rows = "\n".join(" ".join(f"{value:.4f}" for value in row) for row in random.normal(size=(90, 3)))
        (folder / f"{number:02d}.off").write_text(f"OFF\n90 0 0\n{rows}\n")
    return folder


def table(folder):
    random, folder = np.random.default_rng(0), Path(folder)
    folder.mkdir()
    rows = [
        f"{a:.3f},{b:.3f},{c}" for a, b, c in zip(*random.normal(size=(2, 50)), "xyzvw" * 10, strict=True)
    ]
    (folder / "rows.csv").write_text("height,weight,colour\n" + "\n".join(rows) + "\n")
    return folder


MADE = {"image": images, "ecg": ecgs, "points": clouds, "table": table}
DAMAGE = {  # a damaged sample among good ones, and how it is named
    "image": ("dog/030.png", lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\nbroken"), "dog/030.png"),
    "ecg": ("r3.dat", lambda file: file.write_bytes(file.read_bytes()[:1000]), "r3"),
    "points": ("05.off", lambda file: file.write_text("OFF\n90 0 0\n1 2\n"), "05.off"),
    "table": ("rows.csv", lambda file: file.write_text(file.read_text() + "1.0,inf,x\n"), "50"),
}


@pytest.mark.parametrize("kind", MADE)
def test_it_names_the_kind_and_the_damaged_one_and_its_command_works(
    kind, tmp_path, monkeypatch, capsys, priced
):
    source = MADE[kind](tmp_path / "some data")
    name, damage, identity = DAMAGE[kind]
    whole = anyjepa.look(str(source))
    assert (whole["domain"], whole["problems"]) == (kind, [])
    damage(source / name)
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.html"
    assert cli.main(["look", str(source), "--out", str(page), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said.keys() >= PROMISED
    assert [problem["sample"] for problem in said["problems"]] == [identity]
    assert said["problems"][0]["reason"]
    assert said["checked"] == said["total"] == whole["total"] + (kind == "table")
    assert recipe(said["recipe"]).domain == kind
    assert said["memory_bytes"] == PRICE.memory_bytes
    assert said["seconds_per_epoch"] == pytest.approx(0.01 * (said["samples"] // said["batch_size"]))
    assert said["steps"] >= 300
    assert identity in page.read_text() and "seen:" in page.read_text()
    words = shlex.split(said["command"])
    assert words[0] == "anyjepa"
    words[words.index("--steps") + 1] = "2"
    assert cli.main([*words[1:], "--quiet", "true", "--workers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 2
    assert priced[-1][0][1] == str(source)


@pytest.mark.parametrize("name", every_recipe())
def test_every_recipes_example_is_known_and_can_be_proposed(name, tmp_path, priced):
    said = anyjepa.look(recipe(name).example_data, recipe=name, out=tmp_path / "page.html")
    assert (said["domain"], said["recipe"]) == (recipe(name).domain, name)
    assert said["problem_count"] == 0
    assert said["measured"] and all(isinstance(words, str) for words in said["measured"].values())
    text = (tmp_path / "page.html").read_text()
    assert "seen:" in text or "view" in text
    assert "Not drawn" not in text


def test_a_source_that_the_first_recipe_of_its_kind_cannot_read_is_proposed_to_the_next(tmp_path, priced):
    said = anyjepa.look("synthetic-reach", out=tmp_path / "page.html")
    assert (said["domain"], said["recipe"]) == ("control", "v-jepa-2-ac")
    said = anyjepa.look("synthetic-pendulum", out=tmp_path / "page.html")
    assert (said["domain"], said["recipe"]) == ("control", "act-jepa")


def test_a_person_reads_it_on_the_terminal(tmp_path, capsys, priced):
    source = images(tmp_path / "data")
    (source / "cat" / "000.png").write_bytes(b"")
    assert cli.main(["look", str(source)]) == 0
    said = capsys.readouterr().out
    assert "damaged: cat/000.png: the file is empty" in said
    assert "40 of 40 samples" in said
    assert "next: anyjepa train i-jepa --data" in said
    assert "above the 1 % at which training stops" in " ".join(said.split())


class Many:
    """A million samples, none in memory; counts what is read."""

    source, description, labels, classes, groups = "many", "many", None, None, None

    def __init__(self):
        self.problems, self.read_ones = [BadSample("early", "found when opened")], []

    def __len__(self):
        return 1_000_000

    def identity(self, index):
        return str(index)

    def fingerprint(self):
        return "0"

    def read(self, index):
        self.read_ones.append(index)
        if index == 999_999:
            raise BadSample("999999", "the last one")
        return np.full(3, index)


def test_a_large_set_is_sampled_with_its_ends_and_it_says_how_much():
    many = Many()
    checked = check(many, most=50)
    assert many.read_ones[:2] == [0, 999_999]
    assert len(set(many.read_ones)) == 50
    assert (checked.checked, checked.total, checked.complete) == (51, 1_000_001, False)
    assert [problem.identity for problem in checked.problems] == ["early", "999999"]
    again = Many()
    check(again, most=50)
    assert again.read_ones == many.read_ones, "the same seed, the same samples"
    check(slow := Many(), seconds=0.0)
    assert len(slow.read_ones) == 2


def test_of_a_folder_too_large_for_memory_few_files_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("anyjepa.domains.image_samples.RESIDENT_BYTES", 0)
    monkeypatch.setattr("anyjepa.domains.image_samples.LOOKED_AT", 8)
    source, opened = picture_folder(tmp_path / "data", 60), []
    from anyjepa.domains.image_samples import FileStore

    content = FileStore.content
    monkeypatch.setattr(FileStore, "content", lambda store, row: opened.append(row) or content(store, row))
    found = identify(str(source))
    assert [one.domain.name for one in found.candidates if one.fits > 0.5] == ["image"]
    assert len(opened) <= 8
    assert check(found.candidates[0].samples, most=5).checked == 5


def test_what_cannot_work_is_said_with_the_reason(tmp_path, priced):
    def sentences(name, arrays, labels=None):
        np.savez(tmp_path / f"{name}.npz", x=arrays, **({} if labels is None else {"y": labels}))
        return "\n".join(anyjepa.look(str(tmp_path / f"{name}.npz"), kind="image")["cannot"])

    assert "there is one sample" in sentences("one", pictures(1))
    few = sentences("few", pictures(20))
    assert "too few to learn from" in few and "batches of 64: 4 is proposed" in few
    alike = sentences("alike", pictures(80), np.full(80, 3))
    assert "every label is '3': there is nothing to tell apart" in alike
    assert "every label" not in sentences("differ", pictures(80), np.arange(80) % 2)
    assert "smaller than a patch" in sentences("tiny", pictures(80, (3, 40)))
    flat = pictures(80, (16, 16, 3))
    flat[..., 1] = 7
    assert "1 of 3 channels never change (number 1)" in sentences("flat", flat)
    copies = pictures(80)
    copies[7], copies[9] = copies[2], 5
    said = sentences("copies", copies)
    assert "1 of 80 samples repeat an earlier one" in said
    assert "9: all values are the same" in said


def test_two_kinds_in_one_folder_are_told_and_either_can_be_chosen(tmp_path, priced):
    source = images(tmp_path / "data")
    clouds(source / "shapes")
    said = anyjepa.look(str(source))
    assert said["domain"] == "image"
    (source / "dog").rename(tmp_path / "dog")
    for file in sorted((source / "cat").iterdir())[8:]:
        file.unlink()
    said = anyjepa.look(str(source))
    assert said["domain"] == "points"
    assert any("read as image too (8 PNG images): " in sentence for sentence in said["cannot"])
    assert anyjepa.look(str(source), kind="image")["domain"] == "image"
    with pytest.raises(UserError, match=r"there is no kind of data 'imag' .* Did you mean 'image'"):
        anyjepa.look(str(source), kind="imag")


def test_a_kind_of_data_that_nothing_reads_gets_a_sentence(tmp_path, capsys):
    for number in range(4):
        (tmp_path / f"{number}.m4a").write_bytes(b"ftyp")
    (tmp_path / "README.txt").write_text("sound")
    assert cli.main(["look", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said.keys() >= PROMISED
    assert (said["domain"], said["recipe"], said["samples"]) == (None, None, 0)
    assert any("4 files are sound, a kind of data that is not read yet" in line for line in said["cannot"])
    assert cli.main(["look", str(tmp_path / "nowhere.png")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert cli.main(["look", "digit"]) == 2
    assert "Did you mean 'digits'?" in capsys.readouterr().err


def test_a_folder_of_archives_is_looked_into_and_typed_as_shards(tmp_path, priced):
    source = images(tmp_path / "data")
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "train.tar", "w") as archive:
        archive.add(source, "train")
    said = anyjepa.look(str(tmp_path / "shards"))
    assert (said["domain"], said["samples"], said["files"]) == ("image", 40, {".png": 40})
    assert f"wds:{tmp_path / 'shards'}" in shlex.split(said["command"])


def test_budget_shortens_what_would_take_too_long(tmp_path, priced):
    source = str(images(tmp_path / "data"))
    long = anyjepa.look(source)
    assert long["seconds"] == pytest.approx(0.01 * long["steps"])
    assert anyjepa.look(source, minutes=0.02)["steps"] == 120
    assert "runs/data" in long["command"]


def test_endings_and_names_that_are_no_data(tmp_path):
    assert [ending(n) for n in ("a.PNG", "b.nii.gz", "t-ubyte.gz", "none")] == [
        ".png",
        ".nii.gz",
        "-ubyte.gz",
        "",
    ]
    for name in ("README.csv", ".hidden.png", "LICENSE.txt", "x.md", "a.png"):
        (tmp_path / name).write_bytes(b"")
    assert survey(str(tmp_path)).endings == {".png": 1}


def test_peak_memory_is_that_of_the_process_itself():
    code = (
        "import numpy; from anyjepa.engine.budget import peak_memory as peak; before = peak(); "
        "x = numpy.ones(25_000_000); print(peak() - before)"
    )
    ballast = np.ones(60_000_000)  # a child's own figure must not hold its parent's
    grown = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    assert ballast.nbytes > 400e6
    assert 190e6 < grown < 260e6


@pytest.mark.slow
def test_a_trial_that_cannot_begin_gives_the_reason(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        rehearse("i-jepa", str(tmp_path / "nowhere"), "tiny", {}, steps=10)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes())
def test_the_estimate_is_within_a_factor_of_two_of_the_truth(name, tmp_path):
    said = anyjepa.look(recipe(name).example_data, recipe=name)
    code = (
        "import sys, time; from anyjepa.cli import main; from anyjepa.engine.budget import peak_memory; "
        "main(sys.argv[1:]); print(time.process_time(), peak_memory())"
    )
    spent, memory = [], 0
    for steps in (5, 65):
        words = shlex.split(said["command"])[1:]
        words[words.index("--steps") + 1] = str(steps)
        words[words.index("--out") + 1] = str(tmp_path / str(steps))
        answer = subprocess.run(
            [sys.executable, "-c", code, *words, "--quiet", "true"],
            capture_output=True,
            text=True,
            check=True,
        )
        processor, peak = answer.stdout.splitlines()[-1].split()
        spent.append(float(processor))
        memory = int(peak)
    step = (spent[1] - spent[0]) / 60
    epoch = step * (said["samples"] // said["batch_size"])
    assert 0.5 < said["processor_seconds_per_epoch"] / epoch < 2
    assert 0.5 < said["memory_bytes"] / memory < 2


LARGE = {"brain_maps", "cifar10_jpeg", "emoji_text", "hippocampus_mri", "mstar_soc", "spoken_digits",
         "tabular_adult", "tabular_higgs7k"}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in EXPECTED]
)
def test_every_shared_set_is_named_for_what_it_is(name, data_folder, priced):
    said = anyjepa.look(str(data_folder(name)))
    expected = EXPECTED[name]
    if isinstance(expected, str):
        assert said["domain"] is None or said["domain"] not in ("image", "ecg", "points", "table")
        assert expected in " ".join(said["cannot"])
    else:
        # of four robots in one folder, episodes with other numbers than the first one's are named
        kind, samples, problems = (*expected, 0)[:3]
        assert (said["domain"], said["samples"], said["problem_count"]) == (kind, samples, problems)
        assert said["command"].startswith("anyjepa train ")


def unpacked(source, folder):
    with tarfile.open(next(source.glob("*.tar"))) as archive:
        archive.extractall(folder, filter="data")


PLANTED = {  # a set, what to do to one of its files, and how that is named
    "coil20": ("coil20/obj7__3.png", lambda content: content[: len(content) // 2], "obj7__3.png"),
    "ecg_cinc2021": ("JS20016.mat", lambda content: content[:500], "JS20016"),
    "kitti_scan_sequence": ("000002.bin", lambda content: content[:1001], "000002.bin"),
    "tabular_housing": (
        "housing.csv",
        lambda content: content + content.splitlines()[-1] + b",9,9\n",
        "line 20642",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_one_damaged_file_planted_in_a_copy_of_a_shared_set_is_found(name, data_folder, tmp_path, priced):
    source, copy = data_folder(name), tmp_path / name
    file, damage, identity = PLANTED[name]
    if name == "coil20":
        unpacked(source, copy)
    else:
        copy.mkdir()
        for one in source.iterdir():
            (copy / one.name).write_bytes(one.read_bytes())
    (copy / file).write_bytes(damage((copy / file).read_bytes()))
    said = anyjepa.look(str(copy))
    assert said["problem_count"] == 1
    assert said["checked"] == said["total"]
    assert identity in str(said["problems"][0])
    assert ("--max-bad-fraction" in said["command"]) == (said["total"] < 200)
