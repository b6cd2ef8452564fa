"""``weighted``: round to nearest in the range of least error, each weight's counted by the mean square of its input.

The diagonal of the layer's Hessian, which statistics hold anyway, in place of equal weights: the idea of llama.cpp's
importance matrix (ggml-org/llama.cpp, pull request 4861) for plain scales. Without statistics it is ``rtn``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paretune.compressors.quantizers.importance import importances
from paretune.compressors.quantizers.nearest import RoundToNearest

if TYPE_CHECKING:
    from paretune.compressors.statistics import LayerStatistics


class Weighted(RoundToNearest):
    """``rtn`` with a better notion of error; touches nothing but its own layer."""

    name = "weighted"
    number_types = ("int",)
    codebooks = ("none",)

    def importance(self, weight: torch.Tensor, statistics: LayerStatistics | None) -> torch.Tensor | None:
        """Of the input channels; the same for all where nothing was observed."""
        return None if statistics is None else importances(weight, statistics)
