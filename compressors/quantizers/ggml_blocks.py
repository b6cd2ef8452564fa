"""llama.cpp's formats by ggml's own quantizers: what is searched is, byte for byte, what the GGUF holds.

``ggml`` rounds like ``llama-quantize`` without an importance matrix, ``ggml-importance`` like with one: columns count
as much as the mean square of their input, which is what llama.cpp's importance matrix is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from paretune.compressors.ggml_library import expand_rows, quantize_rows
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.compressors.quantizers.quantizer import Quantizer
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.formats import NumberType, WeightFormat


@dataclass(frozen=True)
class GgmlWeight(QuantizedWeight):
    """Blocks of a ggml type in place of codes and scales.

    Attributes:
        codes: int8 ``(rows, bytes of a row)``, the bytes of the blocks.
        scales: empty; the blocks hold them.
        ggml: name of the type.
    """

    ggml: str = ""

    @classmethod
    def of(cls, blocks: torch.Tensor, name: str) -> GgmlWeight:
        """From int8 or uint8 ``(rows, bytes of a row)``."""
        return cls(blocks.view(torch.int8), blocks.new_empty(0, dtype=torch.float32), None, 0, ggml=name)

    @property
    def blocks(self) -> torch.Tensor:
        """uint8 ``(rows, bytes of a row)``, as the GGUF stores them."""
        return self.codes.view(torch.uint8)

    def dequantize(self) -> torch.Tensor:
        """In float32, ``(rows, columns)``."""
        found = expand_rows(np.ascontiguousarray(self.blocks.cpu().numpy()), self.ggml)
        return torch.from_numpy(found).to(self.codes.device)

    def rows(self, start: int, stop: int) -> GgmlWeight:
        """The same for rows ``start`` to ``stop``: blocks never leave their row."""
        return replace(self, codes=self.codes[start:stop])


class GgmlBlocks(Quantizer):
    """ggml's quantizer of a type, every column alike."""

    name = "ggml"
    number_types: tuple[NumberType, ...] = ("ggml",)
    slab_weights = 1 << 21
    weighted = False

    def _group_size(self, weight: torch.Tensor, weight_format: WeightFormat) -> int:
        self.check_format(weight_format)
        weight_format.blocks(weight.shape[1])
        return weight.shape[1]

    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: LayerStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        del group_size, scale_dtype
        importance = self._importance(weight, statistics)
        found = quantize_rows(weight.cpu().numpy(), weight_format.ggml, importance)
        return GgmlWeight.of(torch.from_numpy(found).to(weight.device), weight_format.ggml)

    def _importance(
        self, weight: torch.Tensor, statistics: LayerStatistics | None
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
        """Positive, ``(columns,)``; white where nothing was observed."""
        if not self.weighted:
            return None
        if statistics is None:
            return np.ones(weight.shape[1], np.float32)
        moments = statistics.second_moment.to(torch.float32).cpu()
        # A channel that was never active has no say, but a block of them must not divide by zero.
        least = max(float(moments.mean()) * 1e-6, 1e-30)
        return np.ascontiguousarray(moments.clamp_min(least).numpy())


class GgmlImportance(GgmlBlocks):
    """ggml's quantizer with the importance of input channels."""

    name = "ggml-importance"
    weighted = True
