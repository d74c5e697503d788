"""A simulated table: customers of three kinds, seen through columns of every type, some cells missing."""

from __future__ import annotations

import numpy as np
import pyarrow as arrow

from anyjepa.domains.table_formats import Sheet

__all__ = ["SYNTHETIC", "synthetic_table"]

SYNTHETIC = "synthetic-table"
CUSTOMERS = 3000
SEGMENTS = ("budget", "family", "premium")
PLANS = ("basic", "plus", "pro")
CITIES = ("Lyon", "Nantes", "Oslo", "Porto", "Riga", "Turin")


def synthetic_table(seed: int = 1) -> Sheet:
    """3,000 customers in three segments, (id, 12 columns, label ``segment``).

    Nothing tells the segment by itself: habit (how the money is spent) and means (how much there is) are
    hidden, the segment is a bent function of both, and each column shows one of them through noise. Spending
    and income have heavy tails; a tenth of the incomes and of the ratings is missing, income the more often
    the higher it is.
    """
    draw = np.random.default_rng(seed)
    count = CUSTOMERS
    segment = draw.integers(0, 3, count)
    angle = draw.uniform(0, np.pi, count)
    # three interleaved arcs: linear in no column, plain once columns are seen together
    radius = 1.0 + 0.8 * segment + 0.12 * draw.normal(size=count)
    habit, means = radius * np.cos(angle), radius * np.sin(angle)

    def noisy(signal: np.ndarray, noise: float) -> np.ndarray:
        return signal + noise * draw.normal(size=count)

    income = np.exp(9.5 + 0.5 * noisy(means, 0.25))
    spending = np.exp(5.0 + 0.6 * noisy(habit, 0.25))
    visits = draw.poisson(np.exp(1.2 + 0.4 * habit)).astype(np.int64)
    basket = noisy(0.7 * means - 0.5 * habit, 0.2) * 12 + 60
    discount = np.clip(noisy(0.4 - 0.15 * means + 0.05 * habit, 0.05), 0, 1)
    age = np.clip(38 + 9 * noisy(means - 1, 0.4), 18, 90).astype(np.int64)
    rating = np.clip(np.rint(3 + noisy(0.8 * habit, 0.6)), 1, 5)
    plan = np.clip(np.rint(noisy(means - 0.5, 0.4)), 0, 2).astype(int)
    city = np.clip(np.rint(noisy(habit + 2.5, 0.5)), 0, 5).astype(int)
    newsletter = noisy(habit * means, 0.4) > 0
    joined = np.datetime64("2018-01-01") + (900 + 300 * noisy(means - 1, 0.5)).astype(int)
    clicks = draw.poisson(np.exp(1.0 + 0.3 * means * np.sign(habit) + 0.2 * habit)).astype(np.int64)
    no_income = draw.random(count) < 0.2 / (1 + np.exp(-2 * (means - 1.5)))
    no_rating = draw.random(count) < 0.1
    columns = {
        "customer_id": np.arange(10_000, 10_000 + count),
        "age": age,
        "income": np.where(no_income, np.nan, income.round(2)),
        "spending": spending.round(2),
        "visits": visits,
        "basket": basket.round(2),
        "discount": discount.round(3),
        "clicks": clicks,
        "rating": np.where(no_rating, np.nan, rating),
        "plan": np.array(PLANS)[plan],
        "city": np.array(CITIES)[city],
        "newsletter": newsletter,
        "joined": joined.astype("datetime64[s]"),
        "segment": np.array(SEGMENTS)[segment],
    }
    table = arrow.table({name: arrow.array(values, from_pandas=True) for name, values in columns.items()})
    return Sheet(table, label="segment", levels={})
