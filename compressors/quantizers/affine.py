"""Uniform affine codes of groups of weights: the arithmetic that every integer quantizer shares.

All functions work on ``(groups, group_size)`` float32 matrices, one group a row, with scales and zeros of one
number a row. Sources: Jacob et al. 2018 (arXiv:1712.05877) for the affine map, compressed-tensors for the
range of the codes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from paretune.compressors.quantizers.blocks import from_blocks
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.spaces.formats import WeightFormat

_THREAD_WEIGHTS = 1 << 15
_GPU_WEIGHTS = 1 << 24
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def code_range(num_bits: int) -> tuple[int, int]:
    """Smallest and largest code."""
    return -(1 << (num_bits - 1)), (1 << (num_bits - 1)) - 1


def round_scales(scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Scales as they will be stored, in float32.

    A scale that is zero or too small to divide by becomes 1, under which such weights get the code of zero.
    """
    stored = scales.to(dtype).to(torch.float32)
    return torch.where(stored.abs() < _SMALLEST_SCALE, torch.ones_like(stored), stored)


def integer_zeros(bottom: torch.Tensor, scales: torch.Tensor, num_bits: int) -> torch.Tensor:
    """The code of zero when ``bottom`` (at most 0) gets the smallest code, within the range of the codes."""
    low, high = code_range(num_bits)
    return (low - bottom / scales).round_().clamp_(low, high)


def encode(
    groups: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, num_bits: int
) -> torch.Tensor:
    """Nearest codes, as whole float32 numbers: ``clamp(round(w / scale + zero))``, as compressed-tensors rounds."""
    low, high = code_range(num_bits)
    codes = groups / scales.unsqueeze(-1)
    if zeros is not None:
        codes += zeros.unsqueeze(-1)
    return codes.round_().clamp_(low, high)


def decode(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None) -> torch.Tensor:
    """``(code - zero) * scale``."""
    if zeros is None:
        return codes * scales.unsqueeze(-1)
    return (codes - zeros.unsqueeze(-1)).mul_(scales.unsqueeze(-1))


def squared_error(
    groups: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    num_bits: int,
    importance: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum of squared errors of each group, each counted by the importance of its weight."""
    difference = decode(encode(groups, scales, zeros, num_bits), scales, zeros).sub_(groups)
    counted = difference if importance is None else difference * importance
    errors: torch.Tensor = torch.linalg.vecdot(counted, difference)
    return errors


def best_offer(
    groups: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    num_bits: int,
    importance: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of several offers the scales (and zeros) of least squared error, group by group.

    The earlier offer wins a tie, so results do not depend on rounding of equal errors.

    Args:
        groups: weights, ``(groups, group_size)``.
        scales: as stored, ``(offers, groups)``.
        zeros: likewise.
        num_bits: of the codes.
        importance: of the weights, shaped as they are; ``None`` counts all the same.

    Returns:
        Scales and zeros, ``(groups,)``.
    """
    errors = torch.stack(
        [
            squared_error(groups, offer, None if zeros is None else zeros[index], num_bits, importance)
            for index, offer in enumerate(scales)
        ]
    )
    best = errors.argmin(dim=0, keepdim=True)
    return scales.gather(0, best)[0], None if zeros is None else zeros.gather(0, best)[0]


def weights_at_once(device: torch.device) -> int:
    """How many weights to handle together: temporaries fit the caches of a CPU, and fill a GPU."""
    return _THREAD_WEIGHTS * torch.get_num_threads() if device.type == "cpu" else _GPU_WEIGHTS


def chunks(groups: torch.Tensor) -> Iterator[slice]:
    """Slices over the rows of ``groups`` of :func:`weights_at_once` each."""
    step = max(1, weights_at_once(groups.device) // groups.shape[1])
    for start in range(0, len(groups), step):
        yield slice(start, min(len(groups), start + step))


def pack_result(
    shape: torch.Size,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    dtype: torch.dtype,
    weight_format: WeightFormat,
) -> QuantizedWeight:
    """Integer codes, scales (stored as ``dtype``) and zeros of blocks, in the ``shape`` of their weight."""
    rows, columns = shape
    size, tall = weight_format.group_size or columns, weight_format.block_rows or rows
    zero_dtype = dtype if weight_format.zero_point == "float" else torch.int8
    places = (-(-rows // tall), -(-columns // size))
    return QuantizedWeight(
        codes=from_blocks(codes, shape, tall, size),
        scales=scales.to(dtype).view(places),
        zeros=None if zeros is None else zeros.to(zero_dtype).view(places),
        group_size=size,
        block_rows=tall,
    )
