"""What additivity leaves unexplained: a Gaussian process on the log ratio of a measured KL to its sum of entries.

The ratio is modelled as a constant, a smooth trend along the logarithm of the sum (large perturbations do more
harm together than apart), and a correction of every entry that acts through the entry's share of the sum. The
last is Bayesian linear regression in its dual form (Rasmussen and Williams 2006, chapter 2), so its posterior
mean is a factor for every entry, under which the sum stays additive and its front stays exact.
"""

from __future__ import annotations

import numpy as np

_LEVEL = 0.7
_TREND = 0.7
_LENGTH = 1.0
"""Of the trend, in units of log sum: it may turn once in a factor of e."""
_SPREAD = 0.6
"""Log standard deviation of an entry around its prior."""
_NOISE = 0.05
_MOST_FACTOR = 3.0
"""In logarithm."""


class Residual:
    """Fitted on log sums ``(n,)``, shares of entries ``(n, entries)`` and log ratios ``(n,)``.

    Attributes:
        factors: posterior mean factor of every entry, ``(entries,)``.
    """

    def __init__(self, logs: np.ndarray, shares: np.ndarray, ratios: np.ndarray) -> None:
        kernel = _LEVEL**2 + _smooth(logs, logs) + _SPREAD**2 * (shares @ shares.T)
        kernel[np.diag_indices(len(logs))] += _NOISE**2
        self._logs = logs
        self._weights = np.linalg.solve(kernel, ratios)
        self.factors = np.exp(np.clip(_SPREAD**2 * (self._weights @ shares), -_MOST_FACTOR, _MOST_FACTOR))

    def trend(self, logs: np.ndarray) -> np.ndarray:
        """Log ratio at sums whose logarithms are ``logs`` ``(m,)``, entries' own corrections left out."""
        found: np.ndarray = (_LEVEL**2 + _smooth(logs, self._logs)) @ self._weights
        return found


def _smooth(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    difference: np.ndarray = (first[:, None] - second[None, :]) / _LENGTH
    return _TREND**2 * np.exp(-0.5 * difference**2)
