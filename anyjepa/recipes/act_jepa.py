"""ACT-JEPA: a policy of action chunks that also predicts the embeddings of the states to come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from anyjepa.core.action_chunks import ActionChunks, ContextEncoder, Policy, Queries, Scaling, StepEncoder
from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.domains import Samples
from anyjepa.domains.image_backbones import CONVOLUTIONAL, Convolutional, Timm, check_backbone
from anyjepa.domains.video_clips import cover
from anyjepa.recipes import Recipe, flag


@dataclass(frozen=True, kw_only=True)
class ActJepa(Recipe):
    """ACT-JEPA (Vujinovic, Kovacevic 2025, arXiv:2501.14622).

    From a task, a picture and the state at one step, an encoder makes context tokens. A decoder reads them
    and gives the next 30 actions, as demonstrated; a narrow predictor reads them and gives the tokens that
    the encoder's moving average makes of the next 30 states. Both losses are mean absolute differences, and
    all is trained together. No action enters the predictor. For control encoder and decoder are kept.

    The defaults are the released configuration: a chunk of 30, ResNet-18, four post-norm layers of 512, a
    predictor of four layers of 128, one decoder layer, 4,000 steps of 128 windows of 190 episodes of Push-T.
    Ours, and why:

    - Steps behind the end of an episode count in neither loss, and queries do not know of them: at use nobody
      knows how far the end is (``--mask-keys true`` hides them from the other queries, as released).
    - The difference is a mean over the numbers of a step, as released; the paper's text sums
      (``--reduction sum``), which gives the states 512 / (numbers of an action) times as much weight.
    - The teacher has no picture and so no copy of the ResNet. Pixels are standardised by the data's own
      statistics, and the ResNet begins at random: load your own pre-trained one through ``timm:NAME``.
    - Episodes without actions train the prediction of states alone.

    ``--action-weight 0`` is the first of two stages, JEPA alone; ``--init RUN --freeze true --action-weight
    1`` the second, a new action decoder upon the frozen encoder. ``--state-weight 0`` is the baseline ACT
    (without its variational part), ``--shuffle-targets true`` the control whose states to come are another
    sample's.

    The embedding is the average of the context tokens. ``anyjepa rollout RUN --environment Pendulum-v1`` runs
    the policy in a gymnasium environment and counts successes, ``anyjepa export RUN --format onnx --output
    actions`` takes it away, ``anyjepa.evaluation.future.future_states`` measures on held-out episodes how
    well a frozen encoder tells the states to come, beside the untrained one.

    The paper's gain in success over ACT (41 to 34 of 100 on Push-T) is about one standard error of its own
    rollouts; its gain in the probe of states to come is the solid one.

    ``tiny`` learns in about a minute on a CPU from a scripted expert that swings up a simulated pendulum.

    ``anyjepa train act-jepa --data lerobot/pusht --out runs/policy``
    """

    name: ClassVar[str] = "act-jepa"
    paper: ClassVar[str] = "arXiv:2501.14622"
    domain: ClassVar[str] = "control"
    example_data: ClassVar[str] = "synthetic-pendulum"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "tiny": {
            "chunk": 16, "camera_name": "none", "width": 64, "depth": 2, "heads": 4, "hidden": 128,
            "predictor_width": 32, "predictor_depth": 2, "predictor_heads": 4, "predictor_hidden": 64,
            "decoder_hidden": 128, "dropout": 0.0, "epochs": 10.0, "warmup_epochs": 0.5, "batch_size": 64,
            "learning_rate": 2e-3, "weight_decay": 0.01, "final_weight_decay": 0.01,
            "momentum": (0.99, 1.0),
        },
    }  # fmt: skip

    epochs: float = 21.7  # passes over the data; 4,000 steps of the released ones
    batch_size: int = 128  # samples a step, over all processes
    start_learning_rate: float = 0.0  # at the first step
    learning_rate: float = 6e-4  # at the end of the warm-up
    final_learning_rate: float = 0.0  # at the last step
    warmup_epochs: float = 0.868  # epochs in which the learning rate rises: 4 % of them
    weight_decay: float = 0.1  # of AdamW at the first step
    final_weight_decay: float = 0.1  # of AdamW at the last step
    gradient_clip: float = 1.0  # largest gradient norm; 0 for no clipping
    chunk: int = 30  # steps of actions and states that are predicted, the present one among them
    state_name: str = ""  # of the states in the data; empty for the usual names
    action_name: str = ""  # of the actions in the data; empty for the usual names
    camera_name: str = ""  # of the camera; empty for the first, none for no pictures
    decode_side: int = 0  # shorter side that pictures of videos are scaled down to as decoded; 0 for none
    image_size: tuple[int, int] = (96, 96)  # height and width in pixels that pictures are resized to
    backbone: str = "resnet-18"  # of pictures: a convolutional network of transformers, or timm:NAME
    normalise: Literal["mean-std", "range", "none"] = "mean-std"  # of states and actions, number by number
    tasks: int = 50  # embeddings of tasks
    width: int = 512  # of the encoder's tokens
    depth: int = 4  # blocks of the encoder
    heads: int = 8  # attention heads of the encoder
    hidden: int = 2048  # hidden width of the encoder's perceptrons
    post_norm: bool = True  # normalise after each addition, as published; else before each branch
    dropout: float = 0.1  # share of activations dropped in training
    predictor_width: int = 128  # of the predictor's tokens
    predictor_depth: int = 4  # blocks of the predictor
    predictor_heads: int = 8  # attention heads of the predictor
    predictor_hidden: int = 512  # hidden width of the predictor's perceptrons
    decoder_depth: int = 1  # blocks of the action decoder
    decoder_hidden: int = 2048  # hidden width of the action decoder's perceptrons
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.996, 1.0)  # of the teacher at the first and the last step
    action_weight: float = 1.0  # of the difference of actions; 0 for JEPA alone
    state_weight: float = 1.0  # of the difference of states' tokens; 0 for actions alone (ACT)
    reduction: Literal["mean", "sum"] = "mean"  # over the numbers of a step: as released, or as written
    mask_keys: bool = False  # queries behind an episode's end are hidden from others, as released
    freeze: bool = False  # train the action decoder alone, upon the encoder of --init
    shuffle_targets: bool = False  # control: the states to come are those of another sample

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        self.check_heads("", "predictor_")
        least = ("chunk", "tasks", "depth", "predictor_depth", "decoder_depth", "hidden", "predictor_hidden",
                 "decoder_hidden")  # fmt: skip
        for name in least:
            if getattr(self, name) < 1:
                raise UserError(f"{flag(name)} must be 1 or more, not {getattr(self, name)}.")
        if self.width < 4:
            raise UserError(f"--width {self.width} holds no sines and cosines of rows and columns: take 4.")
        if min(self.action_weight, self.state_weight) < 0 or not self.action_weight + self.state_weight:
            raise UserError("--action-weight and --state-weight must be 0 or more, and one of them above 0.")
        if self.freeze and not self.action_weight:
            raise UserError("--freeze true trains the action decoder alone: give it an --action-weight.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout lies from 0 to below 1, not at {self.dropout:g}.")
        if self.backbone == "vit":
            raise UserError(f"--backbone is one of {', '.join(CONVOLUTIONAL)} or timm:NAME, not vit.")
        check_backbone(self.backbone)

    def reading(self) -> dict[str, Any]:
        """How windows are cut out of episodes."""
        return {
            "chunk": self.chunk,
            "state_name": self.state_name,
            "action_name": self.action_name,
            "camera_name": self.camera_name,
            "decode_side": self.decode_side or round(1.5 * min(self.image_size)),
        }

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """More embeddings of tasks where the data has more tasks than usual."""
        usual = cls.tasks
        return {"tasks": facts["tasks"]} if facts.get("tasks", 1) > usual else {}

    def method(self, facts: dict[str, Any]) -> ActionChunks:
        """Encoder, decoder, predictor and teacher."""
        if facts["tasks"] > self.tasks:
            raise UserError(f"the data has {facts['tasks']} tasks: raise --tasks {self.tasks} to as many.")
        states, actions = len(facts["state_mean"]), len(facts["action_mean"])
        steps = StepEncoder(
            self._scaling(facts, "state"), states, self.tasks, self.width, self.depth, self.heads,
            self.hidden, self.dropout, self.post_norm,
        )  # fmt: skip
        decoder = Queries(
            self.width, self.chunk, self.width, self.decoder_depth, self.heads, self.decoder_hidden, actions,
            self.dropout, self.post_norm,
        )  # fmt: skip
        predictor = Queries(
            self.width, self.chunk, self.predictor_width, self.predictor_depth, self.predictor_heads,
            self.predictor_hidden, self.width, self.dropout, self.post_norm,
        )  # fmt: skip
        policy = Policy(ContextEncoder(steps, self._trunk(facts)), decoder, self._scaling(facts, "action"))
        method = ActionChunks(
            policy, predictor, self._target(steps), self.action_weight, self.state_weight, self.reduction,
            self.mask_keys, self.freeze, self.shuffle_targets,
        )  # fmt: skip
        method.draws = self.dropout > 0
        return method

    def _target(self, steps: StepEncoder) -> EmaTeacher | SameEncoder:
        if self.teacher == "ema":
            return EmaTeacher(steps, *self.momentum)
        return SameEncoder(gradient=self.teacher == "collapse")

    def _trunk(self, facts: dict[str, Any]) -> nn.Module | None:
        if "channels" not in facts:
            return None
        if self.backbone.startswith("timm:"):
            return Timm(self.backbone.removeprefix("timm:"), facts["mean"], facts["std"])
        return Convolutional(self.backbone, facts["mean"], facts["std"])

    def _scaling(self, facts: dict[str, Any], name: str) -> Scaling:
        low, high, mean, deviation = (facts[f"{name}_{one}"] for one in ("low", "high", "mean", "std"))
        if self.normalise == "mean-std":
            return Scaling(mean, deviation)
        if self.normalise == "range":
            pairs = list(zip(low, high, strict=True))
            return Scaling([(a + b) / 2 for a, b in pairs], [(b - a) / 2 for a, b in pairs])
        return Scaling([0.0] * len(mean), [1.0] * len(mean))

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """Windows as they are."""
        return self.present(samples)

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """States and actions in the data's own units, and pictures resized to cover the input."""
        found: Batch = {}
        for name in ("states", "actions", "padded", "acted", "task"):
            found[name] = torch.from_numpy(np.stack([one[name] for one in samples]))
        if found["states"].shape[1] != self.chunk:
            long = found["states"].shape[1]
            raise UserError(f"a window of {long} steps is not one of {flag('chunk')} {self.chunk}.")
        if "image" in (samples[0].dtype.names or ()):
            pictures = [one["image"][None] for one in samples]
            found["image"] = cover(pictures, 1, self.image_size)[:, :, 0]
        return found
