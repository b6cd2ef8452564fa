"""``csr``: compressed sparse rows, for weights with many zeros at no particular place (MKL through torch)."""

from __future__ import annotations

import warnings

import torch

from paretune.engines.kernels.kernel import LayerWeight, LinearKernel, Operands


class SparseRowsKernel(LinearKernel):
    """Float32 values with int32 column indices: 8 bytes for each weight that is not zero."""

    name = "csr"
    tolerance = 1e-5

    def pack(self, weight: LayerWeight) -> Operands:
        """``matrix``, a sparse ``(n, k)``."""
        dense = weight.values()
        kept = dense != 0
        offsets = torch.zeros(len(dense) + 1, dtype=torch.int32)
        offsets[1:] = kept.sum(dim=1).cumsum(dim=0)
        columns = kept.nonzero()[:, 1].to(torch.int32)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
            warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")
            matrix = torch.sparse_csr_tensor(
                offsets, columns, dense[kept], size=tuple(dense.shape), check_invariants=True
            )
        return {"matrix": matrix}

    def run(self, inputs: torch.Tensor, operands: Operands) -> torch.Tensor:
        """See :meth:`LinearKernel.run`."""
        exact = inputs.to(torch.float32)
        if len(exact) == 1:
            return torch.mv(operands["matrix"], exact[0]).unsqueeze(0).to(inputs.dtype)
        return (operands["matrix"] @ exact.t()).t().to(inputs.dtype)
