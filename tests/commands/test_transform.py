"""``paretune transform``: what it writes is the same model, and 8-bit inputs cost it less."""

from __future__ import annotations

import json
import shlex

import pytest
import torch

from benchmarks.outlier_channels import OutlierChannels
from paretune.commands.main import main
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense
from paretune.compressors.rounding import fake_int8
from paretune.compressors.transforms import rotation
from paretune.compressors.transforms.checkpoint import write_model
from paretune.spaces.architectures import read_model
from tests.commands.small_runs import paretune
from tests.compressors.conftest import make_windows
from tests.models import build_tiny

SMALL = ("--windows", "8", "--window-tokens", "32")


@pytest.fixture(scope="module")
def heavy(model, tmp_path_factory):
    """The tiny model with three outlier channels in every norm, and a licence."""
    spec = read_model(model)
    loaded = load_dense(model, spec)
    done = OutlierChannels().apply(loaded, spec)
    folder = write_model(loaded, done.spec, model, tmp_path_factory.mktemp("heavy") / "model")
    (folder / "LICENSE").write_text("Do as you like.")
    return folder


def eight_bits(folder, teacher):
    """KL under W8A8 of our own: int8 weights by row, int8 inputs by token."""
    spec = read_model(folder)
    loaded = load_dense(folder, spec)
    for linear in spec.block_linears:
        weight = loaded.get_parameter(linear.parameter).data
        weight.copy_(fake_int8(weight, torch.float32))
        module = loaded.get_submodule(linear.name)
        module.register_forward_pre_hook(lambda _, x: (fake_int8(x[0], torch.float32),))
    return float(teacher.compare(loaded).kl.mean())


@pytest.mark.parametrize("method", ["smoothquant", "hadamard"])
def test_the_same_model_with_cheaper_8_bit_inputs(method, heavy, text, tmp_path):
    out = tmp_path / "deep" / "out"
    found = paretune("transform", heavy, "--method", method, "--out", out, "--text", text, *SMALL, "--json")
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["kl"] <= told["tolerance"] < 1e-3
    assert told["eight_bits"]["kl_after"] < 0.2 * told["eight_bits"]["kl_before"]
    assert told["eight_bits"]["helped"]
    spec, stored = read_model(heavy), read_model(out)
    assert stored.dtype == "bfloat16"
    assert told["untied"] == (method == "hadamard") == (stored.parameters > spec.parameters)
    assert bool(told["strengths"]) == (method == "smoothquant")
    # What it says of itself is not all: read on other tokens, and rounded by other code.
    teacher = Teacher(load_dense(heavy, spec), make_windows(8, 32, seed=7))
    assert teacher.compare(load_dense(out, stored)).kl.mean() < 2 * told["tolerance"]
    assert eight_bits(out, teacher) < 0.5 * eight_bits(heavy, teacher)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    names = {path.name for path in out.iterdir()}
    assert names >= {"LICENSE", "tokenizer.json", "config.json", "model.safetensors", "transform.json"}
    assert not [name for name in names if name.startswith(".")]
    assert json.loads((out / "transform.json").read_text())["kl"] == told["kl"]


def test_what_a_user_reads(heavy, text, tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "transform",
        str(heavy),
        "--method",
        "smoothquant",
        "--out",
        str(out),
        "--text",
        str(text),
        *SMALL,
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for expected in (
        "self_attn.o_proj",
        "KL to the original",
        "w8a8-static",
        f"wrote {out}",
        "8 other windows",
    ):
        assert expected in shown
    command = shlex.split(shown.splitlines()[-1])
    assert command[:4] == ["next:", "paretune", "search", str(out)]
    assert command[command.index("--calibration-text") + 1] == str(text)
    assert main(words) == 2
    assert "not empty" in capsys.readouterr().err


def test_a_rotation_needs_no_text(heavy, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["transform", str(heavy), "--method", "hadamard", "--out", str(out), *SMALL, "--dtype", "float32"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "windows of random tokens" in shown
    assert "w8a8-static:" not in shown
    assert shown.rstrip().endswith("--text FILE")
    assert read_model(out).dtype == "float32"


def test_a_model_without_outliers_is_sent_back(model, text, tmp_path, capsys):
    words = [
        "transform",
        str(model),
        "--method",
        "hadamard",
        "--out",
        str(tmp_path / "out"),
        "--text",
        str(text),
    ]
    assert main([*words, *SMALL, "--dtype", "float32"]) == 0
    shown = capsys.readouterr().out
    assert "no help, search the original" in shown
    assert shlex.split(shown.splitlines()[-1])[3] == str(model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_another_model_is_not_left(dtype, heavy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rotation, "_rotate_values", lambda model, *_: model.lm_head.weight.mul_(1.1))
    words = ["transform", str(heavy), "--method", "hadamard", "--out", str(tmp_path / "out"), *SMALL]
    assert main([*words, "--dtype", dtype]) == 1
    told = capsys.readouterr().err
    assert "Nothing was written" in told
    assert ("--dtype float32" in told) == (dtype == "bfloat16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "more", "expected"),
    [
        ("llama", ("--method", "smoothquant"), "calibration text"),
        ("llama", ("--method", "smoothquand"), "Did you mean 'smoothquant'"),
        ("llama", ("--method", "outlier-channels"), "not a known method"),
        ("llama", ("--method", "hadamard", "--dtype", "int8"), "not a known dtype"),
        ("llama", ("--method", "hadamard", "--window-tokens", "512"), "context is 256"),
        ("gpt2", ("--method", "hadamard"), "LayerNorms subtract a mean"),
        ("gemma3", ("--method", "hadamard"), "norms with gains"),
    ],
)
def test_what_cannot_be_done_is_refused(family, more, expected, tmp_path, capsys):
    folder = build_tiny(family, tmp_path / family)
    assert main(["transform", str(folder), "--out", str(tmp_path / "out"), *SMALL, *more]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_short_text_is_refused(heavy, text, tmp_path, capsys):
    words = ["transform", str(heavy), "--method", "smoothquant", "--out", str(tmp_path / "out")]
    assert main([*words, "--text", str(text), "--windows", "9999"]) == 2
    assert "to calibrate on and 9999" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt2"])
def test_inputs_that_stay_as_they_are_are_named(family, text, tmp_path, capsys):
    folder = build_tiny(family, tmp_path / family)
    words = ["transform", str(folder), "--method", "smoothquant", "--out", str(tmp_path / "out")]
    assert main([*words, "--text", str(text), *SMALL]) == 0
    assert "not changed: between the FFN's matrices in 3 blocks (" in capsys.readouterr().out
