"""Rotations in space as unit quaternions (x, y, z, w), and what turns one view of a thing into another.

q and -q are the same rotation; what is compared or told to a network is made to have w >= 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Quaternions = Float[Tensor, "*any 4"]


def product(first: Quaternions, second: Quaternions) -> Quaternions:
    """The rotation that is `second` followed by `first`, as matrices multiply."""
    a, b = first[..., :3], second[..., :3]
    v, w = first[..., 3:], second[..., 3:]
    vector = v * b + w * a + torch.linalg.cross(a, b)
    return torch.cat([vector, v * w - (a * b).sum(-1, keepdim=True)], dim=-1)


def inverse(rotations: Quaternions) -> Quaternions:
    """What undoes each: the conjugate."""
    return rotations * rotations.new_tensor([-1.0, -1.0, -1.0, 1.0])


def canonical(rotations: Quaternions) -> Quaternions:
    """The same rotations of unit length with w >= 0."""
    unit = rotations / rotations.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return torch.where(unit[..., 3:] < 0, -unit, unit)


def between(before: Quaternions, after: Quaternions) -> Quaternions:
    """inverse(before) * after, with w >= 0 (seq-JEPA's relative rotation, R_i^-1 R_i+1)."""
    return canonical(product(inverse(before), after))


def matrices(rotations: Quaternions) -> Float[Tensor, "*any 3 3"]:
    """The same as matrices."""
    x, y, z, w = (rotations / rotations.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def from_angles(angles: Float[Tensor, "*any 3"]) -> Quaternions:
    """Of angles in radians about the fixed axes x, y and z, in this order (as `poses.rotation`)."""
    half, zero = angles / 2, torch.zeros_like(angles[..., 0])
    (a, b, c), (d, e, f) = half.cos().unbind(-1), half.sin().unbind(-1)
    about_x = torch.stack([d, zero, zero, a], dim=-1)
    about_y = torch.stack([zero, e, zero, b], dim=-1)
    about_z = torch.stack([zero, zero, f, c], dim=-1)
    return product(about_z, product(about_y, about_x))
