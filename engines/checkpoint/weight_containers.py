"""The tensors that a quantized weight is in the containers of compressed-tensors.

Layouts and bytes: :mod:`paretune.spaces.containers`; which container:
:mod:`paretune.engines.checkpoint.weight_schemes`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from paretune.compressors.quantizers import QuantizedWeight
from paretune.spaces.formats import WeightFormat

Named = Iterator[tuple[str, torch.Tensor]]


def weight_tensors(
    path: str, found: QuantizedWeight, weight: WeightFormat, *, unpacked: bool = False
) -> Named:
    """What is stored for the linear at ``path``; ``unpacked``: symmetric 8-bit integers in place of the weight."""
    if unpacked:
        yield f"{path}.weight", found.codes.cpu().contiguous()
        yield f"{path}.weight_scale", _scales(found, weight)
        return
    if weight.number_type == "int":
        yield from _packed(path, found, weight)
        return
    codes = found.codes.cpu().contiguous()
    if weight.num_bits == 8:
        yield f"{path}.weight", codes.view(torch.float8_e4m3fn)
    else:
        nibbles = codes.view(torch.uint8).view(len(codes), -1, 2) & 15
        yield f"{path}.weight_packed", (nibbles[..., 0] | (nibbles[..., 1] << 4)).contiguous()
    yield f"{path}.weight_scale", _scales(found, weight)
    if found.global_scales is not None:
        yield f"{path}.weight_global_scale", found.global_scales.cpu().reshape(1).clone()


def _packed(path: str, found: QuantizedWeight, weight: WeightFormat) -> Named:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes = found.codes.cpu()
    yield f"{path}.weight_packed", pack_to_int32(codes, weight.num_bits).contiguous()
    yield f"{path}.weight_scale", _scales(found, weight)
    if found.zeros is not None:
        zeros = pack_to_int32(found.zeros.cpu().contiguous(), weight.num_bits, packed_dim=0)
        yield f"{path}.weight_zero_point", zeros.contiguous()
    yield f"{path}.weight_shape", torch.tensor(list(codes.shape), dtype=torch.int64)


def _scales(found: QuantizedWeight, weight: WeightFormat) -> torch.Tensor:
    scales = found.scales.cpu().contiguous().clone()
    if weight.scale == "exponent":
        return scales.view(torch.uint8)
    return scales.reshape(1) if weight.block_rows == 0 else scales
