"""Published checkpoints become runs: the expected tokens, what did not match, and training that goes on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import FIELDS, pictures, train_small
from test_takeaway import vit_of_timm
from torch.nn import functional

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.core.masking import Masks
from anyjepa.core.positions import SinCos, grid
from anyjepa.engine.importing import read_checkpoint
from anyjepa.engine.vision_layouts import resampled
from anyjepa.recipes import recipe

MOST = 1e-5
PLAIN = {"mean": [0.0], "std": [1.0]}


@pytest.fixture(scope="session")
def published(data_folder):
    """Tiny checkpoints in the layouts of the released code, with what that code computes from them."""
    root = data_folder("").parent / "checkpoints"
    if not root.is_dir():
        pytest.skip(f"needs published layouts: {root} does not exist")
    return root


def test_the_released_i_jepa_gives_its_own_tokens_and_predictions(published, tmp_path):
    checkpoint = published / "i-jepa" / "checkpoint.pth.tar"
    told = anyjepa.import_checkpoint(checkpoint, "i-jepa", tmp_path / "run", heads=4, **PLAIN)
    assert (told["missing"], told["unexpected"]) == ([], [])
    run, io = anyjepa.load(tmp_path / "run", "cpu"), np.load(checkpoint.parent / "io.npz")
    assert run.config["fields"]["image_size"] == [32, 32]
    assert run.config["fields"]["positions"] == "sin-cos"
    batch = {"image": torch.from_numpy(io["images"])}
    with torch.inference_mode():
        near(run.method.tokens(batch).values, io["target_tokens"])
        whole = run.method.encoder(batch)
        near(whole.values, io["encoder_tokens"])
        context, targets = (torch.from_numpy(io[name]) for name in ("context_index", "target_index"))
        seen = run.method.encoder(batch, keep=context)
        near(seen.values, io["encoder_context_tokens"])
        masks = Masks(context, targets, torch.zeros(2, dtype=torch.bool))
        predicted = run.method.predictor(seen, whole.coordinates, masks)
    near(predicted.transpose(0, 1).flatten(0, 1), io["predictions"])  # theirs are block after block


def test_the_released_ecg_jepa_gives_its_own_tokens(published, tmp_path):
    checkpoint = published / "ecg-jepa" / "checkpoint.pt"
    told = anyjepa.import_checkpoint(checkpoint, "ecg-jepa", tmp_path / "run", **PLAIN)
    assert (told["missing"], told["unexpected"]) == ([], [])
    run, io = anyjepa.load(tmp_path / "run", "cpu"), np.load(checkpoint.parent / "io.npz")
    signals = torch.from_numpy(io["signals"])
    batch = {"ecg": signals, "recorded": torch.ones(signals.shape[:2], dtype=torch.bool)}
    with torch.inference_mode():
        near(run.method.tokens(batch).values, io["target_tokens"])
        near(run.method.encoder(batch).values, io["encoder_tokens"])
    assert run.reading()["leads"][3] == "aVR"


def near(given, wanted):
    assert np.abs(given.numpy() - np.asarray(wanted)).max() < MOST


SIZES = ({"width": 32, "depth": 1, "heads": 2}, {"width": 48, "depth": 3, "heads": 4, "patch_size": 2})


def released(width=32, depth=1, patch_size=4, predictor=16, seed=0, side=16, **_):
    """A checkpoint as the released I-JEPA code names it, of any size, with random weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator) * 0.1

    def block(name, size):
        shapes = {
            "norm1.weight": (size,), "norm1.bias": (size,), "attn.qkv.weight": (3 * size, size),
            "attn.qkv.bias": (3 * size,), "attn.proj.weight": (size, size), "attn.proj.bias": (size,),
            "norm2.weight": (size,), "norm2.bias": (size,), "mlp.fc1.weight": (4 * size, size),
            "mlp.fc1.bias": (4 * size,), "mlp.fc2.weight": (size, 4 * size), "mlp.fc2.bias": (size,),
        }  # fmt: skip
        return {f"{name}.{key}": draw(*shape) for key, shape in shapes.items()}

    places = grid(side // patch_size, side // patch_size)
    encoder = {
        "pos_embed": SinCos(width, 2, order=(1, 0))(places),
        "patch_embed.proj.weight": draw(width, 3, patch_size, patch_size),
        "patch_embed.proj.bias": draw(width), "norm.weight": draw(width), "norm.bias": draw(width),
    }  # fmt: skip
    for number in range(depth):
        encoder |= block(f"blocks.{number}", width)
    narrow = {
        "mask_token": draw(1, 1, predictor), "predictor_embed.weight": draw(predictor, width),
        "predictor_pos_embed": SinCos(predictor, 2, order=(1, 0))(places),
        "predictor_embed.bias": draw(predictor), "predictor_norm.weight": draw(predictor),
        "predictor_norm.bias": draw(predictor), "predictor_proj.weight": draw(width, predictor),
        "predictor_proj.bias": draw(width), **block("predictor_blocks.0", predictor),
    }  # fmt: skip
    return {
        part: {f"module.{name}": value for name, value in state.items()}
        for part, state in (("encoder", encoder), ("target_encoder", encoder), ("predictor", narrow))
    } | {"epoch": 3}


@pytest.mark.parametrize("sizes", SIZES)
def test_sizes_are_told_from_shapes(sizes, tmp_path):
    content = released(**sizes)
    torch.save(content, tmp_path / "c.pth.tar")
    anyjepa.import_checkpoint(
        tmp_path / "c.pth.tar", "i-jepa", tmp_path / "run", heads=sizes["heads"], **PLAIN
    )
    run = anyjepa.load(tmp_path / "run", "cpu")
    assert {name: run.config["fields"][name] for name in sizes} == sizes
    image = torch.randn(2, 3, 16, 16)
    state = {name.removeprefix("module."): value for name, value in content["target_encoder"].items()}
    with torch.inference_mode():
        near(run.method.tokens({"image": image}).values, vit_of_timm(state, image, sizes["heads"]))


def test_positions_stretch_to_another_size_of_image(tmp_path):
    torch.save(released(), tmp_path / "c.pth")
    anyjepa.import_checkpoint(
        tmp_path / "c.pth", "i-jepa", tmp_path / "run", heads=2, image_size=(32, 32), **PLAIN
    )
    run = anyjepa.load(tmp_path / "run", "cpu")
    assert run.config["fields"]["position_size"] == [16, 16]
    places = run.method.encoder({"image": torch.zeros(1, 3, 32, 32)}).coordinates
    # eight patches over the width that four had: their centres lie halfway between
    assert places.unflatten(1, (8, 8))[0, 0, :, 1].tolist() == [
        -0.25,
        0.25,
        0.75,
        1.25,
        1.75,
        2.25,
        2.75,
        3.25,
    ]


def test_a_table_resampled_to_its_own_places_is_itself_and_a_plane_stays_one():
    table = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(4.0), indexing="ij"), -1).flatten(0, 1)
    assert torch.equal(resampled(table, (6, 4), (6, 4)), table)
    wide = resampled(table, (6, 4), (12, 8)).unflatten(0, (12, 8))
    assert torch.allclose(wide[5, 3], torch.tensor([2.25, 1.25]), atol=0.1)
    narrow = resampled(table, (6, 4), (3, 2)).unflatten(0, (3, 2))
    assert torch.allclose(narrow[1, 0], torch.tensor([2.5, 0.5]), atol=0.2)
    assert torch.allclose(resampled(torch.full((24, 2), 3.0), (6, 4), (9, 5)), torch.tensor(3.0))


@pytest.fixture(scope="module")
def ijepa_folder(tmp_path_factory):
    from transformers import IJepaConfig, IJepaModel

    folder = tmp_path_factory.mktemp("hf")
    config = IJepaConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=50, image_size=16,
        patch_size=4, layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(0)
    model = IJepaModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "rescale_factor": 0.003921568627451}'
    )
    return folder, model


@pytest.mark.parametrize("size", [(16, 16), (24, 32)])
def test_a_folder_of_transformers_gives_its_tokens_at_its_size_and_another(ijepa_folder, tmp_path, size):
    folder, model = ijepa_folder
    told = anyjepa.import_checkpoint(folder, "i-jepa", tmp_path / "run", image_size=size)
    assert told["unexpected"] == []
    assert all(name.startswith("predictor.") for name in told["missing"])
    run = anyjepa.load(tmp_path / "run", "cpu")
    assert run.facts["mean"] == pytest.approx([102.0, 127.5, 153.0])
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    mean, std = torch.tensor(run.facts["mean"]).view(3, 1, 1), torch.tensor(run.facts["std"]).view(3, 1, 1)
    with torch.inference_mode():
        wanted = model((image - mean) / std, interpolate_pos_encoding=size != (16, 16)).last_hidden_state
        near(run.method.tokens({"image": image}).values, wanted)


def test_there_and_back_through_transformers_and_timm(tmp_path):
    train_small(tmp_path / "run", pictures())
    before = anyjepa.load(tmp_path / "run", "cpu").embed(pictures(5))
    for format, more in (("transformers", {}), ("timm", {"heads": FIELDS["heads"]})):
        exported = anyjepa.export(tmp_path / "run", format, tmp_path / format)
        facts = anyjepa.load(tmp_path / "run", "cpu").facts
        told = anyjepa.import_checkpoint(
            exported["out"],
            "i-jepa",
            tmp_path / f"back-{format}",
            mean=facts["mean"],
            std=facts["std"],
            **more,
        )
        assert told["unexpected"] == []
        again = anyjepa.load(tmp_path / f"back-{format}", "cpu")
        assert again.config["fields"]["positions"] == "sin-cos", "our table is the published one"
        near(again.embed(pictures(5)), before)


def test_a_timm_vit_with_class_token_layer_scale_and_head_starts_a_run(tmp_path):
    state = {name.removeprefix("module."): v for name, v in released(depth=2)["encoder"].items()}
    state = {name: value for name, value in state.items() if not name.startswith("blocks.1.")}
    generator = torch.Generator().manual_seed(9)
    table = torch.randn(1, 17, 32, generator=generator)
    token, gamma = torch.randn(1, 1, 32, generator=generator), torch.rand(32, generator=generator)
    timm = {
        **state, "pos_embed": table, "cls_token": token, "blocks.0.ls1.gamma": gamma,
        "blocks.0.ls2.gamma": gamma.flip(0), "head.weight": torch.ones(10, 32), "head.bias": torch.ones(10),
    }  # fmt: skip
    save_file({name: value.contiguous() for name, value in timm.items()}, tmp_path / "vit.safetensors")
    told = anyjepa.import_checkpoint(
        tmp_path / "vit.safetensors", "i-jepa", tmp_path / "run", heads=4, **PLAIN
    )
    assert set(told["unexpected"]) == {"head.weight", "head.bias"}
    run, image = anyjepa.load(tmp_path / "run", "cpu"), torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        near(run.method.tokens({"image": image}).values, with_class_token(timm, image))


def with_class_token(state, image, heads=4):
    """One block of timm's vision transformer with a class token and layer scale, from its documentation."""
    x = functional.conv2d(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4)
    x = torch.cat([state["cls_token"].expand(2, -1, -1), x.flatten(2).mT], 1) + state["pos_embed"]

    def norm(name, x):
        return functional.layer_norm(x, (32,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(name, x):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    q, k, v = linear("blocks.0.attn.qkv", norm("blocks.0.norm1", x)).chunk(3, -1)
    heard = []
    for part in torch.arange(32).chunk(heads):
        heard.append((q[..., part] @ k[..., part].mT / (32 // heads) ** 0.5).softmax(-1) @ v[..., part])
    x = x + state["blocks.0.ls1.gamma"] * linear("blocks.0.attn.proj", torch.cat(heard, -1))
    wide = functional.gelu(linear("blocks.0.mlp.fc1", norm("blocks.0.norm2", x)))
    x = x + state["blocks.0.ls2.gamma"] * linear("blocks.0.mlp.fc2", wide)
    return norm("norm", x)[:, 1:]


def test_what_does_not_match_is_told(tmp_path):
    content = released()

    def refused(change, message, **fields):
        changed = {part: dict(state) if isinstance(state, dict) else state for part, state in content.items()}
        change(changed)
        torch.save(changed, tmp_path / "c.pth")
        with pytest.raises(UserError, match=message):
            anyjepa.import_checkpoint(
                tmp_path / "c.pth", "i-jepa", tmp_path / "run", **{"heads": 2, **PLAIN, **fields}
            )
        assert not (tmp_path / "run").exists()

    def drop(name):
        return lambda c: c["target_encoder"].pop(f"module.{name}")

    def put(name, value):
        return lambda c: c["target_encoder"].update({f"module.{name}": value})

    refused(drop("norm.bias"), "it lacks 'norm.bias'")
    refused(put("blocks.0.q_norm.weight", torch.ones(2)), "more than is known: 'blocks.0.q_norm.weight'")
    refused(put("norm.weight", torch.ones(5)), r"other shapes: 'norm.weight' \(5,\) instead of \(32,\)")
    refused(put("pos_embed", torch.ones(1, 15, 32)), "say --position-size")
    refused(lambda c: c.clear(), "no layout known for i-jepa")
    refused(lambda c: None, "Did you mean 'heads'", head=2)


def test_a_predictor_of_another_kind_begins_anew_and_is_named(tmp_path):
    content = released()
    content["predictor"]["module.odd"] = torch.ones(1)
    torch.save(content, tmp_path / "c.pth")
    told = anyjepa.import_checkpoint(tmp_path / "c.pth", "i-jepa", tmp_path / "run", heads=2, **PLAIN)
    assert "predictor.mask_token" in told["missing"]
    assert "predictor.odd" in told["unexpected"]


def test_heads_are_asked_for_where_nothing_tells_them(tmp_path):
    torch.save(released(), tmp_path / "c.pth")
    with pytest.raises(UserError, match="of width 32 are shared out over: add --heads N"):
        anyjepa.import_checkpoint(tmp_path / "c.pth", "i-jepa", tmp_path / "run")


class Harmful:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_is_unpickled(tmp_path, capsys):
    torch.save({"encoder": Harmful()}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="more than tensors and plain values"):
        read_checkpoint(tmp_path / "c.pth")
    assert "unpickled" not in capsys.readouterr().out
    (tmp_path / "cut.pth").write_bytes((tmp_path / "c.pth").read_bytes()[:50])
    for name, said in (
        ("cut.pth", "damaged"),
        ("d.pth", "Did you mean 'c.pth'"),
        (".", "holds 2 checkpoints: name one of them"),
    ):
        with pytest.raises(UserError, match=said):
            read_checkpoint(tmp_path / name)


def test_an_imported_run_is_used_like_any_other(tmp_path):
    torch.save(released(side=16), tmp_path / "c.pth")
    run = tmp_path / "run"
    anyjepa.import_checkpoint(tmp_path / "c.pth", "i-jepa", run, heads=2)
    images = pictures(40, (16, 16, 3))
    assert anyjepa.load(run).facts["mean"][0] == pytest.approx(0.485 * 255)
    assert anyjepa.inspect(run, images)["samples"] == 40
    assert anyjepa.embed(run, images, tmp_path / "e.npy")["rows"] == 40
    assert anyjepa.export(run, "safetensors", tmp_path / "e.safetensors")["max_difference"] == 0
    assert Path(anyjepa.report(run, images)["report"]).is_file()
    with pytest.raises(UserError, match="knows no data of its own"):
        anyjepa.inspect(run)
    with pytest.raises(UserError, match="channels"):
        anyjepa.embed(run, pictures(5), tmp_path / "grey.npy")


def test_training_goes_on_from_it_with_everything_it_has(tmp_path):
    torch.save(released(), tmp_path / "c.pth")
    first, second = tmp_path / "first", tmp_path / "second"
    anyjepa.import_checkpoint(tmp_path / "c.pth", "i-jepa", first, heads=2)
    settings = anyjepa.Settings(steps=1, quiet=True, workers=0)
    options = {"settings": settings, "init": first, "learning_rate": 1e-9, "start_learning_rate": 1e-9}
    images = pictures(20, (20, 20, 3))
    with pytest.raises(UserError, match="train it further with --init"):
        anyjepa.train("i-jepa", images, first, resume=True)
    anyjepa.train("i-jepa", images, second, batch_size=8, warmup_epochs=0.0, weight_decay=0.0,
                  final_learning_rate=1e-9, final_weight_decay=0.0, **options)  # fmt: skip
    before, after = (anyjepa.load(path, "cpu") for path in (first, second))
    for name, value in before.method.state_dict().items():
        assert torch.allclose(after.method.state_dict()[name], value, atol=1e-6), name
    assert after.facts == before.facts, "the weights know these statistics"
    assert after.config["fields"]["width"] == 32
    with pytest.raises(UserError, match="a run of i-jepa, not lejepa"):
        anyjepa.train("lejepa", images, tmp_path / "other", init=first)
    with pytest.raises(UserError, match="another shape"):
        anyjepa.train("i-jepa", images, tmp_path / "wide", init=first, predictor_width=32,
                      settings=settings, batch_size=8)  # fmt: skip


def test_training_begins_with_an_encoder_alone_and_stretches_its_positions(tmp_path):
    train_small(tmp_path / "run", pictures(), steps=2)
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    anyjepa.train("i-jepa", pictures(20, (32, 32)), tmp_path / "large", init=tmp_path / "run", batch_size=8,
                  image_size=(32, 32), settings=anyjepa.Settings(steps=1, quiet=True, workers=0),
                  start_learning_rate=0.0, learning_rate=1e-9)  # fmt: skip
    large = anyjepa.load(tmp_path / "large", "cpu")
    assert large.config["fields"]["position_size"] == [16, 16]
    kept = load_file(tmp_path / "run" / "encoder.safetensors")
    for name, value in large.method.encoder.state_dict().items():
        assert torch.allclose(value, kept[name], atol=1e-6), name


def test_every_field_that_shapes_tell_is_a_field(tmp_path):
    torch.save(released(), tmp_path / "c.pth")
    anyjepa.import_checkpoint(tmp_path / "c.pth", "i-jepa", tmp_path / "run", heads=2)
    stored = anyjepa.load(tmp_path / "run").config["fields"]
    assert recipe("i-jepa").preset(
        "paper", **{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    )


def test_a_folder_with_one_checkpoint_is_that_checkpoint(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "latest.pth.tar")
    (tmp_path / "notes.txt").write_text("of a summer")
    assert torch.equal(read_checkpoint(tmp_path)["weight"], torch.ones(2))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "first.pt")
    with pytest.raises(UserError, match="holds 2 checkpoints: name one of them"):
        read_checkpoint(tmp_path)
