"""Cutting and resizing many images at once, antialiased, as a function of given random numbers only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from anyjepa.core.errors import require

__all__ = ["crop_boxes", "random_resized_crop", "resize", "resize_boxes"]

# Above this many values an image costs more to filter than to loop over, so that cutting each image down
# to its own box first is cheaper than one batched product over whole images.
LARGEST_STACKED = 64 * 64 * 4
TORCH_DTYPES = {"uint8": torch.uint8, "uint16": torch.int32, "float32": torch.float32}

Images = Sequence[np.ndarray] | np.ndarray
Range = tuple[float | int, float | int]


def crop_boxes(
    heights: np.ndarray,
    widths: np.ndarray,
    uniforms: np.ndarray,
    area: Range,
    aspect: Range,
) -> np.ndarray:
    """(n, 4) float64 boxes (top, left, height, width) in pixels, one a row of ``uniforms``.

    The share of the image's area is uniform in ``area``, the logarithm of width / height uniform in
    ``aspect``, the position uniform over all places where the box fits. Where the box is longer than the
    image, that side is shortened to the image's.
    """
    heights, widths = np.asarray(heights, np.float64), np.asarray(widths, np.float64)
    uniforms = np.asarray(uniforms, np.float64)
    share = area[0] + (area[1] - area[0]) * uniforms[:, 0]
    low, high = np.log(aspect[0]), np.log(aspect[1])
    ratio = np.exp(low + (high - low) * uniforms[:, 1])
    pixels = share * heights * widths
    box_heights = np.minimum(np.sqrt(pixels / ratio), heights)
    box_widths = np.minimum(np.sqrt(pixels * ratio), widths)
    top = (heights - box_heights) * uniforms[:, 2]
    left = (widths - box_widths) * uniforms[:, 3]
    return np.stack([top, left, box_heights, box_widths], axis=1)


def random_resized_crop(
    samples: Images,
    uniforms: np.ndarray,
    size: tuple[int, int],
    area: Range,
    aspect: Range,
) -> Num[Tensor, "n channels height width"]:
    """A random box of each image, resized to ``size``.

    samples: n arrays (height, width, channels), or one (n, height, width, channels) array; uint8, uint16 or
    float32. uniforms: (n, at least 4) in [0, 1): area, aspect ratio, vertical and horizontal position.
    size: (height, width) in pixels. area: least and greatest share of the image's area. aspect: least and
    greatest width / height. Keeps the dtype, but uint16 becomes int32.
    """
    heights, widths = _sides(samples)
    return resize_boxes(samples, crop_boxes(heights, widths, uniforms, area, aspect), size)


def resize(samples: Images, size: int | tuple[int, int]) -> Num[Tensor, "n channels height width"]:
    """Each image resized, keeping its aspect ratio, until it just covers ``size``, and cropped to the centre.

    samples and dtype as in :func:`random_resized_crop`; one number for ``size`` means a square.
    """
    height, width = (size, size) if isinstance(size, int) else size
    heights, widths = _sides(samples)
    scale = np.minimum(heights / height, widths / width)
    box_heights, box_widths = scale * height, scale * width
    boxes = np.stack(
        [(heights - box_heights) / 2, (widths - box_widths) / 2, box_heights, box_widths], axis=1
    )
    return resize_boxes(samples, boxes, (height, width))


def resize_boxes(
    samples: Images, boxes: np.ndarray, size: tuple[int, int], each: np.ndarray | None = None
) -> Num[Tensor, "n channels height width"]:
    """The box (top, left, height, width) of each image, in pixels, resized to ``size`` by a triangle filter.

    The filter widens with the reduction, so that shrinking does not alias. Integers are rounded back. Where
    ``each`` is given, a box is that of as many images in a row, of the frames of a clip, say.
    """
    if len(samples) == 0:
        raise ValueError("there are no images to resize")
    first = samples[0]
    if isinstance(samples, np.ndarray) and first.size <= LARGEST_STACKED:
        return _resize_stack(samples, boxes, size, each)
    if first.size <= LARGEST_STACKED and all(sample.shape == first.shape for sample in samples):
        return _resize_stack(np.stack(list(samples)), boxes, size, each)
    if each is not None:
        boxes = np.repeat(boxes, each, axis=0)
    out = torch.empty((len(samples), first.shape[2], *size), dtype=TORCH_DTYPES[str(first.dtype)])
    for index, (sample, box) in enumerate(zip(samples, boxes, strict=True)):
        part, inner = _cut(sample, box, size)
        if sample.size > LARGEST_STACKED and sample.dtype == np.uint8 and sample.shape[2] in (1, 3):
            out[index] = _resize_in_pillow(part, inner, size)
        else:
            out[index] = _resize_stack(part[None], inner[None], size)[0]
    return out


def _sides(samples: Images) -> tuple[np.ndarray, np.ndarray]:
    shapes = (
        [samples.shape[1:]] * len(samples) if isinstance(samples, np.ndarray) else [s.shape for s in samples]
    )
    sides = np.array([shape[:2] for shape in shapes], np.float64).reshape(-1, 2)
    return sides[:, 0], sides[:, 1]


def _cut(sample: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that the filter sees for this box, and the box within them."""
    reach = np.maximum(box[2:] / size, 1.0) + 1
    first = np.maximum(np.floor(box[:2] - reach), 0).astype(int)
    last = np.minimum(np.ceil(box[:2] + box[2:] + reach), sample.shape[:2]).astype(int)
    return sample[first[0] : last[0], first[1] : last[1]], np.concatenate([box[:2] - first, box[2:]])


def _resize_in_pillow(image: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> Tensor:
    """The same filter, at most one grey level away: its cost grows with the taps, not the whole line.

    Not for four channels, which Pillow takes for alpha and multiplies.
    """
    pillow = require("PIL.Image", "image")
    top, left, height, width = box.tolist()
    edges = (left, top, min(left + width, image.shape[1]), min(top + height, image.shape[0]))
    picture = pillow.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    resized = np.array(picture.resize(size[::-1], pillow.Resampling.BILINEAR, box=edges))
    return torch.from_numpy(resized.reshape(*size, -1)).permute(2, 0, 1)


def _resize_stack(
    images: np.ndarray, boxes: np.ndarray, size: tuple[int, int], each: np.ndarray | None = None
) -> Tensor:
    count, height, width, channels = images.shape
    dtype = TORCH_DTYPES[str(images.dtype)]
    rows = _filter(boxes[:, 0], boxes[:, 2], height, size[0])
    columns = _filter(boxes[:, 1], boxes[:, 3], width, size[1])
    if each is not None:
        rows, columns = (part.repeat_interleave(torch.from_numpy(each), dim=0) for part in (rows, columns))
    values = torch.from_numpy(images.astype(np.float32, order="C")).view(count, height, width * channels)
    values = torch.bmm(rows, values).view(count, size[0], width, channels)
    values = values.permute(0, 3, 1, 2).reshape(count, channels * size[0], width)
    values = torch.bmm(values, columns.transpose(1, 2)).view(count, channels, *size)
    return values if dtype.is_floating_point else values.round_().to(dtype)


def _filter(start: np.ndarray, extent: np.ndarray, length: int, out: int) -> Tensor:
    """(n, out, length) float32 weights from a line of ``length`` pixels to ``out`` samples of the box."""
    scale = (extent / out)[:, None, None]
    centre = start[:, None, None] + (np.arange(out)[None, :, None] + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - centre) / np.maximum(scale, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    return torch.from_numpy((weights / weights.sum(axis=2, keepdims=True)).astype(np.float32))
