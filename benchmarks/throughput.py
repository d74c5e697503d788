"""Samples per second of I-JEPA training, end to end, beside a peer; and how much of the machine a step uses.

Ours is `anyjepa.engine.train.train` as a user calls it: JPEG files decoded and cropped in a loader process,
masks, step, teacher, metrics and collapse watch. Its checkpoints, one a minute, are charged to it by their
measured cost; the peer saves none. The peer is described in transformers_peer.py. Both have the same files,
sizes, batch, threads and number of targets, and take turns in one process, so that a busy machine slows both;
the figure is the median of the rounds' ratios. The number of the peer's loader processes is the fastest of
0, 1 and 2; ours is the engine's default. Masks differ by design (ours: one width for all steps; the peer's:
as wide as the batch's block, contexts cut to the smallest of the batch), so tokens and useful FLOPs of both
are given, and the ratio that is left when each is charged by the FLOP.

The share of the matrix rate is that of the whole step (masks, model, optimiser, teacher) on a batch that is
there already, beside the rate of fp32 linear layers measured just before and after it. How useful FLOPs are
counted is said in step_parts.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from step_parts import MODEL, Dissected, Sizes, counted_flops, matrix_rates, seconds_of, useful_flops
from transformers_peer import Images, MultiBlockCollator, PeerTraining, TransformersJepa

from anyjepa.engine.randomness import step_generator
from anyjepa.engine.train import Settings, train

AHEAD = 5  # steps beyond the measured ones, so that the loader is still at work when they end
QUICK = Sizes(
    image=64, patch=8, width=48, depth=2, predictor_width=24, predictor_depth=2, batch_size=4, files=24,
    file_side=80,
)  # fmt: skip


def write_images(folder: Path, count: int, side: int) -> None:
    """JPEG files of smooth random colours, about as large as photographs of that size are."""
    draw = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.jpg", quality=90)


def ours_seconds(sizes: Sizes, folder: Path, run: Path, steps: int, compiled: bool) -> float:
    """Seconds of a step of a new training, as its metrics tell them; the first `steps` are warm-up."""
    settings = Settings(
        steps=2 * steps + AHEAD, log_every=steps, checkpoint_every=10**9, device="cpu", quiet=True,
        compile=compiled,
    )  # fmt: skip
    train(sizes.recipe(), str(folder), run, settings=settings)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(row["seconds_per_step"] for row in rows if row["step"] == 2 * steps)


def peer_seconds(peer: PeerTraining, steps: int) -> float:
    """Seconds of a step of the peer, after two of warm-up that take it up again."""
    for _ in range(2):
        peer.step()
    return seconds_of(lambda: [peer.step() for _ in range(steps)]) / steps


def build_peer(sizes: Sizes) -> TransformersJepa:
    """The peer's model at these sizes."""
    predictor = (sizes.predictor_width, sizes.predictor_depth, sizes.predictor_heads)
    return TransformersJepa(sizes.image, sizes.patch, sizes.width, sizes.depth, sizes.heads, predictor)


def choose_peer(sizes: Sizes, folder: Path, workers: int | None, steps: int) -> tuple[PeerTraining, int]:
    """The peer with the number of loader processes that is fastest here, or with the one given."""
    recipe = sizes.recipe()
    images = Images(folder, sizes.image, recipe.crop_area, recipe.crop_aspect)
    collate = MultiBlockCollator(sizes.image // sizes.patch, sizes.targets)

    def build(count: int) -> PeerTraining:
        return PeerTraining(build_peer(sizes), images, collate, sizes.batch_size, count)

    if workers is None:
        workers = min((0, 1, 2), key=lambda count: peer_seconds(build(count), steps))
    return build(workers), workers


def compare(
    sizes: Sizes,
    rounds: int,
    steps: int,
    peer_workers: int | None,
    scratch: Path,
    compiled: bool = False,
) -> dict[str, Any]:
    """All figures, in rounds of `steps` steps of each; the first round is warm-up."""
    folder = scratch / "images"
    folder.mkdir()
    write_images(folder, sizes.files, sizes.file_side)
    (scratch / "parts").mkdir()
    ours = Dissected(sizes, folder, scratch / "parts", compiled=compiled)
    peer, workers = choose_peer(sizes, folder, peer_workers, steps)
    found: dict[str, list[float]] = defaultdict(list)
    breakdowns = []
    masks = ours.method.sampler(sizes.batch_size, step_generator(0, 1))
    parts = useful_flops(sizes, masks.context.shape[1], masks.targets.shape[2])
    for turn in range(rounds + 1):
        seconds = ours_seconds(sizes, folder, scratch / f"run-{turn}", steps, compiled)
        seconds *= 1 + ours.checkpoint_share()
        beside = peer_seconds(peer, steps)
        breakdown = ours.breakdown(steps)  # first, as the peer's loader still fills its queue
        before = max(matrix_rates(sizes, 0.1 * steps).values())
        inside = ours.inside(steps)
        rates = matrix_rates(sizes, 0.1 * steps)
        rate = (before + max(rates.values())) / 2
        figures = f"ratio {beside / seconds:.3f}, share {sum(parts.values()) / inside / rate:.3f}"
        print(
            f"round {turn} of {rounds}{'' if turn else ' (warm-up)'}: {figures}", file=sys.stderr, flush=True
        )
        if turn == 0:
            continue
        breakdowns.append(breakdown)
        found["ours"].append(sizes.batch_size / seconds)
        found["peer"].append(sizes.batch_size / beside)
        found["ratio"].append(beside / seconds)
        found["machine"].append(rate)
        found["share"].append(sum(parts.values()) / inside / rate)
    batch, _ = ours.data[0]
    useful = sum(parts.values())
    peer_useful = statistics.mean(sum(useful_flops(sizes, *widths).values()) for widths in peer.widths)
    return {
        "sizes": asdict(sizes),
        "threads": torch.get_num_threads(),
        "compiled": compiled,
        "peer_workers": workers,
        "samples_per_second": {name: spread(found[name]) for name in ("ours", "peer")},
        "ratio": spread(found["ratio"]),
        "ratio_for_equal_flops": statistics.median(found["ratio"]) * useful / peer_useful,
        "machine_flops_per_second": spread(found["machine"]),
        "matrix_rates_of_last_round": rates,
        "share_of_matrix_rate": spread(found["share"]),
        "useful_flops_by_part": parts,
        "useful_flops": useful,
        "counted_flops": counted_flops(lambda: ours.method.losses(batch, ours.context())["loss"]),
        "peer_useful_flops": peer_useful,
        "context_and_target_tokens": {
            "ours": [masks.context.shape[1], masks.targets.shape[2]],
            "peer": np.mean(peer.widths, axis=0).tolist(),
        },
        **where_time_goes(breakdowns),
        "loader_core_seconds": ours.loader_seconds(),
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least, greatest and all of the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}


def where_time_goes(breakdowns: list[dict[str, float]]) -> dict[str, Any]:
    """Median seconds of each phase, and the share of each round's time that is outside the model."""
    seconds = {name: statistics.median(found[name] for found in breakdowns) for name in breakdowns[0]}
    outside = [1 - sum(found[name] for name in MODEL) / sum(found.values()) for found in breakdowns]
    return {"seconds_of_step": seconds, "share_outside_model": spread(outside)}


def describe(found: dict[str, Any]) -> str:
    """The figures as lines for a person."""

    def line(name: str, values: dict[str, Any], scale: float = 1.0) -> str:
        median, low, high = (values[key] * scale for key in ("median", "min", "max"))
        return f"{name:<34}{median:9.2f}  ({low:.2f} to {high:.2f} over {len(values['rounds'])} rounds)"

    sizes, rates, seconds = found["sizes"], found["samples_per_second"], found["seconds_of_step"]
    tokens, total = found["context_and_target_tokens"], sum(found["seconds_of_step"].values())
    lines = [
        f"width {sizes['width']}, depth {sizes['depth']}, {sizes['image']} px, patch {sizes['patch']}, "
        f"predictor {sizes['predictor_width']} x {sizes['predictor_depth']}, batch {sizes['batch_size']}, "
        f"{found['threads']} threads, torch {torch.__version__}; peer with {found['peer_workers']} workers"
        + ("; ours compiled" if found["compiled"] else ""),
        line("ours, samples/s", rates["ours"]),
        line("peer, samples/s", rates["peer"]),
        line("ratio", found["ratio"]),
        f"{'ratio, if FLOPs were equal':<34}{found['ratio_for_equal_flops']:9.2f}",
        f"context and target tokens: ours {tokens['ours']}, peer {[round(x, 1) for x in tokens['peer']]}",
        line("matrix rate, GFLOP/s", found["machine_flops_per_second"], 1e-9),
        line("share of it inside our step, %", found["share_of_matrix_rate"], 100),
        f"useful GFLOPs of a step {found['useful_flops'] / 1e9:.2f}, "
        f"counted {found['counted_flops'] / 1e9:.2f}, peer's useful {found['peer_useful_flops'] / 1e9:.2f}",
        line("outside the model, %", found["share_outside_model"], 100),
        *(
            f"  {name:<20}{1000 * value:9.2f} ms {100 * value / total:6.2f} %"
            for name, value in seconds.items()
        ),
        f"  a batch costs its loader process {1000 * found['loader_core_seconds']:.1f} ms of one core",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round: does it run?")
    parser.add_argument("--rounds", type=int, default=5, help="that count, after one of warm-up")
    parser.add_argument("--steps", type=int, default=8, help="of each in a round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--predictor-depth", type=int, default=4)
    parser.add_argument("--threads", type=int, help="of torch; as many as it chooses where not given")
    parser.add_argument("--peer-workers", type=int, help="loader processes; the fastest where not given")
    parser.add_argument("--compile", action="store_true", help="compile ours; the peer stays as it is")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--out", type=Path, help="write them to this file, as JSON")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    sizes, rounds, steps, workers = QUICK, 1, 2, 0
    if not given.quick:
        sizes = Sizes(batch_size=given.batch_size, predictor_depth=given.predictor_depth)
        rounds, steps, workers = given.rounds, given.steps, given.peer_workers
    with tempfile.TemporaryDirectory(prefix="anyjepa-throughput-") as scratch:
        found = compare(sizes, rounds, steps, workers, Path(scratch), given.compile)
    text = json.dumps(found, indent=2)
    if given.out:
        given.out.write_text(text + "\n")
    sys.stdout.write((text if given.json else describe(found)) + "\n")


if __name__ == "__main__":
    main()
