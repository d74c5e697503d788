"""Fine-tuning: the whole encoder and a linear head trained on labels, beside the same from random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.attention import Attention
from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch, Context, Method
from anyjepa.core.schedules import warmup_cosine
from anyjepa.core.transformer import Block, DropPath
from anyjepa.engine.loading import read_many
from anyjepa.engine.randomness import step_generator, uniforms
from anyjepa.engine.run import Run, build_method
from anyjepa.evaluation.answers import Answers, score
from anyjepa.evaluation.attentive import labels_of
from anyjepa.evaluation.labelled import Labelled, ProbeResult
from anyjepa.evaluation.linear import fit_linear, principal_components
from anyjepa.evaluation.sides import Side

LAYER_LISTS = ("blocks", "layers", "stages")
HEAD_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How an encoder is fine-tuned."""

    epochs: float = 20.0  # passes over the labelled samples
    tune_batch_size: int = 64  # samples a step; fewer where there are few samples
    tune_learning_rate: float = 1e-3  # of the head and the last block, at the end of the warm-up
    layer_decay: float = 0.75  # each block learns so much slower than the one above it
    scratch_layer_decay: float = 1.0  # the same for random weights, which have nothing to keep
    tune_weight_decay: float = 0.05  # of AdamW; biases and norms are spared
    warmup: float = 0.1  # share of the steps in which the learning rate rises
    frozen: float = 0.0  # share of the steps in which only tokens, positions and head are trained
    drop_path: float = 0.0  # stochastic depth of the last block, rising from 0; 0 leaves the recipe's own
    unread: float = 0.0  # share of the tokens that each block's attention may not read (A-JEPA: 0.1)
    head_dropout: float = 0.0  # share of the embedding dropped in front of the head
    label_smoothing: float = 0.0  # share of a class label's weight that goes to all classes
    clip: float = 1.0  # largest gradient norm
    augment: bool = True  # train on what the recipe draws, rather than on samples as they are
    patience: int = 6  # passes without a better validation score after which training ends
    regime: Literal["new", "full"] = "new"  # a recipe's own heads: train these alone, or all after 10 epochs
    validation_fraction: float = 0.2  # share of the training samples or groups that the choice is made on

    def check(self) -> None:
        """Raise UserError for values that cannot work."""
        for name in ("epochs", "tune_batch_size", "tune_learning_rate", "patience"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} must be above 0, not {getattr(self, name)}.")
        for name in ("layer_decay", "scratch_layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"--{name.replace('_', '-')} lies between 0 and 1, such as 0.75.")
        for name in ("warmup", "frozen", "drop_path", "unread", "head_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"--{name.replace('_', '-')} is a share from 0 up to 1, not {getattr(self, name)}."
                )


class OverMethod(nn.Module):
    """What is trained on labels over a method's backbone: from a batch to outputs."""

    method: Method


class TunedEncoder(OverMethod):
    """An encoder with a linear head on its embedding, standardised by what it was at the start.

    Args:
        method: whose `embed` is trained.
        mean, scale: of the embeddings of the training samples before the first step, (D,).
        width: outputs.
        dropout: in front of the head.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, method: Method, mean: Tensor, scale: Tensor, width: int, dropout: float) -> None:
        super().__init__()
        self.method, self.dropout, self.head = method, dropout, nn.Linear(len(mean), width)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Float[Tensor, "batch width"]:
        """Outputs."""
        embedding = (self.method.embed(batch).float() - self.mean) / self.scale
        return self.head(functional.dropout(embedding, self.dropout, self.training))

    def train(self, mode: bool = True) -> TunedEncoder:
        """Dropout and stochastic depth act in the part that is trained, and nowhere else in the method."""
        super().train(mode)
        self.method.eval()
        self.method.backbone.train(mode)
        return self


def fine_tune(
    run: Run,
    train: Side,
    test: Side,
    settings: FineTuning | None = None,
    *,
    kind: str = "trained",
    seed: int = 0,
) -> tuple[ProbeResult, TunedEncoder]:
    """Fine-tune an encoder on the training side; its score on the test side, and itself.

    The head begins as the best linear probe of the frozen embedding (Kumar et al. 2022), the encoder as the
    run's (`kind` "trained") or as random weights ("untrained", which is supervised training from scratch). A
    part of the training samples, whole groups where they are known, is held out: after each pass, and before
    the first, it is scored there, and the best state is what counts.

    Args:
        run: whose encoder; it is left as it is.
        train, test: both sides, with features of `kind` that begin the head.
        settings: see `FineTuning`.
        kind: "trained" or "untrained".
        seed: of order, chance and split.

    Raises:
        UserError: labels that cannot be learned, or settings that cannot work.
    """
    settings = settings or FineTuning()
    settings.check()
    data = labels_of(train, test, run.device)
    answers = Answers.of(data)
    parts = data.split(settings.validation_fraction, seed)
    network = _begun(run, kind, train.features[kind].to(run.device), data, answers, parts, settings)
    course = _Course(run, train, data, answers, settings, seed, _size(len(parts[0]), settings))
    decay = settings.layer_decay if kind == "trained" else settings.scratch_layer_decay
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        best = course.run(network, parts, parameter_groups(network, settings, decay))
    outputs = outputs_of(run, network, test)
    chosen = {**best, "learning_rate": settings.tune_learning_rate, "layer_decay": decay}
    return data.result("finetune", answers.said(outputs), chosen), network


def _begun(
    run: Run,
    kind: str,
    features: Tensor,
    data: Labelled,
    answers: Answers,
    parts: tuple[Tensor, Tensor],
    settings: FineTuning,
) -> TunedEncoder:
    """A copy of the encoder with the best linear head of its frozen embedding."""
    method = build_method(run.recipe, run.facts, run.config["seed"])
    if kind == "trained":
        method.load_state_dict(run.method.state_dict())
    method.requires_grad_(False)
    method.backbone.requires_grad_(True)
    _deepen_drop_path(method.backbone, settings.drop_path)
    _unread(method.backbone, settings.unread)
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale = torch.where(scale > 1e-6 * mean.abs().clamp(min=1e-30), scale, torch.ones_like(scale))
    network = TunedEncoder(method.to(run.device), mean, scale, answers.width, settings.head_dropout)
    network.to(run.device)
    known = (features - mean) / scale
    # projections of the origin and the axes say what linear map the projection is
    probes = torch.cat([torch.zeros_like(known[:1]), torch.eye(known.shape[1]).to(known)])
    projected, axes = principal_components(known[parts[0]], probes, 512)
    origin, axes = axes[0], axes[1:] - axes[0]
    labels = data.train_labels[parts[0]]
    if data.kind == "targets":
        labels = (labels - answers.mean) / answers.deviation
    weights = fit_linear(projected, labels, HEAD_STRENGTHS, data.class_count).to(known)
    heads = torch.einsum("pd,sdo->spo", axes, weights[:, :-1])
    biases = torch.einsum("d,sdo->so", origin, weights[:, :-1]) + weights[:, -1]
    outputs = torch.einsum("nd,sdo->sno", known[parts[1]], heads) + biases.unsqueeze(1)
    at = int(score(data, answers, outputs, data.train_labels[parts[1]]).argmax())
    with torch.no_grad():
        network.head.weight.copy_(heads[at].T)
        network.head.bias.copy_(biases[at])
    return network


def _deepen_drop_path(backbone: nn.Module, rate: float) -> None:
    blocks = [module for module in backbone.modules() if isinstance(module, Block)]
    if rate == 0:
        return
    for number, block in enumerate(blocks):
        own = [part for part in (block.drop or ()) if not isinstance(part, DropPath)]
        block.drop = nn.Sequential(*own, DropPath(rate * number / max(1, len(blocks) - 1)))


def _unread(backbone: nn.Module, rate: float) -> None:
    for module in backbone.modules():
        if isinstance(module, Attention):
            module.unread = rate


def _size(samples: int, settings: FineTuning) -> int:
    return max(1, min(settings.tune_batch_size, samples // 8))


def layers_of(backbone: nn.Module) -> tuple[dict[str, int], int]:
    """Number of the layer of each of a backbone's parameters, by name, and how many layers there are.

    Layers are the members of the list called blocks, layers or stages that holds most of the parameters:
    1 for its first. What comes before it, such as tokens and positions, is 0, and what comes after belongs to
    the last. Without such a list, each direct part is a layer.
    """
    lists = {
        name: module for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and name.rpartition(".")[2] in LAYER_LISTS
    }  # fmt: skip
    names = [name for name, _ in backbone.named_parameters()]
    if not lists:
        parts = list(dict.fromkeys(name.split(".")[0] for name in names))
        return {name: parts.index(name.split(".")[0]) for name in names}, max(0, len(parts) - 1)
    # of lists within lists the outermost, which holds all that those within hold
    chosen = max(lists, key=lambda name: sum(p.numel() for p in lists[name].parameters()))
    depth, found, after = len(lists[chosen]), {}, False
    for name in names:
        inside = name.startswith(f"{chosen}.")
        after |= inside
        number = int(name[len(chosen) + 1 :].split(".")[0]) + 1 if inside else depth if after else 0
        found[name] = number
    return found, depth


def parameter_groups(network: TunedEncoder, settings: FineTuning, decay: float) -> list[dict[str, Any]]:
    """A group a layer and kind of parameter: ``scale`` is its share of the learning rate.

    The head and the last block have the whole rate, each layer below `decay` times that of the one above it.
    Matrices decay, vectors do not.
    """
    numbers, depth = layers_of(network.method.backbone)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}

    def add(parameter: nn.Parameter, number: int, block: bool) -> None:
        decayed = parameter.ndim > 1
        group = groups.setdefault(
            (number, decayed),
            {"params": [], "scale": decay ** (depth - number), "block": block,
             "weight_decay": settings.tune_weight_decay if decayed else 0.0},
        )  # fmt: skip
        group["params"].append(parameter)

    for name, parameter in network.method.backbone.named_parameters():
        if parameter.requires_grad:
            add(parameter, numbers[name], numbers[name] > 0)
    for parameter in network.head.parameters():
        decayed = parameter.ndim > 1
        groups.setdefault(
            (depth + 1, decayed),
            {"params": [], "scale": 1.0, "block": False,
             "weight_decay": settings.tune_weight_decay if decayed else 0.0},
        )["params"].append(parameter)  # fmt: skip
    return list(groups.values())


@dataclass
class _Course:
    """One fine-tuning: what is read, in which order, and when it ends."""

    run_of: Run
    side: Side
    data: Labelled
    answers: Answers
    settings: FineTuning
    seed: int
    size: int

    def run(
        self, network: OverMethod, parts: tuple[Tensor, Tensor], groups: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Train, and leave the best state in the network; what was chosen."""
        fit, held_out = (part.cpu().numpy() for part in parts)
        each = max(1, len(fit) // self.size)
        steps = max(1, round(self.settings.epochs * each))
        optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999))
        best = {"validation": self._validation(network, held_out), "passes": 0.0}
        kept = _state(network)
        for step, (batch, rows) in enumerate(self._batches(network, fit, each, steps), 1):
            self._step(network, optimiser, batch, rows, step, steps)
            if step % each == 0 or step == steps:
                found = self._validation(network, held_out)
                if found > best["validation"]:
                    best, kept = {"validation": found, "passes": step / each}, _state(network)
                elif step / each - best["passes"] >= self.settings.patience:
                    break
        network.load_state_dict(kept)
        network.eval()
        return best

    def _step(
        self, network: OverMethod, optimiser: Any, batch: Batch, rows: np.ndarray, step: int, steps: int
    ) -> None:
        settings = self.settings
        share = warmup_cosine(step, steps, round(settings.warmup * steps), 0.0, 1.0, 0.0)
        frozen = step <= settings.frozen * steps
        for group in optimiser.param_groups:
            held = frozen and group["block"]
            group["lr"] = 0.0 if held else settings.tune_learning_rate * group["scale"] * share
        network.train()
        labels = self.data.train_labels[torch.from_numpy(rows).to(self.data.train_labels.device)]
        device = self.run_of.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            outputs = network(batch)
        loss = self.answers.loss(outputs.float(), labels, settings.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimiser.step()

    def _batches(
        self, network: OverMethod, fit: np.ndarray, each: int, steps: int
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        run = self.run_of
        for step in range(steps):
            epoch, place = divmod(step, each)
            order = np.random.default_rng([self.seed, epoch]).permutation(fit)
            rows = order[place * self.size : (place + 1) * self.size]
            source = self.side.rows[rows]
            raw, _ = read_many(self.side.samples, source)
            if not self.settings.augment:
                batch = run.recipe.present(raw)
                yield {name: value.to(run.device) for name, value in batch.items()}, rows
                continue
            batch = run.recipe.draw(raw, uniforms(self.seed, epoch, source))
            batch = {name: value.to(run.device) for name, value in batch.items()}
            torch.manual_seed(self.seed * 1_000_003 + step)  # dropout takes no generator of its own
            context = Context(step + 1, steps, step_generator(self.seed, step + 1, run.device))
            with torch.no_grad():
                batch = network.method.as_trained(batch, context)
            yield batch, rows

    def _validation(self, network: OverMethod, held_out: np.ndarray) -> float:
        outputs = outputs_of(self.run_of, network, self.side.take(held_out))
        index = torch.from_numpy(held_out).to(outputs.device)
        return float(score(self.data, self.answers, outputs[None], self.data.train_labels[index])[0])


def _state(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())


@torch.no_grad()
def outputs_of(run: Run, network: OverMethod, side: Side) -> Float[Tensor, "samples width"]:
    """What the network puts out for samples as they are, nothing dropped out."""
    network.eval()
    return torch.cat([network(batch).float() for _, batch in run.batches(side.samples, side.rows)])
