"""The small interface behind which every weight quantizer stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from spaces.errors import FormatError, ModelError
from spaces.formats import WeightFormat

if TYPE_CHECKING:
    from compressors.statistics import SiteStatistics

Closure = Literal["site", "block", "model"]
"""Which sites a method touches when it is applied to one: only what is closed under swapping a site is kept
per site in the bank."""


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as the container holds it, not yet bit-packed.

    Attributes:
        codes: int8 ``(rows, columns)`` in ``[-2^(b-1), 2^(b-1) - 1]``.
        scales: ``(rows, groups)`` in the model's dtype; may be negative (the side of the extra level).
        zeros: int8 ``(rows, groups)`` in the range of the codes; ``None`` when symmetric.
        group_size: columns that share a scale.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    group_size: int

    def dequantize(self) -> torch.Tensor:
        """``(codes - zeros) * scales`` in float32, ``(rows, columns)``."""
        rows, columns = self.codes.shape
        values = self.codes.to(torch.float32).view(rows, -1, self.group_size)
        if self.zeros is not None:
            values -= self.zeros.to(torch.float32).unsqueeze(-1)
        values *= self.scales.to(torch.float32).unsqueeze(-1)
        return values.view(rows, columns)

    def rows(self, start: int, stop: int) -> QuantizedWeight:
        """The same for rows ``start`` to ``stop``: one expert of many, or one of the linears in it."""
        zeros = None if self.zeros is None else self.zeros[start:stop]
        return QuantizedWeight(self.codes[start:stop], self.scales[start:stop], zeros, self.group_size)


class Quantizer(ABC):
    """Turns the weight of one site into codes and scales.

    Implementations are deterministic, work group by group on any device and keep an exact zero exact.
    """

    name: str
    version: str = "1"
    closure: Closure = "site"
    needs_covariance: bool = False
    """Whether it reads the covariance of the site's input; without one (an embedding) inputs count as white."""
    slab_weights: int = 1 << 16
    """Weights of a site handed over at once, in whole rows; rows never depend on each other."""

    def quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        statistics: SiteStatistics | None = None,
        scale_dtype: torch.dtype = torch.bfloat16,
        site: str = "weight",
    ) -> QuantizedWeight:
        """Quantize ``weight``, float ``(rows, columns)``.

        Args:
            weight: of the linear, output rows first.
            weight_format: integer format whose group size divides the columns.
            statistics: of the site's input, for methods that need them.
            scale_dtype: that scales are rounded to before codes are chosen.
            site: name for error messages.

        Raises:
            ModelError: the weight has a NaN or an infinity.
            FormatError: the format does not fit the shape or the method.
        """
        size = self._group_size(weight, weight_format)
        weight = finite_weight(weight, site)
        return self._quantize(weight, weight_format, size, statistics, scale_dtype)

    def _group_size(self, weight: torch.Tensor, weight_format: WeightFormat) -> int:
        """Columns that share a scale; refuses what does not fit."""
        self.check_format(weight_format)
        columns = weight.shape[1]
        weight_format.groups(columns)
        return weight_format.group_size or columns

    def quantize_all(
        self,
        weight: torch.Tensor,
        formats: Sequence[WeightFormat],
        statistics: SiteStatistics | None = None,
        scale_dtype: torch.dtype = torch.bfloat16,
        site: str = "weight",
    ) -> list[QuantizedWeight]:
        """The same weight in several formats, each as :meth:`quantize` makes it; methods share what they can."""
        return [self.quantize(weight, one, statistics, scale_dtype, site) for one in formats]

    def check_format(self, weight_format: WeightFormat) -> None:
        """Refuse a format that the method cannot make.

        Raises:
            FormatError: it is not a uniform integer format with an integer zero point or none.
        """
        if weight_format.number_type != "int" or weight_format.zero_point == "float":
            raise FormatError(
                f"format {weight_format.name}",
                f"{self.name} makes integer codes with integer zero points",
                "Use an integer format",
            )
        if weight_format.actorder != "none":
            raise FormatError(
                f"format {weight_format.name}",
                f"{self.name} does not reorder columns",
                "Leave actorder out",
            )

    @abstractmethod
    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: SiteStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        """Quantize a finite, contiguous float32 weight."""


def finite_weight(weight: torch.Tensor, site: str) -> torch.Tensor:
    """Contiguous in float32; refused with the site's name if it is not finite."""
    weight = weight.to(torch.float32)
    if not bool(torch.isfinite(weight).all()):
        bad = int((~torch.isfinite(weight)).sum())
        raise ModelError(
            f"weight of {site}",
            f"{bad} of its numbers are NaN or infinite, which no code stands for",
            "Mend the checkpoint, or leave this site at 16 bits",
        )
    return weight.contiguous()
