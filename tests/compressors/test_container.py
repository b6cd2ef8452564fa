"""Dequantized values are exactly what compressed-tensors makes of the stored codes, scales and zeros."""

import pytest
import torch

from paretune.compressors.quantizers import find_quantizer
from paretune.spaces.formats import integer_format
from tests.compressors import contract

compressed_tensors = pytest.importorskip("compressed_tensors")


@pytest.mark.parametrize("bits", contract.BITS)
@pytest.mark.parametrize("group_size", [32, 128, None])
@pytest.mark.parametrize(("name", "symmetric"), [("rtn", True), ("rtn", False), ("hqq", False)])
def test_packed_and_unpacked_by_compressed_tensors(bits, group_size, name, symmetric):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize

    weight = contract.trained_like(rows=32)
    weight_format = integer_format(bits, group_size, symmetric)
    found = find_quantizer(name).quantize(weight, weight_format)
    args = QuantizationArgs(
        num_bits=bits,
        type="int",
        symmetric=symmetric,
        strategy="channel" if group_size is None else "group",
        group_size=group_size,
    )
    packed = pack_to_int32(found.codes, bits)
    codes = unpack_from_int32(packed, bits, found.codes.shape)
    assert torch.equal(codes, found.codes)
    zeros = found.zeros
    if zeros is not None:
        stored = pack_to_int32(zeros, bits, packed_dim=0)
        assert torch.equal(unpack_from_int32(stored, bits, zeros.shape, packed_dim=0), zeros)
    bytes_expected = weight_format.stored_bytes(tuple(weight.shape)).payload
    zero_bytes = 0 if zeros is None else pack_to_int32(zeros, bits, packed_dim=0).nbytes
    assert packed.nbytes + found.scales.nbytes + zero_bytes == bytes_expected
    values = dequantize(codes, found.scales.float(), zeros, args=args)
    assert torch.equal(values.to(torch.float32), found.dequantize())
    again = quantize(values, found.scales.float(), zeros, args=args, dtype=torch.int8)
    assert torch.equal(again, found.codes)
