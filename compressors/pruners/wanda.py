"""``wanda``: weights by activations (Sun et al. 2023, arXiv:2306.11695)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paretune.compressors.pruners.pruner import Pruner

if TYPE_CHECKING:
    from paretune.compressors.statistics import LayerStatistics


class Wanda(Pruner):
    """``|w|`` times the norm of the input channel."""

    name = "wanda"
    needs_statistics = True

    def scores(self, weight: torch.Tensor, statistics: LayerStatistics | None) -> torch.Tensor:
        """``|w_ij| * sqrt(mean x_j^2)``; the mean instead of the sum changes no order within a row."""
        if statistics is None:
            raise ValueError("wanda needs statistics")
        return weight.abs() * statistics.second_moment.to(weight.device).sqrt()
