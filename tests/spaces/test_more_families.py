"""Families that are read and not cut: mixtures with shared experts, latent attention, states, windows."""

from __future__ import annotations

import pytest

from paretune.spaces.architectures import check_weights, read_model
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.groups import fused_groups
from paretune.spaces.model import AttentionCache, LatentCache, ModelSpec, NoCache, StateCache
from paretune.spaces.size import dense_bytes, kv_cache_bytes
from paretune.spaces.target import Workload
from tests.models import MORE_FAMILIES, build_tiny, tiny_model


@pytest.fixture(scope="module")
def specs(tmp_path_factory) -> dict[str, ModelSpec]:
    found = {}
    for family in MORE_FAMILIES:
        folder = build_tiny(family, tmp_path_factory.mktemp(family))
        found[family] = read_model(folder)
        assert dense_bytes(found[family]) == sum(x.size_bytes for x in check_weights(folder, found[family]))
    return found


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_every_parameter_is_accounted_for_and_nothing_can_be_cut(specs, family):
    spec = specs[family]
    assert spec.parameter_shapes == {n: tuple(p.shape) for n, p in tiny_model(family).named_parameters()}
    assert {cut.kind for cut in spec.uncuttable} == {"blocks", "kv_heads", "ffn_channels", "hidden"}
    assert all(x.name.startswith(f"{spec.block_path}.{x.block}.") for x in spec.block_linears)
    grouped = [layer for group in fused_groups(spec) for layer in group.layers]
    assert sorted(grouped) == sorted(x.name for x in spec.linears if not (spec.tied and x.role == "head"))
    assert ModelSpec.from_json(spec.to_json()) == spec


LATENT = LatentCache(width=32 + 16)
STATES = {
    # conv channels x kernel, and the state itself
    "qwen3_5": [StateCache(numbers=(2 * 2 * 32 + 4 * 32) * 4 + 4 * 32 * 32)] * 3,
    "nemotron_h": [StateCache(numbers=(256 + 2 * 2 * 16) * 4 + 8 * 32 * 16)] * 2,
}


def test_what_each_block_keeps(specs):
    plain = AttentionCache(kv_heads=2, head_dim=32)
    sliding = plain.model_copy(update={"window": 16})
    assert specs["deepseek_v3"].cache == (LATENT,) * 3
    assert {x.indexer for x in specs["glm_moe_dsa"].cache if isinstance(x, LatentCache)} <= {0, 32}
    assert specs["glm_moe_dsa"].cache[0] == LATENT.model_copy(update={"indexer": 32})
    assert specs["qwen3_5"].cache == (*STATES["qwen3_5"], plain)
    assert specs["nemotron_h"].cache == (STATES["nemotron_h"][0], plain, NoCache(), STATES["nemotron_h"][1])
    assert specs["gpt_oss"].cache == (sliding, plain, sliding)
    assert specs["olmo2"].cache == (plain,) * 3
    assert [x.kv_heads * x.head_dim for _, x in specs["gemma4"].attention] == [64] * 5 + [128]
    assert [x.state > 0 for _, x in specs["falcon_h1"].attention] == [True] * 3
    assert [x.window for _, x in specs["llama4"].attention] == [32, 32, 32, None]


def test_latent_and_state_bytes_grow_as_they_should(specs):
    short, long = (Workload(batch=2, prompt_tokens=n, output_tokens=4) for n in (4, 12))
    tokens = 2 * (12 - 4)
    assert (
        kv_cache_bytes(specs["deepseek_v3"], DENSE_CONFIG, long)
        - kv_cache_bytes(specs["deepseek_v3"], DENSE_CONFIG, short)
        == tokens * 3 * 48 * 4
    )
    # of four blocks of Qwen3.5, one keeps keys and values
    assert (
        kv_cache_bytes(specs["qwen3_5"], DENSE_CONFIG, long)
        - kv_cache_bytes(specs["qwen3_5"], DENSE_CONFIG, short)
        == tokens * 2 * 2 * 32 * 4
    )


def test_what_stays_as_it_is_says_why(specs):
    kinds = {family: {tensor.kind for tensor in spec.fixed} for family, spec in specs.items()}
    assert {"router", "norm"} <= kinds["qwen2_moe"]
    assert {"convolution", "state", "norm"} <= kinds["qwen3_5"]
    assert "indexer" in kinds["glm_moe_dsa"]
    assert kinds["olmo2"] == {"norm"}


def test_mixtures_with_shared_experts(specs):
    mixture = specs["deepseek_v3"].layout
    assert [(block.ffn, block.experts, block.shared_experts) for block in mixture] == [
        (256, 0, 0), (128, 4, 128), (128, 4, 128),
    ]  # fmt: skip
    assert specs["gpt_oss"].linear("model.layers.0.mlp.experts.gate_up_proj").transposed
