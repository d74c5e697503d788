"""Health of any number of embeddings in bounded memory: sums, and a sketch of rows for what needs rows.

An `Accumulator` takes in batches, merges with others and sums over processes; ten million embeddings need no
more memory than ten thousand. It keeps its sums in a few parts, so that each measure comes with a standard
error by the jackknife (Quenouille 1956, Tukey 1958): leave one part out, and see how much the figure moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, distributed

from anyjepa.core import health
from anyjepa.core.health import Gram, Matrix, Scatters, Views
from anyjepa.core.neighbourhoods import clid, coherence, self_cluster

PARTS = 8
ROWS = 2048
NEIGHBOURS_OF = 1024  # rows that measures of neighbours look at: their cost grows with the square

OF_SUMS: dict[str, Callable[[Gram], float]] = {
    "rankme": health.rankme,
    "rankme_centred": lambda gram: health.rankme(gram, centred=True),
    "eigen_rank": health.eigen_rank,
    "numerical_rank": lambda gram: float(health.numerical_rank(gram)),
    "alpha_req": lambda gram: health.alpha_req(gram)[0],
    "alpha_req_fit": lambda gram: health.alpha_req(gram)[1],
    "stable_rank": health.stable_rank,
    "nesum": health.nesum,
    "participation_ratio": health.participation_ratio,
    "condition_number": health.condition_number,
    "first_share": health.first_share,
    "mean_cosine": health.mean_cosine,
    "spread": lambda gram: gram.spread(),
}
OF_ROWS: dict[str, Callable[[Matrix], float]] = {
    "uniformity": health.uniformity,
    "self_cluster": self_cluster,
}
OF_VIEWS: dict[str, Callable[[Scatters], float]] = {
    "lidar": health.lidar,
    "lidar_corrected": lambda sums: health.lidar(sums, corrected=True),
    "views_told_apart": health.views_told_apart,
    "alignment": lambda sums: sums.alignment(),
}


class Estimate(NamedTuple):
    """A measure of all samples, and of all but each part.

    Args:
        value: of all samples.
        without: leaving out one part each; empty where nothing can be left out.
    """

    value: float
    without: tuple[float, ...] = ()

    @property
    def error(self) -> float:
        """Standard error by the jackknife; NaN where it is not known."""
        return jackknife_error(self.without)


def jackknife_error(without: Sequence[float]) -> float:
    """sqrt((k - 1) / k * sum (t_i - mean t)^2) of k leave-one-part-out figures; NaN for fewer than two."""
    count = len(without)
    if count < 2:
        return math.nan
    mean = math.fsum(without) / count
    return math.sqrt((count - 1) / count * math.fsum((one - mean) ** 2 for one in without))


def difference_error(first: Estimate, second: Estimate) -> float:
    """Standard error of the difference of one measure between two encoders on the same samples, by parts."""
    if len(first.without) != len(second.without):
        return math.hypot(first.error, second.error)
    return jackknife_error([a - b for a, b in zip(first.without, second.without, strict=True)])


class Sketch:
    """A uniform sample, without replacement, of the rows seen so far, in random order.

    Each row draws a number, and the rows with the greatest numbers stay, so that sketches of two processes
    merge into the sketch of both.

    Args:
        dim: width of the rows.
        capacity: rows kept.
        seed: of the numbers drawn; each process of `torch.distributed` draws its own.
    """

    def __init__(self, dim: int, capacity: int = ROWS, seed: int = 0) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        own = distributed.get_rank() if together else 0
        self.generator = torch.Generator().manual_seed((seed << 16) + own)
        self.capacity = capacity
        self.keys = torch.empty(0, dtype=torch.float64)
        self.rows = torch.empty(0, dim)
        self.places = torch.empty(0, dtype=torch.int64)

    def add(self, rows: Matrix, places: Int[Tensor, " samples"]) -> Sketch:
        """Take in rows (float32 is kept) that lie at `places` of their source."""
        keys = torch.rand(len(rows), generator=self.generator, dtype=torch.float64)
        full = len(self.keys) == self.capacity
        kept = (keys > self.keys[-1]).nonzero()[:, 0] if full else torch.arange(len(keys))
        # a copy of what is kept, so that the batch can be let go of
        return self._take(keys[kept], rows.detach()[kept.to(rows.device)].float().cpu(), places[kept])

    def merge(self, other: Sketch) -> Sketch:
        """Take in what another one has seen."""
        return self._take(other.keys, other.rows, other.places)

    def _take(self, keys: Tensor, rows: Tensor, places: Tensor) -> Sketch:
        keys, rows = torch.cat([self.keys, keys]), torch.cat([self.rows, rows])
        places = torch.cat([self.places, places])
        order = keys.argsort(descending=True)[: self.capacity]
        self.keys, self.rows, self.places = keys[order], rows[order], places[order]
        return self

    def all_reduce(self) -> Sketch:
        """Take in what all processes have seen; every one of them must call it.

        Gathered as fixed sizes, on the CPU's backend: numbers below nought mark rows that are not there.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return self
        absent = self.capacity - len(self.keys)
        mine = (
            torch.cat([self.keys, -torch.ones(absent, dtype=torch.float64)]),
            torch.cat([self.rows, self.rows.new_zeros(absent, self.rows.shape[1])]),
            torch.cat([self.places, self.places.new_zeros(absent)]),
        )
        gathered = []
        for tensor in mine:
            everybody = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
            distributed.all_gather(everybody, tensor)
            gathered.append(torch.cat(everybody))
        keys, rows, places = gathered
        real = keys >= 0
        self.keys, self.rows, self.places = self.keys[:0], self.rows[:0], self.places[:0]
        return self._take(keys[real], rows[real], places[real])


class Accumulator:
    """Embeddings of one encoder: sums in parts and a sketch, from which every measure is had.

    Args:
        dim: width of the embeddings.
        parts: that the samples are dealt to, in turn; memory grows with parts * dim^2.
        rows: kept in the sketch.
        seed: of the sketch.
    """

    def __init__(self, dim: int, parts: int = PARTS, rows: int = ROWS, seed: int = 0) -> None:
        self.grams = [Gram(dim) for _ in range(parts)]
        self.scatters: list[Scatters] = []  # views may be of another width than embeddings
        self.sketch, self.seed = Sketch(dim, rows, seed), seed
        self.seen = self.refused = self.first_refused = 0

    def add(self, embeddings: Matrix, places: Int[Tensor, " samples"] | None = None) -> Accumulator:
        """Take in embeddings; those that are not finite are counted (`refused`) and left out.

        Args:
            embeddings: of any float dtype.
            places: of the samples in their source; counted from the first one seen where not given.
        """
        z = embeddings.detach().cpu()
        if places is None:
            places = torch.arange(self.seen, self.seen + len(z))
        finite = z.isfinite().all(1)
        if not bool(finite.all()):
            self.first_refused = self.first_refused if self.refused else int(places[~finite][0])
            self.refused += int((~finite).sum())
        for number, gram in enumerate(self.grams):
            dealt = slice((number - self.seen) % len(self.grams), None, len(self.grams))
            gram.add(z[dealt][finite[dealt]])
        self.sketch.add(z[finite], places[finite])
        self.seen += len(z)
        return self

    def add_views(self, views: Views) -> Accumulator:
        """Take in q views of each of some samples, for LiDAR."""
        views = views.detach().cpu()
        self._expect_views(views.shape[2])
        start = sum(sums.count for sums in self.scatters)
        for number, sums in enumerate(self.scatters):
            dealt = views[(number - start) % len(self.scatters) :: len(self.scatters)]
            if len(dealt):
                sums.add(dealt)
        return self

    def _expect_views(self, dim: int) -> None:
        if dim and not self.scatters:
            self.scatters = [Scatters(dim) for _ in self.grams]

    def merge(self, other: Accumulator) -> Accumulator:
        """Take in what another one, of as many parts, has seen."""
        self._expect_views(len(other.scatters[0].square) if other.scatters else 0)
        for mine, theirs in zip(self.grams, other.grams, strict=True):
            mine.merge(theirs)
        for mine, theirs in zip(self.scatters, other.scatters, strict=False):  # the other may have none
            mine.merge(theirs)
        self.sketch.merge(other.sketch)
        self.seen, self.refused = self.seen + other.seen, self.refused + other.refused
        return self

    def all_reduce(self) -> Accumulator:
        """Take in what all processes of `torch.distributed` have seen; every one of them must call it."""
        counts = torch.tensor([self.seen, self.refused])
        health.summed_over_processes(counts)
        self.seen, self.refused = counts.tolist()
        if distributed.is_available() and distributed.is_initialized():
            width = torch.tensor(len(self.scatters[0].square) if self.scatters else 0)
            distributed.all_reduce(width, distributed.ReduceOp.MAX)
            self._expect_views(int(width))
        for sums in (*self.grams, *self.scatters, self.sketch):
            sums.all_reduce()
        return self

    def gram(self) -> Gram:
        """The sums of all parts."""
        return _merged(self.grams)

    def estimates(self, names: Sequence[str] | None = None) -> dict[str, Estimate]:
        """Every measure that can be had, or the `names` of them; one that is not finite is absent.

        Of neighbours (`clid_learnability`, `clid_dimension`, `coherence`) no error is known.
        """
        found = _of_sums(OF_SUMS, self.grams, names) | _of_sums(OF_VIEWS, self.scatters, names)
        rows = self.sketch.rows
        if len(rows) > 1:
            parts = [rows[torch.arange(len(rows)) % PARTS != part] for part in range(PARTS)]
            for name in _wanted(OF_ROWS, names):
                without = [OF_ROWS[name](part) for part in parts] if len(rows) >= 4 * PARTS else []
                found[name] = Estimate(OF_ROWS[name](rows), tuple(without))
        if len(rows) >= 4 and (names is None or any("clid" in name or name == "coherence" for name in names)):
            few = rows[:NEIGHBOURS_OF]
            learnability, dimension = clid(few, torch.Generator().manual_seed(self.seed))
            neighbours = {"clid_learnability": learnability, "clid_dimension": dimension}
            neighbours["coherence"] = coherence(rows)
            found |= {name: Estimate(neighbours[name]) for name in _wanted(neighbours, names)}
        return {name: estimate for name, estimate in found.items() if math.isfinite(estimate.value)}


def _wanted(measures: dict[str, Callable] | dict[str, float], names: Sequence[str] | None) -> list[str]:
    return [name for name in measures if names is None or name in names]


Sums = TypeVar("Sums", Gram, Scatters)


def _merged(parts: Sequence[Sums]) -> Sums:
    whole = type(parts[0])(len(parts[0].square))
    for part in parts:
        whole.merge(part)
    return whole


def _of_sums(
    measures: dict[str, Callable[[Sums], float]], parts: Sequence[Sums], names: Sequence[str] | None
) -> dict[str, Estimate]:
    """Measures of all parts together, and of all but one."""
    sizes = [part.count for part in parts]
    wanted = _wanted(measures, names)
    if sum(sizes) < 2 or not wanted:
        return {}
    whole = _merged(parts)
    # of fewer samples, leaving a part out says more about the part than about the measure
    others = [] if min(sizes) < 2 else [_merged([p for p in parts if p is not part]) for part in parts]
    return {
        name: Estimate(measures[name](whole), tuple(measures[name](other) for other in others))
        for name in wanted
    }
