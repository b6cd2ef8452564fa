"""Codes at their true width: ``b`` bits each, in planes of 4, 2 and 1 bits.

A code of 3 bits is a plane of 2 and one of 1, of 5 bits one of 4 and one of 1, of 6 bits one of 4 and one of
2; a plane of ``w`` bits holds ``8 / w`` codes a byte, so that packing and unpacking are a few shifts of whole
tensors. This is the bank's own layout; the export writes that of compressed-tensors.
"""

from __future__ import annotations

import torch

_PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def packed_code_bytes(count: int, num_bits: int) -> int:
    """Bytes of ``count`` packed codes."""
    return sum(-(-count * width // 8) for width in _PLANES[num_bits])


class CodePacker:
    """Packs the codes of a weight slab by slab; every slab but the last must hold a multiple of 8 codes."""

    def __init__(self, num_bits: int) -> None:
        self._num_bits = num_bits
        self._planes: list[list[torch.Tensor]] = [[] for _ in _PLANES[num_bits]]

    def add(self, codes: torch.Tensor) -> None:
        """Append signed codes of any shape."""
        values = (codes.reshape(-1).to(torch.int16) + (1 << (self._num_bits - 1))).to(torch.uint8)
        shift = self._num_bits
        for width, plane in zip(_PLANES[self._num_bits], self._planes, strict=True):
            shift -= width
            plane.append(_pack_plane((values >> shift) & ((1 << width) - 1), width))

    def packed(self) -> torch.Tensor:
        """Everything added, one uint8 vector."""
        return torch.cat([slab for plane in self._planes for slab in plane])


def pack_codes(codes: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Signed codes of any shape as one uint8 vector of :func:`packed_code_bytes` bytes."""
    packer = CodePacker(num_bits)
    packer.add(codes)
    return packer.packed()


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
    return (values.to(torch.int16) - (1 << (num_bits - 1))).to(torch.int8).view(shape)


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
