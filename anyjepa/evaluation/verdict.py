"""Label-free health in words: what the measures say together, on what evidence, and what to try."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anyjepa.core.accumulation import Accumulator
from anyjepa.core.errors import UserError
from anyjepa.core.health import Gram, Shape, collapse, rankme
from anyjepa.core.neighbourhoods import Dominance, dominant
from anyjepa.domains import Samples
from anyjepa.recipes import Recipe, flag
from anyjepa.recipes.fields import parse_words

NAMED = 3  # samples of a dominant group that are named
SHOWN_APART = 1.2  # `views_told_apart` below this is what noise gives (RankMe note: within 20 % of its null)


@dataclass(frozen=True)
class Verdict:
    """A judgement of an encoder.

    Args:
        words: the judgement and its evidence.
        advice: what to try, in the recipe's own fields.
        collapsed: wholly or in part.
        remarks: further facts worth knowing, a sentence each.
        tone: "good", "care", "bad" or "unknown".
    """

    words: str
    advice: str
    collapsed: bool
    remarks: tuple[str, ...]
    tone: str


@dataclass(frozen=True)
class Few:
    """A few samples that hold most of the variance, named.

    Args:
        found: which they are.
        name: of them, in words.
        without: effective rank of the other embeddings.
        fault: how the others have collapsed, None where they have not.
    """

    found: Dominance
    name: str
    without: float
    fault: str | None


def dominating(trained: Accumulator, samples: Samples, before: Shape) -> Few | None:
    """The group of `samples` (patient, recording), or the few single ones, that hold most of the variance."""
    rows, places = trained.sketch.rows, trained.sketch.places.numpy()
    if len(rows) < 20:  # a twentieth of fewer is no sample at all
        return None
    numbers, names = None, np.array([])
    if samples.groups is not None:
        names, index = np.unique(np.asarray(samples.groups)[places], return_inverse=True)
        numbers = torch.from_numpy(index)
    found = dominant(rows, numbers)
    if found is None:
        return None
    if found.group >= 0:
        name = f"group '{names[found.group]}'"
    else:
        first = ", ".join(f"'{samples.identity(int(places[row]))}'" for row in found.rows[:NAMED])
        count = len(found.rows)
        more = f" and {count - NAMED} more" if count > NAMED else ""
        name = f"{count} sample{'s' * (count > 1)} ({first}{more})"
    others = torch.ones(len(rows), dtype=torch.bool)
    others[found.rows] = False
    rest = Gram(rows.shape[1]).add(rows[others])
    return Few(found, name, rankme(rest, centred=True), collapse(rest, before))


def judge(
    trained: Accumulator,
    before: Shape,
    figures: Mapping[str, float],
    kind: Recipe,
    few: Few | None = None,
) -> Verdict:
    """A verdict with its evidence, and what to try.

    Args:
        trained: the run's embeddings.
        before: shape of the untrained encoder's embeddings.
        figures: the run's measures by name.
        kind: the recipe, whose fields the advice names.
        few: from `dominating`.
    """
    gram = trained.gram()
    rows, dim = gram.count, gram.dim
    if rows < dim:
        words = f"unknown: {rows} samples cannot show how many of {dim} directions are used"
        return Verdict(words, f"inspect at least {5 * dim} samples.", False, (), "unknown")
    remarks = tuple(_remarks(figures, rows, dim))
    fault = collapse(gram, before)
    if few and not few.fault:
        return _dominated(few, gram, kind, remarks)
    if fault:
        return Verdict(fault, _advice("train with", remedies(kind, COLLAPSE)), True, remarks, "bad")
    rank, was = figures["rankme_centred"], before.directions
    alpha = figures.get("alpha_req")
    evidence = f"effective rank {rank:.1f} of {dim} (untrained {was:.1f})"
    evidence += "" if alpha is None else f", alpha {alpha:.2f}"
    apart = figures.get("views_told_apart")
    if apart is not None and apart < SHOWN_APART:
        words = (
            f"noise: samples differ no more than views of one sample do ({apart:.2f} times what chance "
            f"gives), so rank says nothing here: {evidence}"
        )
        return Verdict(words, _advice("train longer", remedies(kind, NOISE)), False, remarks, "bad")
    if rank < was / 2:
        words = f"shrinking: {evidence}"
        start = "fewer directions are used than before training; try"
        return Verdict(words, _advice(start, remedies(kind, SHRINKING)), False, remarks, "care")
    if rank <= was:
        words = f"not collapsed, but no more directions are used than before training: {evidence}"
        advice = "longer training usually raises it; see what labels say with `anyjepa evaluate`."
        return Verdict(words, advice, False, remarks, "care")
    return Verdict(
        f"healthy: {evidence}", "see what labels say with `anyjepa evaluate`.", False, remarks, "good"
    )


def _dominated(few: Few, gram: Gram, kind: Recipe, remarks: tuple[str, ...]) -> Verdict:
    share, of_samples = few.found.variance, few.found.samples
    words = (
        f"dominated by {few.name}: {of_samples:.1%} of the samples hold {share:.0%} of the variance; the "
        f"effective rank is {rankme(gram, centred=True):.1f} with them and {few.without:.1f} without"
    )
    tries = remedies(kind, DOMINATED)
    advice = "look at them: leave them out if they are damaged, or have more like them"
    return Verdict(words, f"{advice}{'; or try ' + _or(tries) if tries else ''}.", False, remarks, "care")


def _remarks(figures: Mapping[str, float], rows: int, dim: int) -> list[str]:
    found = []
    if rows < 5 * dim:
        found.append(f"Only {rows} samples were measured; {5 * dim} would make this surer.")
    if figures["rankme"] < figures["rankme_centred"] / 2:
        found.append(
            f"A common mean hides the rest (RankMe {figures['rankme']:.1f} with it, "
            f"{figures['rankme_centred']:.1f} without): take it off before comparing by cosine."
        )
    fit = figures.get("alpha_req_fit", math.nan)
    if fit < 0.9:
        found.append(f"The spectrum is no power law (R² {fit:.2f}), so alpha says little.")
    lidar, corrected = figures.get("lidar", math.nan), figures.get("lidar_corrected", math.nan)
    if corrected < lidar / 2:
        found.append(
            f"Half of LiDAR is noise between views: without it, {corrected:.1f} is left of {lidar:.1f}."
        )
    return found


Rule = tuple[str, Callable[[Any, str], str | None]]


def _set(value: str) -> Callable[[Any, str], str | None]:
    return lambda now, name: None if now == value else f"{name} {value} (now {now})"


def _times(factor: float, most: float = math.inf) -> Callable[[Any, str], str | None]:
    """A number, or each of several, times a factor; a whole number stays one."""

    def one(value: Any) -> str:
        return str(round(value * factor)) if isinstance(value, int) else f"{min(most, value * factor):.3g}"

    def change(now: Any, name: str) -> str | None:
        values = now if isinstance(now, tuple) else (now,)
        new, old = " ".join(map(one, values)), " ".join(f"{value:g}" for value in values)
        return f"{name} {new} (now {old})" if new != old else None

    return change


def _slower(now: Any, name: str) -> str | None:
    """A teacher that forgets half as fast at the first step."""
    first = 1 - (1 - now[0]) / 2
    return f"{name} {first:.4g} {now[1]:.4g} (now {now[0]:.4g} {now[1]:.4g})" if now[0] < 1 else None


COLLAPSE: Sequence[Rule] = (
    ("teacher", _set("ema")),
    ("regularisation", _times(2.0)),
    ("learning_rate", _times(1 / 3)),
    ("momentum", _slower),
    ("target_scale", _times(1.5, 0.5)),
    ("target_ratio", _times(1.5, 0.5)),
    ("target_share", _times(1.5, 0.9)),
    ("keep", _times(2 / 3)),
)
SHRINKING: Sequence[Rule] = (
    ("regularisation", _times(2.0)),
    ("learning_rate", _times(1 / 3)),
    ("momentum", _slower),
    ("warmup_epochs", _times(2.0)),
)
NOISE: Sequence[Rule] = (("epochs", _times(3.0)), ("targets", _times(2.0)), ("batch_size", _times(2.0)))
DOMINATED: Sequence[Rule] = (("scaling", _set("quantile")), ("clip", _times(0.5)))


def remedies(kind: Recipe, rules: Sequence[Rule]) -> list[str]:
    """Flags worth trying, each with its value now: those of the rules that the recipe has a field for."""
    found = [change(getattr(kind, name), flag(name)) for name, change in rules if hasattr(kind, name)]
    return [words for words in found if words and _typed(kind, words)]


def _typed(kind: Recipe, words: str) -> bool:
    """Whether such a flag takes such values: recipes may mean different things by one name."""
    try:
        parse_words(type(kind), words.split(" (")[0].split())
    except UserError:
        return False
    return True


def _advice(start: str, tries: Sequence[str]) -> str:
    return f"{start} {_or(tries)}." if tries else f"{start} other data or another recipe."


def _or(tries: Sequence[str]) -> str:
    return ", ".join(tries[:-1]) + " or " + tries[-1] if len(tries) > 1 else "".join(tries)
