"""A run on disk: its settings, its encoder, and using it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.method import Batch, Method
from anyjepa.domains import Domain, Frame, Samples, domains
from anyjepa.domains.label_files import labels_from_file
from anyjepa.domains.packs import PackedSamples, required_pack
from anyjepa.engine.checkpoint import load_strictly, newest_checkpoint, restore
from anyjepa.engine.files import read_lines, write_whole
from anyjepa.engine.folder import read_config
from anyjepa.engine.patience import PATIENCE, time_limit
from anyjepa.recipes import Recipe, recipe


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write ``config.yaml`` whole."""
    write_whole(path / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())


def recipe_fields(kind: Recipe) -> dict[str, Any]:
    """Every field of a recipe as plain YAML values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(kind).items()}


def recipe_of(config: dict[str, Any]) -> Recipe:
    """The recipe a config describes, every field as it was."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config["fields"].items()}
    return recipe(config["recipe"]).preset("paper", **fields)


def build_method(kind: Recipe, facts: dict[str, Any], seed: int) -> Method:
    """The recipe's method with fresh weights that depend on the seed only."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind.method(facts)


def open_source(
    domain: Domain,
    source: str | np.ndarray | Frame,
    labels: str | None = None,
    split: str | None = None,
    reading: dict[str, Any] | None = None,
) -> Samples:
    """`Domain.open`, which only some kinds of data can do with a data frame."""
    if not isinstance(source, str | np.ndarray) and not domain.reads_frames:
        raise UserError(
            f"{domain.name} data is no {type(source).__name__}: give a path, a name or an array of samples."
        )
    if isinstance(source, str) and source.startswith("wds:") and not domain.reads_shards:
        samples = PackedSamples(source, required_pack(source, split, domain.name))
        if labels is not None:
            names = [samples.identity(index) for index in range(len(samples))]
            samples.labels, samples.classes = labels_from_file(labels, names)
        return samples
    return domain.open(source, labels, split, reading)  # pyright: ignore[reportArgumentType]


@dataclass
class Run:
    """A trained encoder with its settings.

    Args:
        path: the run's folder.
        config: of ``config.yaml``.
        recipe: with every field as it was trained.
        domain: the kind of data.
        method: in evaluation mode, on `device`.
        device: where it computes.
        problems: samples that could not be read so far.
    """

    path: Path
    config: dict[str, Any]
    recipe: Recipe
    domain: Domain
    method: Method
    device: torch.device
    problems: list[BadSample] = dataclasses.field(default_factory=list)

    def open(
        self,
        source: str | np.ndarray | Frame | None = None,
        labels: str | None = None,
        split: str | None = None,
        dense: str | None = None,
    ) -> Samples:
        """Samples of a source; of the data it was trained on where none is given.

        ``dense`` names labels of parts: a folder of masks for images, a column or array for points.
        """
        if source is None:
            source = self.config["data"]["source"]
            if source is None and "imported" in self.config:
                raise UserError("this run was imported and knows no data of its own; name some with --data.")
            if source is None:
                raise UserError("this run was trained on an array in memory; name the data with --data.")
        reading = self.reading() if dense is None else {**self.reading(), "dense": dense}
        return open_source(self.domain, source, labels, split, reading)

    @property
    def facts(self) -> dict[str, Any]:
        """What was measured of the training data (`Domain.measure`)."""
        return self.config["data"]["facts"]

    def reading(self) -> dict[str, Any]:
        """How the training data was read, which other data must be read alike."""
        return {**self.recipe.reading(), **self.facts}

    def batches(
        self, samples: Samples | np.ndarray, indices: np.ndarray | None = None, batch_size: int = 256
    ) -> Iterator[tuple[np.ndarray, Batch]]:
        """Batches for use, on the device, with the indices of their samples; damaged ones left out."""
        if isinstance(samples, np.ndarray):
            samples = self.domain.open(samples, reading=self.reading())
        opened = samples
        indices = np.arange(len(opened)) if indices is None else indices
        for start in range(0, len(indices), batch_size):
            raw, kept = [], []
            for index in indices[start : start + batch_size]:
                try:
                    with time_limit(PATIENCE, opened, int(index)):
                        raw.append(opened.read(int(index)))
                    kept.append(index)
                except BadSample as problem:
                    self.problems.append(problem)
            if kept:
                batch = self.recipe.present(raw)
                yield np.array(kept), {name: value.to(self.device) for name, value in batch.items()}

    @torch.inference_mode()
    def embed(
        self, samples: Samples | np.ndarray, batch_size: int = 256, indices: np.ndarray | None = None
    ) -> Float[Tensor, "samples dim"]:
        """One vector a sample, float32, on the CPU, in their order; damaged ones left out (`problems`)."""
        parts = [
            self.method.embed(batch).float().cpu() for _, batch in self.batches(samples, indices, batch_size)
        ]
        if not parts:
            raise UserError("none of these samples can be read, so there is nothing to embed.")
        return torch.cat(parts)

    def untrained(self) -> Run:
        """The same recipe and data statistics with the weights training began from."""
        method = build_method(self.recipe, self.config["data"]["facts"], self.config["seed"])
        return dataclasses.replace(self, method=method.eval().to(self.device), problems=[])

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of ``metrics.jsonl``."""
        return read_lines(self.path / "metrics.jsonl")

    def results(self) -> list[dict[str, Any]]:
        """Rows of ``evaluations.jsonl``."""
        return read_lines(self.path / "evaluations.jsonl")


def load(path: Path | str, device: str = "auto") -> Run:
    """A run by its folder, ready to embed.

    A finished run gives the weights of ``encoder.safetensors``, everything else what the newest checkpoint
    holds, where there is one.

    Args:
        path: the run's folder, or a file that ``anyjepa export --format safetensors`` wrote.
        device: auto, cpu, cuda or mps.

    Raises:
        UserError: the folder is no run, or it has neither an encoder nor a checkpoint.
    """
    path, where = Path(path), choose_device(device)
    if path.is_file():
        return load_encoder_file(path, device)
    config = read_config(path)
    kind = recipe_of(config)
    method = build_method(kind, config["data"]["facts"], config["seed"])
    checkpoint, _ = newest_checkpoint(path / "checkpoints")
    encoder = path / "encoder.safetensors"
    if checkpoint:
        restore(checkpoint, method)
    elif not encoder.is_file():
        raise UserError(f"{path} has no encoder yet: train it first, or go on with --resume.")
    if encoder.is_file():
        load_strictly(method.backbone, load_file(encoder))
    return Run(path, config, kind, domains()[kind.domain], method.eval().to(where), where)


def load_encoder_file(path: Path, device: str = "auto") -> Run:
    """A run from one safetensors file that carries its own settings.

    Raises:
        UserError: the file is not such a one.
    """
    where = choose_device(device)
    try:
        with safe_open(path, framework="pt") as file:
            card = (file.metadata() or {}).get("anyjepa")
    except (SafetensorError, OSError) as problem:
        raise UserError(f"{path} is not a safetensors file ({problem}).") from problem
    if card is None:
        raise UserError(
            f"{path} was not written by `anyjepa export`: it does not say which recipe it belongs to."
        )
    config = json.loads(card)
    config["data"]["source"] = None
    kind = recipe_of(config)
    method = build_method(kind, config["data"]["facts"], config["seed"])
    load_strictly(method.backbone, load_file(path))
    return Run(path, config, kind, domains()[kind.domain], method.eval().to(where), where)


def choose_device(device: str) -> torch.device:
    """``auto`` is the accelerator where there is one, else the CPU."""
    if device != "auto":
        try:
            return torch.device(device)
        except RuntimeError as problem:
            raise UserError(f"there is no device '{device}': use auto, cpu, cuda or mps.") from problem
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")
