"""The sentences of ``anyjepa look``: what labels there are, what cannot work and why."""

from __future__ import annotations

import numpy as np

from anyjepa.domains import Domain, Samples, domains
from anyjepa.engine.budget import Budget
from anyjepa.engine.checking import Checked
from anyjepa.engine.proposal import Proposal
from anyjepa.engine.survey import Found

FEW = 30  # samples that are hardly enough to learn from
SHOWN = 6  # classes that are named


def describe_labels(samples: Samples) -> str:
    """Classes with their counts, targets with their range, or an empty string without labels."""
    labels, classes = samples.labels, samples.classes
    if labels is None:
        return ""
    if labels.ndim == 2:
        counts = (labels == 1).sum(axis=0)
        unknown = int((labels < 0).all(axis=1).sum())
        words = f"{labels.shape[1]:,} classes, several a sample: {_named(classes, counts)}"
    elif np.issubdtype(labels.dtype, np.integer):
        counts = np.bincount(labels[labels >= 0], minlength=len(classes or ()))
        unknown = int((labels < 0).sum())
        words = f"{int((counts > 0).sum()):,} classes: {_named(classes, counts)}"
    else:
        known = labels[np.isfinite(labels)]
        unknown = len(labels) - len(known)
        words = f"numbers from {known.min():.4g} to {known.max():.4g}" if len(known) else "numbers"
    return words + (f"; {unknown:,} samples have none" if unknown else "")


def _named(classes: list[str] | None, counts: np.ndarray) -> str:
    order = np.argsort(-counts, kind="stable")[:SHOWN].tolist()
    shown = ", ".join(f"{classes[i] if classes else i} ({int(counts[i]):,})" for i in order)
    return shown + (" ..." if len(counts) > SHOWN else "")


def doubts(domain: Domain, proposal: Proposal, checked: Checked) -> list[str]:
    """What cannot work with these samples, or hardly, and why."""
    samples = proposal.samples
    said = domain.doubts(samples, proposal.facts)
    count, recipe = len(samples), proposal.kind
    if count == 1:
        said.append(
            "there is one sample: an encoder that maps everything to one vector would be as good; give more."
        )
    elif count < FEW:
        said.append(f"there are {count} samples: enough to see it run, too few to learn from.")
    wanted = type(recipe).preset(proposal.preset).batch_size
    if recipe.batch_size < wanted:
        said.append(
            f"{count:,} samples are too few for the preset's batches of {wanted}: {recipe.batch_size} is "
            "proposed, so that an epoch has several."
        )
    said += _same_labels(samples)
    return said + _copies(checked) + _lost(checked)


def _same_labels(samples: Samples) -> list[str]:
    labels = samples.labels
    if labels is None or labels.ndim == 2:
        return []
    whole = np.issubdtype(labels.dtype, np.integer)
    known = labels[labels >= 0] if whole else labels[np.isfinite(labels)]
    if len(known) and len(np.unique(known)) == 1:
        value = samples.classes[int(known[0])] if whole and samples.classes else f"{known[0]:g}"
        return [f"every label is '{value}': there is nothing to tell apart, so no probe can score on them."]
    return []


def _copies(checked: Checked) -> list[str]:
    said = []
    if checked.duplicates:
        name, first = checked.duplicates[0]
        said.append(
            f"{len(checked.duplicates):,} of {checked.checked:,} samples repeat an earlier one ({name} is "
            f"{first}): on two sides of a split they would make a score too good."
        )
    if checked.constant:
        more = f" and {len(checked.constant) - 1:,} more" if len(checked.constant) > 1 else ""
        said.append(f"{checked.constant[0]}{more}: all values are the same, so there is nothing to predict.")
    return said


def _lost(checked: Checked) -> list[str]:
    share = len(checked.problems) / max(1, checked.checked)
    if share <= 0.01:
        return []
    return [
        f"{share:.1%} of the samples checked are damaged, above the 1 % at which training stops: the command "
        "below raises --max-bad-fraction; mend or remove them if you can."
    ]


def busy_words(waited: float, steps: int, budget: Budget) -> str:
    """That other work slowed the steps that were timed `waited` times, and what an epoch takes with it."""
    beside = duration(budget.median_seconds_per_step * steps)
    return (
        f"other work keeps this machine busy: most steps took {waited:.1f} times as long as the quickest; if "
        f"that goes on, an epoch takes about {beside}."
    )


def unknown(found: Found) -> list[str]:
    """Why no kind of data fits a source, with what is in it."""
    said, survey = [], found.survey
    if survey.endings:
        said.append(f"it holds {survey.in_words()}.")
    known = ", ".join(domains())
    if others := survey.unread():
        first, *rest = [
            f"{count:,} {'file is' if count == 1 else 'files are'} {kind}" for kind, count in others
        ]
        more = "".join(f"; {words}" for words in rest)
        said.append(f"{first}, a kind of data that is not read yet (read are {known}){more}.")
    elif not survey.endings and survey.path is not None:
        said.append(f"there is no data in it that a name gives away (read are {known}).")
    for name, reason in found.refused.items():
        if reason != "no file has an ending of it":
            said.append(f"not {name}: {reason.rstrip('.')}.")
    return said


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """Bytes in megabytes or gigabytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
