"""``taylor``: what the loss changes by, to first order, when a weight goes.

Molchanov et al. 2019 (arXiv:1906.10771).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paretune.compressors.pruners.pruner import Pruner

if TYPE_CHECKING:
    from paretune.compressors.statistics import LayerStatistics


class Taylor(Pruner):
    """``|w * dL/dw|``, the derivative's size averaged over windows."""

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
