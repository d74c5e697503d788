"""Joint image-volume representation learning: clusters of slices, of volumes, and masked slice embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from anyjepa.core.clustering import Assignment
from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch
from anyjepa.domains import Samples
from anyjepa.domains.volume import fitted
from anyjepa.domains.volume_encoder import SliceTrunk, VolumeEncoder
from anyjepa.domains.volume_views import TRANSFORMS
from anyjepa.recipes import Recipe
from anyjepa.recipes.image_volume_method import ImageVolumeMethod


@dataclass(frozen=True, kw_only=True)
class ImageVolume(Recipe):
    """Joint self-supervised image-volume learning (Nguyen et al., AAAI 2023, arXiv:2212.01893).

    One encoder for pictures and volumes. A ResNet embeds each slice from the averages of all its stages; a
    transformer whose attention reads at few places between slices, which it chooses itself, makes of these
    what each slice says within its volume, and their mean, of unit length, is the volume's embedding. Three
    losses train it. Slices: two crops of a slice must be told to be of the same of 3 x 3,000 clusters.
    Masks: a tenth of the slice embeddings is replaced by a learned one, and the transformer tells what was
    there. Volumes: two views of a volume must be told to be of the same of 3 x 4 clusters.

    The paper adds the losses up, which is the default here; the released scripts run them one after the
    other. For that: ``anyjepa train image-volume --data images:xrays/ --weights 1 0 0 --out a``, then
    ``--data scans/ --weights 0 1 0 --trunk frozen --init a --out b``, then ``--weights 0 0 1 --init b``.
    Images are volumes of one slice (``images:`` before what images are read from), slices of volumes can be
    samples of their own (``slices:``), and both can be trained on, embedded and evaluated: what is one slice
    passes through the ResNet alone.

    As released: sizes, mask ratio, clusters, temperature, the prototypes frozen for 313 steps, one transform
    a view and another for the second, a masked loss over all slices and not only hidden ones (``--predicted
    hidden``), divided by the number of hidden ones (there by 6 where 7 are hidden). Not as released, where
    attention ran along features, read only the middle and had no positions: here it runs along slices, in
    millimetres (``--positions false`` for none), may move its points to anywhere between the first slice
    and the last, and any number of slices will do. Also ours: AdamW instead of SGD with LARC and rates for
    it; clusters of the last embeddings rather than of a stored pass over the data, so that no sample has an
    index (``--assignment sinkhorn`` for the balanced ones of SwAV); the map from stages to an
    embedding learns, and the last stage is in it once (``--centred true`` spreads what few samples leave
    alike, so that clusters begin to differ); slices keep their channels; values are scaled by the
    volume's own quantiles, or a window in the data's unit (``--window -160 240`` for a belly in CT). A hidden
    slice alone is easily told from its neighbours (``--slabs 4`` hides runs): ``hidden_loss`` below
    ``interpolation_loss``, that of the mean of the two nearest seen ones, says that more was learned.

    ``anyjepa train image-volume --data scans/ --out runs/scans --preset tiny``
    """

    name: ClassVar[str] = "image-volume"
    paper: ClassVar[str] = "arXiv:2212.01893"
    domain: ClassVar[str] = "volume"
    example_data: ClassVar[str] = "synthetic-volumes"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {
            "shape": (16, 32, 32), "crop_size": (24, 24), "stem": 12, "blocks": (1, 1, 1, 1),
            "bottleneck": False, "shrinking": "2", "width": 128, "hidden": 128, "depth": 2, "heads": 4,
            "head_width": 16, "dropout": 0.0, "head": 128, "slice_width": 32, "slices_drawn": 8,
            "slice_clusters": 64, "slice_heads": 2, "volume_clusters": 8, "volume_heads": 2,
            "assignment": "sinkhorn", "frozen_steps": 0, "predicted": "hidden", "slabs": 2,
            "crop_area": (0.6, 1.0), "jitter": 0.6, "flip": 0.0, "blur": 0.0, "epochs": 50.0,
            "weights": (1.0, 1.0, 0.1),
            "warmup_epochs": 4.0, "batch_size": 16, "learning_rate": 5e-3,
        },
    }  # fmt: skip

    epochs: float = 100.0  # passes over the data
    batch_size: int = 8  # samples a step, over all processes
    start_learning_rate: float = 1e-6  # at the first step
    learning_rate: float = 1e-3  # at the end of the warm-up
    final_learning_rate: float = 1e-6  # at the last step
    warmup_epochs: float = 10.0  # epochs in which the learning rate rises
    weight_decay: float = 1e-6  # of AdamW at the first step
    final_weight_decay: float = 1e-6  # of AdamW at the last step
    shape: tuple[int, int, int] = (
        64,
        128,
        128,
    )  # slices, rows and columns that volumes are cropped or padded to
    plane: Literal["axial", "coronal", "sagittal"] = "axial"  # that slices are parallel to
    spacing: tuple[float, float, float] = (
        0.0,
        0.0,
        0.0,
    )  # mm of slices, rows, columns; zeros: the data's median
    window: tuple[float, float] = (
        0.0,
        0.0,
    )  # values that become 0 and 1 (HU of CT); equal: each volume's own
    stem: int = 64  # width of the ResNet's first stage
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)  # of the ResNet's stages
    bottleneck: bool = True  # blocks of three convolutions, four times as wide at their end
    shrinking: Literal["4", "2", "1"] = "4"  # times that the start of the ResNet shrinks slices
    trunk: Literal["learned", "frozen"] = "learned"  # the ResNet: trained, or what --init brings
    width: int = 640  # of slice embeddings and the transformer
    hidden: int = 720  # of the transformer's perceptrons
    depth: int = 4  # blocks of the transformer
    dropout: float = 0.1  # in the transformer
    attention: Literal["deformable", "plain", "none"] = "deformable"  # among slices; none: no transformer
    heads: int = 8  # attention heads
    head_width: int = 64  # of a head of deformable attention
    stride: int = 4  # slices to a place that deformable attention reads at
    reach: float = 2.0  # spacings that such a place may move at most
    kernel: int = 6  # slices that decide where it moves
    positions: bool = True  # tell the transformer where slices lie
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of slice clusters, masks and volume clusters
    slices_drawn: int = 16  # slices of a volume a step that are cropped and clustered
    crop_size: tuple[int, int] = (224, 224)  # rows and columns of a crop
    crop_area: tuple[float, float] = (0.08, 1.0)  # share of the slice that a crop covers
    flip: float = 0.5  # chance that a crop is mirrored left to right
    jitter: float = 0.8  # share by which brightness and contrast of a crop change at most, either way
    blur: float = 0.5  # chance that a crop is blurred
    head: int = 2048  # hidden width of the network before slice clusters
    slice_width: int = 128  # of what slices are clustered by
    slice_clusters: int = 3000  # of each clustering of slices
    slice_heads: int = 3  # clusterings of slices
    volume_clusters: int = 4  # of each clustering of volumes
    volume_heads: int = 3  # clusterings of volumes
    assignment: Assignment = "k-means"  # of clusters: nearest centre, or balanced (SwAV)
    temperature: float = 0.1  # that scores of prototypes are divided by
    iterations: int = 10  # of k-means; 3 of balancing, as in SwAV
    centred: bool = False  # take mean and scale of the batch off what is clustered, before its length
    sharpness: float = 0.05  # epsilon of balanced assignment
    slice_bank: int = 30000  # slices of the last steps that k-means looks at
    volume_bank: int = 1024  # volumes of the last steps that k-means looks at
    cluster_every: int = 313  # steps from one clustering to the next
    frozen_steps: int = 313  # first steps in which prototypes do not learn
    transforms: int = 1  # that each view of a volume undergoes, at most three
    mask_ratio: float = 0.1  # share of the slices whose embedding is hidden, rounded up
    slabs: int = 1  # slices that are hidden side by side
    predicted: Literal["all", "hidden"] = "all"  # slices that the masked loss counts
    through_trunk: bool = False  # let the masked loss train the ResNet too

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        if self.attention != "none":
            self.check_heads("")
        if min(self.shape) < 1 or min(self.crop_size) < 8 or min(self.shape[1:]) < 8:
            raise UserError("--shape and --crop-size need 8 rows and columns or more.")
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"--mask-ratio must lie between 0 and 1, not {self.mask_ratio:g}.")
        if min(self.weights) < 0 or max(self.weights) == 0:
            raise UserError("--weights are three numbers of 0 or more, not all 0.")
        if self.trunk == "frozen" and self.weights[0]:
            raise UserError("a frozen ResNet learns nothing from crops: say --weights 0 1 0, or 0 1 1.")
        if self.attention == "none" and self.weights[1]:
            raise UserError("without a transformer nothing can tell hidden slices: say --weights 1 0 1.")
        if not 1 <= self.transforms <= len(TRANSFORMS) // 2:
            raise UserError(f"--transforms lies between 1 and {len(TRANSFORMS) // 2}, not {self.transforms}.")
        least = ("slices_drawn", "slice_clusters", "slice_heads", "volume_clusters", "volume_heads", "slabs",
                 "stride", "kernel", "cluster_every", "iterations")  # fmt: skip
        for name in least:
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(self, name)}.")

    def reading(self) -> dict[str, Any]:
        """Plane, spacing and window."""
        return {"plane": self.plane, "spacing": self.spacing, "window": self.window}

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """A spacing at which the largest volume fits the tiny preset's shape, where it would be cropped."""
        shape = cls.preset("tiny").shape  # pyright: ignore[reportAttributeAccessIssue]
        if facts["slices"] == 1:
            return {"weights": (1.0, 0.0, 0.0)}
        ratios = [most / side for most, side in zip(facts["most"], shape, strict=True)]
        if max(ratios) <= 1.25:
            return {}
        across = max(*ratios[1:], 1.0)
        times = max(ratios[0], 1.0), across, across
        first, second, third = (
            round(step * ratio, 3) for step, ratio in zip(facts["spacing"], times, strict=True)
        )
        return {"spacing": (first, second, third)}

    @classmethod
    def inherited(cls, other: Recipe) -> dict[str, Any] | None:
        """The sizes of the encoder of another run, of images or of volumes."""
        if not isinstance(other, ImageVolume):
            return None
        same = (
            "stem", "blocks", "bottleneck", "shrinking", "width", "hidden", "depth", "attention", "heads",
            "head_width", "stride", "kernel", "reach", "positions", "plane", "window",
        )  # fmt: skip
        return {name: getattr(other, name) for name in same}

    def method(self, facts: dict[str, Any]) -> ImageVolumeMethod:
        """Encoder, heads and prototypes of the losses that count."""
        trunk = SliceTrunk(
            facts["channels"], self.stem, self.blocks, self.bottleneck, int(self.shrinking), self.width
        )
        encoder = VolumeEncoder(
            trunk, self.width, self.hidden, self.depth, self.dropout, self.attention, self.heads,
            self.head_width, self.stride, self.reach, self.kernel, self.positions, facts["spacing"][0],
        )  # fmt: skip
        return ImageVolumeMethod(encoder, facts, self)

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """Volumes cropped or padded around the middle; they are changed on the device."""
        return self.present(samples)

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Volumes cropped or padded around the middle, and which slices pad."""
        volume, present = fitted(list(samples), self.shape)
        return {"volume": volume, "present": present}
