"""Checkpoints of others, read: the recipe's fields by their shapes, and its weights under our names.

`LAYOUTS` has the readers of each recipe; another published layout is one more small function there. A reader
gives None where the checkpoint is of another layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.engine.video_layouts import (
    mask_tokens,
    of_second,
    released_fields,
    transformers_fields,
    transformers_video,
)
from anyjepa.engine.vision_layouts import TIMM, TRANSFORMERS, ratio, renamed, square_grid

State = dict[str, Tensor]

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # of values from 0 to 1
# millivolts, of PTB-XL's training folds, leads I to V6 (note of ECG-JEPA)
PTB_XL = (0.19, 0.17, 0.17, 0.14, 0.15, 0.15, 0.24, 0.34, 0.34, 0.30, 0.29, 0.24)
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}  # of the published vision transformers


@dataclass
class Layout:
    """What a reader makes of a checkpoint.

    Args:
        fields: of the recipe, inferred.
        parts: weights under our names: of ``encoder``, ``target`` and ``predictor``, those that are there.
        facts: statistics that inputs were standardised by, as of `Domain.measure`; without them where they
            must be measured.
        statistics: whose these are, in words.
        left_out: names of weights, as they stand in the checkpoint, that have no place here.
        name: of the layout, for people.
        table: of positions (1, tokens, width), for images; those of sequences are sines in all layouts here.
    """

    fields: dict[str, Any]
    parts: dict[str, State]
    facts: dict[str, Any] = field(default_factory=dict)
    statistics: str = ""
    left_out: list[str] = field(default_factory=list)
    table: Tensor | None = None
    name: str = ""


Reader = Callable[[Mapping[str, Any]], Layout | None]


def _plain(state: Mapping[str, Any]) -> State:
    """Without what wrappers for parallel training and compilation put in front of each name."""
    return {
        re.sub(r"^((module|_orig_mod|backbone)\.)+", "", name): value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _depth(state: State, prefix: str = "blocks") -> int:
    found = {int(match[1]) for name in state if (match := re.match(rf"{prefix}\.(\d+)\.", name))}
    if found != set(range(len(found))):
        raise UserError(f"the checkpoint lacks blocks: it has {sorted(found)} under '{prefix}'.")
    return len(found)


def _flat(state: State) -> State:
    """The convolution that cuts patches as the matrix that it is, and positions apart."""
    return {
        name: value.flatten(1) if name == "tokenizer.project.weight" else value
        for name, value in state.items()
    }


def _encoder_fields(state: State) -> dict[str, Any]:
    """Of a transformer under timm's names."""
    patch = state["patch_embed.proj.weight"]
    width = patch.shape[0]
    return {
        "patch_size": patch.shape[-1], "width": width, "depth": _depth(state),
        "expansion": ratio(len(state["blocks.0.mlp.fc1.weight"]), width),
        "heads": HEADS.get(width, 0),
    }  # fmt: skip


def _image_facts(channels: int, mean: Any = None, std: Any = None) -> dict[str, Any]:
    """In the units of 8-bit images; nothing where nothing is known of so many channels."""
    if mean is None and channels == len(IMAGENET["mean"]):
        mean, std = ([value * 255 for value in IMAGENET[key]] for key in ("mean", "std"))
    return {} if mean is None else {"mean": list(mean), "std": list(std)}


PREDICTOR = (("embed.", "predictor_embed."), ("blocks.", "predictor_blocks."), ("norm.", "predictor_norm."),
             ("out.", "predictor_proj."), *TIMM[1:])  # fmt: skip


def _predictor(state: State, pairs: tuple[tuple[str, str], ...]) -> State:
    found = {}
    for name, value in state.items():
        if name.endswith("pos_embed"):
            continue  # the same sines again
        start = next((pair for pair in pairs if name.startswith(pair[1]) and pair[0].endswith(".")), None)
        name = name if start is None else start[0] + name.removeprefix(start[1])
        found[renamed(name, TIMM[1:], back=True)] = value
    return found


def _predictor_fields(state: State, heads: int) -> dict[str, Any]:
    width = state["mask_token"].shape[-1]
    return {
        "predictor_width": width, "predictor_depth": _depth(state),
        "predictor_heads": heads if heads and width % heads == 0 else 0,
    }  # fmt: skip


def _released(checkpoint: Mapping[str, Any], axes: int) -> dict[str, State] | None:
    """Encoder, target and predictor of the released code; `axes` is of the kernel that cuts its patches."""
    if not isinstance(checkpoint.get("target_encoder", checkpoint.get("encoder")), dict):
        return None
    states = {
        ours: _plain(checkpoint[theirs])
        for ours, theirs in (("encoder", "encoder"), ("target", "target_encoder"), ("predictor", "predictor"))
        if isinstance(checkpoint.get(theirs), dict)
    }
    patches = states.get("target", states.get("encoder", {})).get("patch_embed.proj.weight")
    return states if patches is not None and patches.ndim == axes else None


def i_jepa(checkpoint: Mapping[str, Any]) -> Layout | None:
    """The checkpoint that the released I-JEPA code writes: encoder, target_encoder, predictor."""
    states = _released(checkpoint, 4)
    if states is None:
        return None
    first = states.get("target", states.get("encoder", {}))
    parts = {name: _timm_encoder(state) for name, state in states.items() if name != "predictor"}
    fields = _encoder_fields(first)
    if "predictor" in states:
        parts["predictor"] = _predictor(states["predictor"], PREDICTOR)
        fields |= _predictor_fields(parts["predictor"], fields["heads"])
    facts = _image_facts(first["patch_embed.proj.weight"].shape[1])
    layout = Layout(fields, parts, facts, "ImageNet's" if facts else "")
    layout.facts["channels"] = first["patch_embed.proj.weight"].shape[1]
    layout.table = first.get("pos_embed")
    return layout


def _timm_encoder(state: State) -> State:
    return _flat(
        {renamed(name, TIMM, back=True): value for name, value in state.items() if name != "pos_embed"}
    )


def transformers_i_jepa(checkpoint: Mapping[str, Any]) -> Layout | None:
    """A folder that transformers wrote: ``config.json`` of an I-JEPA model and its weights."""
    config = checkpoint.get("config.json")
    if not isinstance(config, dict) or config.get("model_type") != "ijepa":
        return None
    state = {
        name.removeprefix("ijepa."): value for name, value in checkpoint.items() if isinstance(value, Tensor)
    }
    found, left_out, parts = {}, [], {}
    for name, value in state.items():
        if match := re.fullmatch(
            r"(encoder\.layer\.\d+\.)attention\.attention\.(query|key|value)\.(\w+)", name
        ):
            parts.setdefault(f"{match[1]}attention.qkv.{match[3]}", {})[match[2]] = value
        elif name.startswith("layernorm."):
            found[name.removeprefix("layer")] = value
        elif name.startswith(("encoder.", "embeddings.patch_embeddings.")):
            found[renamed(name, TRANSFORMERS, back=True)] = value
        elif name != "embeddings.position_embeddings":
            left_out.append(name)
    for name, three in parts.items():
        if three.keys() == {"query", "key", "value"}:
            joined = torch.cat([three["query"], three["key"], three["value"]])
            found[name.replace("encoder.layer.", "blocks.")] = joined
    if config.get("hidden_act", "gelu") != "gelu" or not config.get("qkv_bias", True):
        raise UserError(
            "this I-JEPA model has another activation than GELU or no biases: it has no place here."
        )
    width = config["hidden_size"]
    fields = {
        "patch_size": config["patch_size"], "width": width, "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"], "expansion": ratio(config["intermediate_size"], width),
    }  # fmt: skip
    size = config["image_size"]
    fields["image_size"] = (size, size) if isinstance(size, int) else tuple(size)
    prepared = checkpoint.get("preprocessor_config.json") or {}
    scale = prepared.get("rescale_factor", 1 / 255) if prepared.get("do_rescale", True) else 1.0
    mean, std = prepared.get("image_mean"), prepared.get("image_std")
    if mean is not None and std is not None:
        facts, whose = _image_facts(0, [v / scale for v in mean], [v / scale for v in std]), "the folder's"
    else:
        facts, whose = _image_facts(config["num_channels"]), "ImageNet's"
    layout = Layout(fields, {"target": _flat(found)}, facts, whose, left_out)
    layout.facts["channels"] = config["num_channels"]
    layout.table = state.get("embeddings.position_embeddings")
    return layout


def timm_vit(checkpoint: Mapping[str, Any]) -> Layout | None:
    """A state dict of timm's ``VisionTransformer``, bare or under ``model`` or ``state_dict``, to start from.

    The class token and its position become a register, the scales of layers are multiplied into the weights
    before them. What changes the function in another way is an error.
    """
    nested = next(
        (checkpoint[k] for k in ("state_dict", "model", "teacher") if isinstance(checkpoint.get(k), dict)),
        None,
    )
    state = _plain(nested if nested is not None else checkpoint)
    if "patch_embed.proj.weight" not in state or "blocks.0.attn.qkv.weight" not in state:
        return None
    left_out = [name for name in state if name.startswith(("head.", "head_dist.", "fc_norm.", "pre_logits."))]
    rest = {name: value for name, value in state.items() if name not in left_out}
    foreign = [
        n for n in rest if re.search(r"norm_pre|q_norm|k_norm|\.w12\.|rel_pos|attn_pool|dist_token", n)
    ]
    if foreign:
        raise UserError(f"'{foreign[0]}' of this ViT has no place here: it is no plain vision transformer.")
    width = rest["patch_embed.proj.weight"].shape[0]
    if "blocks.0.attn.qkv.bias" not in rest:
        rest |= {f"blocks.{n}.attn.qkv.bias": torch.zeros(3 * width) for n in range(_depth(rest))}
    table, front = rest.pop("pos_embed", None), []
    if (token := rest.pop("cls_token", None)) is not None:
        front.append(token)
    if (tokens := rest.pop("reg_token", None)) is not None:
        front.append(tokens)
    _scale_layers(rest)
    parts = {"target": _timm_encoder(rest)}
    fields = _encoder_fields(rest)
    if front:
        table = _with_registers(torch.cat(front, dim=1), table, parts["target"])
        fields["registers"] = parts["target"]["registers"].shape[1]
    prepared = (checkpoint.get("config.json") or {}).get("pretrained_cfg") or {}
    channels = rest["patch_embed.proj.weight"].shape[1]
    if "mean" in prepared:
        mean, std = ([value * 255 for value in prepared[key]] for key in ("mean", "std"))
        facts, whose = _image_facts(channels, mean, std), "the folder's"
    else:
        facts, whose = _image_facts(channels), "ImageNet's"
    layout = Layout(fields, parts, facts, whose, left_out)
    layout.facts["channels"] = channels
    layout.table = table
    return layout


def _with_registers(front: Tensor, table: Tensor | None, state: State) -> Tensor | None:
    """Put the tokens in front, with the positions that they may have in the table, among the weights.

    Returns:
        What is left of the table: the patches' positions.
    """
    count = 0
    if table is not None:
        rest, most = table.shape[1], front.shape[1]
        count = next((c for c in (0, most, 1) if square_grid(rest - c)), most)
        front = front + functional.pad(table[:, :count], (0, 0, 0, most - count))
        table = table[:, count:]
    state["registers"] = front
    return table


def _scale_layers(state: State) -> None:
    """Fold ``ls1.gamma`` and ``ls2.gamma`` into the layers whose output they scale."""
    for name in [name for name in state if name.endswith((".ls1.gamma", ".ls2.gamma"))]:
        block = name.rsplit(".", 2)[0]
        layer = f"{block}.attn.proj" if ".ls1." in name else f"{block}.mlp.fc2"
        gamma = state.pop(name)
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * gamma.unsqueeze(1)
        state[f"{layer}.bias"] = state[f"{layer}.bias"] * gamma


ECG_NAMES = (("out.", "proj."),)
# field of ours, key of theirs: taken where the checkpoint has a value
ECG_FIELDS = (
    ("rate", "sampling_frequency"), ("patch_size", "patch_size"), ("width", "dim"), ("depth", "depth"),
    ("heads", "num_heads"), ("predictor_width", "pred_dim"), ("predictor_depth", "pred_depth"),
    ("predictor_heads", "pred_num_heads"), ("registers", "num_registers"), ("batch_size", "batch_size"),
    ("learning_rate", "learning_rate"), ("final_learning_rate", "final_learning_rate"),
    ("weight_decay", "weight_decay"), ("final_weight_decay", "final_weight_decay"),
)  # fmt: skip


def ecg_jepa(checkpoint: Mapping[str, Any]) -> Layout | None:
    """The checkpoint that the released ECG-JEPA code writes: one state dict and its config."""
    config = checkpoint.get("config")
    if not isinstance(config, dict) or not isinstance(checkpoint.get("model"), dict):
        return None
    state = _plain(checkpoint["model"])
    split = {
        ours: {n.removeprefix(theirs): v for n, v in state.items() if n.startswith(theirs)}
        for ours, theirs in (
            ("encoder", "encoder."),
            ("target", "target_encoder."),
            ("predictor", "predictor."),
        )
    }
    split = {name: part for name, part in split.items() if part}
    first = split.get("target", split.get("encoder", {}))
    if "patch_embed.proj.weight" not in first or first["patch_embed.proj.weight"].ndim != 3:
        return None
    for key in ("bias", "qkv_bias", "layer_scale_eps"):
        if config.get(key):
            raise UserError(f"an ECG-JEPA checkpoint with {key} = {config[key]} has no place here.")
    kernel = first["patch_embed.proj.weight"]
    fields = {ours: config[theirs] for ours, theirs in ECG_FIELDS if config.get(theirs) is not None}
    fields |= {"patch_size": kernel.shape[-1], "width": kernel.shape[0], "depth": _depth(first)}
    fields["registers"] = first["registers"].shape[1] if "registers" in first else 0
    rate, points = fields.setdefault("rate", 500.0), config.get("channel_size") or 5000
    fields["rate"], fields["seconds"] = float(rate), points / rate
    leads = [name if isinstance(name, str) else str(name) for name in config.get("channels") or LEADS]
    fields["leads"] = ",".join(leads)
    for ours, theirs in (("keep", ("min_keep_ratio", "max_keep_ratio")),
                         ("momentum", ("encoder_momentum", "final_encoder_momentum"))):  # fmt: skip
        if all(config.get(key) is not None for key in theirs):
            fields[ours] = tuple(config[key] for key in theirs)
    parts = {name: _timm_encoder(part) for name, part in split.items() if name != "predictor"}
    if "predictor" in split:
        parts["predictor"] = _predictor(split["predictor"], ECG_NAMES)
        fields |= {"predictor_width": parts["predictor"]["mask_token"].shape[-1],
                   "predictor_depth": _depth(parts["predictor"])}  # fmt: skip
    facts: dict[str, Any] = {"leads": leads, "rate": float(rate), "points": points}
    if tuple(leads) == LEADS:
        facts |= {"mean": [0.0] * len(leads), "std": list(PTB_XL)}
    known = [f"{part}." for part in ("encoder", "target_encoder", "predictor")]
    left_out = [name for name in state if not name.startswith(tuple(known))]
    whose = "PTB-XL's (its standard deviations to two digits)" if "mean" in facts else ""
    return Layout(fields, parts, facts, whose, left_out)


def v_jepa(checkpoint: Mapping[str, Any]) -> Layout | None:
    """The checkpoint that the released code of V-JEPA and of V-JEPA 2 writes: as I-JEPA's, over tubelets."""
    states = _released(checkpoint, 5)
    if states is None:
        return None
    first = states.get("target", states.get("encoder", {}))
    fields = of_second(released_fields(first))
    parts = {name: _timm_encoder(state) for name, state in states.items() if name != "predictor"}
    if "predictor" in states:
        parts["predictor"] = mask_tokens(_predictor(states["predictor"], PREDICTOR))
        known = 12 if fields["positions"] == "rotary" and fields["heads"] else fields["heads"]
        fields |= _predictor_fields(parts["predictor"], known)
        fields["mask_tokens"] = len(parts["predictor"]["mask_token"])
    return _video_layout(fields, parts, first["patch_embed.proj.weight"].shape[1])


def transformers_v_jepa(checkpoint: Mapping[str, Any]) -> Layout | None:
    """A folder that transformers wrote: ``config.json`` of a V-JEPA 2 model and its weights."""
    config = checkpoint.get("config.json")
    if not isinstance(config, dict) or config.get("model_type") != "vjepa2":
        return None
    parts, left_out = transformers_video(checkpoint)
    prepared = checkpoint.get("preprocessor_config.json") or {}
    scale = prepared.get("rescale_factor", 1 / 255) if prepared.get("do_rescale", True) else 1.0
    mean, std = (prepared.get(f"image_{name}") for name in ("mean", "std"))
    given = None if mean is None or std is None else ([v / scale for v in mean], [v / scale for v in std])
    fields = of_second(transformers_fields(config))
    return _video_layout(fields, parts, config.get("in_chans", 3), given, left_out)


def _video_layout(
    fields: dict[str, Any], parts: dict[str, State], channels: int, given: Any = None, left_out: Any = ()
) -> Layout:
    facts = _image_facts(channels, *given) if given else _image_facts(channels)
    whose = "the folder's" if given else "ImageNet's" if facts else ""
    return Layout(fields, parts, facts | {"channels": channels}, whose, list(left_out))


LAYOUTS: dict[str, dict[str, Reader]] = {
    "i-jepa": {
        "the released I-JEPA code": i_jepa,
        "an I-JEPA folder of transformers": transformers_i_jepa,
        "a vision transformer of timm": timm_vit,
    },
    "v-jepa": {
        "the released V-JEPA code": v_jepa,
        "a V-JEPA 2 folder of transformers": transformers_v_jepa,
    },
    "ecg-jepa": {"the released ECG-JEPA code": ecg_jepa},
}
