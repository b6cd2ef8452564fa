"""A quantized weight as containers hold it, before its codes are packed into bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from paretune.spaces.errors import FormatError


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes, and what turns them into numbers: ``(number of the code - zero) * scale``.

    Attributes:
        codes: int8 ``(rows, columns)`` in ``[-2^(b-1), 2^(b-1) - 1]``; for E4M3 its bits.
        scales: ``(scale rows, groups)`` in the dtype they are stored in; may be negative (the side of the extra level).
        zeros: shaped as the scales; int8 in the range of the codes, or in the dtype of scales (float zero points);
            ``None`` when symmetric.
        group_size: columns that share a scale.
        block_rows: rows that share a scale.
        levels: numbers of the codes from the smallest code up, ``(1, 2^b)`` or as many rows as there are matrices or
            rows; ``None``: a code is a whole number, or E4M3.
        float8: whether codes are E4M3.
        global_scales: float32 ``(matrices,)`` that the scales of a matrix are divided by.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    group_size: int
    block_rows: int = 1
    levels: torch.Tensor | None = None
    float8: bool = False
    global_scales: torch.Tensor | None = None

    def dequantize(self) -> torch.Tensor:
        """In float32, ``(rows, columns)``."""
        rows, columns = self.codes.shape
        values, scales = self._numbers(), self.effective_scales()
        if self.block_rows != 1 or columns % self.group_size:
            wide = scales.repeat_interleave(self.block_rows, dim=0)[:rows]
            zeros = self.zeros
            if zeros is not None:
                shifts = zeros.to(torch.float32).repeat_interleave(self.block_rows, dim=0)[:rows]
                values -= shifts.repeat_interleave(self.group_size, dim=1)[:, :columns]
            return values.mul_(wide.repeat_interleave(self.group_size, dim=1)[:, :columns])
        values = values.view(rows, -1, self.group_size)
        if self.zeros is not None:
            values -= self.zeros.to(torch.float32).unsqueeze(-1)
        values *= scales.unsqueeze(-1)
        return values.view(rows, columns)

    def effective_scales(self) -> torch.Tensor:
        """What numbers are multiplied by, float32, shaped as the scales."""
        scales = self.scales.to(torch.float32)
        if self.global_scales is None:
            return scales
        return scales / self.global_scales.repeat_interleave(
            len(scales) // len(self.global_scales)
        ).unsqueeze(-1)

    def _numbers(self) -> torch.Tensor:
        if self.float8:
            return self.codes.view(torch.float8_e4m3fn).to(torch.float32)
        if self.levels is None:
            return self.codes.to(torch.float32)
        half = self.levels.shape[1] // 2
        if len(self.levels) == 1:
            return self.levels[0].to(torch.float32)[self.codes.to(torch.int32) + half]
        rows = self.codes.view(len(self.levels), -1).to(torch.int64) + half
        return self.levels.to(torch.float32).gather(1, rows).view(self.codes.shape)

    def to(self, device: torch.device) -> QuantizedWeight:
        """The same on another device."""
        found: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **found)

    def rows(self, start: int, stop: int) -> QuantizedWeight:
        """The same for rows ``start`` to ``stop``: one expert of many, or one of the linears in it.

        Rows of one block alone are a block of their own, under the scale that they had.

        Raises:
            FormatError: the rows begin or end inside a block that shares a scale, and lie in another one too.
        """
        size = self.block_rows
        alone = start // size == (stop - 1) // size
        if not alone and (start % size or (stop % size and stop != len(self.codes))):
            raise FormatError(
                f"rows {start} to {stop}",
                f"cut a block of {size} rows",
                "Use a format with scales of every row",
            )
        first, last = start // size, -(-stop // size)
        zeros = None if self.zeros is None else self.zeros[first:last]
        return QuantizedWeight(
            self.codes[start:stop],
            self.scales[first:last],
            zeros,
            self.group_size,
            stop - start if alone else size,
            self._shared(self.levels, start, stop),
            self.float8,
            self._shared(self.global_scales, start, stop),
        )

    def _shared(self, values: torch.Tensor | None, start: int, stop: int) -> torch.Tensor | None:
        """The part of what whole matrices (or rows) have one of."""
        if values is None or len(values) == 1:
            return values
        size = len(self.codes) // len(values)
        return values[start // size : -(-stop // size)]


def join_rows(parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Integer weights of one format with scales of every row, one below the other, as the bank keeps experts."""
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return QuantizedWeight(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat(zeros) if zeros else None,
        parts[0].group_size,
    )
