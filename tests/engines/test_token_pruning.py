"""Prompt tokens dropped after a block: exact when off, the right ones when on, at the right positions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.engines import find_engine
from paretune.engines.behaviour.continuation import continuation_kl
from paretune.engines.behaviour.offer import behaving_runtime
from paretune.engines.behaviour.projections import keys_and_values, last_token_attention
from paretune.engines.behaviour.ruling import behaviour_ruling, serving_ruling
from paretune.engines.behaviour.token_pruning import choose_tokens
from paretune.spaces.behaviour import Behaviour, EarlyExit, TokenPruning
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, EngineError, TextError
from paretune.spaces.target import Workload
from tests.engines.conftest import choice, uniform

ENGINE = find_engine("torch-cpu")
SUPPORTED = ["llama", "qwen2", "qwen3", "mixtral", "qwen3_moe"]
REFUSED = ["gemma2", "gemma3", "phi3", "gpt_neox", "opt", "gpt2"]


def pruning(share, after=0, **ends):
    return Behaviour(tokens=TokenPruning(after_block=after, kept_share=share, **ends))


def runtimes(one, behaviour, config=DENSE_CONFIG):
    return (
        behaving_runtime(ENGINE, one.assembler, config),
        behaving_runtime(ENGINE, one.assembler, config, behaviour),
    )


@pytest.mark.parametrize("family", SUPPORTED)
@pytest.mark.parametrize("config", ["dense", "int8", "kv4"])
def test_switched_off_is_bit_exact(bench, family, config):
    one = bench(family)
    chosen = {
        "dense": DENSE_CONFIG,
        "int8": uniform(one.spec, choice(8)),
        "kv4": CompressionConfig(kv=KVFormat(num_bits=4)),
    }
    plain, off = runtimes(one, pruning(1.0), chosen[config])
    assert torch.equal(plain.continuation_logits(one.ids, 16), off.continuation_logits(one.ids, 16))
    assert torch.equal(plain.logits(one.ids), off.logits(one.ids))
    assert torch.equal(plain.generate(one.ids, 9), off.generate(one.ids, 9))


@pytest.mark.parametrize("family", SUPPORTED)
@pytest.mark.parametrize("config", ["dense", "int8", "kv4"])
def test_keeping_all_of_a_short_prompt_is_bit_exact_with_the_blocks_wrapped(bench, family, config):
    one = bench(family)
    chosen = {
        "dense": DENSE_CONFIG,
        "int8": uniform(one.spec, choice(8)),
        "kv4": CompressionConfig(kv=KVFormat(num_bits=4)),
    }
    plain, kept = runtimes(one, pruning(0.99, after=1), chosen[config])
    assert torch.equal(plain.continuation_logits(one.ids, 16), kept.continuation_logits(one.ids, 16))
    assert kept.observed.dropped_share == 0.0
    for prompt in (1, 2):
        assert torch.equal(plain.generate(one.ids[:, :prompt], 9), kept.generate(one.ids[:, :prompt], 9))


@pytest.mark.parametrize("family", SUPPORTED)
def test_the_loop_without_behaviour_is_the_whole_window(bench, family):
    one = bench(family)
    plain, _ = runtimes(one, None)
    steps, whole = plain.continuation_logits(one.ids, 10), plain.logits(one.ids)[:, 9:-1]
    assert (steps - whole).abs().max() < 2e-3


@torch.inference_mode()
def masked_reference(one, behaviour, prompt):
    """Later blocks with a mask over dropped tokens instead of shorter sequences, the whole window at once."""
    model = one.assembler.apply(DENSE_CONFIG)
    decoder, rule = model.model, behaviour.tokens
    hidden = decoder.embed_tokens(one.ids)
    tokens = hidden.shape[1]
    angles = decoder.rotary_emb(hidden, position_ids=torch.arange(tokens)[None])
    seen = torch.ones(len(hidden), tokens, tokens, dtype=torch.bool).tril()
    for index, block in enumerate(decoder.layers):
        if index == rule.after_block:
            first = hidden[:, :prompt]
            attention = last_token_attention(block, first, (angles[0][:, :prompt], angles[1][:, :prompt]))
            kept = choose_tokens(attention, rule)
        hidden = block(hidden, attention_mask=seen[:, None], position_embeddings=angles, use_cache=False)
        if index == rule.after_block:
            gone = torch.ones(len(hidden), tokens, dtype=torch.bool)
            gone[:, prompt:] = False
            gone.scatter_(1, kept, False)
            seen = seen & ~gone[:, None, :] | torch.eye(tokens, dtype=torch.bool)
    return model.lm_head(decoder.norm(hidden))[:, prompt - 1 : -1].float()


@pytest.mark.parametrize("family", SUPPORTED)
@pytest.mark.parametrize("after", [0, 1])
def test_dropping_is_masking_in_later_blocks(bench, family, after):
    one = bench(family)
    behaviour = pruning(0.4, after=after, last_tokens=2)
    plain, pruned = runtimes(one, behaviour)
    found = pruned.continuation_logits(one.ids, 15)
    wanted = masked_reference(one, behaviour, 15)
    assert (found - wanted).abs().max() < 2e-3
    assert (plain.continuation_logits(one.ids, 15) - wanted).abs().max() > 2e-2
    assert pruned.observed.prompt_tokens == 4 * 15
    assert pruned.observed.kept_tokens == 4 * 6
    assert pruned.observed.mean_blocks_run == 3.0


@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_attention_is_that_of_the_eager_block(bench, family):
    one = bench(family)
    model = one.assembler.apply(DENSE_CONFIG)
    seen = {}
    block = model.model.layers[1]
    handle = block.register_forward_pre_hook(
        lambda _, inputs, options: seen.update(hidden=inputs[0], **options), with_kwargs=True
    )
    before = model.config._attn_implementation
    try:
        model.config._attn_implementation = "eager"
        weights = model(input_ids=one.ids, output_attentions=True, use_cache=False).attentions[1]
    finally:
        model.config._attn_implementation = before
        handle.remove()
    found = last_token_attention(block, seen["hidden"], seen["position_embeddings"])
    assert torch.allclose(found, weights[:, :, -1].mean(dim=1), atol=1e-6)
    assert torch.allclose(found.sum(dim=1), torch.ones(4))


@torch.inference_mode()
@pytest.mark.parametrize("family", SUPPORTED)
def test_keys_and_values_are_those_that_the_block_caches(bench, family):
    one = bench(family)
    model = one.assembler.apply(DENSE_CONFIG)
    inputs = []
    block = model.model.layers[2]
    handle = block.register_forward_pre_hook(
        lambda _, given, options: inputs.append((given[0], options["position_embeddings"])), with_kwargs=True
    )
    cache = model(input_ids=one.ids, use_cache=True).past_key_values
    handle.remove()
    keys, values = keys_and_values(block, *inputs[0])
    assert torch.equal(keys, cache.layers[2].keys)
    assert torch.equal(values, cache.layers[2].values)


def test_later_caches_hold_kept_tokens_only(bench, monkeypatch):
    one = bench()
    _, pruned = runtimes(one, pruning(0.5))
    made = []
    monkeypatch.setattr(
        pruned, "_cache", lambda tokens, make=pruned._cache: made.append(make(tokens)) or made[0]
    )
    pruned.generate(one.ids[:, :20], 5)
    layers = made[0].layers
    assert [layer.get_seq_length() for layer in layers] == [24, 14, 14]
    assert [layer.capacity for layer in layers] == [25, 15, 15]
    assert layers[1].nbytes * 25 == layers[0].nbytes * 15


def test_a_pruned_of_8_bits_drops_tokens(bench):
    one = bench()
    config = uniform(one.spec, choice(8), PrunedShape(blocks=(0, 2), kv_heads=1), kv=KVFormat(num_bits=8))
    plain, pruned = runtimes(one, pruning(0.5), config)
    found = continuation_kl(plain, pruned, one.ids, 16, 6)
    assert found.kl_tokens.shape == (4, 6)
    assert found.kl.mean() > 1e-4


# -- which tokens --------------------------------------------------------------------------------------------


def test_the_most_looked_at_go_on():
    attention = torch.tensor([[0.1, 0.3, 0.0, 0.2, 0.25, 0.15], [0.1, 0.0, 0.5, 0.1, 0.2, 0.1]])
    rule = TokenPruning(after_block=0, kept_share=0.5, first_tokens=0, last_tokens=1)
    assert choose_tokens(attention, rule).tolist() == [[1, 4, 5], [2, 4, 5]]
    ends = TokenPruning(after_block=0, kept_share=0.5, first_tokens=1, last_tokens=2)
    assert choose_tokens(attention, ends).tolist() == [[0, 4, 5], [0, 4, 5]]


def test_equal_attention_keeps_the_earlier():
    rule = TokenPruning(after_block=0, kept_share=0.5, first_tokens=0, last_tokens=1)
    assert choose_tokens(torch.full((1, 6), 1 / 6), rule).tolist() == [[0, 1, 5]]


def test_broken_attention_is_refused():
    with pytest.raises(EngineError, match="not finite"):
        choose_tokens(torch.tensor([[0.5, torch.nan]]), TokenPruning(after_block=0, kept_share=0.5))


@given(st.integers(1, 60), st.floats(0.01, 1.0), st.integers(0, 4), st.integers(1, 6), st.integers(0, 1000))
def test_the_kept_share_is_a_floor(tokens, share, first, last, seed):
    rule = TokenPruning(after_block=0, kept_share=share, first_tokens=first, last_tokens=last)
    kept = choose_tokens(torch.rand(2, tokens, generator=torch.Generator().manual_seed(seed)), rule)
    assert kept.shape[1] == rule.kept(tokens) >= min(tokens, share * tokens - 1e-6)
    assert bool((kept[:, 1:] > kept[:, :-1]).all())
    ends = {*range(min(first, tokens)), *range(max(0, tokens - last), tokens)}
    assert all(ends <= set(row) for row in kept.tolist())


@pytest.mark.parametrize(
    "fields",
    [{"kept_share": 0.0}, {"kept_share": 1.1}, {"after_block": -1}, {"last_tokens": 0}, {"first_tokens": -1}],
)
def test_senseless_rules_are_refused(fields):
    with pytest.raises(ConfigurationError):
        TokenPruning(**{"after_block": 0, "kept_share": 0.5, **fields})


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", REFUSED)
@pytest.mark.parametrize("kind", ["tokens", "exit"])
def test_other_families_are_refused_with_the_reason(bench, family, kind):
    one = bench(family)
    behaviour = pruning(0.5) if kind == "tokens" else Behaviour(exit=EarlyExit(from_block=0, confidence=0.5))
    with pytest.raises(EngineError, match=f"blocks of {family}"):
        behaving_runtime(ENGINE, one.assembler, DENSE_CONFIG, behaviour)
    behaving_runtime(ENGINE, one.assembler, DENSE_CONFIG, pruning(1.0))


def test_sliding_attention_is_refused(bench):
    with pytest.raises(EngineError, match="sliding attention"):
        runtimes(bench("mistral"), pruning(0.5))


def test_nothing_after_the_last_block_is_refused(bench):
    one = bench()
    assert behaviour_ruling(one.spec, DENSE_CONFIG, pruning(0.5, after=1))
    assert not behaviour_ruling(one.spec, DENSE_CONFIG, pruning(0.5, after=2))
    cut = CompressionConfig(pruned=PrunedShape(blocks=(0, 2)))
    assert "last one is 1" in behaviour_ruling(one.spec, cut, pruning(0.5, after=1)).reason


def test_logits_of_a_window_are_refused(bench):
    one = bench()
    with pytest.raises(EngineError, match="continuation_logits"):
        runtimes(one, pruning(0.5))[1].logits(one.ids)


def test_several_tokens_after_a_pruned_prompt_are_refused(bench):
    one = bench()
    pruned = runtimes(one, pruning(0.5))[1]
    cache = pruned._cache(24)
    with torch.inference_mode():
        pruned._predict(one.ids[:, :12], cache)
        with pytest.raises(EngineError, match="one by one"):
            pruned._predict(one.ids[:, 12:14], cache)


def test_no_engine_serves_it():
    assert serving_ruling(pruning(1.0))
    assert "on request" in serving_ruling(pruning(0.5)).reason


def test_a_continuation_of_one_token_is_the_prompt_s_prediction(bench):
    one = bench()
    plain, pruned = runtimes(one, pruning(0.5))
    assert torch.equal(
        plain.continuation_logits(one.ids[:, :21], 20), plain.continuation_logits(one.ids, 20)[:, :1]
    )
    assert continuation_kl(plain, pruned, one.ids, 20, 1).kl_tokens.shape == (4, 1)


def test_short_windows_are_refused(bench):
    one = bench()
    both = runtimes(one, pruning(0.5))
    for prompt, new in ((20, 5), (0, 3), (3, 0)):
        with pytest.raises(TextError):
            continuation_kl(*both, one.ids, prompt, new)


def test_a_pruned_runtime_can_be_timed(bench):
    timing = runtimes(bench(), pruning(0.5))[1].time(
        Workload(prompt_tokens=12, output_tokens=3), repetitions=1
    )
    assert timing.ttft_s > 0
    assert timing.tpot_s > 0
