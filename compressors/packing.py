"""Codes at their true width: ``b`` bits each, in planes of 4, 2 and 1 bits.

A code of 3 bits is a plane of 2 and one of 1, of 5 bits one of 4 and one of 1, of 6 bits one of 4 and one of
2; a plane of ``w`` bits holds ``8 / w`` codes a byte, so that packing and unpacking are a few shifts of whole
tensors. This is the bank's own layout; the export writes that of compressed-tensors.
"""

from __future__ import annotations

import torch

_PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def code_planes(num_bits: int) -> tuple[int, ...]:
    """Bits of the planes of a code, the highest first; each begins at a whole byte."""
    return _PLANES[num_bits]


def packed_code_bytes(count: int, num_bits: int) -> int:
    """Bytes of ``count`` packed codes."""
    return sum(-(-count * width // 8) for width in _PLANES[num_bits])


class CodePacker:
    """Packs ``count`` codes slab by slab into :attr:`packed`, allocated once."""

    def __init__(self, num_bits: int, count: int) -> None:
        self._num_bits = num_bits
        self._count = count
        self.packed = torch.empty(packed_code_bytes(count, num_bits), dtype=torch.uint8)
        widths = _PLANES[num_bits]
        starts = [sum(-(-count * width // 8) for width in widths[:index]) for index in range(len(widths))]
        self._planes = list(zip(widths, starts, strict=True))
        self._added = 0
        self._rest = torch.empty(0, dtype=torch.uint8)

    def add(self, codes: torch.Tensor) -> None:
        """Append signed codes of any shape."""
        # Two's complement plus half the range is the unsigned code, modulo 256.
        values = codes.reshape(-1).view(torch.uint8) + (1 << (self._num_bits - 1))
        if len(self._rest):
            values = torch.cat([self._rest.to(values.device), values])
        if self._added + len(values) < self._count:
            # Planes meet at whole bytes only, so what does not fill one waits for the next slab.
            whole = len(values) // 8 * 8
            values, self._rest = values[:whole], values[whole:].clone()
        shift = self._num_bits
        for width, plane in self._planes:
            shift -= width
            start = plane + self._added * width // 8
            packed = _pack_plane((values >> shift) & ((1 << width) - 1), width)
            self.packed[start : start + len(packed)] = packed
        self._added += len(values)


def pack_codes(codes: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Signed codes of any shape as one uint8 vector of :func:`packed_code_bytes` bytes."""
    packer = CodePacker(num_bits, codes.numel())
    packer.add(codes)
    return packer.packed


def unpack_codes(packed: torch.Tensor, num_bits: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The int8 codes of ``shape`` that :func:`pack_codes` packed."""
    count = 1
    for extent in shape:
        count *= extent
    values = torch.zeros(count, dtype=torch.uint8, device=packed.device)
    shift, start = num_bits, 0
    for width in _PLANES[num_bits]:
        shift -= width
        stop = start - (-count * width // 8)
        values |= _unpack_plane(packed[start:stop], width, count) << shift
        start = stop
    return (values - (1 << (num_bits - 1))).view(torch.int8).view(shape)


def _pack_plane(values: torch.Tensor, width: int) -> torch.Tensor:
    per_byte = 8 // width
    padding = -len(values) % per_byte
    if padding:
        values = torch.nn.functional.pad(values, (0, padding))
    columns = values.view(-1, per_byte)
    packed = columns[:, 0].clone()
    for index in range(1, per_byte):
        packed |= columns[:, index] << (index * width)
    return packed


def _unpack_plane(packed: torch.Tensor, width: int, count: int) -> torch.Tensor:
    if width == 8:
        return packed
    per_byte, mask = 8 // width, (1 << width) - 1
    values = torch.empty(len(packed), per_byte, dtype=torch.uint8, device=packed.device)
    for index in range(per_byte):
        values[:, index] = (packed >> (index * width)) & mask
    return values.view(-1)[:count]
