"""Our own generation loop and cache against transformers' own."""

from __future__ import annotations

import pytest
import torch

from paretune.compressors.loading import load_dense
from paretune.compressors.rounding import fake_int8
from paretune.engines import find_engine
from paretune.engines.runtime.static_cache import EightBitStore, StaticCacheLayer, static_cache
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.size import kv_cache_bytes
from paretune.spaces.target import Workload
from tests.engines.conftest import assembled_logits, choice, divergence, uniform
from tests.models import FAMILIES

ENGINE = find_engine("torch-cpu")


def reference_generation(one, ids, new_tokens):
    model = load_dense(one.folder, one.spec)
    model.generation_config.eos_token_id = None
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, use_cache=True
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_that_of_transformers(bench, family):
    one = bench(family)
    runtime = ENGINE.runtime(one.assembler, DENSE_CONFIG)
    # sliding windows are 16: prompts below and above it, answers beyond it
    for prompt in (5, 21):
        ids = one.ids[:2, :prompt]
        assert torch.equal(runtime.generate(ids, 30), reference_generation(one, ids, 30))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_runtimes_are_their_candidates(bench, family, bits):
    one = bench(family)
    layers = {one.spec.embedding.name: choice(8, symmetric=False)}
    config = uniform(one.spec, choice(bits), layers=layers)
    runtime = ENGINE.runtime(one.assembler, config)
    wanted = "int4" if bits == 4 else "int8-weight-only"
    assert {runtime.kernels[x.name] for x in one.spec.block_linears} == {wanted}
    found = divergence(assembled_logits(one, config), runtime.logits(one.ids))
    # bf16 inputs may flip a near tie of a router; elsewhere they stay far below the noise of bf16
    assert found < (2e-2 if one.spec.experts else 2e-4)


def test_rounded_inputs_are_those_of_the_candidate(bench):
    one = bench()
    config = uniform(one.spec, choice(8, None, a8=True))
    runtime = ENGINE.runtime(one.assembler, config)
    assert set(runtime.kernels.values()) == {"int8-dynamic", "fp32"}
    wanted = assembled_logits(one, config)
    # The largest input of a row lies half-way between two codes, so noise of the products shows.
    assert divergence(wanted, runtime.logits(one.ids)) < 2e-4
    assert divergence(wanted, assembled_logits(one, DENSE_CONFIG)) > 4e-4


def test_sparse_rows_run_the_pruned_weight(bench):
    one = bench()
    config = uniform(one.spec, choice(16, sparsity=0.8))
    runtime = ENGINE.runtime(one.assembler, config)
    assert runtime.kernels["model.layers.0.mlp.down_proj"] == "csr"
    assert divergence(assembled_logits(one, config), runtime.logits(one.ids)) < 1e-8


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gemma2"])
def test_an_eight_bit_cache_is_that_of_the_candidate(bench, family):
    one = bench(family)
    config = CompressionConfig(kv=KVFormat(num_bits=8))
    wanted = assembled_logits(one, config)
    assert divergence(wanted, ENGINE.runtime(one.assembler, config).logits(one.ids)) < 1e-9
    assert divergence(wanted, assembled_logits(one, DENSE_CONFIG)) > 1e-7


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("bits", [16, 8])
def test_token_by_token_is_all_at_once(bench, family, bits):
    one = bench(family)
    config = CompressionConfig(kv=KVFormat(num_bits=bits))
    runtime = ENGINE.runtime(one.assembler, config)
    generated = runtime.generate(one.ids[:1, :4], 60)
    logits = runtime.logits(generated[:, :-1])
    assert torch.equal(logits[:, 3:].argmax(dim=-1), generated[:, 4:])


def test_a_runtime_survives_the_next_candidate(bench):
    one = bench()
    config = uniform(one.spec, choice(3), PrunedShape(blocks=(0, 2), kv_heads=1))
    runtime = ENGINE.runtime(one.assembler, config)
    before = runtime.logits(one.ids)
    one.assembler.apply(uniform(one.spec, choice(2)))
    one.assembler.apply(DENSE_CONFIG)
    assert torch.equal(runtime.logits(one.ids), before)


def test_a_runtime_leaves_the_assembled_model_alone(bench):
    one = bench()
    before = assembled_logits(one, DENSE_CONFIG)
    ENGINE.runtime(one.assembler, uniform(one.spec, choice(4))).logits(one.ids)
    assert torch.equal(assembled_logits(one, DENSE_CONFIG), before)


# -- the cache itself ----------------------------------------------------------------------------------------


def states(tokens, seed=0, heads=2, width=8):
    return torch.randn(3, heads, tokens, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window", [None, 1, 4, 16, 200])
@pytest.mark.parametrize("prompt", [1, 3, 20, 100])
def test_a_layer_hands_out_the_end_of_what_it_saw(window, prompt):
    layer = StaticCacheLayer(120, window, None)
    seen = states(prompt)
    length, offset = layer.get_mask_sizes(prompt)
    keys, values = layer.update(seen, seen * 2)
    assert torch.equal(keys, seen)
    assert torch.equal(values, seen * 2)
    assert (length, offset) == (prompt, 0)
    for step in range(120 - prompt):
        new = states(1, seed=step + 1)
        length, offset = layer.get_mask_sizes(1)
        keys, values = layer.update(new, new * 2)
        seen = torch.cat([seen, new], dim=2)
        assert torch.equal(keys, seen[:, :, -(window or 120) :])
        assert torch.equal(values, keys * 2)
        assert keys.shape[2] == length
        assert offset + length == seen.shape[2] == layer.get_seq_length()


def test_a_prompt_in_two_parts_is_a_prompt():
    for window in (None, 6):
        layer = StaticCacheLayer(100, window, None)
        whole = states(90)
        layer.update(whole[:, :, :50], whole[:, :, :50])
        keys, _ = layer.update(whole[:, :, 50:], whole[:, :, 50:])
        assert torch.equal(keys, whole[:, :, 50 - (50 if window is None else 5) :])
        new = states(1, seed=9)
        keys, _ = layer.update(new, new)
        assert torch.equal(keys[:, :, :-1], whole[:, :, -(90 if window is None else 5) :])


def test_eight_bits_are_rounded_as_the_candidate_was():
    layer = StaticCacheLayer(32, None, torch.bfloat16)
    first, second = states(7), states(1, seed=1)
    layer.update(first, first)
    keys, _ = layer.update(second, second)
    assert torch.equal(keys, fake_int8(torch.cat([first, second], dim=2), torch.bfloat16))
    assert isinstance(layer._stores[0], EightBitStore)


def test_zeros_are_kept_as_zeros():
    layer = StaticCacheLayer(4, None, torch.bfloat16)
    nothing = torch.zeros(1, 1, 2, 4)
    assert torch.equal(layer.update(nothing, nothing)[0], nothing)


@pytest.mark.parametrize("bits", [16, 8])
def test_the_cache_is_as_large_as_announced(bench, bits):
    spec = bench("llama").spec
    config = CompressionConfig(kv=KVFormat(num_bits=bits))
    workload = Workload(batch=3, prompt_tokens=20, output_tokens=12)
    cache = static_cache(spec, config, workload.context, torch.bfloat16)
    tokens = torch.zeros(3, spec.kv_heads, 20, spec.head_dim, dtype=torch.bfloat16)
    for block in range(spec.blocks):
        cache.update(tokens, tokens, block)
    assert sum(layer.nbytes for layer in cache.layers) == kv_cache_bytes(spec, config, workload)


@pytest.mark.gpu
def test_torch_runs_on_a_gpu(bench):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    one = bench()
    engine = find_engine("torch")
    config = uniform(one.spec, choice(4))
    runtime = engine.runtime(one.assembler, config)
    assert divergence(assembled_logits(one, config), runtime.logits(one.ids)) < 5e-3
    for operation in engine.operations(one.spec, config, Workload(prompt_tokens=16, output_tokens=8)):
        engine.kernel(operation, 1 << 20)()
    assert runtime.time(Workload(prompt_tokens=16, output_tokens=8)).tpot_s > 0
