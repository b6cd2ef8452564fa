"""``magnitude``: the smallest weights of a matrix go (Han et al. 2015, arXiv:1506.02626)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paretune.compressors.pruners.pruner import Pruner

if TYPE_CHECKING:
    from paretune.compressors.statistics import LayerStatistics


class Magnitude(Pruner):
    """``|w|``."""

    name = "magnitude"
    version = "2"
    across_rows = True

    def scores(self, weight: torch.Tensor, statistics: LayerStatistics | None) -> torch.Tensor:
        """Absolute values."""
        del statistics
        return weight.abs()
