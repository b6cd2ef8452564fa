"""What a whole model costs beyond its kernels: so much a block, so much once, a share of the kernels' time.

Norms, rotary embedding, residuals and the host's own work are no operations; and a kernel that runs between
others finds the caches colder than by itself. Both are what measured latency leaves when the sum of the
kernels is taken away. All terms are at least 0 (non-negative least squares; Lawson and Hanson 1974), and a
time that lies far off counts less (Huber weights).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paretune.spaces.schema import Frozen

LEAST_FOR_SHARE = 6
_ROUNDS = 20
_HUBER = 1.345
Vector = npt.NDArray[np.float64]


class Overhead(Frozen):
    """Of one phase.

    Attributes:
        per_block_s, constant_s: of every block, and once.
        kernel_share: of the kernels' own time, on top of it.
        error: median of |predicted - measured| / measured over the times that it was fitted to.
        n: how many those were.
    """

    per_block_s: float = 0.0
    constant_s: float = 0.0
    kernel_share: float = 0.0
    error: float | None = None
    n: int = 0

    def seconds(self, blocks: int, kernels_s: float) -> float:
        """Of a model of so many blocks whose kernels take so long."""
        return self.per_block_s * blocks + self.constant_s + self.kernel_share * kernels_s


def fit_overhead(blocks: Sequence[int], kernels_s: Sequence[float], measured_s: Sequence[float]) -> Overhead:
    """Fit ``measured - kernels = per_block * blocks + constant + share * kernels``.

    A term is fitted where the times can tell it from the others: the constant where models differ in depth
    (all of it lies on the blocks otherwise, where nearly all such work is done), the share where there are at
    least :data:`LEAST_FOR_SHARE` times of models whose kernels differ by a fifth or more.
    """
    if not measured_s:
        return Overhead()
    counts = np.asarray(blocks, dtype=np.float64)
    kernels, measured = np.asarray(kernels_s, dtype=np.float64), np.asarray(measured_s, dtype=np.float64)
    terms = {"per_block_s": counts}
    if np.ptp(counts) > 0:
        terms["constant_s"] = np.ones_like(counts)
    if len(measured) >= LEAST_FOR_SHARE and np.ptp(kernels) > 0.2 * float(np.median(kernels)):
        terms["kernel_share"] = kernels
    features = np.column_stack(list(terms.values()))
    found = _robust(features, measured - kernels)
    predicted = kernels + features @ found
    return Overhead(
        **dict(zip(terms, (float(value) for value in found), strict=True)),
        error=float(np.median(np.abs(predicted - measured) / measured)),
        n=len(measured),
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
