"""``paretune verify``: which engine is asked, and with which run an export is compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from commands.export import form_of, in_form, is_export_of
from commands.main import main
from commands.verify import check_origin, loader, loading_engine, run_of
from engines import find_engine
from engines.forms import form_names
from engines.forms.packed_form import PackedForm
from engines.transformers_engine import Transformers
from spaces.configuration import CompressionConfig
from spaces.errors import (
    EngineError,
    EngineUnavailableError,
    RunError,
    UnknownNameError,
    VerificationError,
)
from spaces.legality import LEGAL, illegal


def test_only_an_engine_that_loads_an_export_is_asked():
    assert loader({"engine": "llama.cpp"}, None) == "llama.cpp"
    assert loader({"engine": "transformers"}, "torch-cpu") == "torch-cpu"
    assert {loader({"engine": name}, None) for name in ("vllm", "transformers")} == {"vllm", "transformers"}
    with pytest.raises(EngineError, match=r"does not load an export for llama\.cpp"):
        loader({"engine": "llama.cpp"}, "vllm")
    assert find_engine(loader({"engine": "llama.cpp"}, None)).name == "llama.cpp"


def test_an_export_is_compared_with_the_run_it_comes_from(tmp_path):
    bench = SimpleNamespace(hashes={"bank": "one"}, folder=tmp_path)
    check_origin(tmp_path, {"run": {"hashes": {"bank": "one"}}}, bench)
    with pytest.raises(VerificationError, match="another bank"):
        check_origin(tmp_path, {"run": {"hashes": {"bank": "two"}}}, bench)
    (tmp_path / "run.json").write_text("{}")
    assert run_of(tmp_path / "export" / "name") == tmp_path.resolve()
    with pytest.raises(RunError, match="--run"):
        run_of(tmp_path.parent)


@pytest.fixture
def export(tmp_path, monkeypatch):
    """A folder that passes for an export of a run that is open."""
    manifest = {"engine": "transformers", "config": CompressionConfig().model_dump(mode="json")}
    found = SimpleNamespace(run=SimpleNamespace(settings={}))
    bench = SimpleNamespace(
        hashes={}, folder=tmp_path, assembler=None, windows={"report": SimpleNamespace(ids=[])}
    )
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setattr("engines.manifest.check_files", lambda folder: None)
    monkeypatch.setattr("engines.manifest.read_manifest", lambda folder: manifest)
    monkeypatch.setattr("reports.reading.read_run_folder", lambda folder: found)
    monkeypatch.setattr("commands.run_file.validate_run", lambda settings, where: settings)
    monkeypatch.setattr("commands.workbench.open_workbench", lambda *given: bench)
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "paretune.json").write_text("{}")
    return folder


def test_an_engine_that_is_not_here_is_refused_before_anything_is_opened(export, monkeypatch, capsys):
    def open_workbench(*given):
        raise AssertionError("opened")

    monkeypatch.setattr("commands.workbench.open_workbench", open_workbench)
    monkeypatch.setattr(Transformers, "available", lambda engine: illegal("not installed", "transformers"))
    assert main(["verify", str(export)]) == 2
    assert "engine transformers\n  rule:   not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "asked"), [(EngineUnavailableError, 2, False), (VerificationError, 1, True)]
)
def test_only_a_failed_comparison_is_looked_into(export, monkeypatch, capsys, error, code, asked):
    looked = []

    def fail(*given, **more):
        raise error("the export", "something is wrong", "Look")

    monkeypatch.setattr("engines.verification.verify_export", fail)
    monkeypatch.setattr("commands.verify._where", lambda *given: looked.append(given) or "in block 3")
    assert main(["verify", str(export)]) == code
    assert bool(looked) == asked
    assert ("in block 3" in capsys.readouterr().err) == asked


def test_an_export_is_loaded_in_the_form_that_it_has(monkeypatch):
    monkeypatch.setattr(PackedForm, "available", lambda self: LEGAL)
    assert form_of(loading_engine({"engine": "transformers"}, None)) == ""
    for name in form_names()[1:]:
        manifest = {"engine": "transformers", "form": name}
        assert form_of(loading_engine(manifest, None)) == name
        with pytest.raises(EngineError, match=f"the form {name}"):
            loading_engine(manifest, "torch-cpu")
    with pytest.raises(UnknownNameError):
        loading_engine({"engine": "transformers", "form": "tar"}, None)


@dataclass
class Bench:
    engine: object


def test_another_form_is_for_runs_whose_exports_transformers_loads(monkeypatch):
    monkeypatch.setattr(PackedForm, "available", lambda self: LEGAL)
    usual = Bench(find_engine("torch-cpu"))
    assert in_form(usual, None) is usual
    assert form_of(in_form(usual, "gptq").engine) == "gptq"
    assert form_of(in_form(usual, "compressed-tensors").engine) == ""
    with pytest.raises(EngineError, match=r"searched for llama\.cpp"):
        in_form(Bench(find_engine("llama.cpp")), "gptq")
    monkeypatch.setattr(PackedForm, "available", lambda self: illegal("install it"))
    with pytest.raises(EngineError, match="install it"):
        in_form(usual, "awq")


def test_a_folder_of_another_form_is_another_export(tmp_path):
    text = json.dumps({"files": {}, "digest": "d", "run": {"hashes": {"bank": "one"}}, "form": "awq"})
    (tmp_path / "paretune.json").write_text(text)
    assert is_export_of(tmp_path, "d", {"bank": "one"}, "awq")
    assert not is_export_of(tmp_path, "d", {"bank": "one"})


def test_a_folder_that_was_never_an_export_is_refused_not_failed(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main(["verify", str(folder)]) == 2
        assert "is no export" in capsys.readouterr().err
