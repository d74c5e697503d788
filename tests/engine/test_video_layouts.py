"""V-JEPA in the layouts of others: the expected tokens, any size, both ways with transformers, graphs."""

import json

import numpy as np
import pytest
import torch

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.core.masking import Masks
from anyjepa.core.positions import AxisSinCos, grid
from anyjepa.engine.video_layouts import shape_of_table

MOST = 1e-5
PLAIN = {"mean": [0.0], "std": [1.0]}
TINY = {
    "frames": 4, "fps": 4.0, "image_size": (32, 32), "patch_size": 8, "width": 48, "depth": 2, "heads": 2,
    "predictor_width": 24, "predictor_depth": 2, "predictor_heads": 2, "batch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="session")
def published(data_folder):
    root = data_folder("").parent / "checkpoints"
    if not root.is_dir():
        pytest.skip(f"needs published layouts: {root} does not exist")
    return root


def near(given, wanted, most=MOST):
    assert np.abs(given.detach().numpy() - np.asarray(wanted)).max() < most


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("v-jepa", {"heads": 4}),
        ("v-jepa-2", {"heads": 4, "predictor_heads": 2, "frames": 4, "image_size": (32, 32)}),
    ],
)
def test_the_released_code_gives_its_own_tokens(published, tmp_path, name, fields):
    checkpoint = published / name / "checkpoint.pth.tar"
    told = anyjepa.import_checkpoint(checkpoint, "v-jepa", tmp_path / "run", **PLAIN, **fields)
    assert (told["missing"], told["unexpected"]) == ([], [])
    assert told["layout"] == "the released V-JEPA code"
    run, io = anyjepa.load(tmp_path / "run", "cpu"), np.load(checkpoint.parent / "io.npz")
    assert (run.config["fields"]["frames"], run.config["fields"]["image_size"]) == (4, [32, 32])
    batch = {"video": torch.from_numpy(io["clips"])}
    with torch.inference_mode():
        near(run.method.tokens(batch).values, io["target_tokens"])
        near(run.method.encoder(batch).values, io["encoder_tokens"])


def released(width, depth, tubelet, patch, shape, uniform=True, rotary=False, tokens=2, predictor=24):
    """A checkpoint as the released code names it, of any size, with random weights."""
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes):
        return torch.randn(sizes, generator=generator) * 0.1

    def blocks(prefix, wide, count):
        found = {}
        for number in range(count):
            for name, sizes in (
                ("norm1", (wide,)), ("norm2", (wide,)), ("attn.qkv", (3 * wide, wide)),
                ("attn.proj", (wide, wide)), ("mlp.fc1", (4 * wide, wide)), ("mlp.fc2", (wide, 4 * wide)),
            ):  # fmt: skip
                found[f"{prefix}.{number}.{name}.weight"] = draw(*sizes)
                found[f"{prefix}.{number}.{name}.bias"] = draw(sizes[0])
        return found

    encoder = blocks("blocks", width, depth) | {
        "patch_embed.proj.weight": draw(width, 3, tubelet, patch, patch),
        "patch_embed.proj.bias": draw(width),
        "norm.weight": draw(width), "norm.bias": draw(width),
    }  # fmt: skip
    if not rotary:
        even = 2 * -(-width // 6)
        shares = (even,) * 3 if uniform else (width // 2, width // 4, width // 4)
        encoder["pos_embed"] = AxisSinCos(width, shares)(grid(*shape))
    guess = blocks("predictor_blocks", predictor, 1) | {
        "predictor_embed.weight": draw(predictor, width), "predictor_embed.bias": draw(predictor),
        "predictor_norm.weight": draw(predictor), "predictor_norm.bias": draw(predictor),
        "predictor_proj.weight": draw(width, predictor), "predictor_proj.bias": draw(width),
    }  # fmt: skip
    guess |= {f"mask_tokens.{n}": draw(1, 1, predictor) for n in range(tokens)}
    parts = {"encoder": encoder, "target_encoder": encoder, "predictor": guess}
    return {
        part: {f"module.backbone.{name}": value for name, value in state.items()}
        for part, state in parts.items()
    }


@pytest.mark.parametrize(
    ("size", "fields"),
    [
        (
            {"width": 36, "depth": 1, "tubelet": 2, "patch": 4, "shape": (8, 2, 2)},
            {"frames": 16, "image_size": [8, 8], "uniform_power": True},
        ),
        (
            {"width": 48, "depth": 2, "tubelet": 1, "patch": 8, "shape": (3, 4, 4), "uniform": False},
            {"frames": 3, "image_size": [32, 32], "uniform_power": False},
        ),
        (
            {"width": 32, "depth": 1, "tubelet": 2, "patch": 4, "shape": None, "rotary": True, "tokens": 10},
            {"positions": "rotary", "published_rotary": True, "mask_tokens": 10, "fps": 4.0},
        ),
    ],
)
def test_checkpoints_of_any_size(tmp_path, size, fields):
    torch.save(released(**size), tmp_path / "a.pth.tar")
    told = anyjepa.import_checkpoint(
        tmp_path / "a.pth.tar", "v-jepa", tmp_path / "run", heads=2, predictor_heads=2
    )
    assert (told["missing"], told["unexpected"]) == ([], [])
    assert told["statistics"] == "ImageNet's"
    config = anyjepa.load(tmp_path / "run", "cpu").config
    assert config["data"]["facts"]["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert {name: config["fields"][name] for name in fields} == fields


def test_what_does_not_fit_is_told(tmp_path):
    whole = released(36, 1, 2, 4, (2, 2, 2))
    del whole["target_encoder"]["module.backbone.blocks.0.mlp.fc2.bias"]
    torch.save(whole, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"it lacks 'blocks.0.mlp.2.bias'"):
        anyjepa.import_checkpoint(tmp_path / "a.pt", "v-jepa", tmp_path / "run", heads=2)
    whole = released(36, 1, 2, 4, (2, 2, 2))
    for part in ("encoder", "target_encoder"):
        whole[part]["module.backbone.pos_embed"] = torch.randn(1, 8, 36)
    torch.save(whole, tmp_path / "b.pt")
    with pytest.raises(UserError, match="no place here"):
        anyjepa.import_checkpoint(tmp_path / "b.pt", "v-jepa", tmp_path / "run", heads=2)
    with pytest.raises(UserError, match="--heads N"):
        anyjepa.import_checkpoint(tmp_path / "a.pt", "v-jepa", tmp_path / "run")


def test_shapes_of_tables_are_told_by_their_sines():
    for shape in ((8, 14, 14), (2, 4, 4), (8, 2, 2), (1, 6, 6)):
        assert shape_of_table(AxisSinCos(48, (16,) * 3)(grid(*shape)), True) == shape
    assert shape_of_table(torch.zeros(1, 32, 48), True) is None


def test_another_size_and_length_stretch_the_positions(tmp_path):
    torch.save(released(36, 1, 2, 4, (2, 2, 2)), tmp_path / "a.pt")
    for name, fields in (("own", {}), ("other", {"frames": 8, "image_size": (16, 16)})):
        anyjepa.import_checkpoint(
            tmp_path / "a.pt", "v-jepa", tmp_path / name, heads=2, predictor_heads=2, **PLAIN, **fields
        )
    own, other = (anyjepa.load(tmp_path / name, "cpu") for name in ("own", "other"))
    assert other.config["fields"]["position_size"] == [8, 8]
    assert other.config["fields"]["position_frames"] == 4
    places = other.method.backbone.tokenizer({"video": torch.zeros(1, 3, 8, 16, 16)}).coordinates
    assert places[0, :, 0].unique().tolist() == [-0.25, 0.25, 0.75, 1.25]
    same = own.method.backbone.tokenizer({"video": torch.zeros(1, 3, 4, 8, 8)}).coordinates
    assert same[0, -1].tolist() == [1.0, 1.0, 1.0]


def untrained_run(tmp_path, **fields):
    data = np.random.default_rng(0).integers(0, 255, (8, 4, 32, 32, 3), np.uint8)
    settings = anyjepa.Settings(steps=1, quiet=True, workers=0, device="cpu")
    chosen = {**TINY, "positions": "rotary", "published_rotary": True, **fields}
    anyjepa.train("v-jepa", data, tmp_path / "run", settings=settings, **chosen)
    return anyjepa.load(tmp_path / "run", "cpu"), data


def test_transformers_opens_what_is_exported_and_back(tmp_path):
    transformers = pytest.importorskip("transformers")
    run, data = untrained_run(tmp_path)
    told = anyjepa.export(run, "transformers", tmp_path / "hub")
    assert told["max_difference"] < MOST
    model = transformers.AutoModel.from_pretrained(tmp_path / "hub", local_files_only=True).eval()
    assert type(model).__name__ == "VJEPA2Model"
    batch = run.recipe.present(data)
    tokenizer = run.method.backbone.tokenizer
    pixels = ((batch["video"].float() - tokenizer.mean) / tokenizer.std).transpose(1, 2)
    seen = torch.tensor([0, 3, 5, 9, 17, 30]).expand(8, -1)
    wanted = torch.tensor([1, 2, 8, 31]).expand(8, -1)
    with torch.inference_mode():
        theirs = model(pixel_values_videos=pixels, context_mask=[seen], target_mask=[wanted])
        tokens = run.method.backbone(batch)
        near(theirs.last_hidden_state, tokens.values)
        masks = Masks(seen, wanted.unsqueeze(1), torch.zeros(8, dtype=torch.bool))
        # theirs always asks with the second mask token
        ours = run.method.predictor(tokens.take(seen), tokens.coordinates, masks, 1)
        near(theirs.predictor_output.last_hidden_state, ours[:, 0])
    back = anyjepa.import_checkpoint(tmp_path / "hub", "v-jepa", tmp_path / "back")
    assert (back["missing"], back["unexpected"], back["statistics"]) == ([], [], "the folder's")
    again = anyjepa.load(tmp_path / "back", "cpu")
    near(again.embed(data), run.embed(data), 1e-4)  # statistics of 255ths are rounded twice
    prepared = json.loads((tmp_path / "hub" / "video_preprocessor_config.json").read_text())
    assert prepared["crop_size"] == {"height": 32, "width": 32}


def test_a_folder_of_transformers_becomes_a_run(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(
        crop_size=24, frames_per_clip=6, patch_size=8, hidden_size=40, num_attention_heads=2, mlp_ratio=3.0,
        num_hidden_layers=2, pred_hidden_size=16, pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip
    model = transformers.VJEPA2Model(config).eval()
    model.save_pretrained(tmp_path / "hub")
    told = anyjepa.import_checkpoint(tmp_path / "hub", "v-jepa", tmp_path / "run", **PLAIN)
    assert (told["missing"], told["unexpected"]) == ([], [])
    run, clips = anyjepa.load(tmp_path / "run", "cpu"), torch.randn(2, 3, 6, 24, 24)
    with torch.inference_mode():
        wanted = model(pixel_values_videos=clips.transpose(1, 2), skip_predictor=True).last_hidden_state
        near(run.method.tokens({"video": clips}).values, wanted)


@pytest.mark.parametrize("format", ["torchscript", "torch-export"])
def test_graphs_give_the_same(tmp_path, format):
    run, _ = untrained_run(tmp_path, published_rotary=False)
    told = anyjepa.export(run, format, tmp_path / "graph")
    assert told["max_difference"] < MOST


@pytest.mark.slow
def test_onnx_gives_the_same(tmp_path):
    for positions in ("rotary", "sin-cos"):
        run, _ = untrained_run(tmp_path / positions, positions=positions, published_rotary=False)
        told = anyjepa.export(run, "onnx", tmp_path / positions / "graph")
        assert told["max_difference"] < 1e-4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"published_rotary": False}, "--published-rotary true"),
        ({"positions": "sin-cos"}, "--published-rotary true"),
        ({"image_size": (32, 16)}, "square frames"),
    ],
)
def test_what_transformers_has_no_place_for_is_said(tmp_path, fields, words):
    run, _ = untrained_run(tmp_path, **fields)
    with pytest.raises(UserError, match=words):
        anyjepa.export(run, "transformers", tmp_path / "hub")
