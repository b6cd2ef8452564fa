"""``paretune verify``: which engine is asked, and with which run an export is compared."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from paretune.commands.main import main
from paretune.engines import find_engine
from paretune.engines.forms import form_names
from paretune.engines.forms.packed_form import PackedForm
from paretune.engines.predictions import Predictions
from paretune.engines.transformers_engine import Transformers
from paretune.pipeline.exporting import in_form, is_export_of
from paretune.pipeline.verifying import check_origin, loader, loading_engine, run_of
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import (
    EngineError,
    EngineUnavailableError,
    RunError,
    UnknownNameError,
    VerificationError,
)
from paretune.spaces.files import write_json
from paretune.spaces.legality import LEGAL, illegal
from paretune.spaces.schema import sealed


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
    with pytest.raises(RunError, match="another bank"):
        check_origin(tmp_path, {"run": {"hashes": {"bank": "two"}}}, bench)
    (tmp_path / "run.json").write_text("{}")
    assert run_of(tmp_path / "export" / "name") == tmp_path.resolve()
    with pytest.raises(RunError, match="--run"):
        run_of(tmp_path.parent)


WINDOWS = 16


class Guesses:
    """An assembler whose every candidate guesses the token that it reads."""

    spec = SimpleNamespace(blocks=2)
    dtype, device = torch.float32, "cpu"

    def apply(self, config):
        return self

    def modules(self):
        return ()

    def __call__(self, input_ids, use_cache):
        return SimpleNamespace(logits=torch.nn.functional.one_hot(input_ids, WINDOWS).float())


class Reading(Transformers):
    """Reads a window wrongly from the one of this index on; what it writes itself, from another."""

    def __init__(self, wrong_from, fresh_wrong_from=WINDOWS):
        super().__init__()
        self.wrong_from, self.fresh_wrong_from = wrong_from, fresh_wrong_from

    def export(self, weights, config, folder, card):
        return folder

    def predictions(self, folder, ids):
        first = self.wrong_from if (folder / "paretune.json").is_file() else self.fresh_wrong_from
        return Predictions.of_logits(Guesses()((ids + (ids >= first)) % WINDOWS, use_cache=False).logits)


@pytest.fixture
def manifest():
    config = CompressionConfig()
    of_config = {"config": config.model_dump(mode="json"), "digest": config.digest}
    return {"engine": "transformers", **of_config, "files": {}, "run": {"hashes": {"bank": "one"}}}


@pytest.fixture
def export(tmp_path, monkeypatch, manifest):
    """A folder that passes for an export of a run that is open."""
    found = SimpleNamespace(run=SimpleNamespace(settings={}))
    bench = SimpleNamespace(
        hashes={"bank": "one"},
        folder=tmp_path,
        model_folder=tmp_path,
        assembler=Guesses(),
        windows={"report": SimpleNamespace(ids=torch.arange(WINDOWS)[:, None] * torch.ones(1, 3).long())},
    )
    (tmp_path / "run.json").write_text("{}")
    for place in ("pipeline.verifying", "engines.manifest"):
        monkeypatch.setattr(f"paretune.{place}.check_files", lambda folder: None)
        monkeypatch.setattr(f"paretune.{place}.read_manifest", lambda folder: manifest)
    monkeypatch.setattr("paretune.pipeline.run.read_run_folder", lambda folder: found)
    monkeypatch.setattr("paretune.pipeline.run.validate_run", lambda settings, where: settings)
    monkeypatch.setattr("paretune.pipeline.verifying.open_workbench", lambda *given: bench)
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "paretune.json").write_text("{}")
    return folder


def test_an_engine_that_is_not_here_is_refused_before_anything_is_opened(export, monkeypatch, capsys):
    def open_workbench(*given):
        raise AssertionError("opened")

    monkeypatch.setattr("paretune.pipeline.verifying.open_workbench", open_workbench)
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

    monkeypatch.setattr("paretune.pipeline.verifying.verify_export", fail)
    monkeypatch.setattr(
        "paretune.pipeline.verifying._where_they_part", lambda *given: looked.append(given) or "in block 3"
    )
    assert main(["verify", str(export)]) == code
    assert bool(looked) == asked
    assert ("in block 3" in capsys.readouterr().err) == asked


def test_another_run_says_nothing_of_an_export(export, manifest, capsys):
    manifest["run"]["hashes"]["bank"] = "two"
    assert main(["verify", str(export), "--run", str(export.parent)]) == 2
    assert "another bank" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("origin", "missing"),
    [
        (None, "bank"),
        ({"hashes": None}, "bank"),
        ({"hashes": {"model": "one"}}, "bank"),
        ({"hashes": {"bank": "one"}, "refined": "qat"}, "refined"),
    ],
)
def test_an_export_that_does_not_say_where_it_comes_from_fits_no_run(
    export, manifest, capsys, origin, missing
):
    manifest["run"] = origin
    assert main(["verify", str(export)]) == 2
    assert f"does not say with which {missing} it was made" in capsys.readouterr().err


@pytest.mark.parametrize(("here", "code"), [("two", 2), ("one", 0)])
def test_refined_weights_that_are_not_made_again_say_nothing_of_an_export(
    export, manifest, monkeypatch, capsys, here, code
):
    manifest["run"] = {"hashes": {"bank": "one", "refined": "one"}, "refined": "qat"}
    assembler = Guesses()
    assembler.bank = SimpleNamespace(hash=here)
    monkeypatch.setattr(
        "paretune.pipeline.verifying.refine_member", lambda *given: SimpleNamespace(assembler=assembler)
    )
    monkeypatch.setattr(
        "paretune.pipeline.verifying.loading_engine", lambda manifest, asked: Reading(WINDOWS)
    )
    assert main(["verify", str(export)]) == code
    assert ("come out as others" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(
    ("wrong_from", "fresh_wrong_from", "said"),
    [(0, WINDOWS, "another one"), (0, 0, "part in block 0"), (4, WINDOWS, "4 of 16"), (4, 4, "4 of 16")],
)
def test_a_folder_is_another_only_if_it_differs_where_a_fresh_export_agrees(
    export, monkeypatch, capsys, wrong_from, fresh_wrong_from, said
):
    engine = Reading(wrong_from, fresh_wrong_from)
    monkeypatch.setattr("paretune.pipeline.verifying.loading_engine", lambda manifest, asked: engine)
    assert main(["verify", str(export)]) == 1
    found = " ".join(capsys.readouterr().err.split())
    assert "differs from the searched candidate" in found
    assert [words for words in ("another one", "part in block 0", "4 of 16") if words in found] == [said]


def test_a_fresh_export_is_written_by_the_engine_that_wrote_the_folder(export, monkeypatch, capsys):
    reader, writer, asked_to_write = Reading(0), Reading(0), []
    monkeypatch.setattr(writer, "export", lambda *given: asked_to_write.append(given) or given[2])
    monkeypatch.setattr(reader, "export", lambda *given: pytest.fail("another layout was written"))
    monkeypatch.setattr(
        "paretune.pipeline.verifying.loading_engine", lambda _, asked: reader if asked else writer
    )
    assert main(["verify", str(export), "--engine", "torch-cpu"]) == 1
    assert "another one" in " ".join(capsys.readouterr().err.split())
    assert len(asked_to_write) == 1


def test_an_export_is_loaded_in_the_form_that_it_has(monkeypatch):
    monkeypatch.setattr(PackedForm, "available", lambda self: LEGAL)
    assert loading_engine({"engine": "transformers"}, None).form_name == ""
    for name in form_names()[1:]:
        manifest = {"engine": "transformers", "form": name}
        assert loading_engine(manifest, None).form_name == name
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
    assert in_form(usual, "gptq").engine.form_name == "gptq"
    assert in_form(usual, "compressed-tensors").engine.form_name == ""
    with pytest.raises(EngineError, match=r"searched for llama\.cpp"):
        in_form(Bench(find_engine("llama.cpp")), "gptq")
    monkeypatch.setattr(PackedForm, "available", lambda self: illegal("install it"))
    with pytest.raises(EngineError, match="install it"):
        in_form(usual, "awq")


def test_a_folder_of_another_form_is_another_export(tmp_path):
    values = {"files": {}, "digest": "d", "run": {"hashes": {"bank": "one"}}, "form": "awq"}
    write_json(tmp_path / "paretune.json", sealed(values))
    assert is_export_of(tmp_path, "d", {"bank": "one"}, "awq")
    assert not is_export_of(tmp_path, "d", {"bank": "one"})


def test_a_folder_that_was_never_an_export_is_refused_not_failed(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main(["verify", str(folder)]) == 2
        assert "is no export" in capsys.readouterr().err
