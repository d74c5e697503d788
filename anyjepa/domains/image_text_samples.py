"""Images with captions as samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.image_samples import ImageSamples

__all__ = ["ImageTextSamples", "record"]


def record(image: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """A sample: an array without axes, with fields ``image`` (height, width, channels) and ``captions``."""
    # strings of a fixed length would differ in kind from sample to sample, and numpy corrupts memory where it
    # brings such records together
    kind = np.dtype([("image", image.dtype, image.shape), ("captions", object, (len(captions),))])
    made = np.empty((), kind)
    made["image"] = image
    made["captions"] = captions
    return made


def on_white(image: np.ndarray) -> np.ndarray:
    """An image with transparency as it looks on white paper; any other as it is."""
    if image.shape[2] not in (2, 4) or image.dtype.kind != "u":
        return image
    most = np.iinfo(image.dtype).max
    seen = image[..., -1:].astype(np.float32) / most
    return np.rint(image[..., :-1] * seen + most * (1 - seen)).astype(image.dtype)


class ImageTextSamples:
    """Images, each with one caption or more; satisfies the Samples protocol.

    Args:
        images: as they were opened, with labels and groups.
        captions: of each image by its identity. An image without any is left out, and named in ``problems``.
        kind: of what, for the description.
        silent: images without captions stay, as samples without text.

    Raises:
        UserError: no image has a caption.
    """

    def __init__(
        self,
        images: ImageSamples,
        captions: Mapping[str, Sequence[str]],
        kind: str = "",
        silent: bool = False,
    ) -> None:
        self.images, self.source, self.classes = images, images.source, images.classes
        texts = [_cleaned(captions.get(images.identity(place), ())) for place in range(len(images))]
        self.rows = np.array([row for row, said in enumerate(texts) if said or silent], np.int64)
        self.texts = [texts[row] for row in self.rows]
        self.problems = list(images.problems)
        self.problems += [
            BadSample(images.identity(row), "has no caption")
            for row, said in enumerate(texts)
            if not (said or silent)
        ]
        if not len(self.rows):
            raise UserError(
                f"no image of {self.source} has a caption: name the column of the captions with "
                "--caption-column, or give files NAME.txt beside the images."
            )
        self.labels = None if images.labels is None else images.labels[self.rows]
        self.groups = None if images.groups is None else images.groups[self.rows]
        count = sum(map(len, self.texts))
        self.description = f"{len(self):,} {kind or 'images'} with {count:,} captions"

    def __len__(self) -> int:
        return len(self.rows)

    def captions(self, index: int | np.integer) -> tuple[str, ...]:
        """What is said of a sample; nothing where it has no text."""
        return self.texts[int(index)]

    def image(self, index: int | np.integer) -> np.ndarray:
        """(height, width, channels), transparent ones on white. Raises BadSample where it is damaged."""
        return on_white(self.images.read(int(self.rows[int(index)])))

    def read(self, index: int | np.integer) -> np.ndarray:
        """The image and its captions, as of `record`. Raises BadSample where the image is damaged."""
        return record(self.image(index), self.captions(index))

    def identity(self, index: int | np.integer) -> str:
        """Of the image."""
        return self.images.identity(int(self.rows[int(index)]))

    def fingerprint(self) -> str:
        """Digest of that of the images and of all captions."""
        digest = hashlib.sha256(self.images.fingerprint().encode())
        for row, said in zip(self.rows.tolist(), self.texts, strict=True):
            digest.update("\n".join([str(row), *said, ""]).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _cleaned(captions: Sequence[str]) -> tuple[str, ...]:
    """Captions on one line each, each once, without those that say nothing."""
    found = (" ".join(str(caption).replace("\0", " ").split()) for caption in captions)
    return tuple(dict.fromkeys(caption for caption in found if caption))
