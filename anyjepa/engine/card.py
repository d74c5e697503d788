"""The model card: what an exported encoder is, in the Hugging Face hub's format."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import yaml

from anyjepa import __version__
from anyjepa.core.errors import visible
from anyjepa.engine.files import explained, write_whole
from anyjepa.engine.portable import describe
from anyjepa.engine.run import Run

MARK = "library_name: anyjepa"  # by which a card of ours is told from a page of yours
TASKS = {"image": "image-feature-extraction", "video": "video-classification"}
HEALTH = (
    "rankme",
    "rankme_centred",
    "lidar",
    "alpha_req",
    "stable_rank",
    "participation_ratio",
    "uniformity",
)


def write_card(run: Run, out: Path, format: str, measured: dict[str, Any], output: str = "embedding") -> Path:
    """Write the card of an export beside its file, or into its folder, and return its path.

    A ``README.md`` that we did not write stays as it is; the card then bears the file's name.
    """
    folder = out if out.is_dir() else out.parent
    card = folder / "README.md"
    if card.exists() and MARK not in card.read_text(errors="replace")[:2000]:
        card = folder / f"{out.name}.README.md"
    text = model_card(run, out.name if out.is_file() else "", format, measured, output)
    with explained(f"write {card}"):
        write_whole(card, text.encode())
    return card


def model_card(
    run: Run, file: str, format: str, measured: dict[str, Any], output: str = "embedding", repo: str = ""
) -> str:
    """The card's text: YAML for the hub, then what a person wants to know.

    Args:
        run: what is exported.
        file: name of the exported file; empty for a folder.
        format: of the export.
        measured: ``max_difference`` and, for timm, ``create_model``.
        output: of a graph.
        repo: on the hub, where it is to lie there.
    """
    config, scores = run.config, _scores(run)
    head = {
        "library_name": "anyjepa",
        "tags": ["anyjepa", "jepa", "self-supervised-learning", run.recipe.name],
        "pipeline_tag": TASKS.get(run.recipe.domain, "feature-extraction"),
    }
    if scores:
        head["model-index"] = [
            {"name": repo or run.path.name, "results": [_hub_result(row) for row in scores]}
        ]
    parts = [
        "---\n" + yaml.safe_dump(head, sort_keys=False, allow_unicode=True) + "---\n",
        f"# {_cell(repo or run.path.name)}\n",
        _what(run),
        "## Load it\n\n" + _code(run, file, format, measured, output, repo),
        _figures(run, scores),
        _data(config),
        "## Recipe\n\n" + _table(("field", "value"), config["fields"].items()),
        "## How it was made\n\n" + _table(("what", "value"), _made(run, format, measured)),
    ]
    return "\n".join(part for part in parts if part)


def _what(run: Run) -> str:
    count = sum(parameter.numel() for parameter in run.method.backbone.parameters())
    paper = run.recipe.paper.removeprefix("arXiv:")
    link = f"[{run.recipe.paper}](https://arxiv.org/abs/{paper})" if paper != run.recipe.paper else paper
    if run.config["status"] == "imported":
        how = f"imported from a published checkpoint of {run.recipe.name} ({link})"
    else:
        how = f"pre-trained without labels by {run.recipe.name} ({link}) for {run.config['steps']:,} steps"
    return f"An encoder of {run.recipe.domain} data, {count:,} parameters, {how}.\n"


def _code(run: Run, file: str, format: str, measured: dict[str, Any], output: str, repo: str) -> str:
    inputs = describe(run)
    named = ", ".join(f"`{row['name']}` {row['shape']} {row['type']}" for row in inputs)
    units = f"Inputs, in the data's own units: {named}. Output: `{output}`.\n"
    if format == "safetensors":
        where = f'hf_hub_download("{repo}", "{file}")' if repo else f'"{file}"'
        hub = "from huggingface_hub import hf_hub_download\n\n" if repo else ""
        lines = f'{hub}import anyjepa\n\nencoder = anyjepa.load({where})\nencoder.embed(encoder.open("DATA"))'
        units = ""
    elif format == "onnx":
        feeds = ", ".join(f'"{row["name"]}": {row["name"]}' for row in inputs)
        lines = (
            f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")\n'
            f"(vectors,) = session.run(None, {{{feeds}}})"
        )
    elif format in ("torchscript", "torch-export"):
        loaded = (
            f'torch.jit.load("{file}")'
            if format == "torchscript"
            else f'torch.export.load("{file}").module()'
        )
        given = ", ".join(row["name"] for row in inputs)
        lines = f"import torch\n\nencoder = {loaded}\nvectors = encoder({given})"
    elif format == "timm":
        lines = (
            f"import timm\nfrom safetensors.torch import load_file\n\nmodel = {measured['create_model']}\n"
            f'model.load_state_dict(load_file("{file}"))\ntokens = model.forward_features(pixels)'
        )
        units = f"`pixels` are standardised images: {_statistics(run)}\n"
    else:
        where, kind = repo or "FOLDER", "Video" if run.domain.name == "video" else "Image"
        lines = (
            f"from transformers import Auto{kind}Processor, AutoModel\n\n"
            f'processor = Auto{kind}Processor.from_pretrained("{where}")\n'
            f'model = AutoModel.from_pretrained("{where}")\n'
            f'tokens = model(**processor({kind.lower()}, return_tensors="pt")).last_hidden_state\n'
            "vector = tokens.mean(1)"
        )
        units = ""
    return f"```python\n{lines}\n```\n\n{units}"


def _statistics(run: Run) -> str:
    mean, std = ([round(value, 4) for value in run.facts[key]] for key in ("mean", "std"))
    return f"values less {mean}, divided by {std}, channel by channel."


def _figures(run: Run, scores: list[dict[str, Any]]) -> str:
    parts = []
    if scores:
        rows = [
            (row["probe"], row["metric"], _interval(row), _figure(row.get("untrained")),
             _figure(row.get("raw")), _named(row))
            for row in scores
        ]  # fmt: skip
        header = ("probe", "metric", "trained (95 % interval)", "untrained", "raw input", "data")
        parts.append("Frozen embeddings on labelled data, each figure beside the same network before "
                     "training and the raw input:\n\n" + _table(header, rows))  # fmt: skip
    health = _health(run)
    if health:
        parts.append("Health, measured without labels:\n\n" + _table(("measure", "value"), health.items()))
    return "## Figures\n\n" + "\n".join(parts) if parts else ""


def _health(run: Run) -> dict[str, Any]:
    """What the run measured last of its embeddings; absent where it measured nothing."""
    rows = run.metrics()
    found = {}
    for row in rows:
        found |= {name: row[name] for name in HEALTH if name in row}
    return {name: _figure(value) for name, value in found.items()}


def _interval(row: dict[str, Any]) -> str:
    return f"**{row['value']:.3f}** ({row['low']:.3f} to {row['high']:.3f})"


def _figure(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ("" if value is None else str(value))


def _scores(run: Run) -> list[dict[str, Any]]:
    """The last result of each probe and metric on each data set."""
    found = {}
    for row in run.results():
        if {"probe", "metric", "value", "low", "high"} <= row.keys():
            found[row["probe"], row["metric"], row.get("data")] = row
    return list(found.values())


def _named(row: dict[str, Any]) -> str:
    """The data set's own name: where it lies on somebody's disk is nobody's business."""
    return Path(row["data"]).name if row.get("data") else ""


def _hub_result(row: dict[str, Any]) -> dict[str, Any]:
    data = _named(row) or "unnamed"
    return {
        "task": {"type": "feature-extraction", "name": f"{row['probe']} probe on frozen embeddings"},
        "dataset": {"name": data, "type": data},
        "metrics": [{"type": row["metric"], "value": row["value"], "name": row["metric"]}],
    }


def _data(config: dict[str, Any]) -> str:
    data = config["data"]
    rows = [
        ("samples", f"{data['samples']:,}" if data.get("samples") else ""),
        ("description", data.get("description") or ""),
        ("fingerprint", f"`{data['fingerprint']}`" if data.get("fingerprint") else ""),
        ("measured", "`" + _short(json.dumps(data["facts"])) + "`"),
    ]
    return "## Data\n\n" + _table(("what", "value"), [row for row in rows if row[1]])


def _short(text: str, most: int = 600) -> str:
    return text if len(text) <= most else text[:most] + " ..."


def _made(run: Run, format: str, measured: dict[str, Any]) -> list[tuple[str, Any]]:
    versions = ", ".join(f"{name} {version}" for name, version in run.config["versions"].items())
    return [
        ("preset", run.config["preset"]),
        ("seed", run.config["seed"]),
        ("trained with", versions),
        ("exported with", f"anyjepa {__version__}, as {format}"),
        ("largest difference to the run, on a batch", f"{measured['max_difference']:.2g}"),
    ]


def _cell(text: str) -> str:
    """Text of a table's cell, which may be in the marks of code: nothing in it is Markdown or HTML."""
    text = visible(text.replace("\n", " ")).replace("|", "\\|")
    if len(text) > 1 and text[0] == text[-1] == "`":
        return "`" + text[1:-1].replace("`", "'") + "`"
    return html.escape(text, quote=False)


def _table(header: tuple[str, ...], rows: Any) -> str:
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(_cell(str(cell)) for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)
