"""Regions in order of how much they stand out, numbered on the samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from markupsafe import Markup
from torch import Tensor

from anyjepa.core.method import Batch
from anyjepa.domains import Domain
from anyjepa.reports import sections
from anyjepa.reports.page import MaskedSample, Ranked
from anyjepa.reports.pictures import Picture, data_uri, fit

# from what stands out least to what does most, lighter all the way
HEAT = np.array([[13, 20, 60], [120, 30, 110], [240, 130, 50], [255, 245, 190]], dtype=np.float64) / 255
LARGEST = 160  # pixels a side


def ranked(
    domain: Domain,
    facts: dict,
    batch: Batch,
    ranks: Int[Tensor, "batch tokens"],
    saliency: Float[Tensor, "batch tokens"],
    coordinates: Float[Tensor, "shared tokens 2"],
    names: Sequence[str],
    gain: float = 1.0,
) -> Ranked:
    """Each sample `gain` times as bright: whole, its saliency, and its regions tinted and numbered."""
    rows = []
    for index, name in enumerate(names):
        own, last = ranks[index].cpu(), int(ranks[index].max())
        whole = sections.shown(domain, facts, batch, index, f"Sample {name}", "sample", gain)
        heat = sections.shown(
            domain, facts, batch, index, f"Saliency of sample {name}", "saliency", gain,
            heat_colours(saliency[index]),
        )  # fmt: skip
        plain = domain.picture(batch, index, facts)
        painted = domain.picture(batch, index, facts, region_colours(own))
        counted = f"{last} region{'s' * (last != 1)} and the background" if last else "no region"
        rows.append(
            MaskedSample(
                whole, heat, numbered(
                    sections.tint(plain, painted, 0.5, gain), middles(own, coordinates[0].cpu()),
                    f"Sample {name}: {counted}, by saliency", counted,
                ),
            )
        )  # fmt: skip
    return Ranked(rows, gain)


def heat_colours(saliency: Float[Tensor, " tokens"]) -> Float[Tensor, "tokens 3"]:
    """Colours of saliency in 0..1."""
    values, stops = saliency.detach().double().cpu().numpy(), np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, stops, HEAT[:, channel]) for channel in range(3)]
    return torch.from_numpy(np.stack(channels, axis=1)).float()


def region_colours(ranks: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens 3"]:
    """A colour for each region; NaN (leave as is) in the background, which is the last one."""
    colours = torch.full((len(ranks), 3), torch.nan)
    for rank in range(int(ranks.max())):
        colour = sections.BLOCK_COLOURS[rank % len(sections.BLOCK_COLOURS)]
        colours[ranks == rank] = torch.tensor([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return colours


def middles(
    ranks: Int[Tensor, " tokens"], coordinates: Float[Tensor, "tokens 2"]
) -> list[tuple[float, float]]:
    """Of each region the middle of the token nearest to the region's mean: (across, down) in 0..1."""
    size = coordinates.amax(0) + 1
    found = []
    for rank in range(int(ranks.max()) + 1):
        inside = coordinates[ranks == rank]
        nearest = inside[(inside - inside.mean(0)).square().sum(1).argmin()]
        down, across = ((nearest + 0.5) / size).tolist()
        found.append((across, down))
    return found


def numbered(
    pixels: np.ndarray, places: Sequence[tuple[float, float]], alt: str, caption: str = ""
) -> Picture:
    """A picture with the numbers 1, 2, ... at `places`, which are (across, down) in 0..1."""
    pixels = fit(pixels, LARGEST)
    height, width = pixels.shape[:2]
    radius = 0.075 * max(height, width)
    # numbers of our own and an encoded picture: nothing in here can be markup
    marks = "".join(
        f'<circle cx="{across * width:.1f}" cy="{down * height:.1f}" r="{radius:.1f}" style="fill:#000c"/>'
        f'<text x="{across * width:.1f}" y="{down * height:.1f}" dy="0.36em" text-anchor="middle" '
        f'font-size="{1.4 * radius:.1f}" font-weight="700" style="fill:#fff">{number}</text>'
        for number, (across, down) in enumerate(places, 1)
    )
    drawing = (
        f'<svg viewBox="0 0 {width} {height}" style="width:100%;display:block;border-radius:6px">'
        f'<image href="{data_uri(pixels)}" width="{width}" height="{height}" '
        f'style="image-rendering:pixelated"/>{marks}</svg>'
    )
    return Picture("", width, height, alt, caption, drawing=Markup(drawing))
