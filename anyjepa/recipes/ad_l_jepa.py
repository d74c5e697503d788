"""AD-L-JEPA: predict the embeddings of hidden cells of LiDAR frames seen from above, empty ones too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch
from anyjepa.core.schedules import cosine
from anyjepa.domains import Samples
from anyjepa.domains.lidar_encoder import MapEncoder, PillarEncoder, VoxelEncoder
from anyjepa.domains.lidar_grid import Grid
from anyjepa.domains.lidar_placing import Variation, batch_of, turned_points
from anyjepa.recipes import Recipe, flag
from anyjepa.recipes.ad_l_jepa_method import MapPrediction

STAGES = 5  # widths of the voxel encoder
VOXEL_STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class AdLJepa(Recipe):
    """AD-L-JEPA (Zhu, Dong, Topollai, Sha, Choromanska; AAAI 2026, arXiv:2501.04969).

    A LiDAR sweep is cut into voxels, and seen from above into cells of 8 x 8 columns of them. Half of the
    cells that hold points are hidden, and half of the empty ones. The encoder sees the voxels of the others;
    its map gets a learned mask token where something is hidden and a learned empty token where nothing is
    and that is told. A predictor of three convolutions must give, cell by cell and as directions, what the
    encoder's moving average makes of the hidden points, and the empty token where there are none: whether
    there is something at all must be guessed. A hinge on the deviations of the directions' channels keeps
    them from being one.

    The defaults are the released configuration for KITTI: 70.4 x 80 x 4 m before the car, voxels of 5 x 5 x
    10 cm, sparse convolutions of 711,872 parameters, 30 epochs of 16 frames, what no camera sees left out.
    Sparse convolutions are our own, on any device; spconv is used on a GPU if installed.
    Ours, and why:

    - The released optimiser never reaches the two tokens; here they learn (``--tokens fixed`` holds them).
      The empty token that is a target is not learned through.
    - The released pre-training pastes labelled objects into frames and draws another frame where none is
      labelled. Here it never looks at a label: frames are mirrored, turned and scaled, no more.
    - Masks are drawn frame by frame (``--masks batch``: over the cells of the whole batch, as released, which
      can leave a frame with next to nothing).
    - A voxel is the mean of all of its points, not of the first five, and frames keep all voxels.
    - Adam's first beta stays where it is (released: 0.95 to 0.85 and back).

    ``--rectified false`` leaves the last layers of encoder and predictor linear: what ends in ReLU comes no
    nearer than 45 degrees to a random token, and its hinge hardly ever closes. ``--target full`` lets the
    teacher see the whole frame, as in I-JEPA. ``--encoder pillars`` cuts columns instead of voxels, into a
    small convolutional network whose shapes are static: what ``tiny`` uses, and what suits a CPU.

    The embedding of a frame is the mean and the largest of its cells that hold points, side by side.
    ``anyjepa evaluate RUN --probe detection`` trains a centre-based detector from the encoder and reports
    average precision by KITTI's definition, beside the same from random weights; ``--labels-fraction 0.05``
    on as many of the labels, drawn anew each time. The paper's gain over training from scratch (1.6 points on
    KITTI) is one and a half times what repeating one fine-tuning changes.

    ``anyjepa train ad-l-jepa --data kitti/ --out runs/kitti``
    """

    name: ClassVar[str] = "ad-l-jepa"
    paper: ClassVar[str] = "arXiv:2501.04969"
    domain: ClassVar[str] = "lidar"
    example_data: ClassVar[str] = "synthetic-lidar"
    proposed: ClassVar[bool] = True
    downstream: ClassVar[tuple[str, ...]] = ("detection",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "waymo": {
            "low": (-75.2, -75.2, -2.0), "high": (75.2, 75.2, 4.0), "voxel": (0.1, 0.1, 0.15),
            "points": 180_000, "mirror": (0.5, 0.5), "hinge": 10.0, "camera": False,
        },
        "nuscenes": {
            "low": (-51.2, -51.2, -5.0), "high": (51.2, 51.2, 3.0), "voxel": (0.1, 0.1, 0.2),
            "mirror": (0.5, 0.5), "forward": "y", "camera": False,
        },
        "pillars": {"encoder": "pillars", "voxel": (0.2, 0.2, 4.0), "widths": (64, 256)},
        "tiny": {
            "low": (0.0, -20.0, -3.0), "high": (40.0, 20.0, 3.0), "points": 8192,
            "encoder": "pillars", "voxel": (0.5, 0.5, 6.0), "widths": (24, 48), "rectified": False,
            "epochs": 16.0, "warmup_epochs": 4.0, "batch_size": 16, "learning_rate": 2e-3,
            "momentum": (0.99, 1.0),
        },
    }  # fmt: skip

    epochs: float = 30.0  # passes over the data
    batch_size: int = 16  # samples a step, over all processes
    start_learning_rate: float = 3e-5  # at the first step
    learning_rate: float = 3e-4  # at the end of the warm-up
    final_learning_rate: float = 3e-9  # at the last step
    warmup_epochs: float = 12.0  # epochs in which the learning rate rises, along half a cosine
    weight_decay: float = 0.01  # of AdamW at the first step
    final_weight_decay: float = 0.01  # of AdamW at the last step
    decay: Literal["matrices", "layers", "all"] = "all"  # what decays; norms and tokens too, as released
    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW: how slowly its two averages of gradients forget
    gradient_clip: float = 10.0  # largest gradient norm
    low: tuple[float, float, float] = (0.0, -40.0, -3.0)  # least x, y and z in metres that count
    high: tuple[float, float, float] = (70.4, 40.0, 1.0)  # largest x, y and z
    voxel: tuple[float, float, float] = (0.05, 0.05, 0.1)  # sides of a voxel in metres
    forward: Literal["x", "y"] = "x"  # axis that points forward; of y, x points right (nuScenes)
    camera: bool = True  # leave out what no camera sees, where calibration lies beside the frames
    columns: int = 0  # numbers of a point in .bin files; 0 for 5 in .pcd.bin files and 4 in others
    points: int = 65_536  # of a frame at most; of more, some are drawn
    mirror: tuple[float, float] = (0.5, 0.0)  # chances that left and right, and front and back change places
    rotation: float = 45.0  # degrees that training frames turn at most about the vertical
    scale: tuple[float, float] = (0.95, 1.05)  # factors that training frames are scaled by
    encoder: Literal["voxels", "pillars"] = "voxels"  # sparse convolutions, or columns and a small network
    backend: Literal["auto", "torch", "spconv"] = "auto"  # of voxels; auto: spconv on a GPU, if installed
    widths: tuple[int, ...] = (16, 32, 64, 64, 128)  # of voxels' five stages; of pillars and each halving
    depth: int = 2  # convolutions after each halving of pillars
    rectified: bool = True  # end encoder and predictor in ReLU, as released
    predictor_depth: int = 3  # convolutions of the predictor
    hidden: float = 0.5  # share of the cells with points, and chance of an empty one, to be hidden
    hide_empty: bool = True  # whether empty cells are hidden at all; else all are told
    masks: Literal["frame", "batch"] = "frame"  # that share in each frame, or over the whole batch
    tokens: Literal["learned", "fixed"] = "learned"  # or as they began, which is what the released code does
    target: Literal["hidden", "full"] = "hidden"  # what the teacher sees: hidden cells only, or all
    momentum: tuple[float, float] = (0.996, 1.0)  # of the teacher at the first and the last step
    empty_weight: float = 0.25  # of empty cells in the prediction loss; the rest is of cells with points
    hinge: float = 1.0  # weight of the missing deviation

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        try:
            grid = self.grid
        except ValueError as problem:
            raise UserError(f"--low, --high and --voxel do not fit: {problem}.") from problem
        if self.encoder == "voxels":
            if len(self.widths) != STAGES:
                raise UserError(f"--widths of --encoder voxels are {STAGES} numbers, not {len(self.widths)}.")
            if grid.voxels[2] < 22:
                raise UserError(f"{grid.voxels[2]} voxels along the height are too few to halve four times.")
        elif len(self.widths) < 2 or grid.voxels[2] != 1:
            raise UserError(
                "--encoder pillars needs two --widths or more, and a --voxel as high as the whole range."
            )
        if min(self.widths) < 1 or self.depth < 1 or self.predictor_depth < 1:
            raise UserError("--widths, --depth and --predictor-depth must be above 0.")
        if not 0 < self.hidden < 1 or not 0 <= self.empty_weight <= 1:
            raise UserError("--hidden lies between 0 and 1, and --empty-weight from 0 to 1.")
        if self.points < 1 or self.columns not in (0, *range(3, 33)):
            raise UserError(f"{flag('points')} must be above 0, and --columns 3 or more.")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError("--scale is the least and the largest factor, both above 0.")

    @property
    def grid(self) -> Grid:
        """Of voxels and cells."""
        stride = VOXEL_STRIDE if self.encoder == "voxels" else 2 ** (len(self.widths) - 1)
        return Grid(self.low, self.high, self.voxel, stride)

    @property
    def variation(self) -> Variation:
        """How frames vary in training."""
        return Variation(self.mirror, self.rotation, self.scale)

    def reading(self) -> dict[str, Any]:
        """Which axis points forward, what is cut to a camera, the numbers of a point; and what is drawn."""
        drawn = {"range": [*self.low[:2], *self.high[:2]], "cells": list(self.grid.shape)}
        return {"forward": self.forward, "camera": self.camera, "columns": self.columns, **drawn}

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """A range of heights about the data's own where the usual one misses most of it."""
        usual = cls.presets["tiny"]
        low, high = facts["least"][2], facts["most"][2]
        if low > usual["low"][2] - 2 and high < usual["high"][2] + 8:
            return {}
        bottom = float(np.floor(low))
        return {
            "low": (*usual["low"][:2], bottom), "high": (*usual["high"][:2], bottom + usual["voxel"][2])
        }  # fmt: skip

    def method(self, facts: dict[str, Any]) -> MapPrediction:
        """Encoder, predictor, tokens and teacher."""
        # sensors that count up to 255 are brought to the range of those that say shares
        scale = float(facts["intensity"]) if facts["intensity"] > 1 else 1.0
        encoder: MapEncoder
        if self.encoder == "voxels":
            encoder = VoxelEncoder(self.grid, self.widths, self.rectified, scale, self.backend)
        else:
            encoder = PillarEncoder(self.grid, self.widths, self.depth, self.rectified, scale)
        return MapPrediction(encoder, self)

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Half a cosine up, then half a cosine down (the one-cycle schedule)."""
        rise = round(steps * self.warmup_epochs / self.epochs)
        if step <= rise:
            return cosine(self.start_learning_rate, self.learning_rate, (step - 1) / max(1, rise))
        done = (step - rise) / max(1, steps - rise)
        return cosine(self.learning_rate, self.final_learning_rate, done)

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """Frames mirrored, turned and scaled by chance, then cut to the range."""
        changed = [
            turned_points(frame, change)
            for frame, change in zip(samples, self.variation.drawn(uniforms), strict=True)
        ]
        return batch_of(changed, self.low, self.high, self.points, uniforms[:, 4])

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Frames as they are, cut to the range."""
        return batch_of(list(samples), self.low, self.high, self.points)
