"""Detection of objects in LiDAR frames: a centre-based detector fine-tuned from an encoder, scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anyjepa.core.average_precision import Matched, average_precision, matched
from anyjepa.core.boxes import overlaps
from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.method import Batch
from anyjepa.core.schedules import warmup_cosine
from anyjepa.domains.lidar_frames import BoxedSamples
from anyjepa.domains.lidar_head import (
    CentreDetector,
    Detection,
    RawMap,
    centre_goals,
    detected,
    detection_loss,
)
from anyjepa.domains.lidar_labels import Objects
from anyjepa.domains.lidar_placing import turned_boxes
from anyjepa.engine.randomness import uniforms
from anyjepa.engine.run import Run, build_method
from anyjepa.evaluation.finetuning import FineTuning
from anyjepa.evaluation.low_shot import DRAWS, drawn, over_draws
from anyjepa.evaluation.sides import Side
from anyjepa.recipes.ad_l_jepa import AdLJepa

__all__ = ["detection_probe", "frame_matches"]

KINDS = ("trained", "untrained", "raw")
KITTI = ("Car", "Pedestrian", "Cyclist")
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}  # hitting one is neither right nor wrong
LARGE = ("Car", "Van", "Truck", "Bus")  # of which more overlap is asked
DIFFICULTIES = {"easy": (40.0, 0, 0.15), "moderate": (25.0, 1, 0.3), "hard": (25.0, 2, 0.5)}
MOST_TOGETHER = 16  # frames a step
FEWEST_STEPS = 150  # of few labels more passes are made
RESAMPLES = 200


@dataclass(frozen=True)
class Frames:
    """Frames that can be read, with what is marked in them.

    rows: (n,) places in the source. objects: of each. groups: (n,) what is drawn for an interval.
    """

    rows: np.ndarray
    objects: list[Objects]
    groups: np.ndarray


def detection_probe(
    run: Run,
    train: Side,
    test: Side,
    settings: FineTuning | None = None,
    fraction: float | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fine-tune a detector from the run's weights, from random ones, and without an encoder.

    The value is the mean over classes of the average precision of boxes in space, over 40 places of recall:
    a hit overlaps by more than 0.7 of cars and trucks, 0.5 of others. Where a camera says how objects are
    seen, KITTI's moderate ones count; objects outside the run's range are ignored. All weights learn at one
    rate, as long from either start. ``metrics`` holds the same from above (``ap_bev``), over the 11 places of
    older tables (``ap_3d_11``), and at overlaps of 0.5 and 0.25 (``ap_3d_loose``).

    Args:
        run: whose encoder; it is left as it is.
        train, test: both sides; frames that nobody marked are left out.
        settings: passes, frames a step (16 at most), learning rate, weight decay, clipping, augmentation.
        fraction: share of the training frames, drawn anew `draws` times.
        draws: 5 where None.
        seed: of heads, order and draws.

    Returns:
        a result as `evaluate` gives, with ``class_ap``: by class and kind.

    Raises:
        UserError: nothing is marked in the data, or the run is of another kind.
    """
    if not isinstance(run.recipe, AdLJepa) or not isinstance(train.samples, BoxedSamples):
        raise UserError(f"{run.recipe.name} has no detector: --probe detection is for runs of ad-l-jepa.")
    settings = settings or FineTuning()
    held_out, results = _frames(test), list[dict[str, Any]]()
    names: list[str] = []
    for draw in range((draws or DRAWS) if fraction is not None else 1):
        side = train
        if fraction is not None:
            side = train.take(drawn(train, fraction, None, seed * 1000 + draw))
        known = _frames(side)
        names = names or _classes(known, held_out)
        results.append(_once(run, run.recipe, (side, known), (test, held_out), names, settings, seed + draw))
    return over_draws(results)


def _frames(side: Side) -> Frames:
    assert isinstance(side.samples, BoxedSamples)
    rows, objects = [], []
    for row in side.rows.tolist():
        try:
            objects.append(side.samples.objects(row))
        except BadSample:
            continue
        rows.append(row)
    if not rows:
        raise UserError(f"no objects are marked in the chosen frames of {side.samples.source}.")
    kept = np.flatnonzero(np.isin(side.rows, rows))
    groups = np.arange(len(rows)) if side.groups is None else side.groups.numpy()[kept]
    return Frames(np.array(rows), objects, groups)


def _classes(train: Frames, test: Frames) -> list[str]:
    """KITTI's three where a camera says how objects are seen, else all that occur on both sides."""
    first, second = ({name for one in part.objects for name in one.names} for part in (train, test))
    if any(one.calibration is not None for one in test.objects):
        found = [name for name in KITTI if name in first | second]
    else:
        found = sorted(first & second)
    if not found:
        raise UserError("no class of objects is marked in training and test frames alike.")
    return found


def _once(
    run: Run,
    recipe: AdLJepa,
    train: tuple[Side, Frames],
    test: tuple[Side, Frames],
    names: list[str],
    settings: FineTuning,
    seed: int,
) -> dict[str, Any]:
    found = {}
    for kind in KINDS:
        detector = _fine_tuned(run, recipe, kind, *train, names, settings, seed)
        found[kind] = _said(run, detector, *test)
    frames = test[1]
    measures = {name: {kind: _scored(found[kind], frames, names, recipe, *how) for kind in KINDS}
                for name, how in _MEASURES.items() if name not in ("ap_3d_easy", "ap_3d_hard")
                or any(one.calibration is not None for one in frames.objects)}  # fmt: skip
    main = {kind: measures["ap_3d"][kind] for kind in KINDS}
    values = {kind: _mean(classes) for kind, classes in main.items()}
    spread = {kind: [] for kind in KINDS}
    random, members = np.random.default_rng(0), np.unique(frames.groups)
    places = {group: np.flatnonzero(frames.groups == group) for group in members.tolist()}
    for _ in range(RESAMPLES):
        chosen = np.concatenate([places[g] for g in random.choice(members, len(members)).tolist()])
        for kind in KINDS:
            spread[kind].append(_mean([[one[place] for place in chosen] for one in main[kind]]))
    result: dict[str, Any] = {"probe": "detection", "metric": "ap_3d"}
    for kind, name in (("trained", "value"), ("untrained", "untrained"), ("raw", "raw")):
        prefix = "" if kind == "trained" else f"{kind}_"
        low, high = np.nanpercentile(spread[kind], [2.5, 97.5])
        result |= {name: values[kind], f"{prefix}low": float(low), f"{prefix}high": float(high)}
    for other in ("untrained", "raw"):
        apart = np.array(spread["trained"]) - np.array(spread[other])
        low, high = np.nanpercentile(apart, [2.5, 97.5])
        result[f"gain_over_{other}"] = [values["trained"] - values[other], float(low), float(high)]
    by_class = {
        name: {kind: average_precision(main[kind][place]) for kind in KINDS}
        for place, name in enumerate(names)
    }
    further = {
        name: {kind: _mean(one[kind]) for kind in KINDS} for name, one in measures.items() if name != "ap_3d"
    }
    further["ap_3d_11"] = {kind: _mean(main[kind], 11) for kind in KINDS}
    return {
        **result,
        "metrics": further,
        "class_ap": {name: {k: v for k, v in row.items() if v == v} for name, row in by_class.items()},
        "train": len(train[1].rows), "test": len(frames.rows), "classes": len(names),
        "chosen": {"epochs": settings.epochs, "learning_rate": settings.tune_learning_rate},
    }  # fmt: skip


# boxes in space or from above, share of the usual overlap, difficulty
_MEASURES: dict[str, tuple[bool, float, str]] = {
    "ap_3d": (True, 1.0, "moderate"), "ap_3d_easy": (True, 1.0, "easy"), "ap_3d_hard": (True, 1.0, "hard"),
    "ap_bev": (False, 1.0, "moderate"), "ap_3d_loose": (True, 0.0, "moderate"),
}  # fmt: skip


def _mean(classes: Sequence[Sequence[Matched]], places: int = 40) -> float:
    """Mean over the classes that occur."""
    found = [average_precision(one, places) for one in classes]
    known = [value for value in found if value == value]
    return float(np.mean(known)) if known else float("nan")


def _fine_tuned(
    run: Run,
    recipe: AdLJepa,
    kind: str,
    side: Side,
    frames: Frames,
    names: list[str],
    settings: FineTuning,
    seed: int,
) -> CentreDetector:
    """A detector from the run's weights, from random ones, or of numbers that are not learned."""
    method = build_method(recipe, run.facts, run.config["seed"])
    if kind == "trained":
        method.load_state_dict(run.method.state_dict())
    method.requires_grad_(False)
    method.backbone.requires_grad_(True)
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        torch.manual_seed(seed)
        head = method.head("detection", {}, len(names))
        assert isinstance(head, CentreDetector)
        if kind == "raw":
            head = CentreDetector(RawMap(recipe.grid, max(1.0, run.facts["intensity"])), len(names))
        head.to(run.device)
        boxes, classes = zip(*(_of_classes(one, names) for one in frames.objects), strict=True)
        head.begin(boxes, classes)
        size = max(1, min(settings.tune_batch_size, MOST_TOGETHER, len(frames.rows)))
        steps = max(FEWEST_STEPS, round(settings.epochs * len(frames.rows) / size))
        learned = [one for one in head.parameters() if one.requires_grad]
        optimiser = torch.optim.AdamW(learned, lr=0.0, weight_decay=settings.tune_weight_decay)
        head.train()
        for step in range(1, steps + 1):
            share = warmup_cosine(step, steps, round(settings.warmup * steps), 0.0, 1.0, 0.0)
            for group in optimiser.param_groups:
                group["lr"] = settings.tune_learning_rate * share
            batch, chosen, marked = _drawn(run, recipe, side, frames, (step - 1) * size, size, settings, seed)
            goals = centre_goals(marked, [classes[place] for place in chosen], head)
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda"):
                said = head(batch)
            loss = detection_loss(said, type(goals)(*(part.to(run.device) for part in goals)))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, settings.clip)
            optimiser.step()
    return head.eval()


def _drawn(
    run: Run,
    recipe: AdLJepa,
    side: Side,
    frames: Frames,
    start: int,
    size: int,
    settings: FineTuning,
    seed: int,
) -> tuple[Batch, list[int], list[np.ndarray]]:
    """A batch, which frames it is of, and boxes changed as the frames were."""
    count, chosen, chances = len(frames.rows), [], []
    for place in range(start, start + size):
        epoch, at = divmod(place, count)
        row = int(np.random.default_rng([seed, epoch]).permutation(count)[at])
        chosen.append(row)
        chances.append(uniforms(seed, epoch, frames.rows[row : row + 1]))
    raw = [side.samples.read(int(frames.rows[row])) for row in chosen]
    boxes = [frames.objects[row].boxes for row in chosen]
    if settings.augment:
        chance = np.concatenate(chances)
        batch = recipe.draw(raw, chance)
        boxes = [turned_boxes(b, c) for b, c in zip(boxes, recipe.variation.drawn(chance), strict=True)]
    else:
        batch = recipe.present(raw)
    return {name: value.to(run.device) for name, value in batch.items()}, chosen, boxes


def _of_classes(objects: Objects, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """All boxes, and the number of each one's class; -1 for others."""
    return objects.boxes, np.array([names.index(n) if n in names else -1 for n in objects.names], np.int64)


@torch.inference_mode()
def _said(run: Run, detector: CentreDetector, side: Side, frames: Frames) -> list[Detection]:
    """What is detected in each frame; nothing in one that cannot be read."""
    nothing = Detection(np.zeros((0, 7)), np.zeros(0), np.zeros(0, np.int64))
    found = dict.fromkeys(frames.rows.tolist(), nothing)
    for rows, batch in run.batches(side.samples, frames.rows, 16):
        found |= dict(zip(rows.tolist(), detected(detector(batch), detector), strict=True))
    return [found[row] for row in frames.rows.tolist()]


def _scored(
    found: list[Detection],
    frames: Frames,
    names: list[str],
    recipe: AdLJepa,
    solid: bool,
    asked: float,
    difficulty: str,
) -> list[list[Matched]]:
    """Of each class what each frame's detections make of its objects."""
    result = []
    for number, name in enumerate(names):
        usual, loose = (0.7, 0.5) if name in LARGE else (0.5, 0.25)
        least = usual if asked else loose
        result.append([
            frame_matches(said, number, objects, name, least, recipe, solid, difficulty)
            for said, objects in zip(found, frames.objects, strict=True)
        ])  # fmt: skip
    return result


def frame_matches(
    said: Detection,
    number: int,
    objects: Objects,
    name: str,
    least: float,
    recipe: AdLJepa,
    solid: bool = True,
    difficulty: str = "moderate",
) -> Matched:
    """What the detections of one class make of one frame.

    Args:
        said: detections of the frame.
        number: the class's, in `said`.
        objects: marked in the frame.
        name: the class's, in `objects`.
        least: overlap that a hit exceeds.
        recipe: objects outside its range are ignored.
        solid: of volumes; else of areas from above.
        difficulty: easy, moderate or hard: smaller, more hidden or more cut off objects are ignored, and
            detections that are smaller in the image.
    """
    height, hidden, cut = DIFFICULTIES[difficulty]
    kinds = np.array(objects.names, dtype=object)
    mine = kinds == name
    asked = mine | (kinds == NEIGHBOURS.get(name, ""))
    boxes = objects.boxes[asked].astype(np.float64)
    # what nobody said is NaN, which is neither above nor below
    hard = (
        (objects.heights[asked] <= height)
        | (objects.occlusion[asked] > hidden)
        | (objects.truncation[asked] > cut)
    )
    low, high = np.array(recipe.low[:2]), np.array(recipe.high[:2])
    outside = ((boxes[:, :2] < low) | (boxes[:, :2] >= high)).any(axis=1)
    own = said.classes == number
    detections, scores = said.boxes[own], said.scores[own]
    small = None
    if objects.calibration is not None:
        small = objects.calibration.heights(detections) < height
    overlap = overlaps(detections, boxes, solid)
    return matched(overlap, scores, least, ~mine[asked] | hard | outside, small)
