"""How well a frozen encoder tells the states to come: a measure of policies' encoders without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anyjepa.core.action_chunks import ActionChunks, ContextEncoder, Queries, Scaling
from anyjepa.core.errors import UserError
from anyjepa.core.schedules import warmup_cosine
from anyjepa.domains import Samples
from anyjepa.domains.sources import NoSplit
from anyjepa.engine.randomness import permutation
from anyjepa.engine.run import Run, load

__all__ = ["Probing", "errors_of", "future_states"]


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How the probe is trained (section 4 of the paper's protocol; 250 steps of 512)."""

    steps: int = 250  # of training
    batch_size: int = 512  # windows a step
    learning_rate: float = 6e-4  # at the end of the warm-up of 4 %
    depth: int = 4  # blocks of the probe's own predictor
    held_out: float = 0.2  # share of the episodes to test on, where the source is not split


def future_states(
    run: Run | str | Path,
    data: str | np.ndarray | None = None,
    *,
    others: dict[str, Run] | None = None,
    probing: Probing | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a new predictor upon the frozen encoder to give all states of a window, and test it.

    Episodes of training and test differ. The same is done with the untrained encoder, with `others`, and
    beside them stands holding the present state. What is reported is the last value, on test episodes.

    Args:
        run: of ``act-jepa``, or its folder.
        data: a source; that of the training where None.
        others: further runs by name, such as of actions alone.
        probing: how.
        seed: of the probe's weights, order and split.

    Returns:
        ``rmse`` and ``ate`` (`errors_of`), with ``_untrained``, ``_hold`` and ``_NAME`` of the others; in
        units of each number's deviation where the run normalises so, else in the data's own; ``windows``
        (training, test), ``episodes`` of the test.

    Raises:
        UserError: the run is of another kind, or there is but one episode.
    """
    opened = run if isinstance(run, Run) else load(run)
    probing = probing or Probing()
    if not isinstance(opened.method, ActionChunks):
        raise UserError(f"{opened.recipe.name} has no states to come: train act-jepa.")
    samples = opened.open(data)
    try:
        tested = opened.open(data, split="test")
        rows = np.arange(len(samples)), np.arange(len(tested))
        if tested.fingerprint() == samples.fingerprint():
            raise UserError(f"training and test episodes of {samples.source} are the same.")
    except NoSplit:
        tested, rows = samples, _parted(samples, probing.held_out, seed)
    found: dict[str, Any] = {"windows": [len(part) for part in rows]}
    groups = tested.groups
    found["episodes"] = len(rows[1]) if groups is None else len(set(groups[rows[1]].tolist()))
    runs = {"": opened, "_untrained": opened.untrained()}
    runs |= {f"_{name}": one for name, one in (others or {}).items()}
    truth: tuple[Tensor, Tensor, Tensor] | None = None
    for name, one in runs.items():
        method = one.method
        if not isinstance(method, ActionChunks):
            raise UserError(f"{one.path} is no run of act-jepa.")
        # all are asked for the same numbers in the same units
        scaling = opened.method.encoder.steps.scaling
        sides = [
            _described(one, method.encoder, scaling, *side)
            for side in zip((samples, tested), rows, strict=True)
        ]
        predicted = _probe(*sides[0], sides[1][0], probing, seed)
        truth = sides[1]
        rmse, ate = errors_of(predicted, truth[1], truth[2])
        found |= {f"rmse{name}": rmse, f"ate{name}": ate}
    assert truth is not None
    held = truth[1][:, :1].expand_as(truth[1])
    found["rmse_hold"], found["ate_hold"] = errors_of(held, truth[1], truth[2])
    return found


def errors_of(
    predicted: Float[Tensor, "windows steps numbers"],
    states: Float[Tensor, "windows steps numbers"],
    valid: Bool[Tensor, "windows steps"],
) -> tuple[float, float]:
    """RMSE and ATE: the root of the mean squared error over valid steps and numbers, and the mean over valid
    steps of the Euclidean error.
    """
    error = (predicted - states)[valid].double()
    return float(error.square().mean().sqrt()), float(error.norm(dim=-1).mean())


def _parted(samples: Samples, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of training and test windows; whole episodes are on one side."""
    assert samples.groups is not None
    names = np.unique(samples.groups)
    if len(names) < 2:
        raise UserError(f"{samples.source} has one episode, and none is left to test on.")
    drawn = np.random.default_rng([seed, 3]).permutation(names)
    test = np.isin(samples.groups, drawn[: max(1, round(share * len(names)))])
    return np.flatnonzero(~test), np.flatnonzero(test)


@torch.inference_mode()
def _described(
    run: Run, encoder: ContextEncoder, scaling: Scaling, samples: Samples, rows: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """Context tokens (n, C, D), scaled states (n, T, S) and which steps are real (n, T), on the CPU."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for _, batch in run.batches(samples, rows, 512):
        states = scaling(batch["states"].float())
        parts.append((encoder(batch).values.float().cpu(), states.cpu(), ~batch["padded"].cpu()))
    if not parts:
        raise UserError(f"none of the windows of {samples.source} can be read.")
    tokens, states, valid = (torch.cat(part) for part in zip(*parts, strict=True))
    return tokens, states, valid


def _probe(
    tokens: Tensor, states: Tensor, valid: Tensor, tested: Tensor, probing: Probing, seed: int
) -> Tensor:
    """What a new predictor, trained on the one side, says of the other's states."""
    width, heads = tokens.shape[2], 8 if tokens.shape[2] % 8 == 0 else 1
    # without gradients of the pass that made them, tokens are constants
    tokens, states, valid, tested = (part.clone() for part in (tokens, states, valid, tested))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            _Scaled(tokens),
            Queries(width, states.shape[1], width, probing.depth, heads, 4 * width, states.shape[2], 0.0),
        )
    optimiser = torch.optim.AdamW(network.parameters(), lr=probing.learning_rate, weight_decay=0.01)
    rise, size = round(0.04 * probing.steps), min(probing.batch_size, len(tokens))
    order, epoch, start = permutation(seed, 0, len(tokens)), 0, 0
    for step in range(1, probing.steps + 1):
        if start + size > len(order):
            epoch, start = epoch + 1, 0
            order = permutation(seed, epoch, len(tokens))
        rows = torch.from_numpy(np.asarray(order[start : start + size]).astype(np.int64))
        start += size
        for group in optimiser.param_groups:
            group["lr"] = warmup_cosine(step, probing.steps, rise, 0.0, probing.learning_rate, 0.0)
        error = (network(tokens[rows]) - states[rows]).square().mean(-1)
        loss = error[valid[rows]].mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    with torch.inference_mode():
        return torch.cat([network(part) for part in tested.split(512)])


class _Scaled(nn.Module):
    """Tokens less their mean over their deviation, so that no encoder gains by its scale."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", tokens.mean((0, 1)))
        self.register_buffer("deviation", tokens.std((0, 1)).clamp(min=1e-6))

    def forward(self, tokens: Tensor) -> Tensor:
        """Scaled tokens."""
        return (tokens - self.mean) / self.deviation
