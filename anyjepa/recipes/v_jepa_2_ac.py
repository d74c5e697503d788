"""V-JEPA 2-AC: what actions do, learned in the tokens of a frozen encoder, and planned with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from anyjepa.core.causal import CausalPredictor
from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch
from anyjepa.core.poses import POSE, moved
from anyjepa.core.positions import Rotary
from anyjepa.core.schedules import trapezoid
from anyjepa.core.transformer import initialise
from anyjepa.core.world_model import ActionConditioned, Move, WorldModel
from anyjepa.domains.video_clips import cover
from anyjepa.recipes import Recipe, flag
from anyjepa.recipes.v_jepa import VJepa

# fields that say what an encoder of V-JEPA is; `position_frames` and `position_size` beside them
ENCODER = (
    "tubelet", "patch_size", "width", "depth", "heads", "expansion", "positions", "uniform_power",
    "published_rotary",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VJepa2Ac(Recipe):
    """V-JEPA 2-AC, the action-conditioned world model (Assran et al. 2025, arXiv:2506.09985, section 3).

    The encoder is frozen. Each frame of a clip is encoded by itself, repeated to fill a tubelet; a predictor
    reads, step by step, the action, the state and the frame's tokens, looks back only, and must give the
    tokens of the next frame. It learns from true frames (teacher forcing) and from its own predictions, two
    steps from the first frame on (roll-out). The distance is L1 to layer-normalised tokens; predictions are
    normalised too. Clips are not mirrored nor cropped by chance, for actions would then be wrong.

    Take the encoder from a run of ``v-jepa``, trained here or imported, with ``--init``; its fields and its
    pixel statistics come with it. Without one the encoder is random: enough to try things, and for planning
    by sight over short ways.

    The defaults are the released ones: V-JEPA 2's ViT-g, a predictor of 300 million parameters, 8 frames at
    4 a second, states that are poses of a hand (x, y, z in metres, Euler angles, opening) and actions that
    are their differences. Epochs are 94,500 steps of 256 clips over 62 hours of DROID cut into two seconds
    each. ``--motion sum`` takes plain differences of states of any kind, ``--motion given`` the actions that
    the data holds. Where states are needed that were not measured, in planning, the actions move them; the
    released roll-out loss is given the measured ones (``--measured-states false`` moves them too). A
    token of the camera's place is left out, as it is by default there.

    ``tiny`` learns an arm over a simulated table in about a minute on a CPU, with a random encoder.

    The embedding of a clip is the average of the predictor's tokens: of what was seen, done and is expected.
    ``anyjepa plan RUN`` plans with it in the simulated world, beside random actions and the untrained
    predictor; `anyjepa.Planner` plans from your own pictures.

    ``anyjepa train v-jepa-2-ac --data episodes/ --out runs/world --init runs/video --motion sum --fps 4``
    """

    name: ClassVar[str] = "v-jepa-2-ac"
    paper: ClassVar[str] = "arXiv:2506.09985"
    domain: ClassVar[str] = "control"
    example_data: ClassVar[str] = "synthetic-reach"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {
            "frames": 8, "image_size": (32, 32), "patch_size": 8, "motion": "given", "fps": 0.0,
            "width": 64, "depth": 1, "heads": 4, "expansion": 4.0,
            "predictor_width": 64, "predictor_depth": 2, "predictor_heads": 4, "initial_std": 0.0,
            "standardise": True, "epochs": 25.0, "warmup_epochs": 1.0, "anneal_epochs": 8.0,
            "batch_size": 16, "start_learning_rate": 1e-4, "learning_rate": 4e-3,
        },
    }  # fmt: skip

    epochs: float = 216.77  # passes over the data
    batch_size: int = 256  # samples a step, over all processes
    start_learning_rate: float = 7.5e-5  # at the first step
    learning_rate: float = 4.25e-4  # from the end of the warm-up on
    final_learning_rate: float = 0.0  # at the last step
    warmup_epochs: float = 10.32  # epochs in which the learning rate rises
    anneal_epochs: float = 10.32  # last epochs, in which it falls in a straight line
    final_weight_decay: float = 0.04  # of AdamW at the last step
    frames: int = 8  # of a clip
    fps: float = 4.0  # frames a second that trajectories are sampled at; 0 for as they come
    motion: Literal["pose", "sum", "given"] = "pose"  # actions: differences of poses, of states, or given
    state_name: str = ""  # of the states in the data; empty for the usual names
    action_name: str = ""  # of the actions in the data, where they are given
    camera_name: str = ""  # of the camera, where there are several; empty for the first
    decode_side: int = 0  # shorter side that frames are scaled down to as decoded; 0 for 1.5 --image-size
    image_size: tuple[int, int] = (256, 256)  # height and width in pixels of the frames
    tubelet: int = 2  # frames of a token of the encoder, which one frame fills
    patch_size: int = 16  # side of a token in pixels
    width: int = 1408  # of the encoder's tokens
    depth: int = 40  # blocks of the encoder
    heads: int = 22  # attention heads of the encoder
    expansion: float = 48 / 11  # hidden width of the encoder's perceptrons, in widths
    positions: Literal["sin-cos", "rotary"] = "rotary"  # of the encoder
    uniform_power: bool = True  # sin-cos: as much width for time as for rows and columns; else half of it
    position_size: tuple[int, int] = (0, 0)  # sin-cos: image size whose positions are stretched; 0 0 for own
    position_frames: int = 16  # sin-cos: frames whose positions are stretched
    published_rotary: bool = False  # encoder: with the released frequencies, which do not go with the pairs
    predictor_width: int = 1024  # of the predictor's tokens
    predictor_depth: int = 24  # blocks of the predictor
    predictor_heads: int = 16  # attention heads of the predictor
    initial_std: float = 0.02  # of the weights; 0 for one over the square root of a layer's inputs
    state_token: bool = True  # the predictor is told the state
    standardise: bool = False  # divide actions and states by their spread before the predictor sees them
    normalise: bool = True  # layer-normalise the encoder's tokens and the predicted ones
    rollout: int = 2  # steps of the roll-out loss
    rollout_weight: float = 1.0  # of the roll-out loss; 0 for teacher forcing alone
    measured_states: bool = True  # the roll-out is given the measured states, not those that actions lead to

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        self._encoder().check()
        if self.frames < 2:
            raise UserError(f"--frames {self.frames} leaves nothing to predict: take 2 or more.")
        if self.rollout_weight and not 1 <= self.rollout < self.frames:
            raise UserError(
                f"--rollout {self.rollout} does not lie between 1 and the {self.frames - 1} steps of a clip."
            )
        if self.warmup_epochs + self.anneal_epochs > self.epochs:
            raise UserError("--warmup-epochs and --anneal-epochs together are longer than the training.")
        self.check_heads("predictor_")
        head = self.predictor_width // self.predictor_heads
        if head < 6 or head % 2:
            raise UserError(
                "the predictor's heads need an even width of at least 6, and --predictor-width over "
                f"--predictor-heads gives {head}."
            )

    @classmethod
    def inherited(cls, other: Recipe) -> dict[str, Any] | None:
        """What a run of V-JEPA says of its encoder."""
        if not isinstance(other, VJepa):
            return None
        fields = {name: getattr(other, name) for name in (*ENCODER, "image_size", "position_size")}
        return fields | {"position_frames": other.position_frames or other.frames}

    def reading(self) -> dict[str, Any]:
        """How clips are sampled from trajectories."""
        return {
            "frames": self.frames,
            "fps": self.fps,
            "motion": self.motion,
            "state_name": self.state_name,
            "action_name": self.action_name,
            "camera_name": self.camera_name,
            "decode_side": self.decode_side or round(1.5 * min(self.image_size)),
        }

    def learning_rate_at(self, step: int, steps: int) -> float:
        """A linear rise, then constant, then a straight line down, each its share of the epochs."""
        rise, fall = (round(steps * part / self.epochs) for part in (self.warmup_epochs, self.anneal_epochs))
        return trapezoid(
            step, steps, rise, fall, self.start_learning_rate, self.learning_rate, self.final_learning_rate
        )

    def method(self, facts: dict[str, Any]) -> ActionConditioned:
        """Frozen encoder, predictor and losses."""
        actions, states = len(facts["action_mean"]), len(facts["state_mean"])
        if self.motion == "pose" and states != POSE:
            raise UserError(f"these states have {states} numbers and are no poses: --motion sum or given.")
        encoder, _ = self._encoder().parts(facts)
        predictor = CausalPredictor(
            self.width, actions, states, self.predictor_width, self.predictor_depth, self.predictor_heads,
            rotary=Rotary(self.predictor_width // self.predictor_heads, 3, pairs="adjacent"),
            state_token=self.state_token,
        )  # fmt: skip
        initialise(predictor, self.initial_std or None)
        scales = [
            (facts[f"{name}_mean"], facts[f"{name}_std"]) if self.standardise else None
            for name in ("action", "state")
        ]
        if not self.state_token:
            scales[1] = None
        model = WorldModel(
            encoder, predictor, _move(self.motion, actions, states), *scales, normalise=self.normalise
        )
        return ActionConditioned(model, self.rollout, self.rollout_weight, self.measured_states)

    def _encoder(self) -> VJepa:
        """V-JEPA with this encoder, in which a frame lies in the middle of the clip."""
        fields = {name: getattr(self, name) for name in (*ENCODER, "image_size", "position_size")}
        try:
            return VJepa(
                **fields, frames=self.tubelet, position_frames=self.position_frames,
                initial_std=self.initial_std, predictor_width=24, predictor_depth=1, predictor_heads=1,
            )  # fmt: skip
        except TypeError as problem:  # pragma: no cover - the fields are this file's own
            raise UserError(str(problem)) from problem

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """Clips as they are; which of a trajectory is drawn where it is read."""
        return self.present(samples)

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Frames resized to cover the input, and their centres; states and actions in the data's units."""
        short = next((one for one in samples if len(one["states"]) != self.frames), None)
        if short is not None:
            raise UserError(
                f"a clip of {len(short['states'])} frames is not one of {flag('frames')} {self.frames}."
            )
        video = cover([one["video"] for one in samples], self.frames, self.image_size)
        return {
            "video": video,
            "states": _stacked(samples, "states"),
            "actions": _stacked(samples, "actions"),
        }


def _stacked(samples: Sequence[np.ndarray] | np.ndarray, name: str) -> Tensor:
    return torch.from_numpy(np.stack([one[name] for one in samples]).astype(np.float32))


def _move(motion: str, actions: int, states: int) -> Move:
    """The state after a state and an action: poses turn, others add; of unlike numbers nothing is known."""
    if motion == "pose":
        return moved
    return torch.add if actions == states else _unmoved


def _unmoved(state: Tensor, action: Tensor) -> Tensor:
    return state
