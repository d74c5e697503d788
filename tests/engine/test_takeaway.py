"""Every format gives what the run gives, in the other program, for any size of a batch; and what it says."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small import FIELDS, pictures, train_small
from torch.nn import functional

import anyjepa
from anyjepa.core.errors import UserError
from anyjepa.engine import takeaway
from anyjepa.engine.portable import Portable, example
from anyjepa.recipes import recipes

GRAPHS = ("onnx", "torchscript", "torch-export")
MOST = 1e-5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("takeaway") / "run"
    train_small(folder, pictures())
    return anyjepa.load(folder, "cpu")


@pytest.fixture(scope="module")
def images(run):
    pixels = torch.from_numpy(pictures(5, seed=3)).unsqueeze(1)
    with torch.inference_mode():
        batch = {"image": pixels}
        return pixels.float(), run.method.embed(batch), run.method.tokens(batch).values


def test_onnx_runs_on_raw_pixels_in_batches_of_any_size(run, images, tmp_path):
    exported = anyjepa.export(run, "onnx", tmp_path / "encoder.onnx")
    assert exported["max_difference"] < MOST
    session = onnxruntime.InferenceSession(exported["out"])
    [place] = session.get_inputs()
    assert (place.name, place.type, place.shape[1:]) == ("image", "tensor(float)", [1, 16, 16])
    assert isinstance(place.shape[0], str), "the batch is free"
    pixels, vectors, _ = images
    for count in (1, 5):
        [given] = session.run(["embedding"], {"image": pixels[:count].numpy()})
        assert np.abs(given - vectors[:count].numpy()).max() < MOST


def test_torchscript_and_torch_export_give_the_same(run, images, tmp_path):
    pixels, vectors, tokens = images
    for format, read in (
        ("torchscript", torch.jit.load),
        ("torch-export", lambda path: torch.export.load(path).module()),
    ):
        exported = anyjepa.export(run, format, tmp_path / format)
        assert exported["max_difference"] < MOST
        graph = read(exported["out"])
        for count in (1, 5):
            assert torch.allclose(graph(pixels[:count]), vectors[:count], atol=MOST)
    dense = anyjepa.export(run, "torchscript", tmp_path / "tokens.pt", output="tokens")
    assert torch.allclose(torch.jit.load(dense["out"])(pixels), tokens, atol=MOST)


def test_a_graph_holds_the_encoder_only(run):
    portable = Portable(run.method, list(example(run)))
    held = sum(parameter.numel() for parameter in portable.parameters())
    assert held == sum(parameter.numel() for parameter in run.method.backbone.parameters())
    assert all(parameter.numel() for parameter in run.method.parameters()), "the run keeps its own"


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes())
def test_every_recipe_has_every_graph(name, tmp_path):
    settings = anyjepa.Settings(steps=1, quiet=True, workers=0)
    anyjepa.train(name, out=tmp_path / "run", settings=settings)
    for format in GRAPHS:
        typed = [sys.executable, "-m", "anyjepa", "export", tmp_path / "run", "--format", format, "--json"]
        done = subprocess.run(typed, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=200)
        assert json.loads(done.stdout.splitlines()[-1])["max_difference"] < MOST


OTHERWISE = """
import torch
from anyjepa.core import points
from anyjepa.domains.table_tokens import Scaling

class Otherwise(torch.nn.Module):
    def __init__(self):
        super().__init__()
        column = {"knots": [0.0, 1.0, 1.0, 4.0], "heights": [-2.0, 0.0, 0.5, 2.0]}
        self.scaling = Scaling([column, column], "quantile")

    def forward(self, cloud, values):
        chosen = points.farthest_points(cloud, 12, points.outermost(cloud))
        return chosen, points.distances(cloud, cloud), self.scaling(values)

cloud = torch.randn(3, 40, 3, generator=torch.Generator().manual_seed(1))
values = torch.tensor([[-1.0, 0.0], [0.5, 1.0], [1.0, 3.9], [9.0, 4.0]])
plain = Otherwise()
program = torch.export.export(plain, (cloud, values))
assert "scan" in str(program.graph) and "cdist" not in str(program.graph)
for wanted, given in zip(plain(cloud, values), program.module()(cloud, values)):
    assert torch.allclose(wanted.double(), given.double(), atol=1e-6)
"""


@pytest.mark.slow
def test_what_a_graph_computes_otherwise_is_the_same(tmp_path):
    # the decorators that check shapes in tests cannot be written into a loop of a graph
    subprocess.run([sys.executable, "-c", OTHERWISE], check=True, cwd=tmp_path, timeout=120)


def test_transformers_opens_the_folder_offline(run, images, tmp_path):
    from transformers import AutoModel

    out = tmp_path / "folder"
    exported = anyjepa.export(run, "transformers", out)
    assert exported["max_difference"] < MOST
    model = AutoModel.from_pretrained(out, local_files_only=True).eval()
    assert type(model).__name__ == "IJepaModel"
    prepared = json.loads((out / "preprocessor_config.json").read_text())
    pixels, _, tokens = images
    scaled = pixels * prepared["rescale_factor"]
    with torch.inference_mode():
        given = model((scaled - prepared["image_mean"][0]) / prepared["image_std"][0]).last_hidden_state
    assert torch.allclose(given, tokens, atol=MOST)
    mean, std = (run.facts[name][0] / 255 for name in ("mean", "std"))
    assert (prepared["image_mean"], prepared["image_std"]) == ([pytest.approx(mean)], [pytest.approx(std)])
    assert prepared["size"] == {"height": 16, "width": 16}


def vit_of_timm(state, x, heads):
    """The forward of timm's VisionTransformer from its documented names, token by token and head by head."""
    kernel, tokens = state["patch_embed.proj.weight"], []
    side = kernel.shape[-1]
    for row in range(0, x.shape[2], side):
        for column in range(0, x.shape[3], side):
            patch = x[:, :, row : row + side, column : column + side]
            tokens.append(torch.einsum("bchw,dchw->bd", patch, kernel) + state["patch_embed.proj.bias"])
    x = torch.stack(tokens, 1) + state["pos_embed"]
    number = 0
    while f"blocks.{number}.norm1.weight" in state:
        own = {n.removeprefix(f"blocks.{number}."): v for n, v in state.items() if f"blocks.{number}." in n}
        normed = functional.layer_norm(x, x.shape[-1:], own["norm1.weight"], own["norm1.bias"], 1e-6)
        three = functional.linear(normed, own["attn.qkv.weight"], own["attn.qkv.bias"])
        q, k, v = three.chunk(3, -1)
        size, heard = x.shape[-1] // heads, []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            share = (q[..., part] @ k[..., part].mT * size**-0.5).softmax(-1)
            heard.append(share @ v[..., part])
        x = x + functional.linear(torch.cat(heard, -1), own["attn.proj.weight"], own["attn.proj.bias"])
        normed = functional.layer_norm(x, x.shape[-1:], own["norm2.weight"], own["norm2.bias"], 1e-6)
        wide = functional.gelu(functional.linear(normed, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
        x = x + functional.linear(wide, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
        number += 1
    return functional.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"], 1e-6)


def test_a_timm_state_dict_gives_our_tokens(run, images, tmp_path):
    exported = anyjepa.export(run, "timm", tmp_path / "vit.safetensors")
    assert exported["max_difference"] < MOST
    state = load_file(exported["out"])
    pixels, _, tokens = images
    standardised = (pixels - run.facts["mean"][0]) / run.facts["std"][0]
    assert torch.allclose(vit_of_timm(state, standardised, FIELDS["heads"]), tokens, atol=MOST)
    assert state["pos_embed"].shape == (1, 16, FIELDS["width"])
    call = exported["create_model"]
    for said in ("embed_dim=24", "depth=2", "num_heads=2", "class_token=False", "img_size=(16, 16)"):
        assert said in call
    with safe_open(exported["out"], framework="pt") as file:
        assert file.metadata()["create_model"] == call


def test_timm_takes_it_strictly(run, images, tmp_path):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    exported = anyjepa.export(run, "timm", tmp_path / "vit.safetensors")
    model = timm.create_model(
        "vit_base_patch16_224", img_size=16, patch_size=4, in_chans=1, num_classes=0, embed_dim=24, depth=2,
        num_heads=2, class_token=False, global_pool="avg", fc_norm=False,
    )  # fmt: skip
    model.load_state_dict(load_file(exported["out"]), strict=True)
    pixels, _, tokens = images
    standardised = (pixels - run.facts["mean"][0]) / run.facts["std"][0]
    with torch.inference_mode():
        assert torch.allclose(model.eval().forward_features(standardised), tokens, atol=MOST)


def test_what_does_not_fit_a_format_is_one_sentence(run, tmp_path):
    settings = anyjepa.Settings(steps=1, quiet=True, workers=0)
    anyjepa.train("t-jepa", out=tmp_path / "table", settings=settings)
    for format in ("transformers", "timm"):
        with pytest.raises(UserError, match=r"t-jepa run \(table data\) is none: export it as onnx"):
            anyjepa.export(tmp_path / "table", format)
    train_small(tmp_path / "registers", pictures(), fields={**FIELDS, "registers": 1}, steps=1)
    with pytest.raises(UserError, match="no place for the 1 register"):
        anyjepa.export(tmp_path / "registers", "transformers")
    assert anyjepa.export(tmp_path / "registers", "timm")["max_difference"] < MOST
    with pytest.raises(UserError, match="Did you mean 'torchscript'"):
        anyjepa.export(run, "torchscrpt")
    with pytest.raises(UserError, match="reads a folder"):
        anyjepa.export(run, "transformers", tmp_path / "model.safetensors")


def test_an_exporter_that_fails_leaves_nothing_behind(run, tmp_path, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("No ONNX function found for aten.odd\nand a page more")

    monkeypatch.setattr(torch.onnx, "export", broken)
    with pytest.raises(UserError, match=r"i-jepa .*as onnx \(No ONNX function found for aten.odd\)"):
        anyjepa.export(run, "onnx", tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_a_place_it_goes_into_the_run(run):
    exported = anyjepa.export(run, "safetensors")
    assert exported["out"] == str(run.path / "exports" / "safetensors" / "model.safetensors")
    assert set(takeaway.FORMATS) == set(takeaway.WRITERS)
