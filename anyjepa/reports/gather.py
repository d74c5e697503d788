"""From a run to its report: looks at samples, collects what the page says, and writes it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import anyjepa
from anyjepa.core.accumulation import Accumulator
from anyjepa.core.errors import UserError
from anyjepa.core.health import Gram
from anyjepa.core.method import Batch, Context, Method
from anyjepa.domains import Samples
from anyjepa.engine.files import explained, read_lines, write_whole
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import Run, load
from anyjepa.evaluation.inspection import add_views, assess
from anyjepa.reports import sections, summary
from anyjepa.reports.captioned import captioned
from anyjepa.reports.clustered import clustered
from anyjepa.reports.masked import drawn, tokens_of
from anyjepa.reports.page import (
    Clusters,
    Content,
    Health,
    Imagined,
    Masks,
    Patches,
    Ranked,
    SampleViews,
    encoded,
    render,
)
from anyjepa.reports.sections import Labels, Looked

PAGES = {"rollout.html": "Episodes in closed loop: a film strip, predicted and executed actions"}
SHOWN = 6  # samples of the masks, neighbours and patches
POSITION_SAMPLES = 128  # that the mean token of each position is taken over
VIEWED = 500  # samples that views are made of for LiDAR
SKIPPED_NAMED = 20


def report(
    run: Run | str | Path,
    data: str | np.ndarray | None = None,
    labels: str | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """`write_report` for a run or its folder; returns ``report``, the page's path."""
    opened = run if isinstance(run, Run) else load(run)
    return {"report": str(write_report(opened, data, labels, samples, seed))}


def write_report(
    run: Run,
    source: str | np.ndarray | None = None,
    labels: str | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Path:
    """Write ``report.html`` into the run's folder, whole or not at all, and return its path.

    Args:
        run: the run to report on.
        source: data to look at; what the run was trained on where None.
        labels: a file of labels, where the source has none of its own.
        samples: at most so many samples are embedded.
        seed: of the choice of samples, the masks and the map.

    Raises:
        UserError: `source` or `labels` is given and cannot be read, or the page cannot be written. Training
            data that is no longer there is not an error: the report says so.
    """
    path = run.path / "report.html"
    page = render(gather(run, source, labels, samples, seed))
    with explained(f"write {path}"):
        # a file name need not be valid Unicode
        write_whole(path, encoded(page))
    return path


def gather(
    run: Run,
    source: str | np.ndarray | None = None,
    labels: str | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Content:
    """What the report of a run says; arguments and errors as of `write_report`."""
    config, rows = run.config, run.metrics()
    scores = summary.scores(run.results())
    skipped = [
        (str(row.get("sample", "")), str(row.get("reason", "")))
        for row in read_lines(run.path / "skipped.jsonl")
    ]
    look = _look(run, source, labels, samples, seed)
    absent = look if isinstance(look, str) else ""
    known = None if isinstance(look, str) else look
    embeddings = known and _gram(known.looked.embeddings)
    untrained = known and _gram(known.untrained)
    health = known.health() if known and untrained is not None else absent
    return Content(
        recipe=config["recipe"],
        data=summary.data(config),
        facts=summary.facts(config, rows, _written(run.path)),
        verdict=summary.verdict(
            config, embeddings, untrained, scores, None if isinstance(health, str) else health
        ),
        figures=summary.figures(rows, embeddings, untrained, scores),
        scores=scores or "Not evaluated yet: anyjepa evaluate measures it on labelled data.",
        commands=summary.commands(run.path, config, scores, type(run.method).act is not Method.act),
        pages=[(page, words) for page, words in PAGES.items() if (run.path / page).is_file()],
        curves=summary.curves(summary.CURVES, rows) if rows else "No step has been logged yet.",
        small_curves=[chart for chart in summary.curves(summary.SMALL_CURVES, rows) if chart.drawing],
        spectrum=sections.spectrum(known.spectra()) if known else absent,
        masks=known.masks() if known else absent,
        neighbours=sections.neighbours(known.looked, known.shown) if known else absent,
        patches=known.patches() if known else absent,
        health=health,
        clusters=known.clusters() if known else None,
        captioned=captioned(run, known.samples, known.indices, known.gain) if known else None,
        map=sections.embedding_map(known.looked, seed) if known else absent,
        tables=summary.tables(config),
        skipped=len(skipped),
        skipped_first=skipped[:SKIPPED_NAMED],
        made=f"Made by anyjepa {anyjepa.__version__} on {datetime.date.today().isoformat()}.",
    )


def _gram(embeddings: Tensor) -> Gram | None:
    """Sums for the measures of health; None where some are not finite."""
    finite = bool(torch.isfinite(embeddings).all())
    return Gram(embeddings.shape[1]).add(embeddings) if finite else None


def _written(folder: Path) -> float:
    """When the run was last trained, in seconds since 1970."""
    log = folder / "metrics.jsonl"
    return (log if log.exists() else folder / "config.yaml").stat().st_mtime


def _look(run: Run, source: str | np.ndarray | None, labels: str | None, most: int, seed: int) -> _Look | str:
    """A seeded choice of samples embedded by the run and by the untrained encoder, or why there are none."""
    try:
        samples = run.open(source, labels=labels)
    except UserError as problem:
        if source is not None or labels is not None:
            raise
        return f"Not shown, for the data cannot be read: {problem}"
    order = np.random.default_rng(seed).permutation(len(samples))[:most]
    places, thumbnails, embedded, untrained = [], [], [], []
    fresh = run.untrained()
    for indices, batch in run.batches(samples, indices=order):
        places.extend(indices.tolist())
        thumbnails.extend(
            sections.thumbnail(run.domain.picture(batch, row, run.facts)) for row in range(len(indices))
        )
        embedded.append(_embed(run, batch))
        untrained.append(_embed(fresh, batch))
    embeddings = torch.cat(embedded) if embedded else torch.empty(0, 1)
    finite = torch.isfinite(embeddings).all(dim=1)
    if finite.sum() < 2:
        return f"Not shown: of {len(places)} readable samples, {int(finite.sum())} have a finite embedding."
    kept = finite.nonzero().flatten().tolist()
    indices, gain = np.array(places)[kept], sections.brightness(thumbnails)
    looked = Looked(
        embeddings[finite],
        [sections.brighter(thumbnails[row], gain) for row in kept],
        [samples.identity(index) for index in indices.tolist()],
        Labels(samples.labels, samples.classes).take(indices),
    )
    return _Look(run, samples, indices, looked, torch.cat(untrained)[finite], gain, seed)


@torch.inference_mode()
def _embed(run: Run, batch: Batch) -> Tensor:
    return run.method.embed(batch).float().cpu()


class _Look:
    """Samples that were embedded, and a few of them to draw.

    `indices` (n,) are the places in `samples` of what was `looked` at, `shown` rows of these. Pictures are
    drawn `gain` times as bright.
    """

    def __init__(
        self,
        run: Run,
        samples: Samples,
        indices: np.ndarray,
        looked: Looked,
        untrained: Tensor,
        gain: float,
        seed: int,
    ) -> None:
        self.run, self.samples, self.indices, self.looked = run, samples, indices, looked
        self.untrained, self.gain, self.seed = untrained, gain, seed
        self.shown = sections.chosen(looked.labels, SHOWN, len(indices), seed)
        drawn, batch = next(run.batches(samples, indices=indices[self.shown]))
        self.batch = run.domain.annotated(batch, samples, drawn)
        self.names = [samples.identity(int(index)) for index in drawn]

    def health(self) -> Health | str:
        """Label-free measures of what was looked at, and of views of some of it."""
        sums = []
        few = self.indices[: min(VIEWED, len(self.indices) // 2)]
        for run, z in ((self.run, self.looked.embeddings), (self.run.untrained(), self.untrained)):
            context = Context(1, 1, step_generator(self.seed, 1, run.device))
            sums.append(Accumulator(z.shape[1], seed=self.seed).add(z, torch.from_numpy(self.indices)))
            for _, batch in run.batches(self.samples, few):
                if not add_views(run, context, sums[-1], batch):
                    break
        return summary.health(assess(self.run, self.samples, self.indices, sums, self.seed))

    def spectra(self) -> list[tuple[str, Tensor]]:
        """The matrices to compare, by name."""
        named = [("this run", self.looked.embeddings), ("untrained", self.untrained)]
        return [(name, embeddings) for name, embeddings in named if bool(torch.isfinite(embeddings).all())]

    def masks(self) -> Masks | Ranked | SampleViews | Imagined | str:
        """Masks over the samples shown, their views, what is expected of them, or why there is nothing."""
        return drawn(self.run, self.batch, self.names, self.gain, self.seed)

    def clusters(self) -> Clusters | None:
        """What the method's clusters gather of some of the samples."""
        return clustered(self.run, self.samples, self.indices[:POSITION_SAMPLES], self.gain)

    def patches(self) -> Patches | str:
        """The principal components of the tokens of the samples shown, or why there are none."""
        tokens = tokens_of(self.run, self.batch)
        if tokens is None:
            return f"{self.run.recipe.name} gives one vector a sample and no tokens."
        if not bool(torch.isfinite(tokens.values).all()):
            return "Not shown: the tokens are not finite numbers."
        # samples whose tokens lie at places of their own have no common position to take off
        positions = self._positions() if tokens.coordinates.shape[0] == 1 else None
        return sections.patches(
            self.run.domain, self.run.facts, self.batch, tokens, positions, self.names, self.gain
        )

    def _positions(self) -> Tensor:
        """The mean token of each position, over the first samples that were looked at."""
        total, count = torch.zeros(1, dtype=torch.float64, device=self.run.device), 0
        for _, batch in self.run.batches(self.samples, self.indices[:POSITION_SAMPLES], batch_size=32):
            tokens = tokens_of(self.run, batch)
            assert tokens is not None
            total, count = total + tokens.values.double().sum(dim=0), count + tokens.values.shape[0]
        return total / count
