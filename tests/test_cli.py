"""The command line and the Python words: from images to a page, and mistakes that name the nearest."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from small import FIELDS, picture_folder, pictures, words

import anyjepa
from anyjepa import cli
from anyjepa.core.errors import UserError

PROMISED = {
    "train": {"run", "steps", "loss", "rankme", "samples_per_second"},
    "inspect": {"rankme", "lidar", "alpha_req", "stable_rank", "uniformity", "collapsed"},
    "compare": {"runs"},
    "sweep": {"best", "trials"},
    "evaluate": {"probe", "metric", "value", "untrained", "raw"},
    "embed": {"rows", "dim", "out"},
    "export": {"out", "format", "max_difference"},
    "import": {"run", "missing", "unexpected"},
    "pack": {"out", "source", "domain", "samples", "shards", "skipped"},
    "push": {"repo", "url", "commit"},
    "report": {"report"},
    "board": {"runs"},
    "recipes": {"recipes"},
}


@pytest.fixture
def answer(capsys):
    """Run a command with --json and give the last line of stdout, which holds what is promised."""

    def run(command, *typed):
        assert cli.main([command, *map(str, typed), "--json"]) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert PROMISED[command] <= result.keys()
        return result

    return run


@pytest.fixture
def mistake(capsys):
    """Run a command that is wrong and give the one line it is answered with."""

    def run(*typed):
        assert cli.main([str(word) for word in typed]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.strip().splitlines()) == 1, err
        return err.strip()

    return run


@pytest.mark.parametrize("source", [pytest.param("digits", marks=pytest.mark.slow), "folder"])
def test_from_images_to_a_page(tmp_path, answer, source):
    data = "digits" if source == "digits" else picture_folder(tmp_path / "data", 60)
    samples = 1438 if source == "digits" else 60
    run = tmp_path / "run"
    trained = answer(
        "train", "i-jepa", "--data", data, "--out", run, "--steps", 4, "--quiet", "true", *words()
    )
    assert (trained["run"], trained["steps"]) == (str(run), 4)
    health = answer("inspect", run)
    assert isinstance(health["collapsed"], bool)
    side_by_side = answer("compare", run, run)["runs"]
    assert [row["rank"] for row in side_by_side] == [1, 2]
    assert side_by_side[0]["rankme"] == pytest.approx(health["rankme"])
    for probe in ("linear", "knn"):
        score = answer("evaluate", run, "--data", data, "--probe", probe)
        assert score["probe"] == probe
        assert score["low"] <= score["value"] <= score["high"]
    table = answer("embed", run, "--data", data, "--out", tmp_path / "e.parquet")
    array = answer("embed", run, "--data", data, "--out", tmp_path / "e.npy")
    assert (table["rows"], table["dim"]) == (array["rows"], array["dim"]) == (samples, FIELDS["width"])
    same_embeddings(tmp_path / "e.parquet", tmp_path / "e.npy", samples)
    exported = answer("export", run, "--format", "safetensors", "--out", tmp_path / "encoder.safetensors")
    assert exported["max_difference"] == 0
    assert [row["run"] for row in answer("board", tmp_path)["runs"]] == ["run"]
    page = answer("report", run)["report"]
    assert (run / "report.html").samefile(page)
    assert "<html" in (run / "report.html").read_text()[:500]


def same_embeddings(table, array, samples):
    from pyarrow import parquet

    rows, values = parquet.read_table(table), np.load(array)
    assert values.shape == (samples, FIELDS["width"])
    assert values.dtype == np.float32
    assert np.array_equal(np.stack(rows["embedding"].to_numpy()), values)
    identities = array.with_suffix(".ids.txt").read_text().splitlines()
    assert rows["id"].to_pylist() == identities
    assert len(set(identities)) == samples
    assert len(set(rows["label"].to_pylist())) > 1


@pytest.mark.slow
def test_settings_are_tried_and_ranked(tmp_path, answer):
    typed = ["--grid", "learning_rate=1e-3,2e-3", "--data", "digits", "--out", tmp_path, "--steps", 2]
    result = answer("sweep", "i-jepa", *typed, *words())
    assert len(result["trials"]) == 2
    assert result["best"]["run"] == result["trials"][0]["run"]
    assert anyjepa.compare([row["run"] for row in result["trials"]])["by"] == "rankme"


def test_recipes_are_listed_with_what_they_are(answer):
    listed = answer("recipes")["recipes"]
    assert {"name", "paper", "domain", "presets"} <= listed[0].keys()
    one = answer("recipes", "i-jepa")["recipes"]
    assert [row["name"] for row in one] == ["i-jepa"]
    assert one[0]["fields"]["width"]["meaning"]


def help_of(capsys, *typed):
    with pytest.raises(SystemExit) as left:
        cli.main([*typed, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_help_has_an_example_that_is_understood(command, capsys, monkeypatch):
    text = help_of(capsys, command)
    example = re.search(r"example:\n\s+(anyjepa .+)", text)
    assert example, text
    typed = shlex.split(example.group(1))[1:]
    assert typed[0] == command
    assert len(text.split("\n\n")) > 1

    parsed = []
    parse = cli.Parser.parse_all

    class Understood(Exception):
        pass

    def only_parse(self, given):
        parsed.append(parse(self, given))
        raise Understood

    monkeypatch.setattr(cli.Parser, "parse_all", only_parse)
    with pytest.raises(Understood):
        cli.main(typed)
    assert parsed


def test_help_of_a_recipe_lists_every_field_with_its_meaning(capsys):
    from anyjepa.recipes import recipe
    from anyjepa.recipes.fields import fields_of

    text = " ".join(help_of(capsys, "train", "i-jepa").split())
    for field in fields_of(recipe("i-jepa")):
        assert field.flag in text
        assert field.meaning in text


def test_the_example_of_a_recipe_names_its_own_data(capsys):
    from anyjepa.recipes import recipes

    for name, kind in recipes().items():
        text = help_of(capsys, "train", name)
        assert f"anyjepa train {name} --data {kind.example_data} --out runs/{kind.example_data}" in text


def test_help_loads_no_torch():
    program = "from anyjepa.cli import main; main(['--help']); main(['--version'])"
    program += "; import sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    said = done.stdout.splitlines()
    assert said[-2:] == [f"anyjepa {anyjepa.__version__}", "False"]
    assert all(f"  {command}" in done.stdout for command in cli.COMMANDS)
    assert "anyjepa demo" in done.stdout


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "i-japa"], "Did you mean 'i-jepa'?"),
        (["recipes", "ijepa"], "Did you mean 'i-jepa'?"),
        (["train", "i-jepa", "--preset", "vitb"], "Did you mean 'vit-b'?"),
        (["train", "i-jepa", "--objective", "smooth"], "Did you mean 'smooth-l1'?"),
        (["train", "i-jepa", "--learnig-rate", "1"], "Did you mean '--learning-rate'?"),
        (["train", "i-jepa", "--published", "maybe"], "--published is true or false, not 'maybe'"),
        (["train", "i-jepa", "--momentum", "0.9", "1", "2"], "--momentum takes X X, not '0.9 1 2'"),
        (["train", "i-jepa", "--data", "digit"], "Did you mean"),
        (["inspect"], "see `anyjepa inspect --help`"),
        (["inspect", "run", "--date", "x"], "Did you mean '--data'?"),
        (["evaluate", "nowhere/run"], "nowhere/run is not a run"),
        (["train"], "anyjepa train"),
        (["sweep"], "name the recipe first"),
        (["sweep", "i-jepa", "--grid", "widht=2"], "Did you mean 'width'?"),
        (["sweep", "i-jepa", "--grid", "width=2", "--by", "rankm"], "Did you mean 'rankme'?"),
        (["compare", "nowhere/run"], "nowhere/run is not a run"),
        (["board", "nowhere"], "there is no folder nowhere"),
        (["board", "--prot", "0"], "Did you mean '--port'?"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest(tmp_path, monkeypatch, mistake, typed, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_of_mine").mkdir()
    assert said in mistake(*typed)
    assert [path.name for path in tmp_path.iterdir()] == ["digits_of_mine"], "nothing was begun"


def test_mistakes_about_a_run_name_the_nearest_too(tmp_path, mistake):
    run = tmp_path / "run"
    anyjepa.train("i-jepa", pictures(20), run, settings=anyjepa.Settings(steps=1, quiet=True), **FIELDS)
    assert "Did you mean 'linear'?" in mistake("evaluate", run, "--data", "digits", "--probe", "liner")
    assert "Did you mean 'safetensors'?" in mistake("export", run, "--format", "safetensor")
    assert "written as .parquet or .npy, not '.csv'" in mistake(
        "embed", run, "--data", "digits", "--out", "e.csv"
    )
    assert "trained on an array in memory" in mistake("inspect", run)


def test_few_labels_and_settings_of_fine_tuning_on_the_command_line(tmp_path, answer, mistake):
    run, data = tmp_path / "run", picture_folder(tmp_path / "data", 60)
    anyjepa.train("i-jepa", str(data), run, settings=anyjepa.Settings(steps=1, quiet=True), **FIELDS)
    few = answer("evaluate", run, "--probe", "knn", "--shots", 3, "--draws", 2, "--no-cache")
    assert (few["train"], len(few["draws"]), few["computed"]) == (6, 2, 180)
    assert not (run / "cache").exists()
    tuned = answer(
        "evaluate", run, "--probe", "finetune", "--epochs", 1, "--layer-decay", 0.5, "--augment", "false"
    )
    assert tuned["chosen"]["layer_decay"] == 0.5
    assert "--layer-decay lies between 0 and 1" in mistake("evaluate", run, "--layer-decay", 2)
    assert "Did you mean '--labels-fraction'?" in mistake("evaluate", run, "--label-fraction", 0.1)
    assert "is on both sides of the split" in mistake("evaluate", run, "--test", data)


def test_debug_shows_where_a_mistake_was_found():
    with pytest.raises(UserError, match="Did you mean 'i-jepa'"):
        cli.main(["train", "i-japa", "--debug"])


def test_the_same_words_in_python(tmp_path):
    run, array = tmp_path / "run", pictures(60)
    settings = anyjepa.Settings(steps=3, quiet=True, workers=0)
    trained = anyjepa.train("i-jepa", "digits", run, settings=settings, **FIELDS)
    assert trained["steps"] == 3
    embeddings = anyjepa.load(run).embed(array)
    assert embeddings.shape == (60, FIELDS["width"])
    assert 1 <= anyjepa.health.rankme(embeddings) <= FIELDS["width"] * 1.01
    sums = anyjepa.health.Accumulator(FIELDS["width"]).add(embeddings)
    assert sums.estimates()["rankme"].value == pytest.approx(anyjepa.health.rankme(embeddings))
    with pytest.raises(AttributeError, match="no attribute 'rankm'"):
        _ = anyjepa.health.rankm
    assert anyjepa.inspect(run, array)["samples"] == 60
    assert anyjepa.evaluate(run, "digits", probe="knn")["probe"] == "knn"
    assert anyjepa.embed(run, array, tmp_path / "e.npy")["rows"] == 60
    assert anyjepa.export(run, out=tmp_path / "e.safetensors")["max_difference"] == 0
    assert anyjepa.report(run)["report"]
    assert all(
        callable(getattr(anyjepa, name))
        for name in ("evaluate", "report", "inspect", "train", "embed", "compare", "sweep")
    )
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = anyjepa.trian


def test_an_encoder_in_the_manner_of_scikit_learn(tmp_path):
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError

    array = pictures(40)
    encoder = anyjepa.Encoder("i-jepa", steps=3, seed=4, fields=FIELDS)
    with pytest.raises(NotFittedError):
        encoder.transform(array)
    first = encoder.fit(array).transform(array)
    assert first.shape == (40, FIELDS["width"])
    assert first.dtype == np.float32
    assert np.array_equal(clone(encoder).fit_transform(array), first)
    assert not np.array_equal(clone(encoder).set_params(seed=5).fit_transform(array), first)
    kept = clone(encoder).set_params(out=str(tmp_path / "kept")).fit(array)
    assert np.array_equal(anyjepa.load(tmp_path / "kept").embed(array).numpy(), kept.transform(array))
