"""``anyjepa look``: what is in a source, what cannot work, and the training to begin with."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import anyjepa
from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import Domain, Samples, domains
from anyjepa.engine.budget import Budget, rehearse
from anyjepa.engine.checking import Checked, check
from anyjepa.engine.files import explained, write_whole
from anyjepa.engine.proposal import MINUTES, Proposal, propose, recipes_for
from anyjepa.engine.run import Run, build_method, choose_device, recipe_fields
from anyjepa.engine.survey import UNREAD, Candidate, Found, also, identify
from anyjepa.reports import sections
from anyjepa.reports.look_words import busy_words, describe_labels, doubts, duration, size, unknown
from anyjepa.reports.masked import drawn
from anyjepa.reports.page import Imagined, Masks, Ranked, SampleViews, encoded

DRAWN = 4  # samples that masks are drawn over
BUSY = 1.6  # steps take so many times the quickest: other work has the processors
NAMED = 100  # damaged samples that are given by name


def look(
    source: str,
    *,
    labels: str | None = None,
    kind: str | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    minutes: float = MINUTES,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Say what is in a source and propose a training for it.

    Reads all samples of a small source and a bounded choice of a large one, and trains for a few seconds in a
    process of its own to see what training costs.

    Args:
        source: a folder, a file, ``hf:NAME``, ``wds:PATTERN``, or a shipped name.
        labels: a file or column of labels.
        kind: of data, where a source can be read as several.
        recipe: to propose; the first that reads such data where None.
        out: an HTML page to write, with masks drawn over samples.
        minutes: longest training to propose.
        device: auto, cpu, cuda or mps.
        seed: of the choice of samples and the masks.

    Returns:
        ``domain`` (None where no kind of data fits), ``samples``, ``problems`` (sample and reason of damaged
        ones, the first 100), ``recipe``, ``seconds_per_epoch`` and ``memory_bytes`` (resident memory of the
        training process at its peak), None where nothing can be trained; ``checked``, ``total``,
        ``problem_count``, ``measured`` and ``cannot`` (what cannot work, in sentences); with a proposal also
        ``preset``, ``fields``, ``batch_size``, ``steps``, ``epochs``, ``seconds`` and ``command``.

    Raises:
        UserError: there is no such source, kind of data or recipe.
    """
    found = identify(source, kind, labels)
    if not found.candidates:
        return _nothing(source, found)
    best = found.candidates[0]
    checked = check(best.samples, seed)
    result = _described(best, found, checked, source)
    try:
        proposal = propose(
            best.domain, best.source, best.samples, len(checked.problems), recipe or best.recipe, labels
        )
    except UserError as mistake:
        if recipe is not None:
            raise
        return {**result, "cannot": [*result["cannot"], str(mistake)]}
    result |= {
        "recipe": proposal.kind.name,
        "preset": proposal.preset,
        "fields": {name: recipe_fields(proposal.kind)[name] for name in proposal.fields},
        "batch_size": proposal.kind.batch_size,
        "measured": best.domain.in_words(proposal.facts),
        "other_recipes": [r.name for r in recipes_for(best.domain) if r.name != proposal.kind.name],
    }
    result["cannot"] = doubts(best.domain, proposal, checked) + result["cannot"]
    result |= _priced(best, proposal, minutes, device)
    result["cannot"] += [result.pop(name) for name in ("trial", "busy") if name in result]
    if out is not None:
        result["page"] = str(_write(Path(out), best.domain, proposal, result, seed))
    return result


def _nothing(source: str, found: Found) -> dict[str, Any]:
    """Of a source that no kind of data fits."""
    return {
        "source": source, "domain": None, "samples": 0, "problems": [], "recipe": None,
        "seconds_per_epoch": None, "memory_bytes": None, "problem_count": 0, "checked": 0, "total": 0,
        "files": dict(found.survey.endings.most_common()), "cannot": unknown(found), "refused": found.refused,
    }  # fmt: skip


def _described(best: Candidate, found: Found, checked: Checked, source: str) -> dict[str, Any]:
    samples = best.samples
    return {
        "source": source,
        "read_as": best.source,
        "domain": best.domain.name,
        "description": samples.description,
        "samples": len(samples),
        "files": dict(found.survey.endings.most_common()),
        "checked": checked.checked,
        "total": checked.total,
        "problems": [{"sample": p.identity, "reason": p.reason} for p in checked.problems[:NAMED]],
        "problem_count": len(checked.problems),
        "duplicates": len(checked.duplicates),
        "shapes": [{"shape": list(shape), "samples": n} for shape, n in checked.shapes.most_common(5)],
        "labels": describe_labels(samples),
        "groups": None if samples.groups is None else len(set(map(str, samples.groups))),
        "cannot": _mixed(best, also(found), found),
        "recipe": None,
        "seconds_per_epoch": None,
        "memory_bytes": None,
    }


def _mixed(best: Candidate, others: Sequence[Candidate], found: Found) -> list[str]:
    """Other kinds of data in the same place."""
    said = [
        f"it can be read as {one.domain.name} too ({one.samples.description}): what follows takes it for "
        f"{best.domain.name}; if that is wrong, add --kind {one.domain.name}, or name the folder of one kind."
        for one in others
    ]
    left = [(kind, count) for kind, count in found.survey.unread() if count > 1]
    known = found.survey.of(best.domain) * found.survey.endings.total()
    beside = [
        f"{count:,} files of {kind}" for kind, count in left if count * 10 > known and not _own(best, kind)
    ]
    if beside:
        said.append(f"beside it lie {', '.join(beside)}, which are not read.")
    return said


def _own(best: Candidate, kind: str) -> bool:
    """Files that belong to records of the kind of data found, such as the .mat of a WFDB header."""
    return bool(UNREAD.get(kind, frozenset()) & best.domain.endings)


def _priced(best: Candidate, proposal: Proposal, minutes: float, device: str) -> dict[str, Any]:
    """Budget and command; ``trial`` says why a few steps could not be trained."""
    allowed = proposal.max_bad_fraction or 0.01
    planned = proposal.steps(None)
    resident = getattr(proposal.samples, "array", None) is not None
    try:
        budget = rehearse(
            proposal.kind.name, best.source, proposal.preset, proposal.fields, steps=planned,
            device=device, max_bad_fraction=allowed, resident=resident,
        )  # fmt: skip
    except UserError as mistake:
        return {"trial": f"training does not begin: {mistake}"}
    steps = proposal.steps(budget.seconds_per_step, minutes)
    waited = budget.median_seconds_per_step / max(budget.seconds_per_step, 1e-9)
    busy = waited > BUSY
    return {
        **({"busy": busy_words(waited, proposal.steps_per_epoch, budget)} if busy else {}),
        "steps": steps,
        "epochs": round(steps / proposal.steps_per_epoch, 2),
        "seconds_per_step": budget.seconds_per_step,
        "seconds_per_epoch": budget.seconds_per_step * proposal.steps_per_epoch,
        "seconds": budget.seconds_per_step * steps,
        "processor_seconds_per_epoch": budget.processor_seconds_per_step * proposal.steps_per_epoch,
        **_memory(budget),
        "preset_epochs": proposal.kind.epochs,
        "command": proposal.command(best.source, steps),
    }


def _memory(budget: Budget) -> dict[str, Any]:
    taken = {"device_memory_bytes": budget.device_memory_bytes} if budget.device_memory_bytes else {}
    return {
        "memory_bytes": budget.memory_bytes,
        **taken,
        "device": budget.device,
        "timed_steps": budget.steps,
    }


def rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What was found and is proposed, as names and values for a person."""
    if result["domain"] is None:
        return []
    said = [("kind of data", result["domain"]), ("data", result["description"])]
    said += list(result.get("measured", {}).items())
    said += [("labels", result["labels"] or "none found")]
    if result["groups"] is not None:
        each = " (each sample is one)" if result["groups"] == result["samples"] else ""
        said.append(
            ("groups", f"{result['groups']:,}{each}: patients or recordings, kept on one side of a split")
        )
    share = result["checked"] / max(1, result["total"])
    part = "all" if share == 1 else f"{100 * share:.2g} %, the first, the last and others by chance"
    said.append(("checked", f"{result['checked']:,} of {result['total']:,} samples ({part})"))
    said.append(("damaged", f"{result['problem_count']:,}" if result["problem_count"] else "none"))
    if result["recipe"]:
        others = ", ".join(result["other_recipes"])
        also_there = f"; --recipe chooses another: {others}" if others else ""
        said.append(("recipe", f"{result['recipe']}, preset {result['preset']}{also_there}"))
        said.append(("batch", f"{result['batch_size']} samples"))
    if result["seconds_per_epoch"] is not None:
        said += [
            ("an epoch", f"{duration(result['seconds_per_epoch'])} on this machine ({result['device']})"),
            ("training", f"{result['steps']:,} steps, {result['epochs']:g} epochs, "
                         f"{duration(result['seconds'])}"),
            ("memory", f"{size(result['memory_bytes'])} at its peak, Python and torch included"),
        ]  # fmt: skip
    if "device_memory_bytes" in result:
        said.append(("memory of the accelerator", size(result["device_memory_bytes"])))
    return said


def _write(path: Path, domain: Domain, proposal: Proposal, result: dict[str, Any], seed: int) -> Path:
    """The page with masks drawn over samples."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("anyjepa.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["ranked"] = lambda section: isinstance(section, Ranked)
    environment.tests["views"] = lambda section: isinstance(section, SampleViews)
    environment.tests["imagined"] = lambda section: isinstance(section, Imagined)
    environment.tests["absent"] = lambda section: isinstance(section, str)
    page = environment.get_template("look.html").render(
        title=result["source"],
        data=result["description"],
        rows=rows(result),
        sentences=result["cannot"],
        problems=[(problem["sample"], problem["reason"]) for problem in result["problems"]],
        command=result.get("command"),
        masks=_masks(domain, proposal, seed),
        made=f"Made by anyjepa {anyjepa.__version__} on {datetime.date.today().isoformat()}.",
    )
    with explained(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, encoded(page))
    return path


def _masks(domain: Domain, proposal: Proposal, seed: int) -> Masks | Ranked | SampleViews | Imagined | str:
    """Masks over a few samples, by a method that nothing has been learned by yet."""
    samples, kind = proposal.samples, proposal.kind
    try:
        method = build_method(kind, proposal.facts, seed).eval()
        raw, names = _readable(samples, seed)
        if not raw:
            return "Not drawn: none of the samples that were tried can be read."
        device = choose_device("cpu")
        config = {"steps": 1, "seed": seed, "data": {"facts": proposal.facts, "source": samples.source}}
        run = Run(Path(), config, kind, domains()[domain.name], method, device)
        batch = kind.present(raw)
        thumbnails = [domain.picture(batch, index, proposal.facts) for index in range(len(raw))]
        return drawn(run, batch, names, sections.brightness(thumbnails), seed)
    except UserError as mistake:
        return f"Not drawn: {mistake}"


def _readable(samples: Samples, seed: int) -> tuple[list[np.ndarray], list[str]]:
    raw, names = [], []
    for index in np.random.default_rng(seed).permutation(len(samples))[: 8 * DRAWN].tolist():
        try:
            raw.append(samples.read(index))
            names.append(samples.identity(index))
        except BadSample:
            continue
        if len(raw) == DRAWN:
            break
    return raw, names
