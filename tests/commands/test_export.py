"""What counts as an earlier export of the same candidate; what is refused before weights are made again."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from paretune.commands.main import main
from paretune.engines.manifest import MANIFEST
from paretune.engines.transformers_engine import Transformers
from paretune.pipeline.exporting import is_export_of
from paretune.spaces.errors import RunError
from paretune.spaces.legality import LEGAL, illegal
from paretune.spaces.schema import sealed

HASHES = {"model": "m", "bank": "b"}


def write(folder, text):
    (folder / MANIFEST).write_text(text)
    return is_export_of(folder, "digest", HASHES)


def test_an_export_is_known_by_its_candidate_and_what_it_was_made_of(tmp_path):
    manifest = {"digest": "digest", "run": {"hashes": HASHES}, "files": {}}
    assert write(tmp_path, json.dumps(sealed(manifest)))
    assert not write(tmp_path, json.dumps(sealed({**manifest, "digest": "another"})))
    assert not write(tmp_path, json.dumps(sealed({**manifest, "run": {"hashes": {}}})))
    assert not write(tmp_path, json.dumps(sealed({**manifest, "run": None})))


@pytest.mark.parametrize("text", ["", '{"digest": "dig', "[]", '{"digest": "digest"}'])
def test_a_torn_manifest_is_no_export(tmp_path, text):
    assert not write(tmp_path, text)
    assert not is_export_of(tmp_path / "absent", "digest", HASHES)


REFINED = {
    "digest": "digest",
    "run": {"hashes": {**HASHES, "refined": "r"}, "refined": "qat"},
    "files": {},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder with one member; weights are never made again in it, but said to be."""
    member = SimpleNamespace(name="one", digest="digest", config=None)
    found = SimpleNamespace(
        front=SimpleNamespace(recommended="one", members=(member,)), run=SimpleNamespace(settings={})
    )
    bench = SimpleNamespace(engine=Transformers(), spec=None, hashes=HASHES, model_folder=tmp_path)

    def refine_member(*given):
        raise RunError("the weights", "are made again", "Wait")

    monkeypatch.setattr(Transformers, "export_ruling", lambda engine, spec, config: LEGAL)
    monkeypatch.setattr("paretune.pipeline.run.read_run_folder", lambda folder: found)
    monkeypatch.setattr("paretune.pipeline.run.validate_run", lambda settings, where: settings)
    monkeypatch.setattr("paretune.pipeline.exporting.open_workbench", lambda *given: bench)
    monkeypatch.setattr("paretune.pipeline.exporting.refine_member", refine_member)
    return tmp_path / "run"


def refused(run, capsys, *given):
    assert main(["export", str(run), "--refine", "qat", *map(str, given)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        {**REFINED, "digest": "another"},
        {**REFINED, "form": "awq"},
        {**REFINED, "run": {"hashes": HASHES}},
        {**REFINED, "run": {**REFINED["run"], "refined": "gptq"}},
        {**REFINED, "run": {**REFINED["run"], "hashes": {**HASHES, "bank": "two", "refined": "r"}}},
        {**REFINED, "run": {"hashes": None, "refined": "qat"}},
    ],
)
def test_an_occupied_folder_is_refused_before_weights_are_made_again(run, tmp_path, capsys, manifest):
    for folder, given in (
        (run / "export" / "one-refined-qat", ()),
        (tmp_path / "out", ("--out", tmp_path / "out")),
    ):
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text("" if manifest is None else json.dumps(sealed(manifest)))
        said = refused(run, capsys, *given)
        assert "already and not empty" in said
        assert "are made again" not in said


def test_a_folder_of_the_same_refinement_is_let_through_like_an_empty_one(run, capsys):
    assert "are made again" in refused(run, capsys)
    folder = run / "export" / "one-refined-qat"
    folder.mkdir(parents=True)
    assert "are made again" in refused(run, capsys)
    (folder / MANIFEST).write_text(json.dumps(sealed(REFINED)))
    assert "are made again" in refused(run, capsys)


def test_a_member_that_cannot_be_exported_is_refused_before_weights_are_made_again(run, monkeypatch, capsys):
    monkeypatch.setattr(Transformers, "export_ruling", lambda engine, spec, config: illegal("no container"))
    said = refused(run, capsys)
    assert "no container" in said
    assert "are made again" not in said
