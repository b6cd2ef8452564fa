"""What a command refuses before a model is loaded."""

from __future__ import annotations

import pytest

from paretune.pipeline.api import _folder_name
from paretune.pipeline.checking import _refuse_unlike
from paretune.pipeline.workbench import _refuse_absent
from paretune.spaces.errors import ModelError, RunError, TextError
from tests.models import build_tiny


def test_checkpoints_of_two_vocabularies_are_not_compared(tmp_path):
    one = build_tiny("llama", tmp_path / "one")
    other = build_tiny("llama", tmp_path / "other", vocab_size=832)
    _refuse_unlike(one, one, 16)
    for pair in ((one, other), (other, one)):
        with pytest.raises(ModelError, match="832"):
            _refuse_unlike(*pair, 16)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_windows_beyond_the_context_are_not_compared(tmp_path, family):
    folder = build_tiny(family, tmp_path, max_position_embeddings=128)
    _refuse_unlike(folder, folder, 128)
    with pytest.raises(TextError, match="the context is 128"):
        _refuse_unlike(folder, folder, 129)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cpu:1", "mps:7", ""])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(RunError, match="compute_device"):
        _refuse_absent(device)
    _refuse_absent("cpu")


def test_a_run_folder_has_the_name_of_the_models_folder(tmp_path, monkeypatch):
    place = tmp_path / "my-model" / "deeper"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    assert _folder_name(".") == "deeper"
    assert _folder_name("..") == "my-model"
    assert _folder_name("owner/name") == "name"
    assert _folder_name("here/") == "here"
