"""``sparsegpt``: weights go column by column, each loss made up for by the columns still to come.

Frantar and Alistarh 2023 (arXiv:2301.00774): with H the covariance of the inputs and d the diagonal of the upper
Cholesky factor of H^-1, the weights of least ``w^2 / d^2`` go, chosen anew every 128 columns among all rows (for N:M:
in every M of a row), and their error is spread over the columns behind them. Columns keep their order, so that N:M
groups are those of the row.
"""

from __future__ import annotations

import torch

from paretune.compressors.pruners.pruner import Pruned, Pruner, keep_largest, pattern_span
from paretune.compressors.quantizers.gptq import shared_factor
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.choice import Sparsity

_BLOCK = 128


class SparseGpt(Pruner):
    """Second-order pruning with an update of what stays."""

    name = "sparsegpt"
    version = "3"
    needs_statistics = True
    needs_covariance = True
    updates = True
    across_rows = True

    def mask(
        self, weight: torch.Tensor, sparsity: Sparsity, statistics: LayerStatistics | None = None
    ) -> torch.Tensor:
        """See :meth:`Pruner.mask`."""
        return self.prune(weight, sparsity, statistics).mask

    def scores(self, weight: torch.Tensor, statistics: LayerStatistics | None) -> torch.Tensor:
        """``w^2 / d^2`` of the weight as it is; the choice itself looks at updated weights."""
        self.check(statistics)
        return (weight / _curvature(statistics, weight.device)[1].diagonal()).square()

    def prune(
        self, weight: torch.Tensor, sparsity: Sparsity, statistics: LayerStatistics | None = None
    ) -> Pruned:
        """See :meth:`Pruner.prune`."""
        self.check(statistics)
        span = pattern_span(sparsity, weight.shape[1])
        dead, factor = _curvature(statistics, weight.device)
        left = weight.to(torch.float32).clone()
        left[:, dead] = 0.0  # they do nothing, and the damped factor would have them compete
        return _sweep(left, sparsity.fraction, span, factor)


def _curvature(statistics: LayerStatistics | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels that never fired, and the upper factor of the damped inverse covariance in the order of the row."""
    if statistics is None or statistics.covariance is None:
        raise TypeError("checked before")
    dead = (statistics.covariance.diagonal() <= 0).to(device)
    return dead, shared_factor(statistics, device, ordered=False)[1]


def _sweep(left: torch.Tensor, fraction: float, span: int, factor: torch.Tensor) -> Pruned:
    """Column by column; ``left`` is changed.

    Args:
        left: float32 ``(rows, columns)``.
        fraction: of zeros, of a row on average, exactly rounded over the blocks.
        span: columns of an N:M group; 0: unstructured.
        factor: upper, ``(columns, columns)``.
    """
    columns, diagonal = left.shape[1], factor.diagonal()
    mask = torch.ones(left.shape, dtype=torch.bool, device=left.device)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        if not span:
            gone = round(fraction * stop) - round(fraction * start)
            scores = (left[:, start:stop] / diagonal[start:stop]).square()
            mask[:, start:stop] = keep_largest(scores, stop - start - gone, across_rows=True)
        errors = torch.empty_like(left[:, start:stop])
        for column in range(start, stop):
            if span and column % span == 0:
                end = column + span
                scores = (left[:, column:end] / diagonal[column:end]).square()
                mask[:, column:end] = keep_largest(scores, span - round(fraction * span))
            error = torch.where(mask[:, column], 0.0, left[:, column]) / diagonal[column]
            left[:, column:stop].addr_(error, factor[column, column:stop], alpha=-1.0)
            errors[:, column - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return Pruned(left * mask, mask)
