"""A checkpoint that ships quantized is a start like any other: searched, exported, and held against itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from paretune.commands.main import main
from paretune.compressors.dequantized import dense_folder
from paretune.compressors.loading import load_checkpoint, load_dense
from paretune.spaces.architectures import read_model
from paretune.spaces.errors import ModelError
from tests.commands.small_runs import RULE, small_arguments
from tests.models import build_tiny

BLOCK = 64


def expand(codes, scales):
    rows, columns = codes.shape
    wide = scales.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return (codes.float() * wide).to(torch.bfloat16)


@pytest.fixture(scope="module")
def eight_bits(model, tmp_path_factory):
    """The small model with FP8 blocks in its linears, and what they stand for."""
    folder = tmp_path_factory.mktemp("fp8") / "model"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    stored, exact = {}, {}
    for name, weight in load_file(model / "model.safetensors").items():
        if "proj" not in name:
            stored[name] = exact[name] = weight.to(torch.bfloat16)
            continue
        rows, columns = (-(-size // BLOCK) for size in weight.shape)
        padded = torch.zeros(rows * BLOCK, columns * BLOCK)
        padded[: weight.shape[0], : weight.shape[1]] = weight
        peaks = padded.view(rows, BLOCK, columns, BLOCK).abs().amax(dim=(1, 3)) / 448
        wide = peaks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        codes = (padded / wide)[: weight.shape[0], : weight.shape[1]].to(torch.float8_e4m3fn).contiguous()
        stored |= {name: codes, f"{name}_scale_inv": peaks}
        exact[name] = expand(codes, peaks)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    values |= {
        "dtype": "bfloat16",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]},
    }
    (folder / "config.json").write_text(json.dumps(values))
    return folder, exact


def test_the_dense_model_is_what_the_codes_stand_for(eight_bits, tmp_path):
    folder, exact = eight_bits
    spec = read_model(folder)
    assert (spec.shipped.method, spec.dtype) == ("fp8", "bfloat16")
    made = dense_folder(folder, spec, tmp_path)
    assert read_model(made).shipped is None
    for name, parameter in load_dense(made, spec).named_parameters():
        assert torch.equal(parameter, exact[name].float()), name
    (made / "kept").touch()
    assert dense_folder(folder, spec, tmp_path) == made
    assert (made / "kept").exists(), "it was written again"
    plain = read_model(made)
    assert dense_folder(made, plain, tmp_path) == made


def test_it_is_searched_and_exported(eight_bits, text, tmp_path, capsys):
    folder, _ = eight_bits
    out = tmp_path / "run"
    assert main(small_arguments(folder, text, out, *RULE)) == 0, capsys.readouterr().err
    front = json.loads((out / "front.json").read_text())
    rows = {member["name"]: member for member in front["members"]}
    spec = read_model(folder)
    assert rows["dense"]["measurements"]["weight_bytes"]["value"] == spec.shipped.weight_bytes
    assert rows["dense"]["measurements"]["kl"]["value"] == 0.0
    document = json.loads((out / "run.json").read_text())
    assert document["export"]["kl_to_candidate"] < 1e-3
    capsys.readouterr()
    assert main(["export", str(out), "--name", "dense"]) == 2
    assert "is the checkpoint as it came (fp8)" in capsys.readouterr().err


def test_a_dry_run_leaves_no_copy(eight_bits, text, tmp_path, capsys):
    folder, _ = eight_bits
    assert main([*small_arguments(folder, text, tmp_path / "run", *RULE), "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_refused_before_it_is_written(eight_bits, tmp_path, monkeypatch):
    folder, _ = eight_bits
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(ModelError, match=r"kB, and 1\.00 kB are free on the disk"):
        dense_folder(folder, read_model(folder), tmp_path)
    assert list(tmp_path.iterdir()) == []


FLOATS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
FOUR_BITS = torch.cat([FLOATS, -FLOATS])


def test_experts_in_mxfp4(tmp_path):
    """As gpt-oss stores them: two codes per byte, a power of two per 32, output rows first."""
    folder = build_tiny("gpt_oss", tmp_path / "model", dtype="bfloat16")
    generator, stored, exact = torch.Generator().manual_seed(0), {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")) or weight.ndim != 3:
            stored[name] = weight
            continue
        experts, columns, rows = weight.shape
        blocks = torch.randint(
            0, 256, (experts, rows, columns // 32, 16), generator=generator, dtype=torch.uint8
        )
        scales = torch.randint(
            118, 124, (experts, rows, columns // 32), generator=generator, dtype=torch.uint8
        )
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        codes = torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2).to(torch.int64)
        values = FOUR_BITS[codes] * torch.exp2(scales.float() - 127).unsqueeze(-1)
        exact[name] = values.flatten(-2).transpose(1, 2).to(torch.bfloat16)
    assert exact
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    quantize_config(folder, {"quant_method": "mxfp4"})
    spec = read_model(folder)
    made = dict(load_dense(dense_folder(folder, spec, tmp_path), spec).named_parameters())
    for name, weight in exact.items():
        assert torch.equal(made[name], weight.float()), name


def test_an_export_of_ours_is_a_start_too(run, tmp_path):
    """compressed-tensors: codes and scales, packed."""
    folder = Path(json.loads((run / "run.json").read_text())["export"]["folder"])
    spec = read_model(folder)
    assert spec.shipped.method == "compressed-tensors"
    made = load_dense(dense_folder(folder, spec, tmp_path), spec)
    expanded = dict(load_checkpoint(folder, torch.bfloat16).named_parameters())
    for name, parameter in made.named_parameters():
        assert torch.equal(parameter, expanded[name].float()), name


@pytest.mark.parametrize("method", ["gptq", "awq", "modelopt"])
def test_what_is_not_expanded_here_is_refused_before_anything(model, text, tmp_path, capsys, method):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    quantize_config(folder, {"quant_method": method, "bits": 4, "quant_algo": "NVFP4"})
    assert main(small_arguments(folder, text, tmp_path / "deep" / "run", *RULE)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "which is not expanded here (fp8, mxfp4, compressed-tensors, bitsandbytes are)" in said
    assert not (tmp_path / "deep").exists()


def quantize_config(folder, quantization):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"quantization_config": quantization}))
