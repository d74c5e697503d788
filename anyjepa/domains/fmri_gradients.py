"""Brain gradients: from how alike regions are connected to a few coordinates in which neighbours are alike.

The steps are those of the public algorithm (Coifman and Lafon 2006; Margulies et al. 2016; paper note of
Brain-JEPA, "Brain gradient table"). All in float64.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["affinity", "connectivity", "diffusion_map", "fisher", "gradients"]

FEWEST_KEPT = 10  # entries of a row, however few regions there are
SLOWEST = 0.999  # eigenvalue that counts as such: a network in pieces would have coordinates without end
STRONGEST = 0.9999  # correlation that counts as such in Fisher's z

Series = Float[np.ndarray, "regions time"]
Square = Float[np.ndarray, "regions regions"]


def connectivity(series: Series) -> Square:
    """Correlation of every two regions; 0 with a region that never changes, or is NaN, and 1 with itself."""
    centred = np.asarray(series, np.float64) - series.mean(axis=1, dtype=np.float64, keepdims=True)
    centred = np.nan_to_num(centred)
    norm = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    unit = centred / np.where(
        norm > 1e-9 * np.maximum(np.abs(np.nan_to_num(series)).max(), 1e-300), norm, np.inf
    )
    found = unit @ unit.T
    np.fill_diagonal(found, 1.0)
    return np.clip(found, -1.0, 1.0)


def fisher(correlations: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """Fisher's z of correlations, which are averaged in it: the inverse hyperbolic tangent."""
    return np.arctanh(np.clip(correlations, -STRONGEST, STRONGEST))


def affinity(matrix: Square, sparsity: float = 0.9) -> Square:
    """Cosine of the rows of a matrix of connectivity of which only the strongest entries are kept, at least
    0.

    Args:
        matrix: how strongly every two regions are connected.
        sparsity: share of the entries of a row that is set to 0, the weakest first; 10 are kept at least.
    """
    regions = len(matrix)
    kept = max(round((1 - sparsity) * regions), min(FEWEST_KEPT, regions))
    least = np.partition(matrix, regions - kept, axis=1)[:, regions - kept][:, None]
    strongest = np.where(matrix >= least, matrix, 0.0)
    norm = np.sqrt((strongest**2).sum(axis=1, keepdims=True))
    unit = strongest / np.where(norm > 0, norm, 1.0)
    found = np.clip(unit @ unit.T, 0.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def diffusion_map(
    weights: Square, components: int, alpha: float = 0.5
) -> tuple[Float[np.ndarray, "regions components"], Float[np.ndarray, " components"]]:
    """The leading coordinates of a diffusion map over all times, and their eigenvalues.

    With row sums d the weights are divided by (d_i d_j)^alpha and each row by its sum, which makes them the
    chances of a random walk. Its eigenvectors, divided by the trivial one and times lambda / (1 - lambda),
    are the coordinates. A sign is such that the entry farthest from 0 is positive.

    Args:
        weights: symmetric, not negative, with no row that is all 0.
        components: how many; fewer where there are not so many regions.
        alpha: 0 lets crowded regions count as much as they are crowded, 1 not at all.
    """
    sums = weights.sum(axis=1)
    scaled = weights / np.outer(sums, sums) ** alpha
    sums = scaled.sum(axis=1)
    # symmetric, with the eigenvalues of the walk; its own leading eigenvector is known, and taken away
    root = np.sqrt(sums)
    walk = scaled / np.outer(root, root)
    first = root / np.linalg.norm(root)
    values, vectors = np.linalg.eigh(walk - np.outer(first, first))
    components = min(components, len(weights) - 1)
    order = np.argsort(-values, kind="stable")[:components]
    values, vectors = values[order], vectors[:, order] / first[:, None]
    vectors = vectors / np.linalg.norm(vectors, axis=0)
    farthest = np.abs(vectors).round(9).argmax(axis=0)
    vectors = vectors * np.where(vectors[farthest, np.arange(components)] < 0, -1.0, 1.0)
    capped = np.clip(values, 0.0, SLOWEST)
    return vectors * (capped / (1 - capped)), values


def gradients(matrix: Square, components: int = 30, sparsity: float = 0.9, alpha: float = 0.5) -> np.ndarray:
    """(regions, components) float64 of a matrix of connectivity: `affinity`, then `diffusion_map`."""
    return diffusion_map(affinity(matrix, sparsity), components, alpha)[0]
