"""Clips to batches: one random crop for all frames of a clip in training, the centre of it in use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from anyjepa.domains.image_crops import Range, crop_boxes, resize_boxes

__all__ = ["cover", "random_crops"]

Clips = Sequence[np.ndarray] | np.ndarray


def random_crops(
    clips: Clips, uniforms: np.ndarray, frames: int, size: tuple[int, int], area: Range, aspect: Range,
    flip: float = 0.5,
) -> Num[Tensor, "n channels frames height width"]:  # fmt: skip
    """A stretch of each clip, a box of it resized to ``size``, mirrored or not: alike for all its frames.

    clips: n arrays (frames, height, width, channels), or one such of all; of a clip with more frames than
    ``frames`` a stretch is drawn. uniforms: (n, at least 6) in [0, 1): area, aspect ratio, vertical and
    horizontal place, mirroring, time. area, aspect: as of `random_resized_crop`. flip: chance of mirroring.
    """
    cut = []
    for clip, chance in zip(clips, uniforms[:, 5], strict=True):
        start = int(chance * (len(clip) - frames + 1)) if len(clip) > frames else 0
        cut.append(clip[start : start + frames])
    heights, widths = (np.array([clip.shape[axis] for clip in cut], np.float64) for axis in (1, 2))
    found = _resized(cut, crop_boxes(heights, widths, uniforms, area, aspect), frames, size)
    mirrored = torch.from_numpy(uniforms[:, 4] < flip).view(-1, 1, 1, 1, 1)
    return torch.where(mirrored, found.flip(4), found)


def cover(clips: Clips, frames: int, size: tuple[int, int]) -> Num[Tensor, "n channels frames height width"]:
    """The middle ``frames`` of each clip, resized until they just cover ``size``, and their centre."""
    cut = [clip[max(0, len(clip) - frames) // 2 :][:frames] for clip in clips]
    boxes = []
    for clip in cut:
        height, width = clip.shape[1:3]
        scale = min(height / size[0], width / size[1])
        box = scale * size[0], scale * size[1]
        boxes.append([(height - box[0]) / 2, (width - box[1]) / 2, *box])
    return _resized(cut, np.array(boxes), frames, size)


def _resized(clips: Sequence[np.ndarray], boxes: np.ndarray, frames: int, size: tuple[int, int]) -> Tensor:
    """(n, channels, frames, height, width); a clip that is too short ends on its last frame."""
    # an image is one frame, and resized once
    each = np.array([len(clip) for clip in clips])
    shapes = {clip.shape[1:] for clip in clips}
    images = np.concatenate(clips) if len(shapes) == 1 else [frame for clip in clips for frame in clip]
    flat = resize_boxes(images, boxes, size, each)
    starts = np.cumsum(each) - each
    order = starts[:, None] + np.minimum(np.arange(frames), each[:, None] - 1)
    return flat[torch.from_numpy(order)].transpose(1, 2).contiguous()
