"""Joint image-volume representation learning: clusters of slices, of volumes, and masked slice embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.chance import uniform
from anyjepa.core.clustering import Assignment, Prototypes
from anyjepa.core.errors import UserError
from anyjepa.core.masking import Masks
from anyjepa.core.method import Batch, Context, Method, single_at_least
from anyjepa.core.processes import share_of_all
from anyjepa.core.tokens import Tokens
from anyjepa.domains import Samples
from anyjepa.domains.image_views import Views
from anyjepa.domains.volume import fitted
from anyjepa.domains.volume_encoder import SliceTrunk, VolumeEncoder, mean_of_present
from anyjepa.domains.volume_views import TRANSFORMS, VolumeViews, contrasted
from anyjepa.recipes import Recipe


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
    and the last, and any number of slices will do. Also ours: AdamW instead of SGD with LARC and rates for it; clusters of
    the last embeddings rather than of a stored pass over the data, so that no sample needs an index
    (``--assignment sinkhorn`` for SwAV's balanced ones, with ``--sharpness``); the map from stages to an
    embedding learns, and the last stage is in it once; slices keep their channels; values are scaled by the
    volume's own quantiles, or a window in the data's unit (``--window -160 240`` for a belly in CT).
    ``--slabs 4`` hides runs of slices: one alone is easily told from its neighbours, which
    ``mask_loss`` below ``interpolation_loss`` (of the mean of the two nearest that are seen) shows to be beaten.

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
            "bottleneck": False, "small_images": False, "width": 64, "hidden": 96, "depth": 2, "heads": 4,
            "head_width": 16, "dropout": 0.0, "head": 128, "slice_width": 32, "slices_drawn": 4,
            "slice_clusters": 32, "slice_heads": 2, "volume_clusters": 8, "volume_heads": 2,
            "assignment": "sinkhorn", "frozen_steps": 0, "predicted": "hidden", "slabs": 2,
            "crop_area": (0.3, 1.0), "jitter": 0.4, "epochs": 40.0, "warmup_epochs": 4.0, "batch_size": 16,
            "learning_rate": 2e-3,
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
    small_images: bool = False  # a ResNet that does not shrink slices of some 32 pixels at its start
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
        across = max(ratios[1:] + [1.0])
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
            "stem", "blocks", "bottleneck", "small_images", "width", "hidden", "depth", "attention", "heads",
            "head_width", "stride", "kernel", "reach", "positions", "plane", "window",
        )  # fmt: skip
        return {name: getattr(other, name) for name in same}

    def method(self, facts: dict[str, Any]) -> ImageVolumeMethod:
        """Encoder, heads and prototypes of the losses that count."""
        trunk = SliceTrunk(
            facts["channels"], self.stem, self.blocks, self.bottleneck, self.small_images, self.width
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


def hidden_slices(
    present: Bool[Tensor, "n slices"], ratio: float, slabs: int, generator: Generator
) -> Bool[Tensor, "n slices"]:
    """Which slices are hidden: of each sample the share `ratio` of those present, rounded up.

    Args:
        present: False where a slice pads; such are never hidden.
        ratio: between 0 and 1.
        slabs: slices that are hidden side by side; the last of the runs may be cut short.
        generator: draws.
    """
    count, slices = present.shape
    blocks = -(-slices // slabs) + 1
    chance = uniform((count, blocks + 2), generator)
    start = (chance[:, -1:] * slabs).long()
    place = torch.arange(slices, device=present.device)
    block = (place + start) // slabs
    # those of a run rank one after the other, from either end, so that a cut run begins as often at each
    upwards = torch.where(chance[:, -2:-1] < 0.5, 1e-7, -1e-7)
    key = chance.gather(1, block) + place * upwards
    rank = key.masked_fill(~present, torch.inf).argsort(dim=1).argsort(dim=1)
    wanted = torch.ceil(present.sum(1, keepdim=True) * ratio - 1e-6)
    return rank < wanted


def interpolated(
    values: Float[Tensor, "n slices width"], seen: Bool[Tensor, "n slices"]
) -> Float[Tensor, "n slices width"]:
    """The mean of the nearest slice that is seen on either side; where there is none, the other one."""
    slices = seen.shape[1]
    place = torch.arange(slices, device=seen.device).expand_as(seen)
    before = torch.where(seen, place, -1).cummax(1).values
    after = torch.where(seen, place, slices).flip(1).cummin(1).values.flip(1)
    low = torch.where(before < 0, after, before).clamp(max=slices - 1)
    high = torch.where(after >= slices, before, after).clamp(min=0)

    def at(index: Tensor) -> Tensor:
        return values.gather(1, index.unsqueeze(2).expand_as(values))

    return (at(low) + at(high)) / 2


class ImageVolumeMethod(Method):
    """Clusters of slices and of volumes, and embeddings of hidden slices.

    Args:
        encoder: of slices and volumes.
        facts: of the data.
        recipe: the numbers.
    """

    def __init__(self, encoder: VolumeEncoder, facts: dict[str, Any], recipe: ImageVolume) -> None:
        super().__init__()
        self.encoder, self.recipe, self.facts = encoder, recipe, facts
        intra, masked, inter = recipe.weights
        options: dict[str, Any] = {
            "assignment": recipe.assignment, "temperature": recipe.temperature, "every": recipe.cluster_every,
            "iterations": recipe.iterations if recipe.assignment == "k-means" else min(recipe.iterations, 3),
            "sharpness": recipe.sharpness, "frozen": recipe.frozen_steps,
        }  # fmt: skip
        self.projector = self.slice_prototypes = self.volume_prototypes = self.told = self.mask_token = None
        if intra:
            self.projector = nn.Sequential(
                nn.Linear(recipe.width, recipe.head, bias=False), nn.BatchNorm1d(recipe.head), nn.ReLU(),
                nn.Linear(recipe.head, recipe.slice_width),
            )  # fmt: skip
            self.slice_prototypes = Prototypes(
                recipe.slice_width,
                recipe.slice_clusters,
                recipe.slice_heads,
                kept=recipe.slice_bank,
                **options,
            )
        if masked:
            self.told = nn.Linear(recipe.width, recipe.width)
            self.mask_token = nn.Parameter(torch.randn(recipe.width))
        if inter:
            self.volume_prototypes = Prototypes(
                recipe.width, recipe.volume_clusters, recipe.volume_heads, kept=recipe.volume_bank, **options
            )
        if recipe.trunk == "frozen":
            encoder.trunk.requires_grad_(False)
        self.volume_views = VolumeViews(recipe.transforms, facts["spacing"])
        self.crops = Views(2, recipe.crop_size, recipe.crop_area, blur=recipe.blur)

    @property
    def backbone(self) -> nn.Module:
        """The encoder of slices and volumes."""
        return self.encoder

    def train(self, mode: bool = True) -> ImageVolumeMethod:
        """As of any module, but a frozen ResNet counts no statistics."""
        super().train(mode)
        if self.recipe.trunk == "frozen":
            self.encoder.trunk.eval()
        return self

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss`` and its parts; ``slice_clusters`` and ``volume_clusters`` in use; ``embedding``.

        ``interpolation_loss`` is what ``mask_loss`` would be over hidden slices if each were told to be the
        mean of the nearest that are seen; ``hidden_loss`` is what it is over these.
        """
        volume, present = self._input(batch), batch["present"]
        weights, found = self.recipe.weights, {}
        generator, step = context.generator, context.step
        total = volume.new_zeros(())
        if self.projector is not None and self.slice_prototypes is not None:
            z = self._crops(volume, present, generator)
            loss, used = self.slice_prototypes.loss(z, step)
            self.slice_prototypes.remember(z.detach(), step)
            total = total + weights[0] * loss
            found |= {"slice_loss": loss.detach(), "slice_clusters": used}
        if self.volume_prototypes is None and self.told is None:
            with torch.no_grad():
                embedding = self.embed(batch)
            return {"loss": total, **found, "embedding": embedding}
        views = self.volume_views(volume, generator).flatten(0, 1)
        both = torch.cat([present, present])
        slices = self.encoder.slices(views)
        if self.told is not None:
            parts = self._masked(slices, both, generator)
            total = total + weights[1] * parts["mask_loss"]
            found |= {name: value.detach() for name, value in parts.items()}
        embedding = mean_of_present(slices.detach(), both)[: len(volume)]
        if self.volume_prototypes is not None:
            z = mean_of_present(self.encoder.context(slices, both), both).unflatten(0, (2, -1))
            loss, used = self.volume_prototypes.loss(z, step)
            self.volume_prototypes.remember(z.detach(), step)
            total = total + weights[2] * loss
            found |= {"volume_loss": loss.detach(), "volume_clusters": used}
            embedding = z[0].detach()
        return {"loss": total, **found, "embedding": embedding}

    def _input(self, batch: Batch) -> Tensor:
        return batch["volume"].to(self.encoder.trunk.out.weight.dtype)

    def _crops(self, volume: Tensor, present: Tensor, generator: Generator) -> Tensor:
        """(2, samples x slices, width) of unit length: two crops of slices drawn from each volume."""
        chance = uniform(tuple(present.shape), generator, dtype=volume.dtype)
        order = chance.masked_fill(~present, 2.0).argsort(dim=1)
        drawn = 1 if volume.shape[2] == 1 else self.recipe.slices_drawn
        number = torch.arange(drawn, device=volume.device) % present.sum(1, keepdim=True)
        rows = order.gather(1, number)
        chosen = volume.transpose(1, 2)[torch.arange(len(volume), device=volume.device)[:, None], rows]
        views = self.crops(chosen.flatten(0, 1), generator, dtype=volume.dtype)
        jitter = uniform((views.shape[1], 2, 3), generator, dtype=volume.dtype).transpose(0, 1)
        crops = contrasted(views.flatten(0, 1), jitter.flatten(0, 1), self.recipe.jitter)
        assert self.projector is not None
        z = single_at_least(self.projector(self.encoder.trunk(crops)))
        return functional.normalize(z, dim=1).unflatten(0, (2, -1))

    def hidden(self, present: Tensor, generator: Generator) -> Tensor:
        """(n, slices) bool: the slices of a step whose embedding is hidden."""
        return hidden_slices(present, self.recipe.mask_ratio, self.recipe.slabs, generator)

    def _masked(self, slices: Tensor, both: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The loss of telling embeddings from those around; one choice of slices serves both views."""
        assert self.told is not None and self.mask_token is not None
        half = len(both) // 2
        hidden = self.hidden(both[:half], generator)
        hidden = torch.cat([hidden, hidden])
        given = slices if self.recipe.through_trunk else slices.detach()
        shown = torch.where(hidden.unsqueeze(2), self.mask_token.to(given.dtype), given)
        told = single_at_least(self.told(self.encoder.context(shown, both)))
        goal = single_at_least(slices.detach())
        wrong = (told - goal).square().mean(2)
        count = hidden.sum().to(wrong.dtype)
        over_hidden = (wrong * hidden).sum() / share_of_all(count).clamp(min=1)
        straight = (interpolated(goal, both & ~hidden) - goal).square().mean(2)
        trivial = (straight * hidden).sum() / share_of_all(count).clamp(min=1)
        loss = over_hidden
        if self.recipe.predicted == "all":
            real = both.sum().to(wrong.dtype)
            # the mean over slices of either view, both added up, over how many are hidden in a sample
            loss = (
                2 * (wrong * both).sum() / share_of_all(real) * (len(both) / share_of_all(count).clamp(min=1))
            )
        return {"mask_loss": loss, "hidden_loss": over_hidden, "interpolation_loss": trivial}

    def after_step(self, context: Context) -> None:
        """Clusters are made anew when it is time to."""
        for prototypes in (self.slice_prototypes, self.volume_prototypes):
            if prototypes is not None:
                prototypes.regroup(context.step, context.generator)

    def masks(self, batch: Batch, context: Context) -> Masks:
        """The slices that one step sees and hides; padding counts to neither."""
        present = batch["present"]
        hidden = self.hidden(present, context.generator)
        seen = present & ~hidden
        most, least = int(seen.sum(1).max()), int(hidden.sum(1).max())
        # entries that only pad repeat another
        first = seen.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        context_places = first.gather(1, torch.arange(most, device=seen.device) % seen.sum(1, keepdim=True))
        second = hidden.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        number = torch.arange(least, device=seen.device) % hidden.sum(1, keepdim=True).clamp(min=1)
        targets = second.gather(1, number).unsqueeze(1)
        return Masks(context_places, targets, torch.zeros(len(seen), dtype=torch.bool, device=seen.device))

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """The mean over slices of what each says in its volume, of unit length."""
        tokens = self.tokens(batch)
        return mean_of_present(tokens.values, batch["present"])

    def tokens(self, batch: Batch) -> Tokens:
        """Every slice within its volume."""
        return self.encoder(batch)

    def views(self, batch: Batch, context: Context, count: int) -> Float[Tensor, "batch views dim"]:
        """Embeddings of `count` changed versions of each volume."""
        found = []
        for _ in range(-(-count // 2)):
            for view in self.volume_views(self._input(batch), context.generator):
                found.append(self.embed({**batch, "volume": view}))
        return torch.stack(found[:count], dim=1)

    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """How many clusters of each kind samples fill, as shares of all (1: evenly)."""
        if self.volume_prototypes is None:
            return {}
        z = torch.cat([self.embed(batch) for batch in batches])
        return occupied(self.volume_prototypes, z)

    def cautions(self, steps: int) -> list[str]:
        """More clusters than the data can fill."""
        found = []
        volumes = self.facts["samples"]
        slices = volumes * min(self.facts["slices"], self.recipe.shape[0])
        pairs = (
            ("slices", self.slice_prototypes, slices, "slice"),
            ("volumes", self.volume_prototypes, volumes, "volume"),
        )
        for name, prototypes, count, word in pairs:
            if prototypes is not None and count < 10 * prototypes.centres.shape[1]:
                found.append(
                    f"{prototypes.centres.shape[1]:,} clusters for {count:,} {name} are many: "
                    f"--{word}-clusters {max(2, count // 30)} would be filled."
                )
        return found


def occupied(prototypes: Prototypes, z: Float[Tensor, "points width"]) -> dict[str, float]:
    """``clusters_filled``: e to the entropy of how many points are in each cluster, over their number."""
    told = prototypes.clusters(z)
    number = prototypes.centres.shape[1]
    full = functional.one_hot(told, number).to(torch.float64).mean(1)
    return {"clusters_filled": float((torch.special.entr(full).sum(1).exp() / number).mean())}
