"""Is one model worse than another? Paired tests on common windows and common items.

Sources: McNemar (1947) for paired right/wrong answers, in its exact binomial form; differences of means are
paired by window (DESIGN, rule 7).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paretune.spaces.errors import ConfigurationError
from paretune.spaces.schema import Frozen


class PairedDifference(Frozen):
    """Mean of ``second - first`` over common windows, its standard error, and how many there were."""

    mean: float
    stderr: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the difference exceeds two standard errors."""
        return abs(self.mean) > 2 * self.stderr


class McNemar(Frozen):
    """Exact McNemar test over items that two models answered.

    Attributes:
        only_first, only_second: items that just one of them got right.
        p_value: two-sided probability of a split at least as uneven if both were equally good.
    """

    only_first: int
    only_second: int
    p_value: float


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Compare two per-window lists of the same windows.

    Raises:
        ConfigurationError: lists of different lengths, or fewer than two windows.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ConfigurationError(
            f"{len(first)} and {len(second)} windows",
            "a paired comparison needs the same windows, at least two",
            "Read both candidates at the same fidelity",
        )
    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    return PairedDifference(
        mean=float(difference.mean()),
        stderr=float(difference.std(ddof=1) / np.sqrt(len(difference))),
        n=len(difference),
    )


def mcnemar(first: Sequence[float], second: Sequence[float]) -> McNemar:
    """The exact test on per-item scores; an item counts as right at 0.5 and above.

    Raises:
        ConfigurationError: the models answered different numbers of items.
    """
    if len(first) != len(second):
        raise ConfigurationError(
            f"{len(first)} and {len(second)} items",
            "both models must answer the same items",
            "Use the same tasks",
        )
    right_first = np.asarray(first) >= 0.5
    right_second = np.asarray(second) >= 0.5
    only_first = int((right_first & ~right_second).sum())
    only_second = int((~right_first & right_second).sum())
    return McNemar(only_first=only_first, only_second=only_second, p_value=_binomial(only_first, only_second))


def _binomial(wins: int, losses: int) -> float:
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses, 0.5).pvalue)
