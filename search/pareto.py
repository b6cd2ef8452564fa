"""The points that no other point beats."""

from __future__ import annotations

import numpy as np


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Mask of the points that no other point beats; of equal points the first counts.

    Args:
        values: float64 ``(points, objectives)``, all to be minimised.
    """
    points = np.asarray(values, dtype=np.float64)
    keep = np.zeros(len(points), dtype=bool)
    kept = np.empty((0, points.shape[1] if points.ndim == 2 else 0))
    # In lexicographic order a point can only be beaten by one that comes before it; lexsort is stable.
    for index in np.lexsort(points.T[::-1]) if len(points) else []:
        if not (kept <= points[index]).all(axis=1).any():
            keep[index] = True
            kept = np.vstack([kept, points[index]])
    return keep
