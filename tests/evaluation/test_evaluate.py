"""`evaluate` end to end: every probe on small runs, splits that leak, fine-tuning, labels of parts."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score
from small import small_method, train_small

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.core.transformer import DropPath
from anyjepa.engine.run import load
from anyjepa.evaluation.answers import Answers
from anyjepa.evaluation.attentive import FrozenTokens, labels_of
from anyjepa.evaluation.finetuning import (
    FineTuning,
    TunedEncoder,
    _begun,
    fine_tune,
    layers_of,
    parameter_groups,
)
from anyjepa.evaluation.heads import Course
from anyjepa.evaluation.patches import confusions, mean_iou, patch_probe
from anyjepa.evaluation.sides import both_sides

BRIEF = FineTuning(epochs=1.0, tune_batch_size=32)


def bright(folder, count=48, seed=0, start=0):
    """Pictures in class folders: noise, brighter in the upper or in the lower half."""
    random = np.random.default_rng(seed)
    for index in range(count):
        picture = random.integers(0, 120, (16, 16), dtype=np.uint8)
        half = slice(0, 8) if index % 2 else slice(8, 16)
        picture[half] += 90
        path = folder / ("up" if index % 2 else "down") / f"{start + index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    bright(folder / "data")
    train_small(folder / "run", str(folder / "data"), steps=2)
    return folder


@pytest.fixture(scope="module")
def run(place):
    return load(place / "run")


def written(path, columns, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return str(path)


@pytest.fixture
def hasty(monkeypatch):
    """Heads in a few steps: what they learn is tested elsewhere."""
    brief = partial(Course, epochs=2, least_steps=8, rates=(3e-3,), decays=(0.1,))
    monkeypatch.setattr("anyjepa.evaluation.attentive.Course", brief)


@pytest.mark.usefixtures("hasty")
def test_every_probe_says_all_that_is_promised(place, run):
    probes = ["linear", "knn", "svm", "mlp", "retrieval", "attentive", "finetune"]
    results = anyjepa.evaluate(run, str(place / "data"), probe=probes, tuning=BRIEF)["results"]
    assert [row["probe"] for row in results] == probes
    stored = run.results()[-len(results) :]
    for row, kept in zip(results, stored, strict=True):
        assert json.loads(json.dumps(row)) == kept
        assert row["low"] <= row["value"] <= row["high"]
        assert row["gain_over_untrained"][0] == pytest.approx(row["value"] - row["untrained"], abs=1e-6)
        assert (row["train"], row["test"]) in ((38, 10), (39, 9), (40, 8))
        assert row["metrics"]
    by_name = {row["probe"]: row for row in results}
    assert by_name["linear"]["raw"] == 1.0, "a half's brightness is a line apart"
    assert by_name["finetune"]["raw_probe"] == "linear"
    assert by_name["finetune"]["raw"] == by_name["linear"]["raw"]
    right = by_name["linear"]["value"] * by_name["linear"]["test"]
    assert np.trace(by_name["linear"]["confusion"]) == pytest.approx(right)
    assert by_name["linear"]["class_names"] == ["down", "up"]
    assert by_name["knn"]["computed"] == 3 * 48


@pytest.mark.slow
def test_few_labels_are_drawn_anew_and_given_with_their_mean(place, run):
    data = str(place / "data")
    row = anyjepa.evaluate(run, data, probe="linear", shots=2, draws=3)
    assert (len(row["draws"]), row["train"], row["shots"]) == (3, 4, 2)
    assert row["value"] == pytest.approx(np.mean(row["draws"]))
    assert row["computed"] == 0
    single = anyjepa.evaluate(run, data, probe=["linear", "knn"], shots=1, draws=2)
    assert all(len(one["draws"]) == 2 for one in single["results"]), "fixed settings where none can be chosen"
    with pytest.raises(UserError, match="too few to hold some out for --probe attentive"):
        anyjepa.evaluate(run, data, probe="attentive", shots=1, draws=1)
    share = anyjepa.evaluate(run, data, probe="linear", labels_fraction=0.5, draws=2)
    assert share["train"] == pytest.approx(20, abs=2)
    episode = anyjepa.evaluate(run, data, probe="few-shot", ways=2, shots=3, queries=3, draws=4)
    assert (episode["metric"], len(episode["draws"]), episode["episode_shots"]) == ("accuracy", 4, 3)
    with pytest.raises(UserError, match="not both"):
        anyjepa.evaluate(run, data, shots=1, labels_fraction=0.1)


# Leaks


def test_the_same_samples_on_both_sides_are_refused(place, run):
    data = str(place / "data")
    with pytest.raises(UserError, match=r"is on both sides of the split.*--allow-leak"):
        anyjepa.evaluate(run, data, test=data)
    assert anyjepa.evaluate(run, data, test=data, allow_leak=True)["value"] > 0.9


@pytest.mark.parametrize("column", ["group", "patient", "subject", "speaker", "recording"])
def test_groups_of_a_label_file_keep_a_random_split_whole(place, run, column, tmp_path):
    names = [f"{kind}/{index:03d}" for index in range(48) for kind in (["down", "up"][index % 2],)]
    rows = [[name, index % 2, f"p{index // 4}"] for index, name in enumerate(names)]
    file = written(tmp_path / "labels.csv", ["id", "label", column], rows)
    train, test = both_sides(run, str(place / "data"), file)
    assert not set(train.groups.tolist()) & set(test.groups.tolist())
    assert len(train) + len(test) == 48
    alone = written(tmp_path / "groups.csv", ["id", column], [[name, group] for name, _, group in rows])
    train, test = both_sides(run, str(place / "data"), groups=alone)
    assert not set(train.groups.tolist()) & set(test.groups.tolist())


def test_a_group_on_both_sides_of_a_given_test_source_is_refused_for_every_probe(place, run, tmp_path):
    other = bright(tmp_path / "other", 20, seed=5, start=500)
    rows = [[f"{['down', 'up'][i % 2]}/{i:03d}", f"p{i // 4}"] for i in range(48)]
    rows += [[f"{['down', 'up'][i % 2]}/{500 + i:03d}", f"q{i // 4}" if i else "p3"] for i in range(20)]
    groups = written(tmp_path / "groups.csv", ["id", "group"], rows)
    arguments = {"data": str(place / "data"), "test": str(other), "groups": groups}
    for probe in ("linear", "attentive", "finetune", "few-shot", "retrieval"):
        with pytest.raises(UserError, match=r"1 group \(such as 'p3'\) are on both sides") as mistake:
            anyjepa.evaluate(run, **arguments, probe=probe)
        assert str(mistake.value).count(".") == 1, "one sentence"
    row = anyjepa.evaluate(run, **arguments, allow_leak=True)
    assert row["test_groups"] == 6
    with pytest.raises(UserError, match="has no column group"):
        anyjepa.evaluate(
            run, arguments["data"], groups=written(tmp_path / "x.csv", ["id", "label"], [["a", 1]])
        )
    with pytest.raises(UserError, match="is not a file"):
        anyjepa.evaluate(run, arguments["data"], groups="patient")


def test_groups_known_on_one_side_still_serve_the_choice_there(place, run, tmp_path):
    rows = [[f"{['down', 'up'][i % 2]}/{i:03d}", f"p{i // 4}"] for i in range(48)]
    groups = written(tmp_path / "groups.csv", ["id", "group"], rows)
    other = bright(tmp_path / "other", 20, seed=5, start=500)
    train, _ = both_sides(run, str(place / "data"), test=str(other), groups=groups)
    assert len(train.groups.unique()) == 12
    data = labels_of(train, train, torch.device("cpu"))
    fit, held_out = data.split(0.2, 0)
    assert not set(train.groups[fit].tolist()) & set(train.groups[held_out].tolist())


# Fine-tuning


def test_the_head_begins_as_the_linear_probe(place, run):
    train, test = (side.described(run)[0] for side in both_sides(run, str(place / "data")))
    data = labels_of(train, test, run.device)
    parts = data.split(0.2, 0)
    network = _begun(run, "trained", train.features["trained"], data, Answers.of(data), parts, BRIEF).eval()
    with torch.no_grad():
        _, batch = next(run.batches(train.samples, train.rows))
        outputs = network(batch)
    known = train.features["trained"][parts[0]].double().numpy()
    scaled = train.features["trained"].double().numpy() - train.features["trained"].numpy().mean(0)
    scaled = scaled / train.features["trained"].numpy().std(0)
    models = [
        LogisticRegression(C=1 / (len(known) * strength), max_iter=5000, tol=1e-8)
        for strength in (1e-3, 1e-2, 1e-1, 1.0)
    ]
    for model in models:
        model.fit(scaled[parts[0].numpy()], data.train_labels[parts[0]].numpy())
    held_out = scaled[parts[1].numpy()], data.train_labels[parts[1]].numpy()
    best = max(model.score(*held_out) for model in models)
    assert float((outputs.argmax(1) == data.train_labels)[parts[1]].double().mean()) == pytest.approx(
        best, abs=0.13
    )
    margins = (outputs[:, 1] - outputs[:, 0]).double().numpy()
    assert max(np.corrcoef(margins, model.decision_function(scaled))[0, 1] for model in models) > 0.99


def test_the_run_is_left_as_it_is_and_the_same_seed_gives_the_same(place, run):
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    train, test = (side.described(run)[0] for side in both_sides(run, str(place / "data")))
    settings = FineTuning(
        epochs=2.0, tune_batch_size=16, drop_path=0.2, head_dropout=0.1, label_smoothing=0.1
    )
    torch.manual_seed(5)
    first, network = fine_tune(run, train, test, settings, seed=1)
    torch.manual_seed(6)
    again, _ = fine_tune(run, train, test, settings, seed=1)
    assert torch.equal(first.predictions, again.predictions)
    assert all(torch.equal(value, before[name]) for name, value in run.method.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.method.predictor.parameters())
    assert [m.rate for m in network.method.backbone.modules() if isinstance(m, DropPath)] == [0.0, 0.2]


def test_a_block_learns_slower_the_deeper_it_lies():
    method = small_method()
    numbers, depth = layers_of(method.backbone)
    assert depth == 2
    assert {numbers[name] for name in numbers if name.startswith("tokenizer")} == {0}
    assert {numbers[name] for name in numbers if name.startswith("blocks.1.")} == {2}
    assert numbers["norm.weight"] == 2
    width = method.embed({"image": torch.zeros(1, 1, 16, 16)}).shape[1]
    method.backbone.requires_grad_(True)
    network = TunedEncoder(method, torch.zeros(width), torch.ones(width), 3, 0.0)
    groups = parameter_groups(network, FineTuning(tune_weight_decay=0.3), 0.5)
    scales = {id(p): (group["scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert scales[id(method.backbone.tokenizer.project.weight)] == (0.25, 0.3)
    assert scales[id(method.backbone.blocks[0].norm1.weight)] == (0.5, 0.0)
    assert scales[id(method.backbone.blocks[1].mlp[0].weight)] == (1.0, 0.3)
    assert scales[id(network.head.weight)] == (1.0, 0.3)
    assert len(scales) == len([*method.backbone.parameters(), *network.head.parameters()])


def test_settings_that_cannot_work_are_told():
    for name, value in (
        ("epochs", 0.0),
        ("layer_decay", 0.0),
        ("drop_path", 1.0),
        ("tune_learning_rate", -1.0),
    ):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
            FineTuning(**{name: value}).check()


def test_frozen_tokens_are_the_same_held_or_computed(place, run):
    train, _ = both_sides(run, str(place / "data"))
    held, computed = FrozenTokens(run, train), FrozenTokens(run, train, resident_bytes=0)
    rows = torch.tensor([5, 0, 9])
    assert computed.values is None
    assert torch.allclose(held(rows)[0], computed(rows)[0], atol=1e-6)
    assert held(rows)[1] is None
    assert float(held(rows)[0].mean(2).abs().max()) < 1e-5


# Labels of parts


def test_confusions_and_mean_iou_are_scikit_learns():
    random = np.random.default_rng(0)
    truth, said, groups = random.integers(0, 4, 300), random.integers(0, 4, 300), random.integers(0, 7, 300)
    table = confusions(*(torch.from_numpy(x) for x in (said, truth, groups)), 5)
    assert table.shape == (7, 5, 5)
    assert float(mean_iou(table.sum(0))) == pytest.approx(jaccard_score(truth, said, average="macro"))


def test_patches_of_images_by_a_folder_of_masks(tmp_path, run):
    """The bright half of a picture is told from the dark one, patch by patch."""
    data = bright(tmp_path / "data", 40, seed=3)
    masks = tmp_path / "masks"
    for path in data.rglob("*.png"):
        mask = np.zeros((16, 16), np.uint8)
        mask[slice(0, 8) if path.parent.name == "up" else slice(8, 16)] = 1
        mask[0, 0] = 255
        target = masks / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(target)
    row = anyjepa.evaluate(run, str(data), probe="patch", dense=str(masks))
    assert (row["probe"], row["metric"], row["classes"]) == ("patch", "miou", 2)
    assert row["low"] <= row["value"] <= row["high"]
    assert row["raw"] > 0.95, "the pixels of a patch say whether it is bright"
    assert row["elements"]["train"] == row["train"] * 16
    assert np.mean(row["class_iou"]) == pytest.approx(row["value"])
    samples = run.open(str(data), dense=str(masks))
    assert np.unique(samples.dense(0)).tolist() == [-1, 0, 1]
    with pytest.raises(UserError, match="name a folder of masks with --dense"):
        anyjepa.evaluate(run, str(data), probe="patch")
    with pytest.raises(UserError, match="is not a folder of masks"):
        anyjepa.evaluate(run, str(data), probe="patch", dense="nowhere")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(masks / "up" / "001.png")
    again = anyjepa.evaluate(load(run.path), str(data), probe="patch", dense=str(masks))
    assert again["elements"]["train"] + again["elements"]["test"] == 39 * 16, "the damaged mask is left out"


@pytest.mark.slow
def test_parts_of_simulated_shapes(tmp_path):
    fields = {
        "points": 64, "candidates": 64, "groups": 8, "neighbours": 8, "width": 24, "depth": 3, "heads": 2,
        "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2, "patch_widths": (8, 16),
    }  # fmt: skip
    settings = anyjepa.Settings(steps=1, quiet=True, workers=0)
    anyjepa.train(
        "point-jepa", "synthetic-shapes", tmp_path / "run", settings=settings, batch_size=8, **fields
    )
    run = load(tmp_path / "run")
    train, test = both_sides(run, "synthetic-shapes", parts=True)
    few = np.arange(0, 800, 16)
    row = patch_probe(run, train.take(few), test.take(np.arange(0, 300, 10)))
    assert row["metric"] == "miou"
    assert row["class_names"] == ["side", "end", "inside", "neck", "face", "tread", "riser", "board", "leg"]
    assert 0.05 < row["value"] < 1
    assert row["metrics"]["accuracy"]["trained"] > 0.35
    with torch.inference_mode():
        _, batch = next(run.batches(train.samples, np.array([3, 700]), batch_size=2))
        deep = run.method.deep_tokens(batch)
    assert deep.values.shape == (2, 8, 24)
    nearest = torch.cdist(deep.coordinates, batch["points"][..., :3]).amin(2)
    assert float(nearest.max()) < 1e-3, "tokens lie at points of the batch, in its own unit"
