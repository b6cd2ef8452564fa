"""Every kernel against float32 arithmetic on the values that it was given, to its stated tolerance."""

from __future__ import annotations

import pytest
import torch
from torch.sparse import SparseSemiStructuredTensorCUTLASS

from paretune.compressors.quantizers import QuantizedWeight
from paretune.compressors.rounding import fake_input
from paretune.engines.kernels import KERNELS, LayerWeight, LinearKernel, find_kernel
from paretune.engines.kernels.int8_weight_only import Int8WeightOnlyKernel
from paretune.engines.kernels.kernel import independent
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
    if kernel.name == "2:4":
        dense = torch.randn(n, k // 4, 4, generator=torch.Generator().manual_seed(n + k))
        dense[:, ::2, :2], dense[:, 1::2, 1:3] = 0.0, 0.0
        for values in (dense, torch.zeros_like(dense)):
            if not kernel.refusal(n, k, None):
                yield LayerWeight(dense=values.view(n, k).to(torch.bfloat16).float().cuda())
        return
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


GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel needs a CUDA device"),
]
NAMES = [pytest.param(name, marks=GPU if kernel.device else ()) for name, kernel in KERNELS.items()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_kernel_multiplies(name, shape):
    kernel = find_kernel(name)
    tried = 0
    for weight in weights(kernel, *shape):
        operands = kernel.pack(weight)
        for rows in (1, 3, 33):
            inputs = torch.randn(rows, shape[1], generator=torch.Generator().manual_seed(rows)) + 0.2
            inputs = inputs.to(kernel.device or "cpu")
            rounded = fake_input(inputs, ActivationFormat()) if name == "int8-dynamic" else inputs
            wanted = rounded @ weight.values().T
            found = kernel.run(inputs, operands)
            assert found.dtype == torch.float32
            assert (found - wanted).norm() <= kernel.tolerance * wanted.norm() + 1e-9
            tried += 1
    assert tried or kernel.refusal(*shape, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_clone_of_the_operands_is_as_good(name):
    kernel = find_kernel(name)
    weight = next(iter(weights(kernel, 32, 64)))
    operands = kernel.pack(weight)
    inputs = torch.randn(2, 64, device=kernel.device or "cpu")
    clone = {key: independent(tensor) for key, tensor in operands.items()}
    assert torch.equal(kernel.run(inputs, operands), kernel.run(inputs, clone))


@pytest.mark.filterwarnings("ignore:.*is in prototype stage")
def test_a_tensor_of_several_parts_is_copied_part_by_part():
    packed, meta = torch.randn(32, 32), torch.arange(64).view(32, 2)
    whole = SparseSemiStructuredTensorCUTLASS(torch.Size((32, 64)), packed, meta, None, None, None)
    copy = independent(whole)
    assert type(copy) is type(whole)
    assert copy.shape == whole.shape
    for name, part in (("packed", packed), ("meta", meta)):
        assert torch.equal(getattr(copy, name), part)
        assert getattr(copy, name).data_ptr() != part.data_ptr()


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


def test_two_of_four_is_refused_where_it_cannot_be_packed():
    kernel = find_kernel("2:4")
    assert "divide" in kernel.refusal(33, 64, None)
    assert "codes" in kernel.refusal(64, 64, 32)
    with pytest.raises(EngineError, match="more than two of four"):
        kernel.pack(LayerWeight(dense=torch.ones(64, 64)))
    with pytest.raises(EngineError, match="divide"):
        kernel.pack(LayerWeight(dense=torch.zeros(64, 32)))
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="CUDA"):
            kernel.pack(LayerWeight(dense=torch.zeros(64, 64)))


def test_an_unknown_kernel_is_refused():
    with pytest.raises(UnknownNameError, match="int4"):
        find_kernel("int44")
