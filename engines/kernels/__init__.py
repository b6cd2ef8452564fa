"""Kernels of linears by name: one file each, one line here, one line in the contract test."""

from __future__ import annotations

from engines.kernels.dense import DenseKernel
from engines.kernels.int4 import Int4Kernel
from engines.kernels.int8_dynamic import Int8DynamicKernel
from engines.kernels.int8_weight_only import Int8WeightOnlyKernel
from engines.kernels.kernel import LinearKernel, Operands, SiteWeight
from engines.kernels.semi_structured import SemiStructuredKernel
from engines.kernels.sparse_rows import SparseRowsKernel
from spaces.errors import UnknownNameError

KERNELS: dict[str, LinearKernel] = {
    kernel.name: kernel
    for kernel in (
        DenseKernel("fp32"),
        DenseKernel("bf16"),
        Int8WeightOnlyKernel(),
        Int8DynamicKernel(),
        Int4Kernel(),
        SparseRowsKernel(),
        SemiStructuredKernel(),
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


__all__ = ["KERNELS", "LinearKernel", "Operands", "SiteWeight", "find_kernel"]
