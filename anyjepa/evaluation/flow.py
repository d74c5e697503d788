"""Optical flow of a run, measured: end-point error beside no flow at all and what OpenCV computes."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.flow import end_point_error, inside, outliers, warp
from anyjepa.domains.frames_baselines import BASELINES
from anyjepa.domains.frames_drawing import flow_colours
from anyjepa.domains.frames_files import encode_flo
from anyjepa.domains.frames_samples import FramePairs
from anyjepa.domains.sources import NoSplit
from anyjepa.engine.files import append_line, explained, write_whole
from anyjepa.engine.run import Run, load
from anyjepa.evaluation.confidence import sample_mean_interval
from anyjepa.recipes.mc_jepa_method import MotionContent

MOST = 1000  # pairs that are looked at
TOGETHER = 2**20  # pixels whose flow is computed at once


@dataclass
class Tally:
    """Errors of one estimator, one number a pair."""

    errors: list[float] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)

    def add(self, flow: Tensor, truth: Tensor) -> None:
        """Of flow (1, 2, height, width) where the truth is known."""
        error, wrong = end_point_error(flow, truth), outliers(flow, truth)
        self.errors.append(float(error[error.isfinite()].double().mean()))
        self.wrong.append(float(wrong[wrong.isfinite()].double().mean()))


def flow(
    run: Run | str | Path,
    data: str | np.ndarray | None = None,
    *,
    split: str | None = None,
    out: str | Path | None = None,
    pairs: int = MOST,
    opencv: bool = True,
) -> dict[str, Any]:
    """Compute the flow of pairs of frames at their own size, and measure it where the true flow is known.

    Args:
        run: of ``mc-jepa`` with flow, or its folder.
        data: pairs; those that it was trained on where not given.
        split: of the data; its test part, or where it has none all of it.
        out: folder that the flow of each pair is written to, as .flo and as a picture in the usual colours.
        pairs: at most so many, spread evenly.
        opencv: measure OpenCV's Farnebäck and DIS too; they are left out where it is not installed.

    Returns:
        ``pairs``, ``known`` (those with true flow), ``photometric_left`` (mean absolute difference of the
        frames after warping over that before) and ``forward_backward_error`` in pixels; where flow is known
        ``epe`` with ``epe_low`` and ``epe_high`` (95 %, over pairs), ``fl`` (share of pixels off by more than
        3 pixels and 5 %), and both again with ``_untrained``, ``_zero``, ``_farneback``, ``_dis`` behind;
        ``gain_zero`` and so
        on: by how much the error is below theirs, [value, low, high], paired. A mean over the pixels of a
        pair, then over pairs. The result is added to the run's ``evaluations.jsonl``.

    Raises:
        UserError: the run knows no flow, or no pair can be read.
    """
    opened = run if isinstance(run, Run) else load(run)
    method = opened.method
    if not isinstance(method, MotionContent) or method.estimator is None:
        raise UserError(f"{opened.path} has learned no flow: train mc-jepa, with --flow above 0.")
    samples, part = _opened(opened, data, split)
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(pairs, len(samples))).astype(int))
    untrained = opened.untrained().method
    assert isinstance(untrained, MotionContent)
    names = ["", "_untrained", "_zero"]
    if opencv and _has_opencv():
        names += [f"_{name}" for name in BASELINES]
    tallies = {name: Tally() for name in names}
    left, home, seen = np.zeros(2), [], 0
    for index, pair in _read(opened, samples, chosen):
        frames = torch.from_numpy(pair).movedim(4 - 1, 1).unsqueeze(0).to(opened.device)
        frames = frames.to(torch.float32) if frames.dtype == torch.uint16 else frames
        there, back = method.flow(frames), method.flow(frames.flip(1))
        seen += 1
        before, after, returned = _unlabelled(method, frames, there, back)
        left += before, after
        home.append(returned)
        if out is not None:
            _write(Path(out), samples.identity(index), there)
        try:
            known = samples.flow(index)
        except BadSample as problem:
            opened.problems.append(problem)
            continue
        if known is None or not np.isfinite(known).any():
            continue
        truth = torch.from_numpy(known.copy()).permute(2, 0, 1).unsqueeze(0)
        said = {"": there, "_untrained": untrained.flow(frames), "_zero": torch.zeros_like(truth)}
        for name, function in BASELINES.items():
            if f"_{name}" in tallies:
                said[f"_{name}"] = torch.from_numpy(function(pair)).permute(2, 0, 1).unsqueeze(0)
        for name, tally in tallies.items():
            tally.add(said[name].float().cpu(), truth)
    if not seen:
        first = f", for instance {opened.problems[0]}" if opened.problems else ""
        raise UserError(f"no pair of {samples.source} can be read{first}.")
    source = data if isinstance(data, str) else opened.config["data"]["source"] if data is None else "array"
    result: dict[str, Any] = {"data": source, "part": part, "pairs": seen, "known": len(tallies[""].errors)}
    result |= {
        "photometric_left": float(left[1] / max(left[0], 1e-12)),
        "forward_backward_error": float(np.mean(home)),
    }
    if tallies[""].errors:
        result |= _summed(tallies)
        _keep(opened, result)
    return result | ({"out": str(out)} if out is not None else {})


def _opened(run: Run, data: str | np.ndarray | None, split: str | None) -> tuple[FramePairs, str]:
    """Pairs, and which part of the source they are."""
    if split is None:
        try:
            samples, part = run.open(data, split="test"), "test"
        except NoSplit:
            samples, part = run.open(data), "all"
    else:
        samples, part = run.open(data, split=split), split
    assert isinstance(samples, FramePairs)
    return samples, part


def _read(run: Run, samples: FramePairs, chosen: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for index in chosen.tolist():
        try:
            pair = samples.read(index)
        except BadSample as problem:
            run.problems.append(problem)
            continue
        yield index, pair if len(pair) > 1 else np.concatenate([pair, pair])


def _has_opencv() -> bool:
    from importlib.util import find_spec

    return find_spec("cv2") is not None


def _unlabelled(
    method: MotionContent, frames: Tensor, there: Tensor, back: Tensor
) -> tuple[float, float, float]:
    """Mean absolute difference of the frames before and after warping, and how far from home one ends."""
    within = inside(there)
    count = within.sum().clamp(min=1)
    first, second = method.shown(frames[:, 0]), method.shown(frames[:, 1])
    before = ((second - first).abs().mean(1, keepdim=True) * within).sum() / count
    after = ((warp(second, there) - first).abs().mean(1, keepdim=True) * within).sum() / count
    returned = (there + warp(back, there)).square().sum(1, keepdim=True).sqrt()
    return float(before), float(after), float((returned * within).sum() / count)


def _summed(tallies: dict[str, Tally]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    ours = torch.tensor(tallies[""].errors, dtype=torch.float64)
    for name, tally in tallies.items():
        errors = torch.tensor(tally.errors, dtype=torch.float64)
        value, low, high = sample_mean_interval(errors)
        found |= {f"epe{name}": value, f"epe{name}_low": low, f"epe{name}_high": high}
        found[f"fl{name}"] = float(np.mean(tally.wrong))
        if name:
            found[f"gain{name}"] = list(sample_mean_interval(errors - ours))
    return found


def _keep(run: Run, result: dict[str, Any]) -> None:
    """Add the result to what was measured of the run, as the report reads it: raw is no flow at all."""
    if not run.path.is_dir():
        return
    kinds = {"trained": "", "untrained": "_untrained", "raw": "_zero"}
    row = {
        "probe": "flow",
        "metric": "end-point error (px)",
        "value": result["epe"],
        "low": result["epe_low"],
        "high": result["epe_high"],
        "untrained": result["epe_untrained"],
        "raw": result["epe_zero"],
        "metrics": {"fl": {kind: result[f"fl{name}"] for kind, name in kinds.items()}},
        "baselines": {name: result[f"epe_{name}"] for name in BASELINES if f"epe_{name}" in result},
        "test": result["known"],
        "data": result["data"],
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
    }
    append_line(run.path / "evaluations.jsonl", row)


def _write(folder: Path, identity: str, found: Tensor) -> None:
    """The flow as NAME.flo and NAME.png below the folder, whatever the name of the pair."""
    import io

    from PIL import Image

    safe = "".join(c if c.isalnum() or c in "-_.=," else "_" for c in identity) or "pair"
    values = found[0].permute(1, 2, 0).float().cpu().numpy()
    picture = io.BytesIO()
    Image.fromarray(flow_colours(values)).save(picture, "PNG")
    with explained(f"write the flow to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{safe}.flo", encode_flo(values))
        write_whole(folder / f"{safe}.png", picture.getvalue())
