"""The oracle of bytes, by hand and by properties over whole configurations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.formats import integer_format
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import (
    activation_bytes,
    average_bits,
    check_heads,
    dense_bytes,
    fixed_bytes,
    kept_shape,
    kept_weights,
    kv_cache_bytes,
    layer_bytes,
    memory_bytes,
    weight_bytes,
)
from paretune.spaces.target import Workload
from tests.fakes import tiny_moe_spec, tiny_spec

BITS = (2, 3, 4, 5, 6, 8)
SPEC = tiny_spec(dtype="bfloat16")
SPECS = {"dense": SPEC, "untied": tiny_spec(tied=False, dtype="float32"), "mixture": tiny_moe_spec()}
PRUNED_SIZES = (
    PrunedShape(),
    PrunedShape(blocks=(0, 2)),
    PrunedShape(kv_heads=1),
    PrunedShape(ffn_channels=128),
    PrunedShape(blocks=(1,), kv_heads=1, ffn_channels=64),
)


def choice(bits: int, group_size: int | None = 32, symmetric: bool = True) -> LayerChoice:
    return LayerChoice(weight=integer_format(bits, group_size, symmetric), method="rtn")


def uniform(
    spec: ModelSpec, bits: int, pruned: PrunedShape | None = None, symmetric: bool = True
) -> CompressionConfig:
    pruned = pruned or PrunedShape()
    names = [x.name for x in spec.block_linears if pruned.keeps_block(x.block)]
    return CompressionConfig(layers=dict.fromkeys(names, choice(bits, symmetric=symmetric)), pruned=pruned)


def test_the_dense_model_by_hand():
    block = 128 * 128 * 2 + 64 * 128 * 2 + 3 * 128 * 256 + 2 * 128
    assert dense_bytes(SPEC) == (256 * 128 + 3 * block + 128) * 2
    assert SPEC.parameters * 2 == dense_bytes(SPEC)
    assert average_bits(SPEC, DENSE_CONFIG) == 16.0
    assert average_bits(SPECS["untied"], DENSE_CONFIG) == 32.0


def test_average_bits_of_four_bits_in_groups_of_32():
    assert average_bits(SPEC, uniform(SPEC, 4)) == pytest.approx(4 + 16 / 32)
    wide = average_bits(SPEC, uniform(SPEC, 4, symmetric=False))
    assert wide == pytest.approx(4 + 16 / 32 + 4 / 32)


def test_overhead_is_in_the_file_but_not_in_average_bits():
    linear = SPEC.linear("model.layers.0.mlp.down_proj")
    stored = layer_bytes(SPEC, linear, uniform(SPEC, 4))
    assert (stored.payload, stored.overhead) == (128 * 256 // 2 + 128 * 8 * 2, 16)


def test_an_expert_is_stored_as_three_linears():
    spec = SPECS["mixture"]
    gate_up = next(x for x in spec.linears if x.role == "expert_gate_up")
    down = next(x for x in spec.linears if x.role == "expert_down")
    config = uniform(spec, 4)
    assert layer_bytes(spec, gate_up, config).overhead == 2 * spec.experts * 16
    assert layer_bytes(spec, down, config).overhead == spec.experts * 16
    # an odd width of zero points is rounded up in every piece, not once for both
    cut = uniform(spec, 3, PrunedShape(ffn_channels=33 * 1), symmetric=False)
    piece = choice(3, 32, symmetric=False).weight.stored_bytes((33, spec.hidden_size))
    assert layer_bytes(spec, gate_up, cut).payload == 2 * spec.experts * piece.payload


def test_tied_heads_are_stored_once():
    config = CompressionConfig(layers={SPEC.embedding.name: choice(4)})
    saved = dense_bytes(SPEC) - weight_bytes(SPEC, config)
    assert saved == 256 * 128 * 2 - choice(4).weight.stored_bytes((256, 128)).total
    untied = tiny_spec(tied=False, dtype="bfloat16")
    assert dense_bytes(untied) - dense_bytes(SPEC) == 256 * 128 * 2


def test_sparsity_saves_no_bytes():
    sparse = LayerChoice(sparsity=Sparsity(fraction=0.5))
    config = CompressionConfig(layers=dict.fromkeys([x.name for x in SPEC.block_linears], sparse))
    assert weight_bytes(SPEC, config) == dense_bytes(SPEC)


@pytest.mark.parametrize("name", SPECS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_more_bits_never_fewer_bytes(name, data):
    spec = SPECS[name]
    pruned = data.draw(st.sampled_from(PRUNED_SIZES))
    symmetric = data.draw(st.booleans())
    names = [x.name for x in spec.linears if not (spec.tied and x.role == "head")]
    names = [x for x in names if pruned.keeps_block(spec.linear(x).block)]
    few = {x: data.draw(st.sampled_from(BITS)) for x in names}
    layer = data.draw(st.sampled_from(names))
    more = {**few, layer: data.draw(st.sampled_from([b for b in BITS if b >= few[layer]]))}
    configs = [
        CompressionConfig(
            layers={x: choice(bits, 32, symmetric) for x, bits in widths.items()}, pruned=pruned
        )
        for widths in (few, more)
    ]
    assert weight_bytes(spec, configs[0]) <= weight_bytes(spec, configs[1])
    assert average_bits(spec, configs[0]) <= average_bits(spec, configs[1])
    assert weight_bytes(spec, configs[1]) < weight_bytes(spec, CompressionConfig(pruned=pruned))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("pruned", PRUNED_SIZES, ids=lambda s: s.name)
def test_shapes_of_a_pruned_fit_each_other(name, pruned):
    spec = SPECS[name]
    config = CompressionConfig(pruned=pruned)
    for block in pruned.blocks or range(spec.blocks):
        shapes = {x.role: kept_shape(spec, x, pruned) for x in spec.block_linears if x.block == block}
        assert shapes["q"][0] == shapes["o"][1]
        assert shapes["k"] == shapes["v"]
        assert shapes["q"][0] * spec.kv_heads == shapes["k"][0] * spec.heads
        if "gate" in shapes:
            assert shapes["gate"] == shapes["up"] == shapes["down"][::-1]
        else:
            assert shapes["expert_gate_up"][0] == 2 * shapes["expert_down"][1]
        assert all(extent > 0 for shape in shapes.values() for extent in shape)
    assert kept_weights(spec, config) <= kept_weights(spec, DENSE_CONFIG)
    assert weight_bytes(spec, config) <= dense_bytes(spec)


def test_a_whole_pruned_cuts_nothing():
    for linear in SPEC.linears:
        assert kept_shape(SPEC, linear, PrunedShape()) == (linear.out_features, linear.in_features)


def test_cache_by_hand():
    workload = Workload(batch=3, prompt_tokens=10, output_tokens=6)
    assert kv_cache_bytes(SPEC, DENSE_CONFIG, workload) == 3 * 3 * 16 * (2 * 2 * 32 * 2)
    eight = CompressionConfig(kv=KVFormat(num_bits=8))
    assert kv_cache_bytes(SPEC, eight, workload) == 3 * 3 * 16 * (2 * 2 * (32 + 2))
    cut = CompressionConfig(pruned=PrunedShape(blocks=(0,), kv_heads=1))
    assert kv_cache_bytes(SPEC, cut, workload) == 3 * 16 * (2 * 32 * 2)


def test_a_sliding_window_bounds_the_cache_and_cut_blocks_take_theirs_along():
    layers = [
        layer.model_copy(update={"window": w}) for layer, w in zip(SPEC.cache, (4, None, 4), strict=True)
    ]
    blocks = (x.model_copy(update={"cache": c}) for x, c in zip(SPEC.layout, layers, strict=True))
    spec = SPEC.model_copy(update={"layout": tuple(blocks)})
    workload = Workload(prompt_tokens=8, output_tokens=8)
    token = 2 * 2 * 32 * 2
    assert kv_cache_bytes(spec, DENSE_CONFIG, workload) == (4 + 16 + 4) * token
    assert kv_cache_bytes(spec, CompressionConfig(pruned=PrunedShape(blocks=(1,))), workload) == 16 * token
    assert kv_cache_bytes(spec, CompressionConfig(pruned=PrunedShape(blocks=(0, 2))), workload) == 8 * token


@given(batch=st.integers(1, 8), prompt=st.integers(1, 512), output=st.integers(1, 512))
@settings(max_examples=30, deadline=None)
def test_memory_is_the_sum_and_grows_with_the_workload(batch, prompt, output):
    workload = Workload(batch=batch, prompt_tokens=prompt, output_tokens=output)
    config = uniform(SPEC, 4)
    total = memory_bytes(SPEC, config, workload)
    parts = (
        weight_bytes(SPEC, config),
        kv_cache_bytes(SPEC, config, workload),
        activation_bytes(SPEC, config, workload),
    )
    assert total == sum(parts)
    assert total < memory_bytes(SPEC, config, workload.model_copy(update={"batch": batch + 1}))


def test_devices_share_layers_and_hold_the_rest_each():
    """By hand: norms and the residual stream are everywhere; two key-value heads on four devices lie there twice."""
    spec, workload = tiny_spec(heads=4, kv_heads=2), Workload(batch=3, prompt_tokens=64, output_tokens=64)
    norms = sum(fixed_bytes(spec, tensor, DENSE_CONFIG) for tensor in spec.fixed)
    divided, cache = weight_bytes(spec, DENSE_CONFIG) - norms, kv_cache_bytes(spec, DENSE_CONFIG, workload)
    keys = sum(layer_bytes(spec, x, DENSE_CONFIG).total for x in spec.of_role("k", "v"))
    for devices, copied in ((2, 0), (4, keys + cache)):
        shared = workload.model_copy(update={"tensor_parallel": devices})
        expected = (
            -(-(divided + cache + copied) // devices) + norms + activation_bytes(spec, DENSE_CONFIG, shared)
        )
        assert memory_bytes(spec, DENSE_CONFIG, shared) == expected
    assert activation_bytes(spec, DENSE_CONFIG, shared) > activation_bytes(spec, DENSE_CONFIG, workload) / 4


@pytest.mark.parametrize(("heads", "kv_heads", "devices"), [(32, 8, 3), (12, 4, 6), (32, 8, 64)])
def test_heads_that_cannot_be_divided_are_refused(heads, kv_heads, devices):
    spec = tiny_spec(heads=heads, kv_heads=kv_heads, hidden=32 * heads)
    with pytest.raises(ConfigurationError, match=f"tensor_parallel={devices}"):
        check_heads(spec, Workload(tensor_parallel=devices))
    check_heads(spec, Workload(tensor_parallel=kv_heads))
