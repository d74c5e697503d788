"""Our vision transformer under the names of other libraries: timm, the papers' own code, transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.core.transformer import Block, Encoder
from anyjepa.domains.image_backbones import VisionTransformer
from anyjepa.domains.image_patches import ImagePatches
from anyjepa.engine.run import Run

# ours, theirs; the published code of I-JEPA, V-JEPA and ECG-JEPA has timm's names too
TIMM = (
    ("tokenizer.project", "patch_embed.proj"),
    ("attention.qkv", "attn.qkv"),
    ("attention.out", "attn.proj"),
    ("mlp.0", "mlp.fc1"),
    ("mlp.2", "mlp.fc2"),
)
# names that the hub's folders have; transformers 5 calls them otherwise in memory, but writes and reads these
TRANSFORMERS = (
    ("tokenizer.project", "embeddings.patch_embeddings.projection"),
    ("blocks.", "encoder.layer."),
    ("attention.out", "attention.output.dense"),
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("mlp.0", "intermediate.dense"),
    ("mlp.2", "output.dense"),
)


def vision_encoder(run: Run, format: str) -> Encoder:
    """The transformer over image patches that a run holds.

    Raises:
        UserError: it holds another network, in one sentence that says why it does not fit `format`.
    """
    backbone = run.method.backbone
    if isinstance(backbone, VisionTransformer):
        if not isinstance(backbone.head, torch.nn.Identity):
            raise UserError(
                f"{format} has no place for the linear head of this run (--head {backbone.width}): "
                "export it as onnx, torchscript or safetensors."
            )
        backbone = backbone.encoder
    if not isinstance(backbone, Encoder) or not isinstance(backbone.tokenizer, ImagePatches):
        raise UserError(
            f"{format} takes a transformer over image patches, and the {type(backbone).__name__} of this "
            f"{run.recipe.name} run ({run.domain.name} data) is none: export it as onnx, torchscript, "
            "torch-export or safetensors."
        )
    return backbone


def position_table(encoder: Encoder, image_size: tuple[int, int]) -> Tensor:
    """(1, tokens, width) the vectors that are added to the patches of images of this size."""
    tokenizer = encoder.tokenizer
    assert isinstance(tokenizer, ImagePatches) and encoder.positions is not None
    image = tokenizer.mean.new_zeros(1, len(tokenizer.mean), *image_size)
    with torch.no_grad():
        return encoder.positions(tokenizer({"image": image}).coordinates)


def sizes(encoder: Encoder) -> tuple[int, int]:
    """Attention heads, and the hidden width of the perceptrons."""
    first = encoder.blocks[0]
    assert isinstance(first, Block)
    widening = first.mlp[0]
    assert isinstance(widening, torch.nn.Linear)
    return first.attention.heads, widening.out_features


def own_state(encoder: Encoder) -> tuple[dict[str, Tensor], ImagePatches]:
    """Weights of the encoder under our names, without statistics and positions; and its tokenizer."""
    tokenizer = encoder.tokenizer
    assert isinstance(tokenizer, ImagePatches)
    state = {
        name: value.detach().cpu()
        for name, value in encoder.state_dict().items()
        if name not in ("tokenizer.mean", "tokenizer.std") and not name.startswith("positions.")
    }
    weight, side = state["tokenizer.project.weight"], tokenizer.patch
    # a convolution whose stride is its width, channel by channel
    state["tokenizer.project.weight"] = weight.unflatten(1, (-1, side, side))
    return state, tokenizer


def renamed(name: str, pairs: tuple[tuple[str, str], ...], back: bool = False) -> str:
    """Our name of a weight in theirs, or with `back` the other way."""
    # longer names first, for some are part of others
    for ours, theirs in sorted(pairs, key=lambda pair: -len(pair[1])):
        old, new = (theirs, ours) if back else (ours, theirs)
        if old in name:
            name = name.replace(old, new)
    return name


def timm_state(run: Run) -> tuple[dict[str, Tensor], str]:
    """A state dict for timm's ``VisionTransformer``, and the call that makes the network that takes it."""
    encoder = vision_encoder(run, "timm")
    state, tokenizer = own_state(encoder)
    registers = state.pop("registers", None)
    size = tuple(run.config["fields"]["image_size"])
    found = {renamed(name, TIMM): value.contiguous() for name, value in state.items()}
    found["pos_embed"] = position_table(encoder, size).cpu()
    heads, hidden = sizes(encoder)
    options: dict[str, Any] = {
        "img_size": size, "patch_size": tokenizer.patch, "in_chans": len(tokenizer.mean), "num_classes": 0,
        "embed_dim": encoder.width, "depth": len(encoder.blocks), "num_heads": heads,
        "mlp_ratio": ratio(hidden, encoder.width), "class_token": False,
        "global_pool": "avg", "fc_norm": False,
    }  # fmt: skip
    if registers is not None:
        found["reg_token"] = registers
        options |= {"reg_tokens": registers.shape[1], "no_embed_class": True}
    said = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return found, f"timm.create_model('vit_base_patch16_224', {said})"


def timm_tokens(
    state: dict[str, Tensor], pixels: Float[Tensor, "batch channels rows columns"], heads: int
) -> Float[Tensor, "batch tokens width"]:
    """What timm's ``forward_features`` makes of standardised images with these weights, registers left out.

    The check where timm is not installed; a forward of its own, so that a wrong name shows.
    """
    weight = state["patch_embed.proj.weight"]
    x = functional.conv2d(pixels, weight, state["patch_embed.proj.bias"], stride=weight.shape[-1])
    x = x.flatten(2).mT + state["pos_embed"]
    width, front = x.shape[-1], 0
    if "reg_token" in state:
        front = state["reg_token"].shape[1]
        x = torch.cat([state["reg_token"].expand(len(x), -1, -1), x], dim=1)

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    number = 0
    while (block := f"blocks.{number}") + ".norm1.weight" in state:
        three = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).unflatten(-1, (3, heads, -1))
        queries, keys, values = three.permute(2, 0, 3, 1, 4)
        weights = (queries @ keys.mT / math.sqrt(width // heads)).softmax(-1)
        x = x + linear(f"{block}.attn.proj", (weights @ values).transpose(1, 2).flatten(2))
        hidden = functional.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + linear(f"{block}.mlp.fc2", hidden)
        number += 1
    return norm("norm", x)[:, front:]


def ratio(hidden: int, width: int) -> float:
    """Hidden width over width, such that ``int(width * ratio)`` is `hidden` again."""
    plain = hidden / width
    return plain if int(width * plain) == hidden else (hidden + 0.5) / width


def write_transformers(run: Run, folder: Path) -> None:
    """Config, weights and preprocessing of an ``IJepaModel``, into a folder that is there.

    Written as files, so that no version of transformers is needed to write them.

    Raises:
        UserError: the network does not fit.
    """
    from safetensors.torch import save_file

    encoder = vision_encoder(run, "transformers")
    state, tokenizer = own_state(encoder)
    if "registers" in state:
        raise UserError(
            f"IJepaModel of transformers has no place for the {state['registers'].shape[1]} register or "
            "class tokens of this run: export it as timm, onnx or safetensors."
        )
    size, (heads, hidden) = tuple(run.config["fields"]["image_size"]), sizes(encoder)
    found = {"embeddings.position_embeddings": position_table(encoder, size).cpu()}
    for name, value in state.items():
        theirs = renamed(name, TRANSFORMERS)
        if theirs.startswith("norm."):
            found[f"layer{theirs}"] = value.contiguous()
        elif "attention.qkv" in theirs:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[theirs.replace("attention.qkv", f"attention.attention.{part}")] = piece.contiguous()
        else:
            found[theirs] = value.contiguous()
    config = {
        "architectures": ["IJepaModel"], "model_type": "ijepa", "hidden_size": encoder.width,
        "num_hidden_layers": len(encoder.blocks), "num_attention_heads": heads,
        "intermediate_size": hidden, "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02, "layer_norm_eps": encoder.norm.eps,
        "image_size": size[0] if size[0] == size[1] else list(size), "patch_size": tokenizer.patch,
        "num_channels": len(tokenizer.mean), "qkv_bias": True, "dtype": "float32",
    }  # fmt: skip
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing(run, tokenizer), indent=2))


def preprocessing(run: Run, tokenizer: ImagePatches) -> dict[str, Any]:
    """What an image processor of transformers must do before the network, with the measured statistics."""
    largest = {"uint8": 255, "uint16": 65535}.get(str(run.facts.get("dtype", "uint8")), 1)
    height, width = run.config["fields"]["image_size"]
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / largest,
        "do_normalize": True,
        "image_mean": [value / largest for value in tokenizer.mean.flatten().tolist()],
        "image_std": [value / largest for value in tokenizer.std.flatten().tolist()],
    }


def resampled(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A position table (rows * columns, width) at the places of another grid, by bicubic interpolation.

    Args:
        table: in raster order.
        old, new: rows and columns.

    Returns:
        (new rows * new columns, width).
    """
    if old == new:
        return table
    square = table.float().unflatten(0, old).permute(2, 0, 1).unsqueeze(0)
    smaller = new[0] < old[0] or new[1] < old[1]  # where it grows, this is what transformers does
    smooth = functional.interpolate(square, size=new, mode="bicubic", antialias=smaller)
    return smooth[0].permute(1, 2, 0).flatten(0, 1).to(table.dtype)


def square_grid(tokens: int) -> tuple[int, int] | None:
    """Rows and columns of a square of so many tokens, None where there is none."""
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else None
