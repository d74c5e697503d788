"""I-JEPA by the exact checks of its note, and against other implementations of it."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import FIELDS, small_method, small_recipe
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.core.masking import Masks
from anyjepa.core.method import Context
from anyjepa.core.positions import Learned, SinCos, grid
from anyjepa.core.transformer import Encoder, Predictor
from anyjepa.domains.image_patches import ImagePatches
from anyjepa.engine.randomness import step_generator
from anyjepa.recipes import recipe

COLOUR = {"channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}


def context(step=1, steps=10):
    return Context(step, steps, step_generator(0, step))


def images(count=6, channels=1, size=(16, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (count, channels, *size), generator=generator, dtype=torch.uint8)}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("preset", "fields", "encoder", "predictor"),
    [
        ("vit-b", {"width": 192, "heads": 3}, 5_486_400, None),
        ("vit-b", {"width": 384, "heads": 6}, 21_589_632, None),
        ("vit-b", {}, 85_646_592, 11_238_912),
        ("vit-l", {}, 303_098_880, 22_082_560),
        ("paper", {}, 630_434_560, 22_279_424),
    ],
)
def test_presets_have_the_published_number_of_parameters(preset, fields, encoder, predictor):
    """Checks of the table and exact check 9; nothing is allocated on the meta device."""
    kind = recipe("i-jepa").preset(preset, **fields)
    with torch.device("meta"):
        rows, columns = (side // kind.patch_size for side in kind.image_size)
        patches = ImagePatches(kind.image_size, kind.patch_size, 3, kind.width, [0.0] * 3, [1.0] * 3)
        made = Encoder(patches, SinCos(kind.width, 2), kind.width, kind.depth, kind.heads)
        guess = Predictor(kind.width, None, kind.predictor_width, kind.predictor_depth, kind.predictor_heads)
    assert rows == columns
    assert count(made) == encoder
    assert predictor in (None, count(guess))


def test_giant_has_the_published_number_of_parameters():
    with torch.device("meta"):
        patches = ImagePatches((224, 224), 16, 3, 1408, [0.0] * 3, [1.0] * 3)
        made = Encoder(patches, SinCos(1408, 2), 1408, 40, 16, expansion=48 / 11)
    assert count(made) == 1_011_092_608


def test_the_method_is_made_of_what_the_fields_say():
    method = small_method()
    expected = Encoder(ImagePatches((16, 16), 4, 1, 24, [0.0], [1.0]), SinCos(24, 2), 24, 2, 2)
    assert count(method.encoder) == count(method.target.encoder) == count(expected)
    assert count(method.predictor) == count(Predictor(24, None, 16, 1, 2))
    assert (method.encoder.positions.order, method.predictor.positions.order) == ([1, 0], [1, 0])


def test_a_step_moves_what_learns_the_teacher_by_its_momentum_and_no_position():
    """Exact check 4."""
    method = small_method(momentum=(0.9, 1.0))
    before = copy.deepcopy(method.state_dict())
    table = method.encoder.positions(grid(4, 4))
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    now = context(step=6)
    method.losses(images(), now)["loss"].backward()
    optimiser.step()
    teacher = [name for name in before if name.startswith("target.")]
    assert all(torch.equal(method.state_dict()[name], before[name]) for name in teacher)
    method.after_step(now)
    momentum = 0.9 + 0.1 * 5 / 10
    after = method.state_dict()
    for name, parameter in method.encoder.named_parameters():
        expected = momentum * before[f"target.encoder.{name}"] + (1 - momentum) * parameter.detach()
        assert torch.allclose(after[f"target.encoder.{name}"], expected, atol=1e-7)
    assert not torch.equal(after["predictor.mask_token"], before["predictor.mask_token"])
    assert torch.equal(method.encoder.positions(grid(4, 4)), table)
    assert not [name for name in after if "position" in name]


def test_a_pixel_of_a_target_reaches_the_loss_through_the_teacher_only():
    """Exact check 5."""
    method, batch = small_method(), images()
    masks = method.masks(batch, context())
    assert not masks.relaxed.any()
    place = int(masks.targets[0, 0, 0])
    changed = {"image": batch["image"].clone()}
    changed["image"][0, 0, 4 * (place // 4) + 1, 4 * (place % 4) + 2] ^= 0xFF
    seen, other = (method.encoder(b, keep=masks.context).values for b in (batch, changed))
    assert torch.equal(seen, other)
    first, second = (method.losses(b, context())["loss"] for b in (batch, changed))
    assert not torch.equal(first, second)


def test_the_loss_is_smooth_l1_to_normalised_teacher_tokens():
    method, batch = small_method(), images()
    masks = method.masks(batch, context())
    whole = method.target.encoder(batch)
    normal = (whole.values - whole.values.mean(-1, keepdim=True)) / (
        whole.values.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    guess = method.predictor(method.encoder(batch, keep=masks.context), whole.coordinates, masks)
    total = torch.zeros(())
    for sample in range(6):
        for block in range(4):
            goal = normal[sample, masks.targets[sample, block]]
            distance = (guess[sample, block] - goal).abs()
            total = total + torch.where(distance < 1, distance**2 / 2, distance - 0.5).mean() / 24
    assert torch.allclose(method.losses(batch, context())["loss"], total, atol=1e-5)


def test_half_precision_costs_no_more_than_a_hundredth(monkeypatch):
    """Exact check 11."""
    method, batch, kinds = small_method(), images(32), []
    normalise = functional.layer_norm

    def noted(tensor, shape, *rest, **more):
        if not rest and not more:
            kinds.append(tensor.dtype)
        return normalise(tensor, shape, *rest, **more)

    exact = method.losses(batch, context())["loss"]
    monkeypatch.setattr(functional, "layer_norm", noted)
    with torch.autocast("cpu", torch.bfloat16):
        rough = method.losses(batch, context())["loss"]
    assert abs(exact.item() - rough.item()) < 1e-2
    assert kinds == [torch.float32], "the targets' layer-norm"


@pytest.mark.parametrize(("teacher", "through"), [("none", False), ("collapse", True)])
def test_gradients_pass_through_the_targets_only_where_collapse_is_asked_for(teacher, through):
    method, batch = small_method(teacher=teacher), images()
    goals = []
    objective = method.objective
    method.objective = lambda guess, goal: (goals.append(goal), objective(guess, goal))[1]
    method.losses(batch, context())["loss"].backward()
    assert goals[0].requires_grad == through
    assert method.backbone is method.encoder


def test_published_masks_train():
    method = small_method(image_size=(32, 32), published=True)
    method.losses(images(size=(32, 32)), context())["loss"].backward()
    assert method.predictor.mask_token.grad.any()


@given(
    rows=st.integers(2, 5),
    columns=st.integers(2, 5),
    patch=st.sampled_from([2, 4]),
    channels=st.sampled_from([1, 3, 5]),
)
@settings(max_examples=12)
def test_any_grid_and_any_channels_train_and_embed(rows, columns, patch, channels):
    size = (rows * patch, columns * patch)
    facts = {"channels": channels, "mean": [128.0] * channels, "std": [60.0] * channels}
    method = small_method(facts=facts, image_size=size, patch_size=patch)
    batch = images(3, channels, size)
    assert torch.isfinite(method.losses(batch, context())["loss"])
    assert method.tokens(batch).values.shape == (3, rows * columns, 24)
    assert torch.allclose(method.embed(batch), method.target.encoder(batch).values.mean(1))


def test_crops_and_centres_have_the_asked_shape_and_type():
    kind = small_recipe(image_size=(16, 32))
    raw = list(np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8))
    drawn, shown = kind.draw(raw, np.random.default_rng(1).random((3, 16))), kind.present(raw)
    for batch in (drawn, shown):
        assert batch["image"].shape == (3, 3, 16, 32)
        assert batch["image"].dtype == torch.uint8
    assert not torch.equal(drawn["image"], shown["image"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_size": (3, 16)}, "an image height of 3 pixels is smaller than a patch of 4"),
        ({"image_size": (16, 18)}, "--image-size 16 18 does not divide into patches of 4"),
        ({"width": 25}, "--width 25 does not divide into --heads 2"),
        ({"predictor_heads": 3}, "--predictor-width 16 does not divide into --predictor-heads 3"),
        (
            {"epochs": 100.0, "warmup_epochs": 200.0},
            "--warmup-epochs 200 is longer than the whole training of 100",
        ),
        ({"batch_size": 0}, "--batch-size must be above 0"),
    ],
)
def test_numbers_that_cannot_work_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        recipe("i-jepa").preset("tiny", **{**FIELDS, **fields})


def filled(module, pairs):
    """Copy tensors into a module by name; every parameter must be named."""
    state = {name: value.reshape(module.state_dict()[name].shape) for name, value in pairs.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"tokenizer.mean", "tokenizer.std"}
    return module.eval()


def test_tokens_are_those_of_transformers():
    transformers = pytest.importorskip(
        "transformers", reason="needs the transformers library to compare with"
    )
    torch.manual_seed(0)
    theirs = transformers.IJepaModel(
        transformers.IJepaConfig(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
            image_size=16, patch_size=4, num_channels=3, layer_norm_eps=1e-6,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    patches = ImagePatches((16, 16), 4, 3, 24, [0.0] * 3, [1.0] * 3)
    ours = Encoder(patches, Learned((4, 4), 24), 24, 2, 2)
    state, pairs = theirs.state_dict(), {}
    pairs["positions.table"] = _only(state, "position_embeddings")
    pairs["tokenizer.project.weight"] = _only(state, "projection.weight")
    pairs["tokenizer.project.bias"] = _only(state, "projection.bias")
    for end in ("weight", "bias"):
        pairs[f"norm.{end}"] = state[f"layernorm.{end}"]
        for layer in range(2):
            mine = f"blocks.{layer}."
            here = {
                name: value for name, value in state.items() if f".{layer}." in name and name.endswith(end)
            }
            kinds = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
            pairs[mine + f"attention.qkv.{end}"] = torch.cat([_only(here, *words) for words in kinds])
            pairs[mine + f"attention.out.{end}"] = _only(here, "attention.output.dense", "o_proj")
            pairs[mine + f"mlp.0.{end}"] = _only(here, "intermediate.dense", "fc1")
            pairs[mine + f"mlp.2.{end}"] = _only(
                {name: value for name, value in here.items() if "attention" not in name},
                "output.dense",
                "fc2",
            )
            pairs[mine + f"norm1.{end}"] = _only(here, "layernorm_before")
            pairs[mine + f"norm2.{end}"] = _only(here, "layernorm_after")
    filled(ours, pairs)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state
        assert torch.allclose(ours({"image": pixels}).values, expected, atol=1e-5)


def _only(state, *words):
    found = [value for name, value in state.items() if any(word in name for word in words)]
    assert len(found) == 1, (words, list(state))
    return found[0]


NAMES = {
    "patch_embed.proj": "tokenizer.project", "predictor_embed": "embed", "predictor_blocks": "blocks",
    "predictor_norm": "norm", "predictor_proj": "out", "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2",
}  # fmt: skip


def renamed(state):
    found = {}
    for name, value in state.items():
        name = name.removeprefix("module.")
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        if not name.endswith("pos_embed"):
            found[name] = value
    return found


def test_a_checkpoint_in_the_published_layout_computes_the_published_tokens():
    root = os.environ.get("ANYJEPA_DATA")
    folder = Path(root or "nowhere").resolve().parent / "checkpoints" / "i-jepa"
    if not root or not folder.exists():
        pytest.skip("needs the tiny checkpoint beside the folder that ANYJEPA_DATA names")
    stored = torch.load(folder / "checkpoint.pth.tar", map_location="cpu", weights_only=True)
    known = {name: torch.from_numpy(value) for name, value in np.load(folder / "io.npz").items()}

    def encoder(part):
        patches = ImagePatches((32, 32), 8, 3, 48, [0.0] * 3, [1.0] * 3)
        return filled(Encoder(patches, SinCos(48, 2, order=(1, 0)), 48, 3, 4), renamed(stored[part]))

    online, teacher = encoder("encoder"), encoder("target_encoder")
    predictor = filled(Predictor(48, SinCos(24, 2, order=(1, 0)), 24, 2, 4), renamed(stored["predictor"]))
    batch = {"image": known["images"]}
    masks = Masks(known["context_index"], known["target_index"], torch.zeros(2, dtype=torch.bool))
    with torch.no_grad():
        assert torch.allclose(online(batch).values, known["encoder_tokens"], atol=1e-5)
        assert torch.allclose(teacher(batch).values, known["target_tokens"], atol=1e-5)
        seen = online(batch, keep=masks.context)
        assert torch.allclose(seen.values, known["encoder_context_tokens"], atol=1e-5)
        guess = predictor(seen, grid(4, 4), masks)
    blocks_first = guess.transpose(0, 1).flatten(0, 1)
    assert torch.allclose(blocks_first, known["predictions"], atol=1e-5)
    table = stored["encoder"]["module.pos_embed"]
    assert torch.allclose(online.positions(grid(4, 4)), table, atol=1e-6)
