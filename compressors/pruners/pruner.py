"""The small interface behind which every criterion of unstructured and N:M pruning stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from compressors.quantizers.quantizer import Closure
from spaces.choice import Sparsity
from spaces.errors import FormatError

if TYPE_CHECKING:
    from compressors.statistics import SiteStatistics


class Pruner(ABC):
    """Scores the weights of one site; the lowest go, row by row."""

    name: str
    version: str = "1"
    closure: Closure = "site"
    needs_statistics: bool = False

    def mask(
        self, weight: torch.Tensor, sparsity: Sparsity, statistics: SiteStatistics | None = None
    ) -> torch.Tensor:
        """Which weights stay: bool ``(rows, columns)``, false where a weight becomes zero.

        Unstructured: exactly ``round(fraction * columns)`` zeros in every row, as Wanda compares weights
        within an output. N:M: in every M consecutive columns of a row exactly half. Of equal scores the first
        stays.

        Args:
            weight: float ``(rows, columns)``.
            sparsity: share and pattern of zeros.
            statistics: of the site's input.

        Raises:
            FormatError: M does not divide the columns, or statistics are missing that the criterion needs.
        """
        if self.needs_statistics and statistics is None:
            raise FormatError(
                f"criterion {self.name}",
                "needs statistics of the site's input, which an embedding does not have",
                "Use magnitude there",
            )
        scores = self.scores(weight.to(torch.float32), statistics)
        if sparsity.pattern == "unstructured":
            return _keep(scores, weight.shape[1] - round(sparsity.fraction * weight.shape[1]))
        kept, size = (int(part) for part in sparsity.pattern.split(":"))
        rows, columns = weight.shape
        if columns % size:
            raise FormatError(
                f"pattern {sparsity.pattern} on rows of {columns}",
                f"{size} must divide the row length",
                "Use unstructured sparsity",
            )
        return _keep(scores.reshape(-1, size), kept).view(rows, columns)

    @abstractmethod
    def scores(self, weight: torch.Tensor, statistics: SiteStatistics | None) -> torch.Tensor:
        """Importance of each weight, float32 ``(rows, columns)``."""


def _keep(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` largest of each row."""
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(1, order[:, :count], value=True)
