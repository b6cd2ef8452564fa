"""Models that cannot be searched, by the command line: value, rule, remedy, exit code 2, and nothing is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from paretune.commands.main import main
from tests.models import build_tiny

OWN_CODE = {
    "AutoConfig": "configuration_newcomer.NewcomerConfig",
    "AutoModelForCausalLM": "modeling_newcomer.Model",
}
NEWCOMER = {"model_type": "newcomer", "architectures": ["NewcomerForCausalLM"]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return build_tiny("llama", tmp_path_factory.mktemp("plain") / "model", tie_word_embeddings=False)


@pytest.fixture
def changed(plain, tmp_path):
    """``changed(**values)``: a copy of the model whose ``config.json`` says something else."""

    def copy(**changes: object) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(plain, folder)
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **changes}))
        return folder

    return copy


def refused(capsys, *words: object) -> dict[str, str]:
    """What a command says that refuses: value, rule and remedy."""
    capsys.readouterr()
    assert main([*map(str, words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("error: "))
    value, rule, remedy = (line.partition(": ")[2].strip() for line in lines[start:])
    assert value
    assert rule
    assert remedy
    return {"value": value, "rule": rule, "remedy": remedy}


def search(folder: Path, text: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("search", folder, "--text", text, "--out", out, "--window-tokens", 32, "--minutes", 0.02, *more)


CONTRADICTIONS = {
    "wider": ({"intermediate_size": 512}, "has shape (128, 256), config.json promises (128, 512)"),
    "more rows": ({"vocab_size": 300}, "has shape (256, 128), config.json promises (300, 128)"),
    "more blocks": ({"num_hidden_layers": 5}, "model.layers.3.self_attn.q_proj.weight is absent"),
    "fewer blocks": ({"num_hidden_layers": 2}, "is of one block more than config.json counts (2)"),
    "another family": (
        {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
        "model.layers.0.self_attn.q_norm.weight is absent",
    ),
    "biases": ({"attention_bias": True}, "model.layers.0.self_attn.q_proj.bias is absent"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_configuration_that_contradicts_the_weights(changed, text, tmp_path, capsys, case):
    changes, said = CONTRADICTIONS[case]
    folder = changed(**changes)
    for words in (search(folder, text, tmp_path / "deep" / "run"), ("inspect", folder)):
        found = refused(capsys, *words)
        assert said in found["rule"]
        assert str(folder) in found["value"]
        assert "weights of the same model" in found["remedy"]
    assert not (tmp_path / "deep").exists()


def test_a_head_that_is_tied_by_the_configuration_alone(changed, text, tmp_path, capsys):
    folder = changed(tie_word_embeddings=True)
    found = refused(capsys, *search(folder, text, tmp_path / "deep" / "run"))
    assert "the weights hold a lm_head.weight that is not model.embed_tokens.weight" in found["rule"]
    assert not (tmp_path / "deep").exists()
    # Stored twice and equal is what many tied models are.
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    words = search(
        folder, text, tmp_path / "tied", "--dry-run", "--method", "rtn", "--engine", "transformers"
    )
    assert main([*map(str, words)]) == 0


def test_checked_against_its_base_such_a_model_is_refused_too(plain, changed, text, capsys):
    words = ("--base", plain, "--text", text, "--window-tokens", 32, "--windows", 2)
    assert "is of one block more" in refused(capsys, "check", changed(num_hidden_layers=2), *words)["rule"]


def test_a_head_for_further_tokens_is_no_contradiction(changed, capsys):
    """It lies behind the last block, as in DeepSeek-V3's checkpoints, with tensors that no block has."""
    folder = changed(num_hidden_layers=2)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.eh_proj.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert main(["inspect", str(folder)]) == 0
    assert "in 2 blocks" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("code", [False, True])
@pytest.mark.parametrize("command", ["search", "inspect", "advise", "transform"])
def test_a_family_that_transformers_does_not_know(changed, text, tmp_path, capsys, command, code):
    folder = changed(**NEWCOMER, **({"auto_map": OWN_CODE} if code else {}))
    out = tmp_path / "deep" / "out"
    words = {
        "search": search(folder, text, out),
        "inspect": ("inspect", folder),
        "advise": ("advise", folder, "--device", "h100"),
        "transform": ("transform", folder, "--method", "smoothquant", "--text", text, "--out", out),
    }[command]
    found = refused(capsys, *words)
    assert found["value"] == f"model_type 'newcomer' in {folder / 'config.json'}"
    assert "is not known to transformers" in found["rule"]
    assert ("needs the code of its repository, which is not run" in found["rule"]) == code
    assert not out.parent.exists()


def test_code_of_a_repository_is_not_run_where_the_family_is_known(changed, capsys):
    folder = changed(auto_map=OWN_CODE)
    (folder / "configuration_newcomer.py").write_text("raise SystemExit('run')")
    assert main(["inspect", str(folder)]) == 0
    assert "LlamaForCausalLM" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("configuration", "model", "said"),
    [
        ("ViTConfig", "ViTModel", "has no language part"),
        ("CLIPVisionConfig", "CLIPVisionModel", "has no language part"),
        ("CLIPConfig", "CLIPModel", "must be a language model with a token embedding and a head"),
    ],
)
def test_a_vision_model_without_a_language_part(text, tmp_path, capsys, configuration, model, said):
    import transformers

    config = getattr(transformers, configuration)()
    config.architectures = [model]
    config.save_pretrained(tmp_path / "model")
    for words in (
        search(tmp_path / "model", text, tmp_path / "deep" / "run"),
        ("inspect", tmp_path / "model"),
    ):
        assert said in refused(capsys, *words)["rule"]
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("method", ["quip_sharp", None])
def test_a_method_of_quantization_that_is_not_here(plain, changed, text, tmp_path, capsys, method):
    folder = changed(quantization_config={"bits": 2, **({"quant_method": method} if method else {})})
    name = method or "a method without a name"
    found = refused(capsys, *search(folder, text, tmp_path / "deep" / "run"))
    assert found["rule"].startswith(f"the model is already quantized with {name}, which is not expanded here")
    assert "unquantized checkpoint" in found["remedy"]
    assert not (tmp_path / "deep").exists()
    found = refused(
        capsys, "check", folder, "--base", plain, "--text", text, "--window-tokens", 32, "--windows", 2
    )
    assert f"by a method that transformers does not have ({method})" in found["rule"]


@pytest.mark.parametrize(
    ("engine", "size", "said"),
    [
        ("torch-cpu", 48, "group size 48 must divide the row length 128"),
        ("transformers", 100_000, "group size 100000 must divide the row length 128"),
        ("vllm", 48, "no kernel has such groups; use 32, 64 or 128"),
        ("llama.cpp", 48, "no format of llama.cpp has it"),
        ("torch-cpu", 7, "must be a multiple of 8"),
    ],
)
def test_a_group_size_that_nothing_takes(plain, text, tmp_path, capsys, engine, size, said):
    device = ("--device", "h100") if engine == "vllm" else ()
    more = ("--engine", engine, *device, "--group-size", size, "--no-export")
    found = refused(capsys, *search(plain, text, tmp_path / "deep" / "run", *more))
    assert said in found["rule"]
    assert not (tmp_path / "deep").exists()
