"""Gradients, or a matrix of connectivity to make them of, from a file of the user's own."""

from __future__ import annotations

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.fmri_gradients import gradients
from anyjepa.domains.fmri_tables import TABLES, ending, read_table
from anyjepa.domains.sources import existing

__all__ = ["supplied"]


def supplied(path: str, regions: int, components: int = 30, **options: float) -> np.ndarray | None:
    """(regions, components) gradients of a table without or with names; None where no path is given.

    A square table of as many rows as there are regions is taken for a matrix of connectivity, of which
    gradients are computed. options: of `gradients`. Raises UserError for what does not fit the regions.
    """
    if not path:
        return None
    file = existing(path)
    if ending(file.name) not in TABLES:
        raise UserError(f"--gradient-table {path} is no table: give .csv, .tsv, .txt, .npy or .mat.")
    try:
        values = read_table(str(file), file.name).values
    except BadSample as problem:
        raise UserError(f"--gradient-table {path}: {problem}.") from None
    if not np.isfinite(values).all():
        raise UserError(f"--gradient-table {path} holds values that are no numbers.")
    if values.shape == (regions, regions):
        return gradients((values + values.T) / 2, components, **options)
    if len(values) != regions:
        raise UserError(
            f"--gradient-table {path} has {len(values)} rows for {regions} regions: give a row each."
        )
    return values[:, :components]
