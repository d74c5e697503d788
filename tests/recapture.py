"""Golden losses of every recipe, three steps at a fixed seed. ``python tests/recapture.py`` writes them."""

import json
from pathlib import Path

from anyjepa.core.method import Context
from anyjepa.domains import domains
from anyjepa.engine.loading import Steps
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method
from anyjepa.recipes import recipe, recipes

GOLDEN = Path(__file__).with_name("golden.json")
BATCH, STEPS, SEED = 8, 3, 0


def smallest(name):
    """The tiny preset of a recipe, its example data and the facts of these."""
    kind = recipe(name).preset("tiny", batch_size=BATCH)
    domain = domains()[kind.domain]
    samples = domain.open(kind.example_data, reading=kind.reading())
    return kind, samples, domain.measure(samples, SEED)


def golden_losses(name):
    """The loss of each of the first steps in double precision."""
    kind, samples, facts = smallest(name)
    method = build_method(kind, facts, SEED).double()
    optimiser, loader, losses = build_optimiser(method, kind), Steps(samples, kind, BATCH, SEED, STEPS), []
    for step in range(1, STEPS + 1):
        context = Context(step, STEPS, step_generator(SEED, step))
        apply(optimiser, schedule(kind, step, STEPS))
        batch, _ = loader[step - 1]
        loss = method(in_double(batch), context)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(context)
        losses.append(loss.item())
    return losses


def in_double(batch):
    """Whole numbers stay as they are: the tokenizer turns them into the floats that it wants."""
    return {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


if __name__ == "__main__":
    figures = {name: golden_losses(name) for name in recipes()}
    GOLDEN.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"wrote {GOLDEN}")
