"""A labelled score for a run, always beside the untrained encoder and the raw input."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyjepa.core.errors import UserError, nearest
from anyjepa.engine.crew import joined
from anyjepa.engine.files import append_line
from anyjepa.engine.run import Run, load
from anyjepa.evaluation.attentive import attentive_probe, mlp_probe
from anyjepa.evaluation.captions import captions_probe
from anyjepa.evaluation.confidence import (
    Interval,
    auc_interval,
    paired_difference_interval,
    sample_mean_interval,
)
from anyjepa.evaluation.detection import detection_probe
from anyjepa.evaluation.episodes import episodes
from anyjepa.evaluation.field import field_baselines
from anyjepa.evaluation.finetuning import FineTuning, fine_tune
from anyjepa.evaluation.labelled import ProbeResult
from anyjepa.evaluation.low_shot import DRAWS, FIXED, choosable, drawn, over_draws
from anyjepa.evaluation.metrics import by_class, further_metrics
from anyjepa.evaluation.own_heads import head_probe, own_heads
from anyjepa.evaluation.patches import patch_probe
from anyjepa.evaluation.probes import knn_probe, linear_probe
from anyjepa.evaluation.recommendation import recommendation_probe
from anyjepa.evaluation.retrieval import retrieval_probe
from anyjepa.evaluation.sides import Side, both_sides
from anyjepa.evaluation.svm import svm_probe

# of frozen vectors: the same for all three kinds
VECTOR_PROBES: dict[str, Callable[..., ProbeResult]] = {
    "linear": linear_probe,
    "knn": knn_probe,
    "svm": svm_probe,
    "mlp": mlp_probe,
    "retrieval": retrieval_probe,
}
PROBES = (*VECTOR_PROBES, "attentive", "finetune", "few-shot", "patch")
WHOLE = ("patch", "detection", "recommendation", "captions")  # that open both sides for themselves
KINDS = ("trained", "untrained", "raw")


@dataclass(frozen=True)
class Labels:
    """How many labels are used.

    Args:
        fraction: share of the training labels; all where None.
        shots: labels a class, instead of a share.
        draws: how often they are drawn anew; 5 times where None, of few-shot episodes 10.
        ways: classes of a few-shot episode.
        queries: test samples of each class of an episode.
    """

    fraction: float | None = None
    shots: int | None = None
    draws: int | None = None
    ways: int = 5
    queries: int = 20

    def check(self) -> None:
        """Raise UserError for what contradicts itself."""
        if self.fraction is not None and self.shots is not None:
            raise UserError("give --labels-fraction or --shots, not both.")
        if self.draws is not None and self.draws < 1:
            raise UserError(f"--draws is 1 or more, not {self.draws}.")

    @property
    def few(self) -> bool:
        """Whether not all training labels are used."""
        return self.fraction is not None or self.shots is not None


def evaluate(
    run: Run | str | Path,
    data: str | np.ndarray | None = None,
    *,
    labels: str | None = None,
    probe: str | Sequence[str] = "linear",
    test: str | None = None,
    groups: str | None = None,
    dense: str | None = None,
    labels_fraction: float | None = None,
    shots: int | None = None,
    draws: int | None = None,
    ways: int = 5,
    queries: int = 20,
    tuning: FineTuning | None = None,
    seed: int = 0,
    allow_leak: bool = False,
    cache: bool = True,
) -> dict[str, Any]:
    """Score a run's encoder with labels.

    Args:
        run: a run or its folder.
        data: a labelled source; the data it was trained on where not given. A source that is split gives its
            own train and test part, another one is split at random, 80 to 20, stratified by class, and by
            whole groups (patients, recordings) where they are known.
        labels: file or column of labels, where the source does not carry them.
        probe: one of `PROBES`, or several. ``linear``, ``knn``, ``svm`` (classes), ``mlp`` and ``retrieval``
            (classes; mean average precision) are of frozen vectors, ``attentive`` of frozen tokens,
            ``finetune`` trains the whole encoder (``untrained`` is then the same from random weights, and
            ``raw``, as beside ``attentive``, a linear probe), ``few-shot`` draws episodes of few classes,
            ``patch`` tells the patches of images or the points of clouds apart (mean IoU), ``detection``
            finds the objects that are marked in LiDAR frames (average precision), ``recommendation`` ranks a
            catalogue for the queries of its log (recall, NDCG), ``captions`` finds images and captions by
            each other, without labels (recall).
        test: source of the test samples, where it is another one.
        groups: file with the columns id and group, where neither the source nor `labels` says them.
        dense: labels of parts for ``patch``, as of `Run.open`.
        labels_fraction: share of the training labels that is used, drawn anew several times.
        shots: labels a class that are used, instead; of ``few-shot`` an episode's (10 where not given).
        draws: how often; see `Labels`.
        ways, queries: of ``few-shot``.
        tuning: how ``finetune`` trains.
        allow_leak: let the same group (patient, recording) be on both sides of a split that the data makes.
        seed: of the random split. The untrained encoder has the weights the run began from.
        cache: keep embeddings in the run's folder, and take them from there.

    Returns:
        ``probe``, ``metric``, ``value``, ``low``, ``high``, ``untrained``, ``raw``, ``gain_over_untrained``
        and ``gain_over_raw`` as [value, low, high] of the paired difference, ``metrics`` (further ones by
        name, each of ``trained``, ``untrained``, ``raw``), ``classes``, ``train``, ``test``, ``data``, what
        was ``chosen``, ``baselines`` (accuracies of the field's own classifiers by name, where there are
        any), ``confusion`` or ``class_auc`` with ``class_names``, ``draws`` where labels were few,
        and ``computed``, the vectors that were not in the cache; with several probes, ``results`` holds one
        such object each, the first on top. Every result is added to the run's ``evaluations.jsonl``.

    Raises:
        UserError: no labels, an unknown probe, a leak, or labels that do not fit.

    Processes that torchrun started share the embedding; the first scores, and all return what it found.
    """
    names = [probe] if isinstance(probe, str) else list(probe)
    known = (*PROBES, *own_heads())
    for name in names:
        if name not in known:
            raise UserError(
                f"there is no probe '{name}' (there are: {', '.join(known)}).{nearest(name, known)}"
            )
    amount = Labels(labels_fraction, shots, draws, ways, queries)
    amount.check()
    (tuning or FineTuning()).check()
    with joined() as team:
        run = run if isinstance(run, Run) else load(run)
        for name in names:
            if name not in (*PROBES, *run.recipe.downstream):
                raise UserError(f"{run.recipe.name} has no head '{name}': use one of {', '.join(PROBES)}.")
        opened = partial(both_sides, run, data, labels, test, groups=groups, seed=seed, allow_leak=allow_leak)
        others = [name for name in names if name not in WHOLE]
        sides = [side.described(run, keep=cache) for side in opened()] if others else []
        results = []
        if team.first:
            if "patch" in names:
                results.append(patch_probe(run, *opened(dense=dense, parts=True), seed=seed))
            if "captions" in names:
                results.append(captions_probe(run, *opened(parts=True), seed=seed))
            if "detection" in names:
                results.append(
                    detection_probe(run, *opened(parts=True), tuning, labels_fraction, draws, seed)
                )
            if "recommendation" in names:
                results.append(recommendation_probe(run, data, seed=seed))
            if others:
                (train, first), (held_out, second) = sides
                judge = _Judge(run, train, held_out, amount, tuning, seed)
                results += [{**judge.score(name), "computed": first + second} for name in others]
                if not amount.few:
                    field = field_baselines(run, train, held_out)
                    results = [{**row, "baselines": field} if field else row for row in results]
            results.sort(key=lambda row: names.index(row["probe"]))
            source = (
                data if isinstance(data, str) else run.config["data"]["source"] if data is None else "array"
            )
            about = {
                "data": source,
                "date": datetime.datetime.now().isoformat(timespec="seconds"),
                "seed": seed,
            }
            about |= {"labels_fraction": labels_fraction} if labels_fraction is not None else {}
            about |= {"shots": shots} if shots is not None else {}
            results = [{**result, **about} for result in results]
            if run.path.is_dir():
                for result in results:
                    append_line(run.path / "evaluations.jsonl", result)
        results = team.told(results)
    return results[0] if len(results) == 1 else {**results[0], "results": results}


@dataclass(frozen=True)
class _Judge:
    """Both sides of a split, and how probes are to be run on them."""

    run: Run
    train: Side
    test: Side
    amount: Labels
    tuning: FineTuning | None
    seed: int

    def score(self, name: str) -> dict[str, Any]:
        """A result, over several draws of the labels where they are to be few."""
        if name == "few-shot":
            shots, folds = self.amount.shots or 10, self.amount.draws or 10
            return episodes(
                self.train, self.test, self.amount.ways, shots, self.amount.queries, folds, self.seed
            )
        if not self.amount.few:
            return self._once(name, self.train, self.seed, {})
        results = []
        for draw in range(self.amount.draws or DRAWS):
            chosen = drawn(self.train, self.amount.fraction, self.amount.shots, self.seed * 1000 + draw)
            part = self.train.take(chosen)
            fixed = {} if choosable(part) else FIXED.get(name)
            if fixed is None and name != "retrieval":
                raise UserError(
                    f"{len(part)} labelled samples are too few to hold some out for --probe {name}: give "
                    f"more, or use one of {', '.join(FIXED)}."
                )
            results.append(self._once(name, part, self.seed + draw, fixed or {}))
        return over_draws(results)

    def _once(self, name: str, train: Side, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        found = {kind: self._of(name, kind, train, seed, settings) for kind in KINDS}
        best, held_out = found["trained"], self.test
        result: dict[str, Any] = {
            "probe": name, "metric": best.metric, "value": best.value, "low": best.low, "high": best.high,
            "untrained": found["untrained"].value, "raw": found["raw"].value,
        }  # fmt: skip
        if found["raw"].probe != name:
            result["raw_probe"] = found["raw"].probe
        for kind in ("untrained", "raw"):
            result[f"{kind}_low"], result[f"{kind}_high"] = found[kind].low, found[kind].high
            gain = _gain(best, found[kind], held_out.groups)
            if gain is not None:
                result[f"gain_over_{kind}"] = list(gain)
        further = {kind: further_metrics(one, held_out.labels) for kind, one in found.items()}
        result["metrics"] = {
            name: {kind: further[kind][name] for kind in KINDS} for name in further["trained"]
        }
        sizes = {"train": len(train), "test": len(held_out)}
        if held_out.groups is not None:
            sizes["test_groups"] = len(held_out.groups.unique())
        classes = None
        if not train.labels.is_floating_point():
            classes = train.labels.shape[1] if train.labels.ndim == 2 else len(train.labels.unique())
        details = by_class(best, held_out.labels, self.test.samples.classes)
        return {**result, **sizes, "classes": classes, "chosen": best.chosen, **details}

    def _of(self, name: str, kind: str, train: Side, seed: int, settings: dict[str, Any]) -> ProbeResult:
        if name not in VECTOR_PROBES and kind == "raw":
            name, settings = "linear", {}
        if name == "attentive":
            return attentive_probe(self._encoder(kind), train, self.test, seed=seed)
        if name == "finetune":
            return fine_tune(self.run, train, self.test, self.tuning, kind=kind, seed=seed)[0]
        if name in self.run.recipe.downstream:
            return head_probe(self.run, name, train, self.test, self.tuning, kind=kind, seed=seed)
        return VECTOR_PROBES[name](
            train.features[kind], train.labels, self.test.features[kind], self.test.labels, seed=seed,
            train_groups=train.groups, test_groups=self.test.groups, **settings,
        )  # fmt: skip

    def _encoder(self, kind: str) -> Run:
        return self.run if kind == "trained" else self.run.untrained()


def _gain(best: ProbeResult, other: ProbeResult, groups: Tensor | None) -> Interval | None:
    """The paired difference of two scores of the same test samples."""
    if best.metric == "accuracy":
        return paired_difference_interval(best.outcomes, other.outcomes, groups=groups)
    if best.metric == "macro_auc":
        labels = best.outcomes.to(torch.int8)
        return auc_interval(best.predictions, labels, groups=groups, against=other.predictions)
    if best.metric == "map":
        asked = best.outcomes.isfinite()
        difference = (best.outcomes - other.outcomes)[asked]
        return sample_mean_interval(difference, groups=None if groups is None else groups[asked])
    return None
