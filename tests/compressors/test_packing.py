"""Codes packed at their true width come back, and take the bytes they say."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.compressors.packing import CodePacker, pack_codes, packed_code_bytes, unpack_codes


def codes(count, bits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low = -(2 ** (bits - 1))
    return torch.randint(low, -low, (count,), dtype=torch.int8, generator=generator)


@given(count=st.integers(1, 400), bits=st.integers(1, 8), seed=st.integers(0, 99))
def test_round_trip(count, bits, seed):
    values = codes(count, bits, seed)
    packed = pack_codes(values, bits)
    assert packed.nbytes == packed_code_bytes(count, bits)
    assert count * bits / 8 <= packed.nbytes < count * bits / 8 + 3
    assert torch.equal(unpack_codes(packed, bits, (count,)), values)


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6), bits=st.integers(1, 8))
def test_slabs_make_the_same_bytes(sizes, bits):
    values = codes(sum(sizes), bits)
    packer = CodePacker(bits, len(values))
    for part in values.split(sizes):
        packer.add(part)
    assert torch.equal(packer.packed, pack_codes(values, bits))


def test_golden_bytes():
    """Four 3-bit codes: -4, 3, 0, -1 are 0, 7, 4, 3 unsigned; high pairs 0 3 2 1, low bits 0 1 0 1."""
    packed = pack_codes(torch.tensor([-4, 3, 0, -1], dtype=torch.int8), 3)
    assert packed.tolist() == [0b01_10_11_00, 0b1010]
