"""Blocks left out once the next token is sure: exact when off, strict, with states for later tokens."""

from __future__ import annotations

import math

import pytest
import torch

from paretune.engines import find_engine
from paretune.engines.behaviour.continuation import continuation_kl
from paretune.engines.behaviour.early_exit import confidence
from paretune.engines.behaviour.offer import behaving_runtime
from paretune.engines.behaviour.projections import keys_and_values
from paretune.engines.behaviour.ruling import behaviour_ruling, serving_ruling
from paretune.spaces.behaviour import Behaviour, EarlyExit, TokenPruning
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, EngineError
from paretune.spaces.target import Workload
from tests.engines.conftest import choice, uniform

ENGINE = find_engine("torch-cpu")
SUPPORTED = ["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"]
MEASURES = ["probability", "entropy"]


def leaving(threshold, start=0, measure="probability", tokens=None):
    return Behaviour(exit=EarlyExit(from_block=start, confidence=threshold, measure=measure), tokens=tokens)


def runtime(one, behaviour=None, config=DENSE_CONFIG):
    return behaving_runtime(ENGINE, one.assembler, config, behaviour)


@pytest.mark.parametrize("family", SUPPORTED)
@pytest.mark.parametrize("measure", MEASURES)
def test_a_threshold_of_one_is_bit_exact(bench, family, measure):
    one = bench(family)
    plain, off = runtime(one), runtime(one, leaving(1.0, measure=measure))
    assert torch.equal(plain.continuation_logits(one.ids, 8), off.continuation_logits(one.ids, 8))
    assert torch.equal(plain.generate(one.ids, 9), off.generate(one.ids, 9))


@pytest.mark.parametrize("family", SUPPORTED)
@pytest.mark.parametrize("config", ["dense", "int8", "kv4"])
def test_a_threshold_that_nothing_exceeds_is_bit_exact_with_the_blocks_wrapped(bench, family, config):
    one = bench(family)
    chosen = {
        "dense": DENSE_CONFIG,
        "int8": uniform(one.spec, choice(8)),
        "kv4": CompressionConfig(kv=KVFormat(num_bits=4)),
    }
    plain = runtime(one, config=chosen[config])
    sure = runtime(one, leaving(math.nextafter(1.0, 0.0)), chosen[config])
    assert torch.equal(plain.continuation_logits(one.ids, 8), sure.continuation_logits(one.ids, 8))
    assert sure.observed.mean_blocks_run == 3.0
    assert sure.observed.decoded_tokens == 4 * 15


@torch.inference_mode()
def exit_reference(one, rule, prompt):
    """A loop over blocks of one sequence, with keys and values in plain lists; returns logits and depths."""
    model = one.assembler.apply(DENSE_CONFIG)
    decoder = model.model
    everything, depths = [], []
    for ids in one.ids:
        caches = model(input_ids=ids[None, :prompt], use_cache=True)
        logits, cache = [caches.logits[:, -1]], caches.past_key_values
        for position in range(prompt, len(ids) - 1):
            hidden = decoder.embed_tokens(ids[None, position : position + 1])
            angles = decoder.rotary_emb(hidden, position_ids=torch.tensor([[position]]))
            depth, gone = 0, False
            for index, block in enumerate(decoder.layers):
                if gone:
                    cache.update(*keys_and_values(block, hidden, angles), index)
                    continue
                depth += 1
                hidden = block(hidden, position_embeddings=angles, past_key_values=cache, use_cache=True)
                sure = confidence(model.lm_head(decoder.norm(hidden))[:, -1], rule.measure)
                gone = index >= rule.from_block and index < 2 and float(sure) > rule.confidence
            depths.append(depth)
            logits.append(model.lm_head(decoder.norm(hidden))[:, -1])
        everything.append(torch.stack(logits, dim=1))
    return torch.cat(everything).float(), sum(depths) / len(depths)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mixtral", "qwen3_moe"])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("start", [0, 1])
def test_every_sequence_exits_for_itself(bench, family, measure, start):
    one = bench(family)
    always = runtime(one, leaving(0.0, start, measure))
    first = confidence(always.continuation_logits(one.ids, 8)[:, 1:].flatten(0, 1), measure)
    rule = leaving(float(first.median()) + 1e-4, start, measure)
    found = (leaver := runtime(one, rule)).continuation_logits(one.ids, 8)
    wanted, depth = exit_reference(one, rule.exit, 8)
    assert (found - wanted).abs().max() < 2e-3
    assert leaver.observed.mean_blocks_run == pytest.approx(depth, abs=1e-9)
    assert start + 1 < depth < 3


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("start", [0, 1])
def test_a_threshold_of_zero_exits_at_once(bench, measure, start):
    one = bench()
    leaver = runtime(one, leaving(0.0, start, measure))
    leaver.continuation_logits(one.ids, 8)
    assert leaver.observed.mean_blocks_run == start + 1
    assert leaver.observed.skipped_share == pytest.approx(1 - (start + 1) / 3)


def test_the_threshold_is_strict(bench):
    one = bench()
    ids = one.ids[:1, :9]  # one decoded token
    ids = torch.cat([ids, ids[:, :1]], dim=1)
    reached = confidence(runtime(one, leaving(0.0)).continuation_logits(ids, 8)[:, -1], "probability").item()
    at = runtime(one, leaving(reached))
    at.continuation_logits(ids, 8)
    below = runtime(one, leaving(math.nextafter(reached, 0.0) - 1e-7))
    below.continuation_logits(ids, 8)
    assert (at.observed.decoded_tokens, below.observed.decoded_tokens) == (1, 1)
    assert at.observed.mean_blocks_run > below.observed.mean_blocks_run == 1.0


def test_later_blocks_cache_every_token(bench, monkeypatch):
    one = bench()
    leaver = runtime(one, leaving(0.0))
    made = []
    monkeypatch.setattr(
        leaver, "_cache", lambda tokens, make=leaver._cache: made.append(make(tokens)) or made[0]
    )
    leaver.generate(one.ids[:, :6], 5)
    assert [layer.get_seq_length() for layer in made[0].layers] == [10, 10, 10]
    assert all(
        bool(torch.isfinite(store.read(0, 10)).all()) for layer in made[0].layers for store in layer._stores
    )


def test_sliding_windows_move_on_in_skipped_blocks(bench):
    one = bench("mistral")
    leaver = runtime(one, leaving(0.0))
    generated = leaver.generate(one.ids[:, :6], 90)  # beyond the window of 16 and its 64 spare tokens
    assert generated.shape == (4, 96)
    assert leaver.observed.mean_blocks_run == 1.0


def test_kl_falls_as_the_threshold_rises(bench):
    one = bench()
    plain = runtime(one)
    first = confidence(runtime(one, leaving(0.0)).continuation_logits(one.ids, 8)[:, 1:], "probability")
    kls, shares = [], []
    for threshold in (0.0, float(first.median()), 0.9999):
        leaver = runtime(one, leaving(threshold))
        kls.append(float(continuation_kl(plain, leaver, one.ids, 8, 16).kl.mean()))
        shares.append(leaver.observed.skipped_share)
    assert kls[0] > kls[1] > kls[2]
    assert shares[0] > shares[1] > shares[2] == 0.0
    assert kls[2] == pytest.approx(0.0, abs=1e-7)


def test_the_first_prediction_is_the_prompt_s(bench):
    one = bench()
    kl = continuation_kl(runtime(one), runtime(one, leaving(0.0)), one.ids, 8, 4).kl_tokens
    assert abs(kl[:, 0]).max() < 1e-6
    assert kl[:, 1:].min() > 1e-3


def test_tokens_and_exits_together(bench):
    one = bench()
    rule = TokenPruning(after_block=0, kept_share=0.5)
    config = uniform(one.spec, choice(4), PrunedShape(blocks=(0, 2)), kv=KVFormat(num_bits=8))
    both = runtime(one, leaving(0.0, tokens=rule), config)
    found = both.continuation_logits(one.ids, 12)
    assert bool(torch.isfinite(found).all())
    assert both.observed.dropped_share == 0.5
    assert both.observed.mean_blocks_run == 1.0
    assert torch.equal(both.generate(one.ids, 4), both.generate(one.ids, 4))


# -- confidence ----------------------------------------------------------------------------------------------


def test_confidence_of_known_predictions():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3.0), 0.0, -torch.inf, -torch.inf]])
    assert confidence(logits, "probability").tolist() == pytest.approx([0.25, 0.75])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    assert confidence(logits, "entropy").tolist() == pytest.approx([0.0, 1 - entropy], abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_nothing_is_surer_than_one_and_broken_logits_are_not_sure(measure):
    logits = torch.full((3, 50), -1e30)
    logits[:, 7] = 1e30
    logits[1] = torch.nan
    logits[2] *= 0
    found = confidence(logits, measure)
    assert (found > 1.0).tolist() == [False, False, False]
    assert (found > 0.5).tolist() == [True, False, False]


@pytest.mark.parametrize("fields", [{"confidence": -0.1}, {"confidence": 1.5}, {"from_block": -1}])
def test_senseless_rules_are_refused(fields):
    with pytest.raises(ConfigurationError):
        EarlyExit(**{"from_block": 0, "confidence": 0.5, **fields})


def test_what_is_refused(bench):
    one = bench()
    assert "last one is 2" in behaviour_ruling(one.spec, DENSE_CONFIG, leaving(0.5, start=2)).reason
    assert not serving_ruling(leaving(0.5))
    with pytest.raises(EngineError, match="time_generation"):
        runtime(one, leaving(0.5)).time(Workload(prompt_tokens=4, output_tokens=4))


def test_generation_of_a_text_can_be_timed(bench):
    one = bench()
    leaver = runtime(one, leaving(0.0))
    assert leaver.time_generation(one.ids, 4, repetitions=2).tpot_s > 0
    assert leaver.observed.decoded_tokens == 2 * 4 * 3
