"""The checks of S-JEPA and EEG-VJEPA; `behaviours.py` runs them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from behaviours_runs import Bench, Claim, Errors

import anyjepa
from anyjepa.domains.eeg_montage import TEN_TWENTY
from anyjepa.engine.run import Run
from anyjepa.evaluation.comparison import final_loss, states
from anyjepa.evaluation.finetuning import FineTuning
from anyjepa.evaluation.low_shot import drawn
from anyjepa.evaluation.own_heads import head_probe
from anyjepa.evaluation.sides import both_sides

RADII = (0.05, 0.08, 0.12)
SHOTS, DRAWS = 10, 1
TUNING = {"regime": "full", "tune_learning_rate": 1e-2, "patience": 100}  # at 1e-3 heads do not learn
# its local encoder is five convolutions with GELUs, as the paper's: a linear one cannot tell how strong a
# rhythm is
CONVOLVED = {
    "rate": 128.0, "band": (0.5, 40.0), "seconds": 4.0, "tokenizer": "convolutions", "length": 2,
    "scaling": "median",
}  # fmt: skip
SSVEP = {
    "rate": 128.0, "band": (1.0, 45.0), "seconds": 4.0, "stride": 1.0, "delay": 1.0, "patch": 64, "step": 64,
}  # fmt: skip


def electrode_heads(bench: Bench) -> list[Claim]:
    """S-JEPA 12 and 13: heads over the trained encoder beat those from scratch; pre-local is best."""
    run = bench.trained("s-jepa", steps=200, **CONVOLVED)
    train, test = both_sides(run, None)
    claims, found = [], {}
    for amount in (f"{SHOTS} labels a class", "all labels"):
        for head in ("pre-local", "post-local", "contextual"):
            for kind in ("trained", "untrained"):
                values = []
                for draw in range(DRAWS if amount != "all labels" else 1):
                    part = train
                    if amount != "all labels":
                        part = train.take(drawn(train, None, SHOTS, draw))
                    tuning = FineTuning(**TUNING, epochs=float(bench.options.epochs))
                    values.append(head_probe(run, head, part, test, tuning, kind=kind, seed=draw).value)
                found[amount, head, kind] = sum(values) / len(values)
            claims.append(
                Claim(
                    f"{head} over trained beats from scratch, {amount}",
                    found[amount, head, "trained"],
                    found[amount, head, "untrained"],
                )
            )
        for first, second in (("pre-local", "post-local"), ("post-local", "contextual")):
            pair = (found[amount, first, "trained"], found[amount, second, "trained"])
            claims.append(Claim(f"{first} beats {second}, {amount}", *pair))
    return claims


def _electrode_errors(bench: Bench, run: Run, radius: float, shuffled: bool = False) -> tuple[Errors, Errors]:
    """Under one ball of a radius over the whole window: of all that it hides, and of its middle electrode."""
    method, samples, context = run.method, run.open(split="test"), bench.context()
    sampler = dataclasses.replace(run.recipe, radius=radius, length=0, blocks="one")._sampler(run.facts)
    errors, middle = Errors(), Errors()
    with torch.inference_mode():
        for _, batch in run.batches(samples):
            masks = sampler(batch["positions"], batch["present"], context.generator)
            whole = method.target(method.encoder, batch)
            wanted = masks.targets[:, 0]
            places = [
                whole.coordinates.gather(1, one[..., None].expand(-1, -1, 4))
                for one in (wanted, masks.context)
            ]
            apart = torch.cdist(places[0][..., :3], places[1][..., :3])
            other_time = places[0][:, :, None, 3] != places[1][:, None, :, 3]
            apart = apart.masked_fill(other_time | ~masks.present[:, None], torch.inf)
            apart = apart.masked_fill(~masks.asked[..., None], torch.inf)
            coordinates = whole.coordinates
            if shuffled:
                order = torch.randperm(
                    batch["eeg"].shape[1], generator=torch.Generator().manual_seed(bench.seed)
                )
                batch = {**batch, "positions": batch["positions"][:, order]}
                coordinates = method.encoder.tokenizer(batch, None).coordinates
            predicted = method.predict(method.seen(batch, masks), coordinates, masks)
            errors.add(whole.values, wanted, masks.context, predicted, apart)
            # the first target of a ball is at its centre
            beside = (places[0][..., :3] != places[0][:, :1, :3]).any(-1, keepdim=True)
            apart = apart.masked_fill(beside, torch.inf)
            middle.add(whole.values, wanted, masks.context, predicted, apart)
    return errors, middle


def electrode_copies(bench: Bench) -> list[Claim]:
    """S-JEPA 14: a hidden ball is predicted better than by its nearest neighbour, the worse the larger."""
    claims, found = [], {}
    for radius in RADII:
        for kind, fields in (
            ("many balls", {}),
            ("one ball", {"blocks": "one", "length": 0, "radius": radius}),
        ):
            error = found[kind, radius] = _electrode_errors(bench, bench.trained("s-jepa", **fields), radius)
            words = f"trained on {kind}: better than copying the nearest, {100 * radius:g} cm"
            claims.append(Claim(words, *error[0].shares(), above=False))
    for kind in ("many balls", "one ball"):
        for near, far in itertools.pairwise(RADII):
            words = f"trained on {kind}: {100 * far:g} cm are harder for their middle than {100 * near:g} cm"
            claims.append(Claim(words, found[kind, far][1].shares()[0], found[kind, near][1].shares()[0]))
    return claims


def electrode_places(bench: Bench) -> list[Claim]:
    """S-JEPA 15: electrodes that are said to be elsewhere are predicted worse."""
    run = bench.trained("s-jepa")
    right, wrong = (
        _electrode_errors(bench, run, 0.08, shuffled)[0].shares()[0] for shuffled in (False, True)
    )
    return [Claim("right places predict better than shuffled ones", right, wrong, above=False)]


def electrode_single(bench: Bench) -> list[Claim]:
    """S-JEPA 16: hiding single electrodes for one stretch teaches less than balls of 9 cm for two."""
    runs = {
        "balls": bench.trained("s-jepa", radius=0.09, length=2),
        "single": bench.trained("s-jepa", radius=0.0, length=1),
    }
    found = {name: bench.scores(run) for name, run in runs.items()}
    untrained = bench.scores(runs["balls"].untrained())
    return [
        Claim(f"{words}, {probe}", found["balls"][at], other[at])
        for words, other in (
            ("balls beat single electrodes", found["single"]),
            ("balls beat none", untrained),
        )
        for at, probe in enumerate(("linear", "kNN"))
    ]


def electrode_montage(bench: Bench) -> list[Claim]:
    """S-JEPA: what was trained on some electrodes serves others; from one real montage to another."""
    if bench.options.ssvep and bench.options.eeglab:
        data = str(Path(bench.options.ssvep) / "recordings")
        other = bench.trained("s-jepa", bench.options.eeglab, 300, **SSVEP)
        own = bench.trained("s-jepa", data, 300, radius=0.045, **SSVEP)
        how = {"data": data, "labels": str(Path(bench.options.ssvep) / "trials.csv"), "allow_leak": True}
        found = [bench.score(one, **how) for one in (other, other.untrained(), own)]
        where = "32 electrodes of another recording serve SSVEP"
    else:
        names = list(TEN_TWENTY)
        some, rest = ",".join(names[::2]), ",".join(names[1::2])
        other = bench.trained("s-jepa", channels=some)
        moved = dataclasses.replace(other, recipe=dataclasses.replace(other.recipe, channels=rest))
        own = bench.trained("s-jepa", channels=rest)
        found = [bench.score(one) for one in (moved, moved.untrained(), own)]
        where = "trained on ten electrodes, probed on the nine others"
    return [
        Claim(f"{where}: beats untrained", found[0], found[1]),
        Claim(f"{where}: no worse by 3 points than trained there", found[0], found[2] - 0.03),
    ]


def frames_crop(bench: Bench) -> list[Claim]:
    """EEG-VJEPA 11 and 13: tokens keep their spread, clips differ, and the released crop does harm."""
    whole, crop = bench.trained("eeg-vjepa"), bench.trained("eeg-vjepa", defect=True)
    health, harmed, fresh = (_health(bench, run) for run in (whole, crop, whole.untrained()))
    scores = bench.score(whole), bench.score(crop), bench.score(whole.untrained())
    return [
        Claim(
            "tokens spread by a tenth of untrained ones", health["token_spread"] / fresh["token_spread"], 0.1
        ),
        Claim("clips differ: mean cosine below 0.99", health["clip_cosine"], 0.99, above=False),
        Claim(
            "with the crop tokens spread less", harmed["token_spread"], health["token_spread"], above=False
        ),
        Claim("with the crop clips are more alike", harmed["clip_cosine"], health["clip_cosine"]),
        Claim("with the crop rank is lower", harmed["rankme"], health["rankme"], above=False),
        Claim("with the crop probes read less", scores[1], scores[0], above=False),
        Claim("without it, it beats untrained", scores[0], scores[2]),
    ]


@torch.inference_mode()
def _health(bench: Bench, run: Run) -> dict[str, float]:
    """What the recipe measures of a batch of test clips, and rank and spread of the embeddings."""
    samples = run.open(split="test")
    embedded = run.embed(samples)
    found = run.method.health([batch for _, batch in run.batches(samples)], bench.context())
    spread = anyjepa.health.Gram(embedded.shape[1]).add(embedded).spread()
    return found | {"rankme": anyjepa.health.rankme(embedded), "spread": spread}


def frames_variance(bench: Bench) -> list[Claim]:
    """EEG-VJEPA 14: where the teacher follows too fast, asking predictions to vary keeps tokens apart."""
    found = {
        weight: _health(bench, bench.trained("eeg-vjepa", None, 200, momentum=(0.5, 0.5), variance=weight))
        for weight in (1.0, 0.0)
    }
    return [
        Claim(f"a variance term keeps {name} up", found[1.0][name], found[0.0][name])
        for name in ("token_spread", "spread", "rankme")
    ]


def frames_checkpoint(bench: Bench) -> list[Claim]:
    """EEG-VJEPA 15: the checkpoint of the lowest loss is not better than that of the highest rank."""
    run = bench.trained("eeg-vjepa")
    rows = []
    for one, step in states(run):
        loss = final_loss(one, step)
        if loss is not None:
            health = _health(bench, one)
            rows.append((bench.score(one), loss.value, health["rankme"], health["spread"]))
    score, loss, rank, spread = zip(*rows, strict=True)
    by_loss = score[loss.index(min(loss))]
    return [
        Claim(
            "chosen by rank it is no worse by a point than by loss",
            score[rank.index(max(rank))],
            by_loss - 0.01,
        ),
        Claim(
            "chosen by spread it is no worse by a point than by loss",
            score[spread.index(max(spread))],
            by_loss - 0.01,
        ),
        Claim("the last one is no worse by a point than by loss", score[-1], by_loss - 0.01),
    ]


def frames_order(bench: Bench) -> list[Claim]:
    """EEG-VJEPA 16: rows in another order are another picture; electrodes that know their places are not."""
    order = torch.randperm(19, generator=torch.Generator().manual_seed(bench.seed))
    rows, places = bench.trained("eeg-vjepa"), bench.trained("s-jepa")
    changes = {}
    for name, run in (("rows", rows), ("places", places)):
        _, batch = next(run.batches(run.open(split="test")))
        with torch.inference_mode():
            before = run.method.embed(batch)
            if name == "rows":  # rows are found by place, so that the file's order alone changes nothing
                tokenizer = run.method.backbone.tokenizer
                tokenizer.places = tokenizer.places[order]
            else:
                batch = {key: value[:, order] for key, value in batch.items()}
            moved = (run.method.embed(batch) - before).norm(dim=1).mean()
        changes[name] = float(moved / (before - before.mean(0)).norm(dim=1).mean())
    names = list(TEN_TWENTY)
    listed = ",".join(names[index] for index in order)
    found = [
        bench.score(one)
        for one in (bench.trained("eeg-vjepa"), bench.trained("eeg-vjepa", electrodes=listed))
    ]
    return [
        Claim("eeg-vjepa's embedding moves by a tenth of what clips differ", changes["rows"], 0.1),
        Claim("s-jepa's does not move", changes["places"], 1e-3, above=False),
        Claim("rows of neighbours teach more than rows in any order", *found),
    ]


CHECKS: dict[str, Callable[[Bench], list[Claim]]] = {
    "s-heads": electrode_heads, "s-copy": electrode_copies, "s-places": electrode_places,
    "s-single": electrode_single, "s-montage": electrode_montage,
    "e-crop": frames_crop, "e-variance": frames_variance, "e-checkpoint": frames_checkpoint,
    "e-order": frames_order,
}  # fmt: skip
