"""A page's content with every section, made without a run."""

import numpy as np
import pytest
import torch

from anyjepa.core.masking import MultiBlock
from anyjepa.core.tokens import Tokens
from anyjepa.domains.images import Images
from anyjepa.reports import sections
from anyjepa.reports.charts import Series, line_chart
from anyjepa.reports.page import Content, Figure, Health, Score, Table, Verdict
from anyjepa.reports.sections import Labels, Looked

EVIL = "<script>alert(1)</script>"
ABSENT = ("scores", "health", "curves", "spectrum", "masks", "neighbours", "patches", "map")


@pytest.fixture(scope="session")
def full() -> Content:
    """Every section, with text from data that tries to be markup."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=generator, dtype=torch.uint8)
    batch, domain = {"image": images}, Images()
    embeddings = torch.randn(40, 8, generator=generator)
    classes = [EVIL, '"><img src=x onerror=alert(2)>', "</style>"]
    labels = Labels(np.arange(40) % 3, classes)
    thumbnails = [domain.picture(batch, index, {}) for index in range(40)]
    looked = Looked(embeddings, thumbnails, [f"{EVIL}/{index}.png" for index in range(40)], labels)
    masks = MultiBlock((4, 4), 2, (0.15, 0.2), (0.75, 1.5), (0.85, 1.0))(4, generator)
    tokens = Tokens(torch.randn(4, 16, 8, generator=generator), torch.zeros(1, 16, 2))
    few, names = {"image": images[:4]}, looked.identities[:4]
    steps = np.arange(0, 100, 10.0)
    return Content(
        recipe="i-jepa",
        data=f"40 images in {EVIL}",
        facts=["100 steps", EVIL],
        verdict=Verdict("good", f"Healthy {EVIL}"),
        figures=[Figure("RankMe", "7.1", EVIL)],
        scores=[Score("linear", "accuracy", 0.9, 0.8, 0.95, 0.5, 0.7, EVIL)],
        commands=[("Its health", f"anyjepa inspect '{EVIL}'")],
        curves=[line_chart("Loss", [Series(EVIL, steps, 1 / (1 + steps))])],
        small_curves=[line_chart("Learning rate", [Series("rate", steps, steps)])],
        spectrum=sections.spectrum([("this run", embeddings), ("untrained", embeddings + 1)]),
        masks=sections.masks(domain, {}, few, masks.context, masks.targets, 16, names),
        neighbours=sections.neighbours(looked, [0, 1]),
        patches=sections.patches(domain, {}, few, tokens, None, names),
        map=sections.embedding_map(looked, 0),
        health=Health([("rankme", "7.1 ± 0.1", "5", EVIL)], EVIL, "good", EVIL, [EVIL], 40),
        tables=[Table(EVIL, [(EVIL, EVIL)])],
        skipped=23,
        skipped_first=[(EVIL, EVIL)],
        made="Made by anyjepa.",
    )


@pytest.fixture(scope="session")
def bare() -> Content:
    """Nothing but sentences."""
    return Content(
        recipe="i-jepa",
        data="",
        facts=[],
        verdict=Verdict("unknown", "Nothing is known."),
        figures=[],
        commands=[],
        small_curves=[],
        tables=[],
        **{name: f"No {name}, for the data is gone." for name in ABSENT},
    )
