"""SAR-JEPA: predict gradients by ratio of hidden patches within small windows of a radar image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.chance import uniform
from anyjepa.core.errors import UserError
from anyjepa.core.gradient_by_ratio import GradientBank
from anyjepa.core.masking import Masks
from anyjepa.core.method import Batch, Context, Method
from anyjepa.core.objectives import smooth_l1
from anyjepa.core.relative import RelativeBuckets
from anyjepa.core.targets import EmaTeacher
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.transformer import Block, Encoder, initialise
from anyjepa.domains import Samples
from anyjepa.domains.image_crops import random_resized_crop, resize
from anyjepa.domains.image_patches import ImagePatches
from anyjepa.domains.sar import amplitude
from anyjepa.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class SarJepa(Recipe):
    """SAR-JEPA (Li et al., ISPRS Journal 2024, arXiv:2311.15153).

    Radar images are speckled: noise multiplies what is there, so ordinary gradients are wild in bright
    places. The target of a patch is not learned: it is the size of the gradient by ratio (logarithms of
    ratios of means on both sides) at each of its pixels, with windows of four sizes. Since targets are fixed,
    nothing can collapse and the loss says how training goes. A chip's patches are seen through four small
    windows; in each, four fifths of the patches are replaced by a mask token, all go through the encoder, and
    a predictor gives the gradients of the hidden ones. There are no absolute positions: attention adds
    learned keys of where one patch lies from another.

    The defaults are the released configuration: ViT-B/16 on 224 pixels, windows of 7 x 7 patches, 39 of 49
    hidden, gradients with the middle line in both halves (the paper's figure has it in neither: ``--centre
    false``), crops of 0.2 to 1 of the area, mirrored by chance, contrast changed by up to half. As
    released the four windows have four different rows and four different columns; here every chip has its
    own, and ``--published true`` brings back one set for the batch. Values are divided by 255 (8 bit) or what
    all but 0.1 % of them lie below, and no mean is taken off. Ours: the offset of the ratios is 0.01 of that,
    the resizing filter is a triangle (bicubic there).

    Ratios need linear values: say ``--values decibel`` or ``--values intensity`` where yours are. Complex
    chips become amplitudes; several polarisations are channels with targets of their own.
    ``--teacher-weight`` above 0 adds the tokens of a moving average of the encoder as a second target, and
    ``--target pixels`` predicts the chip itself, as a masked autoencoder does: what the paper compares with.

    The embedding of a chip is the mean of its patches' tokens over the whole chip (``--pooled class`` for the
    class token, as released, which no loss reaches except through attention).

    ``anyjepa train sar-jepa --data chips/ --out runs/chips --preset tiny``
    """

    name: ClassVar[str] = "sar-jepa"
    paper: ClassVar[str] = "arXiv:2311.15153"
    domain: ClassVar[str] = "sar"
    example_data: ClassVar[str] = "synthetic-sar"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {
            "image_size": (64, 64), "patch_size": 8, "width": 96, "depth": 4, "heads": 3, "window": 5,
            "predictor_width": 64, "predictor_depth": 2, "predictor_heads": 2, "radii": (1, 3, 5, 7),
            "initial_std": 0.0, "epochs": 40.0, "warmup_epochs": 4.0, "batch_size": 32,
            "learning_rate": 1.5e-3, "crop_area": (0.6, 1.0),
        },
    }  # fmt: skip

    epochs: float = 300.0  # passes over the data
    batch_size: int = 300  # samples a step, over all processes
    start_learning_rate: float = 0.0  # at the first step
    learning_rate: float = 1.171875e-3  # at the end of the warm-up
    final_learning_rate: float = 0.0  # at the last step
    warmup_epochs: float = 20.0  # epochs in which the learning rate rises
    weight_decay: float = 0.05  # of AdamW at the first step
    final_weight_decay: float = 0.05  # of AdamW at the last step
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW: how slowly its two averages of gradients forget
    values: Literal["amplitude", "intensity", "decibel"] = "amplitude"  # what the files hold
    image_size: tuple[int, int] = (224, 224)  # height and width in pixels that chips are cropped to
    patch_size: int = 16  # side of a patch in pixels
    crop_area: tuple[float, float] = (0.2, 1.0)  # share of the chip a training crop covers
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)  # width over height of a training crop
    mirror: float = 0.5  # chance that a training crop is mirrored left to right
    contrast: float = 0.5  # share by which the contrast of a training crop changes at most, either way
    width: int = 768  # of the encoder's tokens
    depth: int = 12  # blocks of the encoder
    heads: int = 12  # attention heads of the encoder
    predictor_width: int = 512  # of the predictor's tokens
    predictor_depth: int = 8  # blocks of the predictor
    predictor_heads: int = 16  # attention heads of the predictor
    relative_ratio: float = 1.9  # patches up to which relative places are told apart exactly
    initial_std: float = 0.02  # of the weights; 0 for one over the square root of a layer's inputs
    window: int = 7  # side of a window in patches
    windows: int = 4  # windows a chip
    hidden_ratio: float = 0.8  # share of a window's patches that is hidden, rounded down
    radii: tuple[int, ...] = (5, 9, 13, 17)  # of the windows that ratios are taken in, in pixels
    offset: float = 0.01  # added to values of 0 to 1 before ratios are taken
    centre: bool = True  # count the middle line to both halves of a ratio
    target: Literal["gradients", "pixels"] = "gradients"  # what is predicted of hidden patches
    teacher_weight: float = 0.0  # of a second loss: tokens of the encoder's moving average
    momentum: tuple[float, float] = (0.996, 1.0)  # of that average at the first and the last step
    pooled: Literal["patches", "class"] = "patches"  # embedding: the mean of the patches, or the class token
    published: bool = False  # one set of windows for the whole batch, as released

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        for side in self.image_size:
            if side < self.patch_size or side % self.patch_size:
                raise UserError(
                    f"--image-size {self.image_size[0]} {self.image_size[1]} does not divide into patches of "
                    f"{self.patch_size} pixels: choose multiples of it, or another --patch-size."
                )
        places = min(self.image_size) // self.patch_size - self.window + 1
        if self.window < 1 or places < self.windows:
            raise UserError(
                f"{self.windows} windows of {self.window} patches need as many places on each side, and "
                f"there are {max(0, places)}: make --window or --windows smaller."
            )
        if not 0 < self.hidden_count < self.window**2:
            raise UserError(f"--hidden-ratio {self.hidden_ratio:g} hides all patches of a window, or none.")
        if not self.radii or not 0 < min(self.radii) <= max(self.radii) < min(self.image_size):
            raise UserError("--radii must be above 0 and below --image-size.")
        self.check_heads("", "predictor_")

    @property
    def hidden_count(self) -> int:
        """Patches of a window that are hidden: 39 of 49."""
        return int(self.window**2 * self.hidden_ratio)

    @property
    def maps(self) -> int:
        """Numbers that are predicted of a pixel of a channel."""
        return len(self.radii) if self.target == "gradients" else 1

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """Values below zero are decibels."""
        return {"values": "decibel"} if facts["low"] < 0 else {}

    def method(self, facts: dict[str, Any]) -> WindowPrediction:
        """Tokenizer, encoder, predictor and the fixed bank of filters."""
        if facts["low"] < 0 and self.values != "decibel":
            raise UserError(
                f"the data holds values below zero ({facts['low']:g}), of which no ratio can be taken: if "
                "they are decibels, say --values decibel."
            )
        top = float(amplitude(np.array([facts["top"]]), self.values)[0])
        channels = facts["channels"]
        patches = ImagePatches(
            self.image_size, self.patch_size, channels, self.width, [0.0] * channels, [top] * channels
        )
        relative = RelativeBuckets(2, self.relative_ratio)
        encoder = Encoder(patches, None, self.width, self.depth, self.heads, registers=1, relative=relative)
        predictor = WindowPredictor(
            self.width, self.predictor_width, self.predictor_depth, self.predictor_heads, relative,
            self.maps * channels * self.patch_size**2, self.width if self.teacher_weight else 0,
        )  # fmt: skip
        for part in (encoder, predictor):
            initialise(part, self.initial_std or None)
        return WindowPrediction(encoder, predictor, top, self)

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """A random resized crop of each chip, mirrored by chance, as amplitude."""
        chips = self._linear(samples)
        image = random_resized_crop(chips, uniforms, self.image_size, self.crop_area, self.crop_aspect)
        mirrored = torch.from_numpy(uniforms[:, 4] < self.mirror)[:, None, None, None]
        return {"image": torch.where(mirrored, image.flip(3), image)}

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Each chip resized to cover the input, and its centre, as amplitude."""
        return {"image": resize(self._linear(samples), self.image_size)}

    def _linear(self, samples: list[np.ndarray] | np.ndarray) -> list[np.ndarray] | np.ndarray:
        if isinstance(samples, np.ndarray):
            return amplitude(samples, self.values)
        return [amplitude(sample, self.values) for sample in samples]


class WindowPredictor(nn.Module):
    """From the tokens of a window to what is asked of its patches: blocks and a linear layer (section 3.3).

    Args:
        encoder_width: of the tokens.
        width, depth, heads: of the blocks.
        relative: buckets of offsets between patches.
        outputs: numbers that are told of a patch.
        tokens: width of the teacher's tokens that are told as well; 0 for none.
    """

    def __init__(
        self,
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        relative: RelativeBuckets,
        outputs: int,
        tokens: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.blocks = nn.ModuleList(Block(width, heads, buckets=relative.count) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, outputs)
        self.told = nn.Linear(width, tokens) if tokens else None

    def forward(
        self,
        tokens: Float[Tensor, "windows tokens width"],
        front: Float[Tensor, "windows front width"],
        relation: Int[Tensor, "shared all all"],
        asked: Int[Tensor, "windows hidden"],
    ) -> tuple[Tensor, Tensor | None]:
        """Predictions at the patches `asked` of each window, and there the teacher's tokens or None."""
        x = self.embed(torch.cat([front, tokens], dim=1))
        for block in self.blocks:
            x = block(x, relation=relation)
        x = self.norm(take(x[:, front.shape[1] :], asked))
        return self.out(x), None if self.told is None else self.told(x)


class Windows(NamedTuple):
    """Windows of a batch: W of P patches each.

    Args:
        patches: (batch, W, P) int64 indices in raster order.
        hidden: (batch, W, H) int64 places within a window that are hidden, unique.
        seen: (batch, W, P - H) int64 the other places.
    """

    patches: Int[Tensor, "batch windows patches"]
    hidden: Int[Tensor, "batch windows hidden"]
    seen: Int[Tensor, "batch windows seen"]


def draw_windows(
    batch: int, grid: tuple[int, int], recipe: SarJepa, generator: Generator, shared: bool = False
) -> Windows:
    """Windows whose rows all differ and whose columns all differ, and what is hidden in each.

    shared: one set of windows for the whole batch; what is hidden in them is each chip's own.
    """
    side, count, device = recipe.window, recipe.windows, generator.device
    places = [length - side + 1 for length in grid]

    def corners(number: int) -> Tensor:
        if shared:
            chance = torch.rand((1, number), generator=generator, device=device)
        else:
            chance = uniform((batch, number), generator)
        return chance.argsort(dim=1)[:, :count].expand(batch, -1)

    top, left = (corners(number)[:, :, None, None] for number in places)
    inside = torch.arange(side, device=device)
    patches = (top + inside[:, None]) * grid[1] + left + inside
    order = uniform((batch, count, side * side), generator).argsort(dim=2)
    return Windows(patches.flatten(2), order[..., : recipe.hidden_count], order[..., recipe.hidden_count :])


class WindowPrediction(Method):
    """Predict fixed features of hidden patches within windows; optionally a teacher's tokens too.

    Args:
        encoder: of patches, with relative places and a class token.
        predictor: of what is asked.
        top: what amplitudes are divided by.
        recipe: the numbers of the windows and of the targets.
    """

    def __init__(self, encoder: Encoder, predictor: WindowPredictor, top: float, recipe: SarJepa) -> None:
        super().__init__()
        self.encoder, self.predictor, self.recipe, self.top = encoder, predictor, recipe, top
        self.mask_token = nn.Parameter(torch.empty(1, 1, recipe.width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.bank = GradientBank(recipe.radii, recipe.offset, recipe.centre)
        self.target = EmaTeacher(encoder, *recipe.momentum) if recipe.teacher_weight else None
        self.grid = tuple(side // recipe.patch_size for side in recipe.image_size)

    @property
    def backbone(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    def windows(self, batch: int, generator: Generator) -> Windows:
        """The windows of a step."""
        rows, columns = self.grid
        return draw_windows(batch, (rows, columns), self.recipe, generator, self.recipe.published)

    def masks(self, batch: Batch, context: Context) -> Masks:
        """What is seen and hidden in the first of each chip's windows."""
        windows = self.windows(len(batch["image"]), context.generator)
        first = windows.patches[:, 0]
        return Masks(
            first.gather(1, windows.seen[:, 0]),
            first.gather(1, windows.hidden[:, 0]).unsqueeze(1),
            torch.zeros_like(first[:, 0], dtype=torch.bool),
        )

    def varied(self, images: Tensor, generator: Generator) -> Tensor:
        """Images of 0 to 1 with their contrast changed: drawn towards or away from their mean."""
        reach = self.recipe.contrast
        factor = 1 + reach * (2 * uniform((len(images), 1, 1, 1), generator, dtype=images.dtype) - 1)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return (mean + factor * (images - mean)).clamp(min=0)

    def losses(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``loss``, the parts of it, ``zero_loss`` (of predicting nothing), and ``embedding``."""
        dtype = self.mask_token.dtype
        images = self.varied(batch["image"].to(dtype) / self.top, context.generator)
        windows = self.windows(len(images), context.generator)
        tokens = self.encoder.tokenizer({"image": images * self.top})
        asked = windows.patches.gather(2, windows.hidden).flatten(1)
        encoded, told, teaching = self._predicted(tokens.values, windows)
        goal = take(self.features(images), asked).flatten(0, 1)
        gradients = (told.flatten(0, 1) - goal).square().mean()
        found = {
            "loss": gradients,
            "gradient_loss": gradients.detach(),
            "zero_loss": goal.square().mean(),
            "embedding": encoded.detach().mean(1).unflatten(0, (len(images), -1)).mean(1),
        }
        if self.target is not None and teaching is not None:
            whole = self.target(self.encoder, {"image": images * self.top}).values
            aim = functional.layer_norm(take(whole, asked), whole.shape[-1:])
            found["teacher_loss"] = smooth_l1(teaching.flatten(0, 1), aim.flatten(0, 1))
            found["loss"] = gradients + self.recipe.teacher_weight * found["teacher_loss"]
        return found

    def features(self, images: Tensor) -> Float[Tensor, "batch patches numbers"]:
        """Targets of all patches of images of 0 to 1: the maps' values in it, map by map."""
        tokenizer = self.encoder.tokenizer
        assert isinstance(tokenizer, ImagePatches)
        return tokenizer.patches(self.bank(images) if self.recipe.target == "gradients" else images)

    def _predicted(self, values: Tensor, windows: Windows) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encoded tokens (B W, P, D), and per window (B W, H, ...) features and tokens that are told."""
        inside = (
            take(values, windows.patches.flatten(1)).unflatten(1, windows.patches.shape[1:]).flatten(0, 1)
        )
        hidden, seen = windows.hidden.flatten(0, 1), windows.seen.flatten(0, 1)
        # places of the hidden patches come first, then they are put back into raster order
        order = torch.cat([hidden, seen], dim=1).argsort(dim=1)
        shown = torch.cat([self.mask_token.expand(*hidden.shape, -1), take(inside, seen)], dim=1)
        sequence = Tokens(take(shown, order), self._inner(inside))
        encoded, front = self.encoder.encode(sequence)
        assert self.encoder.relative is not None
        relation = self.encoder.relative(sequence.coordinates, front.shape[1])
        told, teaching = self.predictor(encoded.values, front, relation, hidden)
        return encoded.values, told, teaching

    def _inner(self, inside: Tensor) -> Tensor:
        """(1, P, 2) rows and columns of a window's patches: where the window lies is not told."""
        places = torch.arange(self.recipe.window, device=inside.device, dtype=inside.dtype)
        return torch.cartesian_prod(places, places).unsqueeze(0)

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """(B, D): the mean of the patches' tokens, or the class token."""
        tokens, front = self.encoder.read(batch)
        return front[:, 0] if self.recipe.pooled == "class" else tokens.values.mean(1)

    def tokens(self, batch: Batch) -> Tokens:
        """The encoder's tokens of the whole chip."""
        return self.encoder(batch)

    def after_step(self, context: Context) -> None:
        """A teacher, where there is one, follows the encoder."""
        if self.target is not None:
            self.target.follow(self.encoder, self.target.momentum(context.progress))
