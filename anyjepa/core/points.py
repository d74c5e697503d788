"""Geometry of point clouds in plain PyTorch: sampling, grouping and ordering, for a whole batch at once.

Shapes: B clouds of N points, G centres, K points a patch. Distances are Euclidean, in the clouds' own unit;
everything keeps the dtype and the device of its input.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from anyjepa.core.chance import whole_numbers
from anyjepa.core.tokens import take
from anyjepa.core.tracing import exporting, traced

MORTON_BITS = 10  # a coordinate, so that three of them fit into 30 bits

Cloud = Float[Tensor, "batch points axes"]


def normalised(points: Cloud) -> Tensor:
    """Clouds (B, N, 3) less their mean, divided by the largest norm that is left: inside the unit ball.

    A cloud that is a single place becomes all zeros.
    """
    centred = points - points.mean(dim=1, keepdim=True)
    radius = centred.square().sum(dim=2, keepdim=True).amax(dim=1, keepdim=True).sqrt()
    return centred / torch.where(radius > 0, radius, torch.ones_like(radius))


def outermost(points: Cloud) -> Int[Tensor, " batch"]:
    """Index of the point farthest from the mean of its cloud: a start that no order of the points changes."""
    return (points - points.mean(dim=1, keepdim=True)).square().sum(dim=2).argmax(dim=1)


def random_start(points: Cloud, generator: Generator) -> Int[Tensor, " batch"]:
    """Index of one point of each cloud, by chance."""
    batch, count = points.shape[:2]
    return whole_numbers(count, (batch,), generator)


def farthest_points(points: Cloud, count: int, first: Int[Tensor, " batch"]) -> Int[Tensor, "batch count"]:
    """Farthest point sampling (Eldar et al. 1997): each next point is the farthest from all chosen before.

    Args:
        points: (B, N, 3).
        count: how many to choose.
        first: (B,) index of the first. What follows is determined by it; of two points equally far the one
            of lower index is chosen.

    Returns:
        (B, count) indices. None is repeated as long as places that differ are left.
    """
    if exporting():
        return _farthest_in_a_loop(points, count, first)
    # planes of coordinates: sums over an innermost axis of three are slow
    planes = points.unbind(dim=2)
    chosen = first.unsqueeze(1)
    found = [chosen]
    nearest = torch.full_like(planes[0], torch.inf)
    for _ in range(count - 1):
        distance = torch.zeros_like(nearest)
        for plane in planes:
            distance = distance + (plane - plane.gather(1, chosen)).square()
        nearest = torch.minimum(nearest, distance)
        chosen = nearest.argmax(dim=1, keepdim=True)
        found.append(chosen)
    return torch.cat(found, dim=1)


def _farthest_in_a_loop(points: Cloud, count: int, first: Int[Tensor, " batch"]) -> Tensor:
    """The same with a loop that a graph can hold; written out, a thousand rounds take minutes to export."""
    from torch._higher_order_ops.scan import scan

    def following(state: tuple[Tensor, Tensor], _round: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        nearest, chosen = state
        distance = (points - gather_points(points, chosen.unsqueeze(1))).square().sum(dim=2)
        nearest = torch.minimum(nearest, distance)
        chosen = nearest.argmax(dim=1)
        return (nearest, chosen), chosen.clone()

    begin = torch.full_like(points[..., 0], torch.inf), first
    _, found = scan(following, begin, points.new_zeros(count - 1, 1))
    return torch.cat([first.unsqueeze(0), found]).T


def distances(
    first: Float[Tensor, "batch one axes"], second: Float[Tensor, "batch two axes"]
) -> Float[Tensor, "batch one two"]:
    """Distance of each point of `first` to each of `second`, free of the matrix-product form's rounding."""
    if traced():  # ONNX has no operator for it
        return (first.unsqueeze(2) - second.unsqueeze(1)).square().sum(dim=3).sqrt()
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def nearest_points(
    points: Cloud, centres: Float[Tensor, "batch centres axes"], count: int, radius: float | None = None
) -> Int[Tensor, "batch centres count"]:
    """Indices of the `count` points nearest to each centre, nearest first.

    With a `radius`, the nearest of those within it; slots for which there are too few hold the nearest
    point again (PointNet++'s ball query takes the first that it meets instead).
    """
    near, indices = distances(centres, points).topk(count, dim=2, largest=False, sorted=True)
    if radius is None:
        return indices
    return torch.where(near <= radius, indices, indices[..., :1])


def gather_points(
    points: Float[Tensor, "batch points width"], indices: Int[Tensor, "batch _ *any"]
) -> Tensor:
    """Rows of each cloud at `indices` (B, ...): (B, ..., width)."""
    return take(points, indices.flatten(1)).unflatten(1, indices.shape[1:])


def greedy_order(
    centres: Float[Tensor, "batch centres axes"], first: Int[Tensor, " batch"] | None = None
) -> Int[Tensor, "batch centres"]:
    """Each next centre is the nearest not yet visited (Point-JEPA, section 3.2: the greedy sequencer).

    Args:
        centres: (B, G, 3).
        first: (B,) where to start; the centre whose coordinates have the smallest sum where None.

    Returns:
        (B, G) a permutation; of equally near centres the one of lowest index comes first.
    """
    batch, count = centres.shape[:2]
    rows = torch.arange(batch, device=centres.device)
    apart = distances(centres, centres)
    at = centres.sum(dim=2).argmin(dim=1) if first is None else first
    order = [at]
    visited = torch.zeros_like(apart[:, 0])
    for _ in range(count - 1):
        visited = visited.scatter(1, at.unsqueeze(1), torch.inf)
        at = (apart[rows, at] + visited).argmin(dim=1)
        order.append(at)
    return torch.stack(order, dim=1)


def morton_order(centres: Float[Tensor, "batch centres axes"]) -> Int[Tensor, "batch centres"]:
    """Order along the z-curve (Morton 1966) through the cloud's bounding box, 1,024 cells a side."""
    low = centres.amin(dim=1, keepdim=True)
    size = (centres.amax(dim=1, keepdim=True) - low).clamp(min=torch.finfo(centres.dtype).tiny)
    cells = ((centres - low) / size * (2**MORTON_BITS - 1)).round().long()
    code = torch.zeros_like(cells[..., 0])
    axes = cells.shape[2]
    for bit in range(MORTON_BITS):
        for axis in range(axes):
            code = code | (((cells[..., axis] >> bit) & 1) << (axes * bit + axis))
    return code.argsort(dim=1, stable=True)
