"""Windows drawn: states and actions over time, demonstrated beside predicted, and a pendulum as it swings."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from anyjepa.domains.images import _visible

__all__ = ["film", "lines_figure", "pendulum_frame", "window_figure", "window_sheet"]

SIDE = 48  # pixels of a sheet
SHOWN = 4  # numbers of a state and of an action that are drawn
PANEL, WIDE, LEFT = 72, 420, 64  # height of a panel, its width, and the margin for its name
COLOURS = {"states": "#7a8699", "demonstrated": "#7a8699", "predicted": "#d9480f", "executed": "#1c6dd0",
           "expert": "#2b8a3e"}  # fmt: skip
FRAMES = 10  # of a film


def window_sheet(batch: dict[str, Tensor], index: int, facts: dict) -> np.ndarray:
    """One picture (h, w, 3) uint8 of a window: what its first step shows, or its states as a heat map."""
    if "image" in batch:
        return _visible(batch["image"][index].detach().cpu().numpy())
    states = batch["states"][index].detach().float().cpu().numpy()
    middle, spread = np.array(facts["state_mean"]), np.array(facts["state_std"])
    scaled = np.clip((states - middle) / np.where(spread > 0, 4 * spread, 1) + 0.5, 0, 1).T
    scaled = np.where(batch["padded"][index].cpu().numpy(), 0.5, scaled)
    # low is blue and high is orange, the middle is white
    low, high = np.array([28, 109, 208.0]), np.array([217, 72, 15.0])
    share = scaled[..., None]
    colours = np.where(share < 0.5, low + (255 - low) * 2 * share, 255 + (high - 255) * (2 * share - 1))
    rows, columns = (np.arange(SIDE) * size // SIDE for size in scaled.shape)
    return colours[rows][:, columns].astype(np.uint8)


def window_figure(batch: dict[str, Tensor], index: int, facts: dict) -> str:
    """SVG of a window: up to four numbers of its states and its actions over time.

    ``predicted`` (n, steps, numbers) of a batch are actions that are drawn beside the demonstrated ones.
    """
    inside = int((~batch["padded"][index]).sum())
    parts = {
        name: batch[name][index, :inside].detach().float().cpu().numpy()
        for name in ("states", "actions", "predicted")
        if name in batch
    }
    panels = [
        (f"state {n + 1}", {"states": parts["states"][:, n]})
        for n in range(min(SHOWN, parts["states"].shape[1]))
    ]
    for n in range(min(SHOWN, parts["actions"].shape[1])):
        lines = {"demonstrated": parts["actions"][:, n]} if bool(batch["acted"][index]) else {}
        if "predicted" in parts:
            lines["predicted"] = parts["predicted"][:, n]
        panels.append((f"action {n + 1}", lines))
    return lines_figure(panels, facts.get("rate", 0.0))


def lines_figure(
    panels: Sequence[tuple[str, dict[str, np.ndarray]]], rate: float = 0.0, marks: Sequence[int] = ()
) -> str:
    """SVG of panels one below the other, each a name and lines (steps,) by what they are; NaN leaves a gap.

    rate: steps a second, 0 where unknown. marks: steps at which a thin upright line stands.
    """
    drawn, steps = [], max((len(line) for _, lines in panels for line in lines.values()), default=1)
    for row, (name, lines) in enumerate(panels):
        top = row * PANEL + 20
        values = np.concatenate([line[np.isfinite(line)] for line in lines.values()] or [np.zeros(1)])
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        span = high - low if high > low else 1.0
        drawn.append(
            f'<text x="{LEFT - 8}" y="{top + 30}" text-anchor="end" class="name">{html.escape(name)}</text>'
            f'<text x="{LEFT - 8}" y="{top + 8}" text-anchor="end" class="end">{high:.3g}</text>'
            f'<text x="{LEFT - 8}" y="{top + 52}" text-anchor="end" class="end">{low:.3g}</text>'
            f'<rect x="{LEFT}" y="{top}" width="{WIDE}" height="{PANEL - 20}" class="panel"/>'
        )
        drawn += [
            f'<path d="M{LEFT + step / steps * WIDE:.1f} {top}v{PANEL - 20}" class="panel"/>'
            for step in marks
        ]
        for what, line in lines.items():
            across = LEFT + (np.arange(len(line)) + 0.5) / steps * WIDE
            down = top + (PANEL - 20) * (0.94 - 0.88 * (line - low) / span)
            dashed = ' stroke-dasharray="4 2"' if what == "predicted" else ""
            drawn += [
                f'<path d="{path}" fill="none" stroke="{COLOURS[what]}" stroke-width="1.8"{dashed}/>'
                for path in _paths(across, down)
            ]
    known = [what for what in COLOURS if what != "states" and any(what in lines for _, lines in panels)]
    for place, what in enumerate(known):
        x = LEFT + 110 * place
        drawn.append(
            f'<rect x="{x}" y="6" width="14" height="4" fill="{COLOURS[what]}"/>'
            f'<text x="{x + 18}" y="13" class="name">{what}</text>'
        )
    bottom = len(panels) * PANEL + 14
    last = f"{steps / rate:.2f} s" if rate else f"{steps} steps"
    return (
        f'<svg class="wide" viewBox="0 0 {LEFT + WIDE + 12} {bottom + 8}" role="img" '
        f'aria-label="states and actions over {last}"><style>.name{{font:11px sans-serif;fill:currentColor}}'
        ".end{font:9px sans-serif;fill:#889}.panel{fill:none;stroke:#8894a833}</style>"
        f'{"".join(drawn)}<text x="{LEFT + WIDE}" y="{bottom + 4}" text-anchor="end" '
        f'class="end">{last}</text>'
        "</svg>"
    )


def _paths(across: np.ndarray, down: np.ndarray) -> list[str]:
    """Path data of each stretch without a gap."""
    found: list[str] = []
    fresh = True
    for x, y in zip(across.tolist(), down.tolist(), strict=True):
        if not np.isfinite(y):
            fresh = True
            continue
        if fresh:
            found.append("")
        found[-1] += f"{'M' if fresh else 'L'}{x:.1f} {y:.1f}"
        fresh = False
    return found


def pendulum_frame(state: np.ndarray, torque: float, side: int = 64) -> str:
    """SVG group of a pendulum (cosine, sine, speed) in a square of ``side``, its torque in Nm as an arc."""
    middle, long = side / 2, 0.4 * side
    x, y = middle - long * float(state[1]), middle - long * float(state[0])
    bar = 0.4 * side * float(np.clip(torque / 2, -1, 1))
    return (
        f'<rect width="{side}" height="{side}" rx="4" fill="#f4f5f7"/>'
        f'<line x1="{middle}" y1="{middle}" x2="{x:.1f}" y2="{y:.1f}" stroke="#c92a2a" stroke-width="6" '
        f'stroke-linecap="round"/><circle cx="{middle}" cy="{middle}" r="2.5" fill="#222"/>'
        f'<rect x="{min(middle, middle + bar):.1f}" y="{side - 6}" width="{abs(bar):.1f}" height="3" '
        f'fill="{COLOURS["executed"]}"/>'
    )


def film(states: np.ndarray, torques: np.ndarray, rate: float) -> str:
    """SVG film strip of ten moments of a pendulum's episode: states (steps, 3), torques (steps,) in Nm."""
    side, chosen = 64, np.linspace(0, len(torques) - 1, FRAMES).round().astype(int)
    frames = "".join(
        f'<g transform="translate({place * (side + 4)} 0)">'
        f"{pendulum_frame(states[step], float(torques[step]), side)}"
        f'<text x="{side / 2}" y="{side + 11}" text-anchor="middle" '
        f'style="font:9px sans-serif;fill:currentColor">{step / rate:.1f} s</text></g>'
        for place, step in enumerate(chosen.tolist())
    )
    across = FRAMES * (side + 4) - 4
    return f'<svg class="wide" viewBox="0 0 {across} {side + 16}" role="img" aria-label="film">{frames}</svg>'
