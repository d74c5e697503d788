"""The checks of 3D-JEPA, AD-L-JEPA, SAR-JEPA and image-volume; `behaviours.py` runs them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from behaviours_runs import Bench, Claim
from torch import Tensor
from torch.nn import functional

from anyjepa.core.method import Batch
from anyjepa.engine.run import Run, load
from anyjepa.engine.train import Settings, train
from anyjepa.evaluation.comparison import states
from anyjepa.evaluation.low_shot import drawn
from anyjepa.evaluation.probes import knn_probe, linear_probe
from anyjepa.evaluation.sides import both_sides
from anyjepa.recipes.ad_l_jepa_method import MapPrediction, draw_cells, missing_deviation

SHOTS, DRAWS = 5, 10
NOISE = 0.02  # of accuracies that shall be no worse


def batches(run: Run) -> Iterator[Batch]:
    """Held-out samples, 32 at a time."""
    return (batch for _, batch in run.batches(run.open(split="test"), batch_size=32))


@torch.inference_mode()
def held_out(bench: Bench, run: Run, *names: str) -> list[float]:
    """Means of what a step says of held-out samples, under masks that are the same for all runs."""
    found = [run.method.losses(batch, bench.context(step)) for step, batch in enumerate(batches(run), 1)]
    return [float(torch.stack([each[name] for each in found]).mean()) for name in names]


def cloud_decoder(bench: Bench) -> list[Claim]:
    """3D-JEPA 12, 14 and 15: a decoder that reads the context in every layer; what is seen; no collapse."""
    share, score, spread, seen = {}, {}, 0.0, 0.0
    for kind in ("context-aware", "plain"):
        run = bench.trained("3d-jepa", decoder=kind)
        loss, trivial, spread_here, seen_here = held_out(
            bench, run, "loss", "mean_target_loss", "target_spread", "seen"
        )
        share[kind], score[kind] = loss / trivial, bench.scores(run)
        if kind == "context-aware":
            spread, seen = spread_here, seen_here
    return [
        Claim("context-aware: better than the mean direction", share["context-aware"], 1.0, above=False),
        Claim("plain: better than the mean direction", share["plain"], 1.0, above=False),
        Claim(
            "context-aware predicts better than plain", share["context-aware"], share["plain"], above=False
        ),
        Claim("and is read better, linear", score["context-aware"][0], score["plain"][0]),
        Claim("and is read better, kNN", score["context-aware"][1], score["plain"][1]),
        Claim("targets stay spread (1: over the sphere)", spread, 0.5),
        Claim("less than three quarters of the patches are encoded", seen, 0.75, above=False),
    ]


def cloud_masks(bench: Bench) -> list[Claim]:
    """3D-JEPA 13: blocks are harder to predict than as many patches drawn singly, and teach no less."""
    singly = {"targets": 6, "target_ratio": (0.042, 0.042), "context_ratio": (1.0, 1.0), "middles": "random"}
    share, score = {}, {}
    for name, fields in (("blocks", {}), ("single", singly)):
        run = bench.trained("3d-jepa", **fields)
        loss, trivial = held_out(bench, run, "loss", "mean_target_loss")
        share[name], score[name] = loss / trivial, bench.scores(run)
    return [
        Claim("blocks are harder than single patches", share["blocks"], share["single"]),
        *(
            Claim(f"blocks are read no worse, {probe}", score["blocks"][at], score["single"][at] - NOISE)
            for at, probe in enumerate(("linear", "kNN"))
        ),
    ]


def cloud_epochs(bench: Bench) -> list[Claim]:
    """3D-JEPA's claim: fewer epochs than Point-JEPA to the same score, with encoders of one size."""
    curves = {}
    for name in ("3d-jepa", "point-jepa"):
        clouds = bench.options.clouds
        run = bench.trained(name, clouds, up="z" if clouds else "y")
        kept = list(states(run))
        curves[name] = [(step / kept[-1][1], *bench.scores(state)) for state, step in kept[1::2]]
    claims = []
    for at, probe in ((1, "linear"), (2, "kNN")):
        ours, theirs = ([point[at] for point in curves[name]] for name in ("3d-jepa", "point-jepa"))
        wanted = theirs[-1]
        needed = next((point[0] for point in curves["3d-jepa"] if point[at] >= wanted), 2.0)
        claims += [
            Claim(f"as good as Point-JEPA's end after half of the steps, {probe}", needed, 0.5, above=False),
            Claim(f"better after a fifth of the steps, {probe}", ours[0], theirs[0]),
            Claim(f"better at the end, {probe}", ours[-1], theirs[-1]),
        ]
    return claims


@torch.inference_mode()
def _occupancy(bench: Bench, run: Run) -> float:
    """Area under the curve of hidden cells with points against empty ones, all kinds of cells hidden."""
    method, scores, truth = run.method, [], []
    assert isinstance(method, MapPrediction)
    for step, batch in enumerate(batches(run), 1):
        cells = draw_cells(method.encoder.occupied(batch), 0.5, bench.context(step).generator, False, True)
        told = method.predicted(method.context(batch, cells))
        hidden = cells.wanted | cells.void
        scores.append(-(told @ functional.normalize(method.empty_token, dim=0))[hidden])
        truth.append(cells.wanted[hidden])
    score, hit = torch.cat(scores), torch.cat(truth)
    rank = score.argsort().argsort().double() + 1
    hits, misses = int(hit.sum()), int((~hit).sum())
    return float((rank[hit].sum() - hits * (hits + 1) / 2) / (hits * misses))


@torch.inference_mode()
def _deviation(bench: Bench, run: Run) -> float:
    """Deviation of predicted directions' channels at hidden cells, as a share of that over the sphere."""
    method, missing = run.method, []
    assert isinstance(method, MapPrediction)
    for step, batch in enumerate(batches(run), 1):
        cells = method.hidden(method.encoder.occupied(batch), bench.context(step).generator)
        missing.append(missing_deviation(method.predicted(method.context(batch, cells)), cells.wanted))
    return 1 - float(torch.stack(missing).mean()) * method.encoder.width**0.5


@torch.inference_mode()
def _cells(run: Run, split: str | None, most: int = 20_000) -> tuple[Tensor, Tensor]:
    """Tokens of occupied cells; the greatest height and the logarithm of how many points there are."""
    method, tokens, facts = run.method, [], []
    assert isinstance(method, MapPrediction)
    for _, batch in run.batches(run.open(split=split), batch_size=32):
        occupied = method.encoder.occupied(batch)
        points = batch["points"]
        placed = method.grid.place(points, batch["present"])
        empty = torch.zeros(len(points), method.grid.cells + 1)
        count = empty.scatter_add(1, placed.cell, placed.inside.float())[:, :-1]
        height = empty.scatter_reduce(1, placed.cell, points[..., 2], "amax", include_self=False)[:, :-1]
        known = occupied & (count > 0)
        tokens.append(method.tokens(batch).values[known])
        facts.append(torch.stack([height, count.clamp(min=1).log()], dim=2)[known])
    x, y = torch.cat(tokens), torch.cat(facts)
    some = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:most]
    return x[some].double(), y[some].double()


def _ridge(fit: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Mean R squared of ridge regression, both sides standardised by the first."""
    (x, y), (other, truth) = fit, test
    mean, scale = x.mean(0), x.std(0).clamp(min=1e-9)
    x, other = (x - mean) / scale, (other - mean) / scale
    weights = torch.linalg.solve(
        x.T @ x + len(x) * 1e-3 * torch.eye(x.shape[1]).double(), x.T @ (y - y.mean(0))
    )
    wrong = (other @ weights + y.mean(0) - truth).square().sum(0)
    return float((1 - wrong / (truth - truth.mean(0)).square().sum(0)).mean())


def lidar_cells(bench: Bench) -> list[Claim]:
    """AD-L-JEPA 11, 13 and 14: hidden cells are told, empty ones known, and cells can be read."""
    run = bench.trained("ad-l-jepa")
    told, trivial = held_out(bench, run, "occupied", "mean_target")
    area = _occupancy(bench, run)
    shown = _occupancy(bench, bench.trained("ad-l-jepa", hide_empty=False))
    read = {
        kind: _ridge(_cells(one, None), _cells(one, "test"))
        for kind, one in (("trained", run), ("untrained", run.untrained()))
    }
    return [
        Claim("hidden cells: better than the mean direction", told / trivial, 1.0, above=False),
        Claim("empty cells are told from others (area, 0.5: not)", area, 0.5),
        Claim("and better than if only occupied ones are hidden in training", area, shown),
        Claim("height and density of a cell are read better than before training", read["trained"],
              read["untrained"]),
    ]  # fmt: skip


def lidar_collapse(bench: Bench) -> list[Claim]:
    """AD-L-JEPA 12: without hinge and moving average predictions become one; either prevents it."""
    settings = {
        "neither": {"hinge": 0.0, "momentum": (0.0, 0.0)}, "hinge": {"momentum": (0.0, 0.0)},
        "average": {"hinge": 0.0},
    }  # fmt: skip
    found = {
        name: _deviation(bench, bench.trained("ad-l-jepa", **fields)) for name, fields in settings.items()
    }
    return [
        Claim("neither: deviation below a tenth of the sphere's", found["neither"], 0.1, above=False),
        Claim("the hinge alone keeps more", found["hinge"], found["neither"]),
        Claim("the moving average alone keeps more", found["average"], found["neither"]),
    ]


def _few(bench: Bench, run: Run, data: str | None) -> dict[str, float]:
    """Linear probe, kNN, and the linear probe of few labelled chips of each class."""
    sides = both_sides(run, data)
    fit, test = (run.embed(side.samples, indices=side.rows) for side in sides)
    labels, truth = (side.labels for side in sides)
    few = []
    for draw in range(DRAWS):
        part = drawn(sides[0], None, SHOTS, draw)
        few.append(linear_probe(fit[part], labels[part], test, truth).value)
    return {
        "linear": linear_probe(fit, labels, test, truth).value,
        "kNN": knn_probe(fit, labels, test, truth).value,
        f"{SHOTS} labels a class": float(np.mean(few)),
    }


def radar_targets(bench: Bench) -> list[Claim]:
    """SAR-JEPA 11, 12, 14 and 15: gradients by ratio beat pixels, four scales one; the loss falls."""
    data = bench.options.chips
    settings: dict[str, dict[str, Any]] = {
        "gradients": {}, "pixels": {"target": "pixels"}, "small": {"radii": (1,)}, "large": {"radii": (7,)},
        "and teacher": {"teacher_weight": 1.0},
    }  # fmt: skip
    runs = {name: bench.trained("sar-jepa", data, **fields) for name, fields in settings.items()}
    found = {name: _few(bench, run, data) for name, run in runs.items()}
    found["untrained"] = _few(bench, runs["gradients"].untrained(), data)
    claims = []
    for probe in found["gradients"]:
        score = {name: scores[probe] for name, scores in found.items()}
        claims += [
            Claim(f"gradients beat pixels, {probe}", score["gradients"], score["pixels"]),
            Claim(f"gradients beat untrained, {probe}", score["gradients"], score["untrained"]),
            Claim(f"pixels beat untrained, {probe}", score["pixels"], score["untrained"]),
            Claim(f"four scales beat the smallest, {probe}", score["gradients"], score["small"]),
            Claim(f"four scales beat the largest, {probe}", score["gradients"], score["large"]),
            Claim(f"a learned target beside helps, {probe}", score["and teacher"], score["gradients"]),
        ]
    losses = np.array([row["loss"] for row in runs["gradients"].metrics()])
    tenths = [part.mean() for part in np.array_split(losses, 10)]
    falls = float(np.mean(np.diff(tenths) < 0))
    return [*claims, Claim("the smoothed loss falls from tenth to tenth (share)", falls, 0.85)]


@torch.inference_mode()
def _order(run: Run) -> float:
    """Accuracy of a linear probe: were a volume's slices shuffled?"""
    sides = []
    for split, seed in (("train", 0), ("test", 1)):
        samples = run.open(split=split)
        whole = np.stack([samples.read(index) for index in range(len(samples))])
        chance = np.random.default_rng(seed)
        mixed = np.stack([volume[chance.permutation(len(volume))] for volume in whole])
        found = [run.embed(run.domain.open(values, reading=run.reading())) for values in (whole, mixed)]
        sides.append((torch.cat(found), torch.arange(2).repeat_interleave(len(whole))))
    return linear_probe(*sides[0], *sides[1]).value


def volume_attention(bench: Bench) -> list[Claim]:
    """image-volume 11 and 12: attention among slices knows their order, and tells more than neighbours do."""
    deformable = bench.trained("image-volume")
    alone = bench.trained("image-volume", attention="none", weights=(1.0, 0.0, 1.0))
    told, straight = held_out(bench, deformable, "hidden_loss", "interpolation_loss")
    return [
        Claim("the order of slices is read better than from their mean", _order(deformable), _order(alone)),
        Claim("classes are read no worse than from the mean of slices", bench.score(deformable),
              bench.score(alone) - NOISE),
        Claim("hidden slices: better than the mean of both neighbours", told / straight, 1.0, above=False),
    ]  # fmt: skip


def _slices(bench: Bench, run: Run) -> float:
    return bench.score(run, "slices:synthetic-volumes", "largest")


def volume_joint(bench: Bench) -> list[Claim]:
    """image-volume 13: slices are read no worse when volumes are learned too, at once or afterwards."""
    joint = bench.trained("image-volume")
    images = bench.trained("image-volume", weights=(1.0, 0.0, 0.0))
    out = bench.out / f"image-volume-after-{bench.seed}"
    shutil.rmtree(out, ignore_errors=True)
    settings = Settings(seed=bench.seed, steps=bench.options.steps, quiet=True, workers=0, device="cpu")
    train("image-volume", None, out, init=images.path, settings=settings, weights=(0.0, 0.0, 1.0))
    score = {name: _slices(bench, run) for name, run in (("joint", joint), ("images", images))}
    after, before = _slices(bench, load(out, "cpu")), _slices(bench, images.untrained())
    return [
        Claim("slices: images alone beat untrained", score["images"], before),
        Claim("slices: joint beats untrained", score["joint"], before),
        Claim("slices: joint no worse than images alone", score["joint"], score["images"] - NOISE),
        Claim("slices: volumes afterwards no worse than images alone", after, score["images"] - NOISE),
    ]


CHECKS: dict[str, Callable[[Bench], list[Claim]]] = {
    "3d-decoder": cloud_decoder, "3d-masks": cloud_masks, "3d-epochs": cloud_epochs,
    "l-cells": lidar_cells, "l-collapse": lidar_collapse, "r-targets": radar_targets,
    "iv-attention": volume_attention, "iv-joint": volume_joint,
}  # fmt: skip
