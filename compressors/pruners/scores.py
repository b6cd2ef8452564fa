"""Criteria that score each weight by itself; what stays is not changed."""

from __future__ import annotations

import torch

from paretune.compressors.pruners.pruner import Pruner
from paretune.compressors.statistics import LayerStatistics


class Magnitude(Pruner):
    """``|w|``: the smallest weights of a matrix go (Han et al. 2015, arXiv:1506.02626)."""

    name = "magnitude"
    version = "2"
    across_rows = True

    def scores(self, weight: torch.Tensor, statistics: LayerStatistics | None) -> torch.Tensor:
        """Absolute values."""
        del statistics
        return weight.abs()


class Wanda(Pruner):
    """``|w|`` times the norm of the input channel (Sun et al. 2023, arXiv:2306.11695)."""

    name = "wanda"
    needs_statistics = True

    def scores(self, weight: torch.Tensor, statistics: LayerStatistics | None) -> torch.Tensor:
        """``|w_ij| * sqrt(mean x_j^2)``; the mean instead of the sum changes no order within a row."""
        if statistics is None:
            raise ValueError("wanda needs statistics")
        return weight.abs() * statistics.second_moment.to(weight.device).sqrt()


class Taylor(Pruner):
    """``|w * dL/dw|``: what the loss changes by, to first order, when a weight goes.

    The derivative's size is averaged over windows (Molchanov et al. 2019, arXiv:1906.10771).
    """

    name = "taylor"
    version = "3"
    needs_statistics = True
    needs_gradient = True
    across_rows = True

    def scores(self, weight: torch.Tensor, statistics: LayerStatistics | None) -> torch.Tensor:
        """Size of a weight times that of its derivative."""
        if statistics is None or statistics.gradient is None:
            raise ValueError("taylor needs gradients")
        return weight.abs() * statistics.gradient.to(weight.device, torch.float32)
