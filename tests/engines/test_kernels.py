"""Every kernel against float32 arithmetic on the values that it was given, to its stated tolerance."""

from __future__ import annotations

import pytest
import torch

from paretune.compressors.quantizers import QuantizedWeight
from paretune.compressors.rounding import fake_input
from paretune.engines.kernels import KERNELS, LayerWeight, LinearKernel, find_kernel
from paretune.engines.kernels.int8_weight_only import Int8WeightOnlyKernel
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.errors import EngineError, UnknownNameError

BITS = {"int8-weight-only": 8, "int8-dynamic": 8, "int4": 4}
SHAPES = [(16, 32), (48, 96), (80, 256), (256, 256), (7, 96), (40, 128)]
FORMATS = [(None, True), (32, True), (64, True), (128, True), (None, False), (32, False), (128, False)]


def quantized(n, k, bits, group_size, symmetric, dtype=torch.bfloat16) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(n * k + bits)
    half, size = 1 << (bits - 1), group_size or k
    codes = torch.randint(-half, half, (n, k), generator=generator).to(torch.int8)
    scales = (0.01 + 0.02 * torch.rand(n, k // size, generator=generator)).to(dtype)
    scales[0] *= -1  # the quantizers may store negative scales
    zeros = torch.randint(-half, half, (n, k // size), generator=generator).to(torch.int8)
    return QuantizedWeight(codes, scales, None if symmetric else zeros, size)


def weights(kernel: LinearKernel, n: int, k: int):
    """Every weight that the kernel takes in this shape."""
    if kernel.name not in BITS:
        dense = torch.randn(n, k, generator=torch.Generator().manual_seed(n + k))
        yield LayerWeight(dense=dense)
        yield LayerWeight(dense=dense * (dense > 1.0))
        yield LayerWeight(dense=torch.zeros(n, k))
        return
    for group_size, symmetric in FORMATS:
        dynamic = kernel.name == "int8-dynamic"
        if (group_size and k % group_size) or kernel.refusal(n, k, group_size) or (dynamic and not symmetric):
            continue
        for dtype in (torch.bfloat16, torch.float32):
            yield LayerWeight(quantized=quantized(n, k, BITS[kernel.name], group_size, symmetric, dtype))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_kernel_multiplies(name, shape):
    kernel = find_kernel(name)
    tried = 0
    for weight in weights(kernel, *shape):
        operands = kernel.pack(weight)
        for rows in (1, 3, 33):
            inputs = torch.randn(rows, shape[1], generator=torch.Generator().manual_seed(rows)) + 0.2
            rounded = fake_input(inputs, ActivationFormat()) if name == "int8-dynamic" else inputs
            wanted = rounded @ weight.values().T
            found = kernel.run(inputs, operands)
            assert found.dtype == torch.float32
            assert (found - wanted).norm() <= kernel.tolerance * wanted.norm() + 1e-9
            tried += 1
    assert tried or kernel.refusal(*shape, None)


@pytest.mark.parametrize("name", KERNELS)
def test_a_clone_of_the_operands_is_as_good(name):
    kernel = find_kernel(name)
    weight = next(iter(weights(kernel, 32, 64)))
    operands = kernel.pack(weight)
    inputs = torch.randn(2, 64)
    clone = {key: tensor.clone() for key, tensor in operands.items()}
    assert torch.equal(kernel.run(inputs, operands), kernel.run(inputs, clone))


@pytest.mark.parametrize(("name", "kinder"), [("int8-weight-only", 100.0), ("int4", 100.0)])
def test_a_wrong_zero_point_is_noticed(name, kinder):
    # the tolerance must be far below what losing a zero point does
    kernel = find_kernel(name)
    right = quantized(32, 128, BITS[name], 32, False, torch.bfloat16)
    wrong = QuantizedWeight(right.codes, right.scales, None, 32)
    inputs = torch.randn(4, 128) + 0.5
    wanted = inputs @ right.dequantize().T
    found = kernel.run(inputs, kernel.pack(LayerWeight(quantized=wrong)))
    assert (found - wanted).norm() > kinder * kernel.tolerance * wanted.norm() / 10


def test_a_group_of_zeros_stays_exactly_zero():
    found = quantized(16, 64, 8, 32, False, torch.bfloat16)
    codes, scales = found.codes.clone(), found.scales.clone()
    codes[3], scales[3] = -128, 1.0
    zeros = found.zeros.clone()
    zeros[3] = -128
    kernel = find_kernel("int8-weight-only")
    operands = kernel.pack(LayerWeight(quantized=QuantizedWeight(codes, scales, zeros, 32)))
    assert torch.equal(kernel.run(100 * torch.randn(5, 64), operands)[:, 3], torch.zeros(5))


@pytest.mark.parametrize(("group_size", "symmetric"), FORMATS)
def test_eight_bit_rows_are_dequantized_exactly(group_size, symmetric):
    weight = quantized(20, 128, 8, group_size, symmetric, torch.bfloat16)
    operands = find_kernel("int8-weight-only").pack(LayerWeight(quantized=weight))
    ids = torch.tensor([[0, 19, 3], [3, 7, 0]])
    found = Int8WeightOnlyKernel.rows(ids, operands)
    assert found.shape == (2, 3, 128)
    torch.testing.assert_close(found, weight.dequantize()[ids], rtol=1e-5, atol=1e-6)


def test_shapes_that_would_be_read_beyond_their_end_are_refused():
    assert find_kernel("int8-weight-only").refusal(16, 100, None)
    assert find_kernel("int4").refusal(100, 64, 32)
    assert find_kernel("int4").refusal(64, 48, None)
    assert find_kernel("int8-dynamic").refusal(16, 64, 32)
    assert not find_kernel("fp32").refusal(7, 5, None)


def test_a_dense_weight_has_no_codes():
    with pytest.raises(EngineError, match="integer codes"):
        find_kernel("int4").pack(LayerWeight(dense=torch.ones(16, 32)))


def test_an_unknown_kernel_is_refused():
    with pytest.raises(UnknownNameError, match="int4"):
        find_kernel("int44")
