"""Runs as rows of a table: found, read as they grow, a hundred of them quickly."""

import json
import os
import shutil
import time

import pytest
from written import row, write_rows, write_run

from anyjepa.board.runs import LONGEST, Runs, health, newest, plain, text
from anyjepa.core.errors import UserError


def named(rows):
    return {one["run"]: one for one in rows}


def test_runs_are_found_at_any_depth_and_say_what_they_are(runs):
    found = named(runs.rows())
    assert list(found) == ["first", "second", "sweep/trial-000"]
    first = found["first"]
    assert (first["state"], first["recipe"], first["domain"]) == ("finished", "i-jepa", "image")
    assert (first["step"], first["steps"]) == (1000, 1000)
    assert first["figures"]["loss"] == pytest.approx(1 / 1001)
    assert first["fields"]["width"] == 96
    assert first["fields"]["data samples"] == 1438
    assert first["scores"][0]["untrained"] == 0.6
    assert first["health"]["tone"] == "good"
    assert found["second"]["fields"]["seed"] == 1
    assert (found["sweep/trial-000"]["state"], found["sweep/trial-000"]["step"]) == ("imported", 0)
    assert found["sweep/trial-000"]["health"]["tone"] == "unknown"
    json.dumps(list(found.values()), allow_nan=False)


def test_a_real_run_reads_as_it_was_trained(tmp_path):
    from small import pictures, train_small

    trained = train_small(tmp_path / "runs" / "own", pictures(40), steps=6)
    [found] = Runs(tmp_path / "runs").rows()
    assert found["run"] == "own"
    assert (found["state"], found["step"]) == ("finished", 6)
    assert found["figures"]["loss"] == pytest.approx(trained["loss"])
    assert found["fields"]["image_size"] == [16, 16]
    assert found["health"]["tone"] in ("good", "care", "bad")
    assert Runs(tmp_path / "runs" / "own").rows()[0]["run"] == "own", "the folder may be a run itself"


def test_new_rows_runs_and_results_are_seen(runs, several):
    before = named(runs.rows())["second"]
    write_rows(several / "second", [row(60)])
    write_run(several / "third")
    (several / "second" / "evaluations.jsonl").write_text(
        '{"probe": "knn", "metric": "accuracy", "value": 0.5}\n'
    )
    (several / "second" / "skipped.jsonl").write_text('{"sample": "a.png", "reason": "cut"}\n')
    shutil.rmtree(several / "first")
    after = named(runs.rows())
    assert list(after) == ["second", "third", "sweep/trial-000"]
    assert (before["step"], after["second"]["step"]) == (40, 60)
    assert before["version"] != after["second"]["version"]
    assert (after["second"]["scores"][0]["value"], after["second"]["skipped"]) == (0.5, 1)
    details = runs.get("second").details()
    assert details["skipped_first"] == [("a.png", "cut")]


def test_what_cannot_be_read_is_named(runs, several):
    (several / "first" / "config.yaml").write_text("recipe: [")
    (several / "second" / "config.yaml").write_text("just words")
    found = named(runs.rows())
    assert found["first"]["state"] == found["second"]["state"] == "unreadable"
    assert "not readable YAML" in found["first"]["problem"]
    assert "does not describe a run" in found["second"]["problem"]
    write_run(several / "first")
    assert named(runs.rows())["first"]["state"] == "finished"


@pytest.mark.parametrize(
    "change",
    [
        {"data": "words"}, {"fields": [1, 2]}, {"steps": "many"}, {"versions": None}, {"status": 3},
        {"recipe": {"a": 1}}, {"batch_size": "x"}, {"data": {"kind": ["x"], "description": {"a": [1]}}},
    ],
)  # fmt: skip
def test_settings_of_another_shape_do_no_harm(tmp_path, change):
    write_run(tmp_path / "odd", [row(20)], [{"value": "x"}, {"value": 0.5, "probe": ["x"]}], **change)
    runs = Runs(tmp_path)
    [found] = runs.rows()
    json.dumps(found, allow_nan=False)
    assert runs.curves(["odd"], ["loss"], "samples", 0)["odd"]["loss"]["y"] == [0.047619]


def test_links_are_not_followed(runs, several, tmp_path):
    outside = write_run(tmp_path / "outside")
    (several / "linked").symlink_to(outside)
    (several / "half").mkdir()
    (several / "half" / "config.yaml").symlink_to(outside / "config.yaml")
    assert not {"linked", "half"} & set(named(runs.rows()))


@pytest.mark.parametrize("name", ["../outside", "/etc", "first/..", "", ".", "first/", "first\0", "FIRST"])
def test_only_runs_that_were_found_have_a_name(runs, tmp_path, name):
    write_run(tmp_path / "outside")
    assert runs.get(name) is None
    assert runs.curves([name], ["loss"], "step", 0) == {}


def test_names_that_are_no_unicode_are_shown_and_found(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    write_run(tmp_path / "plain").rename(os.fsdecode(folder))
    runs = Runs(tmp_path)
    [found] = runs.rows()
    found["run"].encode()
    assert runs.get(found["run"]).folder.name == os.fsdecode(b"caf\xe9")


def test_curves_are_thinned_with_their_spikes_and_smoothed(tmp_path):
    rows = [row(step, loss=1.0) for step in range(1, 5001)]
    rows[2500]["loss"] = 9.0
    write_run(tmp_path / "long", rows)
    drawn = Runs(tmp_path).curves(["long"], ["loss", "none"], "step", 10)["long"]
    assert list(drawn) == ["loss"]
    loss = drawn["loss"]
    assert len(loss["x"]) == len(loss["y"]) <= 400
    assert max(loss["y"]) == 9.0
    assert max(loss["smooth_y"]) == pytest.approx(1.8)
    assert (loss["x"][0], loss["x"][-1]) == (1, 5000)


def test_a_curve_is_drawn_anew_only_when_its_run_goes_on(tmp_path, monkeypatch):
    write_run(tmp_path / "one", [row(20), row(40)])
    runs, asked = Runs(tmp_path), []
    plainly = runs.get("one")._curve
    monkeypatch.setattr(runs.get("one"), "_curve", lambda *given: asked.append(given) or plainly(*given))
    for along in ("step", "step", "epoch", "step"):
        first = runs.curves(["one"], ["loss", "none"], along, 0)
    assert asked == [("loss", "step", 0), ("none", "step", 0), ("loss", "epoch", 0), ("none", "epoch", 0)]
    write_rows(tmp_path / "one", [row(60)])
    assert len(runs.curves(["one"], ["loss"], "step", 0)["one"]["loss"]["x"]) == 3
    assert len(first["one"]["loss"]["x"]) == 2


def test_health_in_words():
    first = {"rankme_centred": 20.0}
    assert health(first, {"rankme_centred": 25.0}, []) == (
        "good", "healthy: effective rank 25.0, at first 20.0",
    )  # fmt: skip
    assert health(first, {"rankme_centred": 20.0}, []) == (
        "care", "no gain in rank: effective rank 20.0, at first 20.0",
    )  # fmt: skip
    assert health(first, {"rankme_centred": 5.0}, []) == (
        "care", "shrinking: effective rank 5.0, at first 20.0",
    )  # fmt: skip
    assert health(first, {"rankme_centred": 25.0}, ["collapsed to one point: x"])[0] == "bad"
    told = health(first, {"rankme_centred": 25.0}, ["collapsed to one point: x", "no longer collapsed"])
    assert told == ("good", "recovered: effective rank 25.0, at first 20.0")
    assert health(first, {}, []) == ("unknown", "not measured yet")


def test_the_newest_result_of_each_measurement():
    rows = [
        {"probe": "knn", "metric": "accuracy", "value": 0.1},
        {"probe": "knn", "metric": "accuracy", "value": 0.2, "shots": 5},
        {"probe": "knn", "metric": "accuracy", "value": 0.3},
    ]
    assert [one["value"] for one in newest(rows)] == [0.3, 0.2]


def test_values_are_short_and_flat():
    assert plain([1, [2], "a", float("nan"), {"b": 1}]) == [1, "…", "a", "nan", "…"]
    assert len(plain(list(range(1000)))) == 64
    assert len(text("x" * 10_000)) == LONGEST + 1
    assert text(b"caf\xe9".decode(errors="surrogateescape")) == "caf\\udce9"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        Runs(tmp_path / "nowhere")


def test_a_hundred_runs_are_listed_quickly_and_read_once(tmp_path, monkeypatch):
    rows = [row(step) for step in range(20, 40_001, 20)]  # 2,000 rows, half a megabyte
    write_run(tmp_path / "000", rows)
    for number in range(1, 100):
        shutil.copytree(tmp_path / "000", tmp_path / f"{number:03d}")

    def spent(ask):
        start = time.process_time()
        ask()
        return time.process_time() - start

    runs = Runs(tmp_path)
    first = spent(runs.rows)
    again = min(spent(runs.rows) for _ in range(3))
    write_rows(tmp_path / "042", [row(40_020)])
    read = []
    monkeypatch.setattr("anyjepa.board.growing.row_of", lambda line: read.append(line) or json.loads(line))
    [grown] = [one for one in runs.rows() if one["step"] == 40_020]
    assert grown["run"] == "042"
    assert len(read) == 1, "only what is new is read"
    assert first < 1.5, "well under a second, on a machine with nothing else to do"
    assert again < 0.4
