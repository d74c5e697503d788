"""Poses of a hand: place, Euler angles and opening of the gripper; what moves one to the next, and back.

A pose is 7 numbers: x, y, z in metres, angles about the fixed axes x, y and z in radians (R = Rz Ry Rx), and
the gripper's opening. An action is their difference, the rotation's as the angles of R_after R_before^T
(V-JEPA 2, section 3.1; note).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

POSE = 7


def rotation(angles: Float[Tensor, "*any 3"]) -> Float[Tensor, "*any 3 3"]:
    """Matrices of angles about x, y and z, applied in this order."""
    (a, b, c), (d, e, f) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = [
        [b * c, d * e * c - a * f, a * e * c + d * f],
        [b * f, d * e * f + a * c, a * e * f - d * c],
        [-e, d * b, a * b],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def euler(matrices: Float[Tensor, "*any 3 3"]) -> Float[Tensor, "*any 3"]:
    """Angles about x, y and z of rotations: the one about y within a quarter turn, the others in a half."""
    flat = torch.hypot(matrices[..., 0, 0], matrices[..., 1, 0])
    return torch.stack(
        [
            torch.atan2(matrices[..., 2, 1], matrices[..., 2, 2]),
            torch.atan2(-matrices[..., 2, 0], flat),
            torch.atan2(matrices[..., 1, 0], matrices[..., 0, 0]),
        ],
        dim=-1,
    )


def differences(poses: Float[Tensor, "*any steps 7"]) -> Float[Tensor, "*any actions 7"]:
    """The actions between poses that follow each other: one less than there are poses."""
    before, after = poses[..., :-1, :], poses[..., 1:, :]
    turned = rotation(after[..., 3:6]) @ rotation(before[..., 3:6]).mT
    parts = [after[..., :3] - before[..., :3], euler(turned), after[..., 6:] - before[..., 6:]]
    return torch.cat(parts, dim=-1)


def moved(pose: Float[Tensor, "*any 7"], action: Float[Tensor, "*any 7"]) -> Float[Tensor, "*any 7"]:
    """The pose after an action: undoes `differences`."""
    turned = rotation(action[..., 3:6]) @ rotation(pose[..., 3:6])
    parts = [pose[..., :3] + action[..., :3], euler(turned), pose[..., 6:] + action[..., 6:]]
    return torch.cat(parts, dim=-1)
