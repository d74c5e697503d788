"""EEG-VJEPA: EEG as video, predicting the embeddings of hidden tubes of electrodes and moments."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.core.families import FamilyJepa
from anyjepa.core.method import Batch, Context
from anyjepa.core.objectives import OBJECTIVES
from anyjepa.core.positions import AxisSinCos, Rotary
from anyjepa.core.targets import EmaTeacher, SameEncoder
from anyjepa.core.transformer import Encoder, Predictor, initialise
from anyjepa.core.tube_masks import TubeBlocks
from anyjepa.domains import Samples
from anyjepa.domains.eeg_batches import beside
from anyjepa.domains.eeg_frames import Film, FrameTubelets, rows_of
from anyjepa.domains.eeg_montage import TEN_TWENTY, electrode_name
from anyjepa.recipes import Recipe, flag

ENOUGH = 3  # times as many of the named electrodes must be there as lack


@dataclass(frozen=True, kw_only=True)
class EegVjepa(Recipe):
    """EEG-VJEPA (Hojjati et al. 2025, arXiv:2507.03633): V-JEPA over EEG that is laid out as video.

    A frame is five seconds of the 19 electrodes of the 10-20 system, electrodes as rows and samples as
    columns; a clip is 32 frames, one every 7.5 seconds. Tubelets of 4 frames, 4 electrodes and 0.3 s are the
    tokens. Blocks of electrodes and columns are hidden in all frames; a narrow predictor must guess their
    tokens, as V-JEPA does, under eight small blocks and under two large ones, from which a context encoder
    sees the rest. The defaults are the released ViT-M settings (384 wide; 10 clips a step, 400 epochs); the
    schedules are planned for 1.25 times as many.

    What of the release is not repeated. Its crop cuts the middle 0.26 s out of every frame and stretches it
    to five seconds, since no rectangle of 19 by 500 meets its bounds: here there is no crop
    (``--defect true`` brings it back, for comparison). Where frames overlap, what is hidden in one is seen in
    the next: such a ``--hop`` is refused. Its best weights are those of the lowest loss, which a collapse
    has: here the spread of tokens is watched, and ``anyjepa inspect`` prints ``token_spread``, against the
    untrained one's. An independent replication found the published weights collapsed and an untrained twin
    better; a band-power baseline is printed beside every score.

    What does not fill a token is left out as released, 3 of 19 electrodes and 0.2 s of each frame, and is
    said so; ``--fill true`` fills it up with zeros instead. Rows that are neighbours in the list are often
    none on the scalp: ``--token-rows 1`` makes a token of each electrode, and s-jepa knows their places.
    Rows are found by the electrode's place, whatever the order in a file; one that lacks is zero. Each
    electrode is standardised over its clip, so that units do not matter.

    The embedding of a clip is the average of the teacher's tokens; ``--probe attentive`` is the paper's.

    ``tiny`` gains some points over an untrained encoder by a linear probe in two seeds of three, none by
    nearest neighbours, and stays below band power (docs/experiments.md).

    ``anyjepa train eeg-vjepa --data recordings/ --out runs/eeg --batch-size 32``
    """

    name: ClassVar[str] = "eeg-vjepa"
    paper: ClassVar[str] = "arXiv:2507.03633"
    domain: ClassVar[str] = "eeg"
    example_data: ClassVar[str] = "synthetic-eeg"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "vit-b": {"frames": 16, "hop": 5.0, "token_frames": 2, "width": 768, "heads": 12},
        "tiny": {
            "electrodes": "auto", "rate": 64.0, "band": (0.5, 30.0), "frames": 2, "frame_seconds": 2.0,
            "hop": 2.0, "token_frames": 1, "token_rows": 2, "token_seconds": 0.25, "fill": True,
            "width": 64, "depth": 3, "heads": 4, "predictor_width": 48, "predictor_depth": 2,
            "predictor_heads": 4, "positions": "rotary", "initial_std": 0.0,
            "epochs": 25.0, "warmup_epochs": 2.5, "batch_size": 32, "momentum": (0.99, 1.0),
            "start_learning_rate": 1e-4, "learning_rate": 1.5e-3, "final_weight_decay": 0.04,
        },
    }  # fmt: skip

    epochs: float = 400.0  # passes over the data
    batch_size: int = 10  # samples a step, over all processes
    learning_rate: float = 6.25e-4  # at the end of the warm-up
    gradient_clip: float = 10.0  # largest gradient norm; 0 for no clipping
    stretch: float = 1.25  # schedules are planned for so many times the training, whose end they never reach
    electrodes: str = "10-20"  # rows: the 19 of the 10-20 system, names set apart by commas, or auto
    montage: str = "standard_1005"  # of MNE: where electrodes lie that the file does not place
    unit: Literal["V", "mV", "uV", "nV"] = "V"  # that arrays, and files whose unit is wrong, are really in
    group: Literal["subject", "recording"] = "subject"  # what must not be on both sides of a split
    rate: float = 100.0  # samples a second that recordings are resampled to
    band: tuple[float, float] = (1.0, 40.0)  # Hz that are let through; 0 for no limit at that end
    frames: int = 32  # of a clip
    frame_seconds: float = 5.0  # length of a frame
    hop: float = 7.5  # seconds from the start of one frame to that of the next
    stride: float = 0.0  # seconds from the start of one clip to that of the next; 0 for a clip's length
    delay: float = 0.0  # seconds from an event to the clip that it labels
    token_frames: int = 4  # frames of a token
    token_rows: int = 4  # electrodes of a token
    token_seconds: float = 0.3  # seconds of a token
    fill: bool = False  # fill rows and columns up to whole tokens with zeros, instead of leaving them out
    defect: bool = False  # train on the middle of each frame, stretched, as the released code does
    width: int = 384  # of the encoder's tokens
    depth: int = 12  # blocks of the encoder
    heads: int = 6  # attention heads of the encoder
    positions: Literal["sin-cos", "rotary"] = "sin-cos"  # fixed and added, or turning queries and keys
    predictor_width: int = 384  # of the predictor's tokens
    predictor_depth: int = 6  # blocks of the predictor
    predictor_heads: int = 6  # attention heads of the predictor
    initial_std: float = 0.02  # of the weights; 0 for one over the square root of a layer's inputs
    families: str = "8x0.15,2x0.7"  # mask families: blocks x share of the frame that each covers
    block_aspect: tuple[float, float] = (0.75, 1.5)  # height over width of a block
    published: bool = False  # masks cut as the released collator does
    teacher: Literal["ema", "none", "collapse"] = "ema"  # EMA, the same encoder stopped, or not even stopped
    momentum: tuple[float, float] = (0.998, 1.0)  # of the teacher at the first step and the planned last one
    objective: Literal["l1", "smooth-l1", "l2", "cosine"] = "l1"  # distance to the target tokens
    normalise_targets: bool = True  # layer-normalise the target tokens
    variance: float = 0.0  # weight of the missing spread of predicted tokens

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        super().check()
        for name in ("rate", "frames", "frame_seconds", "hop", "stretch", "token_frames", "token_rows"):
            if getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} must be above 0, not {getattr(self, name):g}.")
        if self._token[2] < 1 or self._token[2] > round(self.frame_seconds * self.rate):
            raise UserError(
                f"--token-seconds {self.token_seconds:g} is no part of a frame at {self.rate:g} Hz."
            )
        if self.frames % self.token_frames:
            raise UserError(f"--frames {self.frames} do not divide into tokens of {self.token_frames}.")
        if self.film(self.token_rows).leaks:
            raise UserError(
                f"frames of {self.frame_seconds:g} s every --hop {self.hop:g} s overlap, so that what is "
                "hidden in one is seen in the next: make --hop as long as a frame."
            )
        self.check_heads("", "predictor_")
        for width, heads, part in [
            (self.width, self.heads, ""),
            (self.predictor_width, self.predictor_heads, "predictor-"),
        ]:
            if self.positions == "rotary" and (width // heads < 6 or width // heads % 2):
                raise UserError(
                    f"rotary positions need heads of an even width of at least 6: --{part}width {width} over "
                    f"--{part}heads {heads} gives {width // heads}."
                )
        self._families()

    def _families(self) -> list[tuple[int, float]]:
        """Blocks and the share of the frame that each covers, of each family."""
        found = [re.fullmatch(r"\s*(\d+)\s*x\s*(\d*\.?\d+)\s*", part) for part in self.families.split(",")]
        if not all(found):
            raise UserError(
                f"--families '{self.families}' is not of the form 8x0.15,2x0.7 (blocks x share of the frame)."
            )
        return [(int(match[1]), float(match[2])) for match in found if match]

    @property
    def _token(self) -> tuple[int, int, int]:
        return self.token_frames, self.token_rows, round(self.token_seconds * self.rate)

    def film(self, rows: int) -> Film:
        """Frames and tokens of so many electrodes."""
        size, hop = round(self.frame_seconds * self.rate), round(self.hop * self.rate)
        return Film(self.frames, size, hop, rows, self._token, self.fill)

    def _names(self) -> list[str] | None:
        """Of the rows, in their order; None for all that the data has."""
        if self.electrodes == "10-20":
            return list(TEN_TWENTY)
        names = [electrode_name(name) for name in self.electrodes.split(",") if name.strip()]
        return None if names in ([], ["auto"]) else names

    def reading(self) -> dict[str, Any]:
        """How recordings are filtered, resampled, placed and cut into clips."""
        film = self.film(self.token_rows)
        return {
            "channels": self._names(),
            "montage": self.montage,
            "unit": self.unit,
            "group": self.group,
            "rate": self.rate,
            "band": list(self.band),
            "seconds": film.points / self.rate,
            "stride": self.stride,
            "delay": self.delay,
            "film": {
                "frames": film.frames,
                "size": film.size,
                "hop": film.hop,
                "token": list(film.token),
                "fill": film.fill,
                "names": self._names(),
            },
        }

    @classmethod
    def advice(cls, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
        """A token of each electrode, where there are too few of them for blocks of several."""
        return {"token_rows": 1} if len(facts["electrodes"]) < 8 else {}

    def planned(self, steps: int) -> int:
        """1.25 times the training as released."""
        return max(1, round(steps * self.stretch))

    def _rows(self, facts: dict[str, Any]) -> list[list[float]]:
        """Places of the rows: of the named electrodes in that order, else of all that the data has."""
        rows, lacking = rows_of(facts, self._names())
        if len(lacking) * ENOUGH > len(rows):
            raise UserError(
                f"the data lacks {', '.join(lacking)} of --electrodes: name those that it has, or say auto."
            )
        return [place for _, place in rows]

    def method(self, facts: dict[str, Any]) -> FrameJepa:
        """Tokenizer, encoder, predictor, teacher and mask samplers."""
        places = self._rows(facts)
        film = self.film(len(places))
        try:
            samplers = [
                TubeBlocks(film.grid, count, scale, 1.0, self.block_aspect, published=self.published)
                for count, scale in self._families()
            ]
        except ValueError as problem:
            raise UserError(
                f"these masks cannot be drawn: {problem}; change --families, --token-rows or --token-seconds."
            ) from problem
        tubelets = FrameTubelets(film, self.width, places, self.defect)
        fixed = self.positions == "sin-cos"
        encoder = Encoder(
            tubelets, self._table(self.width) if fixed else None, self.width, self.depth, self.heads,
            rotary=None if fixed else self._rotary(self.width // self.heads),
        )  # fmt: skip
        predictor = Predictor(
            self.width, self._table(self.predictor_width) if fixed else None, self.predictor_width,
            self.predictor_depth, self.predictor_heads, mask_tokens=len(samplers),
            rotary=None if fixed else self._rotary(self.predictor_width // self.predictor_heads),
        )  # fmt: skip
        for part in (encoder, predictor):
            initialise(part, self.initial_std or None)
        nn.init.zeros_(predictor.mask_token)
        target = (
            EmaTeacher(encoder, *self.momentum)
            if self.teacher == "ema"
            else SameEncoder(gradient=self.teacher == "collapse")
        )
        return FrameJepa(
            encoder, predictor, target, samplers, OBJECTIVES[self.objective], self.normalise_targets,
            self.variance, self.stretch,
        )  # fmt: skip

    def _table(self, width: int) -> AxisSinCos:
        return AxisSinCos(width, (2 * math.ceil(width / 6),) * 3)

    def _rotary(self, head: int) -> Rotary:
        return Rotary(head, 3, pairs="adjacent")

    def draw(self, samples: list[np.ndarray] | np.ndarray, uniforms: np.ndarray) -> Batch:
        """Clips as they are: no augmentation."""
        return beside(samples)

    def present(self, samples: list[np.ndarray] | np.ndarray) -> Batch:
        """Clips as they are."""
        return beside(samples)


class FrameJepa(FamilyJepa):
    """V-JEPA's method over frames of EEG, with an eye on the collapse that its published weights have."""

    @torch.no_grad()
    def health(self, batches: Iterable[Batch], context: Context) -> dict[str, float]:
        """``token_spread``: standard deviation of tokens over the size of their mean, of a batch.

        ``clip_cosine``: mean cosine between embeddings of different clips, before their mean is taken off:
        0.99998 of the published weights, 0.974 of random ones (note of EEG-VJEPA).
        """
        values = [self.tokens(batch).values.double() for batch in batches]
        if not values:
            return {}
        tokens = torch.cat(values)
        mean = tokens.mean((0, 1))
        spread = (tokens - mean).square().sum(-1).mean().sqrt()
        found = {"token_spread": float(spread / mean.norm().clamp(min=1e-12))}
        unit = functional.normalize(tokens.mean(1), dim=1)
        if len(unit) > 1:
            total: Tensor = unit.sum(0).square().sum() - len(unit)
            found["clip_cosine"] = float(total / (len(unit) * (len(unit) - 1)))
        return found

    def cautions(self, steps: int) -> list[str]:
        """Rows and samples that are in no token."""
        tubelets = self.encoder.tokenizer
        assert isinstance(tubelets, FrameTubelets)
        rows, samples = tubelets.film.uncovered
        if not rows and not samples:
            return []
        return [
            f"{rows} of {tubelets.film.rows} electrodes and {samples} of {tubelets.film.size} samples of "
            "each frame are in no token: --fill true takes them in."
        ]
