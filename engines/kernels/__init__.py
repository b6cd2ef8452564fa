"""Kernels of linears by name: one file each, one line here, one line in the contract test."""

from __future__ import annotations

from paretune.engines.kernels.dense import DenseKernel
from paretune.engines.kernels.int4 import Int4Kernel
from paretune.engines.kernels.int8_dynamic import Int8DynamicKernel
from paretune.engines.kernels.int8_weight_only import Int8WeightOnlyKernel
from paretune.engines.kernels.kernel import LayerWeight, LinearKernel, Operands
from paretune.engines.kernels.sparse_rows import SparseRowsKernel
from paretune.spaces.errors import UnknownNameError

KERNELS: dict[str, LinearKernel] = {
    kernel.name: kernel
    for kernel in (
        DenseKernel("fp32"),
        DenseKernel("bf16"),
        Int8WeightOnlyKernel(),
        Int8DynamicKernel(),
        Int4Kernel(),
        SparseRowsKernel(),
    )
}


def find_kernel(name: str) -> LinearKernel:
    """The kernel called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in KERNELS:
        raise UnknownNameError("kernel", name, KERNELS)
    return KERNELS[name]


__all__ = ["KERNELS", "LayerWeight", "LinearKernel", "Operands", "find_kernel"]
