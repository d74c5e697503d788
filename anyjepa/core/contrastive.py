"""Softmax over the items of a batch: which of them belongs to this row, over all processes.

Shapes: B rows of this process, N of all processes, D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from anyjepa.core.processes import process

__all__ = ["batch_softmax", "everybody", "same_items"]

NEVER = -1e9  # as a logit: of probability 0 in single precision, and finite


def everybody(rows: Tensor) -> Tensor:
    """Rows of all processes in their order, with gradients to each: (B, ...) becomes (N, ...)."""
    rank, processes = process()
    if processes == 1:
        return rows
    if not rows.is_floating_point():
        parts = [torch.empty_like(rows) for _ in range(processes)]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)
    count = rows.shape[0]
    before, after = rank * count, (processes - 1 - rank) * count
    padding = [0, 0] * (rows.dim() - 1) + [before, after]
    return all_reduce(functional.pad(rows, padding))


def same_items(items: Int[Tensor, " rows"]) -> Bool[Tensor, "rows everybody"]:
    """Which items of all processes are this row's own item, met again elsewhere in the batch."""
    rank, _ = process()
    everyone = everybody(items)
    same = items.unsqueeze(1) == everyone
    own = torch.arange(len(items), device=items.device) + rank * len(items)
    return same & (own.unsqueeze(1) != torch.arange(len(everyone), device=items.device))


def batch_softmax(
    queries: Float[Tensor, "rows dim"],
    items: Float[Tensor, "rows dim"],
    temperature: float | Tensor,
    log_probability: Float[Tensor, " rows"] | None = None,
    hidden: Bool[Tensor, "rows everybody"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over rows of -ln(exp(s(q_i, x_i)) / sum over j of exp(s(q_i, x_j))), s product over temperature.

    The positive is in the denominator, and only queries are asked (2007.12865, equations 1 and 5).

    Args:
        queries, items: of this process; row i of both belong together. Of unit length for cosines.
        temperature: that products are divided by.
        log_probability: ln of the chance that each item is in a batch, which is taken off its logit, so that
            items which are often negatives count less each time (sampled softmax); None for no correction.
        hidden: entries that are no negatives, as `same_items` finds them; their probability is 0.
    """
    rank, _ = process()
    logits = queries @ everybody(items).T / temperature
    if log_probability is not None:
        logits = logits - everybody(log_probability)
    if hidden is not None:
        logits = logits.masked_fill(hidden, NEVER)
    own = torch.arange(len(queries), device=queries.device) + rank * len(queries)
    return functional.cross_entropy(logits, own)
