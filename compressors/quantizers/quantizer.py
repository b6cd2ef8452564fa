"""The small interface behind which every weight quantizer stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch

from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.errors import FormatError, ModelError
from paretune.spaces.formats import Codebook, NumberType, WeightFormat, ZeroPoint

Closure = Literal["layer", "block", "model"]
"""Which layers a method touches when it is applied to one: only what is closed under swapping a layer is kept
per layer in the bank."""


class Quantizer(ABC):
    """Turns the weight of one layer into codes and scales.

    Implementations are deterministic, work group by group on any device and keep an exact zero exact.
    """

    name: str
    version: str = "1"
    closure: Closure = "layer"
    needs_covariance: bool = False
    """Whether it reads the covariance of the layer's input; without one (an embedding) inputs count as white."""
    number_types: tuple[NumberType, ...] = ("int",)
    """Number types of the formats that it makes."""
    codebooks: tuple[Codebook, ...] = ("none",)
    """Codebooks of the formats that it makes."""
    zero_points: tuple[ZeroPoint, ...] = ("int",)
    """Zero points of the asymmetric formats that it makes."""
    shares_rows: bool = False
    """Whether it makes formats whose scales belong to several rows."""
    shares_formats: bool = False
    """Whether several formats of one weight made together take less than one after the other."""
    slab_weights: int = 1 << 16
    """Weights of a layer handed over at once, in whole rows; rows never depend on each other."""

    def quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        statistics: LayerStatistics | None = None,
        scale_dtype: torch.dtype = torch.bfloat16,
        layer: str = "weight",
    ) -> QuantizedWeight:
        """Quantize ``weight``, float ``(rows, columns)``.

        Args:
            weight: of the linear, output rows first.
            weight_format: whose group size divides the columns.
            statistics: of the layer's input, for methods that need them.
            scale_dtype: that scales are rounded to before codes are chosen.
            layer: name for error messages.

        Raises:
            ModelError: the weight has a NaN or an infinity.
            FormatError: the format does not fit the shape or the method.
        """
        size = self._group_size(weight, weight_format)
        weight = finite_weight(weight, layer)
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
        statistics: LayerStatistics | None = None,
        scale_dtype: torch.dtype = torch.bfloat16,
        layer: str = "weight",
    ) -> list[QuantizedWeight]:
        """The same weight in several formats, each as :meth:`quantize` makes it; methods share what they can."""
        return [self.quantize(weight, one, statistics, scale_dtype, layer) for one in formats]

    def check_format(self, weight_format: WeightFormat) -> None:
        """Refuse a format that the method cannot make.

        Raises:
            FormatError: its numbers, its codebook, its zero point or its blocks are not the method's.
        """
        if weight_format.dense or weight_format.number_type not in self.number_types:
            self._refuse(weight_format, f"makes codes of type {' or '.join(self.number_types)}")
        if weight_format.codebook not in self.codebooks:
            self._refuse(weight_format, f"knows codebooks {', '.join(self.codebooks)}")
        if weight_format.zero_point not in ("none", *self.zero_points):
            self._refuse(weight_format, "makes integer zero points")
        if weight_format.actorder != "none":
            self._refuse(weight_format, "does not name an order of columns")
        if weight_format.block_rows != 1 and not self.shares_rows:
            self._refuse(weight_format, "gives every row scales of its own")

    def _refuse(self, weight_format: WeightFormat, rule: str) -> None:
        raise FormatError(
            f"format {weight_format.name}", f"{self.name} {rule}", "Use another format, or the method rtn"
        )

    @abstractmethod
    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: LayerStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        """Quantize a finite, contiguous float32 weight."""


def finite_weight(weight: torch.Tensor, layer: str) -> torch.Tensor:
    """Contiguous in float32; refused with the layer's name if it is not finite."""
    weight = weight.to(torch.float32)
    if not bool(torch.isfinite(weight).all()):
        bad = int((~torch.isfinite(weight)).sum())
        raise ModelError(
            f"weight of {layer}",
            f"{bad} of its numbers are NaN or infinite, which no code stands for",
            "Mend the checkpoint, or leave this layer at 16 bits",
        )
    return weight.contiguous()
