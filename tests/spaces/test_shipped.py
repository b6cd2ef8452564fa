"""Checkpoints that ship quantized: what they are, and what they weigh by their configuration alone."""

from __future__ import annotations

import json
from math import prod

import pytest

from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.formats import integer_format
from paretune.spaces.size import weight_bytes

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "dtype": "bfloat16",
}  # fmt: skip
MIXTURE = LLAMA | {
    "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 128, "decoder_sparse_step": 1, "head_dim": 64,
}  # fmt: skip


def read(folder, values, quantization=None, beside=None):
    if quantization is not None:
        values = values | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(values))
    if beside is not None:
        (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": beside}))
    return read_model(folder)


def saved(spec, bits_of):
    """Bytes beside those of the plain model, when ``bits_of`` a layer's name are all that a weight takes."""
    plain = weight_bytes(spec.model_copy(update={"shipped": None}), DENSE_CONFIG)
    return plain - sum(
        linear.experts * linear.out_features * linear.in_features * (16 - bits_of(linear.name)) / 8
        for linear in spec.block_linears
    )


@pytest.mark.parametrize(
    ("quantization", "method", "bits"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8 + 8 * 4 / 128**2),
        ({"quant_method": "mxfp4"}, "mxfp4", 4 + 8 / 32),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq", 4 + (16 + 4) / 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "awq", 4 + (16 + 4) / 64),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", 4 + 32 / 64),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": {"num_bits": 3, "group_size": 32, "type": "int"}}},
            },
            "compressed-tensors",
            3 + 16 / 32,
        ),
    ],
)  # fmt: skip
def test_bytes_follow_from_what_the_configuration_says(tmp_path, quantization, method, bits):
    spec = read(tmp_path, LLAMA, quantization)
    assert spec.shipped is not None
    assert (spec.shipped.method, spec.shipped.exact) == (method, False)
    assert spec.shipped.weight_bytes == saved(spec, lambda _: bits)
    assert spec.parameters == read(tmp_path, LLAMA).parameters
    assert weight_bytes(spec, DENSE_CONFIG) == spec.shipped.weight_bytes


def test_only_the_model_as_it_came_has_its_own_bytes(tmp_path):
    spec = read(tmp_path, LLAMA, {"quant_method": "mxfp4"})
    name = spec.block_linears[0].name
    config = CompressionConfig(layers={name: LayerChoice(weight=integer_format(8, 128), method="rtn")})
    assert weight_bytes(spec, config) == weight_bytes(spec.model_copy(update={"shipped": None}), config)


@pytest.mark.parametrize(
    ("excluded", "kept"),
    [
        (["model.layers.0.self_attn.q_proj"], {"model.layers.0.self_attn.q_proj"}),
        (["*.layers.1.self_attn*"], {f"model.layers.1.self_attn.{x}_proj" for x in "qkvo"}),
        (
            ["language_model.model.layers.1.self_attn*"],
            {f"model.layers.1.self_attn.{x}_proj" for x in "qkvo"},
        ),
        (["model.layers.1.self_attn"], {f"model.layers.1.self_attn.{x}_proj" for x in "qkvo"}),
        (["re:.*down_proj"], {f"model.layers.{b}.mlp.down_proj" for b in (0, 1)}),
        (["down_proj", "lm_head"], {f"model.layers.{b}.mlp.down_proj" for b in (0, 1)}),
    ],
)
def test_layers_that_are_left_out_stay_as_wide_as_they_were(tmp_path, excluded, kept):
    for key in ("modules_to_not_convert", "ignore", "exclude_modules"):
        spec = read(tmp_path, LLAMA, {"quant_method": "mxfp4", key: excluded})
        assert spec.shipped is not None
        assert spec.shipped.weight_bytes == saved(spec, lambda name: 16 if name in kept else 4.25)


def test_layers_may_be_named_one_by_one_and_experts_by_number(tmp_path):
    """As ModelOpt does for mixed precision, in the names of a checkpoint that are not those of the library."""
    experts = "backbone.layers.1.block_sparse_moe.experts"
    layers = {f"{experts}.{n}.w{k}": {"quant_algo": "NVFP4"} for n in range(4) for k in (1, 2, 3)}
    layers["backbone.layers.0.attn.q_proj"] = {"quant_algo": "FP8"}
    spec = read(tmp_path, MIXTURE, beside={"quant_algo": "MIXED_PRECISION", "quantized_layers": layers})
    assert spec.shipped is not None
    assert spec.shipped.method == "modelopt MIXED_PRECISION"
    named = [x for x in spec.block_linears if x.block == 1 and "experts" in x.name]
    pieces = sum(x.experts * x.pieces for x in named)
    weights = sum(x.experts * prod((x.out_features, x.in_features)) for x in named)
    plain = weight_bytes(spec.model_copy(update={"shipped": None}), DENSE_CONFIG)
    expected = plain - weights * (16 - 4.5) / 8 + 8 * pieces - 256 * 256 + 8
    assert spec.shipped.weight_bytes == expected
