"""The runtime's cache in every format: bit for bit what scoring rounds to, and as large as announced."""

from __future__ import annotations

import pytest
import torch

from paretune.compressors.cache_numbers import cache_numbers
from paretune.engines import find_engine
from paretune.engines.runtime.static_cache import StaticCacheLayer, static_cache, stores
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.size import kv_cache_bytes
from paretune.spaces.target import Workload
from tests.engines.conftest import assembled_logits, divergence

ENGINE = find_engine("torch-cpu")
FORMATS = {
    kv.name: kv
    for kv in (
        *(KVFormat(num_bits=bits) for bits in (8, 4, 2)),
        KVFormat(num_bits=8, number_type="float"),
        KVFormat(num_bits=8, number_type="float", key_scale=0.037, value_scale=0.5),
    )
}
MIXED = KVFormat.layered([FORMATS["kv8-fp"], FORMATS["kv2"], KVFormat()])


def states(tokens: int, seed: int = 0, width: int = 40, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, 2, tokens, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rounded(kv: KVFormat, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As :mod:`paretune.compressors.cache_rounding` does while scoring."""
    one, other = cache_numbers(kv, torch.bfloat16)
    assert one is not None
    assert other is not None
    return one.round(keys), other.round(values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 1, 6, 16])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_read_is_what_was_scored(name, window, dtype):
    kv = FORMATS[name]
    layer = StaticCacheLayer(120, window, torch.bfloat16, kv)
    keys, values = states(100, dtype=dtype), states(100, seed=1, dtype=dtype) * 30
    whole = rounded(kv, keys, values)
    start = 0
    for tokens in (1, 13, 1, 1, 20, *[1] * 64):  # prompts in parts, steps, and a sliding buffer that is moved
        stop = start + tokens
        found = layer.update(keys[:, :, start:stop], values[:, :, start:stop])
        first = max(0, start - (window or 120) + 1)
        for part, wanted in zip(found, whole, strict=True):
            assert part.dtype == dtype
            assert torch.equal(part, wanted[:, :, first:stop])
        start = stop
    assert start == 100


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("kv", [*FORMATS.values(), MIXED], ids=lambda kv: kv.name)
def test_the_runtime_s_cache_is_the_candidate_s(bench, family, kv):
    one = bench(family)
    kv = kv if len(kv.layers) in (0, one.spec.blocks) else KVFormat.layered(kv.layers[: one.spec.blocks])
    config = CompressionConfig(kv=kv)
    wanted = assembled_logits(one, config)
    # one product over a whole prompt against another: float32 noise that a code in between may amplify
    assert divergence(wanted, ENGINE.runtime(one.assembler, config).logits(one.ids)) < 1e-6
    assert divergence(wanted, assembled_logits(one, DENSE_CONFIG)) > 1e-6


@pytest.mark.parametrize("kv", [FORMATS["kv4"], FORMATS["kv8-fp"], MIXED], ids=lambda kv: kv.name)
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_token_by_token_is_all_at_once(bench, family, kv):
    one = bench(family)
    config = CompressionConfig(kv=kv)
    runtime = ENGINE.runtime(one.assembler, config)
    generated = runtime.generate(one.ids[:1, :4], 40)
    assert torch.equal(runtime.logits(generated[:, :-1])[:, 3:].argmax(dim=-1), generated[:, 4:])


def test_a_cut_block_takes_its_format_with_it(bench):
    one = bench()
    pruned = PrunedShape(blocks=(0, 2), kv_heads=1)
    config = CompressionConfig(kv=MIXED, pruned=pruned)
    runtime = ENGINE.runtime(one.assembler, config)
    assert divergence(assembled_logits(one, config), runtime.logits(one.ids)) < 1e-9
    cache = static_cache(one.spec, config, 8, torch.bfloat16)
    assert [layer.kv.name for layer in cache.layers] == ["kv8-fp", "kv16"]


@pytest.mark.parametrize("kv", [KVFormat(), *FORMATS.values(), MIXED], ids=lambda kv: kv.name)
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_cache_is_as_large_as_announced(bench, family, kv):
    spec = bench(family).spec
    config = CompressionConfig(kv=kv)
    # mistral's windows are 16: room for moving comes on top of what is announced, up to the whole context
    workload = Workload(batch=3, prompt_tokens=12, output_tokens=4)
    cache = static_cache(spec, config, workload.context, torch.bfloat16)
    tokens = torch.zeros(3, spec.kv_heads, 12, spec.head_dim, dtype=torch.bfloat16)
    for block in range(spec.blocks):
        cache.update(tokens, tokens, block)
    assert sum(layer.nbytes for layer in cache.layers) == kv_cache_bytes(spec, config, workload)


@pytest.mark.parametrize("name", FORMATS)
def test_constant_keys_are_finite(name):
    layer = StaticCacheLayer(40, None, torch.bfloat16, FORMATS[name])
    nothing = torch.zeros(1, 1, 20, 40)
    assert torch.equal(layer.update(nothing, nothing)[0], nothing)
    keys, values = layer.update(nothing[:, :, :1] + 0.3, nothing[:, :, :1] - 0.3)
    assert (keys[:, :, -1] - 0.3).abs().max() < 0.03
    assert (values[:, :, -1] + 0.3).abs().max() < 0.03
    assert torch.equal(keys[:, :, :-1], nothing)


def test_no_scale_dtype_keeps_numbers():
    kept = StaticCacheLayer(8, None, None, FORMATS["kv2"]).update(states(3), states(3))
    assert torch.equal(kept[0], states(3))


def test_stores_hold_tensors_of_their_own():
    keys, values = stores(FORMATS["kv4"], states(2), states(2), 8, torch.bfloat16)
    keys.write(0, states(2))
    values.write(0, states(2, seed=1))
    assert not torch.equal(keys.read(0, 2), values.read(0, 2))


def test_another_number_of_blocks_is_refused(bench):
    config = CompressionConfig(kv=KVFormat.layered([KVFormat(), FORMATS["kv4"]]))
    with pytest.raises(ConfigurationError, match="formats of 2 blocks: the model has 3"):
        static_cache(bench().spec, config, 8, torch.bfloat16)
