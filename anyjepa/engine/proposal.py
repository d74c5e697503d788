"""From what was found in a source to the training that is proposed for it."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyjepa.core.errors import UserError
from anyjepa.domains import Domain, Samples
from anyjepa.recipes import Recipe, flag, recipe, recipes_of

FEWEST_STEPS = 300  # of a training that is worth its name
BATCHES_AN_EPOCH = 4  # at least, if need be of fewer samples each
MINUTES = 30.0
STEPS_ROUNDED = 10


@dataclass(frozen=True)
class Proposal:
    """A training for one source.

    Args:
        kind: the recipe with every field as proposed.
        preset: its name.
        fields: that differ from the preset's.
        samples: the source, read as the recipe asks.
        facts: measured of it.
        max_bad_fraction: share of damaged samples that must be allowed.
    """

    kind: Recipe
    preset: str
    fields: dict[str, Any]
    samples: Samples
    facts: dict[str, Any]
    max_bad_fraction: float

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one pass over the samples."""
        return max(1, len(self.samples) // self.kind.batch_size)

    def steps(self, seconds_per_step: float | None, minutes: float = MINUTES) -> int:
        """Length of the training: the preset's epochs, 300 updates at least, no longer than `minutes`."""
        wanted = max(FEWEST_STEPS, round(self.kind.epochs * self.steps_per_epoch))
        if seconds_per_step and wanted * seconds_per_step > 60 * minutes:
            wanted = int(60 * minutes / seconds_per_step)
        return max(STEPS_ROUNDED, wanted // STEPS_ROUNDED * STEPS_ROUNDED)

    def command(self, source: str, steps: int) -> str:
        """The line to paste."""
        words = ["anyjepa", "train", self.kind.name, "--data", source, "--out", _new_run(source)]
        words += ["--preset", self.preset, "--batch-size", str(self.kind.batch_size), "--steps", str(steps)]
        for name, value in self.fields.items():
            if name != "batch_size":
                words += [flag(name), *map(str, value if isinstance(value, tuple) else (value,))]
        if self.max_bad_fraction > 0:
            words += ["--max-bad-fraction", f"{self.max_bad_fraction:g}"]
        return shlex.join(words)


def recipes_for(domain: Domain) -> list[type[Recipe]]:
    """The recipes that read a kind of data, the one to propose first."""
    return recipes_of(domain.name)


def propose(
    domain: Domain,
    source: str,
    samples: Samples,
    damaged: int,
    name: str | None = None,
    labels: str | None = None,
) -> Proposal:
    """The training for a source.

    Args:
        domain: its kind of data.
        source: as typed.
        samples: opened as the first recipe of that kind asks.
        damaged: of them.
        name: of the recipe; the first that reads such data where None.
        labels: as of `Domain.open`.

    Raises:
        UserError: no recipe reads such data, or the one that is named does not; or its values cannot work.
    """
    chosen = _chosen(domain, name)
    asked = chosen.preset("tiny")
    samples = samples if name is None else domain.open(source, labels, reading=asked.reading())
    facts = domain.measure(samples)
    fields = dict(chosen.advice(samples, facts))
    preset = fields.pop("preset", "tiny")
    if fields or preset != "tiny":
        read = asked.reading()
        asked = chosen.preset(preset, **fields)
        if asked.reading() != read:
            samples = domain.open(source, labels, reading=asked.reading())
            facts = domain.measure(samples)
    batch = _batch(asked.batch_size, len(samples))
    if batch != asked.batch_size:
        fields["batch_size"] = batch
        asked = dataclasses.replace(asked, batch_size=batch)
    total = len(samples) + len(samples.problems)
    share = damaged / max(1, total)
    # a little room: those that a sample of the set did not show
    allowed = 0.0 if share <= 0.005 else round(min(1.0, 1.5 * share + 0.005), 3)
    return Proposal(asked, preset, fields, samples, facts, allowed)


def _chosen(domain: Domain, name: str | None) -> type[Recipe]:
    if name is not None:
        if recipe(name).domain != domain.name:
            raise UserError(f"{name} reads {recipe(name).domain} data, and this is {domain.name} data.")
        return recipe(name)
    known = recipes_for(domain)
    if not known:
        raise UserError(f"there is no recipe for {domain.name} data yet.")
    return known[0]


def _batch(wanted: int, count: int) -> int:
    """As many as wanted, or the largest power of two that leaves some batches an epoch."""
    if count >= BATCHES_AN_EPOCH * wanted:
        return wanted
    most = max(1, count // BATCHES_AN_EPOCH)
    return min(wanted, count, max(2, 1 << (most.bit_length() - 1)))


def _new_run(source: str) -> str:
    """``runs/NAME`` that is not there yet."""
    last = Path(
        source.partition(":")[2] if source.startswith(("wds:", "hf:", "hf-stream:")) else source
    ).expanduser()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last.resolve().name if os.path.exists(last) else last.name)
    name = name.split(".")[0].strip("-") or "run"
    number, found = 2, f"runs/{name}"
    while os.path.exists(found):
        found, number = f"runs/{name}-{number}", number + 1
    return found
