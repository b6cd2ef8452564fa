"""What a whole model costs beyond its kernels: so much a block, so much once, fitted to whole-model times.

Norms, rotary embedding, residuals and the host's own work are no operations; they are what measured latency
leaves when the sum of the kernels is taken away. Both terms are at least 0 (non-negative least squares;
Lawson and Hanson 1974), and a time that lies far off counts less (Huber weights).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spaces.schema import Frozen

_ROUNDS = 20
_HUBER = 1.345
Vector = npt.NDArray[np.float64]


class Overhead(Frozen):
    """Of one phase.

    Attributes:
        per_block_s, constant_s: the two terms.
        error: median of |predicted - measured| / measured over the times that it was fitted to.
        n: how many those were.
    """

    per_block_s: float = 0.0
    constant_s: float = 0.0
    error: float | None = None
    n: int = 0

    def seconds(self, blocks: int) -> float:
        """Of a model of so many blocks."""
        return self.per_block_s * blocks + self.constant_s


def fit_overhead(blocks: Sequence[int], kernels_s: Sequence[float], measured_s: Sequence[float]) -> Overhead:
    """Fit ``measured - kernels = per_block * blocks + constant``.

    Where all times are of models with the same number of blocks the two terms cannot be told apart, and
    all of it is laid on the blocks, where nearly all of such work is done.
    """
    if not measured_s:
        return Overhead()
    counts = np.asarray(blocks, dtype=np.float64)
    kernels, measured = np.asarray(kernels_s), np.asarray(measured_s)
    varied = bool(np.ptp(counts) > 0)
    features = np.column_stack([counts, np.ones_like(counts)]) if varied else counts[:, None]
    found = _robust(features, measured - kernels)
    per_block, constant = (float(found[0]), float(found[1])) if varied else (float(found[0]), 0.0)
    predicted = kernels + per_block * counts + constant
    return Overhead(
        per_block_s=per_block,
        constant_s=constant,
        error=float(np.median(np.abs(predicted - measured) / measured)),
        n=len(measured_s),
    )


def _robust(features: npt.NDArray[np.float64], values: Vector) -> Vector:
    """Non-negative least squares, weighted again and again by how far each value is off."""
    weights = np.ones_like(values)
    found = non_negative_least_squares(features, values)
    for _ in range(_ROUNDS):
        off = np.abs(features @ found - values)
        scale = 1.4826 * float(np.median(off))
        if scale == 0.0:
            break
        weights = np.minimum(1.0, _HUBER * scale / np.maximum(off, 1e-300))
        root = np.sqrt(weights)
        found = non_negative_least_squares(features * root[:, None], values * root)
    return found


def non_negative_least_squares(features: npt.NDArray[np.float64], values: Vector) -> Vector:
    """``x >= 0`` of least ``|features @ x - values|``, by trying every set of terms that are not 0.

    Exact, and meant for two or three columns.
    """
    columns = features.shape[1]
    best, least = np.zeros(columns), float(values @ values)
    for chosen in range(1, 2**columns):
        kept = [column for column in range(columns) if chosen >> column & 1]
        part, *_ = np.linalg.lstsq(features[:, kept], values, rcond=None)
        if np.all(part >= 0):
            rest = features[:, kept] @ part - values
            if float(rest @ rest) < least:
                least, best = float(rest @ rest), np.zeros(columns)
                best[kept] = part
    return best
