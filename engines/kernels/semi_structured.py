"""``2:4``: two of four weights of a row, packed as torch's CUDA kernels take them (cuSPARSELt or CUTLASS).

A GPU computes with half of the weights, which pays where arithmetic is the limit: on an H200 0.47 ms against 0.71 ms of
bf16 for 14336 x 4096 at 4,096 rows, but 0.57 ms against 0.04 ms at one row, where starting the kernel is all. So no
layer is given this kernel by itself.
"""

from __future__ import annotations

import warnings

import torch

from paretune.engines.kernels.kernel import LayerWeight, LinearKernel, Operands
from paretune.spaces.errors import EngineError

_ROWS, _COLUMNS = 32, 64
"""What both of torch's back ends can tile in bf16."""


class SemiStructuredKernel(LinearKernel):
    """bf16 products; half the weights and two bits for each of them."""

    name = "2:4"
    device = "cuda"
    tolerance = 1e-2

    def refusal(self, n: int, k: int, group_size: int | None) -> str:
        """Shapes that cannot be tiled, and groups: values are dense."""
        if group_size is not None:
            return "the 2:4 kernel multiplies dense values, not codes"
        if n % _ROWS or k % _COLUMNS:
            return f"the 2:4 kernel needs {_ROWS} rows by {_COLUMNS} columns to divide {n} x {k}"
        return ""

    def pack(self, weight: LayerWeight) -> Operands:
        """``matrix``, semi-structured ``(n, k)``, on the GPU.

        Raises:
            EngineError: more than two of four weights are not zero, the shape cannot be tiled, or there is no GPU.
        """
        dense = weight.values()
        reason = self.refusal(dense.shape[0], dense.shape[1], None)
        if not reason and not is_two_of_four(dense):
            reason = "more than two of four weights are not zero"
        if not reason and not torch.cuda.is_available():
            reason = "torch finds no CUDA device"
        if reason:
            raise EngineError(f"a weight of {tuple(dense.shape)} for kernel 2:4", reason, "Use kernel bf16")
        with warnings.catch_warnings():
            # Torch calls the class a prototype, once; the exact torch version is part of a measurement anyway.
            warnings.filterwarnings("ignore", message=".*SparseSemiStructuredTensor is in prototype")
            matrix = torch.sparse.to_sparse_semi_structured(dense.to("cuda", torch.bfloat16).contiguous())
        return {"matrix": matrix}

    def run(self, inputs: torch.Tensor, operands: Operands) -> torch.Tensor:
        """See :meth:`LinearKernel.run`."""
        found: torch.Tensor = torch.nn.functional.linear(inputs.to(torch.bfloat16), operands["matrix"])
        return found.to(inputs.dtype)


def is_two_of_four(dense: torch.Tensor) -> bool:
    """Whether at most two of every four neighbours in a row are not zero."""
    return bool(((dense != 0).view(-1, 4).sum(dim=1) <= 2).all())
