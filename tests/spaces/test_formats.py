"""Number formats: bytes against the real container, order by bits, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.errors import FormatError
from paretune.spaces.formats import DENSE, WeightFormat, integer_format

BITS = (2, 3, 4, 5, 6, 7, 8)


def compressed(rows: int, columns: int, weight: WeightFormat) -> dict:
    """What compressed-tensors stores for a weight of this shape, in bfloat16."""
    import torch
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(
        num_bits=weight.num_bits,
        type="int",
        symmetric=weight.symmetric,
        strategy="channel" if weight.group_size is None else "group",
        group_size=weight.group_size,
    )
    groups = weight.groups(columns)
    state = {
        "weight": torch.randn(rows, columns, dtype=torch.bfloat16),
        "weight_scale": torch.ones(rows, groups, dtype=torch.bfloat16),
    }
    if not weight.symmetric:
        state["weight_zero_point"] = torch.zeros(rows, groups, dtype=torch.int8)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    return PackedQuantizationCompressor.compress(state, scheme)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("rows", "columns", "group_size"),
    [(16, 64, 32), (7, 96, 32), (33, 48, 16), (1, 32, None), (5, 37, None), (31, 65, None), (3, 24, 8)],
)
def test_bytes_are_those_of_compressed_tensors(rows, columns, group_size, bits, symmetric):
    weight = integer_format(bits, group_size, symmetric)
    tensors = compressed(rows, columns, weight)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    stored = weight.stored_bytes((rows, columns), dtype_bytes=2)
    assert stored.total == sum(sizes.values())
    assert stored.overhead == sizes["weight_shape"]
    assert ("weight_zero_point" in sizes) == (not symmetric)


def test_bytes_by_hand():
    # 64 columns of 4 bits are 8 words; 2 scales a row; 4 rows of zero points are one word a group
    assert integer_format(4, 32).stored_bytes((4, 64)).payload == 4 * 8 * 4 + 4 * 2 * 2
    assert integer_format(4, 32, symmetric=False).stored_bytes((4, 64)).payload == 144 + 1 * 4 * 2
    assert integer_format(3, None).stored_bytes((2, 10), 4).payload == 2 * 1 * 4 + 2 * 4
    assert DENSE.stored_bytes((3, 5)) == (30, 0)
    assert DENSE.stored_bytes((3, 5), 4) == (60, 0)
    assert WeightFormat(num_bits=32).stored_bytes((3, 5), 4).total == 60


@given(
    rows=st.integers(1, 200),
    groups=st.integers(1, 8),
    group_size=st.sampled_from([None, 8, 16, 32, 128]),
    symmetric=st.booleans(),
    dtype_bytes=st.sampled_from([2, 4]),
)
def test_more_bits_never_fewer_bytes(rows, groups, group_size, symmetric, dtype_bytes):
    columns = groups * (group_size or 29)
    sizes = [
        integer_format(bits, group_size, symmetric).stored_bytes((rows, columns), dtype_bytes)
        for bits in BITS
    ]
    assert [size.payload for size in sizes] == sorted(size.payload for size in sizes)
    assert [size.total for size in sizes] == sorted(size.total for size in sizes)


@given(rows=st.integers(4, 300), groups=st.integers(1, 6), bits=st.sampled_from(BITS))
def test_an_integer_format_is_smaller_than_16_bits(rows, groups, bits):
    weight = integer_format(bits, 128, symmetric=False)
    shape = (rows, groups * 128)
    assert weight.stored_bytes(shape).total < DENSE.stored_bytes(shape).total


def test_names_tell_formats_apart():
    formats = [
        integer_format(bits, group, symmetric)
        for bits in BITS
        for group in (None, 32, 128)
        for symmetric in (True, False)
    ]
    formats += [DENSE, WeightFormat(num_bits=32), integer_format(4).model_copy(update={"actorder": "group"})]
    assert len({weight.name for weight in formats}) == len(formats)
    assert integer_format(4).name == "int4-g128"
    assert integer_format(4, 64, symmetric=False).name == "int4-g64-asym"
    assert integer_format(8, None).name == "int8-channel"
    assert DENSE.name == "16"


@pytest.mark.parametrize(
    ("values", "value"),
    [
        ({"num_bits": 1, "number_type": "int"}, "1 bits"),
        ({"num_bits": 9, "number_type": "int"}, "9 bits"),
        ({"num_bits": 6, "number_type": "float"}, "float of 6 bits"),
        ({"num_bits": 4, "number_type": "int", "symmetric": False}, "symmetric=False"),
        ({"num_bits": 4, "number_type": "int", "zero_point": "int"}, "zero_point=int"),
        ({"num_bits": 4, "number_type": "int", "group_size": 0}, "group size 0"),
    ],
)
def test_contradictions_are_refused(values, value):
    with pytest.raises(FormatError, match=value):
        WeightFormat(**values)


def test_a_group_size_that_does_not_divide():
    with pytest.raises(
        FormatError, match=r"group size 100: must divide the row length 512\. Use one of 16, 32"
    ) as caught:
        integer_format(4, 100).groups(512)
    assert caught.value.remedy.startswith("Use one of")


@settings(max_examples=30)
@given(
    heads=st.integers(1, 64), head_dim=st.sampled_from([32, 64, 80, 128, 256]), dtype=st.sampled_from([2, 4])
)
def test_an_eight_bit_cache_is_smaller(heads, head_dim, dtype):
    assert KVFormat(num_bits=8).stored_bytes(heads, head_dim, dtype) < KVFormat().stored_bytes(
        heads, head_dim, dtype
    )


def test_cache_by_hand():
    assert KVFormat().stored_bytes(2, 64) == 2 * 2 * 64 * 2
    assert KVFormat(num_bits=8).stored_bytes(2, 64) == 2 * 2 * (64 + 2)
    assert ActivationFormat().name == "a8-token"
    assert ActivationFormat(strategy="tensor", dynamic=False).name == "a8-tensor-static"
