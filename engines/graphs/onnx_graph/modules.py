"""Modules in the place of a model's own that become operations of ONNX Runtime when they are exported."""

from __future__ import annotations

import torch

from paretune.engines.graphs.onnx_graph.block_codes import BlockCodes

_FLOAT32_PRODUCTS = 1
"""``accuracy_level``: 4 would round inputs to 8 bits."""


class HeldCodes(torch.nn.Module):
    """Codes, scales and zero points of one matrix; a tied pair has one of it.

    Args:
        found: of the matrix.
    """

    def __init__(self, found: BlockCodes) -> None:
        super().__init__()
        self.num_bits, self.block, self.repeats = found.num_bits, found.block, found.repeats
        self.rows, self.columns = found.shape
        self.groups = found.scales.shape[1]
        self.asymmetric = found.zeros is not None
        self.register_buffer("codes", found.codes)
        self.register_buffer("scales", found.scales)
        self.register_buffer("zeros", found.zeros)

    def block_scales(self) -> torch.Tensor:
        """Float32, a scale a block: ``(rows, blocks)``."""
        scales: torch.Tensor = self.get_buffer("scales").float()
        return scales if self.repeats == 1 else scales.repeat_interleave(self.repeats, dim=1)

    def block_zeros(self) -> torch.Tensor:
        """Zero points, one a block, packed as the operator reads them."""
        zeros: torch.Tensor = self.get_buffer("zeros")
        if self.repeats == 1:
            return zeros
        if self.num_bits == 8:
            return zeros.repeat_interleave(self.repeats, dim=1)
        # Arithmetic, not shifts: those of bytes are traced into a graph whose types disagree.
        both = zeros.int()
        halves = torch.stack((both % 16, both // 16), dim=-1).flatten(1)[:, : self.groups]
        repeated = halves.repeat_interleave(self.repeats, dim=1)
        if repeated.shape[1] % 2:
            repeated = torch.nn.functional.pad(repeated, (0, 1))
        return (repeated[:, 0::2] + repeated[:, 1::2] * 16).to(torch.uint8)


class BlockLinear(torch.nn.Module):
    """``(..., k)`` to ``(..., n)`` through ``MatMulNBits``.

    Args:
        held: codes of the ``(n, k)`` weight.
        bias: as the replaced module has it, or ``None``.
    """

    def __init__(self, held: HeldCodes, bias: torch.nn.Parameter | None) -> None:
        super().__init__()
        self.held = held
        self.bias = bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Exported, not run."""
        held = self.held
        operands = [inputs, held.get_buffer("codes"), held.block_scales()]
        if held.asymmetric:
            operands.append(held.block_zeros())
        product: torch.Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            operands,
            {
                "K": held.columns,
                "N": held.rows,
                "bits": held.num_bits,
                "block_size": held.block,
                "accuracy_level": _FLOAT32_PRODUCTS,
            },
            dtype=torch.float32,
            shape=(*inputs.shape[:-1], held.rows),
            version=1,
        )
        return product if self.bias is None else product + self.bias


class BlockEmbedding(torch.nn.Module):
    """Rows of 8-bit codes, dequantized when they are looked up.

    Args:
        held: codes of the table.
        factor: that the model multiplies embeddings by (Gemma), or ``None``.
    """

    def __init__(self, held: HeldCodes, factor: torch.Tensor | None) -> None:
        super().__init__()
        self.held = held
        self.factor = factor

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 ``(...)`` to float32 ``(..., k)``."""
        held = self.held
        zeros = held.get_buffer("zeros")[ids].float().unsqueeze(-1) if held.asymmetric else 128.0
        codes = held.get_buffer("codes")[ids].float().reshape(*ids.shape, held.groups, -1)
        rows = (codes - zeros) * held.get_buffer("scales")[ids].float().unsqueeze(-1)
        rows = rows.reshape(*ids.shape, held.columns)
        return rows if self.factor is None else rows * self.factor.to(rows.dtype)
