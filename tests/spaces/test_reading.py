"""config.json in both spellings, multimodal and unknown models, the reference models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from paretune.spaces.architectures import check_weights, read_model
from paretune.spaces.errors import ModelError
from paretune.spaces.size import dense_bytes
from tests.models import FAMILIES, build_tiny

REFERENCE = Path(__file__).parents[2].parent / "shared" / "models"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no ../shared/models beside the checkout")


def written(folder: Path, values: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


@pytest.mark.parametrize("spelling", [{"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}])
def test_both_spellings_of_the_type(tmp_path, spelling):
    spec = read_model(written(tmp_path, {**LLAMA, **spelling}))
    assert spec.dtype == "bfloat16"
    assert spec.dtype_bytes == 2


def test_stored_type_wins_over_the_file(tmp_path):
    folder = build_tiny("llama", tmp_path, dtype="bfloat16")
    values = json.loads((folder / "config.json").read_text())
    written(folder, {**values, "dtype": "float32"})
    assert read_model(folder).dtype == "bfloat16"


def test_the_type_may_lie_with_the_text(tmp_path):
    values = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}
    text = {"text_config": {"num_hidden_layers": 2, "torch_dtype": "bfloat16"}}
    spec = read_model(written(tmp_path, values | text))
    assert (spec.dtype, spec.blocks, spec.tied) == ("bfloat16", 2, True)


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0}, 1024),
        ({"type": "linear", "factor": 2}, 512),
        ({"type": "dynamic", "factor": 2.0}, 512),
        (
            {
                "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            },
            256,
        ),
        ({"rope_type": "default", "rope_theta": 1e4}, 256),
        (None, 256),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_the_context_is_the_stretched_one(tmp_path, key, rope, context):
    assert read_model(written(tmp_path, {**LLAMA, key: rope})).context == context


@pytest.mark.parametrize(
    "rope", [{"rope_type": "yarn", "factor": "4"}, ["yarn"], {"rope_type": "llama3", "factor": 8.0}]
)
def test_a_stretch_that_transformers_refuses(tmp_path, rope):
    with pytest.raises(ModelError, match="transformers"):
        read_model(written(tmp_path, {**LLAMA, "rope_parameters": rope}))


def test_absent_kv_heads_are_all_heads(tmp_path):
    assert read_model(written(tmp_path, LLAMA)).kv_heads == 4
    assert read_model(written(tmp_path, {**LLAMA, "num_key_value_heads": None})).kv_heads == 4
    assert read_model(written(tmp_path, {**LLAMA, "num_key_value_heads": 2})).kv_heads == 2


def windows(spec) -> list[int | None]:
    return [layer.window for layer in spec.cache]


def test_windows_of_mistral(tmp_path):
    mistral = {
        **LLAMA,
        "num_key_value_heads": 2,
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
    }
    assert windows(read_model(written(tmp_path, mistral | {"sliding_window": 16}))) == [16] * 4
    assert windows(read_model(written(tmp_path, mistral | {"sliding_window": None}))) == [None] * 4


def test_windows_of_qwen2(tmp_path):
    qwen = {**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "sliding_window": 16}
    qwen["num_key_value_heads"] = 2
    assert windows(read_model(written(tmp_path, qwen))) == [None] * 4
    used = qwen | {"use_sliding_window": True, "max_window_layers": 3}
    assert windows(read_model(written(tmp_path, used))) == [None, None, None, 16]


def test_windows_of_gemma(tmp_path):
    gemma = {**LLAMA, "sliding_window": 16, "num_hidden_layers": 7}
    two = gemma | {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}
    assert windows(read_model(written(tmp_path, two))) == [16, None, 16, None, 16, None, 16]
    three = gemma | {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
    assert windows(read_model(written(tmp_path, three))) == [16] * 5 + [None, 16]
    patterned = three | {"sliding_window_pattern": 3}
    assert windows(read_model(written(tmp_path, patterned))) == [16, 16, None, 16, 16, None, 16]
    kinds = ["full_attention"] * 6 + ["sliding_attention"]
    assert windows(read_model(written(tmp_path, patterned | {"layer_types": kinds}))) == [None] * 6 + [16]


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts"])
def test_both_spellings_of_experts(tmp_path, key):
    moe = {**LLAMA, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], key: 6}
    spec = read_model(written(tmp_path, moe | {"moe_intermediate_size": 64, "num_experts_per_tok": 3}))
    assert (spec.experts, spec.active_experts, spec.ffn_size) == (6, 3, 64)


def test_multimodal_gemma3_is_read_whole(tmp_path):
    import transformers

    text = transformers.Gemma3TextConfig(**FAMILIES["gemma3"][2])
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 16, "vision_use_head": False}
    config = transformers.Gemma3Config(
        text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    spec = read_model(tmp_path)
    assert spec.parameter_shapes == {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert dense_bytes(spec) == sum(tensor.size_bytes for tensor in check_weights(tmp_path, spec))
    assert spec.block_path == "model.language_model.layers"


def test_old_buffers_are_not_weights(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = build_tiny("gpt2", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    spec = read_model(folder)
    import numpy as np

    for block in range(3):
        tensors[f"transformer.h.{block}.attn.bias"] = np.ones((1, 1, 256, 256), np.float32)
        tensors[f"transformer.h.{block}.attn.masked_bias"] = np.array(-1e4, np.float32)
    del tensors["transformer.h.0.mlp.c_fc.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(Exception, match=r"transformer\.h\.0\.mlp\.c_fc\.weight"):
        check_weights(folder, spec)


@pytest.mark.reference
@needs_reference
@pytest.mark.parametrize("name", ["reference-48m", "reference-29m", "reference-moe"])
def test_reference_models(name, tmp_path):
    folder = REFERENCE / name
    spec = read_model(folder)
    assert dense_bytes(spec) == sum(tensor.size_bytes for tensor in check_weights(folder, spec))
    shutil.copy(folder / "config.json", tmp_path)
    assert read_model(tmp_path, source=str(folder)) == spec
