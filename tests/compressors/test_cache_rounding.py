"""Numbers of the cache against their definition, and what scoring does with them, block by block."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.compressors.cache_numbers import (
    BlockNumbers,
    FloatNumbers,
    GroupedNumbers,
    IntegerNumbers,
    cache_numbers,
)
from paretune.compressors.rounding import fake_int8
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError
from tests.compressors.conftest import make_bench

IDS = torch.arange(60).view(2, 30)
FORMATS = {
    kv.name: kv
    for kv in (
        *(KVFormat(num_bits=bits) for bits in (8, 4, 2)),
        KVFormat(num_bits=8, number_type="ggml"),
        KVFormat(num_bits=8, number_type="float"),
        KVFormat(num_bits=8, number_type="float", key_scale=0.037, value_scale=0.5),
    )
}


def numbers_of(kv, scale_dtype=torch.bfloat16):
    keys, values = cache_numbers(kv, scale_dtype)
    assert keys is not None
    assert values is not None
    return keys, values


def states(width=64, seed=0, dtype=torch.float32, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, 3, 5, width, generator=generator) * 4 + offset).to(dtype)


# -- numbers -------------------------------------------------------------------------------------------------


def test_four_bits_by_hand():
    numbers = GroupedNumbers(4, torch.float32)
    token = torch.arange(-4.0, 12.0).repeat(2)  # 16 levels a step of 1 apart
    codes, scales = numbers.encode(token)
    assert scales.tolist() == [1.0, -4.0]
    assert codes.tolist() == [low | (low + 1) << 4 for low in range(0, 16, 2)] * 2
    assert torch.equal(numbers.round(token + 0.25), token + 0.25)
    uneven = token.clone()
    uneven[5] += 0.4
    assert torch.equal(numbers.round(uneven), token)


def test_blocks_are_those_of_ggml():
    pytest.importorskip("libggml", reason="formats of llama.cpp need the extra 'llama'")
    from paretune.compressors.ggml_library import quantize_rows

    numbers = BlockNumbers(torch.bfloat16)
    token = states(width=96)[0, 0, :1]
    codes, scales = numbers.encode(token)
    assert scales.dtype == torch.float16
    blocks = torch.cat([scales.view(3, 1).view(torch.uint8), codes.view(3, 32).view(torch.uint8)], dim=1)
    assert np.array_equal(blocks.flatten().numpy(), quantize_rows(token.numpy(), "q8_0").flatten())


def test_two_bits_by_hand():
    numbers = GroupedNumbers(2, torch.float32)
    token = torch.tensor([0.0, 1.0, 2.0, 3.0]).repeat(8)
    codes, scales = numbers.encode(token)
    assert codes.tolist() == [0b11100100] * 8
    assert scales.tolist() == [1.0, 0.0]


def test_groups_have_scales_of_their_own():
    token = torch.cat([torch.linspace(0, 1, 32), torch.linspace(-900, 900, 32)])
    found = GroupedNumbers(4, torch.float32).round(token)
    assert (found[:32] - token[:32]).abs().max() <= 1 / 15 / 2 + 1e-6
    assert (found[32:] - token[32:]).abs().max() > 1


def test_floats_are_e4m3():
    numbers = FloatNumbers(0.5, torch.float32)
    token = torch.tensor([0.0, 0.5, 0.53, -8.6, 224.0, 1e6, -1e6, 2**-10, 2**-11])
    assert numbers.round(token).tolist() == [0.0, 0.5, 0.5, -9.0, 224.0, 224.0, -224.0, 2**-10, 0.0]
    assert numbers.round(torch.full((3,), torch.nan)).isnan().all()


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 97),
    offset=st.sampled_from((0.0, 3.0, -50.0)),
    scale_dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float16)),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
)
def test_rounding_is_storing_and_reading_back(name, width, offset, scale_dtype, dtype):
    kv = FORMATS[name]
    for numbers in numbers_of(kv, scale_dtype):
        given_states = states(width, dtype=dtype, offset=offset)
        codes, scales = numbers.encode(given_states)
        assert codes.dtype == numbers.code_dtype
        assert codes.shape[-1] == numbers.code_width(width)
        assert scales.dtype == numbers.scale_dtype
        assert scales.shape[-1] == numbers.scale_width(width)
        stored = (codes.nbytes + scales.nbytes) / (2 * 5)
        assert 2 * stored == kv.stored_bytes(3, width, scale_dtype.itemsize)
        found = numbers.decode(codes, scales, width, dtype)
        assert found.dtype == dtype
        assert torch.equal(found, numbers.round(given_states))
        # a token's numbers depend on it alone
        assert torch.equal(found[:, :, 1:3], numbers.round(given_states[:, :, 1:3]))


@pytest.mark.parametrize("bits", [4, 2])
def test_an_error_is_at_most_half_a_step(bits):
    given_states = states(64, offset=1.0)
    found = GroupedNumbers(bits, torch.float32).round(given_states)
    groups = given_states.view(2, 3, 5, 2, 32)
    step = (groups.amax(dim=-1) - groups.amin(dim=-1)) / ((1 << bits) - 1)
    error = (found - given_states).abs().view(groups.shape).amax(dim=-1)
    assert (error <= 0.5 * step * (1 + 1e-5) + 1e-6).all()
    assert (error > 0.3 * step).any()


def test_eight_bits_are_those_of_before():
    assert torch.equal(IntegerNumbers(torch.bfloat16).round(states()), fake_int8(states(), torch.bfloat16))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_numbers_stay_finite(name, scale_dtype):
    for numbers in numbers_of(FORMATS[name], scale_dtype):
        assert torch.equal(numbers.round(torch.zeros(2, 40)), torch.zeros(2, 40))
        for value in (3.0, -0.1, 1e-30, -1e-6):
            found = numbers.round(torch.full((2, 40), value))
            assert found.isfinite().all()
            assert (found - value).abs().max() <= max(0.07 * abs(value), 0.001)
        tiny = numbers.round(torch.tensor([1e-30, -1e-30, 0.0, 5e-7]))
        assert tiny.isfinite().all()


def test_sixteen_bits_have_no_numbers():
    assert cache_numbers(KVFormat(), torch.bfloat16) == (None, None)


# -- scoring -------------------------------------------------------------------------------------------------


def attended(bench, config):
    """What the output projections of all blocks read, for one token: the values of the cache themselves."""
    seen = {}
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _, inputs, block=block: seen.__setitem__(block, inputs[0].clone())
        )
        for block, layer in enumerate(bench.assembler.apply(config).model.layers)
    ]
    bench.model(IDS[:, :1])
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", FORMATS)
def test_values_are_rounded_in_the_attention(llama, name):
    kv = FORMATS[name]
    plain = attended(llama, DENSE_CONFIG)[0].view(2, 1, 4, 32)
    rounded = attended(llama, CompressionConfig(kv=kv))[0].view(2, 1, 4, 32)
    assert torch.equal(rounded, numbers_of(kv)[1].round(plain))
    assert not torch.equal(rounded, plain)


def test_blocks_have_formats_of_their_own(llama):
    names = ("kv16", "kv4", "kv8-fp")
    kv = KVFormat.layered([FORMATS.get(name, KVFormat()) for name in names])
    plain = attended(llama, DENSE_CONFIG)
    rounded = attended(llama, CompressionConfig(kv=kv))
    assert torch.equal(rounded[0], plain[0])
    assert not torch.equal(rounded[1], plain[1])
    both = llama.assembler.apply(CompressionConfig(kv=kv))(IDS).logits.clone()
    for block in range(3):
        alone = [
            FORMATS[name] if name in FORMATS and block == i else KVFormat() for i, name in enumerate(names)
        ]
        config = CompressionConfig(kv=KVFormat.layered(alone))
        assert not torch.equal(llama.assembler.apply(config)(IDS).logits, both)


def test_a_cut_block_takes_its_format_with_it(llama):
    pruned = PrunedShape(blocks=(0, 2))
    kv = KVFormat.layered([KVFormat(), FORMATS["kv2"], KVFormat()])

    def logits(**parts):
        return llama.assembler.apply(CompressionConfig(pruned=pruned, **parts))(IDS).logits.clone()

    dense = logits()
    assert torch.equal(logits(kv=kv), dense)
    last = KVFormat.layered([KVFormat(), KVFormat(), FORMATS["kv2"]])
    assert not torch.equal(logits(kv=last), dense)
    assert not torch.equal(logits(kv=KVFormat.layered([KVFormat(), FORMATS["kv2"], FORMATS["kv4"]])), dense)


@pytest.mark.parametrize("name", ["kv4", "kv8-fp"])
@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "gpt2", "mixtral"])
def test_every_family_takes_a_rounded_cache(family, name, tmp_path):
    changes = {"attn_logit_softcapping": 30.0} if family == "gemma2" else {}
    bench = make_bench(family, tmp_path, **changes)
    dense = bench.model(IDS).logits.clone()
    rounded = bench.assembler.apply(CompressionConfig(kv=FORMATS[name]))(IDS).logits.clone()
    assert (rounded - dense).abs().max() > 0
    assert torch.equal(bench.assembler.apply(DENSE_CONFIG)(IDS).logits, dense)


def test_another_number_of_blocks_is_refused(llama):
    kv = KVFormat.layered([KVFormat(), FORMATS["kv4"]])
    with pytest.raises(ConfigurationError, match="formats of 2 blocks: the model has 3"):
        llama.assembler.apply(CompressionConfig(kv=kv))
