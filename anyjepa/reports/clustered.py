"""What a method's clusters gather, for methods that cluster samples or parts of them."""

from __future__ import annotations

import numpy as np
import torch

from anyjepa.core.method import Method
from anyjepa.domains import Samples
from anyjepa.engine.run import Run
from anyjepa.reports.page import Clusters
from anyjepa.reports.pictures import picture
from anyjepa.reports.sections import THUMBNAIL, brighter, thumbnail

SHOWN, EACH = 8, 7  # clusters, and parts of each
TOGETHER = 32


@torch.inference_mode()
def clustered(run: Run, samples: Samples, indices: np.ndarray, gain: float) -> Clusters | None:
    """The fullest clusters, each with the parts nearest to its prototype, no two of one sample.

    None for a method that does not cluster, or whose prototypes are not at hand (a run without a checkpoint).

    Args:
        run: the run.
        samples: of one source.
        indices: of those that are looked at.
        gain: pictures are drawn so many times as bright.
    """
    if type(run.method).exemplars is Method.exemplars or not (run.path / "checkpoints").is_dir():
        return None
    scores, owners, batches = [], [], []
    for rows, batch in run.batches(samples, indices=indices, batch_size=TOGETHER):
        found = run.method.exemplars(batch)
        if found is None:
            return None
        score, part, owner = found
        scores.append(score.float().cpu())
        owners += [int(rows[number]) for number in owner.tolist()]
        batches += [(part, number) for number in range(len(score))]
    table = torch.cat(scores)
    nearest = table.argmax(1)
    sizes = torch.bincount(nearest, minlength=table.shape[1])
    shown = []
    for cluster in sizes.argsort(descending=True, stable=True)[:SHOWN].tolist():
        if not sizes[cluster]:
            continue
        members = (nearest == cluster).nonzero().flatten()
        chosen: dict[int, int] = {}
        for place in members[table[members, cluster].argsort(descending=True)].tolist():
            chosen.setdefault(owners[place], place)
        pictures = []
        for owner, place in list(chosen.items())[:EACH]:
            batch, row = batches[place]
            pixels = brighter(thumbnail(run.domain.picture(batch, row, run.facts)), gain)
            name = samples.identity(owner)
            pictures.append(picture(pixels, f"of sample {name}", "", most=THUMBNAIL))
        shown.append((f"{int(sizes[cluster]) / len(table):.1%}", pictures))
    return Clusters(shown, int((sizes > 0).sum()), table.shape[1], len(table))
