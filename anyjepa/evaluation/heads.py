"""Small networks on frozen features, one a setting of learning rate and weight decay, trained all at once.

Shapes: H heads (settings), B samples, N tokens, D features, A attention heads, C outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.schedules import warmup_cosine
from anyjepa.evaluation.answers import Answers, score
from anyjepa.evaluation.labelled import Labelled

RATES = (3e-4, 1e-3, 3e-3)
DECAYS = (0.01, 0.1, 1.0)
Inputs = tuple[Tensor, Tensor | None]


class AttentiveHeads(nn.Module):
    """Attentive pooling as of V-JEPA (arXiv:2404.08471), then a linear layer, once a setting.

    A learned query attends over the layer-normalised tokens; what it finds is added to it, then a two-layer
    perceptron of what it is now, layer-normalised. As the query is no function of the sample, the keys'
    projection is folded into it and the values' is applied to the pooled tokens: the same numbers, at a cost
    of A instead of D products a token and setting.

    Args:
        settings: H.
        dim: D of the tokens.
        width: C.
        expansion: hidden width of the perceptron, in D.
    """

    def __init__(self, settings: int, dim: int, width: int, expansion: int = 4) -> None:
        super().__init__()
        # about 64 features a head, as in the transformers that are probed
        self.attention = next(h for h in range(max(1, dim // 64), 0, -1) if dim % h == 0)

        def weights(rows: int, columns: int) -> nn.Parameter:
            start = nn.init.trunc_normal_(torch.empty(rows, columns), std=columns**-0.5)
            return nn.Parameter(start.expand(settings, -1, -1).clone())

        def vectors(size: int, value: float = 0.0) -> nn.Parameter:
            return nn.Parameter(torch.full((settings, size), value))

        self.query = nn.Parameter(torch.randn(dim).mul(0.02).expand(settings, -1).clone())
        self.scale, self.shift = vectors(dim, 1.0), vectors(dim)
        self.to_query, self.query_bias = weights(dim, dim), vectors(dim)
        self.to_key, self.to_value, self.value_bias = weights(dim, dim), weights(dim, dim), vectors(dim)
        self.norm_scale, self.norm_shift = vectors(dim, 1.0), vectors(dim)
        self.rise, self.rise_bias = weights(expansion * dim, dim), vectors(expansion * dim)
        self.fall, self.fall_bias = weights(dim, expansion * dim), vectors(dim)
        self.out, self.out_bias = nn.Parameter(torch.zeros(settings, width, dim)), vectors(width)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], present: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "settings batch width"]:
        """Outputs of tokens that are layer-normalised already, without weights (`standardised`)."""
        settings, dim = self.query.shape
        heads = self.attention
        query = torch.einsum("hd,hed->he", self.query, self.to_query) + self.query_bias
        query = query.unflatten(1, (heads, -1)) / math.sqrt(dim // heads)
        # the bias of the keys and the shift of the norm move all scores of a head alike: softmax drops them
        folded = torch.einsum("hae,haed->had", query, self.to_key.unflatten(1, (heads, -1)))
        folded = (folded * self.scale.unsqueeze(1)).flatten(0, 1)
        scores = tokens @ folded.T
        if present is not None:
            scores = scores.masked_fill(~present.unsqueeze(2), -torch.inf)
        pooled = (scores.softmax(1).mT @ tokens).unflatten(1, (settings, heads))
        pooled = pooled * self.scale[:, None] + self.shift[:, None]
        found = torch.einsum("bhad,haed->hbae", pooled, self.to_value.unflatten(1, (heads, -1))).flatten(2)
        x = self.query.unsqueeze(1) + found + self.value_bias.unsqueeze(1)
        inner = functional.layer_norm(x, (dim,)) * self.norm_scale.unsqueeze(1) + self.norm_shift.unsqueeze(1)
        inner = functional.gelu(inner @ self.rise.mT + self.rise_bias.unsqueeze(1))
        x = x + inner @ self.fall.mT + self.fall_bias.unsqueeze(1)
        return x @ self.out.mT + self.out_bias.unsqueeze(1)


class PerceptronHeads(nn.Module):
    """A perceptron of one hidden layer, once a setting.

    Args:
        settings: H.
        dim: D of the features, which are standardised.
        width: C.
        hidden: units of the hidden layer.
    """

    def __init__(self, settings: int, dim: int, width: int, hidden: int = 256) -> None:
        super().__init__()
        start = nn.init.trunc_normal_(torch.empty(hidden, dim), std=max(dim, 1) ** -0.5)
        self.rise = nn.Parameter(start.expand(settings, -1, -1).clone())
        self.rise_bias = nn.Parameter(torch.zeros(settings, hidden))
        self.out = nn.Parameter(torch.zeros(settings, width, hidden))
        self.out_bias = nn.Parameter(torch.zeros(settings, width))

    def forward(
        self, features: Float[Tensor, "batch dim"], present: None = None
    ) -> Float[Tensor, "settings batch width"]:
        """Outputs of each setting."""
        inner = functional.gelu(features @ self.rise.mT + self.rise_bias.unsqueeze(1))
        return inner @ self.out.mT + self.out_bias.unsqueeze(1)


class RowAdamW:
    """AdamW (Loshchilov and Hutter 2019) in which each row of every parameter has settings of its own.

    Each row's gradient is clipped to a norm of its own too, so that rows never influence one another.

    Args:
        parameters: (H, ...) each.
        rates: H learning rates at their peak.
        decays: H weight decays, of parameters of more than two axes.
        clip: largest norm of a row's gradient.
        betas, epsilon: as of AdamW.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        rates: Sequence[float],
        decays: Sequence[float],
        clip: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.parameters, self.clip, self.betas, self.epsilon = list(parameters), clip, betas, epsilon
        first = self.parameters[0]
        self.rates, self.decays = first.new_tensor(rates), first.new_tensor(decays)
        self.averages = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], share: float) -> None:
        """One update at `share` of the peak learning rates."""
        self.steps += 1
        norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        factor = (self.clip / norm.clamp(min=1e-12)).clamp(max=1.0)
        rates = self.rates * share
        slow, slower = (1 - beta**self.steps for beta in self.betas)
        for parameter, gradient, average, square in zip(
            self.parameters, gradients, self.averages, self.squares, strict=True
        ):
            shape = (-1,) + (1,) * (parameter.ndim - 1)
            gradient = gradient * factor.view(shape)
            average.lerp_(gradient, 1 - self.betas[0])
            square.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
            if parameter.ndim > 2:
                parameter.mul_(1 - (rates * self.decays).view(shape))
            change = (average / slow) / ((square / slower).sqrt() + self.epsilon)
            parameter.sub_(change * rates.view(shape))


@dataclass(frozen=True)
class Course:
    """How heads are trained.

    Args:
        epochs: passes over the samples.
        batch_size: samples a step.
        least_steps: more passes are made over few samples, until there are so many steps.
        rates, decays: every pair of them is a setting.
        seed: of the weights and the order.
    """

    epochs: int = 20
    batch_size: int = 128
    least_steps: int = 300
    rates: Sequence[float] = RATES
    decays: Sequence[float] = DECAYS
    seed: int = 0

    def settings(self) -> list[tuple[float, float]]:
        """Pairs of learning rate and weight decay."""
        return [(rate, decay) for rate in self.rates for decay in self.decays]


def standardised(tokens: Float[Tensor, "... dim"]) -> Tensor:
    """Each token with mean 0 and variance 1 over its features, in fp32 at least."""
    tokens = tokens.float() if tokens.dtype in (torch.float16, torch.bfloat16) else tokens
    return functional.layer_norm(tokens, tokens.shape[-1:])


def trained_heads(
    data: Labelled,
    inputs: Callable[[Tensor], Inputs],
    test: Callable[[Tensor], Inputs],
    build: Callable[[int], nn.Module],
    course: Course,
    validation_fraction: float = 0.2,
) -> tuple[Tensor, dict[str, Any]]:
    """Outputs (test samples, C) of the best setting, fitted again on all training samples; and what it is.

    Every setting is trained at once on a part of the training samples, and scored on the rest after each
    pass; the best setting and number of passes are then fitted again on all of them, along the same schedule.

    Args:
        data: labels of both sides, and how the training side is split.
        inputs, test: tokens or features of the training and test samples at these places.
        build: heads for a number of settings.
        course: how they are trained.
        validation_fraction: share of the training samples, or of their groups, that the choice is made on.
    """
    answers, settings = Answers.of(data), course.settings()
    fit, held_out = data.split(validation_fraction, course.seed)
    best: dict[str, Any] = {"validation": -math.inf, "passes": 1}

    def judge(heads: nn.Module, passes: int) -> None:
        found = score(data, answers, _outputs(heads, inputs, held_out), data.train_labels[held_out])
        at = int(found.argmax())
        if float(found[at]) > best["validation"]:
            rate, decay = settings[at]
            best.update(validation=float(found[at]), passes=passes, learning_rate=rate, weight_decay=decay)

    _train(data, answers, inputs, fit, build, course, settings, judge)
    chosen = [(best.get("learning_rate", settings[0][0]), best.get("weight_decay", settings[0][1]))]
    rows = torch.arange(len(data.train_labels), device=fit.device)
    heads = _train(data, answers, inputs, rows, build, course, chosen, lambda _heads, _passes: None,
                   best["passes"] / _passes(len(fit), course))  # fmt: skip
    outputs = _outputs(heads, test, torch.arange(len(data.test_labels), device=fit.device))[0]
    return outputs, best


def _passes(samples: int, course: Course) -> int:
    steps = max(1, samples // _batch(samples, course))
    return max(course.epochs, math.ceil(course.least_steps / steps))


def _batch(samples: int, course: Course) -> int:
    return max(1, min(course.batch_size, samples // 4))


def _train(
    data: Labelled,
    answers: Answers,
    inputs: Callable[[Tensor], Inputs],
    rows: Tensor,
    build: Callable[[int], nn.Module],
    course: Course,
    settings: Sequence[tuple[float, float]],
    after: Callable[[nn.Module, int], None],
    share: float = 1.0,
) -> nn.Module:
    """Heads after `share` of the course; `after` is called with them and the number of passes."""
    size, passes = _batch(len(rows), course), _passes(len(rows), course)
    each = max(1, len(rows) // size)
    steps, stop = passes * each, max(1, round(share * passes * each))
    with torch.random.fork_rng():
        torch.manual_seed(course.seed)
        heads = build(len(settings)).to(rows.device)
    parameters = list(heads.parameters())
    optimiser = RowAdamW(parameters, [rate for rate, _ in settings], [decay for _, decay in settings])
    generator, order = Generator().manual_seed(course.seed), rows
    for step in range(1, stop + 1):
        place = (step - 1) % each
        if place == 0:
            order = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
        chosen = order[place * size : (place + 1) * size]
        losses = answers.loss(heads(*inputs(chosen)), data.train_labels[chosen])
        gradients = torch.autograd.grad(losses.sum(), parameters)
        optimiser.step(gradients, warmup_cosine(step, steps, steps // 20, 0.0, 1.0, 0.0))
        if place == each - 1:
            after(heads, step // each)
    return heads


@torch.no_grad()
def _outputs(heads: nn.Module, inputs: Callable[[Tensor], Inputs], rows: Tensor) -> Tensor:
    return torch.cat([heads(*inputs(part)) for part in rows.split(512)], dim=1)
