"""The search space: what is in it, what is refused, and points that decode and encode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import UNTOUCHED, LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, SpaceError
from paretune.spaces.formats import integer_format
from paretune.spaces.model import Uncuttable
from paretune.spaces.patterns import LayerRule, Restrictions
from paretune.spaces.size import dense_bytes, weight_bytes
from paretune.spaces.space import SearchSpace
from tests.fakes import FakeLegality, tiny_moe_spec, tiny_spec

SPEC = tiny_spec(blocks=8, dtype="bfloat16")
SMALL = Restrictions(group_size=32, bits=(2, 4, 16), ffn_channels=(192, 128), kv_heads=(1,), blocks=(7, 6, 5))
SPACES = {
    "small": SearchSpace(SPEC, FakeLegality(), SMALL, block_order=(3, 5, 0, 7, 1, 2, 4, 6)),
    "singles": SearchSpace(SPEC, FakeLegality(fused=False), SMALL),
    "untied": SearchSpace(tiny_spec(tied=False), FakeLegality(), Restrictions(group_size=64)),
    "mixture": SearchSpace(tiny_moe_spec(), FakeLegality(), Restrictions(group_size=64, kv_heads=(1,))),
    "no-dense": SearchSpace(
        SPEC, FakeLegality(), Restrictions(bits=(2, 4), embedding_bits=(8,), kv_bits=(8,))
    ),
    "one-choice": SearchSpace(
        SPEC, FakeLegality(), Restrictions(bits=(16,), embedding_bits=(16,), kv_bits=(16,), sparsity=(0,))
    ),
}


def quantized(bits: int) -> LayerChoice:
    return LayerChoice(weight=integer_format(bits, 32), method="weighted")


def points(space: SearchSpace) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*(st.integers(0, size - 1) for size in space.sizes))


@pytest.mark.parametrize("name", SPACES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_decode_and_encode_round_trip(name, data):
    space = SPACES[name]
    point = data.draw(points(space))
    config = space.decode(point)
    again = space.encode(config)
    assert space.decode(again) == config
    assert space.decode(again).digest == config.digest
    kept = [
        i
        for i, parameter in enumerate(space.parameters)
        if parameter.group is None or config.keeps_block(parameter.group.block)
    ]
    assert [again[i] for i in kept] == [point[i] for i in kept]


@pytest.mark.parametrize("name", SPACES)
def test_configurations_survive_json(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    for _ in range(20):
        config = space.decode(space.random(rng))
        assert CompressionConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", SPACES)
def test_random_points_are_legal_and_reproducible(name):
    space = SPACES[name]
    draw = [space.random(np.random.default_rng(7)) for _ in range(3)]
    assert draw[0] == draw[1] == draw[2]
    assert all(space.ruling(point) for point in draw)


def test_parameters_cover_each_layer_once_and_then_the_model():
    for space in SPACES.values():
        layers = [
            layer for parameter in space.parameters if parameter.group for layer in parameter.group.layers
        ]
        tied_head = [space.spec.head.name] if space.spec.tied else []
        assert sorted(layers + tied_head) == sorted(linear.name for linear in space.spec.linears)
        model_wide = [parameter.name for parameter in space.parameters if parameter.group is None]
        assert model_wide == ["kv", "pruned.blocks", "pruned.kv_heads", "pruned.ffn_channels"]
        assert len({parameter.name for parameter in space.parameters}) == len(space.parameters)


def test_the_dense_point():
    assert SPACES["small"].decode(SPACES["small"].origin()) == DENSE_CONFIG
    widest = SPACES["no-dense"].decode(SPACES["no-dense"].origin())
    assert {c.weight.num_bits for c in widest.layers.values()} == {4, 8}
    assert widest.kv == KVFormat(num_bits=8)


def test_uniform_points():
    space = SPACES["small"]
    point = space.uniform(4, "weighted", embedding_bits=8, kv_bits=8)
    config = space.decode(point)
    inside = {config.choice(linear.name) for linear in SPEC.block_linears}
    assert inside == {LayerChoice(weight=integer_format(4, 32), method="weighted")}
    assert config.choice(SPEC.embedding.name).weight.num_bits == 8
    assert config.kv.num_bits == 8
    assert config.pruned.whole
    assert space.decode(space.uniform(16, "none")) == DENSE_CONFIG
    assert space.uniform(3, "weighted") is None
    assert SPACES["no-dense"].uniform(4, "weighted", embedding_bits=8) is None
    assert SPACES["no-dense"].uniform(4, "weighted", embedding_bits=8, kv_bits=8) is not None


def test_hqq_is_asymmetric_and_zeros_go_with_the_first_method():
    choices = SPACES["small"].parameters[1].choices
    assert all(c.weight.symmetric == (c.method != "hqq") for c in choices)
    assert {c.method for c in choices if c.sparsity} == {"weighted", "none"}
    assert {c.method for c in choices if not c.sparsity} == {"weighted", "hqq", "gptq", "none"}


def test_pruned_sizes_lose_the_least_important_blocks():
    space = SPACES["small"]
    point = list(space.origin())
    point[space.index("pruned.blocks")] = space.parameters[space.index("pruned.blocks")].choices.index(6)
    assert space.decode(point).pruned.blocks == (0, 1, 2, 4, 6, 7)
    assert space.kept_blocks(8) == tuple(range(8))


@pytest.mark.parametrize("name", [name for name in SPACES if name != "no-dense"])
def test_choice_bytes_add_up(name):
    space = SPACES[name]
    dense, point = space.origin(), list(space.random(np.random.default_rng(3)))
    point[-4:] = dense[-4:]
    saved = sum(
        space.choice_bytes(space.parameters[i])[dense[i]] - space.choice_bytes(space.parameters[i])[point[i]]
        for i in space.layer_parameters
    )
    assert dense_bytes(space.spec) - saved == weight_bytes(space.spec, space.decode(point))
    with pytest.raises(SpaceError, match="chooses for no group"):
        space.choice_bytes(space.parameters[space.index("kv")])


def test_choice_bytes_of_a_pruned():
    space = SPACES["small"]
    parameter = space.parameters[space.index("blocks.0.down")]
    half = space.choice_bytes(parameter, PrunedShape(ffn_channels=128))
    assert (
        half[parameter.choices.index(UNTOUCHED)] * 2
        == space.choice_bytes(parameter)[parameter.choices.index(UNTOUCHED)]
    )


# -- what is refused ---


def test_refused_choices_are_not_in_the_space_and_have_a_reason():
    def no_three(group, choice) -> str:
        return "no kernel for 3 bits" if choice.weight.num_bits == 3 else ""

    space = SearchSpace(SPEC, FakeLegality(refuse_choice=no_three))
    widths = {
        c.weight.num_bits for parameter in space.parameters if parameter.group for c in parameter.choices
    }
    assert 3 not in widths
    assert space.refused["blocks.0.qkv: int3-g128/weighted"] == "no kernel for 3 bits"


def test_a_group_without_a_legal_choice():
    legality = FakeLegality(refuse_choice=lambda group, choice: "not here" if group.kind == "head" else "")
    with pytest.raises(SpaceError, match=r"group head: no allowed format is legal for fake \(not here\)"):
        SearchSpace(tiny_spec(tied=False), legality)


def test_a_cache_that_the_engine_refuses():
    legality = FakeLegality(refused_kv=("kv8",))
    space = SearchSpace(SPEC, legality)
    assert space.parameters[space.index("kv")].choices == (KVFormat(),)
    assert space.refused["kv: kv8"] == "kv8 is refused"
    with pytest.raises(SpaceError, match="cache of 8 bits: is refused by fake"):
        SearchSpace(SPEC, legality, Restrictions(kv_bits=(8,)))


def test_a_pruned_that_the_engine_refuses():
    legality = FakeLegality(refused_pruned=("kvheads1",))
    space = SearchSpace(SPEC, legality)
    assert space.parameters[space.index("pruned.kv_heads")].choices == (None,)
    assert space.refused["pruned.kv_heads=1"] == "kvheads1 is refused"
    with pytest.raises(SpaceError, match="1 key-value heads: is refused by fake"):
        SearchSpace(SPEC, legality, Restrictions(kv_heads=(1,)))


def test_a_cut_that_the_architecture_cannot_express():
    spec = SPEC.model_copy(update={"uncuttable": (Uncuttable(kind="kv_heads", reason="heads are derived"),)})
    space = SearchSpace(spec, FakeLegality())
    assert space.parameters[space.index("pruned.kv_heads")].choices == (None,)
    assert space.refused["pruned.kv_heads"] == "heads are derived"
    with pytest.raises(SpaceError, match=r"1 key-value heads: heads are derived\. Keep all 2"):
        SearchSpace(spec, FakeLegality(), Restrictions(kv_heads=(1,)))
    SearchSpace(spec, FakeLegality(), Restrictions(kv_heads=(2,)))


@pytest.mark.parametrize(
    "counts", [{"blocks": (9,)}, {"blocks": (0,)}, {"kv_heads": (3,)}, {"ffn_channels": (257,)}]
)
def test_a_pruned_larger_than_the_model(counts):
    with pytest.raises(SpaceError, match="the model has"):
        SearchSpace(SPEC, FakeLegality(), Restrictions(**counts))


def test_the_full_count_alone_forbids_pruned_sizes():
    space = SearchSpace(SPEC, FakeLegality(), Restrictions(blocks=(8,), kv_heads=(2,), ffn_channels=(256,)))
    assert space.sizes[-3:] == (1, 1, 1)


def test_a_pruned_whose_rows_a_group_size_does_not_divide():
    space = SearchSpace(SPEC, FakeLegality(), Restrictions(group_size=128, ffn_channels=(192,)))
    point = list(space.uniform(4, "weighted"))
    assert space.ruling(point)
    point[space.index("pruned.ffn_channels")] = 1
    verdict = space.ruling(point)
    assert not verdict
    assert verdict.reason == "group size 128 does not divide 192"
    point[space.index("pruned.blocks")] = 1
    gone = space.pruned(point).blocks
    for i in space.layer_parameters:
        parameter = space.parameters[i]
        if parameter.group.block in gone and parameter.name.endswith(".down"):
            point[i] = parameter.choices.index(UNTOUCHED)
    assert space.ruling(point), "choices of cut blocks do not count"


def test_a_pattern_that_matches_nothing():
    with pytest.raises(SpaceError, match=r"layer pattern 'blocks\.9\.\*': matches no group"):
        SearchSpace(SPEC, FakeLegality(), Restrictions(rules=(LayerRule(pattern="blocks.9.*", bits=(4,)),)))


def test_an_order_that_is_none():
    with pytest.raises(SpaceError, match="must name each of 8 blocks once"):
        SearchSpace(SPEC, FakeLegality(), block_order=(0, 1))


def test_points_that_are_none():
    space = SPACES["small"]
    for point in ((0,), (99,) * len(space.parameters), (-1,) * len(space.parameters)):
        with pytest.raises(ConfigurationError, match="must hold one index a parameter"):
            space.decode(point)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (CompressionConfig(layers={"model.layers.0.mlp.gate_proj": quantized(4)}), "must share a choice"),
        (CompressionConfig(layers={"model.embed_tokens": quantized(2)}), "is not in the space"),
        (CompressionConfig(layers={"lm_head": quantized(8)}), "belongs to no group"),
        (CompressionConfig(pruned=PrunedShape(blocks=(0, 1, 2, 3, 4))), "block order"),
        (CompressionConfig(pruned=PrunedShape(ffn_channels=64)), "is not in the space"),
    ],
)
def test_configurations_outside_the_space(config, match):
    with pytest.raises(ConfigurationError, match=match):
        SPACES["small"].encode(config)


def test_default_ladders():
    space = SearchSpace(tiny_spec(blocks=16, ffn=512), FakeLegality())
    ladders = {parameter.name: parameter.choices for parameter in space.parameters if parameter.group is None}
    assert ladders["pruned.blocks"] == (None, 15, 14, 13, 12)
    assert ladders["pruned.kv_heads"] == (None, 1)
    assert ladders["pruned.ffn_channels"] == (None, 384, 256)
