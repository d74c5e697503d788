"""Taking the encoder away: one function for every format, each checked against the run on a batch."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from anyjepa.core.errors import UserError, nearest, require
from anyjepa.core.method import Batch, Method
from anyjepa.domains.image_patches import ImagePatches
from anyjepa.domains.video_tubelets import Tubelets
from anyjepa.engine.card import write_card
from anyjepa.engine.checkpoint import checkpoints
from anyjepa.engine.files import explained, write_whole
from anyjepa.engine.portable import (
    Output,
    embedded,
    example,
    largest_difference,
    write_onnx,
    write_torch_export,
    write_torchscript,
)
from anyjepa.engine.run import Run, load, load_encoder_file
from anyjepa.engine.video_layouts import video_parts, write_transformers_video
from anyjepa.engine.vision_layouts import sizes, timm_state, timm_tokens, vision_encoder, write_transformers

FORMATS = {
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "torchscript": "model.torchscript",
    "torch-export": "model.pt2",
    "transformers": "",
    "timm": "model.safetensors",
}
"""The formats, and what the file is called in a folder; a transformers folder has its own names."""

GRAPHS = ("onnx", "torchscript", "torch-export")

Measured = dict[str, Any]


def export(
    run: Run | str | Path,
    format: str = "safetensors",
    out: str | Path | None = None,
    *,
    output: Output = "embedding",
) -> dict[str, Any]:
    """Write the encoder for other tools, with a model card, and compare what it gives with the run itself.

    ``safetensors`` is one file: the weights under our names, the statistics of the data among them, and in
    its metadata the recipe with every field, so that ``anyjepa.load(file)`` needs nothing else. ``onnx``,
    ``torchscript`` and ``torch-export`` are graphs from a batch of any size, in the data's own units, to
    embeddings. ``transformers`` is a folder for ``AutoModel.from_pretrained``, ``timm`` a state dict for the
    network that the call in ``create_model`` makes: both of vision transformers only, and of V-JEPA with the
    released rotary positions a ``VJEPA2Model`` folder.

    Args:
        run: a run or its folder.
        format: one of `FORMATS`.
        out: a file, or a folder where it has no ending; ``exports/FORMAT`` in the run where not given.
            ``README.md`` beside the file is the card, unless one is there that we did not write: then the
            card bears the file's name.
        output: what a graph gives: ``embedding``, ``tokens`` before they are pooled, or the ``actions`` of
            a policy, in the data's own units.

    Returns:
        ``out``, ``format``, ``max_difference`` (largest absolute difference on one batch), ``card``, and for
        timm ``create_model``.

    Raises:
        UserError: no such format, a network that has no form in it, a missing library or a full disk.
    """
    run = run if isinstance(run, Run) else load(run)
    if format not in FORMATS:
        raise UserError(
            f"there is no export format '{format}' (there are: {', '.join(FORMATS)})."
            f"{nearest(format, FORMATS)}"
        )
    if output == "actions":
        if type(run.method).act is Method.act:
            raise UserError(f"{run.recipe.name} gives no actions: --output embedding or tokens.")
        if format not in GRAPHS:
            raise UserError(f"{format} holds no actions: take --format {', '.join(GRAPHS)}.")
        if run.path.is_file() or not checkpoints(run.path / "checkpoints"):
            raise UserError(f"{run.path} holds the encoder alone, without its actions: name a run's folder.")
    home = run.path if run.path.is_dir() else run.path.parent
    out = Path(out or home / "exports" / format)
    if format == "transformers" and (out.is_file() or out.suffix in (".safetensors", ".bin", ".pt")):
        raise UserError(f"transformers reads a folder: name one with --out, not the file {out}.")
    if format != "transformers" and not out.suffix:
        out = out / FORMATS[format]
    with explained(f"write {out}"):
        (out if format == "transformers" else out.parent).mkdir(parents=True, exist_ok=True)
    measured = WRITERS[format](run, out, output)
    card = write_card(run, out, format, measured, output)
    return {"out": str(out), "format": format, **measured, "card": str(card)}


def _write_safetensors(run: Run, out: Path, _output: Output) -> Measured:
    tensors = {name: value.cpu().contiguous() for name, value in run.method.backbone.state_dict().items()}
    card = {key: run.config[key] for key in ("recipe", "preset", "fields", "seed", "steps", "versions")}
    card["data"] = {key: value for key, value in run.config["data"].items() if key != "source"}
    with explained(f"write {out}"):
        write_whole(out, save(tensors, metadata={"format": "pt", "anyjepa": json.dumps(card)}))
    again = load_encoder_file(out, "cpu")
    return {"max_difference": largest_difference(embedded(run), embedded(again), example(run))}


def _write_graph(write: Callable[[Run, Path, Output], float]) -> Callable[[Run, Path, Output], Measured]:
    return lambda run, out, output: {"max_difference": write(run, out, output)}


def _write_timm(run: Run, out: Path, _output: Output) -> Measured:
    state, call = timm_state(run)
    with explained(f"write {out}"):
        write_whole(out, save(state, metadata={"format": "pt", "create_model": call}))
    encoder = vision_encoder(run, "timm")
    (heads, _), state = sizes(encoder), load_file(out)

    def given(batch: Batch) -> Tensor:
        with torch.inference_mode():
            return timm_tokens(state, _pixels(encoder.tokenizer, batch), heads)

    difference = largest_difference(embedded(run, "tokens"), given, example(run))
    return {"max_difference": difference, "create_model": call}


def _write_transformers(run: Run, out: Path, _output: Output) -> Measured:
    video = run.domain.name == "video"
    encoder = video_parts(run)[0] if video else vision_encoder(run, "transformers")
    library = require("transformers", "backbones")
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        with explained(f"write {out}"):
            (write_transformers_video if video else write_transformers)(run, folder)
            for file in sorted(folder.iterdir()):
                os.replace(file, out / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    model = library.AutoModel.from_pretrained(out, local_files_only=True).eval()

    def given(batch: Batch) -> Tensor:
        with torch.inference_mode():
            if video:
                # frames come before channels there
                clips = _pixels(encoder.tokenizer, batch).transpose(1, 2)
                return model(pixel_values_videos=clips, skip_predictor=True).last_hidden_state
            return model(pixel_values=_pixels(encoder.tokenizer, batch)).last_hidden_state

    return {"max_difference": largest_difference(embedded(run, "tokens"), given, example(run))}


def _pixels(tokenizer: Any, batch: Batch) -> Tensor:
    """Images or clips as other libraries take them: standardised before the network, not in it."""
    assert isinstance(tokenizer, ImagePatches | Tubelets)
    raw = batch["video" if isinstance(tokenizer, Tubelets) else "image"]
    return (raw.float() - tokenizer.mean.cpu()) / tokenizer.std.cpu()


WRITERS: dict[str, Callable[[Run, Path, Output], Measured]] = {
    "safetensors": _write_safetensors,
    "onnx": _write_graph(write_onnx),
    "torchscript": _write_graph(write_torchscript),
    "torch-export": _write_graph(write_torch_export),
    "transformers": _write_transformers,
    "timm": _write_timm,
}
