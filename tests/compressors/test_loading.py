"""Models and tokenizers from folders, and what is refused."""

import json

import pytest
import torch

from paretune.compressors.loading import (
    load_checkpoint,
    load_dense,
    load_tokenizer,
    model_hash,
    require_same_tokenizer,
)
from paretune.spaces.architectures import read_model
from paretune.spaces.errors import ModelError
from tests.models import build_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny("llama", tmp_path_factory.mktemp("model"), dtype="bfloat16")


def test_a_loaded_model_is_ready_to_be_measured(folder):
    model = load_dense(folder, read_model(folder))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert model.config.use_cache is False
    assert model.config._attn_implementation == "sdpa"


def test_capped_attention_is_computed_as_it_is_defined(tmp_path):
    folder = build_tiny("gemma2", tmp_path, attn_logit_softcapping=0.5)
    assert load_dense(folder, read_model(folder)).config._attn_implementation == "eager"


def test_the_hash_is_that_of_numbers_and_configuration(folder, tmp_path):
    same, other = (
        build_tiny("llama", tmp_path / "a", dtype="bfloat16"),
        build_tiny("llama", tmp_path / "b", seed=1, dtype="bfloat16"),
    )
    assert model_hash(same) == model_hash(folder)
    assert model_hash(other) != model_hash(folder)
    config = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert model_hash(same) != model_hash(folder)


def test_weights_of_another_model_are_refused(folder, tmp_path):
    wider = build_tiny("llama", tmp_path / "wider", intermediate_size=320)
    with pytest.raises(ModelError, match="mlp"):
        load_dense(folder, read_model(wider))


def test_a_cut_short_file_is_refused(tmp_path):
    folder = build_tiny("llama", tmp_path)
    spec = read_model(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_dense(folder, spec)


def test_an_unknown_architecture_is_refused_by_what_transformers_says(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(ModelError, match="nonesuch"):
        load_checkpoint(tmp_path)


def test_a_tokenizer_with_too_many_words_is_refused(tmp_path):
    folder = build_tiny("llama", tmp_path, vocab_size=200)
    with pytest.raises(ModelError, match="200 rows"):
        load_tokenizer(folder)


def test_a_missing_tokenizer_is_refused(tmp_path):
    folder = build_tiny("llama", tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(folder)


def test_two_models_must_speak_the_same_tokens(folder, tmp_path):
    other = build_tiny("llama", tmp_path)
    require_same_tokenizer(folder, other)
    words = json.loads((other / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (other / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(ModelError, match="differ"):
        require_same_tokenizer(folder, other)
