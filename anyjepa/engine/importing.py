"""A published checkpoint becomes a run: read safely, checked shape by shape, with an account of the rest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import anyjepa
from anyjepa.core.errors import UserError, nearest
from anyjepa.core.method import Method
from anyjepa.core.positions import SinCos, grid
from anyjepa.core.targets import EmaTeacher
from anyjepa.domains import domains
from anyjepa.engine.beginning import TABLE, stretched
from anyjepa.engine.checkpoint import save_checkpoint, save_encoder
from anyjepa.engine.files import explained
from anyjepa.engine.layouts import LAYOUTS, Layout, State
from anyjepa.engine.run import build_method, open_source, recipe_fields, write_config
from anyjepa.engine.vision_layouts import resampled, square_grid
from anyjepa.recipes import recipe

NAMED = 3  # of the weights that do not fit, in an error
SAME = 1e-3  # position tables nearer than this are the same: some were computed in half precision
# what torch.load(weights_only=True) raises; its own module is not to be imported here
PUBLISHED = (".pth.tar", ".pth", ".pt", ".ckpt", ".bin")  # endings of what training code writes
UNSAFE = torch.serialization.pickle.UnpicklingError  # pyright: ignore[reportPrivateImportUsage]
STATISTICS = ("tokenizer.mean", "tokenizer.std")


def import_checkpoint(
    checkpoint: str | Path,
    recipe: str,
    out: str | Path,
    *,
    data: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Make a run of a published checkpoint: to evaluate, embed, inspect, export, and to train further.

    Sizes are told from the shapes. Training goes on in a new run: ``anyjepa train RECIPE --init RUN``.

    Args:
        checkpoint: a file of ``torch.save`` or safetensors, or a folder of transformers or timm. Of i-jepa:
            the released code's, ``IJepaModel`` folders, timm's vision transformers as a start; of v-jepa: the
            released code's of V-JEPA and V-JEPA 2, ``VJEPA2Model`` folders; of ecg-jepa: the released code's.
        recipe: its name.
        out: the run's folder, which must be new.
        data: source that statistics are measured on; without it the published ones are taken.
        mean, std: of each channel or lead, or one for all, in the data's own units (0 to 255 for 8-bit
            images, millivolts for ECGs), instead.
        fields: of the recipe, which the shapes do not tell: ``heads`` where the checkpoint does not say; an
            ``image_size`` other than the trained one stretches or resamples the positions.

    Returns:
        ``run``, ``recipe``, ``missing``: weights that begin anew, ``unexpected``: weights of the checkpoint
        that have no place here, ``layout``, ``statistics`` and ``parameters``.

    Raises:
        UserError: the file is unsafe or unreadable, of no known layout, or does not fit.
    """
    path, out = Path(checkpoint), Path(out)
    if recipe not in LAYOUTS:
        raise UserError(
            f"there is no layout to import for '{recipe}' (there are those of {', '.join(LAYOUTS)})."
            f"{nearest(recipe, LAYOUTS)}"
        )
    if (out / "config.yaml").exists():
        raise UserError(f"{out} already holds a run: choose another --out.")
    layout = _read(path, recipe)
    kind = _recipe(recipe, layout, fields)
    config = _config(kind, path, layout, data, mean, std)
    method = build_method(kind, config["data"]["facts"], 0)
    missing, unexpected = _fill(method, layout)
    with explained(f"write {out}"):
        out.mkdir(parents=True, exist_ok=True)
        # a checkpoint of step 0 keeps what the encoder's file does not: the pupil and the predictor
        save_checkpoint(out / "checkpoints", 0, method, torch.optim.SGD(method.parameters()), {})
        save_encoder(method, out / "encoder.safetensors")
        write_config(out, config)
    return {
        "run": str(out),
        "recipe": recipe,
        "missing": missing,
        "unexpected": unexpected,
        "layout": layout.name,
        "statistics": config["imported"]["statistics"],
        "parameters": sum(value.numel() for value in method.backbone.parameters()),
    }


def _read(path: Path, name: str) -> Layout:
    content = read_checkpoint(path)
    for words, reader in LAYOUTS[name].items():
        layout = reader(content)
        if layout is not None:
            return dataclasses.replace(layout, name=words)
    raise UserError(
        f"{path} is of no layout known for {name} (known are those of {'; '.join(LAYOUTS[name])}); the names "
        f"in it begin with {', '.join(sorted(map(str, content))[:6])}."
    )


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """What a checkpoint holds: tensors and plain values by name; of a folder, its JSON files too, by name.

    Raises:
        UserError: there is none, it is damaged, or it holds more than tensors and plain values.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"there is no checkpoint {path}.{nearest(path.name, siblings)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNSAFE as problem:
        raise UserError(
            f"{path} holds more than tensors and plain values, which could run anything when read: save its "
            f"state dicts alone ({_first_line(problem)})."
        ) from problem
    except (OSError, EOFError, RuntimeError, SafetensorError) as problem:
        raise UserError(f"{path} is damaged or no checkpoint ({_first_line(problem)}).") from problem
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not weights by name.")
    return content


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0].rstrip(".")


def _read_folder(folder: Path) -> Mapping[str, Any]:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        published = sorted(file for file in folder.iterdir() if file.name.endswith(PUBLISHED))
        if len(published) == 1:
            return read_checkpoint(published[0])
        words = f"{len(published)} checkpoints: name one of them" if published else "no checkpoint"
        raise UserError(
            f"{folder} holds {words} (looked for .safetensors, pytorch_model.bin, {', '.join(PUBLISHED)})."
        )
    found: dict[str, Any] = {}
    for file in files:
        found |= read_checkpoint(file)
    for name in ("config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            try:
                found[name] = json.loads((folder / name).read_text())
            except json.JSONDecodeError as problem:
                raise UserError(f"{folder / name} is damaged ({problem}).") from problem
    return found


def _recipe(name: str, layout: Layout, asked: dict[str, Any]) -> Any:
    kind = recipe(name)
    kind.known(asked)
    if layout.table is not None:
        _place(layout, asked)
    inferred = dict(layout.fields)
    for part in ("", "predictor_"):
        field = f"{part}heads"
        if not inferred.get(field):
            inferred.pop(field, None)
            if field not in asked and (part == "" or "predictor" in layout.parts):
                inferred[field] = _heads(layout, part, {**inferred, **asked})
    fields = {**inferred, **stretched(inferred, asked)}
    paper = kind.presets["paper"]
    return kind.preset("paper", **{**paper, **fields})


def _heads(layout: Layout, part: str, fields: dict[str, Any]) -> int:
    """The predictor's are as many as the encoder's, in the released code; the encoder's must be known."""
    width = fields[f"{part}width"]
    if part and width % fields["heads"] == 0:
        return fields["heads"]
    raise UserError(
        f"{layout.name} does not say how many attention heads {part.replace('_', '') or 'encoder'} tokens of "
        f"width {width} are shared out over: add --{part.replace('_', '-')}heads N."
    )


def _place(layout: Layout, asked: dict[str, Any]) -> None:
    """Find what images the positions are of; the published sines are computed, another table is learned.

    A learned table of another size than that of the images asked for is resampled.
    """
    assert layout.table is not None
    side, tokens = layout.fields["patch_size"], layout.table.shape[1]
    square = square_grid(tokens)
    size = asked.get("position_size") or layout.fields.get("image_size")
    size = size or (tuple(side * count for count in square) if square else asked.get("image_size"))
    places = (size[0] // side, size[1] // side) if size else (0, 0)
    if not size or places[0] * places[1] != tokens:
        raise UserError(
            f"the checkpoint has positions for {tokens} patches of {side} pixels: say --position-size HEIGHT "
            "WIDTH of the images that it was trained on."
        )
    layout.fields["image_size"] = tuple(size)
    own = SinCos(layout.table.shape[2], 2, order=(1, 0))(grid(*places))
    fixed = torch.allclose(own, layout.table.float(), atol=SAME)
    layout.fields["positions"] = "sin-cos" if fixed else "learned"
    if fixed:
        return
    new = asked.get("image_size", size)
    for name in layout.parts.keys() & {"encoder", "target"}:
        table = resampled(layout.table[0], places, (new[0] // side, new[1] // side))
        layout.parts[name][TABLE] = table
    asked.pop("position_size", None)


def _config(kind: Any, path: Path, layout: Layout, data: str | None, mean: Any, std: Any) -> dict[str, Any]:
    domain, facts, whose = domains()[kind.domain], dict(layout.facts), layout.statistics
    described = {"samples": 0, "fingerprint": "", "description": "data that the checkpoint does not name"}
    if data is not None:
        samples = open_source(domain, data, reading={**kind.reading(), **facts})
        facts = domain.measure(samples)
        whose = f"measured on {samples.source}"
        described = {
            "samples": len(samples),
            "fingerprint": samples.fingerprint(),
            "description": samples.description,
        }
    channels = layout.facts.get("channels") or len(layout.facts["leads"])
    for name, given in (("mean", mean), ("std", std)):
        if given is not None:
            facts[name] = [float(value) for value in given] * (channels if len(given) == 1 else 1)
            whose = "as given"
        if len(facts.get(name, ())) != channels:
            raise UserError(
                f"the checkpoint reads {channels} channels, and {len(facts.get(name, ()))} values of {name} "
                "are known: give --data of such samples, or --mean and --std."
            )
    return {
        "recipe": kind.name,
        "preset": "paper",
        "fields": recipe_fields(kind),
        "seed": 0,
        "steps": 0,
        "batch_size": kind.batch_size,
        "data": {"source": data, "kind": kind.domain, **described, "facts": _complete(kind, facts)},
        "versions": {"anyjepa": anyjepa.__version__, "torch": str(torch.__version__)},
        "status": "imported",
        "imported": {"file": path.name, "layout": layout.name, "statistics": whose},
    }


def _complete(kind: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """With what else is known of the images that a network takes, where no data was measured."""
    if kind.domain not in ("image", "video") or "height" in facts:
        return facts
    height, width = kind.image_size
    if kind.domain == "video":
        clips = {"clip_frames": kind.frames, "clip_rate": kind.fps, "tubelet": kind.tubelet}
        return {**facts, "dtype": "uint8", "height": height, "width": width, **clips}
    return {**facts, "dtype": "uint8", "height": height, "width": width, "mixed_sizes": False}


def _fill(method: Method, layout: Layout) -> tuple[list[str], list[str]]:
    """Load what there is. Returns our names that begin anew, and the checkpoint's that have no place."""
    parts = layout.parts
    encoders: list[tuple[nn.Module, State]] = [
        (method.get_submodule("encoder"), parts.get("encoder") or parts["target"])
    ]
    target = method.get_submodule("target")
    if isinstance(target, EmaTeacher):
        encoders.append((target.encoder, parts.get("target") or parts["encoder"]))
    for module, state in encoders:
        account = _account(module, state)
        if account:
            raise UserError(f"the checkpoint ({layout.name}) does not fit {'; '.join(account)}.")
        module.load_state_dict(state, strict=False)
    predictor = method.get_submodule("predictor")
    state = parts.get("predictor", {})
    missing, unexpected = [], list(layout.left_out)
    if _account(predictor, state):
        missing += [f"predictor.{name}" for name in predictor.state_dict()]
        unexpected += [f"predictor.{name}" for name in state]
    else:
        predictor.load_state_dict(state)
    return missing, unexpected


def _account(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What does not fit, in words: nothing where all does. Statistics are no part of a checkpoint."""
    own = {name: value for name, value in module.state_dict().items() if name not in STATISTICS}
    reshaped = [
        f"'{name}' {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    told = []
    for words, names in (
        ("it lacks", [f"'{name}'" for name in own if name not in state]),
        ("it has more than is known:", [f"'{name}'" for name in state if name not in own]),
        ("it has other shapes:", reshaped),
    ):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            told.append(f"{words} {', '.join(names[:NAMED])}{more}")
    return told
