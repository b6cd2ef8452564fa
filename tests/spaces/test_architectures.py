"""Contract of every family: the specification names each tensor of transformers' model and counts its bytes.

A new family is one line in ``tests.models.FAMILIES``; reading what cannot be read is in ``test_bad_models``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.spaces.architectures import check_weights, pruned_config, read_model
from paretune.spaces.architectures.families import FAMILIES as LINES
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.groups import fused_groups, single_groups
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import dense_bytes, fixed_bytes, kept_linears, kept_shape, weight_bytes
from tests.models import FAMILIES, build_tiny

VARIANTS = {
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-sliding": ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "qwen3-biases": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "gemma2-untied": ("gemma2", {"tie_word_embeddings": False, "attention_bias": True}),
    "gemma3-alternating": (
        "gemma3",
        {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "phi3-tied": ("phi3", {"tie_word_embeddings": True, "sliding_window": 32}),
    "gpt_neox-tied": ("gpt_neox", {"tie_word_embeddings": True, "attention_bias": False}),
    "opt-projected": ("opt", {"word_embed_proj_dim": 64, "do_layer_norm_before": False}),
    "opt-bare": ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
    "gpt2-untied": ("gpt2", {"tie_word_embeddings": False, "n_inner": None}),
    "mixtral-tied": ("mixtral", {"tie_word_embeddings": True}),
    "qwen3_moe-mixed": ("qwen3_moe", {"mlp_only_layers": [1], "tie_word_embeddings": True}),
    "qwen3_moe-stepped": ("qwen3_moe", {"decoder_sparse_step": 2, "num_hidden_layers": 4}),
}
CASES = {**{family: (family, {}) for family in FAMILIES}, **VARIANTS}
PRUNED_SIZES = {
    "blocks": PrunedShape(blocks=(0, 2)),
    "kv_heads": PrunedShape(kv_heads=1),
    "ffn_channels": PrunedShape(ffn_channels=64),
    "hidden": PrunedShape(hidden=96),
}


@pytest.fixture(scope="module", params=CASES)
def built(request, tmp_path_factory) -> tuple[Path, ModelSpec]:
    family, changes = CASES[request.param]
    folder = build_tiny(family, tmp_path_factory.mktemp(request.param), **changes)
    return folder, read_model(folder)


def parameters_of(folder: Path, config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the transformers model that a config.json describes, without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_every_parameter_is_accounted_for(built, tmp_path):
    folder, spec = built
    assert spec.parameter_shapes == parameters_of(tmp_path, json.loads((folder / "config.json").read_text()))


def test_dense_bytes_are_those_of_the_files(built):
    folder, spec = built
    assert dense_bytes(spec) == sum(tensor.size_bytes for tensor in check_weights(folder, spec))


def test_one_embedding_one_head_and_blocks_between(built):
    _, spec = built
    assert spec.linears[0] is spec.embedding
    assert spec.linears[-1] is spec.head
    assert [linear.block for linear in spec.block_linears] == sorted(x.block for x in spec.block_linears)
    assert len(spec.cache) == spec.blocks
    assert all(x.name.startswith(f"{spec.block_path}.{x.block}.") for x in spec.block_linears)


def test_json_round_trip(built):
    _, spec = built
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("kind", PRUNED_SIZES)
def test_a_pruned_has_the_kept_shapes_or_is_refused(built, kind, tmp_path):
    folder, spec = built
    pruned, values = PRUNED_SIZES[kind], json.loads((folder / "config.json").read_text())
    if any(cut.kind == kind for cut in spec.uncuttable):
        with pytest.raises(ConfigurationError, match="Keep all"):
            pruned_config(values, spec, pruned)
        return
    actual = parameters_of(tmp_path, pruned_config(values, spec, pruned))
    config = CompressionConfig(pruned=pruned)
    new_index = {old: new for new, old in enumerate(pruned.blocks or range(spec.blocks))}
    expected = {}
    for linear in kept_linears(spec, config):
        rows, columns = kept_shape(spec, linear, pruned)
        shape = (columns, rows) if linear.transposed else (rows, columns)
        shape = (linear.experts, *shape) if linear.role.startswith("expert") else shape
        expected[_renamed(linear.parameter, linear.block, new_index)] = shape
    numbers = {name: _product(shape) for name, shape in actual.items()}
    for tensor in spec.fixed:
        if config.keeps_block(tensor.block):
            name = _renamed(tensor.name, tensor.block, new_index)
            assert numbers[name] * spec.dtype_bytes == fixed_bytes(spec, tensor, config)
            expected[name] = actual[name]
    assert expected == actual
    assert weight_bytes(spec, config) == sum(numbers.values()) * spec.dtype_bytes


def test_a_pruned_runs_in_transformers(built, tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, spec = built
    counts = {"blocks": (0, 2), "kv_heads": 1, "ffn_channels": 64, "hidden": 96}
    pruned = PrunedShape(**{kind: n for kind, n in counts.items() if spec.why_uncuttable(kind) is None})
    values = pruned_config(json.loads((folder / "config.json").read_text()), spec, pruned)
    (tmp_path / "config.json").write_text(json.dumps(values))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    with torch.no_grad():
        logits = model(torch.arange(40)[None]).logits
    assert logits.shape == (1, 40, spec.vocabulary)
    assert logits.isfinite().all()


@pytest.mark.parametrize("partition", [fused_groups, single_groups])
def test_groups_are_a_partition_of_the_layers(built, partition):
    _, spec = built
    groups = partition(spec)
    layers = [layer for group in groups for layer in group.layers]
    assert layers == [x.name for x in spec.linears if not (spec.tied and x.role == "head")]
    assert len({group.name for group in groups}) == len(groups)
    assert all(spec.linear(layer).block == group.block for group in groups for layer in group.layers)


def _renamed(name: str, block: int | None, new_index: dict[int, int]) -> str:
    return name if block is None else name.replace(f".{block}.", f".{new_index[block]}.", 1)


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for extent in shape:
        result *= extent
    return result


def test_every_family_that_can_be_cut_is_under_contract():
    assert set(LINES) <= set(FAMILIES)
