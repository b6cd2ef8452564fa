"""``fp32`` and ``bf16``: the dense product that torch has on every device."""

from __future__ import annotations

import torch

from paretune.engines.kernels.kernel import LayerWeight, LinearKernel, Operands

_DTYPES = {"fp32": (torch.float32, 1e-5), "bf16": (torch.bfloat16, 1e-2)}


class DenseKernel(LinearKernel):
    """Weights, inputs and results in one floating-point type; bf16 sums in float32.

    Args:
        name: ``fp32`` or ``bf16``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype, self.tolerance = _DTYPES[name]

    def pack(self, weight: LayerWeight) -> Operands:
        """``weight`` ``(n, k)``."""
        return {"weight": weight.values().to(self.dtype).contiguous()}

    def run(self, inputs: torch.Tensor, operands: Operands) -> torch.Tensor:
        """See :meth:`LinearKernel.run`."""
        product = torch.nn.functional.linear(inputs.to(self.dtype), operands["weight"])
        return product.to(inputs.dtype)


FP32, BF16 = DenseKernel("fp32"), DenseKernel("bf16")
