"""Images with captions: read from tables, folders, shards and the hub; measured and shown."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.image_text_samples import ImageTextSamples, record
from anyjepa.domains.image_text_sources import SYNTHETIC, open_image_text
from anyjepa.domains.image_text_tables import TABLES
from anyjepa.domains.images import Images
from anyjepa.domains.text_encoders import bag_of_words

__all__ = ["ImageText"]

MEASURED = 2000  # captions whose words are counted


class ImageText(Images):
    """Images with one caption or more each.

    A batch is {"image": (n, channels, height, width), "ids": (n, length, ...) int64, "said": (n, length)
    bool}: raw pixels, the words of one caption as the text encoder's reader numbers them, and False where
    these only pad.
    """

    name = "image-text"
    reads_shards = True
    endings = frozenset({*TABLES, ".tar"})

    def open(
        self,
        source: str | np.ndarray,
        labels: str | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> ImageTextSamples:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Open a source; see :func:`anyjepa.domains.image_text_sources.open_image_text`.

        Raises UserError too where a run reads images of another number of channels.
        """
        samples = open_image_text(source, labels, split, reading)
        wanted = (reading or {}).get("channels")
        try:
            channels = samples.image(0).shape[2] if wanted is not None else None
        except BadSample:
            return samples
        if channels != wanted:
            raise UserError(
                f"{samples.source} has images of {channels} channels and this run reads {wanted}: give it "
                "others, or convert them."
            )
        return samples

    @property
    def packs(self) -> bool:
        """No: shards with captions are made by others, and read as they are."""
        return False

    def measure(self, samples: ImageTextSamples, seed: int = 0) -> dict:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As of images; and ``captions``, a sample's on average, and ``words``, the median of a caption."""
        facts = super().measure(_Pictures(samples), seed)
        said = [samples.captions(place) for place in range(min(len(samples), MEASURED))]
        words = [len(caption.split()) for captions in said for caption in captions]
        return facts | {
            "captions": float(np.mean([len(captions) for captions in said])),
            "words": int(np.median(words)) if words else 0,
        }

    def likeness(self, samples: ImageTextSamples) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Whatever has captions for sure; images alone are another kind of data."""
        return 1.0 if samples.source == SYNTHETIC or any(map(samples.captions, range(1))) else 0.0

    def in_words(self, facts: dict) -> dict[str, str]:
        """As of images, and how many captions there are of how many words."""
        said = f"{facts['captions']:.3g} an image, of {facts['words']} words (the median)"
        return super().in_words(facts) | {"captions": said}

    def raw(self, batch: dict[str, Tensor], facts: dict) -> Float[Tensor, "n features"]:
        """The pixels, averaged down to at most 32 x 32, and how often each word is in the caption."""
        pixels = super().raw(batch, facts)
        return torch.cat([pixels, bag_of_words(batch["ids"], batch["said"])], dim=1)

    def baselines(
        self, train: dict[str, Tensor], labels: Tensor, test: dict[str, Tensor], facts: dict
    ) -> dict[str, np.ndarray]:
        """Logistic regression on the words alone, and on the pixels alone: what each tells by itself."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        sides = {
            "words alone": [bag_of_words(one["ids"], one["said"]).cpu() for one in (train, test)],
            "pixels alone": [super(ImageText, self).raw(one, facts).cpu() for one in (train, test)],
        }
        found = {}
        for name, (first, second) in sides.items():
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
            with warnings.catch_warnings():
                # a baseline that is nearly there is one
                warnings.simplefilter("ignore", ConvergenceWarning)
                found[name] = classifier.fit(first.numpy(), labels.numpy()).predict(second.numpy())
        return found

    def noise(self, facts: dict, count: int) -> list[np.ndarray]:
        """Samples of independent normal pixels, without a word."""
        return [record(image, ()) for image in super().noise(facts, count)]


class _Pictures:
    """The images alone of such samples, for what is measured of images."""

    def __init__(self, samples: ImageTextSamples) -> None:
        self.samples, self.source, self.description = samples, samples.source, samples.description
        self.labels: np.ndarray | None = None
        self.classes: list[str] | None = None
        self.groups: np.ndarray | None = None
        self.problems = samples.problems

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int | np.integer) -> np.ndarray:
        """(height, width, channels)."""
        return self.samples.image(index)

    def identity(self, index: int | np.integer) -> str:
        """Of the image."""
        return self.samples.identity(index)

    def fingerprint(self) -> str:
        """Of images and captions."""
        return self.samples.fingerprint()
