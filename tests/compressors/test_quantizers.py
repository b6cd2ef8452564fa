"""The contract of quantizers over every registered one, and what is particular to each."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from paretune.compressors.quantizers import QUANTIZERS, find_quantizer
from paretune.compressors.quantizers.affine import code_range, decode, encode, integer_zeros, squared_error
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.errors import ConfigurationError, FormatError, ModelError, UnknownNameError
from paretune.spaces.formats import WeightFormat, integer_format
from paretune.spaces.methods import METHODS
from tests.compressors import contract, number_formats

NAMES = ("rtn", "weighted", "hqq", "gptq", "awq")
GGML = ("ggml", "ggml-importance")
"""Under contract in test_ggml."""
GROUPS = (32, 128, None)
FLOATING = WeightFormat(num_bits=4, number_type="int", symmetric=False, zero_point="float", group_size=32)


def test_every_quantizer_is_under_contract():
    assert {*NAMES, *GGML, *number_formats.OBSERVERS, *number_formats.LEARNERS} == set(QUANTIZERS)
    assert all(name == find_quantizer(name).name for name in QUANTIZERS)
    assert {name: find_quantizer(name).closure for name in QUANTIZERS} == {
        name: method.closure for name, method in METHODS.items()
    }
    with pytest.raises(UnknownNameError, match="rtn"):
        find_quantizer("rtnn")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", contract.BITS)
@pytest.mark.parametrize("group_size", GROUPS)
def test_contract(name, bits, group_size):
    quantizer = find_quantizer(name)
    offered = contract.formats(quantizer, bits, group_size)
    assert offered
    for weight_format in offered:
        for dtype in contract.DTYPES:
            contract.check_shapes(quantizer, weight_format, dtype)
            contract.check_idempotent(quantizer, weight_format, dtype)
        contract.check_zeros_stay(quantizer, weight_format)
        contract.check_order_of_rows_and_groups(quantizer, weight_format)
        contract.check_sign(quantizer, weight_format)
        contract.check_reconstruction(quantizer.quantize(contract.trained_like(), weight_format))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", contract.BITS)
@pytest.mark.parametrize("dtype", contract.DTYPES)
def test_awkward_groups(name, bits, dtype):
    quantizer = find_quantizer(name)
    for weight_format in contract.formats(quantizer, bits, 64):
        contract.check_awkward_groups(quantizer, weight_format, dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group_size", GROUPS)
def test_more_bits_never_more_error(name, group_size):
    quantizer = find_quantizer(name)
    weight = contract.trained_like(rows=64, seed=8)
    for index in range(len(contract.formats(quantizer, 4, group_size))):
        errors = [
            contract.error_of(quantizer, weight, contract.formats(quantizer, bits, group_size)[index])
            for bits in contract.BITS
        ]
        assert all(after < 0.6 * before for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize("name", NAMES)
def test_smaller_groups_never_more_error(name):
    quantizer = find_quantizer(name)
    weight = contract.trained_like(rows=64, seed=9)
    for bits in (3, 4):
        for index in range(len(contract.formats(quantizer, bits, 32))):
            errors = [
                contract.error_of(quantizer, weight, contract.formats(quantizer, bits, size)[index])
                for size in (32, 128)
            ]
            assert errors[0] < errors[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_no_code_stands_for_are_refused_by_name(name, bad):
    quantizer = find_quantizer(name)
    weight = contract.trained_like()
    weight[3, 4] = bad
    with pytest.raises(ModelError, match=r"blocks\.0\.q") as caught:
        quantizer.quantize(weight, contract.formats(quantizer, 4, 32)[0], layer="blocks.0.q")
    assert caught.value.remedy


@pytest.mark.parametrize("name", NAMES)
def test_formats_that_do_not_fit_are_refused(name):
    quantizer = find_quantizer(name)
    weight = contract.trained_like()
    fitting = contract.formats(quantizer, 4, 32)[0]
    for changes in ({"group_size": 48}, {"actorder": "group"}):
        with pytest.raises(FormatError):
            quantizer.quantize(weight, fitting.model_copy(update=changes))
    with pytest.raises(FormatError):
        quantizer.quantize(weight, WeightFormat())
    if name != "hqq":
        with pytest.raises(FormatError, match="integer zero points"):
            quantizer.quantize(weight, FLOATING)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", contract.BITS)
def test_methods_that_count_by_input_channels_err_less_there(bits, symmetric):
    weight, seen = contract.trained_like(rows=48, seed=14), contract.statistics(128, seed=2)
    seen = LayerStatistics(seen.second_moment**4)  # a few channels dominate, as in trained models
    wanted = integer_format(bits, 32, symmetric)

    def error(name, statistics):
        found = find_quantizer(name).quantize(weight, wanted, statistics).dequantize()
        return float(((found - weight).square() * seen.second_moment).sum())

    for name, plain in (("weighted", "rtn"), *([] if symmetric else [("hqq", "hqq")])):
        assert error(name, seen) < error(plain, None)
    assert error("weighted", None) == error("rtn", None)


@pytest.mark.parametrize("dtype", contract.DTYPES)
@pytest.mark.parametrize("bits", contract.BITS)
def test_hqq_with_float_zero_points_errs_less(bits, dtype):
    """By the norm that it minimises; zeros are stored as scales are."""
    weight = contract.trained_like(rows=64, seed=13)
    formats = integer_format(bits, 32, symmetric=False), FLOATING.model_copy(update={"num_bits": bits})
    whole, floating = (find_quantizer("hqq").quantize(weight, x, scale_dtype=dtype) for x in formats)
    assert floating.zeros.dtype == dtype
    codes, zeros, scales = (
        floating.codes.view(64, -1, 32).float(),
        floating.zeros.float(),
        floating.scales.float(),
    )
    expected = (codes - zeros.unsqueeze(-1)) * scales.unsqueeze(-1)
    assert torch.equal(floating.dequantize(), expected.view(64, -1))
    errors = [float((x.dequantize() - weight).abs().pow(0.7).sum()) for x in (floating, whole)]
    assert errors[0] < 1.002 * errors[1]


def test_zeros_do_not_go_with_float_zero_points():
    with pytest.raises(ConfigurationError, match="zeros would not stay"):
        LayerChoice(weight=FLOATING, sparsity=Sparsity(fraction=0.5), method="hqq")


def test_hqq_needs_a_zero_point():
    with pytest.raises(FormatError, match="zero point"):
        find_quantizer("hqq").quantize(contract.trained_like(), integer_format(4, 32))


@pytest.mark.parametrize("bits", contract.BITS)
def test_rtn_is_never_worse_than_no_clipping(bits):
    weight = contract.trained_like(seed=10)
    low, high = code_range(bits)
    groups = weight.view(-1, 32)
    plain = (groups.abs().amax(dim=1) * 2 / (high - low)).to(torch.bfloat16).float()
    found = find_quantizer("rtn").quantize(weight, integer_format(bits, 32))
    error = (found.dequantize() - weight).square().view(-1, 32).sum(dim=1)
    tolerance = 1.0 + 0.05 * (bits >= 5)  # the grid of wide codes is coarse around the unclipped scale
    assert error.sum() <= tolerance * squared_error(groups, plain, None, bits).sum()


def test_rtn_golden_numbers():
    """Two groups small enough to check by hand: exact multiples of a scale come back as they are."""
    weight = torch.tensor([[-4.0, 3.0, 1.0, 0.0], [0.5, -0.25, 1.0, 0.75]])
    found = find_quantizer("rtn").quantize(weight, integer_format(3, 4))
    assert torch.equal(found.dequantize(), weight)
    assert found.codes[0].tolist() == [-4, 3, 1, 0]
    assert found.scales.tolist() == [[1.0], [-0.25]]
    assert found.codes[1].tolist() == [-2, 1, -4, -3]


@pytest.mark.parametrize("bits", contract.BITS)
def test_hqq_never_ends_worse_than_it_starts(bits):
    """The sum of powers that it minimises, group by group, against min-max codes with a rounded zero."""
    weight = contract.trained_like(rows=32, seed=11)
    low, high = code_range(bits)
    groups = weight.view(-1, 32)
    bottom, top = groups.amin(dim=1), groups.amax(dim=1)
    scales = ((top - bottom) / (high - low)).to(torch.bfloat16).float()
    zeros = integer_zeros(bottom, scales, bits)
    plain = decode(encode(groups, scales, zeros, bits), scales, zeros)
    found = find_quantizer("hqq").quantize(weight, integer_format(bits, 32, symmetric=False)).dequantize()
    before, after = ((v.view(-1, 32) - groups).abs().pow(0.7).sum(dim=1) for v in (plain, found))
    assert (after <= before * (1 + 1e-5)).all()
    if bits <= 4:
        assert after.sum() < 0.97 * before.sum()


_WEIGHTS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.sampled_from([16, 48])),
    elements=st.floats(-8.0, 8.0, width=32),
)


@settings(max_examples=60, deadline=None)
@given(weight=_WEIGHTS, bits=st.sampled_from(contract.BITS), symmetric=st.booleans())
def test_any_weight_comes_back_within_its_group_range(weight, bits, symmetric):
    values = torch.from_numpy(weight)
    found = find_quantizer("rtn").quantize(values, integer_format(bits, 16, symmetric)).dequantize()
    largest = values.view(-1, 16).abs().amax(dim=1, keepdim=True)
    assert ((found - values).view(-1, 16).abs() <= 1.01 * largest).all()
    assert (found[values == 0] == 0).all()
