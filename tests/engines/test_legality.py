"""Rules that are particular to compressed-tensors checkpoints for transformers."""

from __future__ import annotations

import pytest

from paretune.engines import find_engine
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.formats import WeightFormat
from paretune.spaces.named_formats import find_choice
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.engines.conftest import choice, uniform
from tests.fakes import tiny_moe_spec, tiny_spec

BITS = (2, 3, 4, 5, 6, 8)


def ruling(spec, layer, wanted, engine="torch-cpu", pruned=WHOLE):
    legality = find_engine(engine).legality("x86")
    group = next(g for g in legality.groups(spec) if layer in g.layers)
    return legality.choice(spec, group, wanted, pruned)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_width_of_linears_is_legal_with_and_without_zero_points(bits, symmetric):
    spec = tiny_spec()
    assert ruling(spec, "model.layers.0.mlp.down_proj", choice(bits, 64, symmetric))
    assert ruling(spec, "model.layers.0.mlp.down_proj", choice(bits, None, symmetric))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_is_loaded_at_eight_bits_only(bits, tied):
    spec = tiny_spec(tied=tied)
    verdict = ruling(spec, spec.embedding.name, choice(bits))
    assert not verdict
    assert "embeddings of 8 and 16 bits alone" in verdict.reason
    assert ruling(spec, spec.embedding.name, choice(8))
    assert ruling(spec, spec.embedding.name, choice(8, symmetric=False))


@pytest.mark.parametrize("bits", BITS)
def test_an_untied_head_is_a_linear_like_any_other(bits):
    spec = tiny_spec(tied=False)
    assert ruling(spec, spec.head.name, choice(bits))


def test_experts_are_symmetric():
    spec = tiny_moe_spec()
    layer = next(x.name for x in spec.linears if x.role == "expert_down")
    assert ruling(spec, layer, choice(4))
    verdict = ruling(spec, layer, choice(4, symmetric=False))
    assert not verdict
    assert "zero points" in verdict.reason


def test_rounded_inputs_need_a_quantized_linear():
    spec = tiny_spec(tied=False)
    layer = "model.layers.0.mlp.down_proj"
    for engine in ("torch", "torch-cpu"):
        assert ruling(spec, layer, choice(8, None, a8=True), engine=engine)
        assert ruling(spec, layer, find_choice("fp8-static"), engine=engine)
    assert not ruling(spec, spec.embedding.name, choice(8, None, a8=True))
    assert not ruling(spec, layer, LayerChoice(activation=ActivationFormat()))
    odd = tiny_spec(tied=False, ffn=200)
    refused = ruling(odd, layer, find_choice("fp8-block-dynamic"))
    assert not refused
    assert "128" in refused.reason


def test_floats_are_for_linears_of_their_own():
    spec = tiny_spec(tied=False)
    for name in ("fp8-channel", "nvfp4", "mxfp4", "mxfp8", "nf4"):
        assert ruling(spec, "model.layers.0.mlp.down_proj", find_choice(name))
        assert not ruling(spec, spec.embedding.name, find_choice(name))


def test_patterns_of_zeros_must_fit_the_row():
    sparse = LayerChoice(sparsity=Sparsity(fraction=0.5, pattern="4:8"))
    spec = tiny_spec()
    assert ruling(spec, "model.layers.0.mlp.down_proj", sparse)
    assert not ruling(spec, "model.layers.0.mlp.down_proj", sparse, pruned=PrunedShape(ffn_channels=100))


def test_dense_weights_are_called_sixteen_bits():
    wide = LayerChoice(weight=WeightFormat(num_bits=32))
    assert not ruling(tiny_spec(), "model.layers.0.mlp.down_proj", wide)


def test_the_space_holds_what_is_legal_and_says_what_is_not():
    spec = tiny_spec()
    asked = Restrictions(bits=(2, 4, 16), embedding_bits=(4, 8, 16), group_size=32, kv_bits=(8, 16))
    space = SearchSpace(spec, find_engine("torch-cpu").legality("x86"), asked)
    embedding = space.parameters[space.index("embedding")]
    assert sorted({c.weight.num_bits for c in embedding.choices}) == [8, 16]
    assert any("embedding" in what for what in space.refused)
    assert set(space.parameters[space.index("kv")].choices) == {KVFormat(), KVFormat(num_bits=8)}


def test_experts_of_one_checkpoint_share_a_scheme():
    spec, engine = tiny_moe_spec(), find_engine("torch-cpu")
    assert engine.export_ruling(spec, uniform(spec, choice(4)))
    mixed = {x.name: choice(4 if x.block else 3) for x in spec.block_linears if "expert" in x.role}
    verdict = engine.export_ruling(spec, CompressionConfig(layers=mixed))
    assert not verdict
    assert "int3-g32, int4-g32" in verdict.reason
    some = {name: wanted for name, wanted in mixed.items() if wanted.weight.num_bits == 4}
    assert engine.export_ruling(spec, CompressionConfig(layers=some))
