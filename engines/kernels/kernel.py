"""The small interface behind which every kernel of a linear stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from paretune.compressors.quantizers import QuantizedWeight
from paretune.spaces.errors import EngineError

Operands = dict[str, torch.Tensor]
"""What a kernel reads besides its input."""


@dataclass(frozen=True)
class LayerWeight:
    """A weight for a kernel to pack: dense float32 ``(n, k)``, or codes with scales; exactly one of both."""

    dense: torch.Tensor | None = None
    quantized: QuantizedWeight | None = None

    def values(self) -> torch.Tensor:
        """The float32 ``(n, k)`` that it stands for."""
        if self.quantized is not None:
            return self.quantized.dequantize()
        if self.dense is None:
            raise EngineError("a weight of nothing", "must have dense values or codes", "Give one of both")
        return self.dense.to(torch.float32)

    def codes(self, kernel: str) -> QuantizedWeight:
        """Codes and scales, for kernels that need them."""
        if self.quantized is None:
            raise EngineError(
                f"a dense weight for kernel {kernel}", "it multiplies integer codes", "Quantize the layer"
            )
        return self.quantized


class LinearKernel(ABC):
    """Multiplies ``(m, k)`` inputs by the transpose of an ``(n, k)`` weight. Has no state of its own.

    Attributes:
        name: as in :attr:`paretune.engines.operation.Operation.kernel`.
        tolerance: Frobenius norm of the error over that of the result, against float32 arithmetic on
            :meth:`LayerWeight.values` (and on inputs rounded as the kernel's format says).
    """

    name: str
    tolerance: float

    def refusal(self, n: int, k: int, group_size: int | None) -> str:
        """Why a weight of this shape and group size cannot be packed; empty if it can."""
        del n, k, group_size
        return ""

    @abstractmethod
    def pack(self, weight: LayerWeight) -> Operands:
        """The weight as the kernel reads it."""

    @abstractmethod
    def run(self, inputs: torch.Tensor, operands: Operands) -> torch.Tensor:
        """``(m, k)`` to ``(m, n)``, in the dtype of ``inputs``."""
