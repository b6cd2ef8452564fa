"""Checkpoints that would load and mean another model: refused by name, before anything is computed from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paretune.compressors.loading import load_checkpoint
from paretune.spaces.architectures import check_weights, read_model
from paretune.spaces.errors import ModelError
from tests.models import build_tiny


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Tensors by the end of their name: other ones, or none."""
    file = folder / "model.safetensors"
    found = load_file(file)
    for end, tensor in tensors.items():
        name = next(name for name in found if name.replace(".", "_").endswith(end))
        del found[name]
        if tensor is not None:
            found[name] = tensor
    save_file(found, file, {"format": "pt"})


@pytest.fixture
def folder(tmp_path):
    return build_tiny("llama", tmp_path)


def test_a_tensor_that_is_absent_is_refused_though_another_makes_up_its_size(folder):
    file = folder / "model.safetensors"
    found = load_file(file)
    gone = next(name for name in found if name.endswith("0.self_attn.q_proj.weight"))
    found["model.layers.99.self_attn.q_proj.weight"] = found.pop(gone)
    save_file(found, file, {"format": "pt"})
    with pytest.raises(ModelError, match=gone):
        check_weights(folder, read_model(folder))


def test_a_norm_that_is_absent_is_not_filled_in(folder):
    change(folder, model_norm_weight=None)
    with pytest.raises(ModelError, match=r"tensor model\.norm\.weight .*is absent"):
        load_checkpoint(folder)


def test_weights_of_two_types_are_refused(folder):
    found = load_file(folder / "model.safetensors")
    change(folder, model_norm_weight=found["model.norm.weight"].to(torch.bfloat16))
    with pytest.raises(ModelError, match=r"norm"):
        check_weights(folder, read_model(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_is_named(folder, value):
    found = load_file(folder / "model.safetensors")["model.norm.weight"].clone()
    found[3] = value
    change(folder, model_norm_weight=found)
    with pytest.raises(ModelError, match=r"tensor model\.norm\.weight .*not finite"):
        load_checkpoint(folder)


def test_an_adapter_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        read_model(folder)


def test_what_a_file_beside_says_of_the_weights_is_believed(folder):
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    spec = read_model(folder)
    assert spec.shipped is not None
    assert spec.shipped.method == "modelopt NVFP4"
    with pytest.raises(ModelError, match="already quantized with modelopt NVFP4"):
        check_weights(folder, spec)
