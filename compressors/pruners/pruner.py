"""The small interface behind which every criterion of unstructured and N:M pruning stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from paretune.compressors.quantizers.quantizer import Closure
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.choice import Sparsity
from paretune.spaces.errors import FormatError


class Pruned(NamedTuple):
    """What is left of a weight.

    Attributes:
        weight: float32 ``(rows, columns)``, zero where the mask is false; changed where the criterion updates.
        mask: bool, which weights stay.
    """

    weight: torch.Tensor
    mask: torch.Tensor


class Pruner(ABC):
    """Scores the weights of one layer; the lowest go, of each row or of a whole matrix."""

    name: str
    version: str = "1"
    closure: Closure = "layer"
    needs_statistics: bool = False
    needs_covariance: bool = False
    """Whether it reads the covariance of the layer's input."""
    needs_gradient: bool = False
    """Whether it reads the sizes of the weights' gradients."""
    updates: bool = False
    """Whether weights that stay change, to make up for those that go."""
    across_rows: bool = False
    """Whether unstructured zeros are chosen among all rows of a matrix, so that some rows lose more than others."""

    def prune(
        self, weight: torch.Tensor, sparsity: Sparsity, statistics: LayerStatistics | None = None
    ) -> Pruned:
        """The weight with its zeros; arguments and errors as of :meth:`mask`."""
        mask = self.mask(weight, sparsity, statistics)
        return Pruned(weight.to(torch.float32) * mask, mask)

    def mask(
        self, weight: torch.Tensor, sparsity: Sparsity, statistics: LayerStatistics | None = None
    ) -> torch.Tensor:
        """Which weights stay: bool ``(rows, columns)``, false where a weight becomes zero.

        Unstructured: exactly ``round(fraction * columns)`` zeros in every row, as Wanda compares weights
        within an output, or as many a row on average, where the criterion compares ``across_rows``. N:M: in every M
        consecutive columns of a row exactly half. Of equal scores the first stays.

        Args:
            weight: float ``(rows, columns)``.
            sparsity: share and pattern of zeros.
            statistics: of the layer's input.

        Raises:
            FormatError: M does not divide the columns, statistics are missing that the criterion needs, or scores
                are not finite.
        """
        self.check(statistics)
        scores = self.scores(weight.to(torch.float32), statistics)
        if not bool(torch.isfinite(scores).all()):
            raise FormatError(
                f"criterion {self.name}",
                "some scores are NaN or infinite: the weight is, or what calibration saw of its input",
                "Calibrate in float32, or prune by magnitude",
            )
        columns = weight.shape[1]
        span = pattern_span(sparsity, columns)
        if not span:
            return keep_largest(scores, columns - round(sparsity.fraction * columns), self.across_rows)
        return keep_largest(scores.reshape(-1, span), span // 2).view(weight.shape)

    def check(self, statistics: LayerStatistics | None) -> None:
        """Refuse missing statistics.

        Raises:
            FormatError: the criterion needs what is not there.
        """
        if self.needs_statistics and statistics is None:
            raise FormatError(
                f"criterion {self.name}",
                "needs statistics of the layer's input, which an embedding does not have",
                "Use magnitude there",
            )
        if self.needs_covariance and (statistics is None or statistics.covariance is None):
            raise FormatError(
                f"criterion {self.name}", "needs the covariance of the layer's input", "Use wanda there"
            )

        if self.needs_gradient and (statistics is None or statistics.gradient is None):
            raise FormatError(
                f"criterion {self.name}", "needs the gradients of the layer's weights", "Use wanda there"
            )

    @abstractmethod
    def scores(self, weight: torch.Tensor, statistics: LayerStatistics | None) -> torch.Tensor:
        """Importance of each weight, float32 ``(rows, columns)``."""


def pattern_span(sparsity: Sparsity, columns: int) -> int:
    """Columns of a group of N:M zeros, half of which stay; 0: no pattern.

    Raises:
        FormatError: they do not divide the columns.
    """
    span = 0 if sparsity.pattern == "unstructured" else int(sparsity.pattern.rpartition(":")[2])
    if span and columns % span:
        raise FormatError(
            f"pattern {sparsity.pattern} on rows of {columns}",
            f"{span} must divide the row length",
            "Use unstructured sparsity",
        )
    return span


def keep_largest(scores: torch.Tensor, count: int, across_rows: bool = False) -> torch.Tensor:
    """The ``count`` largest of each row, or as many a row on average, whatever row they are in."""
    rows, columns = scores.shape
    if across_rows:
        return keep_largest(scores.reshape(1, -1), rows * count).view(rows, columns)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(1, order[:, :count], value=True)
