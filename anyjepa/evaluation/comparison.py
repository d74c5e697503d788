"""Runs and checkpoints side by side, ranked without labels; with labels, how well that ranking did."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.accumulation import Estimate, difference_error
from anyjepa.core.errors import UserError
from anyjepa.core.health import Shape, collapse
from anyjepa.domains import Samples
from anyjepa.domains.sources import choose
from anyjepa.engine.checkpoint import checkpoints, read_checkpoint, restore
from anyjepa.engine.run import Run, build_method, load
from anyjepa.evaluation.inspection import SAMPLES, accumulate
from anyjepa.evaluation.ranking import CRITERIA, agreement, known_criterion, score, standardised_sum
from anyjepa.evaluation.scores import evaluate

MEASURES = (
    "rankme", "rankme_centred", "lidar", "lidar_corrected", "alpha_req", "alpha_req_fit", "stable_rank",
    "participation_ratio", "uniformity", "clid_learnability", "clid_dimension",
)  # fmt: skip
LAST = 0.1  # share of the steps at the end that the loss is averaged over
EXPONENT = 0.4  # of the regulariser's weight
FEWEST = 4  # runs whose ranking can be compared with labels


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run or checkpoint: its row of the comparison, and the measures with what their errors come from."""

    row: dict[str, Any]
    estimates: Mapping[str, Estimate]


def compare(
    runs: Sequence[str | Path | Run],
    data: str | np.ndarray | None = None,
    *,
    labels: str | None = None,
    by: str = "rankme",
    probe: str = "linear",
    checkpoints: bool = False,
    across: bool = False,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Runs side by side on the same samples, best first, ranked without labels.

    Ranks are given among runs of one recipe, one kind of data and one width: measures of rank say nothing
    about which of two methods is better (RankMe, section 3). With labels, each run is probed too, and the
    rankings are compared with what the labels say.

    Args:
        runs: runs or their folders.
        data: source to embed; the one that all were trained on where not given. If it is given and has
            labels, these are used to judge the ranking, never to make it.
        labels: file or column of labels, where the source does not carry them.
        by: what is ranked by, one of `ranking.CRITERIA`.
        probe: of the labelled score.
        checkpoints: compare the kept checkpoints of each run, not only what it ended with.
        across: rank runs of different recipes and widths together all the same.
        samples: how many to embed, the same ones for all, drawn with `seed`; 0 for all.
        seed: of the draw, of masks and of the probe's split.

    Returns:
        ``runs``: a row each, with ``run``, ``rank``, ``tied`` (not told apart from the best by twice the
        standard error of the difference over samples), the measures, ``errors``, ``loss``, ``collapsed``,
        ``dim``, ``step``, ``untrained_rank`` (centred, where the watch saw it), and with labels ``value`` and
        ``metric``; ``by``; ``agreement``: for each group of
        four runs or more and each criterion, as `ranking.agreement` gives it; ``remarks``.

    Raises:
        UserError: runs that were not trained on the same data when `data` is not given, and what `load`,
            `evaluate` and `inspect` raise.
    """
    known_criterion(by)
    opened = [one if isinstance(one, Run) else load(one) for one in runs]
    if not opened:
        raise UserError("name the runs to compare: anyjepa compare RUN RUN ...")
    if data is None and len({run.config["data"]["fingerprint"] for run in opened}) > 1:
        raise UserError("these runs were trained on different data: name one source for all with --data.")
    kinds = {run.recipe.domain for run in opened}
    if len(kinds) > 1:
        raise UserError(f"runs on different kinds of data ({', '.join(sorted(kinds))}) cannot be compared.")
    asked = data is not None or labels is not None
    found = []
    for run in opened:
        source = run.open(data, labels)
        chosen = choose(len(source), samples, seed)
        for one, step in states(run) if checkpoints else [(run, reached(run))]:
            measured = measure(one, step, source, chosen, seed)
            if asked and source.labels is not None:
                measured.row.update(_probed(one, step, data, labels, probe, seed))
            found.append(measured)
    return ranked(found, by, across)


def ranked(found: Sequence[Measured], by: str = "rankme", across: bool = False) -> dict[str, Any]:
    """What `compare` returns, of runs that were measured."""
    groups: dict[tuple, list[Measured]] = {}
    for one in found:
        group = () if across else (one.row["recipe"], one.row["dim"])
        groups.setdefault(group, []).append(one)
    rows, agreements = [], []
    for group in groups.values():
        _add_clid(group)
        group.sort(key=lambda one: (one.row["collapsed"], -score(one.row, by)))
        for rank, one in enumerate(group, 1):
            one.row["rank"], one.row["tied"] = rank, rank > 1 and tied(group[0], one, by)
            rows.append(one.row)
        agreements += _agreements([one.row for one in group])
    remarks = []
    if len(groups) > 1:
        remarks.append(
            "Runs of different recipes or widths are ranked apart: rank says nothing about which method is "
            "better (--across ranks them together all the same)."
        )
    if rows and all(row.get("rankme_centred", 0.0) <= row.get("untrained_rank", 0.0) for row in rows):
        remarks.append(
            "No run uses more directions than its untrained encoder did, so a higher rank may only mean that "
            "less was learned: train longer, or judge the ranking by a few labels (--data)."
        )
    return {"runs": rows, "by": by, "agreement": agreements, "remarks": remarks}


def measure(run: Run, step: int, opened: Samples, chosen: np.ndarray, seed: int = 0) -> Measured:
    """One row: the label-free measures of a run's embeddings, and the loss that it reached."""
    [sums] = accumulate([run], opened, chosen, seed)
    row: dict[str, Any] = {
        "run": str(run.path), "recipe": run.recipe.name, "step": step, "samples": sums.seen,
        "dim": sums.gram().dim, "seed": run.config["seed"],
    }  # fmt: skip
    if sums.refused:
        return Measured({**row, "collapsed": True, "errors": {}}, {})
    estimates = sums.estimates(MEASURES)
    loss = final_loss(run, step)
    if loss is not None:
        estimates["loss"] = loss
        weight = getattr(run.recipe, "regularisation", 0.0)
        if weight > 0:
            # LeJEPA, section 6: what makes losses under other weights comparable
            shrink = weight**-EXPONENT
            estimates["scaled_loss"] = Estimate(loss.value * shrink, tuple(x * shrink for x in loss.without))
    row |= {name: one.value for name, one in estimates.items()}
    row["errors"] = {name: one.error for name, one in estimates.items() if math.isfinite(one.error)}
    before = _before(run)
    row |= {"untrained_rank": before.directions} if before else {}
    fault = collapse(sums.gram(), before)
    return Measured({**row, "collapsed": bool(fault), **({"fault": fault} if fault else {})}, estimates)


def final_loss(run: Run, step: int) -> Estimate | None:
    """Mean loss of the last tenth of the steps up to `step`, its error from the logged rows."""
    rows = [row for row in run.metrics() if row["step"] <= step and row["step"] > step * (1 - LAST)]
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    if not losses:
        return None
    mean = math.fsum(losses) / len(losses)
    # the jackknife of a mean: leaving one row out
    without = (
        tuple((mean * len(losses) - one) / (len(losses) - 1) for one in losses) if len(losses) > 1 else ()
    )
    return Estimate(mean, without)


def tied(best: Measured, other: Measured, by: str) -> bool:
    """The two differ by less than twice the standard error of their difference; False where none is known."""
    if by not in best.estimates or by not in other.estimates or other.row["collapsed"]:
        return False
    first, second = ((one.estimates[by]) for one in (best, other))
    error = math.hypot(first.error, second.error) if "loss" in by else difference_error(first, second)
    return bool(abs(score(best.row, by) - score(other.row, by)) <= 2 * error)


def reached(run: Run) -> int:
    """Updates behind a run's weights."""
    rows = run.metrics()
    return int(rows[-1]["step"]) if rows else int(run.config["steps"])


def states(run: Run) -> Iterator[tuple[Run, int]]:
    """The kept checkpoints of a run that are whole, oldest first, or the run itself where there are none."""
    kept = sorted(checkpoints(run.path / "checkpoints"))
    if not kept:
        yield run, reached(run)
    for path in kept:
        checkpoint = read_checkpoint(path)
        if isinstance(checkpoint, str):
            continue
        method = build_method(run.recipe, run.facts, run.config["seed"])
        restore(checkpoint, method)
        yield dataclasses.replace(run, method=method.eval().to(run.device), problems=[]), checkpoint.step


def _before(run: Run) -> Shape | None:
    """Shape of the untrained encoder's embeddings, as the watch kept it in the newest checkpoint."""
    for path in checkpoints(run.path / "checkpoints"):
        try:
            before = json.loads((path / "progress.json").read_text()).get("before")
        except (OSError, ValueError):
            continue
        if before:
            return Shape(*before)
    return None


def _probed(
    run: Run, step: int, data: str | np.ndarray | None, labels: str | None, probe: str, seed: int
) -> dict[str, Any]:
    """The labelled score of a run; that of a checkpoint is no result of its run, and is not stored there."""
    with tempfile.TemporaryDirectory() as aside:
        kept = run if step == reached(run) else dataclasses.replace(run, path=Path(aside))
        result = evaluate(kept, data, labels=labels, probe=probe, seed=seed)
    return {key: result[key] for key in ("probe", "metric", "value", "low", "high", "untrained", "raw")}


def _add_clid(group: Sequence[Measured]) -> None:
    parts = ("clid_learnability", "clid_dimension")
    known = [one for one in group if all(name in one.row for name in parts)]
    if len(known) > 1:
        sums = standardised_sum(*([one.row[name] for one in known] for name in parts))
        for one, value in zip(known, sums, strict=True):
            one.row["clid"] = value


def _agreements(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    labelled = [row for row in rows if "value" in row]
    if len(labelled) < FEWEST:
        return []
    truth = np.array([row["value"] for row in labelled], dtype=float)
    found = []
    for by in CRITERIA:
        criterion = np.array([score(row, by) for row in labelled])
        if np.isfinite(criterion).sum() < FEWEST:
            continue
        result = agreement(criterion, truth)
        if math.isnan(result["spearman"][0]):  # all runs are the same by it
            continue
        chosen = labelled[result["chosen"]]
        found.append(
            {"by": by, **result, "chosen": chosen["run"], "value": chosen["value"],
             "best": float(truth.max()), "metric": chosen["metric"], "recipe": chosen["recipe"],
             "count": len(labelled)}
        )  # fmt: skip
    return found
