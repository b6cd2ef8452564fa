"""Floating-point, block and codebook formats: against compressed-tensors, against their definition, in the bank."""

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.quant_args import round_to_quantized_type_dtype
from compressed_tensors.quantization.utils import fp4_utils
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from paretune.compressors.float_rounding import e2m1_codes, e2m1_numbers, power_of_two_scales, round_e4m3
from paretune.compressors.quantizers import find_quantizer
from paretune.compressors.quantizers.blocks import from_blocks, to_blocks
from paretune.compressors.quantizers.codebooks import fit_levels
from paretune.compressors.quantizers.numbers import NORMAL_LEVELS, nearest_levels
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import FormatError
from paretune.spaces.formats import WeightFormat, integer_format
from paretune.spaces.named_formats import WEIGHT_FORMATS as FORMATS
from paretune.spaces.named_formats import default_method
from tests.compressors import contract, number_formats
from tests.compressors.conftest import make_bench

FLOATS = ("fp8-channel", "fp8-block", "nvfp4", "mxfp4", "mxfp8")
FIXED = (*FLOATS, "fp8-tensor", "nf4", "int8-channel", "int8-tensor")
FLOAT32 = np.dtype(np.float32)


def arguments(weight_format: WeightFormat) -> QuantizationArgs:
    """The same format in the words of compressed-tensors."""
    values = {
        "num_bits": weight_format.num_bits,
        "type": weight_format.number_type,
        "symmetric": weight_format.symmetric,
        "group_size": weight_format.group_size,
        "strategy": "channel" if weight_format.group_size is None else "group",
    }
    if weight_format.block_rows == 128:
        values |= {"strategy": "block", "block_structure": [128, 128], "group_size": None}
    elif weight_format.block_rows == 0:
        values |= {"strategy": "tensor"}
    if weight_format.scale == "fp8":
        values |= {"strategy": "tensor_group", "scale_dtype": torch.float8_e4m3fn}
    elif weight_format.scale == "exponent":
        values |= {"scale_dtype": torch.uint8}
    return QuantizationArgs.model_validate(values)


def theirs(weight: torch.Tensor, weight_format: WeightFormat, dtype: torch.dtype):
    """Scales, zeros and values as compressed-tensors computes them from the same range."""
    args = arguments(weight_format)
    rows, columns = weight.shape
    groups = to_blocks(weight, weight_format.block_rows or rows, weight_format.group_size or columns)
    global_scale = None
    if weight_format.scale == "fp8":
        global_scale = generate_gparam(weight.amin(), weight.amax())
    low, high = groups.amin(dim=1), groups.amax(dim=1)
    scales, zeros = calculate_qparams(low, high, args, global_scale=global_scale)
    places = (weight_format.scale_rows(rows), weight_format.groups(columns))
    if weight_format.scale == "model":
        scales = scales.to(dtype)  # what the container stores
    scales, zeros = scales.view(places), zeros.view(places)
    used = scales.to(torch.float32)
    if weight_format.scale == "exponent":
        used = power_of_two_scales(groups.abs().amax(dim=1), weight_format.num_bits).view(places)
    kept = zeros if not weight_format.symmetric else None
    codes = quantize(weight, used, kept, args, global_scale=global_scale)
    values = dequantize(codes, used, kept, args, dtype=torch.float32, global_scale=global_scale)
    return used, codes, values


@pytest.mark.parametrize("name", FIXED[:-3] + FIXED[-2:])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_minmax_is_what_compressed_tensors_computes(name, dtype):
    weight_format, weight = FORMATS[name], contract.trained_like(256, 384, seed=3)
    if name == "fp8-block":
        weight = contract.trained_like(200, 300, seed=3)  # the last blocks are smaller
        weight = torch.nn.functional.pad(weight, (0, 84, 0, 56))
    scales, _, values = theirs(weight, weight_format, dtype)
    found = find_quantizer("minmax").quantize(weight, weight_format, scale_dtype=dtype)
    assert torch.equal(found.scales.to(torch.float32), scales)
    assert torch.equal(found.dequantize(), values)


@pytest.mark.parametrize("bits", contract.BITS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, None])
def test_uniform_minmax_is_bit_exact_too(bits, symmetric, group_size):
    weight = contract.trained_like(64, 128, seed=bits)
    args = arguments(integer_format(bits, group_size, symmetric))
    groups = weight.view(-1, group_size or 128)
    scales, zeros = calculate_qparams(groups.amin(dim=1), groups.amax(dim=1), args)
    shape = (64, 128 // (group_size or 128))
    found = find_quantizer("minmax").quantize(
        weight, integer_format(bits, group_size, symmetric), scale_dtype=torch.float32
    )
    assert torch.equal(found.scales, scales.view(shape))
    if symmetric:
        assert found.zeros is None
    else:
        assert torch.equal(found.zeros, zeros.view(shape).to(torch.int8))
    kept = None if symmetric else zeros.view(shape)
    codes = quantize(weight, scales.view(shape), kept, args)
    assert torch.equal(found.codes.float(), codes.float())
    assert torch.equal(
        found.dequantize(), dequantize(codes, scales.view(shape), kept, args, dtype=torch.float32)
    )


@settings(max_examples=80, deadline=None)
@given(values=arrays.arrays(FLOAT32, 33, elements=st.floats(-9, 9, width=32)))
def test_four_bits_round_as_the_library_does(values):
    found = torch.from_numpy(values)
    expected = fp4_utils.cast_to_fp4(found.clone())
    codes = e2m1_codes(found)
    assert torch.equal(e2m1_numbers(codes), expected + 0.0)
    packed = pack_fp4_to_uint8(e2m1_numbers(codes)[:32].view(2, 16))
    ours = (codes[:32].view(2, 8, 2) & 15).to(torch.uint8)
    assert torch.equal(packed, ours[..., 0] | (ours[..., 1] << 4))


@settings(max_examples=80, deadline=None)
@given(values=arrays.arrays(FLOAT32, 33, elements=st.floats(-500, 500, width=32)))
def test_eight_bits_round_as_the_library_does(values):
    found = torch.from_numpy(values).clamp(-448, 448)
    expected = round_to_quantized_type_dtype(found, torch.float8_e4m3fn)
    assert torch.equal(round_e4m3(torch.from_numpy(values)).float(), expected.float())


@settings(max_examples=80, deadline=None)
@given(
    value=st.floats(2.0**-100, 2.0**100, width=32),
    bits=st.sampled_from([4, 8]),
)
def test_powers_of_two_are_those_of_the_library(value, bits):
    args = arguments(FORMATS[{4: "mxfp4", 8: "mxfp8"}[bits]])
    top = torch.tensor([value], dtype=torch.float32)
    expected = calculate_qparams(torch.zeros(1), top, args)[0]
    assert float(power_of_two_scales(top, bits)) == float(expected)


@pytest.mark.parametrize("name", FIXED)
def test_the_search_never_does_worse_than_the_whole_range(name):
    weight, weight_format = contract.trained_like(128, 256, seed=5), FORMATS[name]
    errors = [
        float((find_quantizer(method).quantize(weight, weight_format).dequantize() - weight).square().sum())
        for method in ("rtn", "minmax")
    ]
    assert errors[0] <= errors[1] * (1 + 1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_stay_and_rows_stand_alone(name):
    weight_format = FORMATS[name]
    quantizer = find_quantizer(default_method(weight_format))
    contract.check_zeros_stay(
        quantizer, weight_format.model_copy(update={"group_size": _small(weight_format)})
    )
    weight = contract.trained_like(12, 128, seed=6)
    if not weight_format.whole_matrix and weight_format.block_rows == 1:
        whole = quantizer.quantize(weight, weight_format)
        part = quantizer.quantize(weight[3:7], weight_format)
        assert torch.equal(whole.rows(3, 7).dequantize(), part.dequantize())
        assert torch.equal(whole.dequantize()[3:7], part.dequantize())


@pytest.mark.parametrize("name", ["fp8-tensor", "int8-tensor", "fp8-block"])
def test_rows_inside_a_block_keep_its_scale(name):
    """As an expert's gate and up do, which are two linears in a file and one matrix here."""
    weight_format = FORMATS[name]
    whole = find_quantizer("rtn").quantize(contract.trained_like(128, 256, seed=7), weight_format)
    for start, stop in ((0, 64), (64, 128), (0, 128)):
        part = whole.rows(start, stop)
        assert torch.equal(part.dequantize(), whole.dequantize()[start:stop])
        assert torch.equal(part.scales, whole.scales)
    tall = find_quantizer("rtn").quantize(contract.trained_like(256, 256, seed=7), FORMATS["fp8-block"])
    assert torch.equal(tall.rows(192, 256).dequantize(), tall.dequantize()[192:])
    with pytest.raises(FormatError, match="cut a block of 128 rows"):
        tall.rows(64, 192)


def _small(weight_format: WeightFormat) -> int | None:
    return weight_format.group_size and min(weight_format.group_size, 64)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", contract.DTYPES)
def test_awkward_weights_stay_finite(name, dtype):
    weight_format = FORMATS[name]
    methods = ("rtn", *number_formats.OBSERVERS) if name in FIXED else (default_method(weight_format),)
    weight = torch.zeros(7, 128)
    weight[1], weight[2] = 0.5, -0.25
    weight[3] = torch.linspace(0.1, 0.2, 128)
    weight[4, 7] = 100.0
    weight[5] = 1e-41
    for method in methods:
        for found in (weight, torch.zeros(3, 128), torch.full((2, 128), 1e-41)):
            values = find_quantizer(method).quantize(found, weight_format, scale_dtype=dtype).dequantize()
            assert torch.isfinite(values).all()
            assert (values[found == 0] == 0).all()
            assert (values.abs() <= 1.1 * found.abs().amax() + 1e-6).all()


def test_nf4_is_a_quantile_of_the_normal_distribution():
    levels = torch.tensor(NORMAL_LEVELS)
    assert levels[0] == -1
    assert levels[-1] == 1
    assert levels[7] == 0
    assert (levels.diff() > 0).all()
    # Dettmers et al. 2023: eight quantiles above zero, seven below, of N(0, 1) scaled to the interval.
    offset = 0.9677083
    normal = torch.distributions.Normal(0.0, 1.0)
    above = normal.icdf(torch.linspace(offset, 0.5, 9)[:-1])
    below = -normal.icdf(torch.linspace(offset, 0.5, 8)[:-1])
    expected = torch.cat([below, torch.zeros(1), above]).sort().values / above.max()
    assert torch.allclose(levels, expected, atol=2e-6)


def test_nf4_golden_numbers():
    weight = torch.zeros(1, 64)
    weight[0, :4] = torch.tensor([2.0, -2.0, 2 * NORMAL_LEVELS[9], 1.2])
    found = find_quantizer("minmax").quantize(weight, FORMATS["nf4"])
    assert found.scales.tolist() == [[2.0]]
    assert found.codes[0, :5].tolist() == [7, -8, 1, 5, -1]
    assert found.dequantize()[0, 3] == pytest.approx(2 * 0.5626170039176941)


@settings(max_examples=60, deadline=None)
@given(values=arrays.arrays(FLOAT32, (3, 40), elements=st.floats(-2, 2, width=32)))
def test_the_nearest_level_is_nearest(values):
    levels = torch.tensor([-1.5, -0.25, 0.0, 1.0])
    weight = torch.from_numpy(values)
    codes = nearest_levels(weight, levels)
    found = (levels[codes.long() + 2] - weight).abs()
    best = (levels.view(-1, 1, 1) - weight).abs().amin(dim=0)
    assert torch.allclose(found, best, atol=1e-6)
    assert torch.equal(nearest_levels(weight, levels.expand(3, 4).contiguous()), codes)


def test_kmeans_finds_what_is_clustered():
    centres = torch.tensor([[-1.0, -0.5, 0.5, 2.0], [0.0, 1.0, 2.0, 4.0]])
    generator = torch.Generator().manual_seed(0)
    weight = centres.repeat_interleave(16, dim=1)[:, torch.randperm(64, generator=generator)]
    levels = fit_levels(weight, torch.ones(64), 2, torch.float32)
    assert torch.allclose(levels, centres)


def test_kmeans_listens_to_importance():
    weight = contract.trained_like(8, 256, seed=7)
    seen = contract.statistics(256, seed=1)
    weighted, plain = (
        find_quantizer("kmeans").quantize(weight, FORMATS["kmeans3"], statistics).dequantize()
        for statistics in (seen, None)
    )
    errors = [float(((v - weight).square() * seen.second_moment).sum()) for v in (weighted, plain)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_learned_codes_beat_uniform_ones(bits):
    weight = contract.trained_like(64, 256, seed=8)
    uniform = contract.error_of(find_quantizer("minmax"), weight, integer_format(bits, 128))
    for name in (f"kmeans{bits}", f"learned{bits}"):
        found = FORMATS[name]
        assert contract.error_of(find_quantizer(default_method(found)), weight, found) < uniform


@pytest.mark.parametrize("method", number_formats.OBSERVERS)
def test_observers_refuse_learned_codebooks(method):
    for name in ("kmeans3", "learned3"):
        with pytest.raises(FormatError, match=method):
            find_quantizer(method).quantize(contract.trained_like(), FORMATS[name])


@pytest.mark.parametrize("method", ["gptq", "hqq", "kmeans", "learned"])
def test_methods_refuse_numbers_that_are_not_theirs(method):
    for name in ("fp8-channel", "nvfp4", "int8-tensor"):
        with pytest.raises(FormatError, match=method):
            find_quantizer(method).quantize(contract.trained_like(), FORMATS[name])


def test_observers_clip_what_they_should():
    weight = torch.randn(4, 4096, generator=torch.Generator().manual_seed(1))
    weight[:, 0] = 40.0
    for method in ("percentile", "entropy"):
        kept = find_quantizer(method).kept(weight, 8)
        assert (kept <= 0.5).all()
        assert (kept > 0).all()
    flat = torch.linspace(-1, 1, 4096).repeat(2, 1)
    assert (find_quantizer("entropy").kept(flat, 8) == 1).all()
    assert (find_quantizer("percentile").kept(torch.ones(2, 64), 8) == 1).all()


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), tall=st.integers(1, 4), wide=st.integers(1, 4))
def test_blocks_come_back(rows, columns, tall, wide):
    if tall == 1:
        columns = columns * wide
    weight = torch.arange(1.0, rows * columns + 1).view(rows, columns)
    blocks = to_blocks(weight, tall, wide)
    assert blocks.shape[1] == tall * wide
    assert torch.equal(from_blocks(blocks, weight.shape, tall, wide), weight)


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_bank_keeps_and_gives_back_every_format(family, name, tmp_path):
    weight_format = FORMATS[name]
    if weight_format.group_size is not None:
        weight_format = weight_format.model_copy(update={"group_size": min(weight_format.group_size, 16)})
    if weight_format.block_rows == 128:
        weight_format = weight_format.model_copy(update={"block_rows": 16})
    bench = make_bench(family, tmp_path, dtype="bfloat16")
    choice = LayerChoice(weight=weight_format, method=default_method(weight_format))
    config = CompressionConfig(layers={linear.name: choice for linear in bench.spec.block_linears})
    model = bench.assembler.apply(config)
    for linear in bench.spec.block_linears:
        found = bench.bank.quantized(linear.name, choice)
        matrix = bench.bank.tensor(linear.name, choice).view(linear.experts, -1, linear.in_features)
        assert torch.equal(found.dequantize(), matrix[0])
        weight = model.get_parameter(linear.parameter).float().view(matrix.shape)
        assert torch.equal(weight, matrix)
        dense = bench.bank.tensor(linear.name).view(matrix.shape)
        limit = 0.75 if weight_format.num_bits == 2 else 0.35
        assert (matrix - dense).norm() < limit * dense.norm()
    ids = bench.windows.ids[:1]
    assert torch.isfinite(model(input_ids=ids).logits).all()
