"""Folders that appear whole, and places where none can be."""

from __future__ import annotations

import pytest

from engines.whole_folder import written_whole
from spaces.errors import EngineError


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with written_whole(tmp_path / "a" / "b") as partial:
        (partial / "file").write_text("text")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "text"
    with pytest.raises(EngineError, match="No space left"), written_whole(tmp_path / "a" / "c"):
        raise OSError(28, "No space left on device")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("below", ["export", "deeper/export"])
def test_a_place_below_a_file_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(EngineError, match="cannot be written"),
        written_whole(tmp_path / "file" / below),
    ):
        pass
