"""What a whole model costs beyond its kernels: so much per block, so much once, a share of the kernels' time.

Norms, rotary embedding, residuals and the host's own work are no operations; and a kernel that runs between
others finds the caches colder than by itself. Both are what measured latency leaves when the sum of the
kernels is taken away. All terms are at least 0 (non-negative least squares; Lawson and Hanson 1974), and a
time that lies far off counts less (Huber 1964).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paretune.spaces.schema import Frozen

LEAST_FOR_SHARE = 6
_ROUNDS = 5
_EXACT = 1e-9
"""Residuals, as a share of the largest value, that are rounding."""
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
    """Non-negative, with a Huber loss at a scale that is taken from the residuals (median absolute deviation)."""
    from scipy.optimize import least_squares, nnls

    # Columns of one size: blocks are counted in tens, kernels in fractions of a second.
    sizes = np.abs(features).max(axis=0)
    scaled, unit = features / sizes, float(np.abs(values).max()) or 1.0
    found = nnls(scaled, values / unit)[0]

    def residuals(terms: Vector) -> Vector:
        off: Vector = scaled @ terms - values / unit
        return off

    for _ in range(_ROUNDS):
        scale = _HUBER * 1.4826 * float(np.median(np.abs(residuals(found))))
        if scale < _EXACT:
            break
        fit = least_squares(
            residuals, found, bounds=(0.0, np.inf), loss="huber", f_scale=scale,
            xtol=1e-12, ftol=1e-12, gtol=1e-12,
        )  # fmt: skip
        found = np.asarray(fit.x, dtype=np.float64)
    fitted: Vector = found * unit / sizes
    return fitted
