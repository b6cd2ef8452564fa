"""What cannot be read is refused, naming the file, the rule and the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paretune.spaces.architectures import check_weights, read_model
from paretune.spaces.architectures.headers import INDEX, SINGLE
from paretune.spaces.errors import ModelError
from tests.models import build_tiny


@pytest.fixture
def folder(tmp_path) -> Path:
    return build_tiny("llama", tmp_path)


def change(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def shard(folder: Path) -> None:
    """Split the weights over two files with an index."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for file, half in halves.items():
        save_file({name: tensors[name] for name in half}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, half in halves.items() for name in half}}
    (folder / INDEX).write_text(json.dumps(index))


def test_no_folder_and_no_config(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json: cannot be read \(No such file"):
        read_model(tmp_path / "absent")


def test_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        read_model(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="must hold an object"):
        read_model(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_size", "wide"), ("num_hidden_layers", 0), ("vocab_size", True)]
)
def test_numbers_that_are_none(folder, key, value):
    change(folder, **{key: value})
    with pytest.raises(ModelError, match=rf"{key}"):
        read_model(folder)


def test_heads_that_do_not_share(folder):
    change(folder, num_key_value_heads=3)
    with pytest.raises(ModelError, match="must be a multiple"):
        read_model(folder)


def test_quantized_config_is_named_by_its_method(folder):
    change(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    spec = read_model(folder)
    with pytest.raises(ModelError, match="already quantized with gptq"):
        check_weights(folder, spec)


def test_a_quantization_that_is_no_object_is_refused(folder):
    change(folder, quantization_config="int4")
    with pytest.raises(ModelError, match="must be an object"):
        read_model(folder)


@pytest.mark.parametrize(
    ("name", "dtype", "method"),
    [
        ("weight_packed", np.int32, "compressed-tensors"),
        ("qweight", np.int32, "GPTQ or AWQ"),
        ("weight.absmax", np.float32, "bitsandbytes"),
        ("weight", np.int8, "codes of type I8"),
    ],
)
def test_packed_tensors_are_refused_by_method(folder, name, dtype, method):
    tensors = load_file(folder / SINGLE)
    tensors.pop("model.layers.0.mlp.up_proj.weight")
    tensors[f"model.layers.0.mlp.up_proj.{name}"] = np.zeros((4, 4), dtype)
    save_file(tensors, folder / SINGLE)
    with pytest.raises(ModelError, match=method):
        check_weights(folder)


@pytest.mark.parametrize("code", [False, True])
def test_an_architecture_that_transformers_does_not_know(folder, code):
    own = {"auto_map": {"AutoConfig": "configuration_newcomer.NewcomerConfig"}} if code else {}
    change(folder, model_type="newcomer", **own)
    with pytest.raises(ModelError, match=r"'newcomer'.*not known to transformers") as refusal:
        read_model(folder)
    assert ("needs the code of its repository" in str(refusal.value)) == code


def test_an_encoder_with_a_decoder(folder):
    change(folder, model_type="t5", architectures=["T5ForConditionalGeneration"])
    with pytest.raises(ModelError, match="only decoders"):
        read_model(folder)


def test_a_class_without_a_language_head(folder):
    change(folder, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(ModelError, match="LlamaForSequenceClassification"):
        read_model(folder)


def test_no_weights_at_all(folder):
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*save_pretrained"):
        check_weights(folder)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_file_cut_short(folder, keep):
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors.*(cut short|its header promises).*again"):
        check_weights(folder)


def test_a_file_that_is_too_long(folder):
    with (folder / SINGLE).open("ab") as stream:
        stream.write(b"\0" * 8)
    with pytest.raises(ModelError, match="its header promises"):
        check_weights(folder)


def test_a_header_length_that_is_absurd(folder):
    (folder / SINGLE).write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="cut short or no safetensors file"):
        check_weights(folder)


def test_shards_are_read_by_their_index(folder):
    spec = read_model(folder)
    before = {tensor.name: tensor.shape for tensor in check_weights(folder, spec)}
    shard(folder)
    assert {tensor.name: tensor.shape for tensor in check_weights(folder, spec)} == before
    assert read_model(folder) == spec


def test_an_absent_shard_is_named(folder):
    shard(folder)
    (folder / "b.safetensors").unlink()
    with pytest.raises(ModelError, match=r"b\.safetensors.*absent"):
        check_weights(folder)


@pytest.mark.parametrize("name", ["../b.safetensors", "/etc/passwd", "sub/b.safetensors", ".."])
def test_an_index_must_not_leave_the_folder(folder, name):
    shard(folder)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = name
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="plain file name inside the model folder"):
        check_weights(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none(folder, text):
    (folder / INDEX).write_text(text)
    with pytest.raises(ModelError, match=INDEX):
        check_weights(folder)


def test_weights_of_another_model(folder, tmp_path_factory):
    other = read_model(build_tiny("llama", tmp_path_factory.mktemp("other"), intermediate_size=512))
    with pytest.raises(ModelError, match=r"config\.json promises"):
        check_weights(folder, other)


def test_weights_with_a_tensor_missing(folder):
    spec = read_model(folder)
    tensors = load_file(folder / SINGLE)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / SINGLE)
    with pytest.raises(ModelError, match=r"model\.norm\.weight is absent"):
        check_weights(folder, spec)
