"""SIGReg: embeddings held near an isotropic normal, one random direction at a time.

LeJEPA (Balestriero & LeCun 2025, arXiv:2511.08544): the mean of a univariate statistic of normality over the
embeddings' projections on M random unit vectors, drawn anew each step. By Cramer and Wold a distribution all
of whose projections are standard normal is N(0, I).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from anyjepa.core.epps_pulley import epps_pulley, expected_epps_pulley

Design = Literal["gaussian", "orthogonal", "sobol"]
Statistic = Callable[[Tensor], Tensor]
DEVIATION = 0.97  # of Epps-Pulley over draws of a standard normal; measured at N = 512


def directions(
    dim: int,
    count: int,
    generator: Generator,
    dtype: torch.dtype = torch.float32,
    design: Design = "gaussian",
) -> Float[Tensor, "dim slices"]:
    """Unit vectors as columns, a function of the generator alone: the same in every process of a step.

    Args:
        dim: of the embeddings.
        count: of the directions.
        generator: seeded from (seed, step); the directions are on its device.
        dtype: of the directions.
        design: "gaussian" (independent, as published); "orthogonal" (blocks of `dim` that are orthogonal to
            each other) and "sobol" (quasi-random) cover the sphere more evenly.
    """
    options = {"generator": generator, "device": generator.device, "dtype": dtype}
    if design == "orthogonal":
        blocks = torch.randn(math.ceil(count / dim), dim, dim, **options)
        vectors = torch.linalg.qr(blocks).Q
        # uniform over rotations only once the signs that QR leaves open are drawn too
        signs = torch.where(torch.rand(blocks.shape[0], 1, dim, **options) < 0.5, -1.0, 1.0)
        return (vectors * signs.to(dtype)).transpose(0, 1).flatten(1)[:, :count]
    if design == "sobol":
        seed = generator.initial_seed() & (2**63 - 1)
        even = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(count, dtype=dtype)
        normal = torch.special.ndtri(even.clamp(1e-6, 1 - 1e-6)).to(generator.device)
        return functional.normalize(normal.T, dim=0)
    return functional.normalize(torch.randn(dim, count, **options), dim=0)


def sigreg(
    embeddings: Float[Tensor, "*batch samples dim"],
    slices: Float[Tensor, "dim slices"],
    statistic: Statistic = epps_pulley,
) -> Float[Tensor, ""]:
    """Mean of the statistic over directions and over what is batch (views).

    Projections are made in float32 or better, whatever the autocast: phases t x lose accuracy in bf16.

    Args:
        embeddings: N of each view.
        slices: unit vectors as columns, from `directions`.
        statistic: of `normality.STATISTICS`.
    """
    return per_slice(embeddings, slices, statistic).mean()


def per_slice(
    embeddings: Float[Tensor, "*batch samples dim"],
    slices: Float[Tensor, "dim slices"],
    statistic: Statistic = epps_pulley,
) -> Float[Tensor, "*batch slices"]:
    """The statistic of each direction."""
    with torch.autocast(embeddings.device.type, enabled=False):
        single = embeddings.dtype in (torch.float16, torch.bfloat16)
        z = embeddings.float() if single else embeddings
        # samples innermost, as Epps-Pulley wants them
        return statistic((slices.to(z.dtype).T @ z.mT).mT)


def worst_direction(
    embeddings: Float[Tensor, "samples dim"],
    generator: Generator,
    statistic: Statistic = epps_pulley,
    starts: int = 256,
    steps: int = 50,
    rate: float = 0.1,
) -> tuple[Float[Tensor, " dim"], float]:
    """The direction least like a normal, by gradient ascent from random ones, and its statistic.

    The mean over slices hides one bad direction among hundreds of good ones; this finds it. Some direction of
    any cloud looks odd, so compare the value with that of as many normal draws (`Normality.worst_of_chance`).

    Args:
        embeddings: of one view.
        generator: for the directions to begin from.
        statistic: to make large.
        starts: random directions to try.
        steps: of ascent along the sphere.
        rate: length of a step, on the sphere of radius 1.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # a copy, since embeddings made in inference mode cannot take part in a gradient
        z = embeddings.detach().clone().float()
        best = directions(z.shape[1], starts, generator, z.dtype)
        for _ in range(steps):
            best.requires_grad_()
            (slope,) = torch.autograd.grad(per_slice(z, best, statistic).sum(), best)
            along = slope - best.detach() * (slope * best.detach()).sum(0)
            best = functional.normalize(best.detach() + rate * functional.normalize(along, dim=0), dim=0)
        values = per_slice(z, best, statistic)
    worst = int(values.argmax())
    return best[:, worst], float(values[worst])


class Normality(NamedTuple):
    """How normal embeddings look: `mean` Epps-Pulley a slice, what iid normal draws give, the worst slice.

    A mean below `low` is more regular than chance; far above `high` the embeddings are not normal, and
    0.4 N is a single point. Neighbouring slices of one batch are not independent, so the band is a guide.
    `worst_of_chance` is the worst slice found in the same way of normal draws of the same shape.
    """

    mean: float
    expected: float
    low: float
    high: float
    worst: float
    worst_of_chance: float

    @classmethod
    def of(
        cls, embeddings: Float[Tensor, "samples dim"], generator: Generator, slices: int = 256
    ) -> Normality:
        """Measured on `slices` random directions, and on the worst that is found."""
        z = embeddings.detach().float()
        mean = float(sigreg(z, directions(z.shape[1], slices, generator, z.dtype)))
        expected = expected_epps_pulley()
        # no more directions can be independent than there are dimensions
        width = 2 * DEVIATION / math.sqrt(min(slices, z.shape[1]))
        chance = torch.randn(z.shape, generator=generator, device=generator.device)
        worst, usual = (worst_direction(cloud, generator)[1] for cloud in (z, chance))
        return cls(mean, expected, expected - width, expected + width, worst, usual)
