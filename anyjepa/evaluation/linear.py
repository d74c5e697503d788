"""Linear models of frozen features: logistic and ridge regression, for many penalties at once."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad, softplus

ELEMENTS_AT_ONCE = 1 << 20
HALVINGS = 20

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def blocks(rows: int, width: int, elements: int = ELEMENTS_AT_ONCE) -> Iterator[slice]:
    """Slices of `rows` rows, so that a block of `width` columns holds about `elements` values at most."""
    height = max(1, elements // max(1, width))
    return (slice(start, start + height) for start in range(0, rows, height))


def principal_components(
    train: Float[Tensor, "train dim"], test: Float[Tensor, "test dim"], most: int
) -> tuple[Float[Tensor, "train axes"], Float[Tensor, "test axes"]]:
    """Standardised features in the basis of their principal axes, by falling variance, `most` at most.

    The penalty does not change under a rotation, so nothing but what is dropped changes the probe; and the
    Hessian of the probe is nearly diagonal in this basis, which is what makes it quick to fit.
    """
    mean, scale = train.mean(0), train.std(0, correction=0)
    # rounding leaves a constant column m a deviation of about eps * |m|; scaling that up would be noise
    varies = scale > 8 * torch.finfo(train.dtype).eps * mean.abs()
    mean, scale = mean[varies], scale[varies]
    train, test = ((x[:, varies] - mean) / scale for x in (train, test))
    count, dim = train.shape
    if dim <= max(count, most):
        axes = torch.linalg.eigh(train.T @ train).eigenvectors.flip(1)[:, :most]
    else:
        variances, vectors = torch.linalg.eigh(train @ train.T)
        known = variances > 1e-6 * variances[-1]
        axes = train.T @ (vectors[:, known] / variances[known].sqrt()).flip(1)[:, :most]
    return train @ axes, test @ axes


def fit_linear(
    features: Float[Tensor, "samples dim"],
    labels: Shaped[Tensor, "samples ..."],
    strengths: Sequence[float],
    classes: int,
    start: Float[Tensor, "starts rows outputs"] | None = None,
) -> Float[Tensor, "strengths inputs outputs"]:
    """Weights of one model a strength, (strengths, dim + 1, outputs), the bias in the last row.

    `classes` 0 is ridge regression on floating `labels`, in float64; otherwise logistic regression on
    labels 0 .. classes - 1, or, for `labels` (samples, classes) of 1, 0 and -1 for unknown, one logistic
    regression a class. `start`, weights for as many strengths (or one) and at most as many features,
    only saves time.
    """
    penalties = torch.as_tensor(strengths, dtype=features.dtype, device=features.device)
    if classes == 0:
        return _ridge(features, labels, penalties)
    return _logistic(features, labels, penalties, classes, start)


def predict(
    features: Float[Tensor, "samples dim"], weights: Float[Tensor, "strengths inputs outputs"]
) -> Shaped[Tensor, "samples strengths"]:
    """(samples, strengths): the class of highest logit, or the predicted target where there is one output."""
    count, _, width = weights.shape
    predictions = []
    for rows in blocks(len(features), count * width):
        values = outputs(features[rows], weights)
        predictions.append(values.argmax(2) if width > 1 else values[:, :, 0])
    return torch.cat(predictions)


def outputs(
    features: Float[Tensor, "samples dim"], weights: Float[Tensor, "strengths inputs outputs"]
) -> Float[Tensor, "samples strengths outputs"]:
    """What each model puts out: logits or targets."""
    return torch.einsum("nd,sdo->nso", features.to(weights), weights[:, :-1]) + weights[:, -1]


def _ridge(features: Tensor, targets: Tensor, strengths: Tensor) -> Tensor:
    """Minimisers of mean squared error / 2 + strength / 2 * ||w||^2, from one eigendecomposition for all."""
    x, mean = features.double(), features.double().mean(0)
    x = x - mean
    variances, axes = torch.linalg.eigh(x.T @ x / len(x))
    covariances = axes.T @ (x.T @ (targets - targets.mean()) / len(x))
    weights = (covariances / (variances.clamp(min=0) + strengths.double()[:, None])) @ axes.T
    bias = targets.mean() - weights @ mean
    return torch.cat([weights, bias[:, None]], 1)[:, :, None]


def _logistic(
    features: Tensor, labels: Tensor, strengths: Tensor, classes: int, start: Tensor | None
) -> Tensor:
    """Minimisers of mean cross-entropy + strength / 2 * ||W||^2, one a strength, all found together."""
    count, dim = features.shape
    inputs = pad(features, (0, 1), value=1.0)
    penalty = pad(strengths[:, None].expand(-1, dim), (0, 1))[:, :, None]
    shape = (len(strengths), dim + 1, classes)
    loss_of = _softmax_loss if labels.ndim == 1 else _sigmoid_loss

    def objective(points: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        weights = points.view(-1, *shape[1:])
        stacked = weights.transpose(0, 1).reshape(dim + 1, -1)
        gradient, loss = torch.zeros_like(stacked), points.new_zeros(len(points), dtype=torch.float64)
        for rows in blocks(count, stacked.shape[1]):
            logits = (inputs[rows] @ stacked).view(-1, len(points), classes)
            each, residual = loss_of(logits, labels[rows])
            loss += each
            gradient += inputs[rows].T @ residual.view(-1, stacked.shape[1])
        slope = gradient.view(dim + 1, -1, classes).transpose(0, 1) / count + penalty[problems] * weights
        shrink = (penalty[problems] * weights.square()).sum((1, 2), dtype=torch.float64) / 2
        return loss / count + shrink, slope.reshape(len(points), -1)

    # at zero weights the Hessian is (variance / classes + strength) up to a mixing of the classes, and
    # (variance / 4 + strength) of a class by itself
    spread = inputs.square().mean(0)[None, :, None] / (classes if labels.ndim == 1 else 4)
    curvature = (spread + penalty).clamp(min=1e-12).expand(shape)
    begin = features.new_zeros(shape)
    if start is not None:
        begin[:, : start.shape[1] - 1], begin[:, -1] = start[:, :-1], start[:, -1]
    return minimise(objective, begin.flatten(1), curvature.flatten(1)).view(shape)


def _softmax_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of each problem, and its gradient by the logits (samples, problems, classes)."""
    truth = labels[:, None, None].expand(-1, logits.shape[1], 1)
    log_probabilities = logits.log_softmax(2)
    loss = -log_probabilities.gather(2, truth).sum((0, 2), dtype=torch.float64)
    residual = log_probabilities.exp_().scatter_add_(2, truth, -torch.ones_like(truth, dtype=logits.dtype))
    return loss, residual


def _sigmoid_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same of one yes or no a class; unknown labels (-1) count for nothing."""
    known, truth = (labels >= 0)[:, None], (labels == 1).to(logits.dtype)[:, None]
    loss = (softplus(logits) - truth * logits) * known
    return loss.sum((0, 2), dtype=torch.float64), (logits.sigmoid() - truth) * known


def minimise(
    objective: Objective,
    start: Float[Tensor, "problems variables"],
    curvature: Float[Tensor, "problems variables"],
    iterations: int = 300,
    memory: int = 10,
    tolerance: float = 1e-9,
) -> Float[Tensor, "problems variables"]:
    """L-BFGS (Nocedal and Wright 2006, algorithm 7.5) on independent convex problems, one a row, at once.

    `objective(points, problems)` gives the losses (rows,) and gradients (rows, variables) of the problems
    numbered `problems`. `curvature` estimates the diagonal of the Hessian. A problem is done, and leaves
    the batch, when its gradient g has sum(g^2 / curvature) below `tolerance` (twice the loss that a Newton
    step could still gain), or when rounding keeps the line search from going on.
    """
    found, problems = start.clone(), torch.arange(len(start), device=start.device)
    point = start
    loss, gradient = objective(point, problems)
    history: list[tuple[Tensor, Tensor]] = []
    stuck = torch.zeros_like(problems, dtype=torch.bool)
    for _ in range(iterations):
        going = ((gradient.square() / curvature).sum(1) > tolerance) & ~stuck
        if not bool(going.all()):
            found[problems[~going]] = point[~going]
            problems, point, loss, gradient, curvature = (
                x[going] for x in (problems, point, loss, gradient, curvature)
            )
            history = [(step[going], change[going]) for step, change in history]
            if len(problems) == 0:
                return found
        direction = -_inverse_hessian_times(gradient, history, curvature)
        new_point, new_loss, new_gradient = _line_search(
            objective, problems, point, loss, gradient, direction
        )
        stuck = new_loss.isnan()
        history = [*history, (new_point - point, new_gradient - gradient)][-memory:]
        loss, kept = torch.where(stuck, loss, new_loss), stuck[:, None]
        point, gradient = torch.where(kept, point, new_point), torch.where(kept, gradient, new_gradient)
    found[problems] = point
    return found


def _line_search(
    objective: Objective, problems: Tensor, point: Tensor, loss: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve each row's step until its loss falls enough (Armijo); the loss is NaN where none of 20 did."""
    slope = (direction * gradient).sum(1)
    rounding = 4 * torch.finfo(point.dtype).eps * loss.abs()
    length = torch.ones_like(slope)
    halvings = 0
    while True:
        new_point = point + length[:, None] * direction
        new_loss, new_gradient = objective(new_point, problems)
        fails = ~(new_loss <= loss + 1e-4 * length * slope + rounding)
        if halvings == HALVINGS or not bool(fails.any()):
            return new_point, torch.where(fails, torch.nan, new_loss), new_gradient
        length = torch.where(fails, length / 2, length)
        halvings += 1


def _inverse_hessian_times(
    gradient: Tensor, history: list[tuple[Tensor, Tensor]], curvature: Tensor
) -> Tensor:
    """The two-loop recursion, row by row; pairs without positive curvature (rounding) count for nothing."""
    result, kept = gradient.clone(), []
    for step, change in reversed(history):
        product = (step * change).sum(1, keepdim=True)
        weight = torch.where(product > 0, 1 / product, 0.0)
        share = weight * (step * result).sum(1, keepdim=True)
        result -= share * change
        kept.append((step, change, weight, share))
    if kept:
        step, change, weight, _ = kept[0]
        ratio = (step * change).sum(1, keepdim=True) / (change.square() / curvature).sum(1, keepdim=True)
        result *= torch.where(weight > 0, ratio, 1.0)
    result /= curvature
    for step, change, weight, share in reversed(kept):
        result += step * (share - weight * (change * result).sum(1, keepdim=True))
    return result
