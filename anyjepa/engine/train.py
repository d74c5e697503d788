"""Pre-training: one loop for every recipe, on Lightning Fabric."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

import anyjepa
from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.health import Shape
from anyjepa.core.method import Context
from anyjepa.core.transformer import Encoder, Predictor
from anyjepa.domains import Frame, Samples, domains
from anyjepa.engine.beginning import begun_with, fill_from, same_length_and_seed, same_recipe
from anyjepa.engine.checkpoint import newest_checkpoint, restore, save_checkpoint, save_encoder
from anyjepa.engine.files import append_line, explained, read_lines
from anyjepa.engine.journal import Journal
from anyjepa.engine.loading import Steps, batches
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import (
    build_method,
    choose_device,
    open_source,
    read_config,
    recipe_fields,
    recipe_of,
    write_config,
)
from anyjepa.engine.signals import stop_signals
from anyjepa.engine.tracking import tracker
from anyjepa.engine.watch import RECOVERED, Watch
from anyjepa.recipes import Recipe, recipe

Observer = Callable[[dict[str, Any]], str | None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is trained; nothing here changes what is learned, but for the seed and the length."""

    steps: int | None = None  # length of the training in updates, instead of the recipe's epochs
    seed: int | None = None  # of weights, order, crops and masks; 0 where not given
    device: str = "auto"  # auto, cpu, cuda or mps
    precision: str = "auto"  # auto (bf16 on GPUs, fp32 on CPUs) or one of Lightning Fabric's
    workers: int | None = None  # loader processes; as many as help where not given
    compile: bool = False  # compile encoder and predictor with torch.compile
    log_every: int = 20  # steps between logged rows
    checkpoint_every: int | None = None  # steps between checkpoints; every minute where not given
    keep_checkpoints: int = 2  # newest ones that are kept; 0 keeps all, for anyjepa compare --checkpoints
    max_bad_fraction: float = 0.01  # share of damaged samples at which training stops
    log: Literal["none", "wandb", "mlflow"] = "none"  # besides the run's folder: W&B or MLflow
    quiet: bool = False  # show no progress


def train(
    name: str | Recipe,
    data: str | np.ndarray | Frame | None = None,
    out: str | Path | None = None,
    *,
    preset: str = "tiny",
    resume: bool = False,
    init: str | Path | None = None,
    settings: Settings | None = None,
    observe: Observer | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Pre-train an encoder on unlabelled data.

    Args:
        name: a recipe's name, or a recipe.
        data: source; the recipe's example where not given.
        out: the run's folder; ``runs/NAME`` where not given. It must be new unless `resume` is set.
        preset: of the recipe.
        resume: go on with the run in `out` from its newest checkpoint.
        init: a run, imported or trained, whose weights, fields and statistics this one begins with.
        settings: see `Settings`.
        observe: is given each logged row; a sentence that it returns ends the training.
        fields: of the recipe, over the preset's or those of `init`.

    Returns:
        ``run``, ``steps``, ``loss``, ``rankme``, ``samples_per_second``, and ``stopped_by`` (a signal's
        number) or ``ended`` (the observer's sentence) when it was told to stop.

    Raises:
        UserError: a mistake that the message explains.
    """
    settings = settings or Settings()
    asked = name if isinstance(name, Recipe) else recipe(name)
    path = Path(out or Path("runs") / asked.name)
    if resume and (path / "config.yaml").exists():
        config = read_config(path)
        if config.get("status") == "imported":
            raise UserError(f"{path} was imported: train it further with --init {path} and a new --out.")
        kind = same_recipe(asked.name, recipe_of(config), fields)
        same_length_and_seed(settings.steps, settings.seed, config)
        facts = config["data"]["facts"] if config.get("init") else {}
        samples = _open(kind, data if data is not None else config["data"]["source"], settings, facts)
        if samples.fingerprint() != config["data"]["fingerprint"]:
            raise UserError(
                f"the data changed since {path} began: put it back as it was, or start a new run."
            )
    else:
        if (path / "config.yaml").exists():
            raise UserError(f"{path} already holds a run: go on with --resume, or choose another --out.")
        if init is not None:
            kind, facts = begun_with(init, asked, fields)
        else:
            kind, facts = asked if isinstance(asked, Recipe) else asked.preset(preset, **fields), {}
        samples = _open(kind, data if data is not None else kind.example_data, settings, facts)
        config = _new_config(kind, preset, samples, data, settings, facts)
        if init is not None:
            config["init"] = str(Path(init).resolve())
    return _Training(path, config, kind, samples, settings, observe).run()


def _open(
    kind: Recipe, data: str | np.ndarray | Frame | None, settings: Settings, facts: dict[str, Any]
) -> Samples:
    if data is None:
        raise UserError("this run was trained on an array in memory; give the same data again.")
    samples = open_source(domains()[kind.domain], data, reading={**kind.reading(), **facts})
    total = len(samples) + len(samples.problems)
    _limit(samples.problems, total, settings.max_bad_fraction)
    if len(samples) == 0:
        raise UserError(f"there is nothing to train on in {samples.source}.")
    return samples


def _limit(problems: list[BadSample], total: int, fraction: float) -> None:
    damaged = len({problem.identity for problem in problems})
    if damaged > fraction * total:
        raise UserError(
            f"{damaged} of {total} samples are damaged, above the limit of {fraction:.3g} "
            f"(--max-bad-fraction); the first is {problems[0]}."
        )


def _new_config(
    kind: Recipe,
    preset: str,
    samples: Samples,
    data: str | np.ndarray | Frame | None,
    settings: Settings,
    facts: dict[str, Any],
) -> dict[str, Any]:
    batch_size = min(kind.batch_size, len(samples))
    steps = settings.steps or max(1, round(kind.epochs * (len(samples) // batch_size)))
    return {
        "recipe": kind.name,
        "preset": preset,
        "fields": recipe_fields(kind),
        "seed": settings.seed or 0,
        "steps": steps,
        "batch_size": batch_size,
        "data": {
            "source": samples.source if data is None or isinstance(data, str) else None,
            "kind": kind.domain,
            "samples": len(samples),
            "fingerprint": samples.fingerprint(),
            "description": samples.description,
            "facts": facts or domains()[kind.domain].measure(samples, settings.seed or 0),
        },
        "versions": {"anyjepa": anyjepa.__version__, "torch": str(torch.__version__)},
        "status": "training",
    }


class _Training:
    """One process's part in one run, from the first step or the newest checkpoint to the end."""

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        kind: Recipe,
        samples: Samples,
        settings: Settings,
        observe: Observer | None,
    ) -> None:
        self.path, self.config, self.recipe = path, config, kind
        self.observe, self.ended = observe, None
        self.samples, self.settings = samples, settings
        self.steps: int = config["steps"]
        with explained(f"use {path} for the run"):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._set_status("training")
        device = choose_device(settings.device)
        precision: Any = settings.precision
        if precision == "auto":
            precision = "bf16-mixed" if device.type == "cuda" else "32-true"
        self.fabric = Fabric(accelerator=device.type, devices=1, precision=precision)
        self.method = build_method(kind, config["data"]["facts"], config["seed"]).to(device)
        self.optimiser = build_optimiser(self.method, kind)
        checkpoint, complaints = newest_checkpoint(path / "checkpoints")
        if checkpoint:
            restore(checkpoint, self.method, self.optimiser)
        elif config.get("init"):
            fill_from(config["init"], self.method, kind)
        self.start = checkpoint.step if checkpoint else 0
        self.named = {row["sample"] for row in read_lines(path / "skipped.jsonl")}
        before = checkpoint.facts.get("before") if checkpoint else None
        self.watch = Watch(Shape(*before) if before else None)
        told = tracker(settings.log, path, config, settings.quiet)
        self.journal = Journal(path, self.steps, self.start, settings.quiet, told)
        logged = read_lines(path / "metrics.jsonl")
        self.last: dict[str, Any] = logged[-1] if logged else {}
        self._introduce(complaints)

    def _introduce(self, complaints: list[str]) -> None:
        data = self.config["data"]
        for complaint in complaints:
            self.journal.say(complaint, style="yellow")
        if self.config["batch_size"] < self.recipe.batch_size:
            self.journal.say(
                f"a batch is {self.config['batch_size']} samples, all there are, "
                f"not {self.recipe.batch_size}.",
                style="yellow",
            )
        count = sum(p.numel() for p in self.method.backbone.parameters())
        verb = f"going on from step {self.start} of" if self.start else "training for"
        self.journal.say(
            f"{self.recipe.name} on {data['description']}: {verb} {self.steps} steps of "
            f"{self.config['batch_size']}, an encoder of {count:,} parameters, into {self.path}"
        )
        for caution in self.method.cautions(self.steps):
            self.journal.say(caution, style="yellow")
        self._name_damaged(self.samples.problems)

    def run(self) -> dict[str, Any]:
        """Train, save, and say how it went."""
        model, self.optimiser = self.fabric.setup(self.method, self.optimiser)
        model.train()
        if self.settings.compile:
            for part in self.method.modules():
                if isinstance(part, Encoder | Predictor):
                    part.compile()
        try:
            # a step sets torch's global generator for dropout; the caller's is given back
            with torch.random.fork_rng(), stop_signals() as stopped:
                done = self._loop(model, stopped)
        finally:
            self.journal.close()
        return self._finish(done, stopped[0] if stopped else None)

    def _loop(self, model: Any, stopped: list[int]) -> int:
        step, saved, saved_at = self.start, self.start, time.monotonic()
        log = _Log(self.config["batch_size"])
        for batch, problems in self._batches():
            step += 1
            values = schedule(self.recipe, step, self.steps)
            log.add(self._step(model, batch, step, values))
            self._name_damaged(problems)
            if step % self.settings.log_every == 0 or step == self.steps or stopped:
                self._record(log, step, values)
            every = self.settings.checkpoint_every
            due = step - saved >= every if every else time.monotonic() - saved_at > 60
            if due or stopped or self.ended or step == self.steps:
                self._save(step)
                saved, saved_at = step, time.monotonic()
            if stopped or self.ended:
                break
        return step

    def _batches(self) -> Iterator[Any]:
        loader = Steps(self.samples, self.recipe, self.config["batch_size"], self.config["seed"], self.steps)
        self.steps_per_epoch = loader.steps_per_epoch
        workers = self.settings.workers
        if workers is None:
            # decoded data in memory is drawn faster than another process can hand it over
            resident = getattr(self.samples, "array", None) is not None
            workers = 0 if resident else min(8, max(1, torch.get_num_threads() - 1))
        return batches(loader, self.start, workers, pin=self.fabric.device.type == "cuda")

    def _step(
        self, model: Any, batch: dict[str, Tensor], step: int, values: dict[str, float]
    ) -> dict[str, Tensor]:
        device = self.fabric.device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        context = Context(step, self.steps, step_generator(self.config["seed"], step, device))
        apply(self.optimiser, values)
        losses = model(batch, context)
        self.fabric.backward(losses["loss"])
        if self.recipe.gradient_clip:
            self.fabric.clip_gradients(model, self.optimiser, max_norm=self.recipe.gradient_clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.method.after_step(context)
        embedding = losses.pop("embedding", None)
        if embedding is not None:
            self.watch.see(embedding)
        return losses

    def _record(self, log: _Log, step: int, values: dict[str, float]) -> None:
        scheduled = self.method.scheduled(Context(step, self.steps, torch.Generator()))
        row = {"step": step, "epoch": step / self.steps_per_epoch, **log.take(), **values, **scheduled}
        if not np.isfinite(row["loss"]):
            raise _diverged("the loss", step)
        figures, news = self.watch.measure()
        if news:
            self.journal.say(f"step {step}: {news}.", style="green" if news == RECOVERED else "bold red")
            row["warning"] = news
        self.journal.record({**row, **figures})
        self.last = {**row, **figures}
        self.ended = self.observe(self.last) if self.observe else None

    def _name_damaged(self, problems: list[BadSample]) -> None:
        new = [problem for problem in problems if problem.identity not in self.named]
        for problem in new:
            self.named.add(problem.identity)
            append_line(self.path / "skipped.jsonl", {"sample": problem.identity, "reason": problem.reason})
            self.journal.say(f"skipped {problem}", style="yellow")
        if new:
            total = len(self.samples) + len(self.samples.problems)
            bad = [BadSample(name, "see skipped.jsonl") for name in sorted(self.named)]
            _limit([*new, *bad], total, self.settings.max_bad_fraction)

    def _save(self, step: int) -> None:
        finite = torch.stack([parameter.isfinite().all() for parameter in self.method.parameters()])
        if not finite.all():
            raise _diverged("a weight", step)
        facts, keep = {"before": self.watch.before}, self.settings.keep_checkpoints
        save_checkpoint(self.path / "checkpoints", step, self.method, self.optimiser, facts, keep)

    def _finish(self, step: int, stopped_by: int | None) -> dict[str, Any]:
        with explained(f"write the encoder to {self.path} (the checkpoint is intact)"):
            save_encoder(self.method, self.path / "encoder.safetensors")
            self._set_status("finished" if step >= self.steps else "stopped")
        keys = ("loss", "rankme", "rankme_centred", "samples_per_second")
        figures = {key: self.last[key] for key in keys if key in self.last}
        result = {"run": str(self.path), "steps": step, **figures}
        result |= {"ended": self.ended} if self.ended else {}
        return result if stopped_by is None else {**result, "stopped_by": stopped_by}

    def _set_status(self, status: str) -> None:
        self.config["status"] = status
        write_config(self.path, self.config)


def _diverged(what: str, step: int) -> UserError:
    return UserError(
        f"{what} is no longer a number at step {step}; the last checkpoint is intact: try a lower "
        "--learning-rate or --gradient-clip 1."
    )


class _Log:
    """Scalars between two logged rows, kept on the device: reading one would wait for it."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.sums: dict[str, Tensor] = {}
        self.count, self.since = 0, time.perf_counter()

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += 1

    def take(self) -> dict[str, float]:
        """Means since the last call, and the rate."""
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        seconds = (time.perf_counter() - self.since) / self.count
        self.sums, self.count, self.since = {}, 0, time.perf_counter()
        return {**means, "samples_per_second": self.batch_size / seconds, "seconds_per_step": seconds}
