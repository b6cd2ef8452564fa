"""Shapes and counts of the operations of a workload."""

from __future__ import annotations

import json

import pytest

from paretune.engines import find_engine
from paretune.engines.operation import Operation, merged
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.target import Workload
from tests.engines.conftest import choice, uniform
from tests.fakes import tiny_moe_spec, tiny_spec

WORKLOAD = Workload(batch=3, prompt_tokens=20, output_tokens=10)


def operations(spec, config=DENSE_CONFIG, workload=WORKLOAD):
    return find_engine("torch-cpu").operations(spec, config, workload)


def test_a_tiny_llama_by_hand():
    found = {(o.phase, o.kind, o.m, o.n, o.k): o.count for o in operations(tiny_spec())}
    assert found == {
        ("prefill", "embedding", 60, 256, 128): 1,
        ("prefill", "linear", 60, 128, 128): 6,  # q, o in three blocks
        ("prefill", "linear", 60, 64, 128): 6,  # k, v
        ("prefill", "linear", 60, 256, 128): 6,  # gate, up
        ("prefill", "linear", 60, 128, 256): 3,  # down
        ("prefill", "linear", 3, 256, 128): 1,  # head, last position only
        ("prefill", "attention", 20, 20, 32): 3,
        ("decode", "embedding", 3, 256, 128): 1,
        ("decode", "linear", 3, 128, 128): 6,
        ("decode", "linear", 3, 64, 128): 6,
        ("decode", "linear", 3, 256, 128): 7,  # gate, up and the head
        ("decode", "linear", 3, 128, 256): 3,
        ("decode", "attention", 1, 25, 32): 3,
    }


def test_attention_has_the_heads_and_the_cache_of_the_pruned():
    config = CompressionConfig(pruned=PrunedShape(kv_heads=1), kv=KVFormat(num_bits=8))
    found = [o for o in operations(tiny_spec(), config) if o.kind == "attention"]
    assert {(o.heads, o.kv_heads, o.batch, o.num_bits, o.kernel) for o in found} == {(2, 1, 3, 8, "sdpa-kv8")}


def test_sliding_attention_reads_its_window():
    found = [o for o in operations(tiny_spec(window=16)) if o.kind == "attention"]
    assert {(o.phase, o.n) for o in found} == {("prefill", 20), ("decode", 16)}


@pytest.mark.parametrize(("batch", "hit", "rows"), [(1, 2, 1), (2, 3, 1), (64, 4, 32)])
def test_experts_are_hit_as_an_even_router_would(batch, hit, rows):
    found = operations(tiny_moe_spec(), workload=Workload(batch=batch, prompt_tokens=8, output_tokens=8))
    down = [o for o in found if o.phase == "decode" and (o.n, o.k) == (128, 128) and o.m == rows]
    expert_counts = [o.count for o in down]
    # attention's q (128 x 128) may share the shape: experts add ``hit`` runs a block
    assert any(count in (3 * hit, 3 * hit + 6) for count in expert_counts), found


def test_a_quantized_embedding_is_looked_up_and_multiplied_as_eight_bits():
    spec = tiny_spec()
    found = operations(spec, CompressionConfig(layers={spec.embedding.name: choice(8)}))
    assert {o.kernel for o in found if o.kind == "embedding"} == {"gather-int8"}
    assert {o.kernel for o in found if o.n == 256 and o.k == 128 and o.m == 3 and o.kind == "linear"} == {
        "int8-weight-only",
        "fp32",
    }


def test_formats_are_part_of_the_key_and_notes_are_not():
    spec = tiny_spec()
    four, eight, three, five = (operations(spec, uniform(spec, choice(bits))) for bits in (4, 8, 3, 5))
    assert {o.key for o in four}.isdisjoint({o.key for o in eight if o.num_bits == 8})
    assert {o.key for o in three} == {o.key for o in five}
    assert {o.note for o in three} != {o.note for o in five}


def test_merging_adds_counts_within_a_phase():
    one = Operation("linear", "decode", "fp32", 1, 2, 3)
    other = Operation("linear", "prefill", "fp32", 1, 2, 3)
    assert [o.count for o in merged([one, other, one.times(4)])] == [5, 1]


def test_operations_survive_json():
    for operation in operations(tiny_spec(), uniform(tiny_spec(), choice(4))):
        assert Operation.from_dict(json.loads(json.dumps(operation.to_dict()))) == operation
    with pytest.raises(ValueError, match="speed"):
        Operation.from_dict({**Operation("linear", "decode", "fp32", 1, 2, 3).to_dict(), "speed": 3})
