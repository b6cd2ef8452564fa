"""Kernels of linears by name: one line here for each, one line in the contract test."""

from __future__ import annotations

from paretune.engines.kernels.kernel import LayerWeight, LinearKernel, Operands
from paretune.spaces.registry import Registry

KERNELS: Registry[LinearKernel] = Registry(
    "kernel",
    __name__,
    {
        "fp32": "dense:FP32",
        "bf16": "dense:BF16",
        "int8-weight-only": "int8_weight_only:Int8WeightOnlyKernel",
        "int8-dynamic": "int8_dynamic:Int8DynamicKernel",
        "int4": "int4:Int4Kernel",
        "csr": "sparse_rows:SparseRowsKernel",
    },
)
find_kernel = KERNELS.find

__all__ = ["KERNELS", "LayerWeight", "LinearKernel", "Operands", "find_kernel"]
