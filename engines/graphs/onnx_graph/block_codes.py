"""Codes as ``MatMulNBits`` takes them: unsigned, in blocks along a row, low nibble first.

Source: the operator's definition in ONNX Runtime's ``ContribOperators.md`` (``com.microsoft.MatMulNBits``, version 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from paretune.compressors.quantizers import QuantizedWeight

BLOCKS = (256, 128, 64, 32, 16)
"""Weights that may share a scale, by the operator's kernels."""


def block_size(columns: int, group_size: int | None) -> int | None:
    """The block of the operator that divides a group; ``None`` if none does.

    A group of several blocks has their codes in the file, and its scale once: the program repeats it on loading.
    """
    group = columns if group_size is None else group_size
    return next((block for block in BLOCKS if group % block == 0), None)


@dataclass(frozen=True)
class BlockCodes:
    """One quantized matrix.

    Attributes:
        codes: uint8 ``(rows, blocks, block * bits / 8)``.
        scales: ``(rows, groups)``, in the model's dtype.
        zeros: uint8 ``(rows, ceil(groups * bits / 8))``, or ``None`` when symmetric.
        num_bits: 4 or 8.
        block: weights that share a scale in the operator; divides the group.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    num_bits: int
    block: int

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of the matrix."""
        rows = self.codes.shape[0]
        return rows, self.codes.numel() // rows * 8 // self.num_bits

    @property
    def repeats(self) -> int:
        """Blocks of a group."""
        return self.shape[1] // self.block // self.scales.shape[1]


def block_codes(weight: QuantizedWeight, num_bits: int, dtype: torch.dtype) -> BlockCodes:
    """The same numbers as ``weight``, whose group a block must divide.

    Raises:
        TypeError: no block divides the group.
    """
    import torch

    rows, columns = weight.codes.shape
    block = block_size(columns, weight.group_size)
    if block is None:
        raise TypeError(f"no block divides groups of {weight.group_size}")
    half = 1 << (num_bits - 1)
    unsigned = (weight.codes.to(torch.int16) + half).to(torch.uint8).view(rows, -1, block)
    scales = weight.scales.expand(rows, -1).to("cpu", dtype).contiguous()
    zeros = None
    if weight.zeros is not None:
        zeros = _packed((weight.zeros.to(torch.int16) + half).to(torch.uint8), num_bits).cpu()
    return BlockCodes(_packed(unsigned, num_bits).cpu(), scales, zeros, num_bits, block)


def _packed(values: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Two 4-bit numbers a byte along the last axis, the first one low; an odd one out has a zero above it."""
    if num_bits == 8:
        return values.contiguous()
    if values.shape[-1] % 2:
        import torch

        values = torch.nn.functional.pad(values, (0, 1))
    return (values[..., 0::2] | (values[..., 1::2] << 4)).contiguous()
