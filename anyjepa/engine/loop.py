"""The training loop that every recipe goes through, on Lightning Fabric."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.health import Shape
from anyjepa.core.method import Context
from anyjepa.core.processes import share_statistics
from anyjepa.core.transformer import Encoder, Predictor
from anyjepa.domains import Samples
from anyjepa.engine.beginning import fill_from
from anyjepa.engine.checkpoint import newest_checkpoint, restore, save_checkpoint, save_encoder, save_parts
from anyjepa.engine.files import append_line, explained, read_lines
from anyjepa.engine.guard import Guard, diverged
from anyjepa.engine.journal import Journal
from anyjepa.engine.loading import Steps
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method, write_config
from anyjepa.engine.settings import Settings
from anyjepa.engine.shards import is_cut, whole
from anyjepa.engine.signals import StopSignals, Told, stop_signals
from anyjepa.engine.team import Team
from anyjepa.engine.tracking import tracker
from anyjepa.engine.watch import RECOVERED, Watch
from anyjepa.engine.workers import batches
from anyjepa.recipes import Recipe

Observer = Callable[[dict[str, Any]], str | None]


def limit_damage(problems: list[BadSample], total: int, fraction: float) -> None:
    """Raise UserError where more than `fraction` of the samples are damaged."""
    damaged = len({problem.identity for problem in problems})
    if damaged > fraction * total:
        raise UserError(
            f"{damaged} of {total} samples are damaged, above the limit of {fraction:.3g} "
            f"(--max-bad-fraction); the first is {problems[0]}."
        )


class Training:
    """One process's part in one run, from the first step or the newest checkpoint to the end."""

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        kind: Recipe,
        samples: Samples,
        settings: Settings,
        team: Team,
        observe: Observer | None = None,
    ) -> None:
        self.team, self.fabric = team, team.fabric
        self.path, self.config, self.recipe = path, config, kind
        self.observe, self.ended = observe, None
        self.samples, self.settings = samples, settings
        self.steps: int = config["steps"]
        with explained(f"use {path} for the run"):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._set_status("training")
        device = self.fabric.device
        self.method = build_method(kind, config["data"]["facts"], config["seed"]).to(device)
        if team.size > 1:
            share_statistics(self.method)
        # before weights are restored, for it may change their dtype and cut them over the processes
        self.model = self.fabric.setup_module(self.method)
        self.optimiser = build_optimiser(self.method, kind)
        self.stepping: Any = self.fabric.setup_optimizers(self.optimiser)
        self.guard = Guard(self.method, self.optimiser, device)
        checkpoint, complaints = newest_checkpoint(path / "checkpoints")
        if checkpoint:
            restore(checkpoint, self.method, self.optimiser)
        elif config.get("init"):
            fill_from(config["init"], self.method, kind)
        self.start = checkpoint.step if checkpoint else 0
        self.named = {row["sample"] for row in read_lines(path / "skipped.jsonl")}
        before = checkpoint.facts.get("before") if checkpoint else None
        self.watch = Watch(Shape(*before) if before else None)
        told = tracker(settings.log, path, config, settings.quiet) if team.first else None
        self.journal = Journal(path, self.steps, self.start, settings.quiet, team.first, told)
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
        self.model.train()
        if self.settings.compile:
            for part in self.method.modules():
                if isinstance(part, Encoder | Predictor):
                    part.compile()
        try:
            # a step sets torch's global generator for dropout; the caller's is given back
            with torch.random.fork_rng(), stop_signals() as stopped:
                done, told = self._loop(stopped)
        finally:
            self.journal.close()
        return self._finish(done, told)

    def _loop(self, stopped: StopSignals) -> tuple[int, int]:
        """Steps done, and the signal that ended them, or 0."""
        step, saved, saved_at = self.start, self.start, time.monotonic()
        log = _Log(self.config["batch_size"])
        damaged: list[BadSample] = []
        loaded = self._batches(stopped)
        while step < self.steps:
            try:
                batch, problems = next(loaded)
            except Told:
                self._save_early(step, step > saved, log, damaged)
                return step, stopped.number
            step += 1
            values = schedule(self.recipe, step, self.steps)
            heard = self.team.say(stopped.number, int(time.monotonic() - saved_at > 60))
            log.add(*self._step(batch, step, values))
            damaged += problems
            told, late = heard()
            told = told or (stopped.number if self.team.size == 1 else 0)  # alone, without waiting for a word
            every = self.settings.checkpoint_every
            due = step - saved >= (every or (1 if late else self.steps))
            if step % self.settings.log_every == 0 or step == self.steps or told:
                self._name_damaged(self.team.gathered(damaged))
                damaged = []
                self._record(log, step, values)
            elif damaged and self.team.size == 1:
                self._name_damaged(damaged)
                damaged = []
            last = told or self.ended or step == self.steps
            if last or (due and not self.guard.in_doubt(step)):
                self._save(step)
                saved, saved_at = step, time.monotonic()
            if told or self.ended:
                return step, told
        return step, 0

    def _save_early(self, step: int, unsaved: bool, log: _Log, damaged: list[BadSample]) -> None:
        """Save what was done before a wait that a signal ended."""
        self._name_damaged(damaged)
        if log.count:
            self._record(log, step, schedule(self.recipe, step, self.steps))
        if unsaved:
            self._save(step)

    def _batches(self, stopped: StopSignals) -> Iterator[Any]:
        loader = Steps(
            self.samples, self.recipe, self.config["batch_size"], self.config["seed"], self.steps,
            self.settings.patience, (self.team.rank, self.team.size),
        )  # fmt: skip
        self.steps_per_epoch = loader.steps_per_epoch
        workers = self.settings.workers
        if workers is None:
            # decoded data in memory is drawn faster than another process can hand it over
            resident = getattr(self.samples, "array", None) is not None
            workers = 0 if resident else min(8, max(1, torch.get_num_threads() - 1))
        pin = self.fabric.device.type == "cuda"
        loaded = batches(loader, self.start, workers, pin, stopped.waiting)
        return loaded if self.team.size == 1 else self._ahead(loaded, stopped)

    def _ahead(self, loaded: Iterator[Any], stopped: StopSignals) -> Iterator[Any]:
        """The same batches, of which the next is waited for before one is given.

        One of several processes that gave up a wait by itself would leave the others in the middle of a step.
        Holding a batch, it can go that step with them and tell them that there will be no other.
        """
        held = None
        with suppress(Told):
            held = next(loaded, None)
        given_up, number = map(max, zip(*self.team.all_told((held is None, stopped.number)), strict=True))
        if given_up:
            stopped.number = stopped.number or number
            raise Told
        while held is not None:
            following = None
            with suppress(Told):
                following = next(loaded, None)
            yield held
            held = following

    def _step(
        self, batch: dict[str, Tensor], step: int, values: dict[str, float]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Losses, and 1.0 where they are not numbers and the step was left out."""
        device = self.fabric.device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        context = Context(step, self.steps, step_generator(self.config["seed"], step, device))
        apply(self.optimiser, values)
        self.guard.remember()
        losses = self.model(batch, context)
        self.fabric.backward(losses["loss"])
        self.method.before_step(context)
        norm, clip = None, self.recipe.gradient_clip
        if clip:
            norm = self.fabric.clip_gradients(
                self.model, self.stepping, max_norm=clip, error_if_nonfinite=False
            )
        left_out = self.guard.judge(losses["loss"], norm)
        self.stepping.step()
        self.stepping.zero_grad()
        self.method.after_step(context)
        embedding = losses.pop("embedding", None)
        if embedding is not None:
            self.watch.see(embedding)
        return losses, left_out

    def _record(self, log: _Log, step: int, values: dict[str, float]) -> None:
        scheduled = self.method.scheduled(Context(step, self.steps, torch.Generator()))
        measured = self.team.mean(log.take())
        row = {"step": step, "epoch": step / self.steps_per_epoch, **measured, **values, **scheduled}
        self.guard.in_doubt(step)
        left_out = self.guard.count()
        if left_out:
            row["left_out"] = left_out
            self.journal.say(
                f"step {step}: {left_out} of the last steps gave a loss or gradients that are not numbers "
                "and were left out.",
                style="bold red",
            )
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
            if self.team.first:
                row = {"sample": problem.identity, "reason": problem.reason}
                append_line(self.path / "skipped.jsonl", row)
            self.journal.say(f"skipped {problem}", style="yellow")
        if new:
            total = len(self.samples) + len(self.samples.problems)
            bad = [BadSample(name, "see skipped.jsonl") for name in sorted(self.named)]
            limit_damage([*new, *bad], total, self.settings.max_bad_fraction)

    def _save(self, step: int) -> None:
        finite = torch.stack([whole(value.isfinite().all()) for value in self.method.parameters()])
        if not finite.all():
            raise diverged("a weight is no longer a number", step)
        facts, keep = {"before": self.watch.before}, self.settings.keep_checkpoints
        folder = self.path / "checkpoints"
        if is_cut(self.method):
            save_parts(folder, step, self.method, self.optimiser, facts, keep, self.team)
        elif self.team.first:
            save_checkpoint(folder, step, self.method, self.optimiser, facts, keep)

    def _finish(self, step: int, stopped_by: int) -> dict[str, Any]:
        with explained(f"write the encoder to {self.path} (the checkpoint is intact)"):
            save_encoder(self.method, self.path / "encoder.safetensors", self.team.first)
            self._set_status("finished" if step >= self.steps else "stopped")
        self.team.wait()
        keys = ("loss", "rankme", "rankme_centred", "samples_per_second")
        figures = {key: self.last[key] for key in keys if key in self.last}
        result = {"run": str(self.path), "steps": step, **figures}
        result |= {"ended": self.ended} if self.ended else {}
        return {**result, "stopped_by": stopped_by} if stopped_by else result

    def _set_status(self, status: str) -> None:
        self.config["status"] = status
        if self.team.first:
            write_config(self.path, self.config)


class _Log:
    """Scalars between two logged rows, kept on the device: reading one would wait for it."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.sums: dict[str, Tensor] = {}
        self.left_out: Tensor | float = 0.0
        self.count, self.since = 0, time.perf_counter()

    def add(self, losses: dict[str, Tensor], left_out: Tensor) -> None:
        for name, value in losses.items():
            value = torch.where(left_out > 0, 0.0, value.detach())
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.left_out = self.left_out + left_out
        self.count += 1

    def take(self) -> dict[str, float]:
        """Means over the steps since the last call that were not left out, and the rate."""
        counted = self.count - float(self.left_out)
        means = {name: float(value) / counted for name, value in self.sums.items()} if counted else {}
        seconds = (time.perf_counter() - self.since) / self.count
        self.sums, self.left_out, self.count, self.since = {}, 0.0, 0, time.perf_counter()
        return {**means, "samples_per_second": self.batch_size / seconds, "seconds_per_step": seconds}
