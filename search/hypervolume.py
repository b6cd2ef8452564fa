"""The volume that a set of points dominates, up to a reference point.

Exact, by slicing along the last objective (Zitzler and Thiele, 1998, introduced the measure).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paretune.search.pareto import non_dominated


def hypervolume(points: np.ndarray, reference: Sequence[float]) -> float:
    """Volume between the points and ``reference``; points beyond it contribute nothing.

    Args:
        points: float64 ``(points, objectives)``, all to be minimised; up to four objectives.
        reference: one bound an objective.
    """
    corner = np.asarray(reference, dtype=np.float64)
    inside = np.asarray(points, dtype=np.float64).reshape(-1, len(corner))
    inside = inside[(inside < corner).all(axis=1)]
    return _volume(inside, corner) if len(inside) else 0.0


def _volume(points: np.ndarray, corner: np.ndarray) -> float:
    if points.shape[1] == 1:
        return float(corner[0] - points.min())
    points = points[non_dominated(points)]
    order = points[np.argsort(points[:, -1], kind="stable")]
    if points.shape[1] == 2:
        lower = np.minimum.accumulate(order[:, 0])
        heights = np.append(order[1:, 1], corner[1]) - order[:, 1]
        return float(((corner[0] - lower) * heights).sum())
    edges = np.append(order[:, -1], corner[-1])
    return sum(
        float(edges[i + 1] - edges[i]) * _volume(order[: i + 1, :-1], corner[:-1])
        for i in range(len(order))
        if edges[i + 1] > edges[i]
    )
