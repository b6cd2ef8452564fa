"""From what a user types to a folder: what is asked of the hub."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

from paretune.compressors.companions import COMPANIONS, copy_companions
from paretune.pipeline.models import model_folder
from paretune.spaces.errors import ModelError


@pytest.mark.parametrize(
    "name",
    ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "README.md", "chat_template.jinja",
     "merges.txt", "vocab.txt", "NOTICE", "USE_POLICY.md", "LICENSE.txt", "LICENSES/MIT.txt", "tokenizer.model"],
)  # fmt: skip
def test_a_download_has_what_exports_copy(monkeypatch, tmp_path, name):
    asked = []

    def download(model, revision, allow_patterns):
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert model_folder("owner/name") == tmp_path
    assert any(fnmatch(name, pattern) for pattern in asked)
    assert set(COMPANIONS) <= set(asked)
    assert not any(fnmatch("pytorch_model.bin", pattern) for pattern in asked)


def test_a_folder_that_is_not_there_is_asked_of_the_hub_with_a_word(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    (tmp_path / "here" / "model").mkdir(parents=True)
    assert model_folder("here/model") == Path("here/model")
    assert capsys.readouterr().err == ""
    model_folder("here/modle")
    assert "there is no folder here/modle here; asking the hub" in capsys.readouterr().err
    for path in ("./here/modle", "../modle", "/no/such", "modle"):
        with pytest.raises(ModelError, match="neither a folder nor a hub id"):
            model_folder(path)


def test_companions_keep_their_places(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "folder"
    (source / "LICENSES").mkdir(parents=True)
    folder.mkdir()
    for name in ("LICENSES/MIT.txt", "LICENCE", "merges.txt", "model.safetensors"):
        (source / name).write_text(name)
    copy_companions(source, folder)
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert found == {"LICENSES/MIT.txt", "LICENCE", "merges.txt"}
