"""A vision-language model is searched in its language part, on text: its tower stays, and every page says so."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from paretune.commands.main import main
from tests.models import build_tiny

SAID = "text is the only evidence: model.visual (0.6 MB, 36 % of the model) stays as it is"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = build_tiny("qwen3_vl", tmp_path_factory.mktemp("vision") / "model", dtype="bfloat16")
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "video_preprocessor_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def run(model, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched") / "run"
    words = (
        "search", model, "--text", text, "--out", folder, "--engine", "transformers", "--window-tokens", 32,
        "--bits", "4,8", "--method", "rtn", "--group-size", 32, "--minutes", 0.02,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main([*map(str, words)]) == 0
    return folder


def test_the_export_reloads_and_agrees(run):
    exported = json.loads((run / "run.json").read_text())["export"]
    assert exported["kl_to_candidate"] <= exported["tolerance"] == 1e-5
    assert exported["tokens"] > 0


def test_the_tower_is_left_alone(model, run):
    (folder,) = (run / "export").iterdir()
    before, after = load_file(model / "model.safetensors"), load_file(folder / "model.safetensors")
    tower = [name for name in before if name.startswith("model.visual.")]
    assert len(tower) > 20
    assert all((after[name] == before[name]).all() for name in tower)
    assert any(name.startswith("model.language_model.") and name.endswith("_packed") for name in after)
    assert {"preprocessor_config.json", "video_preprocessor_config.json"} <= {
        x.name for x in folder.iterdir()
    }


def test_the_evidence_is_said_to_be_text(model, run, capsys):
    (folder,) = (run / "export").iterdir()
    card = (folder / "README.md").read_text()
    assert f"- {SAID}" in card
    assert "AutoModelForImageTextToText" in card
    assert any(SAID in note for note in json.loads((run / "run.json").read_text())["notes"])
    assert SAID in (run / "report.html").read_text()
    capsys.readouterr()
    assert main(["inspect", str(model)]) == 0
    assert SAID in " ".join(capsys.readouterr().out.split())
