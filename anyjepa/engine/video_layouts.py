"""V-JEPA and V-JEPA 2 under the names of the released code and of transformers, read and written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyjepa.core.errors import UserError
from anyjepa.core.families import FamilyJepa
from anyjepa.core.positions import AxisSinCos, Rotary, grid
from anyjepa.core.transformer import Encoder, Predictor
from anyjepa.domains.video_tubelets import Tubelets
from anyjepa.engine.run import Run
from anyjepa.engine.vision_layouts import ratio, renamed, sizes
from anyjepa.recipes import recipe

State = dict[str, Tensor]

SAME = 1e-3  # position tables nearer than this are the same: some were computed in half precision
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}  # of the published encoders
# ours, theirs; of the encoder's and the predictor's blocks alike
TRANSFORMERS = (("attention.out", "attention.proj"), ("mlp.0", "mlp.fc1"), ("mlp.2", "mlp.fc2"))


def shape_of_table(table: Tensor, uniform: bool) -> tuple[int, int, int] | None:
    """Time slices, rows and columns of a published table (1, tokens, width); None where it is none.

    Frames were square, so a number of tokens leaves few shapes, of which one has these sines.
    """
    tokens, width = table.shape[1:]
    even = 2 * math.ceil(width / 6)
    shares = (even,) * 3 if uniform else (width // 2, width // 4, width // 4)
    if any(share < 2 or share % 2 for share in shares) or sum(shares) < width:
        return None
    positions = AxisSinCos(width, shares)
    for side in range(math.isqrt(tokens), 0, -1):
        if tokens % side**2 == 0:
            shape = tokens // side**2, side, side
            if torch.allclose(positions(grid(*shape)), table.float(), atol=SAME):
                return shape
    return None


def released_fields(state: State) -> dict[str, Any]:
    """What the shapes of a released encoder say, under timm's names.

    Raises:
        UserError: its positions are no published sines.
    """
    weight = state["patch_embed.proj.weight"]
    width, tubelet, patch = weight.shape[0], weight.shape[2], weight.shape[4]
    depth = 1 + max(int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name)))
    fields: dict[str, Any] = {
        "tubelet": tubelet, "patch_size": patch, "width": width, "depth": depth,
        "expansion": ratio(len(state["blocks.0.mlp.fc1.weight"]), width), "heads": HEADS.get(width, 0),
    }  # fmt: skip
    table = state.get("pos_embed")
    if table is None:
        return fields | {"positions": "rotary", "published_rotary": True}
    for uniform in (True, False):
        shape = shape_of_table(table, uniform)
        if shape:
            return fields | {
                "positions": "sin-cos", "uniform_power": uniform, "frames": shape[0] * tubelet,
                "image_size": (shape[1] * patch, shape[2] * patch),
            }  # fmt: skip
    raise UserError(
        f"the checkpoint's table of {table.shape[1]} positions is not V-JEPA's sines of any clip of square "
        "frames: it has no place here."
    )


def of_second(fields: dict[str, Any]) -> dict[str, Any]:
    """With how V-JEPA 2 was trained, where the positions tell that it is one."""
    if fields["positions"] == "rotary":
        return recipe("v-jepa").presets["v-jepa-2"] | {"image_size": (256, 256)} | fields
    return fields


def mask_tokens(state: Mapping[str, Tensor]) -> State:
    """A predictor's mask tokens, one weight each in the released code, as one (tokens, 1, width)."""
    names = sorted((name for name in state if re.fullmatch(r"mask_tokens\.\d+", name)), key=_number)
    rest = {name: value for name, value in state.items() if name not in names}
    return rest | ({"mask_token": torch.cat([state[name] for name in names])} if names else {})


def _number(name: str) -> int:
    return int(name.rpartition(".")[2])


def transformers_video(checkpoint: Mapping[str, Any]) -> tuple[dict[str, State], list[str]]:
    """Parts of a V-JEPA 2 folder under our names, and the names of what has no place here."""
    state = {
        name.removeprefix("vjepa2."): value for name, value in checkpoint.items() if isinstance(value, Tensor)
    }
    parts = {
        ours: found
        for ours, theirs in (("target", "encoder"), ("predictor", "predictor"))
        if (found := _transformers_state(state, theirs))
    }
    return parts, [name for name in state if not name.startswith(("encoder.", "predictor."))]


def _transformers_state(state: Mapping[str, Tensor], part: str) -> State:
    """Weights of ``encoder`` or ``predictor`` of a V-JEPA 2 folder under our names."""
    found: State = {}
    triples: dict[str, State] = {}
    for name, value in state.items():
        if not name.startswith(f"{part}."):
            continue
        own = name.removeprefix(f"{part}.").replace("layer.", "blocks.", 1)
        if match := re.fullmatch(r"(blocks\.\d+\.attention)\.(query|key|value)\.(weight|bias)", own):
            triples.setdefault(f"{match[1]}.qkv.{match[3]}", {})[match[2]] = value
            continue
        for theirs, ours in (
            ("embeddings.patch_embeddings.proj.weight", "tokenizer.project.weight"),
            ("embeddings.patch_embeddings.proj.bias", "tokenizer.project.bias"),
            ("embeddings.predictor_embeddings.", "embed."),
            ("embeddings.mask_tokens", "mask_token"),
            ("layernorm.", "norm."),
        ):
            own = own.replace(theirs, ours)
        if own.startswith("proj."):
            own = own.replace("proj.", "out.", 1)
        found[renamed(own, TRANSFORMERS, back=True)] = value
    for name, three in triples.items():
        if three.keys() == {"query", "key", "value"}:
            found[name] = torch.cat([three["query"], three["key"], three["value"]])
    if "mask_token" in found:
        found["mask_token"] = found["mask_token"].flatten(0, 2).unsqueeze(1)
    if "tokenizer.project.weight" in found:
        found["tokenizer.project.weight"] = found["tokenizer.project.weight"].flatten(1)
    return found


def transformers_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's fields of a ``config.json`` of V-JEPA 2. Raises UserError for what has no place here."""
    if config.get("hidden_act", "gelu") != "gelu" or not config.get("qkv_bias", True):
        raise UserError(
            "this V-JEPA 2 model has another activation than GELU or no biases: it has no place here."
        )
    if config.get("pred_mlp_ratio", 4.0) != 4.0:
        raise UserError("this V-JEPA 2 model has a predictor of another expansion than 4: no place for it.")
    width, side = config.get("hidden_size", 1024), config.get("crop_size", 256)
    patch = config.get("patch_size", 16)
    patch = patch[0] if isinstance(patch, list) else patch
    hidden = int(width * config.get("mlp_ratio", 4.0))
    return {
        "tubelet": config.get("tubelet_size", 2), "patch_size": patch, "width": width,
        "depth": config.get("num_hidden_layers", 24), "heads": config.get("num_attention_heads", 16),
        "expansion": ratio(hidden, width), "positions": "rotary", "published_rotary": True,
        "image_size": (side, side), "frames": config.get("frames_per_clip", 64), "fps": 4.0,
        "predictor_width": config.get("pred_hidden_size", 384),
        "predictor_depth": config.get("pred_num_hidden_layers", 12),
        "predictor_heads": config.get("pred_num_attention_heads", 12),
        "mask_tokens": config.get("pred_num_mask_tokens", 10),
    }  # fmt: skip


def video_parts(run: Run) -> tuple[Encoder, Predictor]:
    """The encoder that a run gives away and its predictor, fit for a V-JEPA 2 folder of transformers.

    Raises:
        UserError: it holds another network, in one sentence that says why it does not fit.
    """
    method = run.method
    encoder = method.backbone
    if not isinstance(method, FamilyJepa) or not isinstance(encoder, Encoder):
        raise UserError(f"transformers has no place for the network of this {run.recipe.name} run.")
    rotary, fields = encoder.rotary, run.config["fields"]
    if not isinstance(rotary, Rotary) or rotary.layout != "published":
        raise UserError(
            "VJEPA2Model of transformers has the rotary positions of the released code, which this run has "
            "not: train with --positions rotary --published-rotary true, or export it as onnx or safetensors."
        )
    height, width = fields["image_size"]
    if height != width:
        raise UserError(
            f"VJEPA2Model of transformers takes square frames, not {height} x {width}: export it as onnx."
        )
    return encoder, method.predictor


def write_transformers_video(run: Run, folder: Path) -> None:
    """Config, weights and preprocessing of a ``VJEPA2Model``, into a folder that is there.

    Written as files, so that no version of transformers is needed to write them.

    Raises:
        UserError: the network does not fit.
    """
    from safetensors.torch import save_file

    encoder, predictor = video_parts(run)
    tokenizer, fields = encoder.tokenizer, run.config["fields"]
    assert isinstance(tokenizer, Tubelets)
    found: State = {}
    for part, module in (("encoder", encoder), ("predictor", predictor)):
        for name, value in module.state_dict().items():
            if name not in ("tokenizer.mean", "tokenizer.std"):
                found |= {
                    f"{part}.{theirs}": piece.detach().cpu().contiguous()
                    for theirs, piece in _theirs(name, value, tokenizer)
                }
    heads, hidden = sizes(encoder)
    channels, side = len(tokenizer.mean), fields["image_size"][0]
    config = {
        "architectures": ["VJEPA2Model"], "model_type": "vjepa2", "patch_size": tokenizer.patch,
        "crop_size": side, "frames_per_clip": fields["frames"],
        "tubelet_size": tokenizer.tubelet, "hidden_size": encoder.width, "in_chans": channels,
        "num_attention_heads": heads, "num_hidden_layers": len(encoder.blocks), "drop_path_rate": 0.0,
        "mlp_ratio": ratio(hidden, encoder.width), "layer_norm_eps": encoder.norm.eps, "qkv_bias": True,
        "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu", "initializer_range": 0.02,
        "pred_hidden_size": fields["predictor_width"], "pred_num_attention_heads": fields["predictor_heads"],
        "pred_num_hidden_layers": fields["predictor_depth"], "pred_mlp_ratio": 4.0,
        "pred_num_mask_tokens": len(predictor.mask_token), "pred_zero_init_mask_tokens": True,
        "dtype": "float32",
    }  # fmt: skip
    largest = 255 if run.facts.get("dtype", "uint8") == "uint8" else 1
    prepared = {
        "video_processor_type": "VJEPA2VideoProcessor", "do_resize": True,
        "size": {"shortest_edge": side}, "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True, "rescale_factor": 1 / largest, "do_normalize": True,
        "image_mean": [value / largest for value in tokenizer.mean.flatten().tolist()],
        "image_std": [value / largest for value in tokenizer.std.flatten().tolist()],
    }  # fmt: skip
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps(prepared, indent=2))


def _theirs(name: str, value: Tensor, tokenizer: Tubelets) -> list[tuple[str, Tensor]]:
    """A weight under the names of transformers: queries, keys and values are three there."""
    if "attention.qkv" in name:
        name = name.replace("blocks.", "layer.", 1)
        pieces = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return [(name.replace("qkv", part), piece) for part, piece in pieces]
    if name == "tokenizer.project.weight":
        cut = (-1, tokenizer.tubelet, tokenizer.patch, tokenizer.patch)
        return [("embeddings.patch_embeddings.proj.weight", value.unflatten(1, cut))]
    if name == "mask_token":
        return [("embeddings.mask_tokens", value.unsqueeze(1))]
    for ours, theirs in (
        ("tokenizer.project.", "embeddings.patch_embeddings.proj."),
        ("embed.", "embeddings.predictor_embeddings."),
        ("norm.", "layernorm."),
        ("out.", "proj."),
    ):
        if name.startswith(ours):
            return [(theirs + name.removeprefix(ours), value)]
    return [(renamed(name, TRANSFORMERS).replace("blocks.", "layer.", 1), value)]
