"""``int8-weight-only``: 8-bit codes multiplied by bf16 inputs, scaled by row and group.

``torch._weight_int8pack_mm`` (bf16 inputs; its float32 variant is a reference loop, twenty times slower) has
one scale a row. Groups are products of their own, summed in float32; a zero point costs one more small
product: ``sum_g s_g (c_g - z_g) x_g = sum_g s_g c_g x_g - sum_g (s_g z_g) sum(x_g)``.
"""

from __future__ import annotations

import torch

from paretune.engines.kernels.kernel import LayerWeight, LinearKernel, Operands
from paretune.engines.selection import int8_refusal


class Int8WeightOnlyKernel(LinearKernel):
    """Any group size, with or without zero points. Scales are rounded to bf16, inputs too."""

    name = "int8-weight-only"
    tolerance = 1e-2

    def refusal(self, n: int, k: int, group_size: int | None) -> str:
        """Refuse groups that are not whole vectors: the kernel reads beyond the end of others."""
        del n
        return int8_refusal(k, group_size)

    def pack(self, weight: LayerWeight) -> Operands:
        """``codes`` int8 ``(groups, n, group_size)``, ``scales`` bf16 ``(groups, n)``, ``shifts`` likewise.

        ``shifts`` (scale times zero point, float32) are there only with zero points.
        """
        found = weight.codes(self.name)
        rows, columns = found.codes.shape
        codes = found.codes.view(rows, columns // found.group_size, -1).permute(1, 0, 2).contiguous()
        scales = found.scales.to(torch.float32).t().to(torch.bfloat16)
        if found.zeros is None:
            return {"codes": codes, "scales": scales.contiguous()}
        zeros = found.zeros.t()
        # A group of zeros may have any scale: 0 keeps two large products from cancelling inexactly.
        scales = scales * (codes != zeros.unsqueeze(-1)).any(dim=-1)
        shifts = scales.to(torch.float32) * zeros
        return {"codes": codes, "scales": scales.contiguous(), "shifts": shifts.contiguous()}

    def run(self, inputs: torch.Tensor, operands: Operands) -> torch.Tensor:
        """See :meth:`LinearKernel.run`."""
        codes, scales = operands["codes"], operands["scales"]
        groups = codes.shape[0]
        rounded = inputs.to(torch.bfloat16)
        if groups == 1:
            product = torch._weight_int8pack_mm(rounded, codes[0], scales[0]).to(torch.float32)
        else:
            parts = rounded.view(len(inputs), groups, -1).transpose(0, 1).contiguous()
            product = torch._weight_int8pack_mm(parts[0], codes[0], scales[0]).to(torch.float32)
            for group in range(1, groups):
                product += torch._weight_int8pack_mm(parts[group], codes[group], scales[group])
        if "shifts" in operands:
            sums = rounded.to(torch.float32).view(len(inputs), groups, -1).sum(dim=-1)
            product.addmm_(sums, operands["shifts"], alpha=-1)
        return product.to(inputs.dtype)

    @staticmethod
    def rows(ids: torch.Tensor, operands: Operands) -> torch.Tensor:
        """Dequantized rows ``(*ids.shape, k)`` in float32: the look-up of an embedding that is stored so."""
        flat = ids.reshape(-1)
        found = operands["codes"][:, flat].to(torch.float32) * operands["scales"][:, flat, None]
        if "shifts" in operands:
            found -= operands["shifts"][:, flat, None]
        return found.transpose(0, 1).reshape(*ids.shape, -1)
