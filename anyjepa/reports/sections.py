"""The report's sections that look at samples: from embeddings, tokens and masks to what the page draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from markupsafe import Markup
from torch import Tensor
from torch.nn import functional

from anyjepa.core.health import Gram, rankme
from anyjepa.core.tokens import Tokens
from anyjepa.domains import Domain
from anyjepa.reports.charts import COLOURS, SHAPES, Chart, Series, line_chart, short
from anyjepa.reports.page import EmbeddingMap, MaskedSample, Masks, Neighbours, Patches, SampleViews
from anyjepa.reports.pictures import Picture, data_uri, fit, picture, sprite_sheet

BLOCK_COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#f0e442", "#0072b2", "#d55e00")  # Okabe and Ito
HIDDEN = 0.55  # grey of what an encoder does not see, on either theme
MAPPED = 800  # points on the map: t-SNE takes seconds, and more would hide each other
NAMED = COLOURS * SHAPES  # classes that have a mark of their own
SMALLEST_MAP = 5
THUMBNAIL = 96  # pixels a side


@dataclass(frozen=True)
class Labels:
    """Labels of samples: `values` (n,) are class numbers (-1 unknown) or float targets (NaN unknown).

    Or (n, classes): 1 for each class that a sample is of, 0 for the others, -1 where unknown.
    """

    values: np.ndarray | None
    classes: Sequence[str] | None = None

    @property
    def are_classes(self) -> bool:
        """There are labels, and they are classes, one a sample."""
        return (
            self.values is not None and self.values.ndim == 1 and np.issubdtype(self.values.dtype, np.integer)
        )

    @property
    def are_several(self) -> bool:
        """A sample may be of several classes."""
        return self.values is not None and self.values.ndim == 2

    def known(self, index: int) -> bool:
        """The label of sample `index` is known."""
        if self.values is None:
            return False
        value = self.values[index]
        if self.are_several:
            return bool((value >= 0).any())
        return bool(value >= 0) if self.are_classes else bool(np.isfinite(value))

    def text(self, index: int) -> str:
        """The label of sample `index` in words; empty where unknown."""
        if self.values is None or not self.known(index):
            return ""
        if self.are_several:
            return ", ".join(self.name(int(number)) for number in np.flatnonzero(self.values[index] == 1))
        return self.name(int(self.values[index])) if self.are_classes else short(float(self.values[index]))

    def name(self, number: int) -> str:
        """The name of class `number`."""
        return self.classes[number] if self.classes is not None else str(number)

    def take(self, indices: np.ndarray) -> Labels:
        """The labels of the samples at `indices`."""
        return self if self.values is None else Labels(self.values[indices], self.classes)


@dataclass(frozen=True)
class Looked:
    """Samples that the report looks at, and what the run makes of them.

    Args:
        embeddings: (n, dim) float32, finite.
        thumbnails: n pictures (h, w, 3) uint8.
        identities: n names.
        labels: of the n samples.
    """

    embeddings: Float[Tensor, "n dim"]
    thumbnails: Sequence[np.ndarray]
    identities: Sequence[str]
    labels: Labels

    def caption(self, index: int) -> str:
        """Label and name of a sample."""
        return "\n".join(part for part in (self.labels.text(index), self.identities[index]) if part)


def chosen(labels: Labels, count: int, among: int, seed: int) -> list[int]:
    """At most `count` of `among` samples, drawn with `seed`; of as many classes as there are."""
    order = np.random.default_rng(seed).permutation(among).tolist()
    if not labels.are_classes or labels.values is None:
        return order[:count]
    met: dict[int, int] = {}
    rounds = []
    for index in order:
        label = int(labels.values[index])
        rounds.append(met.get(label, 0))
        met[label] = rounds[-1] + 1
    return [order[position] for position in np.argsort(rounds, kind="stable")[:count]]


def spectrum(named: Sequence[tuple[str, Tensor]]) -> Chart:
    """Singular values, as shares of their sum, and RankMe of each named matrix of embeddings (n, dim)."""
    lines, legend = [], []
    for name, embeddings in named:
        gram = Gram(embeddings.shape[1]).add(embeddings)
        share = (gram.singular_values() / gram.singular_values().sum()).numpy()
        # what float32 cannot tell from zero is rounding, not a direction
        share = np.where(share > 1e-7 * share.max(), share, np.nan)
        lines.append(Series(name, np.arange(1, len(share) + 1.0), share))
        legend.append((name, f"RankMe {short(rankme(gram))}"))
    chart = line_chart("Singular values", lines, "rank of the singular value", "share of the sum", log_y=True)
    below = sum(int(np.isnan(line.y).sum()) for line in lines)
    note = f"{below} below the accuracy of float32 are not drawn." if below else ""
    return Chart(chart.title, chart.drawing, legend, chart.hover, note)


def masks(
    domain: Domain,
    facts: dict,
    batch: dict[str, Tensor],
    context: Int[Tensor, "batch seen"],
    targets: Int[Tensor, "batch blocks hidden"],
    tokens: int,
    names: Sequence[str],
    gain: float = 1.0,
) -> Masks:
    """Each sample `gain` times as bright: whole, as its context, and with its target blocks tinted."""
    colours = [BLOCK_COLOURS[block % len(BLOCK_COLOURS)] for block in range(targets.shape[1])]
    rows = []
    for index, name in enumerate(names):
        count = f"{len(context[index].unique())} of {tokens}"
        rows.append(
            MaskedSample(
                shown(domain, facts, batch, index, f"Sample {name}", "sample", gain),
                shown(
                    domain, facts, batch, index, f"The {count} tokens that are seen", f"seen: {count}", gain,
                    context_colours(context[index], tokens), 0.88,
                ),
                shown(
                    domain, facts, batch, index, f"{len(colours)} target blocks", "targets", gain,
                    block_colours(targets[index], tokens, colours), 0.62,
                ),
            )
        )  # fmt: skip
    return Masks(rows, colours, gain)


def views(
    domain: Domain,
    facts: dict,
    batch: dict[str, Tensor],
    augmented: Mapping[str, dict[str, Tensor]],
    names: Sequence[str],
    gain: float = 1.0,
    agree: bool = True,
) -> SampleViews:
    """Each sample `gain` times as bright, whole, and its views by name; they `agree` or are a sequence."""
    rows = []
    for index, name in enumerate(names):
        pictures = [
            shown(domain, facts, view, index, f"{kind} view of sample {name}", kind, gain)
            for kind, view in augmented.items()
        ]
        rows.append((shown(domain, facts, batch, index, f"Sample {name}", "sample", gain), pictures))
    return SampleViews(rows, gain, agree)


def shown(
    domain: Domain,
    facts: dict,
    batch: dict[str, Tensor],
    index: int,
    alt: str,
    caption: str = "",
    gain: float = 1.0,
    colours: Tensor | None = None,
    strength: float = 1.0,
) -> Picture:
    """One sample as its domain draws it, its tokens tinted by `colours` where they are given."""
    drawing = domain.figure(batch, index, facts, colours)
    if drawing is not None:
        return Picture("", 0, 0, alt, caption, drawing=Markup(drawing))
    whole = domain.picture(batch, index, facts)
    if colours is None:
        return picture(brighter(whole, gain), alt, caption)
    return picture(tint(whole, domain.picture(batch, index, facts, colours), strength, gain), alt, caption)


def context_colours(context: Int[Tensor, " seen"], tokens: int) -> Float[Tensor, "tokens 3"]:
    """Grey for each token outside the context, NaN (leave as is) inside."""
    colours = torch.full((tokens, 3), HIDDEN)
    colours[context.cpu()] = torch.nan
    return colours


def block_colours(
    targets: Int[Tensor, "blocks hidden"], tokens: int, colours: Sequence[str]
) -> Float[Tensor, "tokens 3"]:
    """The mean colour (#rrggbb) of the blocks a token lies in, NaN (leave as is) outside all."""
    total, count = torch.zeros(tokens, 3), torch.zeros(tokens, 1)
    for block, colour in zip(targets.cpu(), colours, strict=True):
        total[block] += torch.tensor([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
        count[block] += 1
    return total / count  # zero blocks: 0 / 0 is the NaN that is wanted


def brightness(pictures: Sequence[np.ndarray]) -> float:
    """Factor that makes (h, w, 3) uint8 pictures visible; 1 unless all are in the dark half.

    Counts and label maps are images too, and may use few of the 256 levels.
    """
    highest = max((int(pixels.max()) for pixels in pictures), default=255)
    return 255 / highest if 0 < highest < 128 else 1.0


def brighter(pixels: np.ndarray, gain: float) -> np.ndarray:
    """(h, w, 3) uint8 multiplied by `gain`."""
    return np.rint(np.minimum(pixels * gain, 255)).astype(np.uint8)


def tint(whole: np.ndarray, painted: np.ndarray, share: float, gain: float = 1.0) -> np.ndarray:
    """`share` of the paint over `whole` made `gain` times as bright; unpainted, `painted` is `whole`."""
    covered = (painted != whole).any(axis=2, keepdims=True)
    bright = brighter(whole, gain)
    return np.where(covered, np.rint(bright * (1 - share) + painted * share), bright).astype(np.uint8)


def neighbours(looked: Looked, queries: Sequence[int], count: int = 6) -> Neighbours:
    """The `count` samples nearest by cosine to each query, the query itself left out."""
    unit = directions(looked.embeddings)
    likeness = unit[list(queries)] @ unit.T
    likeness[torch.arange(len(queries)), list(queries)] = -torch.inf
    nearest = likeness.topk(min(count, len(unit) - 1), dim=1)
    values, order = nearest.values.tolist(), nearest.indices.tolist()
    rows = []
    for query, found, cosines in zip(queries, order, values, strict=True):
        pictures = [
            _neighbour(looked, index, _tone(looked.labels, query, index), cosine)
            for index, cosine in zip(found, cosines, strict=True)
        ]
        rows.append((_neighbour(looked, query, ""), pictures))
    return Neighbours(rows, len(unit), *_hits(looked.labels, queries, order))


def directions(embeddings: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Unit-length embeddings less their mean: what all share would make every cosine nearly 1."""
    return functional.normalize(embeddings - embeddings.mean(dim=0), dim=1)


def _tone(labels: Labels, query: int, found: int) -> str:
    if not labels.are_classes or labels.values is None or not (labels.known(query) and labels.known(found)):
        return ""
    return "right" if labels.values[query] == labels.values[found] else "wrong"


def _hits(
    labels: Labels, queries: Sequence[int], order: list[list[int]]
) -> tuple[float | None, float | None]:
    """Share of neighbours with the query's label, and that of all other samples; None without labels."""
    tones = [_tone(labels, query, i) for query, found in zip(queries, order, strict=True) for i in found]
    known = [tone == "right" for tone in tones if tone]
    if not known or labels.values is None:
        return None, None
    everybody = labels.values[labels.values >= 0]
    shares = [
        ((everybody == labels.values[query]).sum() - 1) / max(1, len(everybody) - 1)
        for query in queries
        if labels.known(query)
    ]
    return float(np.mean(known)), float(np.mean(shares))


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 as small as neighbours and the map need it: a thousand are held at once."""
    return fit(pixels, THUMBNAIL)


def _neighbour(looked: Looked, index: int, tone: str, likeness: float | None = None) -> Picture:
    label = looked.labels.text(index)
    near = "" if likeness is None else f"{likeness:.2f}"
    words = f"Sample {looked.identities[index]}" + (f", cosine {near}" if near else ", the query")
    caption = " · ".join(part for part in (label, near) if part)
    return picture(looked.thumbnails[index], words, caption, tone, most=THUMBNAIL)


def token_colours(
    tokens: Tokens, positions: Float[Tensor, "tokens width"] | None
) -> tuple[Float[Tensor, "batch tokens 3"], float]:
    """First three principal components of all tokens, each scaled to 0..1, and their share of the variance.

    Args:
        tokens: of the samples shown; those that are not present come out NaN.
        positions: the mean token of each position, taken off first; None to leave it.
    """
    values = tokens.values.detach().double().cpu()
    if positions is not None:
        values = values - positions.double().cpu()
    real = torch.ones(values.shape[:2], dtype=torch.bool) if tokens.present is None else tokens.present.cpu()
    rows = values[real] - values[real].mean(dim=0)
    variances, axes = torch.linalg.eigh(rows.T @ rows)
    axes = axes.flip(1)[:, :3]
    # the sign of an axis is arbitrary; fixed, so that the colours are the same on every machine
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    scores = rows @ axes
    low, high = scores.quantile(0.01, dim=0), scores.quantile(0.99, dim=0)
    colours = torch.full((*values.shape[:2], 3), torch.nan)
    scaled = (scores - low) / (high - low).clamp(min=1e-300)
    scaled[:, high <= low] = 0.5  # a component without variance is mid grey
    colours[real] = functional.pad(scaled.clamp(0, 1), (0, 3 - scaled.shape[1]), value=0.5).float()
    return colours, float(variances.flip(0)[:3].sum() / variances.sum().clamp(min=1e-300))


def patches(
    domain: Domain,
    facts: dict,
    batch: dict[str, Tensor],
    tokens: Tokens,
    positions: Float[Tensor, "tokens width"] | None,
    names: Sequence[str],
    gain: float = 1.0,
) -> Patches:
    """Each sample, `gain` times as bright, beside its tokens in the colours of `token_colours`."""
    colours, explained = token_colours(tokens, positions)
    pairs = []
    for index, name in enumerate(names):
        sample = shown(domain, facts, batch, index, f"Sample {name}", "", gain)
        alt = f"Tokens of sample {name} as colours"
        pairs.append((sample, shown(domain, facts, batch, index, alt, "", gain, colours[index])))
    return Patches(pairs, explained, positions is not None)


def embedding_map(looked: Looked, seed: int) -> EmbeddingMap | str:
    """t-SNE of the directions of at most 800 embeddings, from their first two principal components."""
    from sklearn.manifold import TSNE  # slow to import

    count = min(MAPPED, len(looked.embeddings))
    if count < SMALLEST_MAP:
        return f"Not shown: a map of {count} embedding{'s' * (count != 1)} would say nothing."
    unit = directions(looked.embeddings[:count]).double().numpy()
    if np.ptp(unit, axis=0).max() < 1e-6:
        return "Not shown: all embeddings point the same way."
    points = TSNE(init="pca", perplexity=min(30.0, (count - 1) / 3), random_state=seed).fit_transform(unit)
    marks, legend = map_marks(looked.labels.take(np.arange(count)), count)
    cell = 40 if count > 200 else 64
    sheet, columns = sprite_sheet([fit(one, cell) for one in looked.thumbnails[:count]], cell)
    sprite = Picture(data_uri(sheet), sheet.shape[1], sheet.shape[0], "")
    return EmbeddingMap(points, marks, [looked.caption(i) for i in range(count)], legend, sprite, columns)


def map_marks(labels: Labels, count: int) -> tuple[list[int | str], list[tuple[int | str, str]]]:
    """The mark of each of `count` points by its label, and the marks' names.

    The most frequent classes have a mark of their own, the rest are grey. Targets that are numbers run from
    blue through grey to orange.
    """
    if labels.values is None or not any(labels.known(index) for index in range(count)):
        return [0] * count, []
    if labels.are_several:  # one colour cannot say several
        return [0] * count, []
    if not labels.are_classes:
        return _graded(labels.values)
    numbers, counts = np.unique(labels.values[labels.values >= 0], return_counts=True)
    kept = sorted(numbers[np.argsort(-counts, kind="stable")[:NAMED]].tolist())
    marks = {number: mark for mark, number in enumerate(kept)}
    legend: list[tuple[int | str, str]] = [(mark, labels.name(number)) for number, mark in marks.items()]
    rest = len(numbers) - len(kept)
    unknown = bool((labels.values < 0).any())
    if rest or unknown:
        legend.append((-1, f"{rest} more classes" if rest else "label unknown"))
    return [marks.get(int(value), -1) for value in labels.values], legend


def _graded(values: np.ndarray) -> tuple[list[int | str], list[tuple[int | str, str]]]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    stops = np.array([[0, 96, 200], [150, 150, 150], [235, 130, 0]], dtype=np.float64)

    def colour(value: float) -> int | str:
        if not np.isfinite(value):
            return -1
        share = (value - low) / (high - low) if high > low else 0.5
        red, green, blue = (np.interp(share, [0, 0.5, 1], stops[:, channel]) for channel in range(3))
        return f"rgb({red:.0f},{green:.0f},{blue:.0f})"

    return [colour(float(value)) for value in values], [
        (colour(value), short(value)) for value in (low, (low + high) / 2, high)
    ]
