"""What image-volume trains: three losses upon one encoder of slices and volumes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.chance import uniform
from anyjepa.core.clustering import Prototypes
from anyjepa.core.masking import Masks
from anyjepa.core.method import Batch, Context, Method, single_at_least
from anyjepa.core.processes import share_of_all
from anyjepa.core.tokens import Tokens
from anyjepa.domains.image_views import Views
from anyjepa.domains.volume_encoder import VolumeEncoder, mean_of_present
from anyjepa.domains.volume_views import VolumeViews, contrasted

if TYPE_CHECKING:
    from anyjepa.recipes.image_volume import ImageVolume

__all__ = ["ImageVolumeMethod", "hidden_slices", "interpolated", "occupied"]


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
        self.centre_slices, self.centre_volumes = (
            nn.BatchNorm1d(width, affine=False) if recipe.centred and used else nn.Identity()
            for width, used in ((recipe.slice_width, intra), (recipe.width, inter))
        )
        if recipe.trunk == "frozen":
            encoder.trunk.requires_grad_(False)
        self.volume_views = VolumeViews(recipe.transforms, facts["spacing"])
        self.crops = Views(2, recipe.crop_size, recipe.crop_area, flip=recipe.flip, blur=recipe.blur)

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
            z = mean_of_present(self.encoder.context(slices, both), both)
            clustered = functional.normalize(self.centre_volumes(z), dim=1).unflatten(0, (2, -1))
            loss, used = self.volume_prototypes.loss(clustered, step)
            self.volume_prototypes.remember(clustered.detach(), step)
            total = total + weights[2] * loss
            found |= {"volume_loss": loss.detach(), "volume_clusters": used}
            embedding = z[: len(volume)].detach()
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
        z = single_at_least(self.centre_slices(self.projector(self.encoder.trunk(crops))))
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

    def exemplars(self, batch: Batch) -> tuple[Tensor, Batch, Tensor] | None:
        """Every slice that shows something, and how near it is to the prototypes of the first clustering."""
        if self.projector is None or self.slice_prototypes is None:
            return None
        volume, present = self._input(batch), batch["present"]
        shows = present & (volume.amax((1, 3, 4)) > volume.amin((1, 3, 4)))
        sample, number = shows.nonzero().unbind(1)
        slices = volume.transpose(1, 2)[sample, number]
        z = functional.normalize(self.centre_slices(self.projector(self.encoder.trunk(slices))), dim=1)
        part = {"volume": slices.unsqueeze(2), "present": torch.ones_like(sample, dtype=torch.bool)[:, None]}
        return z @ self.slice_prototypes.weights[0].T, part, sample

    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """How many clusters of each kind samples fill, as shares of all (1: evenly)."""
        if self.volume_prototypes is None:
            return {}
        z = torch.cat([self.embed(batch) for batch in batches])
        return occupied(self.volume_prototypes, functional.normalize(self.centre_volumes(z), dim=1))

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
