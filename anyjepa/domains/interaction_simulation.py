"""A simulated shop: what six kinds of customers take, and what the catalogue says of its items."""

from __future__ import annotations

import numpy as np
import pyarrow as arrow

__all__ = ["SYNTHETIC", "synthetic_shop"]

SYNTHETIC = "synthetic-shop"
ITEMS, CUSTOMERS, TAKEN = 1500, 700, 24
TRAITS, LEVELS = 4, 12
AUDIENCES = ("campers", "cooks", "gamers", "gardeners", "painters", "runners")
FIELDS = (
    ("category", "section", "shelf"),
    ("brand", "maker", "series"),
    ("style", "colour", "pattern"),
    ("material", "finish", "texture"),
)
REGIONS = ("north", "east", "south", "west")
WRITTEN_WRONG = 0.15  # share of cells that say another level than the item has
UNSAID = 0.15  # share of the customers who do not tell their region, or their age
TASTE, HIDDEN = 1.1, 0.9  # what a matching trait counts for, and what no field tells


def synthetic_shop(seed: int = 5) -> tuple[arrow.Table, arrow.Table, arrow.Table]:
    """16,800 purchases, 1,500 items, 700 customers: (log, items, customers).

    An item has four traits of 12 levels. Three fields name each trait in words of their own and now and then
    wrongly, so that fields come in groups of near duplicates; five tags and a price tell of the traits too.
    Popularity falls as in Zipf's law. Customers belong to one of six audiences, each with a liking for some
    levels of each trait and for items for reasons that no field tells; they take items by popularity and
    liking. ``audience``, the label, is the one that likes the item best.
    """
    draw = np.random.default_rng(seed)
    traits = draw.integers(0, LEVELS, (ITEMS, TRAITS))
    likings = draw.normal(size=(len(AUDIENCES), TRAITS, LEVELS))
    matched = likings[:, np.arange(TRAITS), traits].sum(axis=2)
    attraction = TASTE * matched + HIDDEN * draw.normal(size=matched.shape)
    columns: dict[str, arrow.Array] = {"item_id": arrow.array([f"item-{n:04d}" for n in range(ITEMS)])}
    for trait, names in enumerate(FIELDS):
        for name in names:
            words = draw.permutation(LEVELS)
            wrong = draw.random(ITEMS) < WRITTEN_WRONG
            written = np.where(wrong, draw.integers(0, LEVELS, ITEMS), words[traits[:, trait]])
            columns[name] = arrow.array([f"{name}-{level}" for level in written])
    tagged = draw.integers(0, TRAITS, (ITEMS, 5))
    kinds = traits[np.arange(ITEMS)[:, None], tagged]
    columns["tags"] = arrow.array(
        ["|".join(f"{t}{k}" for t, k in zip(*row, strict=True)) for row in zip(tagged, kinds, strict=True)]
    )
    columns["price"] = arrow.array(np.exp(2 + 0.15 * traits[:, 0] + 0.3 * draw.normal(size=ITEMS)).round(2))
    columns["audience"] = arrow.array([AUDIENCES[best] for best in attraction.argmax(axis=0)])
    popularity = -0.9 * np.log(1 + draw.permutation(ITEMS))
    audience = draw.integers(0, len(AUDIENCES), CUSTOMERS)
    chosen, times = [], []
    for kind in audience:
        # the highest of noisy attractions are draws without repetition
        noisy = popularity + attraction[kind] + draw.gumbel(size=ITEMS)
        chosen.append(np.argsort(-noisy)[:TAKEN][draw.permutation(TAKEN)])
        times.append(np.sort(draw.integers(0, 365 * 24, TAKEN)))
    log = {
        "customer_id": arrow.array([f"c{n:03d}" for n in np.repeat(np.arange(CUSTOMERS), TAKEN)]),
        "item_id": columns["item_id"].take(arrow.array(np.concatenate(chosen))),
        "time": arrow.array(np.concatenate(times)),
    }
    region = np.where(draw.random(CUSTOMERS) < 0.5, audience % 4, draw.integers(0, 4, CUSTOMERS))
    unsaid = draw.random((2, CUSTOMERS)) < UNSAID
    age = np.rint(30 + 4 * audience + 8 * draw.normal(size=CUSTOMERS)).astype(np.int64)
    customers = {
        "customer_id": arrow.array([f"c{n:03d}" for n in range(CUSTOMERS)]),
        "region": arrow.array([REGIONS[place] for place in region], mask=unsaid[0]),
        "age": arrow.array(age, mask=unsaid[1]),
    }
    return arrow.table(log), arrow.table(columns), arrow.table(customers)
