"""Recipes: one paper, one file. A recipe is a frozen dataclass of the paper's numbers that joins parts."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from anyjepa.core.errors import UserError, nearest
from anyjepa.core.method import Batch, Method
from anyjepa.core.schedules import warmup_cosine
from anyjepa.domains import Samples


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """One method with its numbers. Every field is a flag of ``anyjepa train``; its comment is the help.

    A recipe names its paper and domain, lists presets (``paper`` holds the published numbers and so is
    empty, ``tiny`` trains in a minute or two on two CPU cores), and says how a training sample is drawn.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    domain: ClassVar[str]
    example_data: ClassVar[str]
    presets: ClassVar[dict[str, dict[str, Any]]]
    proposed: ClassVar[bool] = False
    """Whether `anyjepa look` proposes it before others that read the same kind of data."""
    downstream: ClassVar[tuple[str, ...]] = ()
    """Heads of the paper's own that `anyjepa evaluate --probe` trains (`Method.head`)."""

    epochs: float = 300.0  # passes over the data
    batch_size: int = 2048  # samples a step, over all processes
    start_learning_rate: float = 2e-4  # at the first step
    learning_rate: float = 1e-3  # at the end of the warm-up
    final_learning_rate: float = 1e-6  # at the last step
    warmup_epochs: float = 40.0  # epochs in which the learning rate rises
    weight_decay: float = 0.04  # of AdamW at the first step
    final_weight_decay: float = 0.4  # of AdamW at the last step
    decay: Literal["matrices", "layers", "all"] = "matrices"  # what decays: no vectors, layers' weights, all
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW: how slowly its two averages of gradients forget
    epsilon: float = 1e-8  # of AdamW, added to the denominator
    gradient_clip: float = 0.0  # largest gradient norm; 0 for no clipping

    @abstractmethod
    def method(self, facts: dict[str, Any]) -> Method:
        """Join the parts, for data of which `facts` were measured (`Domain.measure`)."""

    def reading(self) -> dict[str, Any]:
        """What the recipe asks of how its data is read (`Domain.open`): a sampling rate, columns, points."""
        return {}

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """What data asks for over the preset ``tiny``: fields by name, and ``preset`` for another one."""
        return {}

    @abstractmethod
    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """A training batch of raw samples; row i of `uniforms` (n, 16) in [0, 1) is sample i's chance."""

    @abstractmethod
    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """A batch of raw samples for use: nothing random."""

    def planned(self, steps: int) -> int:
        """Steps that the schedules are planned for, in a training of `steps`: some papers stop earlier."""
        return steps

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Learning rate of update `step` (from 1) of `steps`: a linear rise, then half a cosine down.

        The warm-up keeps its share of the training when the number of steps is not what the epochs give.
        """
        warmup = round(steps * self.warmup_epochs / self.epochs)
        return warmup_cosine(
            step, self.planned(steps), warmup, self.start_learning_rate, self.learning_rate,
            self.final_learning_rate,
        )  # fmt: skip

    @classmethod
    def inherited(cls, other: Recipe) -> dict[str, Any] | None:
        """Fields for a run that begins with the encoder of a run of `other`; None where none can."""
        return None

    def check(self) -> None:
        """Raise UserError for values that cannot work; a recipe adds its own."""
        for name in ("epochs", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} must be above 0, not {getattr(self, name)}.")
        if self.warmup_epochs > self.epochs:
            raise UserError(
                f"--warmup-epochs {self.warmup_epochs:g} is longer than the whole training of "
                f"{self.epochs:g} epochs: shorten it or train longer."
            )

    def check_heads(self, *parts: str) -> None:
        """Raise UserError where the width of a part, such as ``predictor_``, does not divide into its heads.

        The part ``""`` is the encoder: ``width`` and ``heads``.
        """
        for part in parts:
            width, heads, words = getattr(self, part + "width"), getattr(self, part + "heads"), flag(part)
            if width % heads:
                raise UserError(f"{words}width {width} does not divide into {words}heads {heads}.")

    @classmethod
    def preset(cls, preset: str, **fields: Any) -> Recipe:
        """The recipe with a preset's values, then `fields`; unknown names suggest the nearest."""
        if preset not in cls.presets:
            known = ", ".join(cls.presets)
            raise UserError(
                f"{cls.name} has no preset '{preset}' (it has {known}).{nearest(preset, cls.presets)}"
            )
        cls.known(fields)
        recipe = cls(**{**cls.presets[preset], **fields})
        recipe.check()
        return recipe

    @classmethod
    def known(cls, names: Iterable[str]) -> None:
        """Raise UserError for a name that is no field; it suggests the nearest."""
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in names:
            if name not in fields:
                raise UserError(f"{cls.name} has no field '{name}'.{nearest(name, fields)}")


def flag(field: str) -> str:
    """The flag of a field: ``batch_size`` is ``--batch-size``."""
    return "--" + field.replace("_", "-")


def recipes_of(domain: str) -> list[type[Recipe]]:
    """The recipes that read a kind of data: what is proposed first, then by name."""
    found = [kind for kind in recipes().values() if kind.domain == domain]
    return sorted(found, key=lambda kind: not kind.proposed)


@functools.cache
def recipes() -> dict[str, type[Recipe]]:
    """Every recipe by name, found in the files of this package."""
    found: dict[str, type[Recipe]] = {}
    for entry in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{entry.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if (
                kind.__module__ == module.__name__
                and issubclass(kind, Recipe)
                and not inspect.isabstract(kind)
            ):
                found[kind.name] = kind
    return dict(sorted(found.items()))


def recipe(name: str) -> type[Recipe]:
    """The recipe called `name`.

    Raises:
        UserError: there is none; the message suggests the nearest.
    """
    if name not in recipes():
        known = ", ".join(recipes())
        raise UserError(f"there is no recipe '{name}' (there are: {known}).{nearest(name, recipes())}")
    return recipes()[name]
